"""How many calls may be in flight at once: a fixed number, or one that is found.

Two rules find it. Servers that speak of rate limits (in headers or by a 429) get additive increase and one
multiplicative decrease an episode of refusals. Servers that never do show overload as latency: for them the limit
follows the ratio of the usual latency to the present one (Netflix's Gradient2, with medians instead of means, since
the latencies of language models have long tails). Failures only pause the growth.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from asyncopt.values import Concurrency

HOSTED = Concurrency(10, 20, 100)
OPENING = 8  # in flight at first where no rate is known; every answer adds one
SMALL = 32  # a fixed number up to this is taken at its word

CUT = 0.8
COOLDOWN_SECONDS = 15.0
GROWTH = 0.05  # a round
SILENT_ANSWERS = 50  # without a word of rate limits, after which latency is what is looked at
FEWEST_SAMPLES = 20
TOLERANCE = 1.5
QUEUE = 4
SMOOTHING = 0.2
_BASE_DRIFT = 1.01  # a round: how fast a latency that stays high becomes the usual one
_HEADROOM = 1.25


class Slots:
    """The places for calls in flight; a call holds one from its start to its answer, and never while it waits."""

    __slots__ = ("_answers", "_base", "_cool_until", "_failed", "_most_used", "_opening", "_ramping", "_samples",
                 "_spoken", "in_use", "limit", "range")  # fmt: skip

    def __init__(self, concurrency: Concurrency = HOSTED, *, careful: bool = False) -> None:
        self.range = concurrency
        careful = careful and not (concurrency.fixed and concurrency.start <= SMALL)
        self.limit = min(concurrency.start, OPENING) if careful else concurrency.start
        self._opening = self.limit < concurrency.start
        self.in_use = 0
        self._most_used = 0
        self._answers = 0
        self._samples: list[float] = []
        self._spoken = False  # of rate limits, by headers or a refusal
        self._ramping = True  # doubling, until the first refusal
        self._failed = False
        self._cool_until = float("-inf")
        self._base = 0.0

    @property
    def free(self) -> bool:
        return self.in_use < self.limit

    def clamp(self, most: int) -> bool:
        """Allow no more than so many; whether that changes anything."""
        if self.range.most <= most:
            return False
        self.range = Concurrency(*(min(number, most) for number in (self.range.least, self.range.start, most)))
        self.limit = min(self.limit, most)
        return True

    @property
    def watching(self) -> bool:
        """Whether answers can change the limit."""
        return self._opening or not self.range.fixed

    def open(self) -> None:
        """Enough is known to go on with the number that was asked for."""
        if self._opening:
            self._opening = False
            self.limit = max(self.limit, self.range.start)

    def take(self) -> None:
        self.in_use += 1
        if self.in_use > self._most_used:
            self._most_used = self.in_use

    def release(self) -> None:
        self.in_use -= 1

    def spoke(self) -> None:
        """The server has said something of its rate limits."""
        self._spoken = True

    def failed(self) -> None:
        """An attempt failed otherwise than by a rate limit: this round does not grow."""
        self._failed = True

    def served(self, seconds: float, now: float) -> bool:
        """An attempt took so long and was answered; whether the limit has changed. Told only while watching."""
        if self._opening:
            self.limit += 1
            self._opening = self.limit < self.range.start
            return False
        self._answers += 1
        self._samples.append(seconds)
        if len(self._samples) < max(FEWEST_SAMPLES, self.limit):
            return False
        samples, self._samples = self._samples, []
        full, self._most_used = self._most_used >= self.limit, self.in_use
        paused, self._failed = self._failed, False
        if not self._spoken and self._answers >= SILENT_ANSWERS:
            wanted = self._by_latency(samples)
        else:
            wanted = self._by_refusals(now)
        if paused or (not full and wanted > self.limit):
            return False
        return self._set(wanted)

    def _by_refusals(self, now: float) -> float:
        if now < self._cool_until:
            return self.limit
        return 2 * self.limit if self._ramping else self.limit + max(1.0, GROWTH * self.limit)

    def _by_latency(self, samples: Sequence[float]) -> float:
        """Gradient2's step over one round: limit * g + queue, smoothed, with g = tolerance * usual / present."""
        present = median(samples)
        self._base = present if self._base == 0.0 else min(self._base * _BASE_DRIFT, present)
        if present <= 0.0:
            return self.limit + QUEUE
        gradient = max(0.5, min(1.0, TOLERANCE * self._base / present))
        if gradient == 1.0 and self._ramping:
            return 2 * self.limit
        self._ramping = False
        wanted = self.limit * gradient + QUEUE
        stepped = self.limit * (1 - SMOOTHING) + wanted * SMOOTHING
        return stepped if stepped < self.limit else max(stepped, self.limit + 1)

    def refused(self, now: float, wait: float, needed: float) -> bool:
        """An episode of refusals has begun; whether the limit has changed.

        ``needed`` is what the learned rate takes at the present latency: a pace is kept by its meter, so that the
        limit is not cut below that.
        """
        self._spoken = True
        self._ramping = False
        self.open()
        if self.range.fixed or now < self._cool_until:
            return False
        self._cool_until = now + max(COOLDOWN_SECONDS, wait)
        return self._set(max(CUT * self.limit, min(_HEADROOM * needed, self.limit)))

    def _set(self, wanted: float) -> bool:
        limit = min(max(round(wanted), self.range.least), self.range.most)
        changed, self.limit = limit != self.limit, limit
        return changed
