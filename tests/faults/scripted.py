"""A server whose every reply a test writes down, in the bytes and headers that a real one sends: no sockets, no waiting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from multidict import CIMultiDict

from asyncopt import Engine, Generate, Model, Quota, codec
from asyncopt.endpoints.openai import CHAT_CAPABILITIES, OpenAIChat
from asyncopt.endpoints.protocol import Answer, Codec, Reply
from asyncopt.errors import AsyncoptError
from asyncopt.events import Event, Note
from asyncopt.values import Completion, Request

Script = Callable[[int, str], Reply]
"""The reply to the request with this number and this prompt."""


def answer(text: str = "yes", **changes: object) -> Reply:
    """A success in OpenAI's shape; ``changes`` replace fields of its body."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    body = {"model": "m", "choices": [choice], "usage": usage, **changes}
    return Reply(200, {}, json.dumps(body).encode())  # orjson has no numbers above 64 bits


def failure(status: int, error: object = None, headers: Mapping[str, str] | None = None) -> Reply:
    """A failed response with this error object; bytes are sent as they are."""
    body = error if isinstance(error, bytes) else codec.dumps({} if error is None else {"error": error})  # type: ignore[arg-type]
    return Reply(status, CIMultiDict(headers or {}), body)


class Scripted:
    """Answers after ``seconds`` with what the script says; remembers when it was asked, and what."""

    account = ""
    supports = CHAT_CAPABILITIES

    def __init__(self, script: Script, *, seconds: float = 1.0, wire: Codec | None = None) -> None:
        self.identity = "scripted"
        self.seconds = seconds
        self.arrived: list[float] = []
        self.prompts: list[str] = []
        self.in_flight = 0
        self._script = script
        self._codec = OpenAIChat() if wire is None else wire

    async def send(self, model: str, request: Request) -> Answer:
        number, prompt = len(self.arrived), request.prompt[-1].content
        self.arrived.append(asyncio.get_running_loop().time())
        self.prompts.append(prompt)
        self.in_flight += 1
        try:
            await asyncio.sleep(self.seconds)
            return self._codec.decode(self._script(number, prompt))
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        """Nothing is open."""


class Notes:
    """An observer that keeps what people are told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def notify(self, event: Event) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)


class Watching:
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)


async def ask(model: Model, count: int) -> list[Completion | BaseException]:
    """What becomes of so many different requests, asked at once."""
    calls = (model.submit(Generate.of(f"question {number}")) for number in range(count))
    return await asyncio.gather(*calls, return_exceptions=True)


def asked(
    endpoint: Any,
    count: int,
    *,
    quota: Quota | None = None,
    observers: tuple[Any, ...] = (),
    wait: bool = False,
    timeout: float = 600.0,
) -> Callable[[], Coroutine[Any, Any, list[Completion | BaseException]]]:
    """The coroutine for ``run_virtual`` that asks an endpoint so many different things."""

    async def main() -> list[Completion | BaseException]:
        async with Engine(observers=observers, wait=wait) as engine:
            model = engine.model("m", endpoint=endpoint, quota=quota or Quota(), timeout=timeout)
            return await ask(model, count)

    return main


def errors(results: list[Completion | BaseException]) -> list[AsyncoptError]:
    """The errors among the results."""
    return [result for result in results if isinstance(result, AsyncoptError)]


def served(results: list[Completion | BaseException]) -> bool:
    return all(isinstance(result, Completion) for result in results)


def pause(endpoint: Scripted) -> float:
    """Seconds from the first answer to the next request."""
    return next(moment for moment in endpoint.arrived if moment > endpoint.seconds) - endpoint.seconds
