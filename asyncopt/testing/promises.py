"""What is demanded of a trial; each function raises with the broken promise, what was found and how to see it again."""

from __future__ import annotations

import math
from collections import Counter
from typing import NoReturn

from asyncopt import codec
from asyncopt.errors import EndpointUnusable, StudyFailed
from asyncopt.events import CandidateScored, ExampleEnded
from asyncopt.optimizers.base import AnyTask
from asyncopt.tasks.task import Task
from asyncopt.testing.trial import Trial


def ended(trial: Trial) -> Trial:
    """The trial, which has a result."""
    unstuck(trial)
    if trial.error is not None:
        broken("a study ends with a result", f"it ended with {trial.error!r}", trial)
    return trial


def unstuck(trial: Trial) -> Trial:
    """The trial, which has ended and left nothing behind."""
    if trial.stuck is not None:
        broken("a study ends", trial.stuck, trial)
    if trial.left:
        broken("nothing goes on when a study has ended", f"there are still {', '.join(trial.left)}", trial)
    return trial


def require_same(promise: str, one: Trial, other: Trial) -> None:
    if one.history != other.history:
        broken(promise, f"{_difference(one, other)}, where it is the first under {one.course}", other)
    if one.result is None or other.result is None:
        return
    for name in ("best", "initial", "steps"):
        was, now = getattr(one.result, name), getattr(other.result, name)
        if was != now:
            broken(promise, f"{name} is {now}, and was {was} under {one.course}", other)


def _difference(one: Trial, other: Trial) -> str:
    """The first entry in which two histories differ."""
    for was, now in zip(one.history, other.history, strict=False):
        if was != now:
            return f"an entry is {was} or {now}"
    return f"the history has {len(one.history)} or {len(other.history)} entries"


def check_candidates(trial: Trial, task: AnyTask) -> None:
    """Every candidate is a text that can be tried and kept, and every score a share; or a loss."""
    for step, _, candidate, score, *_ in trial.history:
        usable = isinstance(candidate, str) and (step < 0 or candidate.strip())
        if not usable or codec.loads(codec.dumps(candidate)) != candidate:
            broken("what is proposed is usable", f"the candidate of step {step + 1} is {candidate!r}", trial)
        if score is not None and not (0 <= score <= 1 if isinstance(task, Task) else math.isfinite(score)):
            broken("scores are shares, in [0, 1], or finite losses", f"{candidate!r} has {score!r}", trial)


def broken(promise: str, found: str, trial: Trial) -> NoReturn:
    """Fail with the promise, what was found, and the course under which it is found again."""
    raise AssertionError(f"{promise}: {found}; see it again with self.tried({trial.course})")


def check_survived(trial: Trial) -> None:
    """Whatever a proposer says or does not say, a study ends cleanly."""
    unstuck(trial)
    if trial.error is not None and not isinstance(trial.error, StudyFailed | EndpointUnusable):
        promise = "whatever the proposer does, a study ends with a result or with StudyFailed"
        broken(promise, f"it ended with {trial.error!r}", trial)


def check_best(trial: Trial, task: AnyTask) -> None:
    """The best so far never gets worse, and nothing that was scored is missing."""
    sign = 1 if isinstance(task, Task) else -1
    best = -math.inf
    for event in trial.finished_steps:
        value = -math.inf if event.best_score is None else sign * event.best_score
        if value < best:
            found = f"it goes from {sign * best:.6g} to {sign * value:.6g} in step {event.step + 1}"
            broken("the best so far never gets worse", found, trial)
        best = value
    known = {entry.candidate for entry in trial.study.history.entries}
    forgotten = [one.candidate for one in scored(trial) if one.candidate not in known]
    if forgotten:
        found = f"{len(forgotten)} are not in it, such as {forgotten[0]!r}"
        broken("every candidate that was scored joins the history", found, trial)


def check_once(trial: Trial, *, repeats: bool) -> None:
    """A candidate joins the history once, unless it may repeat, and none of its examples is scored twice."""
    counts = Counter(candidate for _, _, candidate, *_ in trial.history)
    candidate, most = counts.most_common(1)[0]
    if most > 1 and not repeats:
        found = f"{candidate!r} is in it {most} times; say repeats = True if that is meant"
        broken("a candidate joins the history once", found, trial)
    place, most = Counter((step, index) for step, index, *_ in trial.history).most_common(1)[0]
    if most > 1:
        broken("every sample has a place of its own", f"sample {place[1]} of step {place[0] + 1} has {most}", trial)
    ended_ones = [one for one in trial.events if isinstance(one, ExampleEnded) and one.fold == "train"]
    twice = [key for key, count in Counter((one.candidate, one.example) for one in ended_ones).items() if count > 1]
    if twice:
        found = f"{len(twice)} are, such as example {twice[0][1]} of {twice[0][0]!r}"
        broken("no example of a candidate is scored twice", found, trial)


def check_steps(trial: Trial, planned: int, *, early: bool) -> None:
    """As many steps as planned end in their order, or fewer where something may end the search ``early``."""
    assert trial.result is not None
    steps, early = trial.result.steps, early or bool(trial.result.solved)
    numbers = [event.step for event in trial.finished_steps]
    if numbers != list(range(steps)):
        broken("steps end in their order, each once", f"they ended as {numbers}", trial)
    if steps != planned and not (steps < planned and early):
        broken("a search has the steps that it states", f"{planned} are planned, and {steps} were made", trial)
    begun = planned if early else steps  # with lag, a search that ends early had begun further steps
    beyond = sorted({step for step, *_ in trial.history if not -1 <= step < begun})
    if beyond:
        broken("entries belong to a step", f"there are some of the steps {beyond}", trial)


def scored(trial: Trial) -> list[CandidateScored]:
    """The candidates that were scored on the training examples, each with how many of them decided it."""
    return [one for one in trial.events if isinstance(one, CandidateScored) and not one.provisional]
