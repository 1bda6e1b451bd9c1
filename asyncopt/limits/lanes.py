"""The quota of one endpoint, dimension by dimension: stated by the user, announced in headers, or learned.

A stated rate is the user's word and nothing raises it. A rate in the headers is obeyed at 95 %. Refusals teach a rate
below either. What the headers say is left holds the meter back, and may be spent beyond the pace where it is plenty.
"""

from __future__ import annotations

from collections.abc import Iterator

from asyncopt.limits.learner import RateLearner
from asyncopt.limits.meter import BUCKET_SECONDS, Grants, Meter, SharedMeter
from asyncopt.limits.refunds import Refunds
from asyncopt.values import DIMENSIONS, Allowance, Dimension, Quota, RateLimits

OF_ANNOUNCED = 0.95
RESERVE = 0.5  # of the most that was ever left is never spent ahead of the pace
_SAME = 0.02


class Lane:
    """One dimension: what may be spent a second, and what has been."""

    __slots__ = ("_grants", "_largest", "_left", "_left_at_spent", "_most_left", "_paced_from", "announced",
                 "dimension", "learner", "meter", "refunds", "refused", "spent", "stated", "wanted")  # fmt: skip

    def __init__(self, dimension: Dimension, per_minute: float | None) -> None:
        self.dimension = dimension
        self._grants: Grants | None = None  # where others share the quota
        self.stated = None if per_minute is None else per_minute / 60
        self.announced: float | None = None
        self.learner = RateLearner()
        self.meter = None if self.stated is None else self._metered(self.stated)
        self.spent = self.refused = 0.0
        self._paced_from = 0.0  # of what was spent, the meter has granted what came after this
        self.refunds = Refunds()
        self.wanted = False  # whether a call has waited for this lane since the last look
        self._left: float | None = None
        self._left_at_spent = self._most_left = 0.0
        self._largest = 0.0  # what one call has taken at most; not of requests, which are counted exactly

    def share(self, grants: Grants) -> None:
        """Take permits from there from now on."""
        self._grants = grants
        if self.meter is not None:
            self.meter = self._metered(self.meter.rate)

    @property
    def shared(self) -> bool:
        return self._grants is not None

    def _metered(self, rate: float) -> Meter:
        return Meter(rate) if self._grants is None else SharedMeter(rate, self.dimension, self._grants)

    @property
    def known(self) -> float | None:
        """The rate that was stated, or else announced; None where nobody said any."""
        return self.stated if self.stated is not None else self.announced

    @property
    def _servers_rate(self) -> float:
        known = self.announced / OF_ANNOUNCED if self.announced is not None else self.stated
        return known or 0.0

    @property
    def rate(self) -> float | None:
        """The rate in force, in permits a second."""
        known, learned = self.known, self.learner.rate
        return learned if known is None else known if learned is None else min(known, learned)

    def covers(self, amount: float) -> bool:
        meter = self.meter
        if amount > self._largest and self.dimension != "requests":
            self._largest = amount
        if meter is None or meter.covers(amount):
            return True
        self.wanted = True
        return False

    def settle(self, reserved: float, used: float, mark: float) -> None:
        """Correct a reservation by the usage; what was not used comes back unless the server keeps it.

        ``mark`` is what had been spent when the call had started: what the meter never granted it does not get back.
        """
        if self.meter is None or mark <= self._paced_from:
            return
        if used > reserved or self.refunds.given is not False:
            self.meter.settle(reserved, used)
        if self.refunds.given:
            self.spent -= max(reserved - used, 0.0)
        else:
            self.refunds.unused(reserved - used)

    def apply(self) -> bool:
        """Bring the meter to the rate in force; whether it has changed."""
        rate = self.rate
        if rate is None:
            changed = self.meter is not None
            self.meter = None
            return changed
        changed = self.meter is None or abs(rate - self.meter.rate) > 1e-9 * rate
        if self.meter is None:
            self.meter = self._metered(rate)
            self.meter.drain()
            self._paced_from = self.spent
        elif changed:
            self.meter.change(rate)
        return changed

    def heard(self, allowance: Allowance, mark: float, since: float, now: float) -> bool:
        """Take in what an answer's headers say; whether the rate has changed.

        ``mark`` is what had been spent when that call had started, ``since`` seconds ago.
        """
        if allowance.limit is not None and allowance.limit > 0:
            announced = OF_ANNOUNCED * allowance.limit / 60
            if self.announced is None or abs(announced - self.announced) > _SAME * self.announced:
                self.announced = announced
                self._most_left = 0.0
                # Not where a rate is stated: that one is the user's, and what refusals have taught of it still holds.
                if self.stated is None and self.learner.rate is not None and self.learner.rate > announced:
                    self.learner.forget()
        changed = self.announced is not None and self.stated is None and self.apply()
        if allowance.remaining is not None:
            self._hear_remaining(allowance.remaining, mark, since)
            if self.refunds.given is None and self.dimension != "requests":
                self.refunds.saw(allowance.remaining, mark, now - since, self._servers_rate, self._most_left)
        return changed

    def _hear_remaining(self, remaining: float, mark: float, since: float) -> None:
        """What is left now: what was left then, and came since at our rate, without what was spent since."""
        self._most_left = max(self._most_left, remaining)
        refilled = (self.rate or 0.0) * since
        self._left = min(self._most_left, remaining + refilled - (self.spent - mark))
        self._left_at_spent = self.spent
        if self.meter is not None:
            # Tokens are estimates: one call's worth is kept back, so that a few tokens' error is no refusal.
            self.meter.hold_to(self._left - self._largest)

    def spend_reserve(self, seconds: float) -> None:
        """Spend at up to twice the pace while the server says that more than half of its reserve is there.

        Not where the user stated the rate, which is then a promise, nor where refusals have taught another.
        """
        if self._left is None or self.meter is None or self.stated is not None or self.learner.rate is not None:
            return
        if self._grants is not None:
            return  # what is left, others see, too
        spare = self._left - (self.spent - self._left_at_spent) - RESERVE * self._most_left
        if spare > 1 and self.wanted:
            # Ticks may be late, by a minute where the machine has slept: no more than a bucket at once.
            self.meter.credit += min(self.meter.rate * min(seconds, BUCKET_SECONDS), 0.2 * spare)

    def refuse(self, at: float, in_flight: float, offered: float, *, ramp: bool) -> None:
        """A call that started at ``at`` was refused; ``in_flight`` was spent since and may yet be granted.

        ``offered`` is the rate of spending where no rate is in force.
        """
        rate = self.rate
        # The quota is everybody's, and what the others spend of it can only be taken to be as much.
        workers = 1 if self._grants is None else self._grants.workers
        granted = workers * (self.spent - self.refused - in_flight)
        self.learner.refused(at, granted, workers * offered if rate is None else rate, ramp=ramp)
        if self.meter is not None and self.learner.rate is not None and self.known is not None:
            self.learner.rate = min(self.learner.rate, self.known)
        if self.dimension != "requests":
            self.refunds.given = False  # the server charges what was asked for, not what was used
        self.apply()

    def grow(self, now: float, *, paused: bool) -> bool:
        """Let a learned rate grow; whether the rate in force has changed."""
        grown = self.learner.grow(now, wanted=self.wanted, paused=paused)
        self.wanted = False
        if not grown:
            return False
        known, learned = self.known, self.learner.rate
        if known is not None and learned is not None and learned >= known:
            self.learner.forget()
        return self.apply()


