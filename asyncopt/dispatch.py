"""When a call may start: the one queue, the one place that takes permits and slots, and the only retry loop.

Order of admission: budget, then the gate, then a slot, then permits of every lane together, first come first served
within a priority. Nothing holds a slot or a permit while it waits: a retry goes back into the queue with its age.

No task, timer or lock a call: a few long-lived workers make the attempts, one pump hands out what must wait, and one
ticking timer looks at all deadlines. A worker that comes free takes the next call itself; the pump runs only when that
fails.
"""

from __future__ import annotations

import asyncio

from asyncopt.callqueue import CallQueue
from asyncopt.calls import Call, Counts, State
from asyncopt.codec import printable
from asyncopt.control import Control
from asyncopt.endpoints.protocol import Answer, Endpoint, Named
from asyncopt.errors import AsyncoptError, BudgetExhausted
from asyncopt.events import AttemptFailed, Events, Note
from asyncopt.hedging import Hedging
from asyncopt.limits import backoff
from asyncopt.limits.estimate import TokenEstimate
from asyncopt.limits.patience import Patience
from asyncopt.pump import Pump
from asyncopt.ticker import Ticker
from asyncopt.values import Completion, Fault, FaultKind, Finish, Quota, Usage
from asyncopt.verdicts import Verdicts
from asyncopt.workers import Workers

_CLOSED = "the engine was closed before this call had its answer"
_NO_USAGE = Usage()
_PATIENT_PROBES = 2  # a call that was refused so often as the probe lets all others go first
_LEARN_ALL, _LEARN_EVERY = 64, 16  # answers: a model's tokens a byte are learned from the first, then from some


