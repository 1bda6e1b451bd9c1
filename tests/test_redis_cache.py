"""Answers in a real Redis server: one for all processes, never a wrong one, and a server that fails holds nobody up."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEndpoint
from redis_servers import RedisServer, needs_redis, redis_server, way_to

from asyncopt import Engine, RandomSearch, SqliteCache, Study
from asyncopt.cache import cache_at
from asyncopt.cache import redis as of_redis
from asyncopt.cache.redis import RedisCache
from asyncopt.cli.doctor_run import check_run
from asyncopt.cli.run import cache_path
from asyncopt.cli.settings import settle
from asyncopt.config import check
from asyncopt.errors import ConfigError
from asyncopt.events import CacheDegraded, Event
from asyncopt.redislink import PASSWORD
from asyncopt.tasks import LinearRegression
from asyncopt.testing import Constant, LogNormal, SimulatedAPI
from asyncopt.testing.server import serving

pytestmark = [pytest.mark.real, pytest.mark.anyio, needs_redis]

LONGEST = 10.0  # seconds; one is promised, and machines that run tests stand still at times
ASKER = str(Path(__file__).with_name("asker.py"))
NAME = b"asyncopt:answers_v1:"


@pytest.fixture(scope="module")
def running() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    running.tell("FLUSHALL")
    return running


@asynccontextmanager
async def a_cache(url: str) -> AsyncIterator[RedisCache]:
    cache = RedisCache(url)
    try:
        yield cache
    finally:
        await cache.aclose()


def values(count: int) -> dict[bytes, bytes]:
    return {f"key-{number:012}\r\n".encode(): f"value {number}".encode() for number in range(count)}


async def filled(url: str, count: int) -> dict[bytes, bytes]:
    async with a_cache(url) as cache:
        for key, value in values(count).items():
            cache.put(key, value)
    return values(count)


async def read(url: str, keys: list[bytes]) -> dict[bytes, bytes]:
    async with a_cache(url) as cache:
        return await cache.get_many(keys)


async def until_written(cache: RedisCache) -> None:
    """As the answers of a run that goes on come in: each of them may find the server again."""
    async with asyncio.timeout(LONGEST):
        while cache.degraded is not None:
            cache.put(b"another", b"answer")
            await asyncio.sleep(0.05)
    await cache.flush()


# -- what is stored ----------------------------------------------------------------------------------------------------


async def test_what_one_has_put_the_others_find(server: RedisServer) -> None:
    stored = await filled(server.url, 5000)  # more than go into one command, and into one message
    assert await read(server.url, [*stored, b"unknown"]) == stored


async def test_a_value_is_found_before_it_is_written_and_written_after_flush(server: RedisServer) -> None:
    async with a_cache(server.url) as cache:
        cache.put(b"k", b"v")
        assert await cache.get_many([b"k", b"l"]) == {b"k": b"v"}
        await cache.flush()
        assert await read(server.url, [b"k"]) == {b"k": b"v"}
        assert not cache._pending


async def test_the_first_answer_stays(server: RedisServer) -> None:
    await filled(server.url, 1)
    (key,) = values(1)
    async with a_cache(server.url) as cache:
        cache.put(key, b"another")
        await cache.flush()
        assert await cache.get_many([key]) == values(1)


async def test_values_have_the_checksums_that_they_have_in_a_file(server: RedisServer, tmp_path: Path) -> None:
    stored = await filled(server.url, 3)
    in_file = SqliteCache(tmp_path / "c.sqlite")
    for key, value in stored.items():
        in_file.put(key, value)
    await in_file.aclose()
    with sqlite3.connect(tmp_path / "c.sqlite") as connection:
        rows = connection.execute("SELECT key, sum, value FROM answers_v1").fetchall()
    connection.close()
    assert len(rows) == 3
    for key, checksum, value in rows:
        assert server.tell("GET", NAME + key).partition(b"\r\n")[2] == checksum + value + b"\r\n"


@pytest.mark.parametrize("damage", ["flipped", "of another key", "cut", "empty"])
async def test_a_damaged_answer_is_a_miss_and_makes_room(server: RedisServer, damage: str) -> None:
    stored = await filled(server.url, 2)
    one, other = stored
    good = server.tell("GET", NAME + one).partition(b"\r\n")[2][:-2]
    bad = {"flipped": good[:-1] + b"!", "cut": good[:-1], "empty": b""}.get(damage)
    if bad is None:
        bad = server.tell("GET", NAME + other).partition(b"\r\n")[2][:-2]
    server.tell("SET", NAME + one, bad)
    async with a_cache(server.url) as cache:
        assert await cache.get_many([one, other]) == {other: stored[other]}
        assert cache.dropped == 1
        assert server.tell("EXISTS", NAME + one) == b":0\r\n"
        cache.put(one, b"new")
    assert await read(server.url, [one]) == {one: b"new"}


# -- what fails --------------------------------------------------------------------------------------------------------


async def test_without_a_server_values_stay_in_memory_until_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server() as server:
        stored = await filled(server.url, 3)
        async with a_cache(server.url) as cache:
            assert await cache.get_many(list(stored)) == stored
            server.stop()
            async with asyncio.timeout(LONGEST):
                assert await cache.get_many(list(stored)) == {}
                cache.put(b"k", b"v")
                assert await cache.get_many([b"k"]) == {b"k": b"v"}
                await cache.flush()
            assert cache.degraded is not None
            assert str(server.port) in cache.degraded
            server.start()
            await until_written(cache)
            assert await read(server.url, [b"k"]) == {b"k": b"v"}
            assert [record.message.partition(" (")[0] for record in caplog.records] == [
                "the cache cannot be used",
                f"the cache {server.url} is back",
            ]


async def test_what_could_not_be_written_is_written_at_the_end_if_it_can_be(server: RedisServer) -> None:
    async with way_to(server) as way:
        cache = RedisCache(way.url)
        assert await cache.get_many([b"k"]) == {}
        way.seconds = 3.0
        cache.put(b"k", b"v")
        await asyncio.wait_for(cache.flush(), LONGEST)
        assert cache.degraded is not None
        way.seconds = 0.0
        await cache.aclose()
    assert await read(server.url, [b"k"]) == {b"k": b"v"}


async def test_a_silent_server_holds_nobody_up(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    cache = RedisCache(server.url)
    server.signal(signal.SIGSTOP)
    try:
        cache.put(b"k", b"v")
        async with asyncio.timeout(LONGEST):
            for _ in range(100):  # most of them are not asked at all
                assert await cache.get_many([b"k", b"l"]) == {b"k": b"v"}
            await cache.flush()
            await cache.aclose()
    finally:
        server.signal(signal.SIGCONT)
    assert "has not answered" in str(cache.degraded)
    assert "1 answers could not be stored" in caplog.text


async def test_a_full_server_is_still_read(server: RedisServer) -> None:
    stored = await filled(server.url, 10)
    server.tell("CONFIG", "SET", "maxmemory", "1")
    try:
        async with a_cache(server.url) as cache:
            cache.put(b"k", b"v")
            await cache.flush()
            assert "memory is full" in str(cache.degraded)
            assert await cache.get_many([*stored, b"k"]) == stored | {b"k": b"v"}
            assert cache.degraded is not None  # reading does not make it good
            server.tell("CONFIG", "SET", "maxmemory", "0")
            await until_written(cache)
        assert await read(server.url, [b"k"]) == {b"k": b"v"}
    finally:
        server.tell("CONFIG", "SET", "maxmemory", "0")


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_redis, "MOST_BYTES", 10_000)
    async with a_cache("redis://127.0.0.1:1") as cache:
        for number in range(100):
            cache.put(b"%d" % number, bytes(1000))
            cache.put(b"%d" % number, bytes(1000))
        assert list(cache._pending) == [b"%d" % number for number in range(90, 100)]
        assert cache.lost == 90
        cache.put(b"large", bytes(50_000))
        assert list(cache._pending) == [b"large"]


async def test_a_run_goes_on_without_the_server_and_says_so_once() -> None:
    heard: list[Event] = []

    class Watch:
        def notify(self, event: Event) -> None:
            if isinstance(event, CacheDegraded):
                heard.append(event)

    async with Engine(cache="redis://127.0.0.1:1", observers=[Watch()]) as engine:
        model = engine.model("m", endpoint=FakeEndpoint())
        answers = await asyncio.gather(*(model.generate(f"question {number}") for number in range(50)))
    assert [answer.text for answer in answers] == [f"QUESTION {number}" for number in range(50)]
    assert len(heard) == 1


async def test_a_long_question_without_a_password_says_that_it_is_missing() -> None:
    with redis_server(password="another") as server:
        async with a_cache(server.url) as cache:
            assert await cache.get_many([b"%d" % number for number in range(50)]) == {}
            assert PASSWORD in str(cache.degraded)


# -- processes ---------------------------------------------------------------------------------------------------------


class Asker:
    """A process that asks; see asker.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def said(self) -> dict[str, Any]:
        output, errors = await self.process.communicate()
        assert self.process.returncode == 0, errors.decode()
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found


