"""Two guards against a server that fails: a breaker that stops asking, and a budget for asking again.

The breaker's numbers are those of the usual service meshes; the budget's are Finagle's (a fifth of recent requests and
ten a second). Pure: times are given.
"""

from __future__ import annotations

from collections import deque

CONSECUTIVE = 10
SHARE, LEAST, WINDOW = 0.5, 20, 30.0
FIRST_OPEN, LONGEST_OPEN = 5.0, 120.0
GIVEN_UP_SECONDS, GIVEN_UP_FAILURES = 900.0, 5
UNREACHED_SECONDS = 30.0

RETRY_SHARE = 0.2
RETRIES_A_SECOND = 10.0
RETRY_MEMORY = 10.0


class Breaker:
    """Opens after 10 failures in a row, or over half of at least 20 attempts in 30 s; for 5 s, doubling to 120 s."""

    __slots__ = ("_failed", "_in_a_row", "_open_for", "_opened_at", "_outcomes", "_row_began", "half_open")

    def __init__(self) -> None:
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failed = self._in_a_row = 0
        self._row_began = 0.0
        self._open_for = FIRST_OPEN
        self._opened_at = float("-inf")
        self.half_open = False  # since it opened, nothing has been served

    def served(self, now: float) -> None:
        """An attempt was answered; called for every answer only while anything has failed lately."""
        self._in_a_row = 0
        if self.half_open:
            self.half_open = False
            self._open_for = FIRST_OPEN
            self._outcomes.clear()
            self._failed = 0
        elif self._failed:
            self._note(now, failed=False)

    @property
    def watching(self) -> bool:
        """Whether successes have to be counted too."""
        return self.half_open or self._failed > 0

    def failed(self, now: float, started: float) -> float:
        """An attempt that started then failed in passing; seconds for which nothing should start, 0.0 for none."""
        if started <= self._opened_at:
            return 0.0  # it was on its way when the breaker opened, and says nothing new
        if not self._in_a_row:
            self._row_began = started
        self._in_a_row += 1
        self._note(now, failed=True)
        many = len(self._outcomes) >= LEAST and self._failed > SHARE * len(self._outcomes)
        if not self.half_open and self._in_a_row < CONSECUTIVE and not many:
            return 0.0
        wait, self._open_for = self._open_for, min(2 * self._open_for, LONGEST_OPEN)
        self.half_open = True
        self._opened_at = now
        return wait

    def given_up(self, now: float, *, reached: bool = True) -> float:
        """Seconds since anything was served, if that is a quarter of an hour and some attempts long; else 0.0.

        Half a minute is enough for a server that was never ``reached``: its address is wrong, or it was not started.
        """
        waited = now - self._row_began
        longest = GIVEN_UP_SECONDS if reached else UNREACHED_SECONDS
        return waited if self._in_a_row >= GIVEN_UP_FAILURES and waited >= longest else 0.0

    def forgive(self, seconds: float) -> None:
        """Time in which nothing was to be asked does not count."""
        self._row_began += seconds

    def _note(self, now: float, *, failed: bool) -> None:
        self._outcomes.append((now, failed))
        self._failed += failed
        while self._outcomes and self._outcomes[0][0] < now - WINDOW:
            self._failed -= self._outcomes.popleft()[1]


class RetryBudget:
    """How soon a failed call may be tried again: a fifth of recent attempts, and ten a second."""

    __slots__ = ("_seen", "_tokens", "_updated")

    def __init__(self) -> None:
        self._tokens = RETRIES_A_SECOND * RETRY_MEMORY
        self._updated = float("-inf")
        self._seen = 0

    def wait(self, now: float, attempts: int) -> float:
        """Seconds until another retry is affordable, and takes it; ``attempts`` is how many there were in all."""
        earned = RETRY_SHARE * (attempts - self._seen)
        if self._updated > float("-inf"):
            earned += RETRIES_A_SECOND * (now - self._updated)
        self._seen, self._updated = attempts, now
        self._tokens = min(self._tokens + earned, RETRIES_A_SECOND * RETRY_MEMORY) - 1
        return max(-self._tokens, 0.0) / RETRIES_A_SECOND
