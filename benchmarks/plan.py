"""Whether `asyncopt plan` is right: simulated studies beside the forecasts that were made before them.

Tasks of all sizes, OPRO with its options, APE, EvoPrompt in all orders, paraphrases, reflection, DLN-1, DLN-2, limits
of scoring calls, stated and announced quotas, fixed and adaptive concurrency, constant and log-normal latencies with
and without a tail ten times as long, proposers that repeat themselves. Each study has a pilot of 40 calls against a
server of the same kind with other latencies, then a forecast, then the run itself, on virtual clocks. Printed is in how
many of them the run's calls, dollars and seconds lay within the 90 % intervals, and how wide these are: the median of
(high - low) / middle.

    python benchmarks/plan.py --studies 300 --jobs 2
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from random import Random
from statistics import median
from typing import Any

from common import parser, table, write_json

from asyncopt import OPRO, Engine, Example, MemoryCache, Model, Quota, Study, Task
from asyncopt.forecast import Forecast, Interval, Listener, Pilot, Served, forecast, run_pilot
from asyncopt.forecast.asking import asking_of
from asyncopt.optimizers import APE, DLN1, DLN2, Optimizer, Paraphrase, Reflective
from asyncopt.optimizers.evoprompt import EvoPromptDE, EvoPromptGA, Order
from asyncopt.optimizers.evoprompt.pool import SENTENCES
from asyncopt.optimizers.overlap import Overlap
from asyncopt.testing import AnswerModel, LogNormal, SimulatedAPI, items_of, run_virtual
from asyncopt.testing.abilities import Abilities
from asyncopt.testing.chance import digest_of
from asyncopt.testing.latency import Constant, Latency
from asyncopt.values import Price

PRICE = Price(1.0, 4.0)
WORDS = ["apples", "pears", "trains", "rivers", "houses", "lamps", "chairs", "books", "clouds", "stones"]
QUANTITIES = ("calls", "usd", "seconds")


class Repeating(AnswerModel):
    """Answers one prompt in so many ways at most, however often it is asked: so a step has twins."""

    def __init__(self, seed: int, items: Mapping[str, Any], ways: int) -> None:
        super().__init__(seed, items)
        self._ways = ways

    def judged(self, prompt: str, draw: str = "", *, bare: bool = False) -> tuple[str, bool]:
        way = f"way {int(digest_of(draw), 16) % self._ways}" if draw else ""
        return super().judged(prompt, way, bare=bare)


@dataclass(frozen=True)
class Drawn:
    """One study with all that is true of it; ``stated`` is what the engine is told of ``server``."""

    seed: int
    task: Task
    optimizer: Optimizer
    stated: Quota
    latency: Latency
    server: Mapping[str, Any]
    answers: AnswerModel

    def api(self, seed: int) -> SimulatedAPI:
        """A server with latencies of its own."""
        abilities = Abilities(top_logprobs=100, prompt_logprobs="llamacpp", silent_echo=True)
        usual: dict[str, Any] = {"abilities": abilities} if isinstance(self.optimizer, DLN1 | DLN2) else {}
        return SimulatedAPI(
            seed=seed, latency=self.latency, answers=self.answers, keep_prompts=False, **usual, **self.server
        )


def drawn(seed: int) -> Drawn:
    """The study of this seed."""
    rng = Random(f"plan:{seed}")
    optimizer = _optimizer(rng)
    task = _classes(rng) if isinstance(optimizer, DLN1 | DLN2) else _task(rng)
    if isinstance(optimizer, Paraphrase) and not task.initial[0]:
        task = replace(task, initial=("Answer.",))
    if isinstance(optimizer, Overlap) and rng.random() < 0.25:
        asking = asking_of(task, optimizer)
        starts = 1 if asking is None else asking.starts
        optimizer = replace(optimizer, scoring_calls=int((starts + rng.uniform(1, 30)) * len(task.train)))
    stated, server = _quota(rng, task.max_tokens)
    items = items_of([task])
    answers = AnswerModel(seed, items) if rng.random() < 0.7 else Repeating(seed, items, rng.choice([1, 3, 8, 20]))
    return Drawn(seed, task, optimizer, stated, _latency(rng), server, answers)


def _task(rng: Random) -> Task:
    size, words = rng.choice([10, 20, 40, 80]), rng.choice([0, 20, 150])
    numbers = rng.sample(range(100, 9999), 2 * size + 12)
    examples = [
        Example(place, f"{' '.join(rng.choices(WORDS, k=words))} What is {one} plus 7?".strip(), str(one + 7))
        for place, one in enumerate(numbers)
    ]
    train, validation, test = examples[:size], examples[size : size + 12], examples[size + 12 :]
    most = rng.choice([16, 64, 256])
    cue = "So the answer is" if rng.random() < 0.1 else ""
    initial = rng.choice(["Answer.", "", "Think about what is asked, then give the sum."])
    return Task(
        "sums", "number", tuple(train), tuple(test), tuple(validation), initial=(initial,), max_tokens=most,
        final_answer_cue=cue, temperature=rng.choice([0.0, 0.0, 0.7]),
    )  # fmt: skip


def _classes(rng: Random) -> Task:
    """A task with two classes, as networks have it."""
    size = rng.choice([20, 40])
    numbers = rng.sample(range(100, 9999), 2 * size + 12)
    examples = [Example(place, f"Is {one} even?", "no" if one % 2 else "yes") for place, one in enumerate(numbers)]
    train, validation, test = examples[:size], examples[size : size + 12], examples[size + 12 :]
    return Task(
        "even", "boolean", tuple(train), tuple(test), tuple(validation), initial=("Say yes or no.",),
        classes=("yes|Yes", "no|No") if rng.random() < 0.7 else (),
    )  # fmt: skip


def _optimizer(rng: Random) -> Optimizer:
    overlap: dict[str, Any] = rng.choice(
        [{}, {}, {}, {"lag": 6}, {"lag": 20}, {"lag": 4, "quorum": 0.8}, {"racing": 0.1}, {"validate_every": 2}]
    )
    chance = rng.random()
    if rng.random() < 0.4:
        return _evolving(rng, overlap)
    if chance < 0.12:
        return APE(samples=rng.choice([6, 15]), rounds=rng.choice([0, 2]), **overlap)
    if chance < 0.24:
        return DLN1(
            steps=rng.choice([3, 6]), batch_size=8, prompt_samples=rng.choice([4, 8]), memory=rng.choice([0, 2])
        )
    if chance < 0.34:
        return DLN2(
            steps=rng.choice([2, 4]), batch_size=6, prompt_samples=rng.choice([3, 5]), memory=rng.choice([0, 2])
        )
    temperature, kinds = rng.choice([1.0, 1.0, 1.0, 0.0]), (*["instruction-tuned"] * 3, "pre-trained")
    meta: Any = rng.choice(kinds)
    return OPRO(
        steps=rng.choice([3, 6, 12]), samples_per_step=rng.choice([2, 4, 8]), temperature=temperature,
        max_tokens=256, meta_prompt=meta, **overlap,
    )  # fmt: skip


def _evolving(rng: Random, overlap: dict[str, Any]) -> Optimizer:
    """An optimizer that makes instructions of instructions."""
    temperature = rng.choice([1.0, 0.5])
    chance, steps = rng.random(), rng.choice([2, 4])
    if chance < 0.6:
        order: Order = rng.choice(["best_at_generation_start", "serial_best", "steady_state"])
        if order == "serial_best":
            overlap.pop("lag", None)
        pool = SENTENCES if rng.random() < 0.4 else ("Add.", "What is the sum?", "Say the number.")
        shared: Any = {"popsize": rng.choice([4, 8]), "generations": steps, "order": order, "pool": pool, **overlap}
        return EvoPromptGA(**shared) if chance < 0.3 else EvoPromptDE(**shared)
    if chance < 0.8:
        return Reflective(steps=rng.choice([3, 6, 12]), samples_per_step=rng.choice([2, 4]), **overlap)
    return Paraphrase(
        steps=rng.choice([3, 6, 12]), samples_per_step=rng.choice([2, 4, 8]), temperature=temperature, **overlap
    )


def _latency(rng: Random) -> Latency:
    middle = rng.choice([0.3, 1.0, 3.0])
    kind = rng.random()
    if kind < 0.2:
        return Constant(middle)
    tail = (0.01, 10.0) if kind < 0.55 else (0.0, 1.0)
    return LogNormal(middle, rng.choice([0.3, 0.6, 1.0]), *tail)


def _quota(rng: Random, most: int) -> tuple[Quota, dict[str, Any]]:
    concurrency: Any = rng.choice([4, 16, 64, None])
    kind = rng.choice(["none", "requests", "tokens", "announced"])
    if kind == "none":
        return Quota(concurrency=concurrency), {}
    if kind == "tokens":
        rate = rng.choice([10.0, 40.0]) * (most + 100)
        server = {"tokens_per_second": rate, "token_burst": 20 * rate, "refund_tokens": rng.random() < 0.5}
        return Quota(tokens_per_minute=60 * rate, concurrency=concurrency), server
    rate = rng.choice([5.0, 20.0, 60.0])
    server = {"requests_per_second": rate}
    stated = 60 * rate if kind == "requests" else None
    return Quota(requests_per_minute=stated, concurrency=concurrency), server


# -- one study ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """The intervals of one study, and what it came to."""

    seed: int
    what: str
    intervals: Mapping[str, Interval]
    real: Mapping[str, float]

    def held(self, quantity: str) -> bool:
        """Whether the run came out within the interval, but for rounding."""
        interval, real = self.intervals[quantity], self.real[quantity]
        return interval.low * (1 - 1e-6) <= real <= interval.high * (1 + 1e-6)

    def width(self, quantity: str) -> float:
        interval = self.intervals[quantity]
        return (interval.high - interval.low) / interval.middle


async def _pilot(what: Drawn, calls: int) -> tuple[Pilot, str]:
    listener = Listener()
    async with Engine(cache=MemoryCache(), observers=[listener], grace=0.0) as engine:
        model = _model(what, engine, what.api(10_000 + what.seed))
        both = {"scorer": model, "proposer": model}
        found = await run_pilot(what.task, what.optimizer, engine, both, listener, calls=calls, seed=what.seed)
        return found, engine.dispatchers[0].control.scope


async def _run(what: Drawn) -> Mapping[str, float]:
    async with Engine(cache=MemoryCache(), grace=0.0) as engine:
        model = _model(what, engine, what.api(what.seed))
        study = Study(task=what.task, optimizer=what.optimizer, scorer=model, proposer=model, seed=what.seed)
        result = await study.run()
        assert result.usd is not None
        return {"calls": result.calls, "usd": result.usd, "seconds": result.seconds}


def _model(what: Drawn, engine: Engine, api: SimulatedAPI) -> Model:
    return engine.model("m", endpoint=api.endpoint(), quota=what.stated, price=PRICE)


def planned(what: Drawn, calls: int) -> Forecast:
    """The forecast of a study after a pilot of so many calls, all of which the run pays for again."""
    pilot, scope = run_virtual(lambda: _pilot(what, calls))
    one = Served("m", scope, what.stated, PRICE)
    # The run has a cache of its own here, so that the pilot's answers are not there.
    pilot = replace(pilot, cached=0)
    return forecast(what.task, what.optimizer, {"scorer": one, "proposer": one}, pilot, seed=what.seed)


def outcome(seed: int, calls: int = 40) -> Outcome:
    """The study of this seed, forecast and run."""
    return outcome_of(drawn(seed), calls)


def outcome_of(what: Drawn, calls: int = 40) -> Outcome:
    """The study, forecast and run."""
    found = planned(what, calls)
    assert found.usd is not None
    intervals = {"calls": found.calls, "usd": found.usd, "seconds": found.seconds}
    return Outcome(what.seed, _described(what), intervals, run_virtual(lambda: _run(what)))


def _described(what: Drawn) -> str:
    optimizer = what.optimizer
    names = ("lag", "quorum", "racing", "validate_every", "scoring_calls")
    options = {name: getattr(optimizer, name, None) for name in names}
    on = " ".join(f"{name}={value}" for name, value in options.items() if value)
    temperature = getattr(optimizer, "temperature", 1.0)
    return (
        f"{optimizer.name} {on} T={temperature} n={len(what.task.train)} {what.stated} {what.latency} "
        f"{type(what.answers).__name__} {getattr(optimizer, 'meta_prompt', '')}"
    )


# -- all of them -------------------------------------------------------------------------------------------------------


def coverage(outcomes: Sequence[Outcome], quantity: str) -> float:
    """The share of studies whose run came out within the interval."""
    return sum(one.held(quantity) for one in outcomes) / len(outcomes)


def width(outcomes: Sequence[Outcome], quantity: str) -> float:
    """The median relative width."""
    return median(one.width(quantity) for one in outcomes)


def _row(outcomes: Sequence[Outcome], quantity: str) -> list[str]:
    below = sum(one.real[quantity] < one.intervals[quantity].low * (1 - 1e-6) for one in outcomes)
    above = sum(one.real[quantity] > one.intervals[quantity].high * (1 + 1e-6) for one in outcomes)
    share = f"{100 * coverage(outcomes, quantity):.1f} %"
    error = median(abs(one.intervals[quantity].middle / one.real[quantity] - 1) for one in outcomes)
    return [quantity, share, str(below), str(above), f"{width(outcomes, quantity):.2f}", f"{100 * error:.0f} %"]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--studies", type=int, default=300)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--pilot", type=int, default=40)
    options.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    options.add_argument("--missed", action="store_true", help="list the studies outside their intervals")
    chosen = options.parse_args()
    seeds = range(chosen.first, chosen.first + chosen.studies)
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        outcomes = list(pool.map(outcome, seeds, [chosen.pilot] * len(seeds), chunksize=5))
    heads = ["quantity", "within", "below", "above", "median width", "median error of the middle"]
    table(heads, [_row(outcomes, quantity) for quantity in QUANTITIES])
    for one in outcomes if chosen.missed else ():
        for quantity in QUANTITIES:
            if not one.held(quantity):
                found = one.intervals[quantity]
                shown = f"{found.low:.4g} {found.middle:.4g} {found.high:.4g}"
                print(f"{one.seed} {quantity} {one.real[quantity]:.4g} not in {shown}: {one.what}")
    settings = {"studies": chosen.studies, "first": chosen.first, "pilot": chosen.pilot}
    write_json(chosen.json, "plan", settings, [asdict(one) for one in outcomes])


if __name__ == "__main__":
    main()
