"""What every endpoint is: one attempt per :meth:`Endpoint.send`, answered by a completion or a fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from asyncopt.values import Capabilities, Completion, Fault, Generate

Answer: TypeAlias = "Completion | Fault"


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response as a pure codec sees it; ``headers`` is case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Codec(Protocol):
    """A wire format: a request to bytes, a reply to an answer. Pure, and never raising on what a server sends."""

    path: str

    def encode(self, model: str, request: Generate) -> bytes: ...

    def decode(self, reply: Reply) -> Answer: ...


class Endpoint(Protocol):
    """Where requests go. ``identity`` is its part of the cache key; ``account`` tells keys apart without being one."""

    identity: str
    account: str
    supports: Capabilities

    async def send(self, model: str, request: Generate) -> Answer:
        """One attempt. Never retries, never raises for anything that a server or a network does."""
        ...

    async def aclose(self) -> None: ...
