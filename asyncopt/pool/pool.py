"""A pool's members: each a dispatcher with its own limits and connections, all with one queue.

A call belongs to no member before it starts. When it comes, the member with the least outstanding work per weight that
may start it does; when none may, it waits, and whichever comes free first takes it. What one member cannot do (a wrong
key, a model it does not know, five failures in a row) is a matter of that member, as long as there is another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from asyncopt.calls import Call
from asyncopt.codec import printable
from asyncopt.dispatch import Dispatcher
from asyncopt.endpoints.protocol import Endpoint
from asyncopt.events import Events, Note
from asyncopt.limits import backoff
from asyncopt.limits.estimate import TokenEstimate
from asyncopt.pool.health import Health
from asyncopt.pool.queue import PoolQueue
from asyncopt.pool.values import Front, Member
from asyncopt.values import NO_CONNECTION, Completion, Fault, FaultKind, Quota, Usage
from asyncopt.verdicts import Verdicts

_log = logging.getLogger("asyncopt")
_NO_USAGE = Usage()
_UNANSWERED = backoff.PASSING | {FaultKind.MALFORMED}


class Pool:
    """The members of one pool, and what they have in common."""

    def __init__(
        self,
        scope: str,
        front: Front,
        members: Sequence[tuple[Member, Endpoint]],
        events: Events,
        *,
        wait_for_quota: bool = False,
    ) -> None:
        self.front = front
        self.estimates: dict[str, TokenEstimate] = {}
        self.served: dict[str, Call] = {}  # by model: a request that some member is known to answer
        self.over: Fault | None = None  # what ended the last of the members
        self._loop = asyncio.get_running_loop()
        self.queue = PoolQueue(self._loop, due=self.start_next)
        self.members = tuple(
            PoolMember(self, endpoint, member, f"{scope}#{number}", events, wait_for_quota=wait_for_quota)
            for number, (member, endpoint) in enumerate(members, 1)
        )
        self.live = list(self.members)  # those that are not lost for good

    def others(self, member: PoolMember) -> list[PoolMember]:
        """The live members but this one."""
        return [other for other in self.live if other is not member]

    def is_made_of(self, front: Front, members: Sequence[object], stated: Sequence[Member]) -> bool:
        """Whether it is these dispatchers, on these terms."""
        terms: dict[object, tuple[Quota, float]] = {member: (member.quota, member.weight) for member in self.members}
        same = front == self.front and len(members) == len(terms)
        return same and all(terms.get(one) == (two.quota, two.weight) for one, two in zip(members, stated, strict=True))

    def start_next(self) -> None:
        """Start the head of the queue where there is the least outstanding work per weight, if it may start at all."""
        if not len(self.queue):
            return
        able = []
        for member in self.live:
            if member.ticker.resting:
                member.ticker.wake()
            if member.slots.free:
                able.append(member)
        for member in sorted(able, key=PoolMember.load):
            call = member.take()
            if call is not None:
                member.hand_over(call)
                return
        for member in able:
            member.look()

    def take_back(self, failing: PoolMember) -> bool:
        """Ask those that are left out, where nobody but this one is in, which fails as well; whether that is so."""
        others = [member for member in self.live if member is not failing]
        if not all(member.health.out for member in others):
            return False
        for member in others:
            member.come_back()
        return True

    def poke(self) -> None:
        """Something has changed that may let a call start."""
        for member in self.members:
            member.poke()

    def end(self, fault: Fault) -> None:
        """No member is left that would serve."""
        self.over = fault
        for member in self.members:
            member.lose(fault)
        for call in self.queue.clear():
            call.finish(fault)

    def wait_out(self, seconds: float) -> None:
        """A member has waited so long for its quota of a day: that counts against no call, wherever it is asked."""
        for member in self.members:
            member.waited = max(member.waited, seconds)


class PoolMember(Dispatcher):
    """A dispatcher that takes its calls from the pool's queue, and gives them back where it cannot serve."""

    def __init__(
        self,
        pool: Pool,
        endpoint: Endpoint,
        stated: Member,
        label: str,
        events: Events,
        *,
        wait_for_quota: bool,
    ) -> None:
        super().__init__(endpoint, label, stated.quota, events, wait_for_quota=wait_for_quota)
        self.pool = pool
        self.front = pool.front
        self.estimates = pool.estimates
        self.verdicts = Verdicts(pool.served)
        self.health = Health()
        self._queue = self._pool_queue = pool.queue
        self.weight = stated.weight
        self._outstanding = 0.0  # tokens of the calls in flight
        self._hedging.elsewhere = self._second

    @property
    def queued(self) -> int:
        """This member's part of the calls that wait for all, so that the parts add up."""
        live = self.pool.live
        if self not in live:
            return 0
        return (len(self._queue) + len(live) - 1 - live.index(self)) // len(live)

    def load(self) -> float:
        """Outstanding work per weight; an idle member's is the less, the more weight it has."""
        return (self._outstanding + 1.0) / self.weight

    def look(self) -> None:
        """Wait for what keeps the head of the queue from starting here, where there is a place for it."""
        self._pump.start()

    # -- calls come from the pool and go back to it --------------------------------------------------------------------

    def enqueue(self, call: Call) -> None:
        """Put a call into the pool's queue; it ends by ``call.finish``, sooner or later, unless it is withdrawn."""
        if not self.pool.live:
            fault = self.pool.over or self._dead
            assert fault is not None
            call.finish(fault)
            return
        call.queued_at = self._loop.time()
        self._queue.push(call)
        self.pool.start_next()

    def _start_next(self) -> None:
        self.pool.start_next()

    def withdraw(self, call: Call) -> None:
        """Take back a call that has not started; one in flight is paid for and goes on, and its answer is kept."""
        super().withdraw(call)
        self.pool.poke()

    def head(self) -> Call | None:
        """The next call in turn that may be asked here, and that somebody still wants and can pay for."""
        self._pool_queue.asking = self
        return super().head()

    def _start(self, call: Call) -> None:
        super()._start(call)
        self._outstanding += call.tokens

    def _free(self, call: Call) -> None:
        super()._free(call)
        self._outstanding = self._outstanding - call.tokens if self.in_flight_calls else 0.0

    def _retry(self, call: Call, wait: float) -> None:
        """Others may take the call at once; here it waits as long as it would anywhere."""
        if wait > 0 and self.pool.others(self):
            call.avoids = {**(call.avoids or {}), self: self._loop.time() + wait}
            self._loop.call_later(wait, self.pool.start_next)
            wait = 0.0
        super()._retry(call, wait)

    def _second(self, call: Call) -> PoolMember | None:
        """Where a late call is asked a second time: at another member, unless there is no other."""
        others = self.pool.others(self)
        able = [other for other in others if other.slots.free and not other._gate.closed]
        return min(able, key=PoolMember.load, default=None) if others else self

    # -- health --------------------------------------------------------------------------------------------------------

    def _completed(self, call: Call, answer: Completion, now: float) -> Completion:
        if call.winner is None:  # else another member has answered it
            self.health.answered(call.started_at, now)
        return super()._completed(call, answer, now)

    def _pause(self, call: Call, fault: Fault, now: float) -> float:
        wait = super()._pause(call, fault, now)
        if fault.kind not in _UNANSWERED:
            self.health.answered(call.started_at, now)
        elif self.health.failed(call.started_at, dead=fault.code == NO_CONNECTION):
            self._eject(fault, now)
        return wait

    def _eject(self, fault: Fault, now: float) -> None:
        """Leave this member out for some time, unless it is the last that is in: then all that are out are asked."""
        if self.pool.take_back(self):
            return
        news = not self.health.early
        seconds = self.health.eject(now)
        self._gate.close(now, 0.0, self._gate.episode)
        self._gate.held_until = now + seconds
        if news:
            self.events.emit(Note(f"{self._server} is left out for {seconds:.0f} s: {printable(fault.detail, 120)}"))

    def come_back(self) -> None:
        """Be asked again, with one call at first, as soon as the server's own pauses are over."""
        self.health.take_back()
        self._gate.held_until = 0.0
        self.look()

    def _die(self, call: Call, fault: Fault) -> None:
        """This member is lost, or is silent and may come back: what it was asked is asked of the others."""
        others = self.pool.others(self)
        if fault.kind is FaultKind.DOWN:
            serving = [other for other in others if not other.health.in_a_row]
            others = others if serving else []
            if others:
                fault = replace(fault, kind=FaultKind.TRANSIENT)
            else:
                self.pool.end(fault)
        elif self._dead is None:
            self.give_up(fault)
        self._move_on(call, fault) if others else self._close_call(call, fault)

    def _move_on(self, call: Call, fault: Fault) -> None:
        call.refused = False  # elsewhere it has not been
        if call.waiters and call.failures < backoff.MAX_ATTEMPTS:
            self._report(call, fault, 0.0)
            self._retry(call, 0.0)
        else:
            self._close_call(call, fault)

    def _close_call(self, call: Call, fault: Fault) -> None:
        self._report(call, fault, None)
        self._conclude(call, fault, fault.kind.value, fault.usage or _NO_USAGE)

    def give_up(self, fault: Fault) -> None:
        """This member will serve nobody as things are; the run ends only with the last."""
        others = self.pool.others(self)
        if not others:
            self.pool.end(fault)
        elif self._dead is None:
            self.lose(fault)
            self.pool.take_back(self)
            text = (
                f"{self._server} ({self.control.scope}) is lost for good: {printable(fault.detail, 120)}; "
                f"{len(others)} of {len(self.pool.members)} endpoints go on without it"
            )
            _log.warning("%s", text)
            self.events.emit(Note(text))

    def lose(self, fault: Fault) -> None:
        """Start nothing more here."""
        self._dead = self._dead or fault
        self._gate.shut()
        if self in self.pool.live:
            self.pool.live.remove(self)

    def close(self) -> None:
        """Take no more calls, and end those that wait."""
        super().close()
        self.pool.live.clear()

    def _waits_for(self, call: Call, fault: Fault, now: float) -> bool:
        waits = super()._waits_for(call, fault, now)
        self.pool.wait_out(self.waited)
        return waits
