"""Requests beside the answering of prompts: files that are sent and fetched, and batches that are looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from asyncopt.endpoints.protocol import Answer, Ask, Endpoint, Reply
from asyncopt.values import Fault, Generate

Method: TypeAlias = Literal["GET", "POST"]


@dataclass(frozen=True, slots=True)
class Errand:
    """One HTTP request; ``path`` follows the base URL, and has the query if there is one."""

    method: Method
    path: str
    body: bytes = b""
    content_type: str = "application/json"


@runtime_checkable
class BatchingEndpoint(Endpoint, Protocol):
    """An endpoint with ``supports.batch``: its requests can be written into a file, and answers be read out of one."""

    def asked(self, model: str, request: Generate) -> Ask:
        """The path and the body that the request has when it is sent alone."""
        ...

    def answered(self, reply: Reply) -> Answer:
        """The completion, or the fault, in what would have been the reply to one request."""
        ...

    async def errand(self, errand: Errand) -> Reply | Fault:
        """The whole reply, whatever its status; a fault where there is none. One attempt, as :meth:`Endpoint.send`."""
        ...
