"""A call on its way, those who wait for it, and what it is expected to take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum

from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import AsyncoptError
from asyncopt.limits.budget import Account
from asyncopt.values import Completion, Generate, Price, Priority, Usage


class State(Enum):
    """Where a call is; it moves to the right only, apart from a retry's way back into the queue."""

    QUEUED = 1
    IN_FLIGHT = 2
    DONE = 3


class Call:
    """One request on its way, with everybody who waits for its answer."""

    __slots__ = (
        "_on_abandoned",
        "_on_done",
        "attempts",
        "expired",
        "failures",
        "first_at",
        "key",
        "model",
        "order",
        "payer",
        "previous",
        "price",
        "priority",
        "queued_at",
        "request",
        "started_at",
        "state",
        "timeout",
        "tokens",
        "usd",
        "waiters",
    )

    def __init__(
        self,
        key: bytes,
        model: str,
        request: Generate,
        priority: Priority,
        tokens: float,
        price: Price | None,
        timeout: float,
        on_done: Callable[[Call, Answer | AsyncoptError], None],
        on_abandoned: Callable[[Call], None],
    ) -> None:
        self.key = key
        self.model = model
        self.request = request
        self.priority = priority
        self.tokens = tokens
        self.price = price
        self.timeout = timeout
        self._on_done = on_done
        self._on_abandoned = on_abandoned
        self.usd = 0.0 if price is None else price.of(_expected(tokens, request))
        self.waiters: list[Waiter] = []
        self.payer: Account | None = None
        self.state = State.QUEUED
        self.attempts = self.failures = 0
        self.order = -1
        self.previous = self.queued_at = self.first_at = self.started_at = 0.0
        self.expired = False

    def leave(self, waiter: Waiter) -> None:
        """Take out somebody who does not wait any more; without any, the call is withdrawn."""
        self.waiters.remove(waiter)
        if not self.waiters:
            self._on_abandoned(self)

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


def _expected(tokens: float, request: Generate) -> Usage:
    output = min(request.sampling.max_tokens or int(tokens), int(tokens))
    return Usage(max(int(tokens) - output, 0), output, estimated=True)


def counted_tokens(call: Call, text: str) -> tuple[int, int]:
    """Our own count of input and output tokens, where the server gives none: four bytes a token."""
    return prompt_tokens(call.request), -(-len(text.encode("utf-8", "replace")) // 4)


def prompt_tokens(request: Generate) -> int:
    """About how many tokens the prompt has: four bytes a token, and four tokens a message for the template."""
    size = sum(len(message.content.encode("utf-8", "replace")) for message in request.prompt)
    return -(-size // 4) + 4 * len(request.prompt)
