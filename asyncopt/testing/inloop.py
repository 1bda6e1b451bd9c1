"""A simulated API without sockets, spoken to in the bytes that a real one gets and sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from multidict import CIMultiDict

from asyncopt.endpoints.anthropic import CAPABILITIES as ANTHROPIC
from asyncopt.endpoints.anthropic import AnthropicMessages
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.endpoints.errands import Errand
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Answer, Ask, Codec, LikelihoodCodec, Reply, StreamDecoder, converse
from asyncopt.testing.abilities import Abilities
from asyncopt.testing.chance import digest_of
from asyncopt.testing.faults import Cut
from asyncopt.testing.streaming import Write
from asyncopt.values import Capabilities, Fault, FaultKind, Generate, Likelihood, Request

_CUT = Fault(FaultKind.AMBIGUOUS, "the connection broke after the request was sent (simulated)")
_NO_LIKELIHOODS = Fault(FaultKind.FATAL_CONFIG, "this format cannot ask for the log-probabilities of a given text")


class Server(Protocol):
    """What answers the endpoint."""

    identity: str

    async def handle(self, body: bytes, headers: Mapping[str, str], path: str, write: Write | None = None) -> Reply: ...

    async def errand(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply: ...


class SimulatedEndpoint:
    """A simulated API as an endpoint in the caller's loop, exact on a virtual clock."""

    def __init__(self, api: Server, api_key: str | None, codec: Codec, abilities: Abilities) -> None:
        self.identity = api.identity + getattr(codec, "variant", "")
        self.account = digest_of(api_key, 6) if api_key else ""
        self.supports = _capabilities(codec, abilities)
        self._api = api
        self._codec = codec
        self._headers = CIMultiDict(codec.headers(api_key))

    async def send(self, model: str, request: Request) -> Answer:
        """One attempt, answered after the simulated latency."""
        if isinstance(request, Likelihood):
            return await self._likelihood(model, request)
        reply = await self._reply_to(Ask(self._codec.path(model), self._codec.encode(model, request)))
        return reply if isinstance(reply, Fault) else self._codec.decode(reply)

    async def send_streamed(self, model: str, request: Request, first_piece: Callable[[], None]) -> Answer:
        """One attempt whose answer comes in pieces; ``first_piece`` is called when it begins."""
        if isinstance(request, Likelihood):
            return await self._likelihood(model, request)
        listener = _Listener(self._codec, first_piece)
        body = self._codec.encode(model, request, stream=True)
        try:
            reply = await self._api.handle(body, self._headers, self._codec.path(model), listener.hear)
        except Cut:
            return _CUT
        return await listener.answer(reply)

    def asked(self, model: str, request: Generate) -> Ask:
        """The path and the body that the request has when it is sent alone."""
        return Ask(self._codec.path(model), self._codec.encode(model, request))

    def answered(self, reply: Reply) -> Answer:
        """The completion, or the fault, in what would have been the reply to one request."""
        return self._codec.decode(reply)

    async def errand(self, errand: Errand) -> Reply | Fault:
        """The reply about a file or a batch, at once."""
        headers = CIMultiDict({**self._headers, "Content-Type": errand.content_type})
        return await self._api.errand(errand.method, errand.path, errand.body, headers)

    async def _likelihood(self, model: str, request: Likelihood) -> Answer:
        if not isinstance(self._codec, LikelihoodCodec):
            return _NO_LIKELIHOODS
        return await converse(self._codec.likelihood(model, request), self._reply_to)

    async def _reply_to(self, ask: Ask) -> Reply | Fault:
        try:
            return await self._api.handle(ask.body, self._headers, ask.path)
        except Cut:
            return _CUT

    async def aclose(self) -> None:
        """Nothing is open."""


def _capabilities(codec: Codec, abilities: Abilities) -> Capabilities:
    """What can be asked of such a server in this format."""
    if isinstance(codec, AnthropicMessages):
        return ANTHROPIC
    completions = isinstance(codec, TextCompletions)
    return Capabilities(
        chat=not completions,
        completion=completions,
        top_logprobs=abilities.top_logprobs,
        prompt_logprobs=isinstance(codec, LikelihoodCodec) and abilities.prompt_logprobs != "none",
        seed=abilities.seed,
        n=abilities.n,
        logit_bias=abilities.logit_bias,
        grammar=abilities.tokens_by_name,
        stream=True,
        extra=True,
        batch=abilities.batch and type(codec) is OpenAIChat,
    )


class _Listener:
    """Feeds what comes to the codec's decoder."""

    def __init__(self, codec: Codec, first_piece: Callable[[], None]) -> None:
        self._codec = codec
        self._first_piece = first_piece
        self._begun = False
        self._decoder: StreamDecoder | None = None

    async def hear(self, head: Reply, data: bytes) -> None:
        self._decoder = self._decoder or self._codec.stream(head)
        if self._decoder.feed(data) and not self._begun:
            self._begun = True
            self._first_piece()

    async def answer(self, reply: Reply) -> Answer:
        """The answer at the end; one that did not come in pieces is in the reply."""
        if self._decoder is None:
            await self.hear(Reply(reply.status, reply.headers, b""), reply.body)
        assert self._decoder is not None
        return self._decoder.finish()
