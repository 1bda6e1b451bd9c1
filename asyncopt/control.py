"""What decides whether an endpoint may be asked now, and learns from every answer: slots, gate, lanes, breaker.

Pure but for the events it emits: the dispatcher tells it what happens and when, and asks before it starts a call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from random import Random

from asyncopt.calls import Call
from asyncopt.codec import clean
from asyncopt.events import Events, LimitChanged, Note
from asyncopt.limits import backoff
from asyncopt.limits.breaker import Breaker, RetryBudget
from asyncopt.limits.gate import Gate
from asyncopt.limits.lanes import Lane, Lanes
from asyncopt.limits.meter import Grants
from asyncopt.limits.slots import HOSTED, Slots
from asyncopt.values import NO_CONNECTION, Concurrency, Fault, FaultKind, Quota, RateLimits

_OFFERED_SECONDS = 1.0
_REMEMBERED_SECONDS = 30.0
_SHORTEST = 0.1
_LEAST_RATE = 1 / 60
_NOTHING = (0.0, 0.0, 0.0, 0.0)
_HEADROOM_PERMITS = 4.0
_LATENCY_WEIGHT = 0.05
_PATIENCE, _LEAST_PATIENCE = 2.0, 1.0  # times as long as a refusal takes, and seconds
_LONGEST_DOUBLED = 1.0


class Control:
    """The limits of one dispatcher, stated and learned."""

    def __init__(self, scope: str, quota: Quota, events: Events) -> None:
        self.scope = scope
        self.lanes = Lanes(quota)
        self._grants: Grants | None = None
        concurrency = HOSTED if quota.concurrency is None else Concurrency.of(quota.concurrency)
        # Where a rate is stated the meters pace the start; where none is, it is felt for with a few calls.
        self.slots = Slots(concurrency, careful=not self.lanes.paced)
        self.gate = Gate()
        self.latency = 0.0  # mean seconds of an answered attempt, over the last some dozens
        self._events = events
        self._breaker = Breaker()
        self._retries = RetryBudget()
        # Jitter decides no result; seeding it keeps simulated runs the same from one day to the next.
        self._rng = Random(clean(f"{scope}:backoff"))
        self._spent: deque[tuple[float, tuple[float, ...]]] = deque()
        self._warned = False
        self._reached = False  # whether anything but a failing connection has ever come from there
        self._paused_at = 0.0

    # -- what the user wants -------------------------------------------------------------------------------------------

    def pause(self, now: float) -> None:
        """Let nothing through until :meth:`resume`."""
        if not self.gate.paused:
            self.gate.paused, self._paused_at = True, now

    def resume(self, now: float) -> float:
        """Let calls through again; for how many seconds none was, which say nothing of the server."""
        if not self.gate.paused:
            return 0.0
        self.gate.paused = False
        seconds = now - self._paused_at
        self._breaker.forgive(seconds)
        return seconds

    def set_concurrency(self, most: int) -> None:
        """Allow so many calls in flight from now on, and never more."""
        self.slots.set(most)
        self._changed("concurrency", self.slots.limit, "set by the user")

    def share(self, grants: Grants) -> None:
        """Keep the quota together with other processes."""
        self._grants = grants
        self.lanes.share(grants)

    def divide(self, workers: int) -> None:
        """So many processes share the limits from now on."""
        self.slots.divide(workers)
        self._changed("concurrency", self.slots.limit, f"shared by {workers}")

    def paused_by_others(self, now: float, seconds: float) -> None:
        """Another process was told to come back after so many seconds."""
        if not self.gate.closed:
            self.gate.close(now, seconds, self.gate.episode)
            self._changed("gate", seconds, "another process was refused")

    # -- what happened -------------------------------------------------------------------------------------------------

    def heard(self, limits: RateLimits, call: Call, now: float) -> None:
        """Take in what an answer's headers say of the server's limits."""
        self.slots.spoke()
        changed = self.lanes.heard(limits, call.marks, now - call.started_at, now)
        for lane in changed:
            self._changed(lane.dimension, lane.rate, "headers")
        if changed:
            self._open_slots()
        self._compare(limits)

    def _open_slots(self) -> None:
        """A rate is known, which paces the start of calls: no more feeling for how many there may be."""
        before = self.slots.limit
        self.slots.open()
        if self.slots.limit != before:
            self._changed("concurrency", self.slots.limit, "a rate is known")

    def _compare(self, limits: RateLimits) -> None:
        """Say once if the server allows less than the user has stated."""
        if self._warned:
            return
        for lane in self.lanes:
            allowance = getattr(limits, lane.dimension)
            if lane.stated is None or allowance is None or allowance.limit is None:
                continue
            if allowance.limit < 60 * lane.stated * 0.99:
                self._warned = True
                self._events.emit(
                    Note(
                        f"{self.scope} announces {allowance.limit:g} {lane.dimension} a minute and "
                        f"{60 * lane.stated:g} are stated; the stated quota is used"
                    )
                )

    def served(self, call: Call, now: float) -> None:
        """An attempt was answered, whatever the answer was worth."""
        seconds = now - call.started_at
        self._reached = True
        if self.gate.closed:
            self._reopen(call)
        if self._breaker.watching:
            self._breaker.served(now)
        slots = self.slots
        if slots.watching:
            self.latency += (_LATENCY_WEIGHT if self.latency else 1.0) * (seconds - self.latency)
            before = slots.limit
            slots.served(seconds, now)
            if slots.limit != before:
                self._changed("concurrency", slots.limit, "growth" if slots.limit > before else "latency")

    def _reopen(self, call: Call) -> None:
        self.gate.answered(call.episode)
        if not self.gate.closed:
            self._reopened("the probe was served")

    def _reopened(self, reason: str) -> None:
        self.lanes.drain()
        self._changed("gate", 0.0, reason)

    def refused(self, call: Call, fault: Fault, now: float, in_flight: Iterable[Call]) -> None:
        """An attempt was refused by a rate limit: one episode changes the limits once."""
        lane = self.lanes.scarce(fault.scarce)
        index = tuple(self.lanes).index(lane)
        if call.episode != self.gate.episode:
            lane.refused += call.permits[index]
            if fault.retry_after is not None:
                self.gate.close(now, fault.retry_after, call.episode)
            return
        wait = self._hold(fault, lane)
        # What started after the refused call is not known to be granted; this one was not.
        later = sum(
            other.permits[index]
            for other in in_flight
            if other.episode == call.episode and other.started_at >= call.started_at
        )
        offered = self._offered(call, index)
        lane.refused += call.permits[index]
        self.lanes.refuse(lane, call.started_at, later, offered, ramp=fault.kind is FaultKind.RAMP)
        patience = max(_PATIENCE * (now - call.started_at), _LEAST_PATIENCE)
        self.gate.close(now, wait, call.episode, patience)
        if self._grants is not None:
            self._grants.pause(wait)
        needed = (self.lanes.requests.rate or 0.0) * self.latency
        self._changed("gate", wait, f"{fault.kind.value}: {fault.detail}")
        self._changed(lane.dimension, lane.rate, "refused")
        self._open_slots()
        before = self.slots.limit
        self.slots.refused(now, wait, needed)
        if self.slots.limit != before:
            self._changed("concurrency", self.slots.limit, "refused")

    def _hold(self, fault: Fault, lane: Lane) -> float:
        """Seconds that the gate stays closed.

        A little longer than the server asks for: a strict bucket that is exactly empty refuses the next jitter. Where
        it asks for nothing and the rate is known, some permits' time is enough for the first try.
        """
        headroom = 0.0 if lane.rate is None else min(_HEADROOM_PERMITS / lane.rate, 1.0)
        if lane.dimension != "requests":
            headroom = min(headroom + 0.1, 1.0)
        if fault.retry_after is None and self.gate.previous == 0.0 and lane.rate is not None:
            return max(0.25, 5 * headroom)
        wait = backoff.delay(fault, self.gate.previous, self._rng)
        if fault.retry_after is None:
            return wait
        if self.gate.closed:  # the probe was refused: a server that says "in 0 s" for a minute is not to be flooded
            headroom = max(headroom, min(2 * self.gate.previous, _LONGEST_DOUBLED))
        return max(wait, fault.retry_after + headroom)

    def _offered(self, call: Call, index: int) -> float:
        """The rate of spending in the second before the call started: rather too high, which is cut soon."""
        since, marks = self._spent[0] if self._spent else (call.started_at, _NOTHING)
        for moment, spent in reversed(self._spent):
            if moment <= call.started_at - _OFFERED_SECONDS:
                since, marks = moment, spent
                break
        return max((call.marks[index] - marks[index]) / max(call.started_at - since, _SHORTEST), _LEAST_RATE)

    def failed(self, call: Call, fault: Fault, now: float, attempts: int) -> float:
        """An attempt failed otherwise; seconds to wait before another."""
        self.slots.failed()
        self._reached = self._reached or fault.code != NO_CONNECTION
        call.failures += 1
        call.previous = backoff.delay(fault, call.previous, self._rng)
        outage = 0.0
        if fault.kind in backoff.PASSING:
            outage = self._breaker.failed(now, call.started_at)
        if outage > 0:
            self.gate.close(now, outage, call.episode)
            self._changed("gate", outage, f"the server fails: {fault.detail}")
        else:
            self.gate.failed(call.episode)
        return call.previous + self._retries.wait(now, attempts)

    def silent(self, now: float) -> float:
        """For how many seconds nothing was served, if that is so long that the endpoint is given up; else 0.0."""
        return self._breaker.given_up(now, reached=self._reached)

    def waits(self, seconds: float, fault: Fault) -> None:
        """The gate was closed for a quota of a day, which says nothing of the server's health or of its rates."""
        self._breaker.forgive(seconds)
        self._changed("gate", seconds, f"{fault.kind.value}: {fault.detail}")

    # -- time ----------------------------------------------------------------------------------------------------------

    def tick(self, now: float, seconds: float) -> None:
        """Let time work on the limits; called some ten times a second while there is work."""
        self._note(now)
        paused = self.gate.closed
        if self.gate.trust(now):
            self._reopened("the probe was not refused")
        for lane in self.lanes.grow(now, seconds, paused=paused):
            self._changed(lane.dimension, lane.rate, "growth")

    def _note(self, now: float) -> None:
        """Remember what has been spent so far, to know later how fast."""
        self._spent.append((now, self.lanes.marks()))
        while self._spent[0][0] < now - _REMEMBERED_SECONDS:
            self._spent.popleft()

    def _changed(self, what: str, value: float | None, reason: str) -> None:
        if self._events:
            self._events.emit(LimitChanged(self.scope, what, value, reason))
