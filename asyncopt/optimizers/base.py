"""What an optimizer is, and all that it sees of the world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from random import Random
from typing import Any, Protocol, TypeAlias

from asyncopt.engine import Model
from asyncopt.errors import ConfigError
from asyncopt.evaluation import Program
from asyncopt.optimizers.comparing import Contender, comparable_scores
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.lost import Proposals
from asyncopt.optimizers.script import Script
from asyncopt.racing import Floor
from asyncopt.tasks.objective import Objective
from asyncopt.tasks.task import Task

State: TypeAlias = Mapping[str, Any]  # a plain value that JSON can hold
AnyTask: TypeAlias = Task | Objective


def derived_seed(seed: int, step: int, purpose: str, index: int = 0) -> int:
    """A 31-bit seed for one choice, from (seed, step, purpose, index) and nothing else.

    So no choice depends on what arrived first, and a resumed study makes the same ones.
    """
    digest = blake2b(f"{seed}:{step}:{purpose}:{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, slots=True)
class Seen:
    """What the proposals of a step see: the history when the step began."""

    step: int
    history: History

    @property
    def by_candidate(self) -> Mapping[str, Mapping[int, float]]:
        """The scores by example id of every entry that was scored on examples."""
        return self.history.scores

    @property
    def scores(self) -> Mapping[int, float]:
        """The best entry's scores by example id."""
        best = self.history.best()
        return {} if best is None else self.by_candidate.get(best.candidate, {})


class Score(Protocol):
    """Evaluates a candidate on the training examples; safe to call concurrently.

    With a ``floor`` the entry may come back stopped. With a ``quorum`` (a share of the examples) ``on_quorum`` is given
    the provisional entry as soon as so many have ended; the complete one is returned all the same.
    """

    def __call__(
        self,
        candidate: str,
        step: int,
        index: int,
        source: str,
        *,
        floor: Floor | None = None,
        quorum: float | None = None,
        on_quorum: Callable[[Entry], None] | None = None,
    ) -> Awaitable[Entry]: ...


@dataclass(frozen=True, slots=True)
class Validated:
    """A candidate's score on the validation examples; ``score`` is None where not one could be scored.

    ``scores`` are in the order of the examples, None where there is none; ``problems`` says why not, by example id.
    """

    candidate: str
    score: float | None
    examples: int
    complete: bool
    scores: Sequence[float | None] = ()
    problems: Mapping[str, str] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """The plain value that the journal holds."""
        row = asdict(self)
        if not self.problems:
            del row["problems"]
        return row

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Validated:
        """What :meth:`to_row` gave; older journals have no ``scores``."""
        return cls(**{**row, "scores": tuple(row.get("scores", ()))})


def comparable(validations: Mapping[int, Sequence[Validated]]) -> list[Validated]:
    """Those of all steps whose scores can be compared, in order, incomplete ones with their comparable scores.

    The rule is that of :meth:`History.ranked` (:mod:`asyncopt.optimizers.comparing`).
    """
    scored = [
        (one, (step, index))
        for step in sorted(validations)
        for index, one in enumerate(validations[step])
        if one.score is not None
    ]
    scores = comparable_scores([_contender(one, place) for one, place in scored])
    return [replace(one, score=score) for (one, _), score in zip(scored, scores, strict=True) if score is not None]


def _contender(one: Validated, place: tuple[int, int]) -> Contender:
    assert one.score is not None
    scores = {example: score for example, score in enumerate(one.scores) if score is not None}
    return Contender(one.score, one.complete, scores, place)


@dataclass
class Search:
    """One study as its optimizer sees it: models by role, the task, the history, and a seed. No file, no clock.

    The task is without its test examples: they are asked once, when the search is over.

    The decisions of a search, each journalled when it is made and by one caller at a time: ``begin_step`` gives what
    the step's proposals see; ``commit`` makes one entry part of the history; ``finish_step`` makes the step's entries
    that are not in it yet part of it, in the order given, and them and ``state`` durable; ``finish_validation`` keeps
    what ``validate`` gave for a step. ``validations`` has that of all steps so far.

    Where a study goes on, ``restored`` is the state of the last finished step, and ``unfinished`` are the steps that
    had begun. A ``script`` holds the decisions of an earlier run that are to be made again. ``note`` tells people
    something; ``trace`` keeps what a proposal was made of, where the study is traced. An optimizer that asks for
    proposals tells ``proposals`` what became of each call.
    """

    task: AnyTask
    history: History
    seed: int
    score: Score
    begin_step: Callable[[int], Seen]
    commit: Callable[[Entry], None]
    finish_step: Callable[[int, list[Entry], State], Awaitable[None]]
    validate: Callable[[Sequence[str]], Awaitable[list[Validated]]]
    finish_validation: Callable[[int, list[Validated]], Awaitable[None]]
    validations: Mapping[int, Sequence[Validated]]
    proposer: Model | None = None
    scorer: Model | None = None
    restored: State | None = None
    unfinished: Sequence[Seen] = ()
    script: Script | None = None
    note: Callable[[str], None] = field(default=lambda _: None)
    proposals: Proposals = field(default_factory=Proposals)
    trace: Callable[[str, Mapping[str, Any]], None] = field(default=lambda _kind, _data: None)

    def rng(self, step: int, purpose: str, index: int = 0) -> Random:
        """A generator for one choice."""
        return Random(derived_seed(self.seed, step, purpose, index))

    def require_proposer(self) -> Model:
        """The model that is asked for proposals; raises :class:`ConfigError` where there is none."""
        if self.proposer is None:
            raise ConfigError("this optimizer asks a model for proposals; name one with --proposer or proposer=")
        return self.proposer


class Optimizer(Protocol):
    """Proposes candidates and learns from their scores. Talks to models, a task and its own seed; nothing else.

    One with steps leaves the order of things to :func:`asyncopt.optimizers.steps.run_steps`.
    """

    @property
    def name(self) -> str:
        """What it is called, in the manifest and in run directories' names."""
        ...

    @property
    def steps(self) -> int:
        """How many steps a whole search has."""
        ...

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        """Raise :class:`ConfigError` if this task or these models cannot be used, before any call."""
        ...

    def program(self, task: AnyTask) -> Program:
        """How this optimizer's candidates answer an example."""
        ...

    async def run(self, search: Search) -> None:
        """Search until the last step has ended; what was found is in the search's history."""
        ...
