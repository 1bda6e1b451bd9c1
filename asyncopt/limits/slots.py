"""How many calls may be in flight at once."""

from __future__ import annotations

DEFAULT_CONCURRENCY = 32


class Slots:
    """A fixed number of places; a call holds one from its start to its answer, and never while it waits."""

    __slots__ = ("in_use", "limit")

    def __init__(self, limit: int | None) -> None:
        self.limit = DEFAULT_CONCURRENCY if limit is None else limit
        self.in_use = 0

    @property
    def free(self) -> bool:
        return self.in_use < self.limit

    def take(self) -> None:
        self.in_use += 1

    def release(self) -> None:
        self.in_use -= 1
