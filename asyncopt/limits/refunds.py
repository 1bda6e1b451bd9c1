"""Whether a server gives back the tokens that a call asked for and did not use, found out from its headers."""

from __future__ import annotations

_ENOUGH = 2.0  # times the largest remainder: so much must have been left unused until it can be said
_NEARLY_FULL = 0.9
_SHARE = 0.3


class Refunds:
    """``given`` is None until it is known. Pure; told what calls did not use, and what headers say is left.

    Between two answers the remainder rises by the rate and falls by what was spent. If it is higher than that by what
    was not used, that came back. A bucket that runs over hides a part of it, so that one which was full in between
    can say that something came back, but not that nothing did.
    """

    __slots__ = ("_anchor", "_unused", "_was_full", "given")

    def __init__(self) -> None:
        self.given: bool | None = None
        self._unused = 0.0
        self._was_full = False
        self._anchor: tuple[float, float, float, float] | None = None

    def unused(self, amount: float) -> None:
        """A call has left so many permits unused."""
        self._unused += amount

    def saw(self, remaining: float, spent: float, at: float, rate: float, full: float) -> None:
        """At that time ``remaining`` was left, and ``spent`` had been spent in all."""
        self._was_full = self._was_full or remaining >= _NEARLY_FULL * full
        if self._anchor is None:
            self._anchor = (remaining, spent, at, self._unused)
            return
        before, spent_before, since, unused_before = self._anchor
        unused = self._unused - unused_before
        if unused < _ENOUGH * full:
            return
        surplus = remaining - before - rate * (at - since) + (spent - spent_before)
        if surplus > _SHARE * unused:
            self.given = True
        elif not self._was_full:
            self.given = False
        self._anchor, self._was_full = None, False
