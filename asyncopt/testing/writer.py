"""What the simulated model writes: one answer or several, free or forced, with their tokens where these are wanted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from asyncopt.testing.answers import AnswerModel
from asyncopt.testing.chance import digest_of, fraction
from asyncopt.testing.logprobs import TokenModel, tokens_of
from asyncopt.testing.wire import BadRequest, ChatRequest, Written, written
from asyncopt.values import TokenLogprob

_END = TokenLogprob("", -0.5)  # what llama.cpp reports of the end that follows a forced text
_FORCED = re.compile(r"\s*root\s*::=\s*((?:<\[\d+\]>\s*)+)")
_ONE_OF = re.compile(r"\s*root\s*::=\s*(\"[^\"\\]+\"(?:\s*\|\s*\"[^\"\\]+\")*)\s*")
_BIASED = 50.0  # from here on a bias decides alone


class Writer:
    """The model's hand. Requests at a temperature above 0 draw another answer each time, unless they state a seed."""

    def __init__(self, answers: AnswerModel, fingerprint: str) -> None:
        self.tokens = TokenModel(answers)
        self._answers = answers
        self._fingerprint = fingerprint
        self._drawn: Counter[str] = Counter()

    def write(self, number: int, request: ChatRequest) -> tuple[Written, bool]:
        """The answer to the request of this number, and whether it is a wrong answer to a known question.

        Raises :class:`BadRequest` for a grammar that is not simulated.
        """
        first, wrong = self._answer(number, request, 0)
        others = tuple(self._answer(number, request, index)[0] for index in range(1, request.n))
        wanted = request.logprobs if request.echo else request.prompt_logprobs
        prompt = () if wanted is None else self.tokens.scored("", tokens_of(request.prompt), wanted)
        return replace(first, others=others, prompt_tokens=prompt), wrong

    def take_back(self, request: ChatRequest) -> None:
        """Count the draws of a request whose answers were lost as not made."""
        if _is_drawn(request):
            self._drawn[digest_of(request.prompt, 16)] -= request.n

    def _answer(self, number: int, request: ChatRequest, index: int) -> tuple[Written, bool]:
        forced = _FORCED.fullmatch(request.grammar)
        if forced is not None:
            return self._forced(
                number, request, [self.tokens.text_of(int(id_)) for id_ in re.findall(r"\d+", forced[1])]
            )
        draw = self._draw(request, index)
        text, wrong = self._text(request, draw)
        if request.logprobs is None:
            return written(number, request, text, self._fingerprint), wrong
        whole = written(number, replace(request, max_tokens=None), text, self._fingerprint)
        tokens = tokens_of(whole.text)
        kept = tokens[: request.max_tokens]
        ended = whole.ended if len(kept) == len(tokens) else "length"
        scored = self.tokens.scored(request.prompt, kept, request.logprobs, written=True)
        return replace(whole, request=request, text="".join(kept), ended=ended, tokens=scored), wrong

    def _forced(self, number: int, request: ChatRequest, tokens: list[str]) -> tuple[Written, bool]:
        kept = tokens[: request.max_tokens]
        scored = self.tokens.scored(request.prompt, kept, request.logprobs or 0)
        ends = request.max_tokens is None or request.max_tokens > len(tokens)
        shown = () if request.logprobs is None else (*scored, _END) if ends else scored
        text = "".join(kept)
        return Written(number, request, text, "stop" if ends else "length", self._fingerprint, shown), False

    def _text(self, request: ChatRequest, draw: str) -> tuple[str, bool]:
        seed = self._answers.seed
        if request.grammar:
            allowed = _ONE_OF.fullmatch(request.grammar)
            if allowed is None:
                raise BadRequest("That grammar is not simulated.")
            texts = re.findall(r"\"([^\"]+)\"", allowed[1])
            return texts[int(fraction(seed, "grammar", request.prompt, draw) * len(texts))], False
        for number, bias in request.logit_bias:
            if bias >= _BIASED:
                return f" word{number}" * (request.max_tokens or 1), False
        if request.logprobs is None:  # so that models of a test's own need not know of bare answers
            return self._answers.judged(request.prompt, draw)
        return self._answers.judged(request.prompt, draw, bare=True)

    def _draw(self, request: ChatRequest, index: int) -> str:
        """What tells this answer apart from others to the same prompt; ``index`` counts those to one request."""
        if not _is_drawn(request):
            if not request.temperature:
                return ""
            return f"seed {request.seed}" + (f" answer {index}" if index else "")
        prompt = digest_of(request.prompt, 16)
        self._drawn[prompt] += 1
        return f"draw {self._drawn[prompt]}"


def _is_drawn(request: ChatRequest) -> bool:
    """Whether each request of this prompt gets another answer."""
    return bool(request.temperature) and request.seed is None
