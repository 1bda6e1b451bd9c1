"""What a candidate is worth beside the others where some examples have no score: it is compared on common ones only.

A mean over other examples is another quantity: where a hard example failed, it is too high. So an incomplete candidate
is held against one reference, example by example, and its worth is the reference's score and the mean difference to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

_LEAST_COMMON = 0.5  # the share of the reference's examples below which the difference says too little


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate with a score: the mean of ``scores``, which are by example id.

    ``complete`` says that no example is missing. ``place`` orders equals. Where the best complete one has no
    ``scores``, as in objectives, nothing incomplete can be compared.
    """

    score: float
    complete: bool
    scores: Mapping[int, float]
    place: tuple[int, int]


def comparable_scores(contenders: Sequence[Contender], *, maximize: bool = True) -> list[float | None]:
    """Scores that can be compared with each other, in the same order; None for what shares too little to be compared.

    A complete contender keeps its own. An incomplete one is compared with the best complete one on the examples that
    both have, if those are at least half of the reference's. Where nobody is complete (an example that is always
    refused), the reference is who has the most examples. Of equals the earliest is the reference, so that nothing
    depends on an order of arrival.
    """
    if all(one.complete for one in contenders):
        return [one.score for one in contenders]
    reference = _reference(contenders, maximize=maximize)
    return [one.score if one.complete else _beside(reference, one) for one in contenders]


def _reference(contenders: Iterable[Contender], *, maximize: bool) -> Contender:
    contenders = list(contenders)
    complete = [one for one in contenders if one.complete]
    sign = -1.0 if maximize else 1.0
    if complete:
        return min(complete, key=lambda one: (sign * one.score, one.place))
    return min(contenders, key=lambda one: (-len(one.scores), one.place))


def _beside(reference: Contender, one: Contender) -> float | None:
    """The score of an incomplete contender, made comparable with the reference's."""
    if not one.scores:
        return None
    common = reference.scores.keys() & one.scores.keys()
    known = len(reference.scores)
    if not common or len(common) < _LEAST_COMMON * known:
        return None
    if len(common) == len(one.scores) == known:
        return one.score
    total = fsum(reference.scores.values())
    gained = fsum(one.scores[example] - reference.scores[example] for example in common)
    # One division of what are whole numbers where grades are 0 or 1: equal worth is then equal to the last bit.
    return (total * len(common) + gained * known) / (known * len(common))
