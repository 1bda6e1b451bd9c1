"""What every optimizer promises, as tests for whoever writes one: subclass :class:`OptimizerConformance`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from asyncopt.cache import Cache, MemoryCache
from asyncopt.chronicle import decisions_of
from asyncopt.directory import read_journal
from asyncopt.errors import BudgetExhausted, ConfigError
from asyncopt.evaluation import most_asked
from asyncopt.optimizers.base import AnyTask, Optimizer
from asyncopt.tasks.task import Task
from asyncopt.testing.faults import Kind
from asyncopt.testing.promises import (
    broken,
    check_best,
    check_candidates,
    check_once,
    check_steps,
    check_survived,
    ended,
    require_same,
    scored,
    unstuck,
)
from asyncopt.testing.trial import Course, Trial, sums, try_out

_SHARES = (0.05, 0.35, 0.65, 0.95)  # of the time of an undisturbed study, when it is cancelled
_MOST_CUTS = 5
_HOSTILE = (
    "",
    " \n\t ",
    "[",
    "][ ]] [[ <INS> </TEXT> <prompt> {{ 7 * 7 }} {% raw %} %s ${HOME} ../../etc/passwd",
    "\x00\x1b[2J\u202e\ud83d \ufffd",
    "[" + "very " * 5_000 + "long]",
    '{"hidden": null, "score": NaN}',
    "[[1e999, -1e999]] <trace> 0, 0, 0 </trace>",
)
_INSTRUCTION = "<INS>"  # in the place of one
_LOSSES: tuple[Kind, ...] = ("refused", "length-empty", "400")


class OptimizerConformance:
    """The promises of an optimizer as tests: subclass it, and say how one is made.

    Studies run on a virtual clock against a simulated API; there is no network, and nothing takes long. Let the
    optimizer be small, with two to four steps. What fails says which promise is broken, and under which
    :class:`~asyncopt.testing.trial.Course`; ``self.tried(Course(...))`` is that study again. The optimizer is made
    anew for every sitting, as it is by a new process.

    An optimizer with ``lag`` or ``quorum`` may depend on what comes first; instead of one history for all latencies it
    then owes the same history in a replay. ``repeats`` says that a candidate may join the history again.
    """

    repeats: ClassVar[bool] = False

    def optimizer(self) -> Optimizer:
        """A new optimizer; the one thing that has to be said."""
        raise NotImplementedError(f"{type(self).__name__} says no optimizer; define optimizer() and return one")

    def task(self) -> AnyTask:
        """What is searched for; by default an instruction for small sums."""
        return sums()

    def tried(self, course: Course, **places: Any) -> Trial:
        """The study's trial under this course, as ``asyncopt.testing.trial.try_out`` runs it."""
        return try_out(self.optimizer(), self.task(), course, **places)

    # -- it ends -------------------------------------------------------------------------------------------------------

    def test_it_ends_with_a_result_whatever_comes_first(self) -> None:
        for arrival, concurrency, faults in ((1, 1, 0.0), (2, 3, 0.05), (3, 16, 0.05), (4, 64, 0.1)):
            self._finished(Course(arrival=arrival, concurrency=concurrency, faults=faults))

    def test_a_hostile_proposer_is_survived(self) -> None:
        for text in _HOSTILE:
            self._survived(Course(says=text))

    def test_lost_proposals_are_survived(self) -> None:
        for fault in _LOSSES:
            self._survived(Course(loses=fault))

    # -- the seed alone decides ----------------------------------------------------------------------------------------

    def test_the_seed_decides_and_not_what_comes_first(self) -> None:
        if not self._settled:  # then a replay has to follow the record
            return
        first = self._finished(Course(scramble=1))
        for course in (
            Course(arrival=1, concurrency=1),
            Course(arrival=2, concurrency=3, scramble=2),
            Course(arrival=3, scramble=3),
            Course(arrival=4, faults=0.05),
        ):
            other = self._finished(course)
            if other.whole:  # a proposal that was given up is missing
                require_same("the seed alone decides", first, other)

    def test_a_second_study_in_a_process_is_like_the_first(self) -> None:
        if not self._settled:
            return
        optimizer = self.optimizer()
        first, second = (ended(try_out(optimizer, self.task(), Course(scramble=seed))) for seed in (1, 2))
        require_same("an optimizer keeps nothing from one study to the next", first, second)

    def test_another_seed_makes_other_requests(self) -> None:
        first, other = self._finished(Course()), self._finished(Course(seed=1))
        shared = first.sampled & other.sampled
        if shared:
            broken(
                "studies of different seeds share no samples",
                f"{len(shared)} sampled requests of seed 0 were made with seed 1, too; set the draw and the seed of a "
                "proposal by derived_seed, as asked() does",
                other,
            )
        if first.history == other.history and not first.sampled:
            broken("the seed decides", "seeds 0 and 1 have the same history", other)

    def test_a_replay_makes_the_same_decisions(self) -> None:
        with _folder() as folder:
            first = self._finished(Course(arrival=1), directory=folder / "first")
            for arrival, concurrency in ((2, 64), (3, 5)):
                course = Course(arrival=arrival, concurrency=concurrency)
                again = self._finished(course, replay=folder / "first")
                require_same("a replay follows its record", first, again)

    # -- resuming ------------------------------------------------------------------------------------------------------

    def test_a_cancelled_study_goes_on_as_if_it_had_not_been(self) -> None:
        with _folder() as folder:
            whole = self._finished(Course())
            assert whole.result is not None
            for number, share in enumerate(_SHARES):
                directory, cache = folder / str(number), MemoryCache()
                course = Course(stop_at=share * whole.result.seconds)
                first = unstuck(self.tried(course, directory=directory, cache=cache))
                again = self._finished(Course(arrival=1, scramble=number), directory=directory, cache=cache)
                self._require_continued(whole, again, f"cancelled under {course}")
                twice = [key for key, count in Counter([*first.answered, *again.answered]).items() if count > 1]
                if twice:
                    broken(
                        "no answer is paid for twice where there is a cache",
                        f"{len(twice)} were, of a study that was cancelled under {course}",
                        again,
                    )

    def test_a_killed_study_goes_on_as_if_it_had_not_been(self) -> None:
        with _folder() as folder:
            whole = self._finished(Course(), directory=folder / "whole")
            count = len(read_journal(folder / "whole")) - 1  # without the result
            for cut in sorted({1 + place * (count - 1) // _MOST_CUTS for place in range(_MOST_CUTS)} | {count}):
                directory = _cut_copy(folder / "whole", folder / f"cut-{cut}", cut)
                kept = decisions_of(read_journal(directory))
                again = self._finished(Course(arrival=cut, scramble=cut), directory=directory)
                self._require_continued(whole, again, f"killed after record {cut} of its journal")
                if decisions_of(read_journal(directory))[: len(kept)] != kept:
                    broken("a resumed study keeps what was decided", f"killed after record {cut}, it does not", again)
                if not self._settled:
                    replayed = self._finished(Course(arrival=cut + 1), replay=directory)
                    require_same("a replay follows its record", again, replayed)

    # -- budgets -------------------------------------------------------------------------------------------------------

    def test_a_budget_of_calls_is_kept_and_a_larger_one_goes_on(self) -> None:
        with _folder() as folder:
            whole = self._finished(Course(), cache=MemoryCache())
            total = len(whole.asked)
            # One of them ends with a step, so that no proposal of the next one is answered.
            limits = sorted({max(calls, 1) for calls in (1, total // 2, *whole.by_steps[:1], total - 1)})
            courses = [Course(calls=calls, arrival=calls) for calls in limits]
            for number, course in enumerate([*courses, Course(calls=limits[-1], faults=0.1)]):
                directory, cache = folder / str(number), MemoryCache()
                self._kept_to(course, directory, cache)
                again = self._finished(replace(course, calls=None, faults=0.0), directory=directory, cache=cache)
                if not course.faults:
                    self._require_continued(whole, again, f"resumed after {course}")

    def test_scoring_calls_are_kept(self) -> None:
        optimizer, task = self.optimizer(), self.task()
        if not isinstance(task, Task) or not _has_scoring_calls(optimizer):
            return
        whole = self._finished(Course())
        each = len(task.train)
        used = _taken(whole, each)
        if not any(one.step >= 0 for one in scored(whole)):  # nothing was found to try
            return
        for limit in sorted({used // 2, used - each, used - 1, used}):
            try:
                limited: Any = replace(optimizer, scoring_calls=limit)  # type: ignore[type-var]
                trial = ended(try_out(limited, task, Course(arrival=limit), cache=MemoryCache()))
            except ConfigError:
                if limit < used:  # too few for its starting points: refused before any call
                    continue
                raise
            if _taken(trial, each) > limit:
                found = f"{_taken(trial, each)} answers were scored on training examples, with scoring_calls={limit}"
                broken("scoring_calls is kept", found, trial)
            if (asked := _asked(trial, task)) > limit:
                found = f"{asked} different answers on training examples were asked of the scorer"
                broken(f"nothing is scored beside the scoring_calls={limit}", found, trial)

    # -- what it finds -------------------------------------------------------------------------------------------------

    def test_the_best_never_gets_worse_and_no_score_is_forgotten(self) -> None:
        check_best(self._finished(Course(arrival=1)), self.task())

    def test_candidates_are_usable_and_scored_once(self) -> None:
        trial = self._finished(Course(arrival=1))
        check_candidates(trial, self.task())
        check_once(trial, repeats=self.repeats)

    def test_steps_are_counted(self) -> None:
        optimizer = self.optimizer()
        check_steps(self._finished(Course(arrival=1)), optimizer.steps, early=_may_end_early(optimizer))

    # -- how it is found out -------------------------------------------------------------------------------------------

    @property
    def _settled(self) -> bool:
        """Whether the history is the same whatever comes first."""
        optimizer = self.optimizer()
        return getattr(optimizer, "lag", 0) == 0 and getattr(optimizer, "quorum", None) is None

    def _finished(self, course: Course, **places: Any) -> Trial:
        return ended(self.tried(course, **places))

    def _survived(self, course: Course) -> None:
        trial = self.tried(course)
        check_survived(trial)
        check_candidates(trial, self.task())

    def _kept_to(self, course: Course, directory: Path, cache: Cache) -> None:
        trial = unstuck(self.tried(course, directory=directory, cache=cache))
        if course.calls is not None and len(trial.asked) > course.calls:
            found = f"{len(trial.asked)} requests were sent, and {course.calls} are allowed"
            broken("a budget is kept", found, trial)
        if trial.error is not None and not isinstance(trial.error, BudgetExhausted):
            broken("a budget's end is told as such", f"it ended with {trial.error!r}", trial)

    def _require_continued(self, whole: Trial, again: Trial, how: str) -> None:
        if self._settled:
            require_same(f"a study that was {how} finds what it would have found", whole, again)


def _taken(trial: Trial, examples: int) -> int:
    """How many answers on training examples were scored, with as many as a race may have asked ahead of its end."""
    return sum(most_asked(one.stopped, examples) for one in scored(trial))


def _asked(trial: Trial, task: Task) -> int:
    """How many of the scorer's requests are a training example in the task's template, whatever the instruction."""
    frames = [task.render(_INSTRUCTION, example.input).partition(_INSTRUCTION) for example in task.train]
    return sum(
        any(text.startswith(before) and text.endswith(after) for before, _, after in frames)
        for text in trial.to_scorer.values()
    )


def _has_scoring_calls(optimizer: Optimizer) -> bool:
    return is_dataclass(optimizer) and any(field.name == "scoring_calls" for field in fields(optimizer))


def _may_end_early(optimizer: Optimizer) -> bool:
    """Whether one of its options ends the search before its last step."""
    return any(getattr(optimizer, name, None) is not None for name in ("patience", "scoring_calls"))


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder for one check: no fixture, so that it is no matter which plugins pytest has."""
    with TemporaryDirectory() as name:
        yield Path(name)


def _cut_copy(directory: Path, other: Path, records: int) -> Path:
    """Another directory in which the journal ends after so many records, as when the process dies then."""
    other.mkdir()
    (other / "manifest.json").write_bytes((directory / "manifest.json").read_bytes())
    lines = (directory / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (other / "journal.jsonl").write_bytes(b"".join(lines[:records]))
    return other
