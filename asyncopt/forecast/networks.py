"""Possible courses of DLN-1 and DLN-2: the calls of each iteration (``optimizers/dln``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncopt.forecast.belief import Belief
from asyncopt.forecast.iterations import Iteration, Network
from asyncopt.forecast.lengths import World, shapes_of
from asyncopt.optimizers import DLN1, DLN2
from asyncopt.tasks.task import Task

if TYPE_CHECKING:
    from numpy.random import Generator as Random

_KEPT = (0.5, 1.5)  # Beta: share of iterations that go on with the prompts they had
_BETTER = (0.1, 0.95)  # an iteration that changes something takes up to this share of the errors away


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
        course = Network([], options.influential and options.lag == 0, self._layers - 1)
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
                one.validated = size
                unvalidated = False
                memory.validated()
                world.answer(size)
            if changed and step >= 0:
                # Scored on the last batch, of which some come again, unless likelihoods are no answers.
                known = 0.0 if self._own() else self._batch / len(self._task.train)
            one.forward = int(random.binomial(self._batch, 1 - (known if self._keeps else 0.0)))
            world.answer(one.forward)
            known += (1 - known) * self._batch / len(self._task.train)
            course.iterations.append(one)
        tested = len(self._task.test)
        other = changes > 0 and random.random() > 0.1
        course.tested = [tested] * (2 if other else 1)
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
        one.add(scored=memory * batch + self._own())
        _propose(one, asked, new, batch)

    def _own(self) -> int:
        """Calls for the current prompt where its forward pass is of another form than its likelihood."""
        exact = self._optimizer.output_scoring == "logprobs" and not self._task.classes
        return self._batch if exact else 0

    def _infer(self, one: Iteration, world: World, options: DLN2, new: int, memory: int) -> None:
        """DLN-2: hidden texts, their weights, proposals for both layers, and the scores of all."""
        batch, samples, belief = self._batch, options.hidden_samples, world.belief
        asked = round(batch * (1 - belief.accuracy)) if options.rewrite_wrong_only else batch
        known = belief.draws.integers(belief.distinct_hidden, size=(batch, samples))
        distinct = [len(set(row)) for row in known.tolist()]  # equal texts are asked about once
        share = sum(distinct) / known.size
        texts = sum(distinct[:asked]) if options.weighs else 0
        world.propose("posterior", asked * samples)
        world.score(world.scored, 0, texts)
        world.score("weighed", 0, texts * options.has_prior)
        world.score("target", 0, texts * options.mutual_information)
        terms = options.weighs * (1 + options.has_prior + options.mutual_information)
        draws = [one.add(proposed=samples) for _ in range(asked)]
        weights = [
            one.add(draw, scored=count * terms, first=True) for draw, count in zip(draws, distinct, strict=False)
        ]
        drawn, weighed = one.add(*draws), one.add(*draws, *weights)
        used = 1.0 if options.hidden_argmax else samples * share
        proposals = options.prompt_samples - 1
        if options.train_output:
            world.propose("proposal", proposals)
            each, old = self._output_scores(world, options, new, memory, used)
            known_from = weighed if options.hidden_argmax else drawn  # what has no weight is not scored
            one.add(known_from, scored=old)
            _propose(one, proposals, new, each, scored_after=known_from)
        for _ in range(options.hidden_steps if options.train_hidden else 0):
            world.propose("hidden proposal", proposals)
            each, old, links = self._hidden_scores(world, options, new, memory, used, share)
            current = one.add(weighed, scored=old, links=links)
            scores = _propose(one, proposals, new, each, weighed, links=links)
            weighed = one.add(current, *scores)

    def _output_scores(self, world: World, options: DLN2, new: int, memory: int, used: float) -> tuple[float, float]:
        """Calls that score each new output prompt, and those that were there."""
        each = self._batch * (used + (1 if options.trust_factor else 0))
        old = memory * each + (0.0 if options.weighs else self._batch * used)
        world.score(world.scored, new * each, old)
        return each, old

    def _hidden_scores(
        self, world: World, options: DLN2, new: int, memory: int, used: float, share: float
    ) -> tuple[float, float, int]:
        """Calls that score each new hidden prompt, those that were there, and how many more follow on each of them."""
        if options.hidden_scoring == "sampled":
            each = float(self._batch * options.hidden_samples)
            world.score("hidden", new * each, (memory + 1) * each)
            world.score(world.scored, 0, (new + memory + 1) * each * share)
            chains = each * (1 + share) / 2  # of a sample and the answer that it leads to
            return chains, (memory + 1) * chains, 1
        each = self._batch * (used + 1)
        old = (memory + 1) * each - (self._batch * used if options.has_prior else 0)
        world.score("weighed", new * each, old)
        return each, old, 0

    def _new(self, belief: Belief, samples: int) -> int:
        """How many of the proposals are of use and new."""
        random: Random = belief.draws
        kinds = set(random.integers(belief.distinct, size=samples).tolist())
        share = (1 - belief.unusable) * (1 - belief.repeated)
        return int(random.binomial(len(kinds), share))


def _propose(
    one: Iteration, asked: int, new: int, each: float, *after: int, scored_after: int | None = None, links: int = 0
) -> list[int]:
    """Stages of proposals, and of so many calls for each of the new ones when it has come; all their numbers."""
    proposals = [one.add(*after, proposed=1) for _ in range(asked)]
    also = () if scored_after is None else (scored_after,)
    return proposals + [one.add(proposal, *also, scored=each, links=links) for proposal in proposals[:new]]


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