class Lanes:
    """All dimensions of one quota; a call starts when every one of them covers its part."""

    __slots__ = ("_all", "_metered", "awaited", "requests", "tokens")

    def __init__(self, quota: Quota) -> None:
        self._all = tuple(Lane(dimension, quota.per_minute(dimension)) for dimension in DIMENSIONS)
        self.requests, self.tokens = self._all[0], self._all[1]
        self.awaited: Meter | None = None  # whose permits the next call waits for at this moment
        self._select()

    def _select(self) -> None:
        metered = [(index, lane) for index, lane in enumerate(self._all) if lane.meter is not None]
        # Where the quota is shared, requests come last: processes that each had one in hand could start all at once.
        self._metered = sorted(metered, key=lambda one: not one[0]) if self.shared else metered

    def share(self, grants: Grants) -> None:
        """Take the permits of every dimension from where all processes of the account do."""
        for lane in self._all:
            lane.share(grants)
        self._select()

    @property
    def shared(self) -> bool:
        """Whether permits are granted to several processes together."""
        return self.requests.shared

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._all)

    @property
    def paced(self) -> bool:
        """Whether any rate is in force."""
        return bool(self._metered)

    def short(self, permits: tuple[float, ...]) -> tuple[Meter, float] | None:
        """The first meter that does not cover its part of a call, with that part; None if all do."""
        for index, lane in self._metered:
            if not lane.covers(permits[index]):
                assert lane.meter is not None
                return lane.meter, permits[index]
        return None

    def needed(self, meter: Meter, permits: tuple[float, ...]) -> float:
        """A call's part of what this meter grants."""
        return sum(permits[index] for index, lane in self._metered if lane.meter is meter)

    def spend(self, permits: tuple[float, ...]) -> None:
        requests, tokens, sent, received = self._all
        requests.spent += permits[0]
        tokens.spent += permits[1]
        sent.spent += permits[2]
        received.spent += permits[3]
        for index, lane in self._metered:
            assert lane.meter is not None
            lane.meter.spend(permits[index])

    def settle(self, permits: tuple[float, ...], used: tuple[float, ...], marks: tuple[float, ...]) -> None:
        for index, lane in self._metered:
            if index:  # a request is one request
                lane.settle(permits[index], used[index], marks[index])

    def marks(self) -> tuple[float, float, float, float]:
        """What has been spent so far, to be kept with a call that starts."""
        requests, tokens, sent, received = self._all
        return requests.spent, tokens.spent, sent.spent, received.spent

    def heard(self, limits: RateLimits, marks: tuple[float, ...], since: float, now: float) -> list[Lane]:
        """Take in the headers of an answer; the lanes whose rate has changed."""
        changed = []
        for lane, mark in zip(self._all, marks, strict=True):
            allowance: Allowance | None = getattr(limits, lane.dimension)
            if allowance is not None and lane.heard(allowance, mark, since, now):
                changed.append(lane)
        if changed:
            self._select()
        return changed

    def scarce(self, named: Dimension | None) -> Lane:
        """The lane that a refusal is about: the one it names, or the likeliest."""
        if named is not None:
            return self._all[DIMENSIONS.index(named)]
        # A stated rate of requests is not what was exceeded, unless nothing else could have been.
        return self.tokens if self.requests.stated is not None and self.tokens.stated is None else self.requests

    def refuse(self, lane: Lane, at: float, in_flight: float, offered: float, *, ramp: bool) -> None:
        lane.refuse(at, in_flight, offered, ramp=ramp)
        self._select()

    def grow(self, now: float, seconds: float, *, paused: bool = False) -> list[Lane]:
        """Spend reserves and let learned rates grow; the lanes whose rate has changed."""
        for _, lane in self._metered:
            lane.wanted = lane.wanted or lane.meter is self.awaited  # a permit may take many ticks to come
            lane.spend_reserve(seconds)
        changed = [lane for lane in self._all if lane.learner.rate is not None and lane.grow(now, paused=paused)]
        for _, lane in self._metered:
            lane.wanted = False
        if changed:
            self._select()
        return changed

    def drain(self) -> None:
        """Go on at the pace, without what has gathered while nothing was let through."""
        for _, lane in self._metered:
            assert lane.meter is not None
            lane.meter.drain()

    def forget_credit(self) -> None:
        for _, lane in self._metered:
            assert lane.meter is not None
            lane.meter.forget_credit()
