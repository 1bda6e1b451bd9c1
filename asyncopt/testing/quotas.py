"""What a simulated server lets through: its buckets, a stranger who draws on them, and a change in mid-run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from asyncopt.errors import ConfigError
from asyncopt.testing.buckets import Bucket, SlidingWindow, TokenBucket, take_all
from asyncopt.values import DIMENSIONS, Dimension

_FOREIGN_INTERVAL = 0.1  # seconds between a stranger's requests where only tokens are counted


@dataclass(frozen=True, slots=True)
class Meter:
    """One quota as headers show it: the announced permits a minute, those left, and the seconds until it is full."""

    dimension: Dimension
    limit: float
    remaining: float
    until_full: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let through, and the seconds until it would be; infinite if never."""

    dimension: Dimension
    amount: float
    burst: float
    wait: float


@dataclass(frozen=True, slots=True)
class Demand:
    """The tokens that a request asks for or has used."""

    input_tokens: int
    output_tokens: int

    def amount(self, dimension: Dimension) -> int:
        """The permits of this dimension; every demand is one request."""
        if dimension == "requests":
            return 1
        own = self.output_tokens if dimension == "output_tokens" else self.input_tokens
        return own + (self.output_tokens if dimension == "tokens" else 0)


class Quotas:
    """The quotas of a server, asked in the order of arrival. The options are those of ``SimulatedAPI``."""

    def __init__(
        self,
        *,
        requests_per_second: float | None = None,
        request_burst: float | None = None,
        request_window: float | None = None,
        tokens_per_second: float | None = None,
        input_tokens_per_second: float | None = None,
        output_tokens_per_second: float | None = None,
        token_burst: float | None = None,
        refund_tokens: bool = False,
        refused_count: bool = False,
        change: tuple[float, float] | None = None,
        silent_change: bool = False,
        stranger: float = 0.0,
    ) -> None:
        rates = {
            "tokens": tokens_per_second,
            "input_tokens": input_tokens_per_second,
            "output_tokens": output_tokens_per_second,
        }
        self._tokens = _token_buckets(rates, token_burst, refused_count)
        self._buckets: dict[Dimension, Bucket] = dict(self._tokens)
        requests = _request_bucket(requests_per_second, request_burst, request_window, refused_count)
        if requests is not None:
            self._buckets = {"requests": requests, **self._buckets}
        self._refund = refund_tokens
        self._first_rates = {dimension: bucket.rate for dimension, bucket in self._buckets.items()}
        self._silent = silent_change
        self._change = _checked_change(change)
        self._share = _checked_share(stranger, self._buckets)
        self._foreign_at = self._foreign_interval()

    def ask(self, now: float, demand: Demand) -> Refusal | None:
        """Takes what the request demands, or says what it would have to wait for longest."""
        self._settle(now)
        amounts = {dimension: demand.amount(dimension) for dimension in self._buckets}
        waits = take_all(now, [(bucket, amounts[dimension]) for dimension, bucket in self._buckets.items()])
        refused = [(wait, dimension) for wait, dimension in zip(waits, self._buckets, strict=True) if wait]
        if not refused:
            return None
        wait, dimension = max(refused, key=lambda pair: pair[0])
        return Refusal(dimension, amounts[dimension], self._buckets[dimension].burst, wait)

    def settle(self, now: float, asked: Demand, used: Demand) -> None:
        """Gives back what a request asked for and did not use, where the server does that."""
        if self._refund:
            self._settle(now)
            for dimension, bucket in self._tokens.items():
                bucket.give(now, max(0, asked.amount(dimension) - used.amount(dimension)))

    def meters(self, now: float) -> list[Meter]:
        """The state of every quota at ``now``."""
        self._settle(now)
        return [
            Meter(
                dimension,
                60 * (self._first_rates[dimension] if self._silent else bucket.rate),
                max(0.0, bucket.level(now)),
                bucket.until_full(now),
            )
            for dimension, bucket in self._buckets.items()
        ]

    def _settle(self, now: float) -> None:
        """What happened by itself up to ``now``: the stranger's requests and the change, in their order."""
        if self._change is not None and self._change[0] <= now:
            at, factor = self._change
            self._change = None
            self._visit(at)
            for bucket in self._buckets.values():
                bucket.scale(at, factor)
        self._visit(now)

    def _visit(self, now: float) -> None:
        while self._foreign_at <= now:
            # The stranger is never refused: it gets its share as those do who try until they are let in.
            for dimension, amount in self._foreign_demand():
                self._buckets[dimension].drain(self._foreign_at, amount)
            self._foreign_at += self._foreign_interval()

    def _foreign_interval(self) -> float:
        if not self._share:
            return math.inf
        requests = self._buckets.get("requests")
        return _FOREIGN_INTERVAL if requests is None else 1 / (self._share * requests.rate)

    def _foreign_demand(self) -> Iterator[tuple[Dimension, float]]:
        interval = self._foreign_interval()
        for dimension, bucket in self._buckets.items():
            yield dimension, self._share * bucket.rate * interval


def _request_bucket(
    rate: float | None, burst: float | None, window: float | None, refused_count: bool
) -> Bucket | None:
    if rate is None:
        for name, value in (("burst", burst), ("window", window)):
            if value is not None:
                raise ConfigError(f"a request {name} of {value} was given without a rate; give the rate too")
        return None
    if window is None:
        return TokenBucket(rate, max(1.0, rate) if burst is None else burst, charge_refused=refused_count)
    if burst is not None:
        raise ConfigError("a request window and a request burst were given; a window has no burst, leave one out")
    return SlidingWindow(rate * window, window, charge_refused=refused_count)


def _token_buckets(
    rates: Mapping[str, float | None], burst: float | None, refused_count: bool
) -> dict[Dimension, TokenBucket]:
    found = {
        dimension: TokenBucket(rate, max(1.0, rate) if burst is None else burst, charge_refused=refused_count)
        for dimension in DIMENSIONS
        if (rate := rates.get(dimension)) is not None
    }
    if burst is not None and not found:
        raise ConfigError(f"a token burst of {burst} was given without a rate; give the rate too")
    return found


def _checked_change(change: tuple[float, float] | None) -> tuple[float, float] | None:
    if change is not None and not (0 <= change[0] < math.inf and 0 < change[1] < math.inf):
        raise ConfigError(f"the change is {change!r}; wanted (at how many seconds, factor above 0)")
    return change


def _checked_share(stranger: float, buckets: Mapping[Dimension, Bucket]) -> float:
    if not 0 <= stranger < 1:
        raise ConfigError(f"the stranger's share is {stranger!r}; it must be at least 0 and below 1")
    if stranger and not buckets:
        raise ConfigError("a stranger was given without a quota to share; give a rate too")
    return stranger
