"""When a call may start: the one queue, the one place that takes permits and slots, and the only retry loop.

Order of admission: budget, then the gate, then a slot, then permits of every lane together, first come first served
within a priority. Nothing holds a slot or a permit while it waits: a retry goes back into the queue with its age.

No task, timer or lock a call: a few long-lived workers make the attempts, one pump hands out what must wait, and one
ticking timer looks at all deadlines. A worker that comes free takes the next call itself; the pump runs only when that
fails.
"""

from __future__ import annotations

import asyncio
from collections import deque

from asyncopt.callqueue import CallQueue
from asyncopt.calls import Call, Counts, State
from asyncopt.control import Control
from asyncopt.endpoints.protocol import Answer, Endpoint
from asyncopt.errors import AsyncoptError, BudgetExhausted
from asyncopt.events import AttemptFailed, CallEnded, Events
from asyncopt.hedging import Hedging
from asyncopt.limits import backoff
from asyncopt.limits.estimate import TokenEstimate
from asyncopt.ticker import Ticker
from asyncopt.values import Completion, Fault, FaultKind, Quota, Usage

TICK_SECONDS = 0.001
_CLOSED = "the engine was closed before this call had its answer"
_NO_USAGE = Usage()
_TERMINAL = frozenset({FaultKind.QUOTA, FaultKind.QUOTA_DAILY, FaultKind.FATAL_CONFIG})
_PATIENT_PROBES = 2  # a call that was refused so often as the probe lets all others go first
_LEARN_ALL, _LEARN_EVERY = 64, 16  # answers: a model's tokens a byte are learned from the first, then from some


