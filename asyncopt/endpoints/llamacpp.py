"""The chat format of llama.cpp's server, which can be made to say how likely a given answer is.

It ignores ``echo`` silently. What it does obey is a grammar of token ids: with one that admits the continuation's
tokens and nothing else, it "generates" exactly these, and the log-probabilities it reports are those of the whole
vocabulary before the grammar. A grammar of text would not do: it leaves open into which tokens the text is cut.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from asyncopt import codec
from asyncopt.endpoints.faults import malformed
from asyncopt.endpoints.openai import OpenAIChat, first_choice, object_of
from asyncopt.endpoints.parts import json_of
from asyncopt.endpoints.protocol import Answer, Ask, Exchange, Reply
from asyncopt.values import Completion, Fault, FaultKind, Generate, Likelihood, Sampling

LONGEST_CONTINUATION = 8000  # tokens; each costs a step of decoding, and a symbol of the grammar
_REMEMBERED = 1024  # continuations whose token ids are kept: those of an iteration, asked under many prompts


class LlamaChat(OpenAIChat):
    """OpenAI's chat format, and likelihoods by llama.cpp's token grammar; it remembers token ids, and nothing else."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], tuple[int, ...]] = {}

    def likelihood(self, model: str, request: Likelihood) -> Exchange:
        """The continuation's token ids, unless they are known; then an answer that is held to them."""
        ids = yield from self._ids_of(model, request.continuation)
        if isinstance(ids, Fault):
            return ids
        if len(ids) >= LONGEST_CONTINUATION:
            detail = f"the continuation has {len(ids)} tokens; fewer than {LONGEST_CONTINUATION} are scored"
            return Fault(FaultKind.TOO_LARGE, detail)
        grammar = "root ::= " + " ".join(f"<[{number}]>" for number in ids)
        sampling = Sampling(temperature=0.0, max_tokens=len(ids), grammar=grammar)
        reply = yield Ask(self.path(model), self.encode(model, Generate(request.prompt, sampling, top_logprobs=1)))
        answer = self.decode(reply)
        return answer if isinstance(answer, Fault) else _checked(answer, reply, ids)

    def _ids_of(self, model: str, text: str) -> Generator[Ask, Reply, tuple[int, ...] | Fault]:
        known = self._ids.get((model, text))
        if known is not None:
            return known
        wanted = {"model": model, "content": text, "add_special": False, "parse_special": False}
        reply = yield Ask("/tokenize", codec.dumps(wanted), at_root=True)
        found = object_of(reply, json_of(reply.body))
        if isinstance(found, Fault):
            return found
        ids = found.get("tokens")
        if not isinstance(ids, list) or not ids or not all(type(number) is int and number >= 0 for number in ids):
            return malformed(reply.status, "no token ids")
        if len(self._ids) >= _REMEMBERED:
            del self._ids[next(iter(self._ids))]
        self._ids[model, text] = tuple(ids)
        return tuple(ids)


def _checked(answer: Completion, reply: Reply, ids: tuple[int, ...]) -> Answer:
    """The answer without its text, if it consists of these tokens."""
    got = answer.token_logprobs[: len(ids)]
    if len(got) < len(ids):
        detail = f"log-probabilities of {len(got)} tokens came for a continuation of {len(ids)}: the context is full"
        kind = FaultKind.TOO_LARGE if got else FaultKind.MALFORMED
        return Fault(kind, detail if got else "the answer has no log-probabilities", usage=answer.usage)
    if _sent_ids(reply)[: len(ids)] != list(ids):
        detail = "the server does not hold its answer to a grammar of token ids, as llama.cpp's does"
        return Fault(FaultKind.FATAL_CONFIG, detail, usage=answer.usage)
    return Completion("", answer.finish, answer.usage, got, answer.served_model, answer.limits)


def _sent_ids(reply: Reply) -> list[Any]:
    choice = first_choice(json_of(reply.body)) or {}
    return [entry.get("id") for entry in choice["logprobs"]["content"]]
