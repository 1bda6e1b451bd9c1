"""A task and a model for EvoPrompt whose every answer and score is a function of the texts, and both algorithms again
as plain loops over lists (arXiv 2309.08532, sections 3.2 and 3.3), to hold the optimizers against.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

from fakes import FakeEndpoint, run_virtual

from asyncopt import Engine, Example, Quota, Study, Task
from asyncopt.endpoints.protocol import Answer
from asyncopt.optimizers import EvoPromptDE, EvoPromptGA
from asyncopt.optimizers.base import derived_seed
from asyncopt.result import Result
from asyncopt.values import Completion, Fault, FaultKind, Generate

EXAMPLES = tuple(Example(number, f"q{number}", f"a{number}") for number in range(12))
TASK = Task("toy", "text", train=EXAMPLES[:10], test=EXAMPLES[10:], initial=("Start.",))
POOL = tuple(f"Seed {number}." for number in range(12))

_SHOWN = re.compile(r"^(?:Prompt \d|Basic Prompt): (.*)$", re.MULTILINE)
_TURN = "Your turn"


def number_of(*texts: str) -> int:
    return int.from_bytes(blake2b("|".join(texts).encode(), digest_size=4).digest(), "big")


def score(text: str) -> float:
    """A share of the ten examples; many prompts have the same, and the best are children."""
    return number_of("score", text) % (10 if text.startswith("Child") else 5) / 10


def other_words(text: str) -> str:
    return f"Variation {number_of('vary', text) % 40}."


def child(*shown: str) -> str:
    """One of a few, so that some are born more than once."""
    return f"Child {number_of(*shown) % 70}."


def shown_in(prompt: str) -> tuple[str, ...] | None:
    """The prompts that a request shows; None for a question."""
    if prompt.startswith("Write one variation"):
        return (prompt.rpartition("Instruction: ")[2],)
    return tuple(_SHOWN.findall(prompt.rpartition(_TURN)[2])) if _TURN in prompt else None


def answer_to(prompt: str) -> str:
    shown = shown_in(prompt)
    if shown is None:
        instruction, question = prompt.rsplit("\nq", 1)
        right = int(question) < round(10 * score(instruction))
        return f"a{question}" if right else "wrong"
    if len(shown) == 1:
        return other_words(*shown)
    return f"Both: {' '.join(shown)}\n2. <prompt>{child(*shown)}</prompt>"


class Toy(FakeEndpoint):
    """Answers as above after log-normal times, and with passing faults; ``seed`` decides both."""

    def __init__(self, seed: int = 0, faults: float = 0.0) -> None:
        super().__init__(self._answer)
        self._rng = Random(seed)
        self._faults = faults

    async def send(self, model: str, request: Generate) -> Answer:
        self.seconds = 0.5 * self._rng.lognormvariate(0.0, 1.0)
        return await super().send(model, request)

    def _answer(self, request: Generate, number: int) -> Answer:
        if self._rng.random() < self._faults:
            return Fault(FaultKind.TRANSIENT, "planned")
        return Completion(answer_to(request.prompt[-1].content))

    @property
    def asked(self) -> list[tuple[str, ...]]:
        """What was shown in every request for a prompt."""
        return [shown for prompt in self.prompts if (shown := shown_in(prompt)) is not None]


def run(
    optimizer: Any,
    endpoint: FakeEndpoint | None = None,
    *,
    task: Task = TASK,
    concurrency: int = 64,
    directory: Path | None = None,
    seed: int = 0,
    until: float | None = None,
    trace: bool = False,
) -> tuple[Study, Result | None]:
    """The study and its result; None if it was cancelled at the time ``until``."""

    async def inside() -> tuple[Study, Result | None]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint or Toy(), quota=Quota(concurrency=concurrency))
            study = Study(
                task=task,
                optimizer=optimizer,
                scorer=model,
                proposer=model,
                directory=directory,
                seed=seed,
                trace=trace,
            )
            running = asyncio.ensure_future(study.run())
            await asyncio.wait([running], timeout=until)
            if not running.done():
                running.cancel()
                await asyncio.wait([running])
                return study, None
            return study, running.result()

    return run_virtual(inside)


# -- the algorithms, written down once more ----------------------------------------------------------------------------


Member = tuple[int, str]  # when it was taken in, and its text


def from_best(members: Iterable[Member]) -> list[Member]:
    """From best to worst; of equals the one that was taken in first stands first."""
    return sorted(members, key=lambda member: (-score(member[1]), member[0]))


@dataclass
class Reference:
    """The populations after each generation, and what every request showed, by plain loops over lists."""

    options: EvoPromptGA | EvoPromptDE
    seed: int = 0
    asked: list[tuple[str, ...]] = field(default_factory=list)
    populations: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taken: list[str] = []
        population = self.begin([self.take(text) for text in dict.fromkeys([*TASK.initial, *self.options.pool])])
        evolve = self.genetic if isinstance(self.options, EvoPromptGA) else self.differential
        self.populations.append([text for _, text in population])
        for generation in range(1, self.options.generations + 1):
            population = evolve(generation, population)
            self.populations.append([text for _, text in population])

    def rng(self, step: int, purpose: str, index: int = 0) -> Random:
        return Random(derived_seed(self.seed, step, purpose, index))

    def take(self, text: str) -> Member:
        self.taken.append(text)
        return len(self.taken), text

    def born(self, shown: tuple[str, ...], text: str) -> list[Member]:
        """The child of a request; where all of a generation are made at once, nobody who was tried before."""
        self.asked.append(shown)
        new = self.options.order == "serial_best" or text not in self.taken
        return [self.take(text)] if new else []

    def begin(self, pool: list[Member]) -> list[Member]:
        mode, size = self.options.initial_mode, self.options.popsize
        pool = from_best(pool)
        if mode.endswith("bottomk"):
            pool.sort(key=lambda member: (score(member[1]), member[0]))
        if mode.endswith("randomk"):
            pool = self.rng(-1, "founders").sample(pool, len(pool))
        population = pool[: -(-size // 2) if mode.startswith("para") else size]
        bases, spare = list(population), pool[len(population) :]
        for number in range(size - len(bases)):
            base = bases[number % len(bases)][1]
            population += self.born((base,), other_words(base))
        return (population + spare)[:size]

    def genetic(self, generation: int, population: list[Member]) -> list[Member]:
        options = self.options
        assert isinstance(options, EvoPromptGA)
        children: list[Member] = []
        if options.update == "topk" or generation == 1:
            population = from_best(population)
        for number in range(options.popsize):
            a, b = self.two(population, generation, number)
            children += self.born((a, b), child(a, b))
            if options.order == "steady_state":
                population, children = from_best(population + children)[: options.popsize], []
        if options.update == "std":
            return (children + from_best(population))[: options.popsize]
        return from_best(population + children)[: options.popsize]

    def two(self, population: list[Member], generation: int, number: int) -> tuple[str, str]:
        options, places = self.options, population
        assert isinstance(options, EvoPromptGA)
        if options.selection == "roulette":
            weights = [score(text) for _, text in population]
            drawing = self.rng(generation, "slots")
            places = drawing.choices(population, weights if any(weights) else None, k=options.popsize)
        rng = self.rng(generation, "parents", number)
        if options.selection == "tour":
            (_, a), (_, b) = (from_best(rng.sample(places, 2))[0] for _ in range(2))
        else:
            (_, a), (_, b) = rng.sample(places, 2)
        return a, b

    def differential(self, generation: int, population: list[Member]) -> list[Member]:
        options, after = self.options, list(population)
        assert isinstance(options, EvoPromptDE)
        best = from_best(population)[0][1]
        for number in range(len(population)):
            if options.order == "steady_state":
                population = after
            member = population[number][1]
            others = [text for _, text in population[:number] + population[number + 1 :]]
            a, b, c = self.rng(generation, "donors", number).sample(others, 3)
            third = c if options.donor_random else best
            shown = (a, b, member) if options.template == "v2" else (a, b, third, member)
            for made in self.born(shown, child(*shown)):
                if score(made[1]) > score(member):
                    after[number] = made
                if options.order != "best_at_generation_start" and score(made[1]) > score(best):
                    best = made[1]
        return after
