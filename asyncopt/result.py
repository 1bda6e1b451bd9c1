"""What a study found and what it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from asyncopt.notebook import html_table
from asyncopt.stats import Verdict, paired_grades, verdict, wilson_interval

Part = TypeVar("Part")

_OF_OBJECTIVES = ("start", "optimum_loss", "unique_pairs", "solved", "unique_tours", "gap", "baselines")


@dataclass(frozen=True, slots=True)
class Measured:
    """A share of right answers: ``correct`` of ``n``, with the 95 % Wilson interval [``low``, ``high``]."""

    score: float
    correct: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, correct: float, n: int) -> Measured | None:
        if n == 0:
            return None
        return cls(correct / n, correct, n, *wilson_interval(correct, n))


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate with its score on the training examples, and on held-out ones that the search never saw.

    ``validation`` is its score on the validation examples where the search used some. A ``partial`` one lacks training
    examples that ended without a score: it was compared with others on common ones, and ``train`` is of what it has.
    """

    candidate: str
    step: int
    source: str
    train: Measured | None
    held_out: Measured | None
    loss: float | None = None
    validation: Measured | None = None
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Spending:
    """What one part of a study took."""

    calls: int
    cache_hits: int
    input_tokens: int
    output_tokens: int
    usd: float

    def less(self, part: Spending) -> Spending:
        """What was spent beyond that part."""
        return Spending(*(getattr(self, name) - getattr(part, name) for name in Spending.__slots__))


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much the best candidate's held-out score is above the initial one's, on the ``n`` examples of both.

    ``low`` and ``high`` are the ends of the 95 % interval of the paired difference, ``p`` is two-sided, and the
    ``verdict`` on the best candidate is by that, at 5 %. It is about these two on new examples, not about other seeds.
    """

    n: int
    difference: float
    low: float
    high: float
    p: float
    verdict: Verdict

    @classmethod
    def of(cls, initial: Mapping[int, float], best: Mapping[int, float]) -> Gain | None:
        """The gain, given the grades by the example's number; None without examples of both, or for grades beyond 1."""
        pairs = [(initial[number], best[number]) for number in sorted(initial.keys() & best.keys())]
        if not pairs or not all(0 <= grade <= 1 for pair in pairs for grade in pair):
            return None
        difference, low, high, _, _, p = paired_grades(pairs)
        return cls(len(pairs), difference, low, high, p, verdict(difference, p))


@dataclass(frozen=True)
class Result:
    """What a study found and what it took. ``steps`` counts finished steps; ``calls`` requests sent, retries included.

    ``unscored`` counts examples of the best and the initial candidate that ended without a score, ``stopped`` the
    candidates that lost a race and have none. ``possibly_billed_tokens`` is a bound on what was sent without an answer
    coming back, and is in no other sum: the provider may have billed it. ``search`` is what the search took of all this
    (training and validation examples, proposals), ``test`` what the held-out examples took afterwards.

    ``outcomes`` counts how the examples of all candidates ended, on all folds that they were asked on: ``scored``,
    ``refused``, ``failed:transient`` and so on; None for problems that no model scores, and of older versions.
    ``lost_proposals`` counts the calls for proposals that failed for good. ``gain`` is what the search has gained over
    the initial candidate; None where it kept that one.

    The fields from ``start`` on are for problems that no model scores, and None elsewhere: the starting points with
    their losses, the lowest loss there is, how many different solutions were tried, whether the best one is the
    optimum; for tours, how far it is above the optimum in percent, and the lengths that heuristics reach.
    """

    task: str
    optimizer: str
    seed: int
    best: Scored | None
    initial: Scored | None
    steps: int
    calls: int
    cache_hits: int
    input_tokens: int
    output_tokens: int
    tokens: int
    usd: float | None
    seconds: float
    unscored: int = 0
    stopped: int = 0
    possibly_billed_tokens: int = 0
    outcomes: dict[str, int] | None = None
    lost_proposals: int = 0
    search: Spending | None = None
    test: Spending | None = None
    gain: Gain | None = None
    start: list[list[Any]] | None = None
    optimum_loss: float | None = None
    unique_pairs: int | None = None
    solved: bool | None = None
    unique_tours: int | None = None
    gap: float | None = None
    baselines: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain value, without the fields that do not apply to the task."""
        plain = asdict(self)
        for name in _OF_OBJECTIVES:
            if plain[name] is None:
                del plain[name]
        return plain

    def _repr_html_(self) -> str:
        rows = [("task", self.task), ("optimizer", f"{self.optimizer}, seed {self.seed}")]
        for title, scored in (("initial", self.initial), ("best", self.best)):
            if scored is not None:
                rows += [(title, scored.candidate), (f"{title} is worth", _worth(scored))]
        cost = "" if self.usd is None else f", ${self.usd:.4f}"
        rows.append(
            ("took", f"{self.steps} steps, {self.calls} calls, {self.tokens} tokens{cost}, {self.seconds:.1f} s")
        )
        return html_table("Result", rows)


def _worth(scored: Scored) -> str:
    if scored.loss is not None:
        return f"loss {scored.loss:.4g}"
    shares = (("train", scored.train), ("validation", scored.validation), ("held out", scored.held_out))
    return ", ".join(
        f"{name} {part.score:.3f} of {part.n} (95 %: {part.low:.3f} to {part.high:.3f})"
        for name, part in shares
        if part is not None
    )


def result_of(data: Mapping[str, Any]) -> Result:
    """The result in a journal's last record; what an older version did not write is None."""

    def scored(value: Mapping[str, Any] | None) -> Scored | None:
        if value is None:
            return None
        names = ("train", "held_out", "validation")
        return Scored(**{**value, **{name: _built(Measured, value.get(name)) for name in names}})

    parts: dict[str, Any] = {name: _built(Spending, data.get(name)) for name in ("search", "test")}
    parts["gain"] = _built(Gain, data.get("gain"))
    return Result(**{**data, **parts, "best": scored(data["best"]), "initial": scored(data["initial"])})


def _built(kind: Callable[..., Part], value: Mapping[str, Any] | None) -> Part | None:
    return None if value is None else kind(**value)
