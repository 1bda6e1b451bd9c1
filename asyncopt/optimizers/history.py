"""Everything that was tried: the history keeps all of it, the meta-prompt shows a view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from asyncopt import codec

_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One decided candidate. ``step`` is -1 for a starting point, ``index`` its place in the step.

    ``score`` is None where nothing could be scored, and ``complete`` is False where some examples are missing: such an
    entry is not compared with complete ones. ``source`` says how the candidate was made. ``stopped`` counts the
    examples after which a race was lost: such an entry has no score. A ``provisional`` one is scored on a quorum of the
    examples, and gives way to the complete one when the late answers are there.
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

    @property
    def digest(self) -> str:
        """A name for everything that was added, in its order."""
        return self._digest.hex()

    def add(self, entry: Entry) -> None:
        """Take the entry in; it takes the place of a provisional one of the same candidate."""
        place = self._places.setdefault(entry.candidate, len(self._entries))
        if place < len(self._entries) and self._entries[place].provisional:
            self._entries[place] = entry
        else:
            self._entries.append(entry)
        self.commits += 1
        self._digest = blake2b(self._digest + codec.dumps(row_of(entry)), digest_size=_DIGEST_BYTES).digest()

    def copy(self) -> History:
        """The history as it is now; what is added to one of the two does not show in the other."""
        twin = History(maximize=self.maximize)
        twin.commits, twin._digest = self.commits, self._digest
        twin._entries, twin._places = self._entries.copy(), self._places.copy()
        return twin

    def _rank(self, entry: Entry) -> float:
        assert entry.score is not None
        return entry.score if self.maximize else -entry.score

    def ranked(self, *, provisional: bool = True) -> list[Entry]:
        """The complete entries from worst to best, and the provisional ones among them; equals by (step, index).

        Where not one is complete (an example that is always refused), those that rest on the most examples stand in.
        """
        scored = [entry for entry in self._entries if entry.score is not None and provisional >= entry.provisional]
        most = max((entry.examples for entry in scored), default=0)
        usable = [entry for entry in scored if entry.complete or entry.provisional]
        usable = usable or [entry for entry in scored if entry.examples == most]
        # Not by when they came: a tie must not be broken by latencies.
        return sorted(usable, key=lambda entry: (self._rank(entry), entry.step, entry.index))

    def view(self, limit: int, threshold: float | None = None) -> list[Entry]:
        """The best ``limit`` entries, worst first: models weigh what stands last most (OPRO, section 5.3).

        Entries below the threshold are left out (maximizing only, as in the reference).
        """
        ranked = self.ranked()
        if threshold is not None:
            ranked = [entry for entry in ranked if self._rank(entry) >= threshold]
        return ranked[-limit:]

    def best(self) -> Entry | None:
        """The best complete entry, the earliest of equals; None where there is none."""
        ranked = self.ranked(provisional=False)
        if not ranked:
            return None
        top = self._rank(ranked[-1])
        return next(entry for entry in ranked if self._rank(entry) == top)
