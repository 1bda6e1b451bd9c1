"""Rates for many takers: the generic cell rate algorithm (ITU-T I.371), which keeps one number for each of them.

That number is the theoretical arrival time, TAT: when all permits granted so far have been earned. Permits are granted
at once, for a time that may lie ahead, so that takers are served in their order and ask once. What a taker that dies
has taken is gone, and nothing need be remembered of it.
"""

from __future__ import annotations

from asyncopt.values import Dimension

FRESH_SECONDS = 0.25  # a bucket that nobody knows starts later by this much: grants made before a loss may be under way


def fresh_seconds(workers: int, amount: float, rate: float) -> float:
    """How much later a bucket starts that nobody knows, where each of so many may still wait for as much as this."""
    return FRESH_SECONDS + max(workers - 1, 0) * amount / rate


class Buckets:
    """The buckets of any number of quotas. Pure: ``now`` is given, in seconds of any one clock."""

    def __init__(self) -> None:
        self._tats: dict[tuple[str, str], float] = {}
        self._pauses: dict[str, float] = {}

    def take(
        self,
        now: float,
        quota: str,
        dimension: Dimension,
        amount: float,
        rate: float,
        bucket: float,
        fresh: float = FRESH_SECONDS,
    ) -> float:
        """Seconds from ``now`` on after which these permits may be used.

        A bucket that was never asked starts empty, and later by ``fresh``: who has lost the state must not give a burst
        away.
        """
        full = bucket / rate
        tat = self._tats.get((quota, dimension), now + full + fresh)
        tat = max(tat, now)
        paused = self._pauses.get(quota, now)
        if paused > now:
            tat = max(tat, paused + full)  # nothing gathers meanwhile
        tat += amount / rate
        self._tats[quota, dimension] = tat
        return max(tat - full - now, 0.0)

    def give_back(self, quota: str, dimension: Dimension, amount: float, rate: float) -> None:
        """Permits that were not used are there for others."""
        if (quota, dimension) in self._tats:
            self._tats[quota, dimension] -= amount / rate

    def pause(self, now: float, quota: str, seconds: float) -> None:
        """Grant nothing of this quota for so long."""
        self._pauses[quota] = max(self._pauses.get(quota, now), now + seconds)

    def paused(self, now: float, quota: str) -> float:
        """Seconds for which nothing is granted of this quota."""
        return max(self._pauses.get(quota, now) - now, 0.0)
