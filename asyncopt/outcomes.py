"""How the examples of a study ended: each in exactly one way, as the journal has it and as the result counts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from asyncopt.evaluation import Evaluation
from asyncopt.tasks.task import Example, Fold
from asyncopt.values import Outcome

Ends: TypeAlias = Mapping[str, Any]  # `scores` in the order of the examples, and `problems` by example id

_SHOWN = 5  # examples that are named for each problem


def ends_of(done: Evaluation, examples: Sequence[Example]) -> Ends:
    """The scores in the order of these examples, None where there is none, and why not.

    What was withdrawn is no problem, and has no more than its None: a lost race leaves most examples so.
    """
    items = {item.example: item for item in done.items}
    scores = [items[example.id].score if example.id in items else None for example in examples]
    problems = {
        str(item.example): item.label
        for item in done.items
        if item.score is None and item.outcome is not Outcome.WITHDRAWN
    }
    return {"scores": scores} | ({"problems": problems} if problems else {})


class Outcomes:
    """The ends of all examples that a study has asked for; those of a candidate on a fold replace earlier ones.

    So what a quorum or an interrupted sitting left open is counted once, as it ended in the end.
    """

    def __init__(self) -> None:
        self._ends: dict[tuple[Fold, str], Ends] = {}

    def take(self, fold: Fold, candidate: str, ends: Ends) -> None:
        """Take in how the examples of a candidate on this fold ended; other fields beside them are left alone."""
        if ends.get("scores"):
            self._ends[fold, candidate] = ends

    def counts(self) -> dict[str, int]:
        """How many examples ended in each way, such as ``{"scored": 96, "refused": 3, "failed:transient": 1}``."""
        counts = Counter({Outcome.SCORED.value: 0})
        for ends in self._ends.values():
            problems = ends.get("problems", {})
            scored = sum(score is not None for score in ends["scores"])
            withdrawn = len(ends["scores"]) - scored - len(problems)
            counts.update({Outcome.SCORED.value: scored, Outcome.WITHDRAWN.value: withdrawn})
            counts.update(problems.values())
        return {name: count for name, count in counts.items() if count or name == Outcome.SCORED.value}


def unscored_text(counts: Mapping[str, int]) -> str:
    """What was asked for and has no score, in a line: ``3 refused, 1 failed:transient``; empty where all have one."""
    meant = (Outcome.SCORED.value, Outcome.WITHDRAWN.value)
    return ", ".join(f"{count} {name}" for name, count in counts.items() if name not in meant)


def problems_text(problems: Mapping[str, str]) -> str:
    """Which examples have no score and why, in a line: ``2 refused (3, 9), 1 failed:transient (7)``."""
    return ", ".join(
        f"{count} {name} ({_some(example for example, problem in problems.items() if problem == name)})"
        for name, count in Counter(problems.values()).most_common()
    )


def _some(examples: Iterable[str]) -> str:
    numbers = list(examples)
    return ", ".join(numbers[:_SHOWN]) + (", …" if len(numbers) > _SHOWN else "")
