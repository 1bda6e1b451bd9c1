"""Finds out by asking what an endpoint can do. What it says of itself counts for nothing, only what its answers show.

About twenty calls of at most eight tokens, one after the other. A capability that is ignored without a word (an echo, a
seed, a bias) is told from one that works by what must then be in the answers; a refusal is a finding, too.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeAlias

from asyncopt import codec
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.endpoints.llamacpp import LlamaChat
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.parts import json_of
from asyncopt.endpoints.protocol import Answer, Codec, Reply, StreamDecoder
from asyncopt.values import Allowance, Completion, Fault, FaultKind, Generate, Likelihood, RateLimits, Request, Sampling

Ask: TypeAlias = "Callable[[Codec, Request], Awaitable[tuple[Answer, float]]]"
"""Sends one request in a format; the answer, and the seconds that it took."""

TOKENS = 8  # of an answer at most
_QUESTION = "What is the capital of France?"
_CONTEXT, _CONTINUATION = "The capital of France is", " Paris"
_TOPS = (100, 20, 5, 1)
_GREEDY = Sampling(temperature=0.0, max_tokens=TOKENS)
_WORDS = ("blue", "heavy")  # no answer to the question
_GRAMMAR = "root ::= " + " | ".join(f'"{word}"' for word in _WORDS)
_BIASED = {"1000": 100}  # a token that every vocabulary has, wanted so much that nothing else can come
_REPEATED = re.compile(r"\s*(\S.*?)(?:\s*\1){2}", re.DOTALL)
_EACH = 60  # characters of why one of several ways is closed
_TIMED = 5  # calls whose median is the latency; the first ones open connections


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one capability: ``value`` is None where it cannot be told, ``evidence`` says by what."""

    name: str
    value: bool | int | float | str | None
    evidence: str


