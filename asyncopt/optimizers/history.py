"""Everything that was tried: the history keeps all of it, the meta-prompt shows a view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any

from asyncopt import codec
from asyncopt.optimizers.comparing import Contender, comparable_scores

_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One decided candidate. ``step`` is -1 for a starting point, ``index`` its place in the step.

    ``score`` is None where nothing could be scored, and ``complete`` is False where some examples are missing: such an
    entry is ``partial``, and compared with others on common examples only. ``source`` says how the candidate was made.
    ``stopped`` counts the examples after which a race was lost: such an entry has no score. A ``provisional`` one is
    scored on a quorum of the examples, and gives way to the complete one when the late answers are there.
    """

    candidate: str
    score: float | None
    step: int
    index: int
    examples: int
    complete: bool = True
    source: str = ""
    stopped: int | None = None
    provisional: bool = False

    @property
    def partial(self) -> bool:
        """Whether some examples ended without a score, so that the score rests on the others."""
        return self.score is not None and not self.complete and not self.provisional


def row_of(entry: Entry) -> dict[str, Any]:
    """The entry as the journal holds it; what only some entries have is left out of the others."""
    row = asdict(entry)
    if entry.stopped is None:
        del row["stopped"]
    if not entry.provisional:
        del row["provisional"]
    return row


def entry_of(row: Mapping[str, Any]) -> Entry:
    """The entry in a journal's row."""
    return Entry(**{name: row[name] for name in Entry.__dataclass_fields__ if name in row})


class History:
    """Entries in the order in which they were added; ``maximize`` says which scores are better."""

    def __init__(self, *, maximize: bool, entries: Iterable[Entry] = ()) -> None:
        self.maximize = maximize
        self.commits = 0
        self._entries: list[Entry] = []
        self._places: dict[str, int] = {}
        self._scores: dict[str, Mapping[int, float]] = {}
        self._ranked: list[Entry] | None = None
        self._digest = b""
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, candidate: str) -> bool:
        return candidate in self._places

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    @property
    def unique(self) -> int:
        """How many different candidates were tried, starting points included."""
        return len(self._places)

    def entry(self, candidate: str) -> Entry | None:
        """The first entry of this candidate; None if it was not tried."""
        place = self._places.get(candidate)
        return None if place is None else self._entries[place]

    @property
    def digest(self) -> str:
        """A name for everything that was added, in its order."""
        return self._digest.hex()

    @property
    def scores(self) -> Mapping[str, Mapping[int, float]]:
        """The scores by example id of every candidate that was scored on examples; so far, where it is provisional."""
        return self._scores

    def add(self, entry: Entry, scores: Mapping[int, float] | None = None) -> None:
        """Take the entry in; it takes the place of a provisional one of the same candidate.

        ``scores`` are those of its examples by their ids. A partial entry without them is compared with nobody.
        """
        place = self._places.setdefault(entry.candidate, len(self._entries))
        if place < len(self._entries) and self._entries[place].provisional:
            self._entries[place] = entry
        else:
            self._entries.append(entry)
        if scores is not None:
            self._scores[entry.candidate] = scores
        self._ranked = None
        self.commits += 1
        self._digest = blake2b(self._digest + codec.dumps(row_of(entry)), digest_size=_DIGEST_BYTES).digest()

    def copy(self) -> History:
        """The history as it is now; what is added to one of the two does not show in the other."""
        twin = History(maximize=self.maximize)
        twin.commits, twin._digest = self.commits, self._digest
        twin._entries, twin._places = self._entries.copy(), self._places.copy()
        twin._scores = self._scores.copy()
        return twin

    def starting_points(self) -> History:
        """The part of the history that no search has found."""
        starts = History(maximize=self.maximize)
        for entry in self._entries:
            if entry.step < 0:
                starts.add(entry, self._scores.get(entry.candidate))
        return starts

    def _rank(self, entry: Entry) -> float:
        assert entry.score is not None
        return entry.score if self.maximize else -entry.score

    def ranked(self, *, provisional: bool = True) -> list[Entry]:
        """The entries that can be compared, from worst to best; equals by (step, index).

        A partial one stands with its comparable score (:mod:`asyncopt.optimizers.comparing`), behind complete ones of
        equal score. Provisional ones stand among them with what they have so far.
        """
        if self._ranked is None:
            self._ranked = self._in_order()
        return [entry for entry in self._ranked if provisional >= entry.provisional]

    def _in_order(self) -> list[Entry]:
        settled = [entry for entry in self._entries if entry.score is not None and not entry.provisional]
        so_far = [entry for entry in self._entries if entry.score is not None and entry.provisional]
        comparable = comparable_scores([self._contender(entry) for entry in settled], maximize=self.maximize)
        usable = [
            entry if entry.complete else replace(entry, score=score)
            for entry, score in zip(settled, comparable, strict=True)
            if score is not None
        ]
        # Not by when they came: a tie must not be broken by latencies.
        return sorted(
            usable + so_far, key=lambda entry: (self._rank(entry), not entry.partial, entry.step, entry.index)
        )

    def _contender(self, entry: Entry) -> Contender:
        assert entry.score is not None
        scores = self._scores.get(entry.candidate, {})
        return Contender(entry.score, entry.complete, scores, (entry.step, entry.index))

    def view(self, limit: int, threshold: float | None = None) -> list[Entry]:
        """The best ``limit`` entries, worst first: models weigh what stands last most (OPRO, section 5.3).

        Entries below the threshold are left out (maximizing only, as in the reference).
        """
        ranked = self.ranked()
        if threshold is not None:
            ranked = [entry for entry in ranked if self._rank(entry) >= threshold]
        return ranked[-limit:]

    def best(self) -> Entry | None:
        """The best entry as it was added, the earliest of equals and complete before partial; None if there is none."""
        ranked = self.ranked(provisional=False)
        if not ranked:
            return None
        top = ranked[-1]
        chosen = next(
            entry for entry in ranked if entry.partial == top.partial and self._rank(entry) == self._rank(top)
        )
        place = (chosen.candidate, chosen.step, chosen.index)
        return next(entry for entry in self._entries if (entry.candidate, entry.step, entry.index) == place)
