"""An API in the shapes of OpenAI's and Anthropic's, with quotas, latency, faults and a ledger: in the same loop, or
behind real sockets.

Tokens are counted by a ratio: one for every 4 bytes of UTF-8 in the messages' contents or in the answer, rounded up.
A token quota is asked for the prompt's count plus ``max_tokens`` when the request arrives.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote

from multidict import CIMultiDict

from asyncopt import codec
from asyncopt.endpoints.llamacpp import LlamaChat
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Codec, Reply
from asyncopt.errors import ConfigError
from asyncopt.testing.abilities import USUAL_ABILITIES, Abilities
from asyncopt.testing.answers import AnswerModel
from asyncopt.testing.batches import USUAL_PLAN, BatchPlan, SimulatedBatches, owner_of
from asyncopt.testing.chance import digest_of
from asyncopt.testing.chat import ChatShape
from asyncopt.testing.clerk import Clerk
from asyncopt.testing.clock import ServerClock
from asyncopt.testing.completions import CompletionsShape
from asyncopt.testing.dialects import dialect_of, http_date
from asyncopt.testing.failures import headers_of
from asyncopt.testing.faults import Cut, FaultPlan
from asyncopt.testing.inloop import SimulatedEndpoint
from asyncopt.testing.latency import Constant, Latency
from asyncopt.testing.ledger import CANCELLED, CUT, Entry, Ledger
from asyncopt.testing.messages import MessagesShape
from asyncopt.testing.quotas import Demand, Quotas, Refusal
from asyncopt.testing.server import serving
from asyncopt.testing.streaming import Piece, Write
from asyncopt.testing.wire import BadRequest, Shape, object_in, require
from asyncopt.testing.work import Result, Worker

CHAT_PATH = "/chat/completions"
IDENTITY_HEADER = "x-asyncopt-identity"
EPOCH = 1_767_225_600.0  # 2026-01-01T00:00:00Z is when every server starts, so that its dates repeat

_MESSAGES = MessagesShape()
_DEPLOYMENT = re.compile(r"/deployments/([^/?]+)/")


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that was received: its line in the ledger, the reply, and the seconds until the reply is sent.

    A streamed reply comes in ``pieces``. ``admitted`` is what a request that was let through demanded of the quotas.
    """

    entry: Entry
    reply: Reply
    delay: float = 0.0
    pieces: tuple[Piece, ...] = ()
    admitted: Demand | None = None


