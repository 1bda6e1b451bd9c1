"""What the same true quality costs: the paper's order, then with merged twins and a cache, with racing, and prefixes.

The simulated API knows the true accuracy of every instruction. The seeds are the first whose starting instruction is
truly right for less than half of the questions; every arm runs until its best (by measured score, as a user would
choose) is truly right for 80 %, or for 40 steps. It is charged for all that its server had been asked by then.

`prefix` are input tokens that an earlier prompt of the run began with: what a server's prefix cache saves where it has
no least length. Hosted ones have, mostly 1,024 tokens, which the last column asks for. `billed` counts tokens in a
shared prefix as a tenth. Instructions come first in the prompts, so that the examples of one candidate share them.

Latency is log-normal on a virtual clock, and calls that racing withdraws too late are charged. The simulated proposer
seldom repeats itself (its instructions are random walks over 60 words), so merging saves less here than with a model.

    python benchmarks/cost.py --seeds 11 --examples 50
"""

from __future__ import annotations

import asyncio
import statistics
from argparse import Namespace
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice, takewhile
from typing import Any

from common import parser, spread, table, write_json
from paper import paper_order, task_of

from asyncopt import OPRO, Engine, MemoryCache, Model, Quota, Study, Task
from asyncopt.events import Event, StepFinished
from asyncopt.optimizers import History
from asyncopt.testing import AnswerModel, LogNormal, SimulatedAPI, items_of, run_virtual

PAPER = "paper's order"
ARMS: dict[str, Mapping[str, Any] | None] = {
    PAPER: None,
    "+ cache, twins merged": {},
    "+ racing 0.05": {"racing": 0.05},
}
SAMPLES = 8
POOR = 0.5
CAP = 64
LATENCY = LogNormal(0.5, 0.4, 0.01, 10.0)
BYTES_PER_TOKEN = 4
LEAST_PREFIX = 1024
CACHED_PRICE = 0.1


@dataclass(frozen=True)
class Cost:
    """What was paid until the target was reached."""

    calls: int
    input_tokens: int
    output_tokens: int
    prefix_tokens: int
    long_prefix_tokens: int

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def billed(self) -> float:
        return self.tokens - (1 - CACHED_PRICE) * self.prefix_tokens


class Goal:
    """Looks at the best instruction after the start and after every step, until it is as good as was asked for.

    ``requests`` is how many the server had then.
    """

    def __init__(self, api: SimulatedAPI, quality: Callable[[str], float], target: float) -> None:
        self._api = api
        self._quality = quality
        self._target = target
        self.reached = asyncio.Event()
        self.requests: int | None = None

    def notify(self, event: Event) -> None:
        if isinstance(event, StepFinished):
            self._look(event.best)

    def after_step(self, history: History) -> None:
        best = history.best()
        assert best is not None
        self._look(best.candidate)

    def _look(self, best: str) -> None:
        if self.requests is None and self._quality(best) >= self._target:
            self.requests = self._api.ledger.count()
            self.reached.set()


async def _search(
    model: Model, task: Task, options: Mapping[str, Any] | None, steps: int, seed: int, goal: Goal
) -> None:
    if options is None:
        await paper_order(model, task, steps, SAMPLES, seed, goal.after_step)
        return
    optimizer = OPRO(steps=steps, samples_per_step=SAMPLES, **options)
    await Study(task=task, optimizer=optimizer, scorer=model, proposer=model, seed=seed, observers=[goal]).run()


async def until(
    goal: Goal, api: SimulatedAPI, task: Task, options: Mapping[str, Any] | None, steps: int, seed: int
) -> int | None:
    """How many requests the server had when the goal was reached; None if it was not."""
    cache = None if options is None else MemoryCache()
    async with Engine(cache=cache, grace=0.0) as engine:
        model = engine.model("m", endpoint=api.endpoint(), quota=Quota(concurrency=CAP))
        search = asyncio.create_task(_search(model, task, options, steps, seed, goal))
        reached = asyncio.create_task(goal.reached.wait())
        await asyncio.wait([search, reached], return_when=asyncio.FIRST_COMPLETED)
        for waiting in (search, reached):
            waiting.cancel()
        await asyncio.wait([search, reached])
        if search.done() and not search.cancelled():
            search.result()
    return goal.requests


