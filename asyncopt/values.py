"""The values that travel through the engine: requests on the way out, completions and faults on the way back.

All of them are frozen and checked when built. What decides an answer is in the request, and only that: priorities,
budgets and deadlines travel beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Literal, TypeAlias

Dimension: TypeAlias = Literal["requests", "tokens", "input_tokens", "output_tokens"]
DIMENSIONS: tuple[Dimension, ...] = ("requests", "tokens", "input_tokens", "output_tokens")

Role: TypeAlias = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}; it must be one of {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise ValueError(f"content is a {type(self.content).__name__}; it must be a str")


LARGEST = 2**53


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw an answer. ``None`` leaves a parameter to the server and out of the request.

    ``draw`` numbers the samples of one prompt: it is part of the cache key, never sent, and makes the third sample of
    a prompt another answer than the second. ``grammar`` is a GBNF grammar that the answer must match; only servers with
    :attr:`Capabilities.grammar` accept it.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    draw: int = 0
    grammar: str | None = None

    def __post_init__(self) -> None:
        # 0 and 0.0 ask for the same thing, so they must give the same cache key.
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            if value is not None:
                if not (math.isfinite(value) and value >= 0):
                    raise ValueError(f"{name} is {value!r}; it must be a finite number >= 0")
                object.__setattr__(self, name, float(value))
        if self.top_p is not None and self.top_p > 1:
            raise ValueError(f"top_p is {self.top_p!r}; it must be at most 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens!r}; it must be >= 1")
        if self.draw < 0:
            raise ValueError(f"draw is {self.draw!r}; it must be >= 0")
        for name in ("max_tokens", "seed", "draw"):
            value = getattr(self, name)
            if value is not None and not -LARGEST <= value <= LARGEST:
                raise ValueError(f"{name} is {value!r}; JSON numbers go to 2**53")
        if not isinstance(self.stop, tuple):
            if isinstance(self.stop, str):
                raise ValueError(f"stop is the text {self.stop!r}; it must be a tuple of texts")
            object.__setattr__(self, "stop", tuple(self.stop))


DEFAULT_SAMPLING = Sampling()

Prompt: TypeAlias = "str | Sequence[Message]"


@dataclass(frozen=True, slots=True)
class Generate:
    """A request to continue a conversation; answered by a :class:`Completion`.

    ``extra`` is the text of a JSON object with further fields for the body, such as ``{"response_format": ...}``; they
    take the place of fields of the same name. Only servers with :attr:`Capabilities.extra` are asked with it.
    """

    prompt: tuple[Message, ...]
    sampling: Sampling = DEFAULT_SAMPLING
    top_logprobs: int = 0
    extra: str = ""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt has no message; give at least one")
        if self.top_logprobs < 0:
            raise ValueError(f"top_logprobs is {self.top_logprobs!r}; it must be >= 0")

    @classmethod
    def of(cls, prompt: Prompt, sampling: Sampling = DEFAULT_SAMPLING, *, top_logprobs: int = 0) -> Generate:
        """A request from a text (one user message) or from a sequence of messages."""
        messages = (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
        return cls(messages, sampling, top_logprobs)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """A request for log p(``continuation`` | ``prompt``), token by token.

    It is answered by a :class:`Completion` without text whose ``token_logprobs`` are those of the continuation, and of
    nothing else; :meth:`LogProb.of` reads it. The continuation follows the prompt with nothing put between them: in
    chat formats it is the beginning of the assistant's turn. In raw text no token may span the two, so a line break
    between them belongs to the prompt's end and a space to the continuation's beginning.
    """

    prompt: tuple[Message, ...]
    continuation: str

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt has no message; give at least one")
        if not self.continuation:
            raise ValueError("the continuation is empty; a likelihood is asked of at least one token")

    @classmethod
    def of(cls, prompt: Prompt, continuation: str) -> Likelihood:
        """A request from a text (one user message) or from a sequence of messages."""
        return cls(Generate.of(prompt).prompt, continuation)


Request: TypeAlias = Generate | Likelihood


class Priority(IntEnum):
    """What goes first when calls queue: requests that unlock more work, then scoring, then speculation."""

    PROPOSE = 0
    SCORE = 1
    SPECULATE = 2


class Finish(Enum):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call as the server counted them; ``estimated`` marks our own count where it did not."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token, its log-probability (natural logarithm) and the most probable alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a server's headers say of one of its limits.

    ``limit`` is in permits a minute; ``remaining`` in permits at the time of the answer; ``reset`` in seconds from the
    answer until the allowance is full again. None where the server says nothing readable.
    """

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What an answer's headers say of the server's limits, by dimension."""

    requests: Allowance | None = None
    tokens: Allowance | None = None
    input_tokens: Allowance | None = None
    output_tokens: Allowance | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer. ``limits`` came with it and is no part of it: it is not compared, cached or shown."""

    text: str
    finish: Finish = Finish.STOP
    usage: Usage = field(default_factory=Usage)
    token_logprobs: tuple[TokenLogprob, ...] = ()
    served_model: str = ""
    limits: RateLimits | None = field(default=None, compare=False, repr=False)


_NO_TOKENS = 1e-5  # in the reference's denominator, which makes the mean over no token 0