@asynccontextmanager
async def asking(count: int, *arguments: object) -> AsyncIterator[list[Asker]]:
    """Processes that have begun; those that still run at the end are killed."""
    started = []
    for _ in range(count):
        command = (sys.executable, ASKER, *map(str, arguments))
        pipe = asyncio.subprocess.PIPE
        started.append(await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe))
    try:
        for process in started:
            assert process.stdout is not None
            await process.stdout.readline()
        yield [Asker(process) for process in started]
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
                await process.communicate()


async def test_what_two_processes_ask_is_asked_once(server: RedisServer) -> None:
    api = SimulatedAPI(latency=LogNormal(0.05, 0.5))
    async with serving(api, 0) as url, asking(2, url, server.url, 2000, 0, "the") as askers:
        one, other = await asyncio.gather(*(asker.said() for asker in askers))
    assert api.ledger.count() == api.ledger.answered() == 2000
    assert len(one["texts"]) == 2000
    assert one == other
    assert one["notes"] == []


async def test_who_is_killed_leaves_nothing_unasked_and_little_asked_twice(server: RedisServer) -> None:
    api = SimulatedAPI(latency=Constant(0.1))
    async with serving(api, 0) as url, asking(2, url, server.url, 2000, 0, "the") as (killed, other):
        while api.ledger.answered() < 700:  # noqa: ASYNC110 - what it waits for happens in other processes
            await asyncio.sleep(0.005)
        killed.process.kill()
        said = await other.said()
    assert len(said["texts"]) == 2000
    assert said["failed"] == []
    # 32 are in flight in each process; what was answered and not yet written comes to less than as many again.
    assert 2000 <= api.ledger.count() <= 2000 + 64


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_place_says_what_it_is(tmp_path: Path) -> None:
    for url in ("redis://host", "rediss://host:1/2", "valkey://host"):
        assert isinstance(cache_at(url), RedisCache)
    assert isinstance(cache_at("redis"), SqliteCache)
    assert isinstance(cache_at(tmp_path / "redis:" / "c.sqlite"), SqliteCache)


