"""Tokens of a network's requests by what they ask for, since a proposal is much longer than an answer's first token.

Templates say how long a request is around its instruction and hidden texts, and a pilot what a server counts for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from asyncopt.forecast.belief import Belief, length_of
from asyncopt.forecast.course import Spent
from asyncopt.forecast.prompts import TYPICAL, Sort, tokens_of
from asyncopt.optimizers import DLN1, DLN2
from asyncopt.optimizers.dln.layers import TwoLayers
from asyncopt.optimizers.dln.proposals import prompt_requests
from asyncopt.optimizers.dln.roles import Case, Posterior
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Generate, Prompt

_HOLE = len(TYPICAL) / 4  # tokens of what stands in a request for an instruction or a hidden text
_EXAMPLES = 100  # that a mean is taken over, at most
_REQUESTS = 4  # for proposals: one with each wish
_THOUGHTS = (0.2, 0.35)  # log-length of hidden texts under other prompts than the first: mean, sd
_LONGER, _WALK = (0.1, 0.15), 0.3  # of the log-length of an instruction, where it changes: mean with its sd, sd


@dataclass(frozen=True, slots=True)
class Shape:
    """Estimated tokens of a request without its instruction and its hidden texts, and how many of these it shows."""

    bare: float
    hidden: float = 0.0

    def mixed(self, other: Shape, share: float) -> Shape:
        """So much of this one, and the rest of the other."""
        return Shape(share * self.bare + (1 - share) * other.bare, share * self.hidden + (1 - share) * other.hidden)


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shape of every sort of request; of proposals that show only right answers (``right``), and only wrong ones.

    ``target`` are the estimated tokens of a right answer.
    """

    plain: Mapping[Sort, Shape]
    right: Mapping[Sort, Shape]
    wrong: Mapping[Sort, Shape]
    target: float


def shapes_of(task: Task, optimizer: DLN1 | DLN2) -> Shapes:
    """The shapes of this network's requests."""
    examples, program, texts = task.train[:_EXAMPLES], optimizer.program(task), optimizer.texts()
    two = program if isinstance(program, TwoLayers) else None

    def mean(render: Callable[[Example], str]) -> float:
        return fmean(tokens_of(Generate.of(render(one))) for one in examples) - _HOLE

    def read(one: Example) -> str:
        return two.output_input(one, TYPICAL) if two is not None else one.input

    shown = 1.0 if two is not None else 0.0
    target = fmean(len(one.target) / 4 for one in examples)
    answer = Shape(mean(lambda one: texts.forward(TYPICAL, read(one))) - shown * _HOLE, shown)
    plain: dict[Sort, Shape] = {"answer": answer, "target": Shape(answer.bare + target, shown)}
    batch = examples[: optimizer.batch_size]
    cases: dict[Sort, list[Case]] = {"proposal": [Case(read(one), one.target, one.target, 0.0) for one in batch]}
    if two is not None and isinstance(optimizer, DLN2):
        hidden = Shape(mean(lambda one: texts.hidden(TYPICAL, two.hidden_input(one))))
        plain |= {"hidden": hidden, "weighed": Shape(hidden.bare, 1.0), "posterior": _posterior(optimizer, two, mean)}
        cases["hidden proposal"] = [Case(two.hidden_input(one), TYPICAL, TYPICAL, 0.0) for one in batch]
    return Shapes(
        plain,
        {sort: _proposal(optimizer, sort, found, shown) for sort, found in cases.items()},
        {sort: _proposal(optimizer, sort, _wrong(found), shown) for sort, found in cases.items()},
        target,
    )


def _posterior(optimizer: DLN2, two: TwoLayers, mean: Callable[[Callable[[Example], str]], float]) -> Shape:
    """The mean of the mixture's templates."""
    texts, shapes = optimizer.texts(), []
    message = texts.messages("posterior_edit")[0]
    for kind in optimizer.posteriors:
        shown = 1.0 if kind == "edit" else 0.0

        def render(one: Example, kind: Posterior = kind) -> str:
            case = Case(two.hidden_input(one), TYPICAL, one.target, 1.0)
            return texts.posterior(kind, case, TYPICAL, TYPICAL, message)

        shapes.append(Shape(mean(render) - shown * _HOLE, shown))
    return Shape(fmean(one.bare for one in shapes), fmean(one.hidden for one in shapes))


def _wrong(cases: Sequence[Case]) -> list[Case]:
    return [Case(one.input, one.output, one.target, 1.0) for one in cases]


def _proposal(optimizer: DLN1 | DLN2, sort: Sort, cases: Sequence[Case], inputs: float) -> Shape:
    """A request that shows these cases, or half of them, or none; ``inputs`` of the output layer hold hidden texts."""
    texts = optimizer.texts()
    requests = prompt_requests(texts, [TYPICAL], cases, _REQUESTS, Random, half=optimizer.held_out_ranking)
    prompts: list[Prompt] = [one.prompt(texts) for one in requests]
    each = inputs if sort == "proposal" else 1.0 + cases[0].loss  # a wrong case shows what was said, too
    hidden = 0.0 if requests[0].turns else each * len(requests[0].cases)
    return Shape(fmean(tokens_of(Generate.of(prompt)) for prompt in prompts) - _HOLE * (1 + hidden), hidden)