class Dispatcher:
    """Decides when a request may start. The only caller of the meters; the only retry loop."""

    def __init__(
        self, endpoint: Endpoint, scope: str, quota: Quota, events: Events, *, wait_for_quota: bool = False
    ) -> None:
        self.endpoint = endpoint
        self.front: Named = endpoint  # whose answers these are taken to be
        self._server: str = getattr(endpoint, "address", endpoint.identity)
        self.quota = quota
        self.counts = Counts()
        self.control = Control(scope, quota, events)
        self.estimates: dict[str, TokenEstimate] = {}
        self.events = events
        self.slots = self.control.slots
        self._lanes = self.control.lanes
        self._gate = self.control.gate
        self._loop = asyncio.get_running_loop()
        self._queue = CallQueue(self._loop, due=self._start_next)
        self._workers = Workers(self, self._loop)
        self.in_flight_calls = self._workers.in_flight
        self._pump = Pump(self, self._loop)
        self._hedging = Hedging(self, self._loop)
        self._workers.hedge_with(self._hedging)
        self.ticker = Ticker(self, self._hedging, self._loop)
        self.patience = Patience()
        self.verdicts = Verdicts()
        self._wait_for_quota = wait_for_quota
        self.waited = 0.0  # seconds for daily quotas, which count against no call's retries
        self._noted: set[tuple[str, str]] = set()  # of models that were asked: what was said once
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
        call = self.take()
        if call is not None:
            self.hand_over(call)
        elif self.slots.free:  # else a worker that comes free takes it
            self._pump.start()

    def withdraw(self, call: Call) -> None:
        """Take back a call that has not started; one in flight is paid for and goes on, and its answer is kept."""
        if call.state is State.QUEUED:
            self._queue.withdraw(call)
            self.poke()

    # -- admission -----------------------------------------------------------------------------------------------------

    def head(self) -> Call | None:
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

    def take(self) -> Call | None:
        """The next call, started on the books, if one may start this instant."""
        slots, gate = self.slots, self._gate
        if slots.in_use >= slots.limit or gate.paused or (gate.closed and gate.wait(self._loop.time()) > 0):
            return None
        call = self.head()
        if call is None:
            return None
        # A closed gate's probe goes on credit of those who follow; under a shared quota each process has one: in turn.
        if (not gate.closed or self._lanes.shared) and self._lanes.short(call.permits) is not None:
            return None
        self._queue.pop()
        self._start(call)
        return call

    def _start(self, call: Call) -> None:
        self.book(call)
        self._gate.started()
        call.marks, call.episode = self._lanes.marks(), self._gate.episode
        call.state = State.IN_FLIGHT

    def book(self, call: Call) -> None:
        """Put one attempt of the call on the books: permits, a slot, and its payer's account."""
        assert call.payer is not None
        self._lanes.spend(call.permits)
        call.payer.reserve(call.permits[1], call.usd)
        self.slots.take()
        self.counts.attempts += 1

    def poke(self) -> None:
        """Something has changed that may let a call start."""
        self._pump.poke()

    def limiting(self) -> str:
        """Why not more calls are in flight: concurrency, pause, quota, proposals, or tail."""
        if self._gate.paused:
            return "pause"
        if not self.slots.free:
            return "concurrency"
        if not len(self._queue):
            waits = all(call.priority > 0 for call in self.in_flight_calls.values())
            return "tail" if self.in_flight_calls and waits else "proposals"
        return "pause" if self._gate.closed or not self._queue.ready else "quota"

    def go_on(self) -> None:
        """Start what may start now; if the user had paused, this ends, and counts against no call's retries."""
        self.waited += self.control.resume(self._loop.time())
        self._pump.start()

    def hand_over(self, call: Call) -> None:
        """Make an attempt of a call that has been started on the books."""
        self._workers.hand_over(call)

    def take_next(self) -> Call | None:
        """The next call for a worker that has come free."""
        call = self.take()
        if self.slots.free and len(self._queue):  # an answer may have made room for more than one
            self._start_next()
        return call

    # -- answers -------------------------------------------------------------------------------------------------------

    def ended(self, call: Call, answer: Answer) -> None:
        """An attempt has ended: settle it, learn from it, and conclude the call or put it back."""
        self._free(call)
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

    def _free(self, call: Call) -> None:
        self.slots.release()
        if call.rival is not None:
            self._hedging.ended(call)
        if self._drained is not None and not self.in_flight_calls and not self._drained.done():
            self._drained.set_result(None)

    def _completed(self, call: Call, answer: Completion, now: float) -> Completion:
        counts = self.counts
        counts.completed += 1
        self.control.served(call, now)
        self.patience.served(now - call.started_at, call.permits[3])
        self.verdicts.served(call)
        if answer.served_model != call.model:
            self._note_served(call.model, answer.served_model)
        if answer.finish is Finish.OTHER:
            reasons = f"{printable(call.model, 80)} ends answers for reasons that are not known here"
            self._note_once((call.model, "finish"), reasons)
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

    def _note_served(self, asked: str, served: str) -> None:
        """Say once that another model answers; a dated name of the same one is what providers do with aliases."""
        if served and not served.startswith(asked):
            names = f"{printable(served, 80)} answers where {printable(asked, 80)} was asked"
            self._note_once((asked, served), f"{names}; the scores are those of the former")

    def _note_once(self, what: tuple[str, str], text: str) -> None:
        if what not in self._noted:
            self._noted.add(what)
            self.events.emit(Note(text))

    def _failed(self, call: Call, fault: Fault, now: float) -> None:
        self._settle_failure(call, fault)
        ruling = self.verdicts.on(call, fault, now) if self._dead is None else self._dead
        if fault.kind is FaultKind.QUOTA_DAILY and self._waits_for(call, fault, now):
            return
        if isinstance(ruling, Fault):
            self._die(call, ruling)
        elif ruling is call:
            self._report(call, fault, 0.0)
            self._ask_again(call, fault, now)
        else:
            self._retry_or_conclude(call, fault, now)
            if ruling is not None:
                self._ask_again(ruling, fault, now)

    def _settle_failure(self, call: Call, fault: Fault) -> None:
        assert call.payer is not None
        self.counts.failed_attempts += 1
        if fault.usage is not None:
            self._settle(call, fault.usage)
            return
        # The provider may have charged the tokens of a refused call against its quota, so the meter keeps them.
        call.payer.settle(call.permits[1], call.usd, _NO_USAGE, 0.0)
        if fault.kind is FaultKind.AMBIGUOUS:
            call.payer.doubt(call.permits[1])

    def _retry_or_conclude(self, call: Call, fault: Fault, now: float) -> None:
        wait = self._pause(call, fault, now)
        silent = self.control.silent(now) if fault.kind in backoff.PASSING else 0.0
        elapsed = now - self.waited - call.first_at
        if silent:
            detail = f"nothing was served for {silent:.0f} s; at last: {fault.detail}"[:200]
            self._die(call, Fault(FaultKind.DOWN, detail))
        elif not backoff.retries(fault, call.failures, elapsed) or not call.waiters:
            self._report(call, fault, None)
            self._conclude(call, fault, fault.kind.value, fault.usage or _NO_USAGE)
        else:
            self._report(call, fault, wait)
            self._retry(call, wait)

    def _waits_for(self, call: Call, fault: Fault, now: float) -> bool:
        """Wait for a daily quota if that is wanted: nothing starts, and no call's retries are used up by it."""
        wait = fault.retry_after
        if not self._wait_for_quota or wait is None or self._dead is not None:
            return False
        if self._gate.close(now, wait, call.episode):
            self.waited += wait
            self.control.waits(wait, fault)
        self._report(call, fault, wait)
        self._retry(call, 0.0)
        return True

    def _ask_again(self, call: Call, fault: Fault, now: float) -> None:
        """Ask once more before anything else starts, where no other pause is in force; else when its turn comes."""
        assert call.payer is not None
        call.state = State.QUEUED
        may = call.payer.exhausted(call.tokens, call.usd) is None and not self._gate.paused
        short = self._lanes.short(call.permits)
        wait = 0.0 if short is None else short[1] / short[0].rate  # the quota holds for this request, too
        if may and self._gate.close(now, wait, call.episode) and not wait:
            self._start(call)
            self.hand_over(call)
        elif call.waiters:
            self._queue.push(call)
        else:
            self._conclude(call, fault, fault.kind.value, _NO_USAGE)

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
        self._report(call, fault, None)
        self.give_up(fault)
        self._conclude(call, fault, fault.kind.value, _NO_USAGE)

    def give_up(self, fault: Fault) -> None:
        """The endpoint will serve nobody as things are: end everything that waits for it, so that no more is sent."""
        self._dead = self._dead or fault
        self._gate.shut()  # to rivals, too
        for call in self._queue.clear():
            call.finish(self._dead)

    def _report(self, call: Call, fault: Fault, wait: float | None) -> None:
        if self.events:
            self.events.emit(AttemptFailed(call.model, fault.kind.value, fault.detail, wait))

    def _conclude(self, call: Call, answer: Answer, outcome: str, usage: Usage) -> None:
        if self.events:
            self.events.emit(call.ended(answer, outcome, usage, self._server, self._loop.time()))
        call.finish(answer)

    async def drain(self, grace: float) -> None:
        """Start nothing more, and return when no call is in flight or ``grace`` seconds have passed.

        Calls that wait stay as they are, and so do calls in flight after that, until :meth:`stop`. What is in flight is
        paid for, so its answer is kept.
        """
        self._gate.shut()
        if not self.in_flight_calls or grace <= 0:
            return
        if self._drained is None or self._drained.done():
            self._drained = self._loop.create_future()
        await asyncio.wait([self._drained], timeout=grace)

    def close(self) -> None:
        """Take no more calls, and end those that wait."""
        self._dead = self._dead or Fault(FaultKind.TRANSIENT, _CLOSED)
        for call in self._queue.clear():
            call.finish(AsyncoptError(_CLOSED))

    async def stop(self) -> None:
        """End the calls that are still in flight, and everything that runs."""
        pump = [] if self._pump.task is None else [self._pump.task]
        tasks = [*self._workers.tasks, *pump, *self._hedging.tasks]
        self.ticker.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.endpoint.aclose()

    def cut(self, call: Call) -> None:
        """Take a call off the books whose worker was cancelled; the provider may have billed it all the same."""
        self._free(call)
        self._settle_failure(call, Fault(FaultKind.AMBIGUOUS, _CLOSED))
        call.finish(AsyncoptError(_CLOSED))
        self.poke()
