"""How many calls may be in flight at once: a fixed number, or one that is found.

Two rules find it. Servers that speak of rate limits (in headers or by a 429) get additive increase and one
multiplicative decrease an episode of refusals. Servers that never do show overload as latency: for them the limit
follows the ratio of the latency without queueing to the present one (after Netflix's Gradient2, with medians instead
of means, since the latencies of language models have long tails). That latency is measured in a round at half the
limit: a running mean in its place follows the queue that we make ourselves and lets the limit run away, and takes
longer answers for a queue. Failures only pause the growth.
"""

from __future__ import annotations

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
FEWEST_LATENCIES = 50  # whose median is good to a sixth, where latencies vary by a factor of e
TOLERANCE = 1.5
QUEUE = 4
SMOOTHING = 0.2
QUEUED = 1.85  # times the latency at half the limit is queueing; without it would be 1, with nothing else 2
_JUMP = 0.25
MEASURE_EVERY, MOST_ROUNDS = 10, 40  # between two measurements, as long as they say that nothing queues
_HEADROOM = 1.25


class Slots:
    """The places for calls in flight; a call holds one from its start to its answer, and never while it waits."""

    __slots__ = ("_answers", "_base", "_before", "_cool_until", "_every", "_failed", "_most_used", "_opening",
                 "_ramping", "_rate", "_resume", "_rounds", "_samples", "_set_by_user", "_skip", "_spoken", "_stated",
                 "_trusted", "in_use", "limit", "range")  # fmt: skip

    def __init__(self, concurrency: Concurrency = HOSTED, *, careful: bool = False) -> None:
        self.range = self._stated = concurrency
        careful = careful and not (concurrency.fixed and concurrency.start <= SMALL)
        self.limit = min(concurrency.start, OPENING) if careful else concurrency.start
        self._opening = self.limit < concurrency.start
        self.in_use = 0
        self._most_used = 0
        self._set_by_user = False
        self._answers = 0
        self._samples: list[float] = []
        self._spoken = False  # of rate limits, by headers or a refusal
        self._ramping = True  # doubling, until the first refusal
        self._failed = False
        self._cool_until = float("-inf")
        self._base = self._before = 0.0  # latencies: without queueing, and before it was last measured
        self._rounds, self._every = 0, MEASURE_EVERY  # since then, and until the next time
        self._rate = 0.0  # answers a second, before the limit was halved
        self._resume = self._trusted = 0  # limits: to go back to after measuring, and the most since then
        self._skip = 0  # answers that say nothing of the present limit

    @property
    def free(self) -> bool:
        return self.in_use < self.limit

    def clamp(self, most: int) -> bool:
        """Allow no more than so many; whether that changes anything."""
        if self.range.most <= most:
            return False
        self.range = Concurrency(*(min(number, most) for number in (self.range.least, self.range.start, most)))
        self.limit = min(self.limit, most)
        self._opening = self.limit < self.range.start
        return True

    def set(self, most: int) -> None:
        """So many from now on, and never more; refusals and latency may go below, where no fixed number was stated."""
        self._set_by_user = True
        least = most if self._stated.fixed else min(self._stated.least, most)
        self.range = Concurrency(least, most, most)
        self.limit = most
        self._opening, self._resume = False, 0
        self._samples.clear()
        self._skip = self.in_use  # those were asked under the old limit

    def divide(self, workers: int) -> None:
        """Keep to this process's part of what was stated for all who share it; at least one, or nobody would go on."""
        if self._set_by_user:
            return  # a number for this process alone
        before, self.range = (
            self.range,
            Concurrency(
                *(max(number // workers, 1) for number in (self._stated.least, self._stated.start, self._stated.most))
            ),
        )
        if self._opening:
            self.limit = min(self.limit, self.range.start)
            self._opening = self.limit < self.range.start
        else:
            self.limit = min(max(self.limit, self.range.least), self.range.most)
        if self.range != before:
            self._skip = self.in_use

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

    def served(self, seconds: float, now: float) -> None:
        """An attempt took so long and was answered. Told only while watching."""
        if self._opening:
            self.limit += 1
            self._opening = self.limit < self.range.start
            return
        self._answers += 1
        if self._skip:
            self._skip -= 1
            return
        self._samples.append(seconds)
        silent = not self._spoken and self._answers >= SILENT_ANSWERS
        if len(self._samples) < max(FEWEST_LATENCIES if silent else FEWEST_SAMPLES, self.limit):
            return
        samples, self._samples = self._samples, []
        full, self._most_used = self._most_used >= self.limit, self.in_use
        may_grow, self._failed = full and not self._failed, False
        if not silent:
            self._set(self._by_refusals(now) if may_grow else self.limit)
        elif self._resume or full:
            before, present = self.limit, median(samples)
            wanted = self._measured(present) if self._resume else self._by_latency(present)
            self._set(wanted if may_grow or self._resume else min(wanted, before))
            if abs(self.limit - before) > _JUMP * before:
                # Answers to calls that began under the old limit, or while the queue grew to the new one.
                self._skip = max(self.in_use, self.limit)

    def _by_refusals(self, now: float) -> float:
        if now < self._cool_until:
            return self.limit
        return 2 * self.limit if self._ramping else self.limit + max(1.0, GROWTH * self.limit)

    def _by_latency(self, present: float) -> float:
        """Gradient2's step over one round: limit * g + queue, smoothed, with g = tolerance * unqueued / present."""
        self._base = self._base or present
        self._rounds += 1
        gradient = max(0.5, min(1.0, TOLERANCE * self._base / present)) if present > 0.0 else 1.0
        if gradient == 1.0:
            self._trusted = max(self._trusted, self.limit)
            return 2 * self.limit if self._ramping else self.limit + 1
        if self._ramping or self._rounds >= self._every:
            self._rate = self.limit / present
            return self._measure(present)
        return min(self.limit * (1 - SMOOTHING) + (self.limit * gradient + QUEUE) * SMOOTHING, self.limit + 1)

    def _measure(self, present: float) -> float:
        """Halve the limit for a round, to see what of the latency is queueing."""
        self._resume, self._before = self.limit, present
        return self.limit / 2

    def _measured(self, present: float) -> float:
        """Half the limit took so long: the limit to go on with."""
        resume, self._resume, self._rounds, self._base = self._resume, 0, 0, present
        if self._before > QUEUED * present:
            # Twice as many only took twice as long. Half of this may do as well.
            self._ramping, self._trusted, self._every = False, self.limit, MEASURE_EVERY
            return self._measure(present) if self.limit > self.range.least else self.limit
        # Nothing queues here, so that cuts since the last time were wrong; and the best rate needs no less than this.
        self._trusted = round(max(resume, self._trusted, self._rate * present))
        self._every = min(2 * self._every, MOST_ROUNDS)
        return self._trusted

    def refused(self, now: float, wait: float, needed: float) -> None:
        """An episode of refusals has begun.

        ``needed`` is what the learned rate takes at the present latency: a pace is kept by its meter, so that the
        limit is not cut below that.
        """
        self._spoken = True
        self._ramping = False
        if self.range.fixed or now < self._cool_until:
            return
        self._cool_until = now + max(COOLDOWN_SECONDS, wait)
        self._set(max(CUT * self.limit, min(_HEADROOM * needed, self.limit)))

    def _set(self, wanted: float) -> None:
        self.limit = min(max(round(wanted), self.range.least), self.range.most)