class Lengths:
    """Tokens sent and received in one world."""

    def __init__(self, shapes: Shapes, optimizer: DLN1 | DLN2, belief: Belief, *, classes: bool) -> None:
        self._belief, self._target = belief, shapes.target
        self._first_token = classes and optimizer.output_scoring == "logprobs"
        share = belief.accuracy
        self._shapes = dict(shapes.plain) | {
            sort: right.mixed(shapes.wrong[sort], share) for sort, right in shapes.right.items()
        }
        seen = belief.lengths.get("hidden")
        most = optimizer.hidden_tokens if isinstance(optimizer, DLN2) else 1
        self._hidden = seen.received if seen is not None else length_of(belief.draws, (), most)
        self._longer = math.exp(belief.draws.normal(*_THOUGHTS))
        # Of a text that is weighed, servers count the tokens as sent or as received.
        self._counted = bool(belief.draws.random() < 0.5)

    def sent(self, sort: Sort, instruction: float) -> float:
        """Tokens of a request with an instruction of so many estimated tokens."""
        shape = self._shapes[sort]
        seen = self._belief.lengths.get("proposal" if sort == "hidden proposal" else sort)
        proposes = sort in ("posterior", "proposal", "hidden proposal")
        usual = self._belief.proposing_ratio if proposes else self._belief.scoring_ratio
        estimated = shape.bare + instruction + shape.hidden * self._hidden * self._longer
        if seen is None and sort in ("weighed", "target") and self._counted:
            estimated -= self._weighed(sort)
        return max(estimated * (usual if seen is None else seen.ratio), 1.0)

    def received(self, sort: Sort) -> float:
        """Tokens of its answer."""
        belief = self._belief
        seen = belief.lengths.get("proposal" if sort == "hidden proposal" else sort)
        if sort == "answer" and self._first_token:
            return 1.0
        if seen is not None:
            follows = sort in ("hidden", "posterior") or (sort == "weighed" and seen.received > 1.0)
            return seen.received * (self._longer if follows else 1.0)
        if sort in ("weighed", "target"):
            return max(self._weighed(sort), 1.0) if self._counted else 1.0
        if sort in ("hidden", "posterior"):
            return self._hidden * self._longer
        return belief.scored if sort == "answer" else belief.proposed

    def _weighed(self, sort: Sort) -> float:
        return self._hidden * self._longer if sort == "weighed" else math.ceil(self._target)


class World:
    """What is spent in one draw, call by call; ``scored`` is what is asked of output prompts that are compared."""

    def __init__(self, task: Task, optimizer: DLN1 | DLN2, shapes: Shapes, belief: Belief, spent: Spent) -> None:
        exact = optimizer.output_scoring == "logprobs" and not task.classes
        self.belief = belief
        self.scored: Sort = "target" if exact else "answer"
        self._spent = spent
        self._lengths = Lengths(shapes, optimizer, belief, classes=bool(task.classes))
        first = optimizer.first_output(task)
        hidden = optimizer.first_hidden(task) if isinstance(optimizer, DLN2) else None
        self._initial = tuple(0.0 if text is None else len(text) / 4 for text in (hidden, first))
        self._layers: tuple[Sort, ...] = ("answer",) if hidden is None else ("hidden", "answer")
        self._current, self._proposed = self._initial, 1.0
        self._longer = float(belief.draws.normal(*_LONGER))

    def change(self) -> None:
        """Go on with a proposal, which later ones will resemble."""
        self._current = (self._new, self._new)
        self._proposed *= math.exp(self._longer + _WALK * self.belief.draws.normal())

    @property
    def _new(self) -> float:
        return self.belief.instruction * self._proposed

    def answer(self, calls: int, *, initial: bool = False) -> None:
        """The answers of the current prompts, or the initial ones, to so many examples, layer by layer."""
        for sort in self._layers:
            self._add(sort, calls, self._prompt(sort, self._initial if initial else self._current))

    def score(self, sort: Sort, new: float, old: float) -> None:
        """Calls for new prompts, and for such as there were."""
        self._add(sort, new, self._new)
        self._add(sort, old, self._prompt(sort, self._current))

    def propose(self, sort: Sort, calls: int) -> None:
        """Calls of the proposer."""
        received = self._lengths.received(sort) * (1.0 if sort == "posterior" else self._proposed)
        self._spent.proposer.add(calls, self._lengths.sent(sort, self._prompt(sort, self._current)), received)

    def _add(self, sort: Sort, calls: float, instruction: float) -> None:
        self._spent.scorer.add(calls, self._lengths.sent(sort, instruction), self._lengths.received(sort))

    @staticmethod
    def _prompt(sort: Sort, prompts: tuple[float, ...]) -> float:
        return prompts[0 if sort in ("hidden", "weighed", "posterior", "hidden proposal") else 1]