class Dispatcher:
    """Decides when a request may start. The only caller of the meters; the only retry loop."""

    def __init__(self, endpoint: Endpoint, scope: str, quota: Quota, events: Events) -> None:
        self.endpoint = endpoint
        self.quota = quota
        self.counts = Counts()
        self.control = Control(scope, quota, events)
        self.estimates: dict[str, TokenEstimate] = {}
        self.in_flight_calls: dict[asyncio.Task[None], Call] = {}
        self.events = events
        self.slots = self.control.slots
        self._lanes = self.control.lanes
        self._gate = self.control.gate
        self._loop = asyncio.get_running_loop()
        self._queue = CallQueue(self._loop, due=self._start_next)
        self._idle: deque[asyncio.Future[Call]] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._wake: asyncio.Future[None] | None = None
        self._poked = False
        self._pump: asyncio.Task[None] | None = None
        self._hedging = Hedging(self, self._loop)
        self.ticker = Ticker(self, self._hedging, self._loop)
        self._dead: Fault | None = None
        self._drained: asyncio.Future[None] | None = None

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        return len(self.in_flight_calls)

    def estimate(self, model: str) -> TokenEstimate:
        """What is known of this model's tokens."""
        return self.estimates.setdefault(model, TokenEstimate())

    # -- from the model ------------------------------------------------------------------------------------------------

    def enqueue(self, call: Call) -> None:
        """Put a call into its turn; it ends by ``call.finish``, sooner or later, unless it is withdrawn."""
        if self._dead is not None:
            call.finish(self._dead)
            return
        call.queued_at = self._loop.time()
        self._queue.push(call)
        self._start_next()

    def _start_next(self) -> None:
        """Start the head of the queue at once if it may, without a detour over the pump."""
        if self.ticker.resting:
            self.ticker.wake()
        call = self._take()
        if call is not None:
            self._hand_over(call)
        elif self.slots.free:  # else a worker that comes free takes it
            if self._pump is None:
                self._pump = self._loop.create_task(self._run_pump(), name="asyncopt-pump")
            self.poke()

    def withdraw(self, call: Call) -> None:
        """Take back a call that has not started; one in flight is paid for and goes on, and its answer is kept."""
        if call.state is State.QUEUED:
            self._queue.withdraw(call)
            self.poke()

    # -- admission -----------------------------------------------------------------------------------------------------

    def _head(self) -> Call | None:
        """The next call in turn that somebody still wants and can pay for."""
        while (call := self._queue.head()) is not None:
            if self._find_payer(call):
                return call
            self._queue.withdraw(call)
        return None

    def _find_payer(self, call: Call) -> bool:
        while call.waiters:
            waiter = call.waiters[0]
            reason = waiter.account.exhausted(call.tokens, call.usd)
            if reason is None:
                call.payer = waiter.account
                return True
            call.waiters.pop(0)
            waiter.call = None
            waiter.set_exception(BudgetExhausted(f"{reason}; raise it and resume the study"))
        call.finish(Fault(FaultKind.TRANSIENT, "nobody could pay for the call"))
        return False

    def _take(self) -> Call | None:
        """The next call, started on the books, if one may start this instant."""
        slots = self.slots
        if slots.in_use >= slots.limit or (self._gate.closed and self._gate.wait(self._loop.time()) > 0):
            return None
        call = self._head()
        if call is None:
            return None
        # The probe behind a closed gate has waited long enough; what it takes is owed by those who follow.
        if not self._gate.closed and self._lanes.short(call.permits) is not None:
            return None
        self._queue.pop()
        self.book(call)
        self._gate.started()
        call.marks, call.episode = self._lanes.marks(), self._gate.episode
        call.state = State.IN_FLIGHT
        return call

    def book(self, call: Call) -> None:
        """Put one attempt of the call on the books: permits, a slot, and its payer's account."""
        assert call.payer is not None
        self._lanes.spend(call.permits)
        call.payer.reserve(call.permits[1], call.usd)
        self.slots.take()
        self.counts.attempts += 1

    def poke(self) -> None:
        """Something has changed that may let a call start."""
        self._poked = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run_pump(self) -> None:
        while True:
            self._poked = False
            call = self._take()
            if call is not None:
                self._hand_over(call)
            elif not await self._wait_for_permits():
                await self._wait_for_change()

    async def _wait_for_permits(self) -> bool:
        """Wait for a chunk of permits if that is all the head of the queue lacks; False if it lacks something else."""
        if not self.slots.free or self._gate.wait(self._loop.time()) > 0:
            return False
        call = self._head()
        if call is None:
            self._lanes.forget_credit()
            return False
        short = self._lanes.short(call.permits)
        if short is not None:
            meter, amount = short
            await meter.take_chunk(amount)
        return True

    async def _wait_for_change(self) -> None:
        if self._poked:
            return
        self._wake = self._loop.create_future()
        wait = self._gate.wait(self._loop.time())
        # Rounded up: a wait below the clock's tick would end before the gate opens, and the pump would spin.
        timer = self._loop.call_later(max(wait, TICK_SECONDS), self.poke) if 0 < wait < float("inf") else None
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    def limiting(self) -> str:
        """Why not more calls are in flight: concurrency, pause, quota, proposals, or tail."""
        if not self.slots.free:
            return "concurrency"
        if not len(self._queue):
            waits = all(call.priority > 0 for call in self.in_flight_calls.values())
            return "tail" if self.in_flight_calls and waits else "proposals"
        return "pause" if self._gate.closed or not self._queue.ready else "quota"

    # -- attempts ------------------------------------------------------------------------------------------------------

    def _hand_over(self, call: Call) -> None:
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(call)
                return
        worker = self._loop.create_task(self._work(call), name="asyncopt-worker")
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _work(self, first: Call) -> None:
        me = asyncio.current_task()
        assert me is not None
        call: Call | None = first
        while True:
            if call is None:
                idle: asyncio.Future[Call] = self._loop.create_future()
                self._idle.append(idle)
                call = await idle
            answer = await self._attempt(me, call)
            self._ended(call, answer)
            call = self._take()
            if self.slots.free and len(self._queue):  # an answer may have made room for more than one
                self._start_next()

    async def _attempt(self, me: asyncio.Task[None], call: Call) -> Answer:
        call.started_at = now = self._loop.time()
        if not call.attempts:
            call.first_at = now
        call.attempts += 1
        call.expired, call.taken_over, call.winner = False, False, None
        self.in_flight_calls[me] = call
        try:
            if call.hedge:
                return await self._hedged(me, call)
            return await self.endpoint.send(call.model, call.request)
        except asyncio.CancelledError:
            # Cut short by a rival or a deadline, and only once; anything more is the end of the worker.
            if (call.winner is None and not call.expired) or me.uncancel() > 0:
                raise
            return call.winner or Fault(FaultKind.AMBIGUOUS, f"no answer within {call.timeout:g} s")
        except Exception as error:  # an endpoint never raises; one that does must not take its worker along
            return Fault(FaultKind.BAD_REQUEST, f"the endpoint raised {type(error).__name__}, which is a defect of it")
        finally:
            del self.in_flight_calls[me]

    async def _hedged(self, me: asyncio.Task[None], call: Call) -> Answer:
        try:
            return await self._hedging.send(call)
        except asyncio.CancelledError:
            if not call.taken_over or call.expired or me.uncancel() > 0:
                raise
            return await self._hedging.outcome(call)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _ended(self, call: Call, answer: Answer) -> None:
        self.slots.release()
        if call.rival is not None:
            self._hedging.ended(call)
        if self._drained is not None and not self.in_flight_calls and not self._drained.done():
            self._drained.set_result(None)
        now = self._loop.time()
        if isinstance(answer, Completion):
            limits, answer = answer.limits, self._completed(call, answer, now)
            if limits is not None:  # after the refund, which may be more than the server says is left
                self.control.heard(limits, call, now)
            self._conclude(call, answer, "completed", answer.usage)
        else:
            if answer.limits is not None:
                self.control.heard(answer.limits, call, now)
            self._failed(call, answer, now)

    def _completed(self, call: Call, answer: Completion, now: float) -> Completion:
        counts = self.counts
        counts.completed += 1
        self.control.served(call, now)
        if answer.usage.estimated:
            usage = self.estimate(call.model).counted(call.request, answer.text)
            answer = Completion(answer.text, answer.finish, usage, answer.token_logprobs, answer.served_model)
        elif counts.completed < _LEARN_ALL or not counts.completed % _LEARN_EVERY:
            self.estimate(call.model).learn(call.request, answer.usage)
        self._settle(call, answer.usage)
        return answer

    def _settle(self, call: Call, usage: Usage) -> None:
        assert call.payer is not None
        if self._lanes.paced:
            sent, received = usage.input_tokens, usage.output_tokens
            self._lanes.settle(call.permits, (1.0, sent + received, sent, received), call.marks)
        paid = 0.0 if call.price is None else call.price.of(usage)
        call.payer.settle(call.permits[1], call.usd, usage, paid)

    def _failed(self, call: Call, fault: Fault, now: float) -> None:
        assert call.payer is not None
        if fault.usage is not None:
            self._settle(call, fault.usage)
        else:
            # The provider may have charged the tokens of a refused call against its quota, so the meter keeps them.
            call.payer.settle(call.permits[1], call.usd, _NO_USAGE, 0.0)
        self.counts.failed_attempts += 1
        if fault.kind in _TERMINAL:
            self._die(call, fault)
            return
        if self._dead is not None:
            self._conclude(call, self._dead, fault.kind.value, fault.usage or _NO_USAGE)
            return
        wait = self._pause(call, fault, now)
        if not backoff.retries(fault, call.failures, now - call.first_at) or not call.waiters:
            self._report(call, fault, None)
            self._conclude(call, fault, fault.kind.value, fault.usage or _NO_USAGE)
            return
        self._report(call, fault, wait)
        self._retry(call, wait)

    def _pause(self, call: Call, fault: Fault, now: float) -> float:
        """Tell the controls, and find how long this call waits before it queues again."""
        if fault.kind in backoff.THROTTLED:
            self.counts.throttled += 1
            if self._gate.closed and call.episode == self._gate.episode:
                call.probes += 1
            self.control.refused(call, fault, now, self.in_flight_calls.values())
            return 0.0  # the gate holds it; in the queue it keeps its age
        if fault.kind in backoff.ANSWERED and not fault.retry:
            self.control.served(call, now)  # the server works, and has said what it thinks of this request
            return 0.0
        return self.control.failed(call, fault, now, self.counts.attempts)

    def _retry(self, call: Call, wait: float) -> None:
        call.state = State.QUEUED
        if call.probes >= _PATIENT_PROBES:
            call.order = -1  # it may be larger than the server ever grants: others are not to wait for it
        if wait > 0:
            self._queue.push_later(call, wait)
        else:
            self._queue.push(call)
            self._start_next()

    def _die(self, call: Call, fault: Fault) -> None:
        """The endpoint will serve nobody as things are: end everything that waits for it, so that no more is sent."""
        self._dead = fault
        self._report(call, fault, None)
        self._conclude(call, fault, fault.kind.value, _NO_USAGE)
        for other in self._queue.clear():
            other.finish(fault)

    def _report(self, call: Call, fault: Fault, wait: float | None) -> None:
        if self.events:
            self.events.emit(AttemptFailed(call.model, fault.kind.value, fault.detail, wait))

    def _conclude(self, call: Call, answer: Answer, outcome: str, usage: Usage) -> None:
        if self.events:
            now = self._loop.time()
            queued, service = call.started_at - call.queued_at, now - call.started_at
            self.events.emit(
                CallEnded(call.model, outcome, call.attempts, queued, service, usage.input_tokens, usage.output_tokens)
            )
        call.finish(answer)

    async def aclose(self, grace: float = 0.0) -> None:
        """End everything: calls that wait at once, calls in flight after at most ``grace`` seconds.

        A call in flight is paid for, so its answer is waited for and kept. Being cancelled cuts the grace short.
        """
        self._dead = self._dead or Fault(FaultKind.TRANSIENT, _CLOSED)
        for call in self._queue.clear():
            call.finish(AsyncoptError(_CLOSED))
        try:
            await self._drain(grace)
        finally:
            await self._stop()

    async def _drain(self, grace: float) -> None:
        if not self.in_flight_calls or grace <= 0:
            return
        self._drained = self._loop.create_future()
        await asyncio.wait([self._drained], timeout=grace)

    async def _stop(self) -> None:
        calls = list(self.in_flight_calls.values())
        tasks = [*self._workers, *([self._pump] if self._pump else []), *self._hedging.tasks]
        self.ticker.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call in calls:
            call.finish(AsyncoptError(_CLOSED))
        await self.endpoint.aclose()
