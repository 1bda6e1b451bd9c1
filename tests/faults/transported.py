"""What the tests of scripted servers share."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

import orjson
from conftest import CANARY
from served import good

from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.protocol import Answer
from asyncopt.events import AttemptFailed, Event
from asyncopt.testing.raw import Asked, answer
from asyncopt.values import Fault, FaultKind, Generate

OK = b"HTTP/1.1 200 OK\r\n"
GOOD = good()


async def ask(url: str, *texts: str, key: str | None = CANARY) -> list[Answer]:
    """The answers to questions asked one after the other over one endpoint."""
    endpoint = HttpEndpoint(url, key)
    try:
        return [await endpoint.send("m", Generate.of(text)) for text in texts]
    finally:
        await endpoint.aclose()


def kinds(answers: Iterable[Answer]) -> list[FaultKind | str]:
    return [found.kind if isinstance(found, Fault) else found.text for found in answers]


def question(asked: Asked) -> str:
    """The text of the prompt in a request."""
    return str(orjson.loads(asked.body)["messages"][0]["content"])


def echo(asked: Asked) -> bytes:
    return answer(good(question(asked)))


class Seen:
    """The kinds of the attempts that have failed."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def notify(self, event: Event) -> None:
        if isinstance(event, AttemptFailed):
            self.failures.append(event.kind)


@contextmanager
def deaf(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """The port of a socket that listens and whose queue is full: whoever connects hears nothing."""
    with socket.create_server((host, port), backlog=0) as listening, closing(socket.socket()) as first:
        first.connect((host, listening.getsockname()[1]))
        yield listening.getsockname()[1]
