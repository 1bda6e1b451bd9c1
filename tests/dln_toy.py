"""A model for language networks whose every number is a hash of what it was asked, and studies on it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fakes import FakeEndpoint, run_virtual

from asyncopt import Engine, Example, MemoryCache, Model, Quota, Study, Task
from asyncopt.directory import read_journal
from asyncopt.endpoints.protocol import Answer
from asyncopt.optimizers import DLN1, DLN2
from asyncopt.optimizers.base import Search
from asyncopt.optimizers.dln.asking import Proposer
from asyncopt.optimizers.dln.inference import Ask
from asyncopt.optimizers.history import History
from asyncopt.result import Result
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Likelihood, Request, TokenLogprob, Usage

EXAMPLES = tuple(Example(number, f"q{number}?", "yes" if number % 3 else "no") for number in range(60))
TASK = Task(
    "toy",
    "boolean",
    train=EXAMPLES[:30],
    validation=EXAMPLES[30:45],
    test=EXAMPLES[45:],
    initial=("Say it.",),
    classes=("yes|Yes", "no|No"),
)
FREE = Task("free", "text", train=EXAMPLES[:30], validation=EXAMPLES[30:45], test=EXAMPLES[45:], initial=("Say it.",))
FULL = Capabilities(top_logprobs=20, prompt_logprobs=True)
CHAT_ONLY = Capabilities()
AMPLE = Quota(requests_per_minute=6e7, concurrency=100_000)  # stated, so that the engine need not feel its way


def text_of(request: Request) -> str:
    return request.prompt[-1].content


def kind_of(request: Request) -> str:
    """What a request is for, as its texts and its sampling tell."""
    if isinstance(request, Likelihood):
        return "likelihood"
    text = text_of(request)
    if request.top_logprobs and request.sampling.max_tokens == 1:
        return "classes"
    if text.endswith("New instruction:"):
        return "proposal"
    if text.endswith("Answer:"):
        return "answer"
    return "hidden" if request.sampling.temperature == 0 else "posterior"


def toy_model(request: Request) -> Answer:
    """Log-probabilities, proposals and thoughts that the text of the request decides, and the seed of a sample."""
    text, kind = text_of(request), kind_of(request)
    if isinstance(request, Likelihood):
        tokens = request.continuation.split() or ["\n"]
        logprobs = [-5 * Random(f"{text}|{place}|{token}").random() for place, token in enumerate(tokens)]
        items = tuple(TokenLogprob(token, value) for token, value in zip(tokens, logprobs, strict=True))
        return Completion("", usage=Usage(10, 1), token_logprobs=items)
    rng = Random(f"{text}|{request.sampling.seed}")
    if kind in ("classes", "answer"):
        yes = 0.02 + 0.96 * rng.random()
        top = (("yes", math.log(yes)), ("no", math.log(1 - yes)))
        word = "yes" if yes > 0.5 else "no"
        logprobs_of = (TokenLogprob(word, max(top[0][1], top[1][1]), top),) if kind == "classes" else ()
        return Completion(word, usage=Usage(10, 1), token_logprobs=logprobs_of)
    word = "Try way" if kind == "proposal" else "thought"
    sample = (TokenLogprob("a", -rng.random()),) if request.top_logprobs else ()
    return Completion(f"{word} {rng.randrange(10_000)}", usage=Usage(20, 5), token_logprobs=sample)


class Toy(FakeEndpoint):
    """The toy model after ``seconds``, or after log-normal times and with faults that pass, where ``seed`` is given."""

    def __init__(
        self,
        respond: Callable[[Request], Answer] = toy_model,
        *,
        seconds: float = 0.0,
        seed: int | None = None,
        faults: float = 0.0,
        supports: Capabilities = FULL,
    ) -> None:
        super().__init__(lambda request, _: self._answer(request), seconds=seconds, supports=supports)
        self.requests: list[Request] = []
        self._toy = respond
        self._rng = None if seed is None else Random(seed)
        self._faults = faults

    async def send(self, model: str, request: Request) -> Answer:  # type: ignore[override]
        self.requests.append(request)
        if self._rng is not None:
            self.seconds = 0.5 * self._rng.lognormvariate(0.0, 1.0)
        return await super().send(model, request)  # type: ignore[arg-type]

    def _answer(self, request: Request) -> Answer:
        if self._rng is not None and self._rng.random() < self._faults:
            return Fault(FaultKind.TRANSIENT, "planned")
        return self._toy(request)

    def count(self, kind: str) -> int:
        return sum(kind_of(request) == kind for request in self.requests)


@dataclass
class Run:
    """A study that has ended; ``result`` is None where it was stopped, ``seconds`` are those of the virtual clock."""

    study: Study
    result: Result | None
    seconds: float


def run(
    endpoint: FakeEndpoint,
    optimizer: DLN1 | DLN2,
    *,
    task: Task = TASK,
    quota: Quota = AMPLE,
    directory: Path | None = None,
    cache: MemoryCache | None = None,
    until: float | None = None,
    seed: int = 0,
    **options: Any,
) -> Run:
    async def main() -> Run:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=endpoint, quota=quota)
            study = Study(
                task=task,
                optimizer=optimizer,
                scorer=model,
                proposer=model,
                directory=directory,
                seed=seed,
                **options,
            )
            running = asyncio.ensure_future(study.run())
            await asyncio.wait([running], timeout=until)
            if not running.done():
                running.cancel()
                await asyncio.wait([running])
                return Run(study, None, 0.0)
            return Run(study, running.result(), asyncio.get_running_loop().time())

    return run_virtual(main)


def decisions(directory: Path, *kinds: str) -> list[tuple[str, dict[str, Any]]]:
    """The journal without what is measured on the way."""
    return [
        (record.kind, {name: value for name, value in record.data.items() if name not in ("account", "seconds")})
        for record in read_journal(directory)
        if record.kind in (kinds or ("proposed", "entry", "step", "validated"))
    ]


def states(directory: Path) -> list[dict[str, Any]]:
    return [data["state"] for _, data in decisions(directory, "step")]


def ask_of(model: Model, optimizer: DLN1 | DLN2) -> Ask:
    """What a step asks in a search of which nothing but the seed matters: whoever decides anything fails."""

    def nothing(*_: object, **__: object) -> Any:
        raise AssertionError("an iteration decides nothing of the search")

    search = Search(TASK, History(maximize=True), 0, nothing, nothing, nothing, nothing, nothing, nothing, {})
    return Ask(search, optimizer, model, Proposer(search, model, optimizer.texts(), 0.7, 512))
