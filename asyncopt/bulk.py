"""What a lane of its own needs to ask a model many things at once: its names and keys, its cache, its account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asyncopt.endpoints.protocol import Named
from asyncopt.events import Events
from asyncopt.identity import RequestKeys
from asyncopt.limits.budget import Account
from asyncopt.limits.estimate import TokenEstimate
from asyncopt.lookups import Lookups
from asyncopt.values import Completion, Price, Request


@dataclass(frozen=True, slots=True)
class Bulk:
    """One model beside its queue: nothing here waits for a quota, and what is asked is for the lane to count.

    ``served`` is the name that the endpoint knows; ``keys`` are those of the cache, under which answers are kept.
    """

    name: str
    served: str
    endpoint: Named
    keys: RequestKeys
    lookups: Lookups
    events: Events
    estimate: TokenEstimate
    price: Price | None
    account: Account

    def expected(self, request: Request) -> tuple[float, float]:
        """Tokens and dollars of the request at the usual price, as they are set aside for a call."""
        sent, received = self.estimate.of(request)
        usd = 0.0 if self.price is None else (sent * self.price.input + received * self.price.output) / 1e6
        return sent + received, usd

    async def known(self, keys: Sequence[bytes]) -> dict[bytes, Completion]:
        """Those of the answers that were paid for before."""
        return await self.lookups.known(keys)
