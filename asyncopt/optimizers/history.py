"""Everything that was tried: the history keeps all of it, the meta-prompt shows a view."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One scored candidate. ``step`` is -1 for a starting point, ``index`` its place in the step.

    ``score`` is None where nothing could be scored, and ``complete`` is False where some examples are missing: such an
    entry is not compared with complete ones. ``source`` says how the candidate was made.
    """

    candidate: str
    score: float | None
    step: int
    index: int
    examples: int
    complete: bool = True
    source: str = ""


class History:
    """Entries in the order of (step, index); ``maximize`` says which scores are better."""

    def __init__(self, *, maximize: bool, entries: Iterable[Entry] = ()) -> None:
        self.maximize = maximize
        self._entries: list[Entry] = []
        self._candidates: set[str] = set()
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, candidate: str) -> bool:
        return candidate in self._candidates

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    @property
    def unique(self) -> int:
        """How many different candidates were tried, starting points included."""
        return len(self._candidates)

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._candidates.add(entry.candidate)

    def _rank(self, entry: Entry) -> float:
        assert entry.score is not None
        return entry.score if self.maximize else -entry.score

    def ranked(self) -> list[Entry]:
        """The complete entries from worst to best; equals stay in the order of (step, index).

        Where not one is complete (an example that is always refused), those that rest on the most examples stand in.
        """
        scored = [entry for entry in self._entries if entry.score is not None]
        most = max((entry.examples for entry in scored), default=0)
        usable = [entry for entry in scored if entry.complete] or [entry for entry in scored if entry.examples == most]
        return sorted(usable, key=self._rank)

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
        ranked = self.ranked()
        if not ranked:
            return None
        top = self._rank(ranked[-1])
        return next(entry for entry in ranked if self._rank(entry) == top)
