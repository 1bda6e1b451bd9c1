"""Engines that share a quota and a cache in a real Redis server, which breaks in every way while they work."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from canary import CANARY
from redis_servers import RedisServer, Way, needs_redis, redis_server, way_to
from test_redis_cache import asking

from asyncopt import Engine, Quota
from asyncopt.errors import ConfigError
from asyncopt.events import CacheDegraded, Event, Note
from asyncopt.redislink import PASSWORD
from asyncopt.shared.redis import RedisCoordinator
from asyncopt.testing import Constant, SimulatedAPI
from asyncopt.testing.server import serving

pytestmark = [pytest.mark.real, needs_redis]

RATE, BURST = 120.0, 36  # a second; what the account's server allows at once is three times what is let gather here
CALLS = 200  # of each of two engines


@dataclass
class Notes:
    lost: list[str] = field(default_factory=list)
    back: int = 0
    degraded: list[str] = field(default_factory=list)

    def notify(self, event: Event) -> None:
        if isinstance(event, CacheDegraded):
            self.degraded.append(event.reason)
        elif isinstance(event, Note) and event.text.startswith("the shared quota cannot be kept"):
            self.lost.append(event.text)
        elif isinstance(event, Note) and event.text == "the shared quota is back":
            self.back += 1


@dataclass
class Scene:
    """What a test breaks, and what is looked at then."""

    server: RedisServer
    way: Way
    api: SimulatedAPI
    notes: Notes

    async def until(self, answered: int) -> None:
        """Return when so many calls have been made; the test's own time limit ends a wait in vain."""
        while self.api.ledger.count() < answered:  # noqa: ASYNC110 - what it waits for is far below
            await asyncio.sleep(0.02)

    async def until_lost(self) -> None:
        """Return when both engines have said that they go on alone."""
        while len(self.notes.lost) < 2:  # noqa: ASYNC110 - the test has a time limit
            await asyncio.sleep(0.02)


@asynccontextmanager
async def scene(server: RedisServer) -> AsyncIterator[Scene]:
    api = SimulatedAPI(latency=Constant(0.05), requests_per_second=RATE, request_burst=BURST)
    async with way_to(server) as way:
        yield Scene(server, way, api, Notes())


async def worked(scene: Scene, trouble: Callable[[Scene], Awaitable[None]]) -> None:
    """Two engines ask, while there is trouble; afterwards both have asked again without any."""
    quota = Quota(requests_per_minute=60 * RATE, concurrency=200)
    async with AsyncExitStack() as stack:
        models = []
        for _ in range(2):
            coordinator = RedisCoordinator(scene.way.url)
            engine = Engine(cache=scene.way.url, coordinator=coordinator, observers=[scene.notes], grace=0.0)
            await stack.enter_async_context(engine)
            models.append(engine.model("m", endpoint=scene.api.endpoint(), quota=quota))
        await asyncio.sleep(0.6)  # a heartbeat, after which each knows of the other
        asked = [model.generate(f"{n} {number}") for n, model in enumerate(models) for number in range(CALLS)]
        answers, _ = await asyncio.gather(asyncio.gather(*asked), trouble(scene))
        assert len(answers) == 2 * CALLS
        while scene.notes.back < len(scene.notes.lost):  # noqa: ASYNC110 - the test's time limit ends it
            await asyncio.sleep(0.02)
    assert scene.api.ledger.count() == 2 * CALLS
    assert scene.api.ledger.refused() == 0  # rate x time + burst was kept, in every interval


def said(scene: Scene, reason: str) -> None:
    """Each engine has said once that it goes on alone with its half, and once that the quota is back."""
    assert len(scene.notes.lost) == 2
    assert all(reason in text for text in scene.notes.lost), scene.notes.lost
    assert all("one of 2" in text for text in scene.notes.lost)
    assert scene.notes.back == 2


async def restarted(scene: Scene) -> None:
    await scene.until(100)
    scene.server.stop()
    await scene.until_lost()
    await scene.until(200)
    scene.server.start()
    await scene.until(2 * CALLS)


async def stopped(scene: Scene) -> None:
    await scene.until(100)
    scene.server.signal(signal.SIGSTOP)
    await scene.until_lost()
    await scene.until(200)
    scene.server.signal(signal.SIGCONT)
    await scene.until(2 * CALLS)