@dataclass(frozen=True, slots=True)
class LogProb:
    """The log-probability (natural logarithm) of a text, by its tokens in order."""

    tokens: tuple[float, ...]

    @classmethod
    def of(cls, completion: Completion) -> LogProb:
        """What the answer to a :class:`Likelihood` says."""
        return cls(tuple(item.logprob for item in completion.token_logprobs))

    @property
    def total(self) -> float:
        """log p(text | prompt)."""
        return math.fsum(self.tokens)

    def mean(self, burn_in: float = 0.0) -> float:
        """The mean per token, without the first ``floor(burn_in * n)`` of them; as in DLN's reference code."""
        if not 0 <= burn_in < 1:
            raise ValueError(f"burn_in is {burn_in!r}; it is a share of the tokens, from 0 to below 1")
        kept = self.tokens[int(burn_in * len(self.tokens)) :]
        return math.fsum(kept) / (len(kept) + _NO_TOKENS)


class FaultKind(Enum):
    """What went wrong with an attempt, decided at the transport's edge by code, type and status, never by message."""

    RATE_LIMITED = "rate_limited"
    RAMP = "ramp"
    QUOTA = "quota"
    QUOTA_DAILY = "quota_daily"
    FATAL_CONFIG = "fatal_config"
    TOO_LARGE = "too_large"
    REFUSED = "refused"
    BAD_REQUEST = "bad_request"
    TRANSIENT = "transient"
    AMBIGUOUS = "ambiguous"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    DOWN = "down"  # not of one attempt: the endpoint has served nothing for a long time


NO_CONNECTION = "no_connection"  # the code of a fault before anything was sent


@dataclass(frozen=True, slots=True)
class Fault:
    """A failed attempt. Inside the engine a failure is a value; it becomes an exception only for the caller.

    ``detail`` is cleaned text of at most 200 characters without credentials; ``retry_after`` is in seconds;
    ``retry`` is the server's own word on whether to try again (``x-should-retry``), ``None`` where it said nothing;
    ``usage`` is what was paid for nothing (an answer that was refused or cut off). ``scarce`` names the quota that was
    exhausted, where the server says which; ``limits`` is what its headers say; ``code`` is the provider's own code or
    type, or "HTTP 400" where it gives none, and empty where the fault is not of a response.
    """

    kind: FaultKind
    detail: str
    retry_after: float | None = None
    retry: bool | None = None
    usage: Usage | None = None
    scarce: Dimension | None = None
    limits: RateLimits | None = field(default=None, compare=False, repr=False)
    code: str = ""


class Outcome(Enum):
    """How one (candidate, example, draw) ended. Exactly one of these, and a failed call is never a score of 0.

    WITHDRAWN is what was not needed any more, or not waited for; SKIPPED_BUDGET what the budget did not cover.
    """

    SCORED = "scored"
    REFUSED = "refused"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    FAILED = "failed"
    METRIC_ERROR = "metric_error"
    WITHDRAWN = "withdrawn"
    SKIPPED_BUDGET = "skipped_budget"


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many calls may be in flight: between ``least`` and ``most``, beginning with ``start``."""

    least: int
    start: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.start <= self.most:
            raise ValueError(
                f"concurrency is {self.least}-{self.start}-{self.most}; wanted least-start-most, rising, each >= 1"
            )

    @property
    def fixed(self) -> bool:
        return self.least == self.most

    @classmethod
    def of(cls, value: int | str) -> Concurrency:
        """A number is fixed; ``"10-20-100"`` adapts between 10 and 100 and begins with 20."""
        if isinstance(value, str):
            parts = value.split("-")
            if not all(part.strip().isascii() and part.strip().isdigit() for part in parts) or len(parts) not in (1, 3):
                raise ValueError(
                    f'concurrency is {value!r}; wanted a number, or "least-start-most" such as "10-20-100"'
                )
            numbers = [int(part) for part in parts]
            return cls(*(numbers * 3 if len(numbers) == 1 else numbers))
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"concurrency is {value!r}; it must be a whole number of at least 1")
        return cls(value, value, value)


@dataclass(frozen=True, slots=True)
class Quota:
    """What an endpoint allows. ``None`` means not known: it is then learned from headers and refusals.

    ``concurrency`` is the most calls in flight, or ``"least-start-most"`` within which the engine finds the best
    number. Models of one endpoint and key that state the same ``scope`` draw on one quota; by default each model has
    its own. Input and output tokens stand apart where the provider counts them apart.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | str | None = None
    scope: str | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        for dimension in DIMENSIONS:
            value = self.per_minute(dimension)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"{dimension}_per_minute is {value!r}; it must be a number above 0, or None for unknown"
                )
        if self.concurrency is not None:
            Concurrency.of(self.concurrency)

    def per_minute(self, dimension: Dimension) -> float | None:
        """The stated quota of this dimension."""
        value: float | None = getattr(self, f"{dimension}_per_minute")
        return value


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float = 0.0
    output: float = 0.0

    def of(self, usage: Usage) -> float:
        """Dollars for this usage. Cached input is charged in full: an upper bound, since discounts differ."""
        return (usage.input_tokens * self.input + usage.output_tokens * self.output) / 1e6


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an endpoint can be asked for.

    ``chat`` and ``completion`` say whether messages and raw text are continued; ``top_logprobs`` how many alternatives
    an answer's tokens may come with, 0 for none; ``prompt_logprobs`` whether a :class:`Likelihood` is answered;
    ``extra`` whether further fields of a body are passed on.
    """

    chat: bool = True
    completion: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    seed: bool = True
    n: bool = False
    logit_bias: bool = False
    batch: bool = False
    grammar: bool = False
    stream: bool = False
    extra: bool = False
