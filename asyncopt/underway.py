"""What batches of one engine are going to answer, so that no second one is submitted for the same question."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class Underway:
    """The keys that are in a batch, or about to be. Calls do not look here: they cannot wait for hours."""

    def __init__(self) -> None:
        self._ends: dict[bytes, asyncio.Event] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._ends

    def begin(self, keys: Iterable[bytes]) -> None:
        """Somebody has these answered from now on."""
        for key in keys:
            self._ends.setdefault(key, asyncio.Event())

    def end(self, keys: Iterable[bytes]) -> None:
        """Nobody has them answered any more: they are in the cache, or somebody else may ask."""
        for key in keys:
            if (end := self._ends.pop(key, None)) is not None:
                end.set()

    async def wait(self, keys: Iterable[bytes]) -> None:
        """Return when none of these is underway that was so when this began."""
        for end in [self._ends[key] for key in keys if key in self._ends]:
            await end.wait()
