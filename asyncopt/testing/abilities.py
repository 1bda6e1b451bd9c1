"""What a simulated server can be asked for, and what it makes of a request for more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from asyncopt.errors import ConfigError
from asyncopt.testing.wire import BadRequest, ChatRequest, require

PromptLogprobs: TypeAlias = Literal["echo", "vllm", "llamacpp", "none"]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the server has. ``top_logprobs`` is how many alternatives a token may come with, 0 for no log-probabilities.

    ``prompt_logprobs`` is how it tells those of a given text: in completions that echo their prompt, in vLLM's field of
    that name, by llama.cpp's way of forcing an answer with a grammar of token identifiers, or not at all. An echo that
    it cannot give is refused, or with ``silent_echo`` left out without a word, as llama.cpp does. Seeds and biases that
    it does not honour are ignored.
    """

    chat: bool = True
    completions: bool = True
    top_logprobs: int = 20
    prompt_logprobs: PromptLogprobs = "echo"
    silent_echo: bool = False
    seed: bool = True
    n: bool = False
    logit_bias: bool = True
    batch: bool = True

    def __post_init__(self) -> None:
        if self.top_logprobs < 0:
            raise ConfigError(f"top_logprobs is {self.top_logprobs}; it must be at least 0")

    @property
    def tokens_by_name(self) -> bool:
        """Whether texts can be turned into the identifiers of their tokens, and a grammar be made of those."""
        return self.prompt_logprobs == "llamacpp"

    def serves(self, path: str) -> bool:
        """Whether there is anything at this path."""
        path = path.partition("?")[0]
        if path.endswith("/tokenize"):
            return self.tokens_by_name
        if path.endswith("/chat/completions"):
            return self.chat
        return self.completions if path.endswith("/completions") else True

    def understood(self, request: ChatRequest) -> ChatRequest:
        """The request without what the server ignores; raises :class:`BadRequest` for what it refuses."""
        require(request.n == 1 or self.n, "Only n=1 is simulated.")
        asked = request.logprobs or 0
        if request.logprobs is not None and (asked > self.top_logprobs or not self.top_logprobs):
            raise BadRequest(f"At most {self.top_logprobs} top log-probabilities are given; {asked} were asked for.")
        echoes = self.prompt_logprobs == "echo"
        require(not request.echo or echoes or self.silent_echo, "The parameter 'echo' is not supported.")
        return replace(
            request,
            echo=request.echo and echoes,
            prompt_logprobs=request.prompt_logprobs if self.prompt_logprobs == "vllm" else None,
            grammar=request.grammar if self.tokens_by_name else "",
            seed=request.seed if self.seed else None,
            logit_bias=request.logit_bias if self.logit_bias else (),
        )


USUAL_ABILITIES = Abilities()