def prefixes(prompts: Sequence[str]) -> list[int]:
    """For each prompt, how many of its first tokens an earlier prompt has too."""
    earlier: list[str] = []
    found = []
    for prompt in prompts:
        at = bisect_left(earlier, prompt)
        # In sorted order a neighbour has the longest prefix in common.
        found.append(max((_common(prompt, other) for other in earlier[max(at - 1, 0) : at + 1]), default=0))
        insort(earlier, prompt)
    return found


def _common(one: str, other: str) -> int:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return len("".join(left for left, _ in same).encode()) // BYTES_PER_TOKEN


def cost(api: SimulatedAPI, requests: int) -> Cost:
    """What so many requests cost."""
    paid = api.ledger.entries[:requests]
    shared = prefixes([entry.prompt for entry in paid])
    return Cost(
        len(paid),
        sum(entry.input_tokens for entry in paid),
        sum(entry.output_tokens for entry in paid),
        sum(shared),
        sum(tokens for tokens in shared if tokens >= LEAST_PREFIX),
    )


def compare(chosen: Namespace, task: Task, seed: int) -> dict[str, Cost | None]:
    """All arms of one seed; None where the target was not reached."""
    answers = AnswerModel(seed, items_of([task]))
    costs: dict[str, Cost | None] = {}
    for name, options in ARMS.items():
        api = SimulatedAPI(seed=seed, latency=LATENCY, answers=answers)

        async def main(api: SimulatedAPI = api, options: Mapping[str, Any] | None = options) -> int | None:
            goal = Goal(api, lambda best: answers.true_accuracy(task.render(best, "")), chosen.target)
            return await until(goal, api, task, options, chosen.steps, seed)

        requests = run_virtual(main)
        costs[name] = None if requests is None else cost(api, requests)
    return costs


def poor_starts(task: Task) -> Iterator[int]:
    """The seeds under which the starting instruction leaves room above it."""
    for seed in count():
        start = task.render(task.initial[0], "")
        if AnswerModel(seed).true_accuracy(start) < POOR:
            yield seed


def row(name: str, costs: Sequence[Cost | None], base: Sequence[Cost | None]) -> list[str]:
    """One line of the table: medians over the seeds that reached the target in both arms."""
    pairs = [(new, old) for new, old in zip(costs, base, strict=True) if new is not None and old is not None]
    calls = [new.calls / old.calls for new, old in pairs]
    tokens = [new.tokens / old.tokens for new, old in pairs]
    billed = [new.billed / old.tokens for new, old in pairs]
    share = [100 * new.prefix_tokens / new.input_tokens for new, _ in pairs]
    long = [100 * new.long_prefix_tokens / new.input_tokens for new, _ in pairs]
    return [
        name,
        f"{sum(paid is not None for paid in costs)} of {len(costs)}",
        spread([new.calls for new, _ in pairs]) if pairs else "",
        *(f"{statistics.median(part):.2f}" if pairs else "" for part in (calls, tokens, billed)),
        *(f"{statistics.median(part):.0f} %" if pairs else "" for part in (share, long)),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--examples", type=int, default=50, help="N")
    options.add_argument("--steps", type=int, default=40, help="at most")
    options.add_argument("--target", type=float, default=0.8, help="true accuracy to be reached")
    options.add_argument("--seeds", type=int, default=15)
    options.add_argument("--quick", action="store_true", help="two small seeds, to see that it works")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.examples, chosen.target, chosen.seeds = 20, 0.6, 2
    task = task_of(chosen.examples)
    found = {seed: compare(chosen, task, seed) for seed in islice(poor_starts(task), chosen.seeds)}
    by_arm = {name: [costs[name] for costs in found.values()] for name in ARMS}
    print(f"N = {chosen.examples}, K = {SAMPLES}, target {chosen.target:.0%} truly right, {chosen.seeds} seeds")
    heads = ["arm", "reached", "calls: median (range)", "calls", "tokens", "billed", "prefix", "of 1,024 and more"]
    table(heads, [row(name, costs, by_arm[PAPER]) for name, costs in by_arm.items()])
    print("calls, tokens and billed are median ratios to the paper's order, seed by seed (billed: to its tokens)")
    figures = {name: [None if paid is None else asdict(paid) for paid in costs] for name, costs in by_arm.items()}
    settings = {name: getattr(chosen, name) for name in ("examples", "steps", "target")} | {"seeds": list(found)}
    write_json(chosen.json, "cost", settings, figures)


if __name__ == "__main__":
    main()
