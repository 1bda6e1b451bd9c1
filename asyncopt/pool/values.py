"""What a pool is made of, as its user states it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from asyncopt.endpoints.protocol import Endpoint
from asyncopt.errors import ConfigError
from asyncopt.values import Capabilities, Quota

_NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class Member:
    """One endpoint of a pool: where it is, its key, its own quota, and its share of the work where there is a choice.

    Without a ``base_url`` it is the provider's own address, with another account's key. An ``endpoint`` of your own
    takes the place of both. A member with ``weight`` 2 has twice as much in flight as one with 1, as long as both have
    room. Raises :class:`ConfigError` for a weight that is not above 0.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    quota: Quota = _NO_QUOTA
    weight: float = 1.0
    endpoint: Endpoint | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"the weight of a pool's member is {self.weight}; it must be a number above 0")


@dataclass(frozen=True, slots=True)
class Front:
    """What a pool looks like to those who ask it: one identity in the cache key, and what all members can do."""

    identity: str
    supports: Capabilities


def common(supports: Iterable[Capabilities]) -> Capabilities:
    """What can be asked of every one of them."""
    known = list(supports)
    return Capabilities(**{one.name: min(getattr(each, one.name) for each in known) for one in fields(Capabilities)})
