"""The right answer to the right prompt, while the server kills connections and hundreds of calls a second are cancelled.

Every prompt has a number of its own, which the server sends back. ``--nonces 100000`` makes as many calls.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from calls import started

from asyncopt import Completion, Engine, Generate, Quota
from asyncopt.cache.memory import unpack
from asyncopt.codec import loads
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.errors import CallFailed
from asyncopt.identity import RequestKeys
from asyncopt.values import Fault

uvloop = pytest.importorskip("uvloop")
pytestmark = [pytest.mark.real, pytest.mark.row("T17"), pytest.mark.timeout(1200)]

AT_ONCE = 200
PATIENCE = 2.0  # seconds for an attempt; some answers never come, so deadlines cut calls short, too
CANCELLED_A_SECOND, CANCEL_EVERY = 500, 0.01
UNLIMITED = Quota(1e9, concurrency=AT_ONCE)

Ask = Callable[[Generate], "asyncio.Future[Any]"]


@pytest.fixture
def nonces(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--nonces", 8000))


@pytest.fixture
def server() -> Iterator[str]:
    with started(str(Path(__file__).with_name("nonce_server.py"))) as (_, ready):
        yield str(ready["url"])


class Clients:
    """So many clients, each of which asks one question after another; and somebody who cancels them at random."""

    def __init__(self, ask: Ask, count: int) -> None:
        self._ask = ask
        self._left = iter(range(count))
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._rng = random.Random(0)
        self.ended: Counter[str] = Counter()
        self.wrong: list[tuple[str, str]] = []

    async def run(self) -> None:
        cancelling = asyncio.create_task(self._cancel())
        await asyncio.gather(*(self._client() for _ in range(AT_ONCE)))
        cancelling.cancel()
        await asyncio.wait([cancelling])

    async def _client(self) -> None:
        for number in self._left:
            self._waiting[number] = self._ask(question(number))
            try:
                answer = await self._waiting[number]
            except asyncio.CancelledError:
                self.ended["cancelled"] += 1
            except CallFailed:
                self.ended["failed"] += 1
            else:
                self._note(number, answer)
            del self._waiting[number]

    def _note(self, number: int, answer: Completion | Fault) -> None:
        if isinstance(answer, Fault):
            self.ended[answer.kind.value] += 1
        else:
            self.ended["answered"] += 1
            if answer.text != text(number):
                self.wrong.append((text(number), answer.text))

    async def _cancel(self) -> None:
        loop = asyncio.get_running_loop()
        begun, cancelled = loop.time(), 0
        while True:
            await asyncio.sleep(CANCEL_EVERY)
            # On a machine so slow that this would be most of them, some must still be answered.
            most = min(int((loop.time() - begun) * CANCELLED_A_SECOND), self.ended.total() // 2)
            due = max(0, most - cancelled)
            waiting = [future for future in self._waiting.values() if not future.done()]
            for future in self._rng.sample(waiting, min(due, len(waiting))):
                future.cancel()
            cancelled += due


def text(number: int) -> str:
    return f"the number of this prompt is {number}"


def question(number: int) -> Generate:
    return Generate.of(text(number))


def open_now() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    gc.collect()
    return len(os.listdir("/dev/fd")), threading.active_count()


def run(main: Callable[[], Any]) -> Any:
    """What it returns, on uvloop; nothing may be left behind."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))  # uvloop's first loop opens pipes that stay
    before = open_now()

    async def checked() -> Any:
        result = await main()
        await asyncio.sleep(0.1)  # sockets that were closed are let go of in the next turns of the loop
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(checked())
    assert open_now() == before
    return result


def check(clients: Clients, url: str, count: int) -> None:
    with urlopen(url) as response:  # noqa: S310 - it is ours
        counts = loads(response.read())
    print(f"\n{dict(clients.ended)} of {count} calls; the server: {counts}")
    assert clients.wrong == []
    assert clients.ended.total() == count
    assert clients.ended["answered"] > count / 4
    assert clients.ended["cancelled"] > count / 100
    assert counts["killed"] > counts["requests"] / 20
    assert counts["pipelined"] == 0


@pytest.mark.parametrize("cached", [False, True])
def test_no_call_gets_the_answer_of_another(server: str, nonces: int, tmp_path: Path, cached: bool) -> None:
    path = tmp_path / "c.sqlite" if cached else None

    async def main() -> Clients:
        async with Engine(cache=path) as engine:
            model = engine.model("m", base_url=server, quota=UNLIMITED, timeout=PATIENCE)
            clients = Clients(model.submit, nonces)
            await clients.run()
        assert [one.in_flight + one.queued for one in engine.dispatchers] == [0]
        assert engine._shared == {}
        return clients

    clients = run(main)
    check(clients, server, nonces)
    assert clients.ended["failed"] < nonces / 1000
    if path is not None:
        check_cache(path, server, nonces, clients.ended["answered"])


def check_cache(path: Path, server: str, count: int, answered: int) -> None:
    """Every entry is the answer to its own question, and all that were answered are there."""
    keys = RequestKeys(HttpEndpoint(server).identity, "m")
    expected = {keys.of(question(number)): text(number) for number in range(count)}
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT key, value FROM answers_v1").fetchall()
    assert len(rows) >= answered
    assert [key for key, value in rows if (found := unpack(value)) is None or found.text != expected[key]] == []


def test_no_attempt_that_is_cut_short_leaves_its_answer_to_the_next(server: str, nonces: int) -> None:
    """Below the engine, where a cancelled attempt ends its connection wherever it is: connecting, sending, reading."""

    async def main() -> Clients:
        endpoint = HttpEndpoint(server)
        loop = asyncio.get_running_loop()

        def ask(request: Generate) -> asyncio.Task[Any]:
            async def attempt() -> Completion | Fault:
                try:
                    async with asyncio.timeout(PATIENCE):
                        return await endpoint.send("m", request)
                except TimeoutError:
                    raise asyncio.CancelledError from None

            return loop.create_task(attempt())

        clients = Clients(ask, nonces)
        try:
            await clients.run()
        finally:
            await endpoint.aclose()
        return clients

    check(run(main), server, nonces)