@dataclass(slots=True)
class Probe:
    """Asks an endpoint, in the format of its chats, and collects what it finds.

    ``failure`` is the fault of the first call if the endpoint answers in no format; nothing else is then asked.
    """

    ask: Ask
    chat: Codec
    calls: int = 0
    findings: list[Finding] = field(default_factory=list)
    failure: Fault | None = None
    _limits: RateLimits | None = None
    _seconds: list[float] = field(default_factory=list)
    _works: dict[str, Codec] = field(default_factory=dict)

    async def run(self) -> None:
        """Ask everything; each finding is there as soon as it is known."""
        first = await self._answers("chat", self.chat)
        if type(self.chat) is OpenAIChat:
            await self._answers("completions", TextCompletions())
        else:
            self._found("completions", False, "not asked: this provider's format has none")
        if not self._works:
            self.failure = first
            return
        usual = self._works.get("chat") or self._works["completions"]
        for name, wire in self._works.items():
            await self._top_logprobs("top_logprobs" if wire is usual else f"{name}_top_logprobs", wire)
        await self._prompt_logprobs()
        await self._seed(usual)
        await self._extras(usual)
        seconds = round(median(self._seconds), 3) if self._seconds else None
        self._found("latency", seconds, f"seconds, median of {len(self._seconds)} calls")
        told = _in_words(self._limits)
        self._found(
            "limits", told, "a minute, by the headers of answers" if told else "no header of an answer tells any"
        )

    async def _send(self, wire: Codec, request: Request) -> Answer:
        self.calls += 1
        answer, seconds = await self.ask(wire, request)
        self._limits = answer.limits or self._limits
        if isinstance(answer, Completion) and isinstance(request, Generate) and len(self._seconds) < _TIMED:
            self._seconds.append(seconds)
        return answer

    def _found(self, name: str, value: bool | int | float | str | None, evidence: str) -> None:
        self.findings.append(Finding(name, value, codec.printable(evidence)))

    async def _answers(self, name: str, wire: Codec) -> Fault | None:
        """Whether a plain question gets an answer; else the fault."""
        answer = await self._send(wire, Generate.of(_QUESTION, _GREEDY))
        thought = isinstance(answer, Fault) and answer.kind is FaultKind.TRUNCATED  # and had no token left for a word
        if isinstance(answer, Fault) and not thought:
            self._found(name, False, answer.detail)
            return answer
        self._works[name] = wire
        self._found(name, True, answer.detail if isinstance(answer, Fault) else f"{answer.text!r}")
        return None

    async def _top_logprobs(self, name: str, wire: Codec) -> None:
        """The largest number that is accepted, or as many as came where more were asked for."""
        evidence = ""
        for wanted in _TOPS:
            answer = await self._send(wire, Generate.of(_QUESTION, _GREEDY, top_logprobs=wanted))
            if isinstance(answer, Fault):
                evidence = answer.detail
                continue
            came = max((len(token.top) for token in answer.token_logprobs), default=0)
            if came:
                self._found(name, min(came, wanted), f"{wanted} were asked for, and {came} came with a token")
                return
            evidence = f"{wanted} were asked for, and none came"
        self._found(name, 0, evidence)

    async def _prompt_logprobs(self) -> None:
        """How the endpoint tells the log-probabilities of a given text; its codecs refuse what was ignored."""
        ways: dict[str, Codec] = {}
        if "completions" in self._works:
            ways = {"echo": TextCompletions(), "prompt_logprobs": TextCompletions("prompt_logprobs")}
        if type(self.chat) is OpenAIChat and "chat" in self._works:
            ways["llama.cpp"] = LlamaChat()
        refusals = []
        for way, wire in ways.items():
            answer = await self._send(wire, Likelihood.of(_CONTEXT, _CONTINUATION))
            if isinstance(answer, Completion):
                total = sum(token.logprob for token in answer.token_logprobs)
                count = len(answer.token_logprobs)
                self._found("prompt_logprobs", way, f"log p({_CONTINUATION!r}) = {total:.3f}, {count} tokens")
                return
            refusals.append(f"{way}: {codec.printable(answer.detail, _EACH)}")
        self._found("prompt_logprobs", False, "; ".join(refusals) or "not asked: the format has no such thing")

    async def _seed(self, wire: Codec) -> None:
        answers = []
        for seed in (1, 1, 2):
            sampling = Sampling(temperature=1.0, max_tokens=TOKENS, seed=seed)
            answers.append(await self._send(wire, Generate.of(f"{_QUESTION} Then write random words.", sampling)))
        texts = [answer.text for answer in answers if isinstance(answer, Completion)]
        faults = [answer for answer in answers if isinstance(answer, Fault)]
        if faults:
            self._found("seed", False, faults[0].detail)
        elif texts[0] != texts[1]:
            self._found("seed", False, "two samples with one seed differ")
        elif texts[1] == texts[2]:
            self._found("seed", None, "samples are the same with one seed and with two: they do not vary enough")
        else:
            self._found("seed", True, "two samples with one seed are the same, with another seed another one")

    async def _extras(self, wire: Codec) -> None:
        """What goes into a body beside the request: several answers, biases, a grammar."""
        counted = _Adding(wire, {"n": 2})
        answer = await self._send(counted, Generate.of(_QUESTION, _GREEDY))
        self._judged("n", answer, counted.choices == 2, f"2 answers were asked for, and {counted.choices} came")
        plain = await self._send(wire, Generate.of(_QUESTION, _GREEDY))
        biased = await self._send(_Adding(wire, {"logit_bias": _BIASED}), Generate.of(_QUESTION, _GREEDY))
        text = biased.text if isinstance(biased, Completion) else ""
        repeats = _REPEATED.match(text) is not None and isinstance(plain, Completion) and text != plain.text
        self._judged("logit_bias", biased, repeats, f"with one token wanted above all others: {text!r}")
        sampling = Sampling(temperature=0.0, max_tokens=TOKENS, grammar=_GRAMMAR)
        held = await self._send(wire, Generate.of(_QUESTION, sampling))
        text = held.text if isinstance(held, Completion) else ""
        self._judged("grammar", held, text in _WORDS, f"held to {' or '.join(_WORDS)}: {text!r}")

    def _judged(self, name: str, answer: Answer, value: bool, evidence: str) -> None:
        if isinstance(answer, Fault):
            self._found(name, False, answer.detail)
        else:
            self._found(name, value, evidence)


class _Adding:
    """A format with more fields in its bodies than a request can state; ``choices`` came in the last reply."""

    def __init__(self, wire: Codec, fields: dict[str, Any]) -> None:
        self.choices = 0
        self._wire = wire
        self._fields = fields

    def path(self, model: str) -> str:
        return self._wire.path(model)

    def headers(self, key: str | None) -> dict[str, str]:
        return self._wire.headers(key)

    def encode(self, model: str, request: Generate, *, stream: bool = False) -> bytes:
        return codec.dumps(codec.loads(self._wire.encode(model, request, stream=stream)) | self._fields)

    def decode(self, reply: Reply) -> Answer:
        body = json_of(reply.body)
        choices = body.get("choices") if isinstance(body, dict) else None
        self.choices = len(choices) if isinstance(choices, list) else 0
        return self._wire.decode(reply)

    def stream(self, reply: Reply) -> StreamDecoder:
        return self._wire.stream(reply)


def _in_words(limits: RateLimits | None) -> str | None:
    """The limits a minute that headers have told, None where they told none."""
    if limits is None:
        return None
    stated: Sequence[tuple[str, Allowance | None]] = (
        ("requests", limits.requests),
        ("tokens", limits.tokens),
        ("input tokens", limits.input_tokens),
        ("output tokens", limits.output_tokens),
    )
    parts = [f"{one.limit:g} {name}" for name, one in stated if one is not None and one.limit is not None]
    return ", ".join(parts) or None
