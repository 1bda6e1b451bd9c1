"""What a coordinator remembers: buckets, who is alive, what is paused, and who answers which question."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt.shared.coordinator import DEAD_SECONDS, Beat
from asyncopt.shared.gcra import Buckets


class Board:
    """The state behind a coordinator. Pure: ``now`` is given, in seconds of any one clock.

    ``buckets`` are asked directly; a worker is any text that no other one has.
    """

    def __init__(self) -> None:
        self.buckets = Buckets()
        self._alive: dict[str, float] = {}  # until when
        self._claims: dict[bytes, str] = {}

    def beat(self, now: float, worker: str, quotas: Sequence[str]) -> Beat:
        """The worker is alive; how many are, and for how long these quotas are paused."""
        self._alive[worker] = now + DEAD_SECONDS
        self._alive = {one: until for one, until in self._alive.items() if until > now}
        paused = {quota: self.buckets.paused(now, quota) for quota in quotas}
        return Beat(len(self._alive), {quota: seconds for quota, seconds in paused.items() if seconds > 0})

    def claim(self, now: float, worker: str, keys: Sequence[bytes]) -> list[bool]:
        """For each key whether it is this worker's now; what a dead one had is free."""
        granted = []
        for key in keys:
            owner = self._claims.get(key, worker)
            ours = owner == worker or self._alive.get(owner, now) <= now
            if ours:
                self._claims[key] = worker
            granted.append(ours)
        return granted

    def release(self, worker: str, keys: Sequence[bytes]) -> None:
        """These are free again, as far as they were this worker's."""
        for key in keys:
            if self._claims.get(key) == worker:
                del self._claims[key]

    def leave(self, worker: str) -> None:
        """The worker is gone, and all that it had claimed is free."""
        self._alive.pop(worker, None)
        self._claims = {key: owner for key, owner in self._claims.items() if owner != worker}