class SimulatedAPI:
    """A server of any model name, with stated quotas, latency, faults and answers.

    **Quotas.** Rates are per second; one without a burst gets one second's worth. ``request_window`` makes the request
    quota a sliding window of so many seconds. ``refused_count`` charges refused requests, too; ``refund_tokens`` gives
    back what a request did not use. ``change=(30, 0.5)`` multiplies all rates and bursts by 0.5 after 30 s, which
    headers tell unless ``silent_change``. ``stranger=0.3`` is somebody else who takes 30 % of every rate, evenly.

    **Headers.** ``headers`` names the dialect: openai, azure, anthropic, openrouter or none. They say how the quotas
    stood when the request was let through. Without ``retry_after`` refusals do not say when to come back.
    ``clock_skew`` puts the server's clock ahead, in seconds.

    **Work.** ``concurrency`` is how many requests are worked on at once; the others queue, as behind a server of one's
    own. A streamed answer begins after ``first_byte_share`` of the usual latency and all of what only its tail takes.
    Wrong answers to known questions take ``slow_wrong`` times as long. ``faults`` is a :class:`FaultPlan`.

    **Abilities.** ``abilities`` says which formats there are, and what can be asked of log-probabilities, seeds and n.

    **Batches.** ``batches`` is a :class:`BatchPlan`. What is in a batch is in no quota, is met by no plan of faults and
    has a ledger of its own, ``batches.ledger``.

    With ``require_key``, other keys get a 401. Requests at a temperature above 0 draw another answer each time, unless
    they state a seed. Without ``keep_prompts`` the ledger holds hashes of the prompts and answers.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        latency: Latency | None = None,
        requests_per_second: float | None = None,
        request_burst: float | None = None,
        request_window: float | None = None,
        tokens_per_second: float | None = None,
        token_burst: float | None = None,
        input_tokens_per_second: float | None = None,
        output_tokens_per_second: float | None = None,
        refund_tokens: bool = False,
        refused_count: bool = False,
        change: tuple[float, float] | None = None,
        silent_change: bool = False,
        stranger: float = 0.0,
        headers: str = "openai",
        retry_after: bool = True,
        clock_skew: float = 0.0,
        concurrency: int | None = None,
        first_byte_share: float = 0.3,
        slow_wrong: float = 1.0,
        faults: FaultPlan | None = None,
        answers: AnswerModel | None = None,
        abilities: Abilities = USUAL_ABILITIES,
        batches: BatchPlan = USUAL_PLAN,
        require_key: str | None = None,
        keep_prompts: bool = True,
    ) -> None:
        self.seed = seed
        self.ledger = Ledger(keep_prompts=keep_prompts)
        self._quotas = Quotas(
            requests_per_second=requests_per_second,
            request_burst=request_burst,
            request_window=request_window,
            tokens_per_second=tokens_per_second,
            token_burst=token_burst,
            input_tokens_per_second=input_tokens_per_second,
            output_tokens_per_second=output_tokens_per_second,
            refund_tokens=refund_tokens,
            refused_count=refused_count,
            change=change,
            silent_change=silent_change,
            stranger=stranger,
        )
        self._worker = Worker(
            seed=seed,
            answers=answers if answers is not None else AnswerModel(seed),
            latency=latency if latency is not None else Constant(),
            concurrency=concurrency,
            first_byte_share=first_byte_share,
            slow_wrong=slow_wrong,
            faults=faults,
            abilities=abilities,
        )
        self.identity = self._worker.identity
        self.batches = SimulatedBatches(batches, seed, Clerk(self._worker, self._shape, keep_prompts=keep_prompts))
        self._dialect, self._hints = dialect_of(headers), retry_after
        self._wall_at_start = EPOCH + _finite(clock_skew)
        self._key, self._clock = require_key, ServerClock()

    def endpoint(self, *, api_key: str | None = None, codec: Codec | None = None) -> SimulatedEndpoint:
        """This API as an endpoint in the caller's loop, exact on a virtual clock.

        The format is by default OpenAI's chats, or llama.cpp's where the API tells log-probabilities in its way.
        """
        abilities = self._worker.abilities
        usual = LlamaChat() if abilities.tokens_by_name else OpenAIChat()
        return SimulatedEndpoint(self, api_key, usual if codec is None else codec, abilities)

    @property
    def faults(self) -> FaultPlan | None:
        """What goes wrong; it may be changed while requests are in flight."""
        return self._worker.faults

    @faults.setter
    def faults(self, plan: FaultPlan | None) -> None:
        self._worker.faults = plan

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[str]:
        """Serves on 127.0.0.1 while entered; gives the base URL, ``http://127.0.0.1:PORT/v1``.

        Azure's paths are below ``http://127.0.0.1:PORT``.
        """
        self._clock.now()
        async with serving(self, port) as url:
            yield url

    def now(self) -> float:
        """Seconds since the server's start: its first :meth:`serve` or request, going on in a later loop."""
        return self._clock.now()

    async def handle(
        self, body: bytes, headers: Mapping[str, str], path: str = CHAT_PATH, write: Write | None = None
    ) -> Reply:
        """The reply to a request, after the latency; ``headers`` is case-insensitive.

        The pieces of a streamed answer go to ``write`` as they come, or all at once into the reply without it.
        Raises :class:`Cut` where the plan of faults breaks the connection.
        """
        if path.endswith("/tokenize"):
            return self._tokenized(body, headers)
        pending = self.receive(body, headers, self.now(), path)
        status = CANCELLED
        try:
            reply = await self._delivered(pending, write)
            status = reply.status
        except Cut:
            status = CUT
            raise
        finally:
            self._close(pending, status)
        return reply

    async def errand(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The reply to a request about files and batches; ``path`` is below the base URL, with the query."""
        if not self._may_enter(headers):
            return self._unauthorized(self._chat)
        if not self._worker.abilities.batch:
            return self._reply(404, codec.dumps(self._chat.error(404, "Nothing is served there.")), self.now())
        kind, owner = headers.get("Content-Type", ""), owner_of(_key_in(headers))
        try:
            status, found = self.batches.handle(method, path, body, kind, owner, self.now())
        except BadRequest as error:
            status, found = 400, self._chat.error(400, str(error))
        return self._reply(status, found if isinstance(found, bytes) else codec.dumps(found), self.now())

    def models(self, headers: Mapping[str, str]) -> Reply:
        """The reply to ``GET /v1/models``."""
        if not self._may_enter(headers):
            return self._unauthorized(self._chat)
        model = {"id": "simulated", "object": "model", "created": 0, "owned_by": "asyncopt"}
        return self._reply(200, codec.dumps({"object": "list", "data": [model]}), self.now())

    def receive(self, body: bytes, headers: Mapping[str, str], now: float, path: str = CHAT_PATH) -> Pending:
        """Decides at ``now`` what becomes of a request. The caller waits and closes the entry."""
        key = _key_in(headers)
        entry = self.ledger.open(now, digest_of(key, 6) if key else None)
        shape, abilities = self._shape(path), self._worker.abilities
        if not self._may_enter(headers):
            return Pending(entry, self._unauthorized(shape))
        if not abilities.serves(path):
            return Pending(entry, self._reply(404, codec.dumps(shape.error(404, "Nothing is served there.")), now))
        deployment = _DEPLOYMENT.search(path)
        try:
            request = abilities.understood(shape.parse(body, unquote(deployment[1]) if deployment else None))
        except BadRequest as error:
            return Pending(entry, self._reply(400, codec.dumps(shape.error(400, str(error))), now))
        self.ledger.describe(entry, request.model, request.prompt)
        demand = Demand(request.input_tokens, request.n * (request.max_tokens or 0))
        entry.input_tokens, entry.charged = demand.input_tokens, demand.amount("tokens")
        refusal = self._quotas.ask(now, demand)
        if refusal is not None:
            return Pending(entry, self._refused(shape, request.model, refusal, now))
        limits = self._dialect.limits(self._quotas.meters(now), self._wall(now))
        return self._admitted(entry, self._worker.result(entry, request, shape), demand, limits)

    @property
    def _chat(self) -> ChatShape:
        return ChatShape(with_ids=self._worker.abilities.tokens_by_name)

    def _shape(self, path: str) -> Shape:
        path = path.partition("?")[0]
        if path.endswith("/messages"):
            return _MESSAGES
        if path.endswith("/completions") and not path.endswith(CHAT_PATH):
            return CompletionsShape(as_chat=self._worker.abilities.tokens_by_name)
        return self._chat

    def _tokenized(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The reply to llama.cpp's ``POST /tokenize``, which needs no model and counts against no quota."""
        if not self._may_enter(headers):
            return self._unauthorized(self._chat)
        if not self._worker.abilities.serves("/tokenize"):
            return self._reply(404, codec.dumps(self._chat.error(404, "Nothing is served there.")), self.now())
        try:
            content = object_in(body).get("content")
            require(isinstance(content, str), "The parameter 'content' is missing or no text.")
        except BadRequest as error:
            return self._reply(400, codec.dumps(self._chat.error(400, str(error))), self.now())
        return self._reply(200, codec.dumps({"tokens": self._worker.writer.tokens.ids(str(content))}), self.now())

    def _admitted(self, entry: Entry, result: Result, demand: Demand, limits: Mapping[str, str]) -> Pending:
        headers = dict(limits) if result.status == 200 else {}
        headers |= headers_of(entry.fault, self._wall(entry.arrived))
        if result.pieces:
            headers["content-type"] = "text/event-stream"
        reply = self._reply(result.status, result.body, entry.arrived + result.head_delay, headers)
        return Pending(entry, reply, result.delay, result.pieces, demand)

    async def _delivered(self, pending: Pending, write: Write | None) -> Reply:
        entry, head = pending.entry, pending.reply
        if not pending.pieces:
            await asyncio.sleep(pending.delay)
            await self._break(entry.fault, head, write)
            return head
        body = bytearray()
        for piece in pending.pieces:
            await asyncio.sleep(max(0.0, entry.arrived + piece.after - self.now()))
            if entry.first_byte is None:
                entry.first_byte = self.now()
            body += piece.data
            if write is not None:
                await write(head, piece.data)
            entry.output_tokens = piece.tokens
        return Reply(head.status, head.headers, bytes(body))

    async def _break(self, fault: str | None, head: Reply, write: Write | None) -> None:
        """Do to the connection what the fault says; return if it says nothing."""
        if fault == "hang":
            await asyncio.get_running_loop().create_future()
        if fault == "reset-body" and write is not None:
            await write(head, head.body[: len(head.body) // 2])
        if fault in ("reset", "reset-body"):
            raise Cut

    def _close(self, pending: Pending, status: int) -> None:
        entry, now = pending.entry, self.now()
        self.ledger.close(entry, now, status)
        if pending.admitted is not None:
            worked = status in (200, CANCELLED, CUT)
            used = Demand(entry.input_tokens, entry.output_tokens) if worked else Demand(0, 0)
            self._quotas.settle(now, pending.admitted, used)

    def _refused(self, shape: Shape, model: str, refusal: Refusal, now: float) -> Reply:
        meters, wall = self._quotas.meters(now), self._wall(now)
        (meter,) = (meter for meter in meters if meter.dimension == refusal.dimension)
        message = f"Limit for {model}: {meter.limit:.10g} {meter.dimension.replace('_', ' ')} per minute."
        headers = self._dialect.limits(meters, wall)
        if math.isinf(refusal.wait):
            message += f" This request asks for {refusal.amount}; at most {refusal.burst:.10g} are granted at once."
        elif self._hints:
            message += self._dialect.words(refusal.wait)
            headers |= self._dialect.hint(refusal.wait)
        body = shape.error(429, message, meter.dimension)
        if self._dialect.metadata is not None:
            metadata = self._dialect.metadata(meter, refusal.wait, wall)
            body = {"error": {"message": message, "code": 429, "metadata": metadata}}
        return self._reply(429, codec.dumps(body), now, headers)

    def _wall(self, now: float) -> float:
        return self._wall_at_start + now

    def _may_enter(self, headers: Mapping[str, str]) -> bool:
        return self._key is None or hmac.compare_digest(_key_in(headers).encode(), self._key.encode())

    def _unauthorized(self, shape: Shape) -> Reply:
        return self._reply(401, codec.dumps(shape.error(401, "The API key is missing or wrong.")), self.now())

    def _reply(self, status: int, body: bytes, sent: float, headers: Mapping[str, str] | None = None) -> Reply:
        own = {
            "content-type": "application/json",
            "date": http_date(self._wall(sent)),
            IDENTITY_HEADER: self.identity,
        }
        return Reply(status, CIMultiDict({**own, **(headers or {})}), body)


def _finite(skew: float) -> float:
    if not math.isfinite(skew):
        raise ConfigError(f"the clock skew is {skew!r}; it must be a number of seconds")
    return skew


def _key_in(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("x-api-key", headers.get("api-key", "")).strip()
