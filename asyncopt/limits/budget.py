"""What a study may spend, and what it has spent; above studies, what a sweep of them may."""

from __future__ import annotations

import math
from dataclasses import dataclass

from asyncopt.errors import ConfigError
from asyncopt.values import Price, Usage


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one study; ``None`` is no limit. ``calls`` counts requests sent, retries included, cache hits not."""

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("calls", "tokens", "usd", "seconds"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"the budget's {name} is {value!r}; it must be a number >= 0, or None for no limit")


UNLIMITED = Budget()


def require_price(budget: Budget, role: str, model: str, price: Price | None) -> None:
    """Raise :class:`ConfigError` where a budget is in dollars and the model in this role has no price."""
    if budget.usd is not None and price is None:
        raise ConfigError(f"the budget is in dollars and the {role} {model} has no price; state its price")


class Account:
    """The spending of one study across all its models; calls are reserved before they start, and settled after.

    A ``parent`` counts the same calls under a budget of its own: that of a sweep over all its studies, or that of a
    study over its test.
    """

    __slots__ = (
        "_reserved_tokens",
        "_reserved_usd",
        "budget",
        "calls",
        "hedges",
        "hits",
        "input_tokens",
        "output_tokens",
        "parent",
        "possibly_billed_tokens",
        "usd",
    )

    def __init__(self, budget: Budget = UNLIMITED, parent: Account | None = None) -> None:
        self.budget = budget
        self.parent = parent
        self.calls = 0
        self.hits = 0
        self.hedges = 0  # of the calls, those that asked for an answer a second time
        self.input_tokens = 0
        self.output_tokens = 0
        self.possibly_billed_tokens = 0  # sent, and no answer came back; in no other sum
        self.usd = 0.0
        self._reserved_tokens = 0.0
        self._reserved_usd = 0.0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def reserved(self) -> tuple[float, float]:
        """The tokens and the dollars that are set aside for calls which have not ended."""
        return self._reserved_tokens, self._reserved_usd

    def set_aside(self, calls: int, tokens: float, usd: float) -> None:
        """Count so many calls more, or fewer, with what they may take, on this account alone."""
        self.calls += calls
        self._reserved_tokens += tokens
        self._reserved_usd += usd

    def exhausted(self, tokens: float = 0.0, usd: float = 0.0, calls: int = 1) -> str | None:
        """Which limit one more call of up to so many tokens and dollars would exceed, or None if it is affordable.

        The same of several ``calls`` that take so much together.
        """
        budget = self.budget
        if self.parent is not None and (reason := self.parent.exhausted(tokens, usd, calls)) is not None:
            return reason
        if budget is UNLIMITED:
            return None
        if budget.calls is not None and self.calls + calls > budget.calls:
            if calls > 1:
                return f"the budget of {budget.calls} calls does not cover another {calls} of them"
            return f"the budget of {budget.calls} calls is used up"
        if budget.tokens is not None and self.tokens + self._reserved_tokens + tokens > budget.tokens:
            return f"the budget of {budget.tokens} tokens does not cover another call of up to {tokens:.0f}"
        if budget.usd is not None and self.usd + self._reserved_usd + usd > budget.usd:
            return f"the budget of ${budget.usd:g} does not cover another call of up to ${usd:.4f}"
        return None

    def reserve(self, tokens: float, usd: float) -> None:
        """Count a call that starts now, and set its expected cost aside."""
        self.calls += 1  # as set_aside does, which would be two more function calls for every call
        self._reserved_tokens += tokens
        self._reserved_usd += usd
        if self.parent is not None:
            self.parent.reserve(tokens, usd)

    def put_back(self, tokens: float, usd: float) -> None:
        """Undo a reservation: the call was not made, or is counted by whoever gets its answer."""
        self.set_aside(-1, -tokens, -usd)
        if self.parent is not None:
            self.parent.put_back(tokens, usd)

    def count_hit(self) -> None:
        """Count a call that the cache, or another call in flight, has answered."""
        self.hits += 1
        if self.parent is not None:
            self.parent.count_hit()

    def count_hedge(self) -> None:
        """Count a call that asks for an answer a second time."""
        self.hedges += 1
        if self.parent is not None:
            self.parent.count_hedge()

    def settle(self, tokens: float, usd: float, usage: Usage, paid: float) -> None:
        """Replace the reservation of a call that has ended by its usage and the dollars paid for it."""
        self._reserved_tokens -= tokens
        self._reserved_usd -= usd
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.usd += paid
        if self.parent is not None:
            self.parent.settle(tokens, usd, usage, paid)

    def doubt(self, tokens: float) -> None:
        """Count a call that may have been billed although no answer came back, as of up to so many tokens."""
        self.possibly_billed_tokens += round(tokens)
        if self.parent is not None:
            self.parent.doubt(tokens)
