"""How long an answer is waited for: long enough for any that was seen, and not ten minutes for one that is lost.

Learned from the longest answer rather than from a quantile: an answer that is cut off may be paid for, and a lost one
costs only time. For the same reason the first attempt alone is cut short by what was learned; each further one of the
same call has four times as long, up to the model's own timeout.
"""

from __future__ import annotations

SHORTEST = 60.0
FACTOR = 4.0
ENOUGH = 50  # answers, before which the model's own timeout is all there is


class Patience:
    """What is known of how long answers take, and how long they were allowed to be. Pure."""

    __slots__ = ("_answers", "_largest", "_longest")

    def __init__(self) -> None:
        self._answers = 0
        self._longest = self._largest = 0.0

    def served(self, seconds: float, tokens: float) -> None:
        """An answer that was allowed so many tokens took so long."""
        self._answers += 1
        if seconds > self._longest:
            self._longest = seconds
        if tokens > self._largest:
            self._largest = tokens

    def limit(self, tokens: float, timeout: float, cut: int) -> float:
        """Seconds for an attempt that may take so many tokens, of a call that was cut off ``cut`` times before."""
        if self._answers < ENOUGH or tokens > self._largest:
            return timeout
        return float(min(max(SHORTEST, FACTOR * self._longest) * FACTOR**cut, timeout))
