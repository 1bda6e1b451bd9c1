"""The answers that an evaluation will ask for, put into the cache before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asyncopt.batches.lane import BatchLane
from asyncopt.engine import Model
from asyncopt.evaluation import PROMPTED, Program
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Completion, Generate


async def answer_ahead(
    model: Model,
    task: Task,
    candidates: Sequence[str],
    examples: Sequence[Example],
    path: Path,
    *,
    program: Program = PROMPTED,
) -> None:
    """Return when the cache has what batches give of these candidates' answers to these examples.

    A program that answers an example in several calls takes as many batches, one after another. ``path`` is the journal
    of the batches: a later call with the same one goes on with those that are on their way. An example whose answer
    did not come is left to the evaluation.
    """
    chains: dict[tuple[str, int], list[Completion]] = {}
    pending = [(candidate, place) for candidate in dict.fromkeys(candidates) for place in range(len(examples))]
    async with BatchLane(model, path) as lane:
        while pending:
            requests: list[Generate] = []
            asking: list[tuple[str, int]] = []
            for candidate, place in pending:
                chain = chains.setdefault((candidate, place), [])
                request = (
                    program.after(task, candidate, examples[place], chain)
                    if chain
                    else program.first(task, candidate, examples[place])
                )
                if request is not None:
                    requests.append(request)
                    asking.append((candidate, place))
            answers = await lane.answers(requests)
            pending = [one for one, answer in zip(asking, answers, strict=True) if answer is not None]
            for one, answer in zip(asking, answers, strict=True):
                if answer is not None:
                    chains[one].append(answer)
