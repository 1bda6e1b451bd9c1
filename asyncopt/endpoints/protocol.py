"""What every endpoint is: one attempt per :meth:`Endpoint.send`, answered by a completion or a fault."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from asyncopt.values import Capabilities, Completion, Fault, Generate, Likelihood, Request

Answer: TypeAlias = "Completion | Fault"


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response as a pure codec sees it; ``headers`` is case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Codec(Protocol):
    """A wire format: a request to bytes, a reply to an answer. Pure, and never raising on what a server sends."""

    def path(self, model: str) -> str:
        """The path and query of a request for this model, to be appended to the base URL."""
        ...

    def headers(self, key: str | None) -> dict[str, str]:
        """The headers that carry the key and name the format's version; Content-Type is the transport's."""
        ...

    def encode(self, model: str, request: Generate, *, stream: bool = False) -> bytes:
        """The request's body; with ``stream``, one that asks for the answer in pieces."""
        ...

    def decode(self, reply: Reply) -> Answer:
        """The completion in the reply, or the fault that it stands for, with what its headers say of limits."""
        ...

    def stream(self, reply: Reply) -> StreamDecoder:
        """A decoder of a streamed answer's pieces; ``reply`` has its status and headers, and no body yet."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One HTTP request that a codec wants sent; ``path`` follows the base URL, or the server's root if ``at_root``."""

    path: str
    body: bytes
    at_root: bool = False


Exchange: TypeAlias = "Generator[Ask, Reply, Answer]"


@runtime_checkable
class LikelihoodCodec(Codec, Protocol):
    """A codec whose servers can also be asked how likely a given text is."""

    def likelihood(self, model: str, request: Likelihood) -> Exchange:
        """Yields what is to be sent, is given the reply to each, and returns the answer; nothing raises."""
        ...


async def converse(exchange: Exchange, reply_to: Callable[[Ask], Awaitable[Reply | Fault]]) -> Answer:
    """The answer at the end of an exchange; a request without a reply ends it with that fault."""
    try:
        ask = next(exchange)
        while True:
            reply = await reply_to(ask)
            if isinstance(reply, Fault):
                return reply
            ask = exchange.send(reply)
    except StopIteration as end:
        answer: Answer = end.value
        return answer


class StreamDecoder(Protocol):
    """Puts a streamed answer together from its bytes, however they are cut."""

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; whether the first piece of the answer has come (of text, a refusal, or an error)."""
        ...

    def finish(self) -> Answer:
        """The completion, or the fault; an answer that was cut short is a fault, never half an answer."""
        ...


class Named(Protocol):
    """What is known of answers before any comes: their part of the cache key, and what can be asked for."""

    @property
    def identity(self) -> str: ...

    @property
    def supports(self) -> Capabilities: ...


class Endpoint(Protocol):
    """Where requests go. ``identity`` is its part of the cache key; ``account`` tells keys apart without being one.

    One that has an ``own`` which is true belongs to this process alone: its quota is not shared with others.
    """

    identity: str
    account: str
    supports: Capabilities

    async def send(self, model: str, request: Request) -> Answer:
        """One attempt. Never retries, never raises for anything that a server or a network does."""
        ...

    async def aclose(self) -> None: ...


class StreamingEndpoint(Endpoint, Protocol):
    """An endpoint with ``supports.stream``: it can say when the first piece of an answer has come."""

    async def send_streamed(self, model: str, request: Request, first_piece: Callable[[], None]) -> Answer:
        """One attempt, as :meth:`send`; ``first_piece`` is called once, when the answer begins."""
        ...
