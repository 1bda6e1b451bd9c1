"""An endpoint under the engine whose answers and times a test decides: a fake at the lowest boundary."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncopt.endpoints.protocol import Answer
from asyncopt.testing import run_virtual
from asyncopt.values import Capabilities, Completion, Generate, Usage

__all__ = ["FakeEndpoint", "echo", "run_virtual"]


class FakeEndpoint:
    """Answers after ``seconds`` with what ``respond`` says; remembers who asked what and when."""

    def __init__(
        self,
        respond: Callable[[Generate, int], Answer] | None = None,
        *,
        seconds: float = 0.0,
        identity: str = "fake",
        supports: Capabilities | None = None,
    ) -> None:
        self.identity = identity
        self.account = ""
        self.supports = supports or Capabilities()
        self.seconds = seconds
        self.started: list[float] = []
        self.prompts: list[str] = []
        self.in_flight = self.most_in_flight = 0
        self.closed = False
        self._respond = respond or (lambda request, number: echo(request))

    async def send(self, model: str, request: Generate) -> Answer:
        number = len(self.started)
        self.started.append(asyncio.get_running_loop().time())
        self.prompts.append(request.prompt[-1].content)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
            return self._respond(request, number)
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        self.closed = True


def echo(request: Generate) -> Completion:
    return Completion(request.prompt[-1].content.upper(), usage=Usage(10, 5))
