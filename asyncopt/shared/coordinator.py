"""What processes that share an account ask of the one place that knows of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from asyncopt.values import Dimension

BEAT_SECONDS = 0.5
DEAD_SECONDS = 2.0  # without a beat, after which nobody waits for a process any more
ANSWER_SECONDS = 1.0  # within which a coordinator answers, or does not


class SharingFailed(Exception):
    """The coordinator cannot be reached, or does not answer. Inside the ring only: whoever asks goes on alone."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Who else is there: so many ``workers`` are alive, the asking one included.

    ``pauses`` are the seconds that quotas are still to be left alone, by name, where somebody was told so.
    """

    workers: int
    pauses: Mapping[str, float]


class Coordinator(Protocol):
    """The state that processes share: by Redis, or by one of them behind a Unix socket.

    Every method raises :class:`SharingFailed` where nobody answers within a second. Its time is the coordinator's own,
    so that the clocks of machines do not matter.
    """

    async def take(self, quota: str, dimension: Dimension, amount: float, rate: float, bucket: float) -> float:
        """Seconds from now on after which these permits may be used; they are spent, whatever becomes of the caller.

        ``rate`` is in permits a second and is the whole account's; ``bucket`` permits may gather while nobody asks.
        """
        ...

    async def give_back(self, quota: str, dimension: Dimension, amount: float, rate: float) -> None:
        """Permits that were taken and not used are there for others."""
        ...

    async def pause(self, quota: str, seconds: float) -> None:
        """Grant nothing of this quota for so long, and say so to all."""
        ...

    async def beat(self, quotas: Sequence[str]) -> Beat:
        """This process is alive; who else is, and what is paused of these quotas."""
        ...

    async def claim(self, keys: Sequence[bytes]) -> list[bool]:
        """For each key whether this process is the one that answers it; another living one does where not.

        A claim ends with :meth:`release`, or with the process.
        """
        ...

    async def release(self, keys: Sequence[bytes]) -> None:
        """Somebody else may answer these."""
        ...

    async def aclose(self) -> None:
        """Leave: what was claimed is free, and one worker fewer is alive."""
        ...
