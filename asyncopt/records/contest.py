"""The runs of a comparison of optimizers as its arms: from the directories that it keeps them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from asyncopt import codec
from asyncopt.contest import Arm, ArmRun, Contest, contest
from asyncopt.evaluation import most_asked
from asyncopt.optimizers.history import Entry
from asyncopt.records.read import load_run
from asyncopt.records.values import Candidate
from asyncopt.result import Result
from asyncopt.sweep import Ended, Planned, Sweep

CONTEST = "contest.json"
TWICE = "asked-twice.json"  # the grades of the initial instruction, asked twice, by task
NOT_ENDED = "it has not ended"

Grades: TypeAlias = Mapping[int, float]  # by the example's number
Twice: TypeAlias = Mapping[str, tuple[Grades, Grades]]  # by task


@dataclass(frozen=True, slots=True)
class OfTask:
    """The figures of a comparison on one task, whose search may score so many answers on training examples."""

    task: str
    scoring_calls: int | None
    contest: Contest

    def to_json(self) -> dict[str, Any]:
        """The figures as a plain value."""
        return {"task": self.task, "scoring_calls": self.scoring_calls, **self.contest.to_json()}


def contests_in(directory: Path, sweep: Sweep, ended: Sequence[Ended]) -> list[OfTask]:
    """The comparison kept in this directory, task by task; a run that has not ended counts as one without a result.

    Empty where the sweep is none.
    """
    if sweep.contest is None:
        return []
    by_name = {one.planned.name: one for one in ended}
    runs = {one.name: _read(directory, one, by_name.get(one.name)) for one in sweep.planned}
    return contests_of(sweep, runs, read_twice(directory))


def contests_of(sweep: Sweep, runs: Mapping[str, ArmRun], twice: Twice) -> list[OfTask]:
    """The comparisons of these runs, which are named as the studies of the sweep are, task by task."""
    found = []
    for task in dict.fromkeys(one.task for one in sweep.planned):
        of_task = [one for one in sweep.planned if one.task == task]
        arms = [
            Arm(name, [runs[one.name] for one in of_task if one.setting == name], same_as)
            for name, same_as in (sweep.contest or {}).items()
        ]
        calls = getattr(of_task[0].config.optimizer, "scoring_calls", None)
        found.append(OfTask(task, calls, contest(arms, twice=twice.get(task))))
    return found


def arm_run(
    seed: int, result: Result, entries: Sequence[Entry] | Sequence[Candidate], examples: int, grades: Grades
) -> ArmRun:
    """A run that has ended, with its history and the chosen instruction's grades on the held-out examples.

    ``examples`` are how many a candidate is scored on; an answer that failed was one of the scoring calls, too.
    """
    best = result.best
    tried = {one.candidate: one for one in entries}
    return ArmRun(
        seed=seed,
        instruction="" if best is None else best.candidate,
        train=None if best is None else best.train,
        validation=None if best is None else best.validation,
        held_out=None if best is None else best.held_out,
        scores=grades,
        candidates=len(tried),
        scoring_calls=sum(most_asked(one.stopped, examples) for one in tried.values()),
        calls=result.calls,
        cache_hits=result.cache_hits,
        tokens=result.tokens,
        usd=result.usd,
        seconds=result.seconds,
    )


def _read(directory: Path, planned: Planned, ended: Ended | None) -> ArmRun:
    if ended is None or ended.result is None:
        return ArmRun(planned.seed, failure=NOT_ENDED if ended is None else str(ended.error))
    run = load_run(directory / planned.name)
    answers = [] if ended.result.best is None else run.answers(ended.result.best.candidate)
    grades = {one.example: one.score for one in answers if one.fold == "test" and one.score is not None}
    examples = max((len(one.scores or ()) or one.examples for one in run.candidates), default=0)
    return arm_run(planned.seed, ended.result, run.candidates, examples, grades)


# -- the same instruction asked twice ----------------------------------------------------------------------------------


def read_twice(directory: Path) -> Twice:
    """The grades of the initial instructions, each asked twice; empty where there are none that can be read."""
    with suppress(OSError, codec.CodecError, KeyError, TypeError, ValueError, AttributeError):
        kept = codec.loads((directory / TWICE).read_bytes())
        return {task: (_grades(both[0]), _grades(both[1])) for task, both in kept.items()}
    return {}


def twice_json(twice: Twice) -> bytes:
    """The grades as :func:`read_twice` reads them back."""
    return codec.dumps({task: [sorted(grades.items()) for grades in both] for task, both in twice.items()})


def _grades(pairs: Any) -> Grades:
    return {int(example): float(score) for example, score in pairs}