def test_a_configuration_may_name_a_server(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('cache = "redis://host/1"\n[task]\nname = "linear-regression"\n')
    config = settle(str(path), {}, None, None, [])
    assert config.cache == cache_path(config) == "redis://host/1"
    assert config.to_plain()["cache"] == "redis://host/1"
    assert check(config.to_plain()) == config
    assert check({"task": {"name": "x"}, "cache": "some/file"}).cache == Path("some/file")
    assert check({"task": {"name": "x"}}).cache is None


def test_a_password_does_not_come_into_a_configuration(tmp_path: Path) -> None:
    for tables in ({"cache": "redis://:s3cret@host"}, {"cache": "valkey://u:s3cret@host/1"}):
        with pytest.raises(ConfigError, match=PASSWORD) as caught:
            check({"task": {"name": "x"}, **tables})
        assert "s3cret" not in str(caught.value)


def test_the_doctor_asks_the_server(server: RedisServer, tmp_path: Path) -> None:
    def verdict(name: str, url: str) -> tuple[str, str]:
        search = RandomSearch(steps=1)
        study = Study(task=LinearRegression(3, 5), optimizer=search, directory=tmp_path / name, config={"cache": url})
        asyncio.run(study.run())
        (found,) = [check for check in check_run(tmp_path / name) if check.name == "cache"]
        return found.verdict, found.detail

    assert verdict("there", server.url) == ("pass", "its server answers")
    assert verdict("gone", "redis://127.0.0.1:1")[0] == "warn"
