"""What a run consists of, as its journal has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

_WORDS_COMPARED = 400  # of a text: who looks for the nearest one must not wait for a megabyte


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate and what it is worth on the training examples; ``step`` is -1 for a starting point.

    ``score`` is a share of right answers from 0 to 1, or the loss where no model scores; None where there is none.
    ``examples`` is what it rests on; a ``partial`` one lacks examples that ended without a score, a ``provisional`` one
    rests on a quorum, and a ``stopped`` one lost its race after so many. ``scores`` are those of the training examples
    in their order, None where there is none, and ``problems`` says why not, by the number of the example; ``scores`` is
    None where no model scores, and in older runs. ``parents`` are what it was made from, where the optimizer makes it
    from a few candidates and the run was traced. Else they are the best candidates, best first, that the history held
    when the proposals of its step were asked for: what OPRO's meta-prompt shows. ``record`` is the number of the
    journal's record with which it joined the history.
    """

    candidate: str
    step: int
    index: int
    source: str
    score: float | None
    examples: int
    complete: bool = True
    partial: bool = False
    stopped: int | None = None
    provisional: bool = False
    scores: tuple[float | None, ...] | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    record: int = 0

    @property
    def outcomes(self) -> tuple[str, ...]:
        """How each of the training examples ended, in the order of ``scores``: ``scored``, ``refused``, and so on."""
        return outcomes(self.scores or (), self.problems)

    @property
    def closest(self) -> str | None:
        """The parent whose words are most like this candidate's (difflib's ratio); None without parents.

        A guess at what it was made from, for people who compare texts; no model was asked.
        """
        words = {parent: parent.split()[:_WORDS_COMPARED] for parent in self.parents}
        return _nearest(self.candidate.split()[:_WORDS_COMPARED], words)


def _nearest(words: list[str], others: Mapping[str, list[str]]) -> str | None:
    # difflib compares any sequences of hashable things; words are fewer than characters, and what people read.
    found = get_close_matches(words, list(others.values()), n=1, cutoff=0.0)
    return next((text for text, other in others.items() if found and other == found[0]), None)


def outcomes(scores: Sequence[float | None], problems: Mapping[str, str]) -> tuple[str, ...]:
    """How each example ended: what has no score and no problem was withdrawn, because it was not needed any more.

    Problems go by the numbers of the examples, which no journal has for the others: where some were withdrawn, those
    without a score cannot be told apart, and are called ``unscored``.
    """
    without = sum(score is None for score in scores)
    told = len(problems) == without
    labels = iter(problems.values() if told else ["unscored" if problems else "withdrawn"] * without)
    return tuple("scored" if score is not None else next(labels) for score in scores)


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step: the best candidate and score so far, and what the optimizer knew at its end (``state``)."""

    step: int
    best: str | None
    best_score: float | None
    state: Mapping[str, Any]
    record: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What the run had taken when the journal's record of this number was written, in all sittings; ``usd`` counts
    only models whose price was stated, ``seconds`` is the time that it ran.
    """

    record: int
    calls: int
    hits: int
    tokens: int
    usd: float
    seconds: float
