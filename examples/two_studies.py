"""Two studies that share one quota in one process, and are both done sooner than one after the other.

Start it with ``python examples/two_studies.py``. The API is a simulated one that refuses what is beyond its quota; the
engine keeps both studies within it together, so nothing is refused.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from asyncopt import OPRO, Engine, Example, Quota, Result, Study, Task
from asyncopt.testing import AnswerModel, Constant, SimulatedAPI, items_of

CALLS_A_SECOND = 100.0


@dataclass(frozen=True)
class Outcome:
    """The two results, the seconds that both took together, and what the API had to refuse."""

    results: tuple[Result, Result]
    seconds: float
    served: int
    refused: int


def sums(name: str, add: int) -> Task:
    examples = [Example(n, f"What is {n} plus {n + add}?", str(2 * n + add)) for n in range(30)]
    return Task(name, "number", train=tuple(examples[:15]), test=tuple(examples[15:]), initial=("Answer.",))


async def main() -> Outcome:
    tasks = sums("small sums", 3), sums("larger sums", 70)
    api = SimulatedAPI(
        latency=Constant(0.05), requests_per_second=CALLS_A_SECOND, answers=AnswerModel(0, items_of(tasks))
    )
    began = asyncio.get_running_loop().time()
    async with Engine() as engine:
        # One handle, one quota. Handles of several models share one where they state the same `scope`.
        model = engine.model("simulated", endpoint=api.endpoint(), quota=Quota(60 * CALLS_A_SECOND, concurrency=64))
        studies = [
            Study(task=task, optimizer=OPRO(steps=4, samples_per_step=4), scorer=model, proposer=model, seed=seed)
            for seed, task in enumerate(tasks)
        ]
        # A task group: if one study fails, the other is cancelled.
        async with asyncio.TaskGroup() as group:
            first, second = [group.create_task(study.run()) for study in studies]
    statuses = [entry.status for entry in api.ledger.entries]
    seconds = asyncio.get_running_loop().time() - began
    return Outcome((first.result(), second.result()), seconds, statuses.count(200), statuses.count(429))


if __name__ == "__main__":
    outcome = asyncio.run(main())
    for result in outcome.results:
        assert result.best is not None
        print(f"{result.task}: {result.best.candidate!r}, {result.calls} calls in {result.seconds:.1f} s")
    rate = outcome.served / outcome.seconds
    print(f"together {rate:.0f} calls a second of {CALLS_A_SECOND:.0f} allowed; {outcome.refused} refused")
