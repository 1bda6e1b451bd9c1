"""Possible courses of DLN-1 and DLN-2: the round trips of each iteration, one after the other (``optimizers/dln``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncopt.forecast.belief import Belief
from asyncopt.forecast.clock import Clock
from asyncopt.forecast.course import Kinds, Spent
from asyncopt.forecast.lengths import World, shapes_of
from asyncopt.optimizers import DLN1, DLN2
from asyncopt.tasks.task import Task

if TYPE_CHECKING:
    from numpy.random import Generator as Random

_KEPT = (0.5, 1.5)  # Beta: share of iterations that go on with the prompts they had
_BETTER = (0.1, 0.95)  # an iteration that changes something takes up to this share of the errors away


@dataclass(slots=True)
class Iteration:
    """Round trips in their order, each as calls of the scorer and of the proposer; ``validated`` beside what follows.

    What is scored per candidate is asked for as proposals arrive, which is a round trip of its own here.
    """

    trips: list[tuple[int, int]] = field(default_factory=list)
    validated: int = 0


@dataclass(slots=True)
class Network:
    """A course: what comes before the first iteration, then the iterations."""

    iterations: list[Iteration]
    waits: bool  # for its validation, before the next iteration
    tested: list[int] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)

    @property
    def steps(self) -> int:
        return len(self.iterations) - 1

    @property
    def step_calls(self) -> float:
        calls = [sum(a + b for a, b in one.trips) + one.validated for one in self.iterations[1:]]
        return sum(calls) / max(len(calls), 1)

    def tests(self) -> list[int]:
        return self.tested

    def play(self, clock: Clock, kinds: Kinds, steps: int, ended: Callable[[], None]) -> None:
        _Play(self, clock, kinds, steps, ended).advance()


class _Play:
    def __init__(self, course: Network, clock: Clock, kinds: Kinds, steps: int, ended: Callable[[], None]) -> None:
        self._course, self._clock, self._kinds, self._tell = course, clock, kinds, ended
        self._left = [list(one.trips) for one in course.iterations[: steps + 1]]
        self._validated = [one.validated for one in course.iterations[: steps + 1]]
        self._open = 0
        self._validating = False

    def advance(self) -> None:
        """Begin the next round trip."""
        if self._open or not self._left:
            return
        if self._left[0]:
            scored, proposed = self._left[0].pop(0)
            self._open = 2
            self._clock.ask(self._kinds.proposing, proposed, self._arrived, first=True)
            self._clock.ask(self._kinds.scoring, scored, self._arrived)
            return
        if self._validating and self._course.waits:
            return
        self._left.pop(0)
        calls = self._validated.pop(0)
        self._tell()
        if calls:
            self._validating = True
            self._clock.ask(self._kinds.scoring, calls, self._settled)
        self.advance()

    def _arrived(self) -> None:
        self._open -= 1
        self.advance()

    def _settled(self) -> None:
        self._validating = False
        self.advance()


class NetworkModel:
    """Draws courses of one study; ``cached`` answers of the initial prompts need not be asked for."""

    def __init__(self, task: Task, optimizer: DLN1 | DLN2, *, cached: int, keeps: bool) -> None:
        self._task, self._optimizer, self._keeps = task, optimizer, keeps
        self._batch = min(optimizer.batch_size, len(task.train))
        self._cached = cached
        self._shapes = shapes_of(task, optimizer)
        self._skips = isinstance(optimizer, DLN2) or optimizer.output_scoring == "accuracy"
        self._layers = 2 if isinstance(optimizer, DLN2) else 1

    def draw(self, belief: Belief) -> Network:
        """A course in the world of this draw."""
        options, random = self._optimizer, belief.draws
        course = Network([], options.influential and options.lag == 0)
        world = World(self._task, options, self._shapes, belief, course.spent)
        kept, size = float(random.beta(*_KEPT)), len(self._task.validation)
        known = self._cached / max(len(self._task.train), 1)  # the share of the batch whose answers are there
        better, changes = float(random.uniform(*_BETTER)), 0
        accuracy, unvalidated, memory = belief.accuracy, True, _Memory(options.memory, random)
        for step in range(-1, options.steps):
            one = Iteration()
            # A batch without an error changes nothing, except where log-probabilities of one layer still may.
            skips = self._skips and random.random() < accuracy**self._batch
            changed = step < 0
            if step >= 0 and not skips:
                self._improve(one, world, memory.others)
                changed = random.random() > kept
                accuracy += changed * better * float(random.uniform(0.0, 1.0)) * (1 - accuracy)
                if changed:
                    changes += 1
                    world.change()
                    memory.change()
            unvalidated = unvalidated or changed
            due = step in (-1, options.steps - 1) or (step + 1) % options.validate_every == 0
            if due and unvalidated:
                one.validated = size * self._layers
                unvalidated = False
                memory.validated()
                world.answer(size)
            if changed and step >= 0:
                # Scored on the last batch, of which some come again, unless likelihoods are no answers.
                known = 0.0 if self._own() else self._batch / len(self._task.train)
            calls = int(random.binomial(self._batch, 1 - (known if self._keeps else 0.0)))
            one.trips += [(calls, 0)] * self._layers
            world.answer(calls)
            known += (1 - known) * self._batch / len(self._task.train)
            course.iterations.append(one)
        tested = len(self._task.test)
        other = changes > 0 and random.random() > 0.1
        course.tested = [tested] * (self._layers * (2 if other else 1))
        world.answer(tested, initial=True)
        world.answer(tested if other else 0)
        return course

    def _improve(self, one: Iteration, world: World, memory: int) -> None:
        options, batch = self._optimizer, self._batch
        new = self._new(world.belief, options.prompt_samples - 1)
        if isinstance(options, DLN2):
            self._infer(one, world, options, new, memory)
            return
        asked = options.prompt_samples - 1
        world.propose("proposal", asked)
        world.score(world.scored, new * batch, memory * batch + self._own())
        # The current prompt's class log-probabilities and greedy answers are those of its forward pass.
        one.trips += [(0, asked), ((new + memory) * batch + self._own(), 0)]

    def _own(self) -> int:
        """Calls for the current prompt where its forward pass is of another form than its likelihood."""
        exact = self._optimizer.output_scoring == "logprobs" and not self._task.classes
        return self._batch if exact else 0

    def _infer(self, one: Iteration, world: World, options: DLN2, new: int, memory: int) -> None:
        """DLN-2: hidden texts, their weights, proposals for both layers, and the scores of all."""
        batch, samples, belief = self._batch, options.hidden_samples, world.belief
        drawn = batch * samples
        if options.rewrite_wrong_only:
            drawn = round(drawn * (1 - belief.accuracy))
        world.propose("posterior", drawn)
        known = belief.draws.integers(belief.distinct_hidden, size=(batch, samples))
        share = sum(len(set(row)) for row in known.tolist()) / known.size  # equal texts are asked about once
        texts = round(drawn * share) if options.weighs else 0
        world.score(world.scored, 0, texts)
        world.score("weighed", 0, texts * options.has_prior)
        world.score("target", 0, texts * options.mutual_information)
        weights = texts * (1 + options.has_prior + options.mutual_information)
        one.trips += [(0, drawn), (weights, 0)]
        used = 1.0 if options.hidden_argmax else samples * share
        asked = options.prompt_samples - 1
        layers = self._output_scores(world, options, new, memory, used) if options.train_output else 0.0
        rounds = options.hidden_steps if options.train_hidden else 0
        for number in range(max(rounds, 1)):
            hidden = self._hidden_scores(world, options, new, memory, used, share) if rounds else 0.0
            proposals = asked * (number == 0 and options.train_output), asked * (rounds > 0)
            world.propose("proposal", proposals[0])
            world.propose("hidden proposal", proposals[1])
            one.trips += [(0, sum(proposals)), (round(layers * (number == 0) + hidden), 0)]

    def _output_scores(self, world: World, options: DLN2, new: int, memory: int, used: float) -> float:
        """Calls that score output prompts."""
        each = self._batch * (used + (1 if options.trust_factor else 0))
        own = 0.0 if options.weighs else self._batch * used
        world.score(world.scored, new * each, memory * each + own)
        return (new + memory) * each + own

    def _hidden_scores(self, world: World, options: DLN2, new: int, memory: int, used: float, share: float) -> float:
        """Calls that score hidden prompts."""
        if options.hidden_scoring == "sampled":
            each, answers = float(self._batch * options.hidden_samples), share
            world.score("hidden", new * each, (memory + 1) * each)
            world.score(world.scored, 0, (new + memory + 1) * each * answers)
            return (new + memory + 1) * each * (1 + answers)
        each = self._batch * (used + 1)
        own = (memory + 1) * each - (self._batch * used if options.has_prior else 0)
        world.score("weighed", new * each, own)
        return new * each + own

    def _new(self, belief: Belief, samples: int) -> int:
        """How many of the proposals are of use and new."""
        random: Random = belief.draws
        kinds = set(random.integers(belief.distinct, size=samples).tolist())
        share = (1 - belief.unusable) * (1 - belief.repeated)
        return int(random.binomial(len(kinds), share))


class _Memory:
    """How many earlier prompts stand beside the current ones: only a better validation lets prompts in."""

    def __init__(self, size: int, random: Random) -> None:
        self._size, self._random = size, random
        self._better = float(random.uniform(0.1, 0.7))  # the chance of a validation after the first
        self._remembered = 0
        self._current = False  # whether the current prompts are among them

    @property
    def others(self) -> int:
        return self._remembered - self._current

    def change(self) -> None:
        self._current = False

    def validated(self) -> None:
        if self._size and (not self._remembered or self._random.random() < self._better):
            self._remembered = min(self._remembered + 1, self._size)
            self._current = True
