"""Texts as labels: what a server calls its models must neither break nor fill whatever collects the figures."""

from __future__ import annotations

from asyncopt.codec import printable

LONGEST = 80  # characters
MOST = 100  # different labels of one kind
OTHER = "_OTHER"


class Labels:
    """Texts of one kind as labels: printable, on one line, at most 80 characters, and at most 100 different ones."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, text: str) -> str:
        """The label for this text; ``_OTHER`` from the hundred-and-first on."""
        known = self._known.get(text)
        if known is not None:
            return known
        if len(self._known) >= MOST:
            return OTHER
        return self._known.setdefault(text, printable(text, LONGEST))
