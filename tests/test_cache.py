from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.cache import SqliteCache
from asyncopt.cache.memory import Recent, pack, unpack
from asyncopt.values import Completion, Finish, TokenLogprob, Usage

pytestmark = pytest.mark.anyio


async def fill(path: Path, count: int = 10) -> dict[bytes, bytes]:
    values = {f"key-{number:012}".encode(): f"value {number}".encode() for number in range(count)}
    cache = SqliteCache(path)
    for key, value in values.items():
        cache.put(key, value)
    await cache.aclose()
    return values


async def read(path: Path, keys: list[bytes]) -> dict[bytes, bytes]:
    cache = SqliteCache(path)
    try:
        return await cache.get_many(keys)
    finally:
        await cache.aclose()


async def test_values_outlive_the_cache_object(tmp_path: Path) -> None:
    values = await fill(tmp_path / "c.sqlite", 1234)
    assert await read(tmp_path / "c.sqlite", [*values, b"unknown"]) == values


async def test_a_value_is_found_before_it_is_on_disk(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put(b"k", b"v")
    assert await cache.get_many([b"k"]) == {b"k": b"v"}
    await cache.aclose()


async def test_after_flush_another_process_sees_it(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put(b"k", b"v")
    await cache.flush()
    with sqlite3.connect(tmp_path / "c.sqlite") as other:
        assert other.execute("SELECT value FROM answers_v1").fetchall() == [(b"v",)]
    other.close()
    await cache.aclose()


async def test_the_first_value_put_stays_before_it_is_on_disk_and_after(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put(b"k", b"first")
    cache.put(b"k", b"second")
    assert await cache.get_many([b"k"]) == {b"k": b"first"}
    await cache.aclose()
    assert await read(tmp_path / "c.sqlite", [b"k"]) == {b"k": b"first"}


async def test_what_is_put_at_once_is_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncopt.cache.sqlite._WINDOW", 60.0)  # a busy machine may take longer than it lasts
    cache = SqliteCache(tmp_path / "c.sqlite")
    await cache.flush()
    before = commits(tmp_path / "c.sqlite-wal")
    for number in range(100):
        cache.put(b"%d" % number, b"x")
        time.sleep(1e-4)  # noqa: ASYNC251 - the thread has all the time it wants, and no timer of the loop has any
    await cache.get_many([b"7"])
    assert commits(tmp_path / "c.sqlite-wal") == before  # to read is no reason to write
    await cache.flush()
    assert commits(tmp_path / "c.sqlite-wal") == before + 2  # the answers, and what brings them to the disk
    await cache.aclose()


def test_what_a_loop_left_behind_that_has_ended_is_written_by_the_next(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "c.sqlite")
    with pytest.raises(RuntimeError):
        cache.put(b"c", b"3")  # no loop runs, and nothing is kept of it

    async def first() -> None:
        cache.put(b"a", b"1")

    async def second() -> None:
        cache.put(b"b", b"2")
        while set(await read(tmp_path / "c.sqlite", [b"a", b"b", b"c"])) != {b"a", b"b"}:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.01)  # the window's end, without any flush
        cache.put(b"c", b"3")
        await cache.aclose()

    asyncio.run(first())
    asyncio.run(asyncio.wait_for(second(), 60))
    assert asyncio.run(read(tmp_path / "c.sqlite", [b"c"])) == {b"c": b"3"}


def commits(log: Path) -> int:
    """How many transactions are in a write-ahead log: frames whose header gives the size of the file after them."""
    content = log.read_bytes()
    page = int.from_bytes(content[8:12], "big")
    return sum(any(content[frame + 4 : frame + 8]) for frame in range(32, len(content), 24 + page))


async def test_two_caches_share_one_file(tmp_path: Path) -> None:
    one, two = SqliteCache(tmp_path / "c.sqlite"), SqliteCache(tmp_path / "c.sqlite")
    for number in range(500):
        (one if number % 2 else two).put(b"%d" % number, b"x")
    await asyncio.gather(one.flush(), two.flush())
    assert len(await one.get_many([b"%d" % number for number in range(500)])) == 500
    await one.aclose()
    await two.aclose()


async def test_caches_that_begin_on_a_new_file_at_once_all_get_it(tmp_path: Path) -> None:
    # Whoever turns a new file into a WAL one holds it alone, and SQLite tells the others at once that it is locked.
    for attempt in range(60):
        caches = [SqliteCache(tmp_path / f"{attempt}.sqlite") for _ in range(8)]
        for number, cache in enumerate(caches):
            cache.put(b"%d" % number, b"x")
        await asyncio.gather(*(cache.flush() for cache in caches))
        assert [cache.degraded for cache in caches] == [None] * 8
        for cache in caches:
            await cache.aclose()


async def test_a_flipped_byte_is_a_miss_and_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    values = await fill(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE answers_v1 SET value = ? WHERE key = ?", (b"value X", next(iter(values))))
    connection.close()
    found = await read(path, list(values))
    assert found == dict(list(values.items())[1:])
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM answers_v1").fetchone() == (9,)
    connection.close()


async def test_a_value_under_another_key_is_a_miss(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    first, second = list(await fill(path, 2))
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM answers_v1 WHERE key = ?", (second,))
        connection.execute("UPDATE answers_v1 SET key = ?", (second,))
    connection.close()
    assert await read(path, [first, second]) == {}


async def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"this is no database, but it is long enough to look at" * 100)
    values = await fill(path)
    assert await read(path, list(values)) == values
    assert len(list(tmp_path.glob("c.sqlite.damaged-*"))) == 1
    assert "kept as" in caplog.text


def _directory(path: Path) -> None:
    path.mkdir()


def _under_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file")


@pytest.mark.parametrize("spoil", [_directory, _under_a_file])
async def test_where_nothing_can_be_stored_the_run_goes_on(
    spoil: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "folder" / "c.sqlite"
    path.parent.mkdir()
    spoil(path)
    cache = SqliteCache(path)
    cache.put(b"k", b"v")
    await cache.flush()
    assert await cache.get_many([b"k"]) == {b"k": b"v"}
    assert cache.degraded
    assert "the run goes on" in caplog.text
    await cache.aclose()


async def test_a_disk_that_fails_later_loses_nothing_in_memory(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put(b"a", b"1")
    await cache.flush()
    os.truncate(tmp_path / "c.sqlite", 10)
    (tmp_path / "c.sqlite-wal").write_bytes(b"")
    cache.put(b"b", b"2")
    await cache.flush()
    assert (await cache.get_many([b"b"])).get(b"b") == b"2"
    await cache.aclose()


async def test_a_close_that_is_cancelled_ends_the_thread_all_the_same(tmp_path: Path) -> None:
    values = {b"%d" % number: b"x" for number in range(2000)}
    cache = SqliteCache(tmp_path / "c.sqlite")
    for key, value in values.items():
        cache.put(key, value)
    closing = asyncio.create_task(cache.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    for thread in threading.enumerate():
        if thread.name == "asyncopt-cache":
            thread.join()
    assert await read(tmp_path / "c.sqlite", list(values)) == values


completions = st.builds(
    Completion,
    text=st.text(),
    finish=st.sampled_from(Finish),
    usage=st.builds(Usage, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.booleans()),
    token_logprobs=st.lists(
        st.builds(TokenLogprob, st.text(), st.floats(-50, 0), st.just((("a", -1.0), ("b", -2.0)))), max_size=2
    ).map(tuple),
    served_model=st.text(),
)


@given(completions)
def test_a_completion_comes_back_as_it_was(completion: Completion) -> None:
    assert unpack(pack(completion)) == completion


@given(st.binary())
def test_anything_else_is_a_miss(value: bytes) -> None:
    assert unpack(value) is None


@pytest.mark.parametrize("value", [b"{}", b"[]", b"null", b'{"text":1}', pack(Completion("x"))[:-1]])
def test_half_a_completion_is_a_miss(value: bytes) -> None:
    assert unpack(value) is None


def test_memory_keeps_what_was_used_last() -> None:
    recent = Recent(limit=2)
    for key in (b"a", b"b"):
        recent.put(key, Completion(key.decode()))
    recent.get(b"a")
    recent.put(b"c", Completion("c"))
    assert recent.get(b"b") is None
    assert recent.get(b"a") is not None


# -- threads -----------------------------------------------------------------------------------------------------------


async def test_without_a_thread_there_is_what_is_in_memory_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # what Python says where the system has none left

    monkeypatch.setattr(threading.Thread, "start", refuse)
    cache = SqliteCache(tmp_path / "c.sqlite")
    async with asyncio.timeout(10):
        assert await cache.get_many([b"k"]) == {}
        cache.put(b"k", b"v")
        await cache.flush()
        assert await cache.get_many([b"k"]) == {b"k": b"v"}
        await cache.aclose()
    assert "can't start new thread" in str(cache.degraded)
