"""Studies drawn at random: the task, the optimizer, quotas, latencies, a plan of faults, and a stop in the middle."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from asyncopt.optimizers import APE, DLN1, OPRO, Optimizer
from asyncopt.tasks.task import Example, Task
from asyncopt.testing.answers import AnswerModel, items_of
from asyncopt.testing.faults import OF_ITEMS, PASSING, PERMANENT, FaultPlan, Kind
from asyncopt.testing.latency import Constant, Latency, LogNormal
from asyncopt.values import Quota

Stop: TypeAlias = Literal["kill", "cancel"]


@dataclass(frozen=True)
class Scenario:
    """A study with everything that happens to it; ``str()`` of its plan and its seed reproduce it.

    ``stop`` says when it is killed or cancelled, as a share of the time that it would take undisturbed. ``budget`` is
    the number of calls of the first sitting, None for no bound.
    """

    seed: int
    task: Task
    optimizer: Optimizer
    quota: Quota
    latency: Latency
    server: dict[str, Any]
    plan: FaultPlan
    hedge: float = 0.0
    cached: bool = True
    stop: tuple[Stop, float] | None = None
    budget: int | None = None

    @property
    def answers(self) -> AnswerModel:
        return AnswerModel(self.seed, items_of([self.task]), signed=True)

    @property
    def undisturbed(self) -> Scenario:
        """The same study where nothing fails and nothing holds it up."""
        endless = Quota(concurrency=1000, requests_per_minute=6e7)
        return replace(self, quota=endless, server={}, plan=FaultPlan(), hedge=0.0, stop=None, budget=None)

    @property
    def settled(self) -> bool:
        """Whether the history is the same whatever comes first."""
        return getattr(self.optimizer, "lag", 0) == 0 and getattr(self.optimizer, "quorum", None) is None

    @property
    def timed(self) -> bool:
        """Whether it is known how long it takes: nothing fails, and nothing has to be found out."""
        known = "requests_per_second" not in self.server or self.quota.requests_per_minute is not None
        free = self.plan == FaultPlan() and not self.hedge and self.budget is None
        return known and free and self.quota.concurrency is not None and isinstance(self.latency, Constant)


def scenario(seed: int) -> Scenario:
    """The scenario of this seed."""
    rng = random.Random(f"{seed}:scenario")
    task = _task(rng)
    quota, server = _quotas(rng)
    how: Stop | None = rng.choice([None, None, "kill", "cancel"])
    constant, sigma = rng.random() < 0.5, rng.choice([0.3, 1.0])
    return Scenario(
        seed=seed,
        task=task,
        optimizer=_optimizer(rng),
        quota=quota,
        latency=Constant(rng.choice([0.1, 0.3])) if constant else LogNormal(0.5, sigma, 0.02, 10.0),
        server=server,
        plan=_plan(rng, seed),
        hedge=rng.choice([0.0, 0.0, 0.05]),
        cached=rng.random() < 0.8,
        stop=None if how is None else (how, rng.uniform(0.05, 1.1)),
        budget=rng.choice([None, None, None, rng.randint(5, 120)]),
    )


def _task(rng: random.Random) -> Task:
    numbers = rng.sample(range(100, 999), rng.randint(9, 30))
    examples = [Example(index, f"What is {one} plus {one + 7}?", str(2 * one + 7)) for index, one in enumerate(numbers)]
    part = len(examples) // 3
    train, validation, test = examples[:part], examples[part : 2 * part], examples[2 * part :]
    return Task("sums", "number", tuple(train), tuple(test), tuple(validation), initial=("Answer.",), max_tokens=256)


def _optimizer(rng: random.Random) -> Optimizer:
    overlap: dict[str, Any] = rng.choice(
        [{}, {}, {"lag": 3}, {"lag": 2, "quorum": 0.7}, {"racing": 0.1}, {"validate_every": 2}]
    )
    steps, samples = rng.randint(1, 3), rng.randint(1, 4)
    draw = rng.random()
    if draw < 0.15:
        return APE(samples=samples + 1, rounds=rng.randint(0, 1), demonstrations=2, **overlap)
    if draw < 0.3:
        return DLN1(steps=steps, batch_size=3, prompt_samples=samples + 1, output_scoring="accuracy")
    return OPRO(steps=steps, samples_per_step=samples, **overlap)


def _quotas(rng: random.Random) -> tuple[Quota, dict[str, Any]]:
    """What the client is told and what the server has; where they differ, the client has to find out."""
    rate, concurrency = rng.choice([3.0, 10.0, 50.0]), rng.choice([2, 8, 32])
    server = {"requests_per_second": rate, "request_burst": max(4.0, rate), "headers": _dialect(rng)}
    server |= {"retry_after": rng.random() < 0.7, "refused_count": rng.random() < 0.3}
    told = rng.choice(["all", "concurrency", "rate", "nothing", "no quota"])
    if told == "no quota":
        return Quota(concurrency=concurrency), {"headers": _dialect(rng)}
    stated = Quota(
        requests_per_minute=60 * rate if told in ("all", "rate") else None,
        concurrency=concurrency if told in ("all", "concurrency") else None,
    )
    return stated, server


def _dialect(rng: random.Random) -> str:
    return rng.choice(["openai", "azure", "openrouter", "none"])


def _plan(rng: random.Random, seed: int) -> FaultPlan:
    draw = rng.random()
    if draw < 0.3:
        return FaultPlan()
    kinds: Sequence[Kind] = PASSING if draw < 0.8 else (*PASSING, *OF_ITEMS)
    some = tuple(rng.sample(kinds, rng.randint(1, 6)))
    after = (rng.randint(0, 60), rng.choice(PERMANENT)) if rng.random() < 0.12 else None
    return FaultPlan(seed, rng.choice([0.02, 0.1, 0.25]), some, after=after)
