"""When a member of a pool is left out, and for how long: outlier ejection with Envoy's usual numbers.

Five failures in a row, or a connection that cannot be made, put a member out for 30 s times the number of ejections so
far, at most for 300 s. Each 30 s in service takes one ejection off that number. A member that comes back is out again
at its first failure. One that comes back early, because the others fail as well, is out for no longer time then.
"""

from __future__ import annotations

CONSECUTIVE = 5
EJECTED_SECONDS, LONGEST_EJECTED = 30.0, 300.0


class Health:
    """One member's record. Pure; times are given. ``out`` from an ejection until a later call was answered.

    ``early`` is it where it may be asked again before its time, and has not failed since.
    """

    __slots__ = ("_back_at", "_ejected_at", "_times", "early", "in_a_row", "out")

    def __init__(self) -> None:
        self.in_a_row = 0
        self.out = False
        self.early = False
        self._times = 0
        self._back_at = 0.0
        self._ejected_at = float("-inf")

    def answered(self, started: float, now: float) -> None:
        """A call that started then got an answer, be it a refusal."""
        if not self.out:
            self.in_a_row = 0
        elif started > self._ejected_at:
            self.out, self.early, self.in_a_row, self._back_at = False, False, 0, now

    def failed(self, started: float, *, dead: bool) -> bool:
        """A call that started then got none; whether that is enough to put the member out."""
        if started <= self._ejected_at:
            return False  # it was on its way then, and says nothing new
        self.in_a_row += 1
        return dead or self.out or self.in_a_row >= CONSECUTIVE

    def take_back(self) -> None:
        """Let it be asked again before its time: an ejection after that is not one more."""
        self.early = self.out

    def eject(self, now: float) -> float:
        """Put the member out; for how many seconds."""
        if not self.early:
            served = 0.0 if self.out else now - self._back_at
            self._times = int(max(self._times - served // EJECTED_SECONDS, 0)) + 1
        self.out, self._ejected_at, self.early = True, now, False
        return min(EJECTED_SECONDS * self._times, LONGEST_EJECTED)
