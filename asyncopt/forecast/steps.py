"""Possible courses of a search in steps, whatever it asks for in them: see ``optimizers/steps.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random as PythonRandom
from typing import TYPE_CHECKING

from asyncopt.evaluation import AHEAD, FINAL_ANSWER_TOKENS, most_asked
from asyncopt.forecast.asking import TYPICAL_TOKENS, Shown, asking_of
from asyncopt.forecast.belief import Belief
from asyncopt.forecast.overlapping import Allowance, Sample, Steps
from asyncopt.forecast.prompts import TYPICAL, mean_tokens
from asyncopt.optimizers.base import AnyTask, Optimizer
from asyncopt.optimizers.overlap import START, Overlap, is_validated
from asyncopt.racing import Bet, alpha_of
from asyncopt.tasks.task import Task

if TYPE_CHECKING:
    from numpy.random import Generator as Random

_GAPS = (-0.5, -0.35, -0.2, -0.12, -0.06, 0.0, 0.06, 0.15)
_RACES = 8  # played for each gap
_SELECTED = 0.2  # log-sd of the length of those that live on


class _Lagging:
    """Which proposals would be twins: of the same step, and with a lag of those before it that saw the same history.

    Where there are so many ``requests`` and no more, those of all steps before.
    """

    def __init__(self, lag: int, requests: int | None) -> None:
        self._lag = lag
        self._kept = requests is not None
        self._seen: set[int] = set()
        self.unscored = 0

    def seen(self) -> set[int]:
        """The proposals that the step's samples may repeat."""
        if not self._kept and (not self._lag or self.unscored > self._lag):
            self._seen, self.unscored = set(), 0
        return self._seen


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Estimated tokens of prompts: of the examples without an instruction by fold, and with the initial one."""

    train: float
    validation: float
    test: float
    initial: float


class StepModel:
    """Draws courses of one study; ``cached`` answers to the first starting point need not be asked for.

    ``keeps`` says whether answers are kept, so that one which is asked for again costs nothing.
    """

    def __init__(self, task: AnyTask, optimizer: Optimizer, *, cached: int, keeps: bool = True) -> None:
        assert isinstance(optimizer, Overlap)
        self._task, self._optimizer, self._cached = task, optimizer, cached
        self._options: Overlap = optimizer
        self._asking = asking_of(task, optimizer)
        starts = len(dict.fromkeys(task.initial)) if isinstance(task, Task) else 1
        self._starts = starts if self._asking is None else self._asking.starts
        self._requests = None if self._asking is None else self._asking.requests
        self._again = 0 if keeps or self._asking is None else self._asking.again
        samples = self._asking.samples if self._asking is not None else int(vars(optimizer)["samples_per_step"])
        optimizer.check_examples(task)
        examples = len(task.train) if isinstance(task, Task) else 0
        self._budget = Allowance(samples, examples, self._options.scoring_calls)
        self._sizes = _sizes(task, optimizer)
        self._races: dict[tuple[float, float], list[int]] = {}

    def draw(self, belief: Belief) -> Steps:
        """A course in the world of this draw."""
        task, random = self._task, belief.draws
        belief = _selected(belief) if self._requests else belief
        links = 1 if isinstance(task, Task) and task.final_answer_cue else 0
        course = Steps(self._options, links, self._start(), self._budget, self._again)
        accuracy, spread, tried = belief.accuracy, float(random.uniform(0.03, 0.25)), len(course.start)
        used = len(course.start) * self._budget.examples
        worse = -float(random.uniform(-0.3, 1.0))
        best = self._best_start(accuracy, spread, random)
        worse, accuracy = worse - (best - accuracy) / spread, best  # others than the best start have children too
        lagging = _Lagging(self._options.lag if random.random() < 0.5 else 0, self._requests)
        steps = self._optimizer.steps if isinstance(task, Task) else _until_solved(random, self._optimizer.steps)
        self._score(course, belief, sum(course.start), self._sizes.initial)
        self._validate(course, belief, START, len(course.start), last=False)
        for step in range(steps):
            samples = min(self._budget.samples, self._budget.after(used))
            fresh = self._fresh(belief, random, lagging, step, samples)
            if not any(fresh):
                continue
            gaps = random.normal(worse * spread, spread, samples)
            row = [self._sample(asked, random, accuracy, float(gap)) for asked, gap in zip(fresh, gaps, strict=True)]
            course.samples.append(row)
            self._count(course, belief, step, row, tried)
            new = sum(asked > 0 for asked in fresh)
            tried += new
            used += sum(sample.used for sample in row)
            accuracy = min(max(accuracy, accuracy + max([*gaps[:new], 0.0])), 0.99)
            ends = self._budget.after(used) == 0
            self._validate(course, belief, step, new, last=ends)
            if ends or self._gives_up(course, random):
                break
        self._test(course, belief, tried)
        return course

    def _best_start(self, accuracy: float, spread: float, random: Random) -> float:
        """The accuracy of the best starting point; that of the first is known."""
        gaps = random.normal(0.0, spread, self._starts - 1) if self._starts > 1 else ()
        return min(max([accuracy, *(accuracy + float(gap) for gap in gaps)]), 0.99)

    def _start(self) -> list[int]:
        if not isinstance(self._task, Task):
            return [0]
        start = [self._budget.examples] * self._starts
        start[0] = max(start[0] - self._cached, 0)
        return start

    def _fresh(self, belief: Belief, random: Random, lagging: _Lagging, step: int, samples: int) -> list[int]:
        """For each sample how often it is asked for; negative where it brings nothing new."""
        if self._asking is None:
            return [1] * samples
        attempts = self._asking.attempts
        seen = lagging.seen()
        fresh = []
        for index, kind, chance in zip(
            range(samples),
            random.integers(belief.distinct * (self._requests or 1), size=samples).tolist(),
            random.random(samples),
            strict=True,
        ):
            if not self._asking.wanted(step, index):
                fresh.append(0)
                continue
            asked = 1
            while chance < belief.unusable and asked < attempts:
                chance, asked = random.random(), asked + 1
            new = chance >= belief.unusable and kind not in seen and random.random() >= belief.repeated
            seen.add(kind)
            lagging.unscored += new
            fresh.append(asked if new else -asked)
        return fresh

    def _sample(self, asked: int, random: Random, accuracy: float, gap: float) -> Sample:
        examples = self._budget.examples
        if asked <= 0 or not examples:
            return Sample(abs(asked), 0, 0)
        if self._options.racing is None:
            return Sample(asked, examples, examples)
        stopped = self._raced(random, accuracy, gap, examples)
        # Some answers are under way when a race is lost.
        more = int(random.integers(AHEAD // 2, AHEAD + 1))
        return Sample(asked, min(stopped + more, examples), most_asked(stopped, examples))

    def _raced(self, random: Random, floor: float, gap: float, examples: int) -> int:
        """After how many examples a candidate is stopped that is so much better or worse than its floor, or all."""
        nearest = min(_GAPS, key=lambda one: abs(one - gap))
        kind = nearest, round(floor, 1)
        if kind not in self._races:
            assert self._options.racing is not None
            alpha = alpha_of(self._options.racing, max(self._optimizer.steps * self._budget.samples, 1))
            rng = PythonRandom(f"race:{kind}")
            self._races[kind] = [_race(rng, kind[1], kind[1] + nearest, examples, alpha) for _ in range(_RACES)]
        return self._races[kind][int(random.integers(_RACES))]

    # -- counting ------------------------------------------------------------------------------------------------------

    def _count(self, course: Steps, belief: Belief, step: int, row: Sequence[Sample], tried: int) -> None:
        if self._asking is not None:
            sent = self._asking.tokens(Shown(step, tried, self._words(belief, step), belief.scored))
            asked = sum(sample.asked for sample in row)
            # What is made of its parents is as long as they are, and so is the answer that it stands in.
            grown = self._words(belief, step) / belief.instruction if self._requests else 1.0
            course.spent.proposer.add(asked, sent * belief.proposing_ratio, belief.proposed * grown)
            self._score(course, belief, asked * course.again, self._sizes.train + self._words(belief, step))
        scored = sum(sample.scored for sample in row)
        self._score(course, belief, scored, self._sizes.train + self._words(belief, step))

    def _words(self, belief: Belief, step: int) -> float:
        """Tokens of an instruction that this step proposes."""
        return belief.instruction_at(step if self._asking is None else round(step * self._asking.pace))

    def _score(self, course: Steps, belief: Belief, calls: int, sent: float) -> None:
        tokens = course.spent.scorer
        tokens.add(calls, sent * belief.scoring_ratio, belief.scored)
        if course.links:
            again = sent * belief.scoring_ratio + belief.scored
            tokens.add(calls, again, min(FINAL_ANSWER_TOKENS, belief.scored))

    def _validate(self, course: Steps, belief: Belief, step: int, new: int, *, last: bool) -> None:
        every, task = self._options.validate_every, self._task
        due = is_validated(step, self._optimizer.steps, every) or (every is not None and last)
        candidates = 0
        if due:
            random = belief.draws
            kept = new - sum(random.random() < 0.6 for _ in range(new)) if self._options.racing and step >= 0 else new
            # The best so far is validated too, unless it has been, as one of this step's or of an earlier one's.
            candidates = kept + (every is not None and every > 1 and step > 0 and random.random() < 0.4)
        calls = candidates * (len(task.validation) if isinstance(task, Task) else 0)
        course.validated.append(calls)
        size = self._sizes.initial if step == START else self._sizes.validation + self._words(belief, step)
        self._score(course, belief, calls, size)

    def _gives_up(self, course: Steps, random: Random) -> bool:
        """Whether the last ``patience`` validations brought nothing better; later ones bring less."""
        patience = self._options.patience
        if patience is None or not course.validated[-1]:
            return False
        validations = sum(calls > 0 for calls in course.validated)
        return validations > patience and all(
            random.random() > 1 / (1 + 0.5 * number) for number in range(validations - patience, validations)
        )

    def _test(self, course: Steps, belief: Belief, tried: int) -> None:
        if not isinstance(self._task, Task):
            return
        size = len(self._task.test)
        better = tried > len(course.start) and belief.draws.random() > self._starts / (self._starts + tried / 2)
        course.tested = [size, size] if better else [size]
        last = self._sizes.test + self._words(belief, course.steps)
        if better:
            self._score(course, belief, size, last)
        self._score(course, belief, size, self._sizes.initial)


def _selected(belief: Belief) -> Belief:
    """With other lengths of instructions: whether it is the long ones or the short ones that have children."""
    factor = math.exp(_SELECTED * belief.draws.normal())
    return replace(belief, instruction=belief.instruction * factor, proposed=belief.proposed * factor)


def _until_solved(random: Random, steps: int) -> int:
    """The search ends with the optimum, if it finds it; nobody knows when."""
    return int(random.integers(1, steps + 1)) if steps and random.random() < 0.5 else steps


def _race(rng: PythonRandom, floor: float, candidate: float, examples: int, alpha: float) -> int:
    """After how many examples a candidate is stopped whose answers share half of their luck with the floor's."""
    luck = [rng.random() for _ in range(examples)]
    floors = [float((one if rng.random() < 0.5 else rng.random()) < floor) for one in luck]
    bet = Bet(floors, alpha)
    for turn, one in enumerate(luck):
        if bet.lost(float((one if rng.random() < 0.5 else rng.random()) < candidate)):
            return turn + 1
    return examples


def _sizes(task: AnyTask, optimizer: Optimizer) -> _Sizes:
    if not isinstance(task, Task):
        return _Sizes(0.0, 0.0, 0.0, 0.0)
    train, validation, test = (
        max(mean_tokens(task, optimizer, TYPICAL, examples) - TYPICAL_TOKENS, 0.0)
        for examples in (task.train, task.validation, task.test)
    )
    return _Sizes(train, validation, test, mean_tokens(task, optimizer, task.initial[0], task.train or task.test))
