"""Possible courses of OPRO and of whoever searches in its steps (random search, APE): see ``optimizers/steps.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from random import Random as PythonRandom
from typing import TYPE_CHECKING

from asyncopt.evaluation import AHEAD, FINAL_ANSWER_TOKENS
from asyncopt.forecast.belief import Belief
from asyncopt.forecast.clock import Clock
from asyncopt.forecast.course import Kinds, Spent
from asyncopt.forecast.prompts import TYPICAL, as_opro, mean_tokens, meta_prompt, tokens_of
from asyncopt.optimizers import OPRO
from asyncopt.optimizers.base import AnyTask, Optimizer
from asyncopt.optimizers.overlap import START, Overlap, is_validated
from asyncopt.racing import Bet, alpha_of
from asyncopt.tasks.task import Task
from asyncopt.values import Generate

if TYPE_CHECKING:
    from numpy.random import Generator as Random

_TYPICAL_TOKENS = len(TYPICAL) / 4
_GAPS = (-0.5, -0.35, -0.2, -0.12, -0.06, 0.0, 0.06, 0.15)
_RACES = 8  # played for each gap


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a step: how often it is asked for, and on how many examples it is scored, 0 for a known one."""

    asked: int
    scored: int


@dataclass(slots=True)
class Steps:
    """A course: the starting points, the samples of each step, and the candidates validated after it."""

    options: Overlap
    links: int
    start: list[int]
    samples: list[list[Sample]] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)  # calls, after the start and after each step
    tested: list[int] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)

    @property
    def steps(self) -> int:
        return len(self.samples)

    @property
    def step_calls(self) -> float:
        calls = sum(sample.asked + sample.scored * (1 + self.links) for step in self.samples for sample in step)
        return (calls + sum(self.validated)) / max(self.steps, 1)

    def tests(self) -> list[int]:
        return self.tested

    def play(self, clock: Clock, kinds: Kinds, steps: int, ended: Callable[[], None]) -> None:
        _Play(self, clock, kinds, steps, ended).advance()


class _Play:
    """The loop of ``optimizers/steps.py`` without its contents."""

    def __init__(self, course: Steps, clock: Clock, kinds: Kinds, steps: int, ended: Callable[[], None]) -> None:
        self._course, self._clock, self._kinds = course, clock, kinds
        self._steps, self._tell = steps, ended
        self._next = START
        self._undecided: dict[int, int] = {}
        self._validating = False
        self._busy = False

    def advance(self) -> None:
        """Make every decision that can be made now."""
        if self._busy:  # a decision is being made, which goes on afterwards
            return
        self._busy = True
        while self._finish() or self._begin():
            pass
        self._busy = False

    def _finish(self) -> bool:
        earliest = min(self._undecided, default=None)
        if earliest is None or self._undecided[earliest] or self._validating:
            return False
        del self._undecided[earliest]
        self._tell()
        calls = self._course.validated[earliest + 1]
        if calls:
            self._validating = True
            self._clock.ask(self._kinds.scoring, calls, self._validated, links=self._course.links)
        return True

    def _validated(self) -> None:
        self._validating = False
        self.advance()

    def _begin(self) -> bool:
        lag = self._course.options.lag
        started = self._next == START or START not in self._undecided
        may = started and (lag > 0 or not self._undecided) and sum(self._undecided.values()) <= lag
        if self._next >= self._steps or not may:
            return False
        step, self._next = self._next, self._next + 1
        if step == START:
            self._undecided[step] = len(self._course.start)
            for calls in self._course.start:
                self._score(step, calls)
        else:
            self._undecided[step] = len(self._course.samples[step])
            for sample in self._course.samples[step]:
                self._propose(step, sample)
        return True

    def _propose(self, step: int, sample: Sample) -> None:
        if not sample.asked:
            self._decide(step)
        elif sample.scored:
            self._clock.ask(
                self._kinds.proposing, 1, lambda: self._score(step, sample.scored), links=sample.asked - 1, first=True
            )
        else:
            self._clock.ask(self._kinds.proposing, 1, lambda: self._decide(step), links=sample.asked - 1, first=True)

    def _score(self, step: int, calls: int) -> None:
        options = self._course.options
        race = options.racing is not None and step != START
        due = calls if options.quorum is None or step == START else ceil(options.quorum * calls)
        if due == calls:
            window = 2 * AHEAD if race else 0
            self._clock.ask(
                self._kinds.scoring, calls, lambda: self._decide(step), links=self._course.links, window=window
            )
            return
        batch = self._clock.ask(self._kinds.scoring, calls, self.advance, links=self._course.links)
        batch.marks[due] = lambda: self._decide(step)

    def _decide(self, step: int) -> None:
        self._undecided[step] -= 1
        self.advance()


