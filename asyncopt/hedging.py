"""Asking twice: a streamed call whose answer has not begun after the usual time gets a rival, and the first wins.

The time to the first piece is what counts, not the time to the whole answer: a rival chosen by the latter would favour
short answers, and so bias scores. Both ask for the same draw. The loser is cancelled, and its prompt is billed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, cast

from asyncopt.calls import Call, Counts
from asyncopt.control import Control
from asyncopt.endpoints.protocol import Answer, Endpoint, StreamingEndpoint
from asyncopt.limits import backoff
from asyncopt.limits.budget import Account
from asyncopt.values import Completion, Fault, FaultKind, Usage

_REMEMBERED = 500
_LEAST_KNOWN = 50


class Host(Protocol):
    """What hedging sees of its dispatcher."""

    endpoint: Endpoint
    counts: Counts
    control: Control
    in_flight_calls: dict[asyncio.Task[None], Call]

    @property
    def queued(self) -> int: ...

    def book(self, call: Call) -> None: ...

    def poke(self) -> None: ...

    def give_up(self, fault: Fault) -> None: ...


class Hedging:
    """The rivals of one dispatcher's calls."""

    def __init__(self, dispatcher: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.tasks: set[asyncio.Task[Answer]] = set()
        self.elsewhere: Callable[[Call], Host | None] | None = None  # where rivals are asked, if not at the same place
        self._dispatcher = dispatcher
        self._loop = loop
        self._first_pieces: deque[float] = deque(maxlen=_REMEMBERED)
        self._streamed = 0

    async def send(self, call: Call) -> Answer:
        """One streamed attempt, whose first piece is noted; where it fails in passing, a rival may yet win."""
        self._streamed += 1
        call.first_piece_at = None
        started = call.started_at

        def first_piece() -> None:
            if not call.taken_over:
                call.first_piece_at = self._loop.time()
                self._first_pieces.append(call.first_piece_at - started)
                self.ended(call)

        endpoint = cast(StreamingEndpoint, self._dispatcher.endpoint)
        answer = await endpoint.send_streamed(call.model, call.request, first_piece)
        if call.rival is not None and isinstance(answer, Fault) and answer.kind in backoff.PASSING:
            await asyncio.wait([call.rival])
        return call.winner or answer

    async def outcome(self, call: Call) -> Answer:
        """What the rival that has taken the call over brings in the end."""
        if call.rival is not None:
            await asyncio.wait([call.rival])
        return call.winner or Fault(FaultKind.AMBIGUOUS, "an answer that had begun broke off")

    def tick(self, now: float) -> None:
        """Give late calls a rival, as long as there is quota to spare and few enough have one."""
        if len(self._first_pieces) < _LEAST_KNOWN or self._dispatcher.queued:
            return
        late: float | None = None
        for task, call in list(self._dispatcher.in_flight_calls.items()):
            if not call.hedge or call.rival is not None or call.first_piece_at is not None or call.expired:
                continue
            if late is None:
                late = self._quantile(1 - call.hedge)
            if now - call.started_at > late:
                host = self._dispatcher if self.elsewhere is None else self.elsewhere(call)
                if host is not None and self._affordable(call, host):
                    self._start(call, task, host)

    def _quantile(self, share: float) -> float:
        ordered = sorted(self._first_pieces)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    def _affordable(self, call: Call, host: Host) -> bool:
        control = host.control
        assert call.payer is not None
        return (
            self._dispatcher.counts.hedges + 1 <= call.hedge * self._streamed
            and control.slots.free
            and not control.gate.closed
            and not control.gate.paused
            and control.lanes.short(call.permits) is None
            and call.payer.exhausted(call.tokens, call.usd) is None
        )

    def _start(self, call: Call, main: asyncio.Task[None], host: Host) -> None:
        host.book(call)
        self._dispatcher.counts.hedges += 1
        assert call.payer is not None
        call.payer.count_hedge()
        began = partial(self._rival_began, call, main)
        sending = cast(StreamingEndpoint, host.endpoint).send_streamed(call.model, call.request, began)
        call.rival = self._loop.create_task(sending, name="asyncopt-rival")
        self.tasks.add(call.rival)
        # A callback, since a task that is cancelled before its first step runs no line of its own.
        call.rival.add_done_callback(partial(self._raced, call, call.payer, main, host))

    def _rival_began(self, call: Call, main: asyncio.Task[None]) -> None:
        """The first piece decides, not the last: whoever ends first has the shorter answer, which is not the better."""
        if call.rival is not None and call.first_piece_at is None and not call.expired:
            call.taken_over = True
            main.cancel()

    def _raced(
        self, call: Call, payer: Account, main: asyncio.Task[None], host: Host, rival: asyncio.Task[Answer]
    ) -> None:
        """A rival has ended; unless it had taken the call over, only its completion ends the first attempt."""
        self.tasks.discard(rival)
        failed = rival.cancelled() or rival.exception() is not None
        answer = None if failed else rival.result()
        if answer is not None and host is not self._dispatcher:
            answer = replace(answer, limits=None)  # of another account than the one that will hear of it
        host.control.slots.release()
        self._bill_loser(call, payer, answer)
        if call.rival is rival:
            call.rival = None
            if call.taken_over:
                call.winner = answer
            elif isinstance(answer, Completion):
                call.winner = answer
                if not call.expired:  # else the attempt is being ended already
                    main.cancel()
        if isinstance(answer, Fault) and answer.kind is FaultKind.QUOTA:
            host.give_up(answer)  # the first attempt may yet be answered, and nothing else is sent
        host.poke()

    def _bill_loser(self, call: Call, payer: Account, answer: Answer | None) -> None:
        """One of the two attempts is paid for and brings nothing: its prompt, as far as is known."""
        usage = Usage(round(call.permits[2]), 0, estimated=True)
        if isinstance(answer, Fault):
            usage = answer.usage or Usage()
        paid = 0.0 if call.price is None else call.price.of(usage)
        payer.settle(call.permits[1], call.usd, usage, paid)
        if isinstance(answer, Fault) and answer.kind is FaultKind.AMBIGUOUS:
            payer.doubt(call.permits[1])

    def ended(self, call: Call) -> None:
        """The first attempt has ended; a rival that still runs has lost."""
        if call.rival is not None:
            call.rival.cancel()
            call.rival = None