async def asleep(scene: Scene) -> None:
    await scene.until(100)
    sleeping = scene.server.begin("DEBUG", "SLEEP", "2")
    await scene.until_lost()
    sleeping.close()
    await scene.until(2 * CALLS)


async def slow(scene: Scene) -> None:
    await scene.until(100)
    scene.way.seconds = 3.0
    await scene.until_lost()
    await scene.until(200)
    scene.way.seconds = 0.0
    await scene.until(2 * CALLS)


def answering(line: bytes) -> Callable[[Scene], Awaitable[None]]:
    async def trouble(scene: Scene) -> None:
        await scene.until(100)
        scene.way.line = line
        await scene.until_lost()
        await scene.until(200)
        scene.way.line = b""
        await scene.until(2 * CALLS)

    return trouble


async def another_password(scene: Scene) -> None:
    await scene.until(100)
    scene.server.tell("CONFIG", "SET", "requirepass", CANARY)
    scene.server.password = CANARY
    scene.server.tell("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await scene.until_lost()
    await scene.until(200)
    scene.server.tell("CONFIG", "SET", "requirepass", "")
    scene.server.password = ""
    await scene.until(2 * CALLS)


TROUBLES = {
    "restarted": (restarted, ""),
    "stopped": (stopped, "has not answered within 1 s"),
    "asleep": (asleep, "has not answered within 1 s"),
    "slow": (slow, "has not answered within 1 s"),
    "another password": (another_password, ""),
    "moved": (answering(b"-MOVED 3999 127.0.0.1:6381\r\n"), "part of a cluster"),
    "loading": (answering(b"-LOADING Redis is loading the dataset in memory\r\n"), "still loading"),
    "read only": (answering(b"-READONLY You can't write against a read only replica.\r\n"), "it is a replica"),
}


@pytest.mark.row("S08")
@pytest.mark.parametrize("name", TROUBLES)
def test_without_the_server_each_keeps_to_its_part_and_with_it_all_do(name: str) -> None:
    trouble, reason = TROUBLES[name]

    async def main(server: RedisServer) -> None:
        async with scene(server) as found:
            await worked(found, trouble)
            said(found, reason)

    with redis_server() as server:
        asyncio.run(main(server))


@pytest.mark.row("S08")
def test_what_is_flushed_away_breaks_no_limit_and_needs_no_words() -> None:
    async def flushed(scene: Scene) -> None:
        for answered in (60, 120, 180, 240, 300):
            await scene.until(answered)
            scene.server.tell("FLUSHALL")
        scene.server.tell("SCRIPT", "FLUSH")

    async def main(server: RedisServer) -> None:
        async with scene(server) as found:
            await worked(found, flushed)
            assert found.notes == Notes()

    with redis_server() as server:
        asyncio.run(main(server))


@pytest.mark.row("S08", "X07")
def test_a_password_that_is_refused_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.setenv(PASSWORD, CANARY)

    async def main(server: RedisServer) -> None:
        with pytest.raises(ConfigError, match="password is refused") as caught:
            async with Engine(coordinator=RedisCoordinator(server.url)):
                raise AssertionError
        assert CANARY not in str(caught.value)
        async with Engine(cache=server.url, observers=[notes]) as engine:
            model = engine.model("m", endpoint=SimulatedAPI(latency=Constant(0.01)).endpoint())
            await asyncio.gather(*(model.generate(f"question {number}") for number in range(20)))
        (reason,) = notes.degraded
        assert "password is refused" in reason
        assert CANARY not in reason

    with redis_server(password="another") as server:
        asyncio.run(main(server))


@pytest.mark.row("S09", "L08")
def test_a_worker_that_is_killed_takes_nothing_with_it() -> None:
    api = SimulatedAPI(latency=Constant(0.05), requests_per_second=RATE, request_burst=BURST)

    async def main(server: RedisServer) -> None:
        async with serving(api, 0) as url, asking(2, url, server.url, 300, RATE, "the") as (killed, other):
            while api.ledger.answered() < 100:  # noqa: ASYNC110 - what it waits for happens in other processes
                await asyncio.sleep(0.02)
            killed.process.kill()
            found = await other.said()
        assert len(found["texts"]) == 300  # what the dead one had claimed was asked by the other
        assert found["failed"] == found["notes"] == []
        assert api.ledger.refused() == 0
        assert api.ledger.count() <= 300 + 32  # of which its last calls were in flight

    with redis_server() as server:
        asyncio.run(main(server))
