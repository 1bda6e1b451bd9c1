"""What batches are going to answer, so that no second one is submitted for the same question."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b

from asyncopt.shared import Coordinator, SharingFailed


class Underway:
    """The keys that are in a batch, or about to be. Calls do not look here: they cannot wait for hours.

    Studies of one engine see each other's at once; processes with a coordinator claim theirs, apart from calls' claims.
    """

    def __init__(self, coordinator: Coordinator | None = None) -> None:
        self._ends: dict[bytes, asyncio.Event] = {}
        self._coordinator = coordinator

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

    async def claim(self, keys: Sequence[bytes]) -> list[bool]:
        """For each key whether this process is the one that has it answered in a batch; each, if it is on its own."""
        with suppress(SharingFailed):  # the shares of quotas tell of it; until it is back everybody asks
            if self._coordinator is not None and keys:
                return await self._coordinator.claim([_in_batches(key) for key in keys])
        return [True] * len(keys)

    async def release(self, keys: Sequence[bytes]) -> None:
        """Other processes may have these answered; what is answered must be in the cache by then."""
        with suppress(SharingFailed):  # claims end with the process, if not before
            if self._coordinator is not None and keys:
                await self._coordinator.release([_in_batches(key) for key in keys])

    async def wait(self, keys: Iterable[bytes]) -> None:
        """Return when none of these is underway that was so when this began."""
        for end in [self._ends[key] for key in keys if key in self._ends]:
            await end.wait()


def _in_batches(key: bytes) -> bytes:
    """What is claimed for it: a call with the same key is not to wait for a batch."""
    return blake2b(key, digest_size=len(key), person=b"batch").digest()