class _Lagging:
    """Which proposals would be twins: of the same step, and with a lag of those before it that saw the same history."""

    def __init__(self, lag: int) -> None:
        self._lag = lag
        self._seen: set[int] = set()
        self.unscored = 0

    def seen(self) -> set[int]:
        """The proposals that the step's samples may repeat."""
        if not self._lag or self.unscored > self._lag:
            self._seen, self.unscored = set(), 0
        return self._seen


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Estimated tokens of prompts: of the examples without an instruction by fold, and of a request for a proposal."""

    train: float
    validation: float
    test: float
    initial: float
    asked: float  # with one solution shown
    shown: float  # of each more, without its own text
    showing: float = 1.0  # the share of requests that show more than one


class StepModel:
    """Draws courses of one study; ``cached`` answers to the first starting point need not be asked for."""

    def __init__(self, task: AnyTask, optimizer: Optimizer, *, cached: int) -> None:
        assert isinstance(optimizer, Overlap)
        self._task, self._optimizer, self._cached = task, optimizer, cached
        self._options: Overlap = optimizer
        self._opro = as_opro(optimizer)
        self._samples = int(vars(self._opro or optimizer)["samples_per_step"])
        self._sizes = _sizes(task, optimizer, self._opro)
        self._races: dict[tuple[float, float], list[int]] = {}

    def draw(self, belief: Belief) -> Steps:
        """A course in the world of this draw."""
        task, random = self._task, belief.draws
        links = 1 if isinstance(task, Task) and task.final_answer_cue else 0
        examples = len(task.train) if isinstance(task, Task) else 0
        course = Steps(self._options, links, self._start(examples))
        accuracy, spread, tried = belief.accuracy, float(random.uniform(0.03, 0.25)), len(course.start)
        worse = -float(random.uniform(-0.3, 1.0))
        lagging = _Lagging(self._options.lag if random.random() < 0.5 else 0)
        steps = self._optimizer.steps if isinstance(task, Task) else _until_solved(random, self._optimizer.steps)
        self._score(course, belief, sum(course.start), self._sizes.initial)
        self._validate(course, belief, START, len(course.start))
        for step in range(steps):
            fresh = self._fresh(belief, random, lagging)
            gaps = random.normal(worse * spread, spread, self._samples)
            row = []
            for place, asked in enumerate(fresh):
                scored = examples if asked > 0 else 0
                if scored and self._options.racing is not None:
                    scored = self._raced(random, accuracy, float(gaps[place]), examples)
                row.append(Sample(abs(asked), scored))
            course.samples.append(row)
            self._count(course, belief, step, row, tried)
            new = sum(sample.asked > 0 and asked > 0 for sample, asked in zip(row, fresh, strict=True))
            tried += new
            accuracy = min(max(accuracy, accuracy + max([*gaps[:new], 0.0])), 0.99)
            self._validate(course, belief, step, new)
            if self._gives_up(course, random):
                break
        self._test(course, belief, tried)
        return course

    def _start(self, examples: int) -> list[int]:
        if not isinstance(self._task, Task):
            return [0]
        start = [examples] * len(dict.fromkeys(self._task.initial))
        start[0] = max(start[0] - self._cached, 0)
        return start

    def _fresh(self, belief: Belief, random: Random, lagging: _Lagging) -> list[int]:
        """For each sample how often it is asked for; negative where it brings nothing new."""
        attempts = self._opro.attempts if self._opro is not None else 1
        if self._opro is None:
            return [1] * self._samples
        seen = lagging.seen()
        fresh = []
        for kind, chance in zip(
            random.integers(belief.distinct, size=self._samples).tolist(), random.random(self._samples), strict=True
        ):
            asked = 1
            while chance < belief.unusable and asked < attempts:
                chance, asked = random.random(), asked + 1
            new = chance >= belief.unusable and kind not in seen and random.random() >= belief.repeated
            seen.add(kind)
            lagging.unscored += new
            fresh.append(asked if new else -asked)
        return fresh

    def _raced(self, random: Random, floor: float, gap: float, examples: int) -> int:
        """On how many examples a candidate is scored that is so much better or worse than its floor."""
        nearest = min(_GAPS, key=lambda one: abs(one - gap))
        kind = nearest, round(floor, 1)
        if kind not in self._races:
            assert self._options.racing is not None
            alpha = alpha_of(self._options.racing, max(self._optimizer.steps * self._samples, 1))
            rng = PythonRandom(f"race:{kind}")
            self._races[kind] = [_race(rng, kind[1], kind[1] + nearest, examples, alpha) for _ in range(_RACES)]
        stopped = self._races[kind][int(random.integers(_RACES))]
        return min(stopped + int(random.integers(AHEAD // 2, AHEAD + 1)), examples)

    # -- counting ------------------------------------------------------------------------------------------------------

    def _count(self, course: Steps, belief: Belief, step: int, row: Sequence[Sample], tried: int) -> None:
        opro = self._opro
        if opro is not None:
            shown = tried if opro.meta_prompt == "pre-trained" else min(tried, opro.history_size)
            text = belief.instruction_at(step) if isinstance(self._task, Task) else 0.0
            sent = self._sizes.asked + max(shown - 1, 0) * (self._sizes.shown + self._sizes.showing * text)
            asked = sum(sample.asked for sample in row)
            course.spent.proposer.add(asked, sent * belief.proposing_ratio, belief.proposed)
        scored = sum(sample.scored for sample in row)
        self._score(course, belief, scored, self._sizes.train + belief.instruction_at(step))

    def _score(self, course: Steps, belief: Belief, calls: int, sent: float) -> None:
        tokens = course.spent.scorer
        tokens.add(calls, sent * belief.scoring_ratio, belief.scored)
        if course.links:
            again = sent * belief.scoring_ratio + belief.scored
            tokens.add(calls, again, min(FINAL_ANSWER_TOKENS, belief.scored))

    def _validate(self, course: Steps, belief: Belief, step: int, new: int) -> None:
        every, task = self._options.validate_every, self._task
        due = is_validated(step, self._optimizer.steps, every) and isinstance(task, Task)
        candidates = 0
        if due:
            random = belief.draws
            kept = new - sum(random.random() < 0.6 for _ in range(new)) if self._options.racing and step >= 0 else new
            # The best so far is validated too, unless it has been, as one of this step's or of an earlier one's.
            candidates = kept + (every is not None and every > 1 and step > 0 and random.random() < 0.4)
        calls = candidates * (len(task.validation) if isinstance(task, Task) else 0)
        course.validated.append(calls)
        size = self._sizes.initial if step == START else self._sizes.validation + belief.instruction_at(step)
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
        better = tried > len(course.start) and belief.draws.random() > 1 / (1 + tried / 2)
        course.tested = [size, size] if better else [size]
        last = self._sizes.test + belief.instruction_at(course.steps)
        if better:
            self._score(course, belief, size, last)
        self._score(course, belief, size, self._sizes.initial)


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


def _sizes(task: AnyTask, optimizer: Optimizer, opro: OPRO | None) -> _Sizes:
    folds = (0.0, 0.0, 0.0, 0.0)
    if isinstance(task, Task):
        bare = [
            max(mean_tokens(task, optimizer, TYPICAL, examples) - _TYPICAL_TOKENS, 0.0)
            for examples in (task.train, task.validation, task.test)
        ]
        folds = (bare[0], bare[1], bare[2], mean_tokens(task, optimizer, task.initial[0], task.train or task.test))
    asked, shown = (0.0, 0.0) if opro is None else _asked(task, opro)
    showing = 0.0 if opro is None else opro.styles.count("meta-prompt") / len(opro.styles)
    return _Sizes(*folds, asked, shown, showing)


def _asked(task: AnyTask, opro: OPRO) -> tuple[float, float]:
    """Tokens of a request that shows one solution, and of each more that it shows, its text left out."""
    rng, many = PythonRandom(0), max(opro.history_size, 2)
    one = more = 0.0
    for style in opro.styles:
        prompts = [meta_prompt(task, opro, style, shown=count, rng=rng, text=TYPICAL).prompt for count in (1, many)]
        few, full = (tokens_of(Generate.of(prompt)) for prompt in prompts)
        initial = tokens_of(Generate.of(meta_prompt(task, opro, style, shown=1, rng=rng).prompt))
        one += initial / len(opro.styles)
        own = _TYPICAL_TOKENS if isinstance(task, Task) else 0.0
        more += max((full - few) / (many - 1) - own, 0.0) / len(opro.styles)
    return one, more
