"""A call on its way, those who wait for it, and what it is expected to take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import AsyncoptError
from asyncopt.events import CallEnded
from asyncopt.limits.budget import Account
from asyncopt.values import Completion, Price, Priority, Request, Usage


class State(Enum):
    """Where a call is; it moves to the right only, apart from a retry's way back into the queue."""

    QUEUED = 1
    IN_FLIGHT = 2
    DONE = 3


Permits: TypeAlias = tuple[float, float, float, float]
_NO_MARKS: Permits = (0.0, 0.0, 0.0, 0.0)


@dataclass(slots=True)
class Counts:
    """What a dispatcher has done since its start."""

    attempts: int = 0
    throttled: int = 0
    failed_attempts: int = 0
    completed: int = 0
    hedges: int = 0


class Call:
    """One request on its way, with everybody who waits for its answer.

    ``permits`` is what it takes of each dimension of a quota: one request, and tokens in all, in and out; ``marks``
    what had been spent of each when it started, ``episode`` the gate's then. ``hedge`` is the share of calls that may
    be asked twice.
    """

    __slots__ = (
        "_on_abandoned",
        "_on_done",
        "attempts",
        "avoids",
        "cut",
        "episode",
        "expired",
        "failures",
        "first_at",
        "first_piece_at",
        "grace",
        "hedge",
        "key",
        "marks",
        "model",
        "order",
        "payer",
        "permits",
        "previous",
        "price",
        "priority",
        "probes",
        "queued_at",
        "refused",
        "request",
        "rival",
        "started_at",
        "state",
        "taken_over",
        "timeout",
        "usd",
        "waiters",
        "winner",
    )

    def __init__(
        self,
        key: bytes,
        model: str,
        request: Request,
        priority: Priority,
        expected: tuple[float, float],
        price: Price | None,
        timeout: float,
        hedge: float,
        on_done: Callable[[Call, Answer | AsyncoptError], None],
        on_abandoned: Callable[[Call], None],
    ) -> None:
        self.key = key
        self.model = model
        self.request = request
        self.priority = priority
        sent, received = expected
        self.permits = (1.0, sent + received, sent, received)
        self.price = price
        self.usd = 0.0 if price is None else price.of(Usage(round(sent), round(received)))
        self.timeout = timeout
        self.hedge = hedge
        self._on_done = on_done
        self._on_abandoned = on_abandoned
        self.waiters: list[Waiter] = []
        self.payer: Account | None = None
        self.state = State.QUEUED
        self.attempts = self.failures = self.probes = 0
        self.avoids: dict[object, float] | None = None  # in a pool: who failed it, and when it may be asked again
        self.cut = 0  # attempts that were ended without an answer
        self.refused = False  # as by a wrong key, and asked again to be sure
        self.grace = 0.0  # seconds that this attempt's deadline is put off, for a loop that stood still
        self.order = -1
        self.episode = 0
        self.previous = self.queued_at = self.first_at = self.started_at = 0.0
        self.marks = _NO_MARKS
        self.expired = False
        self.first_piece_at: float | None = None
        self.rival: asyncio.Task[Answer] | None = None
        self.taken_over = False  # by its rival, which began first
        self.winner: Answer | None = None

    @property
    def tokens(self) -> float:
        """Tokens that are set aside for it, in and out."""
        return self.permits[1]

    def leave(self, waiter: Waiter) -> None:
        """Take out somebody who does not wait any more; without any, the call is withdrawn."""
        self.waiters.remove(waiter)
        if not self.waiters:
            self._on_abandoned(self)

    def ended(self, answer: Answer, outcome: str, usage: Usage, server: str, now: float) -> CallEnded:
        """What observers are told of it."""
        return CallEnded(
            self.model,
            outcome,
            self.attempts,
            self.started_at - self.queued_at,
            now - self.started_at,
            usage.input_tokens,
            usage.output_tokens,
            server,
            0.0 if self.price is None else self.price.of(usage),
            self.request,
            answer if isinstance(answer, Completion) else None,
        )

    def finish(self, result: Answer | AsyncoptError) -> None:
        if self.state is not State.DONE:
            self.state = State.DONE
            self._on_done(self, result)


class Waiter(asyncio.Future[Completion]):
    """A caller's future for one answer. Cancelling it withdraws the call if it was the last to wait for it."""

    __slots__ = ("account", "call")

    account: Account
    call: Call | None

    def cancel(self, msg: object | None = None) -> bool:
        cancelled = super().cancel(msg)
        call = getattr(self, "call", None)
        if cancelled and call is not None:
            self.call = None
            call.leave(self)
        return cancelled
