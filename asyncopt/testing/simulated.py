"""An API in the shape of OpenAI's with quotas, latency and a ledger: in the same loop, or behind real sockets.

Tokens are counted by a ratio: one for every 4 bytes of UTF-8 in the messages' contents or in the answer, rounded up.
The token quota is asked for the prompt's count plus ``max_tokens`` when the request arrives, and gives nothing back.
"""

from __future__ import annotations

import asyncio
import heapq
import hmac
import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from multidict import CIMultiDict

from asyncopt import codec
from asyncopt.codec import Json
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Answer, Reply
from asyncopt.errors import ConfigError
from asyncopt.testing.answers import AnswerModel
from asyncopt.testing.buckets import TokenBucket, take_all
from asyncopt.testing.chance import digest_of
from asyncopt.testing.latency import Constant, Latency
from asyncopt.testing.ledger import CANCELLED, Entry, Ledger
from asyncopt.testing.server import serving
from asyncopt.testing.wire import (
    BadRequest,
    ChatRequest,
    completion_body,
    error_body,
    go_duration,
    milliseconds_of,
    parse_chat,
)
from asyncopt.values import Capabilities, Generate

CHAT_PATH = "/chat/completions"
IDENTITY_HEADER = "x-asyncopt-identity"


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that was received: its line in the ledger, the reply, and the seconds until the reply is sent."""

    entry: Entry
    reply: Reply
    delay: float = 0.0


class SimulatedAPI:
    """A server of any model name, with stated quotas, latency and answers.

    Rates are per second; a quota without a burst gets one second's worth. ``refused_count`` charges refused requests
    too. ``concurrency`` is how many requests are worked on at once; the others queue, as behind a server of one's own.
    With ``require_key``, other keys get a 401. Requests at a temperature above 0 draw another answer each time, unless
    they state a seed. Without ``keep_prompts`` the ledger holds only hashes of the prompts.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        latency: Latency | None = None,
        requests_per_second: float | None = None,
        request_burst: float | None = None,
        tokens_per_second: float | None = None,
        token_burst: float | None = None,
        refused_count: bool = False,
        concurrency: int | None = None,
        answers: AnswerModel | None = None,
        require_key: str | None = None,
        keep_prompts: bool = True,
    ) -> None:
        self.seed = seed
        self.ledger = Ledger(keep_prompts=keep_prompts)
        self._answers = answers if answers is not None else AnswerModel(seed)
        self.identity = f"simulated:{self._answers.seed}:{self._answers.fingerprint}"
        self._latency = latency if latency is not None else Constant()
        self._requests = _bucket("request", requests_per_second, request_burst, refused_count)
        self._tokens = _bucket("token", tokens_per_second, token_burst, refused_count)
        self._key = require_key
        self._free_at = _slots(concurrency)
        self._drawn: Counter[str] = Counter()
        self._clock = _Clock()

    def endpoint(self, *, api_key: str | None = None) -> SimulatedEndpoint:
        """This API as an endpoint in the caller's loop, exact on a virtual clock."""
        return SimulatedEndpoint(self, api_key)

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[str]:
        """Serves on 127.0.0.1 while entered; gives the base URL, ``http://127.0.0.1:PORT/v1``."""
        self._clock.now()
        async with serving(self, port) as url:
            yield url

    def now(self) -> float:
        """Seconds since the server's start: its first :meth:`serve` or request, going on in a later loop."""
        return self._clock.now()

    async def handle(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The reply to a chat request, after the latency; ``headers`` is case-insensitive."""
        pending = self.receive(body, headers, self.now())
        status = CANCELLED
        try:
            await asyncio.sleep(pending.delay)
            status = pending.reply.status
        finally:
            self.ledger.close(pending.entry, self.now(), status)
        return pending.reply

    def models(self, headers: Mapping[str, str]) -> Reply:
        """The reply to ``GET /v1/models``."""
        if not self._may_enter(headers):
            return self._unauthorized()
        model = {"id": "simulated", "object": "model", "created": 0, "owned_by": "asyncopt"}
        return self._reply(200, {"object": "list", "data": [model]})

    def receive(self, body: bytes, headers: Mapping[str, str], now: float) -> Pending:
        """Decides at ``now`` what becomes of a chat request. The caller waits and closes the entry."""
        key = _bearer(headers)
        entry = self.ledger.open(now, digest_of(key, 6) if key else None)
        if not self._may_enter(headers):
            return Pending(entry, self._unauthorized())
        try:
            request = parse_chat(body)
        except BadRequest as error:
            return Pending(entry, self._reply(400, error_body(str(error), "invalid_request_error")))
        self.ledger.describe(entry, request.model, request.prompt)
        entry.input_tokens = request.input_tokens
        entry.charged = request.input_tokens + (request.max_tokens or 0)
        refusal = self._refusal(request.model, entry.charged, now)
        if refusal is not None:
            return Pending(entry, refusal)
        return self._answered(entry, request, now)

    def _answered(self, entry: Entry, request: ChatRequest, now: float) -> Pending:
        text = self._answers.answer(request.prompt, self._draw(request))
        answer, entry.output_tokens = completion_body(entry.number, request, text, self.identity)
        latency = self._latency.seconds(self.seed, entry.number)
        delay = self._start(now, latency) - now + latency
        return Pending(entry, self._reply(200, answer, self._limit_headers(now)), delay)

    def _draw(self, request: ChatRequest) -> str:
        if not request.temperature:
            return ""
        if request.seed is not None:
            return f"seed {request.seed}"
        prompt = digest_of(request.prompt, 16)
        self._drawn[prompt] += 1
        return f"draw {self._drawn[prompt]}"

    def _start(self, now: float, latency: float) -> float:
        if not self._free_at:
            return now
        start = max(now, self._free_at[0])
        heapq.heapreplace(self._free_at, start + latency)
        return start

    def _refusal(self, model: str, tokens: int, now: float) -> Reply | None:
        demands = [(bucket, amount) for bucket, amount in ((self._requests, 1), (self._tokens, tokens)) if bucket]
        waits = [wait or 0.0 for wait in take_all(now, demands)]
        if not any(waits):
            return None
        wait = max(waits)
        bucket, amount = demands[waits.index(wait)]
        kind = "tokens" if bucket is self._tokens else "requests"
        message = f"Limit for {model}: {bucket.rate * 60:.10g} {kind} per minute."
        headers = self._limit_headers(now)
        if math.isinf(wait):
            message += f" This request asks for {amount}, and never more than {bucket.burst:.10g} are granted at once."
        else:
            message += f" Try again in {go_duration(wait)}."
            headers |= {"Retry-After": str(math.ceil(wait)), "retry-after-ms": str(milliseconds_of(wait))}
        return self._reply(429, error_body(message, kind, "rate_limit_exceeded"), headers)

    def _limit_headers(self, now: float) -> dict[str, str]:
        headers = {}
        for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{kind}"] = str(round(bucket.rate * 60))
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.level(now) + 1e-6)))
                headers[f"x-ratelimit-reset-{kind}"] = go_duration(bucket.until_full(now))
        return headers

    def _may_enter(self, headers: Mapping[str, str]) -> bool:
        return self._key is None or hmac.compare_digest(_bearer(headers).encode(), self._key.encode())

    def _unauthorized(self) -> Reply:
        message = "The API key is missing or wrong."
        return self._reply(401, error_body(message, "invalid_request_error", "invalid_api_key"))

    def _reply(self, status: int, body: Json, headers: Mapping[str, str] | None = None) -> Reply:
        own = {"content-type": "application/json", IDENTITY_HEADER: self.identity}
        return Reply(status, CIMultiDict({**own, **(headers or {})}), codec.dumps(body))


class SimulatedEndpoint:
    """A :class:`SimulatedAPI` without sockets, spoken to in the bytes that a real one gets and sends."""

    def __init__(self, api: SimulatedAPI, api_key: str | None) -> None:
        self.identity = api.identity
        self.account = digest_of(api_key, 6) if api_key else ""
        self.supports = Capabilities()
        self._api = api
        self._codec = OpenAIChat()
        self._headers = CIMultiDict({"Authorization": f"Bearer {api_key}"} if api_key else {})

    async def send(self, model: str, request: Generate) -> Answer:
        """One attempt, answered after the simulated latency."""
        return self._codec.decode(await self._api.handle(self._codec.encode(model, request), self._headers))

    async def aclose(self) -> None:
        """Nothing is open."""


class _Clock:
    """Time that starts at 0 and goes on where it stopped when a later loop takes the server over."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._origin = self._last = 0.0

    def now(self) -> float:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._origin = loop, loop.time() - self._last
        self._last = loop.time() - self._origin
        return self._last


def _bucket(name: str, rate: float | None, burst: float | None, refused_count: bool) -> TokenBucket | None:
    if rate is None:
        if burst is not None:
            raise ConfigError(f"a {name} burst of {burst} was given without a rate; give the rate too")
        return None
    return TokenBucket(rate, max(1.0, rate) if burst is None else burst, charge_refused=refused_count)


def _slots(concurrency: int | None) -> list[float]:
    if concurrency is not None and concurrency < 1:
        raise ConfigError(f"the concurrency is {concurrency}; it must be at least 1, or None for no bound")
    return [-math.inf] * (concurrency or 0)


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
