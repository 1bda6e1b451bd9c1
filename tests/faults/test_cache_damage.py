"""A cache whose file is damaged, full, locked, foreign or in an unsafe place: never a wrong answer, never an error."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlite_faults import SqliteFaults

from asyncopt import Engine
from asyncopt.cache import SqliteCache
from asyncopt.cache.place import network_file_system
from asyncopt.events import CacheDegraded, Event
from asyncopt.testing.simulated import SimulatedAPI

CODES = {
    "FULL": sqlite3.SQLITE_FULL,
    "READONLY": sqlite3.SQLITE_READONLY,
    "IOERR": sqlite3.SQLITE_IOERR,
    "BUSY": sqlite3.SQLITE_BUSY,
}


def values(count: int) -> dict[bytes, bytes]:
    """Answers that tell which key they belong to; some are longer than a page."""
    return {b"key-%08d" % n: b"answer to %d " % n * random.Random(n).choice((1, 20, 700)) for n in range(count)}


async def write(path: Path, known: dict[bytes, bytes]) -> None:
    cache = SqliteCache(path)
    for key, value in known.items():
        cache.put(key, value)
    await cache.aclose()
    assert cache.degraded is None


async def read(path: Path, known: dict[bytes, bytes]) -> tuple[dict[bytes, bytes], SqliteCache]:
    cache = SqliteCache(path)
    found = await cache.get_many(list(known))
    await cache.aclose()
    return found, cache


async def never_wrong(path: Path, known: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What is still found, after checking that it is right, and that the cache works again or says that it does not."""
    found, _ = await read(path, known)
    assert found.items() <= known.items()
    cache = SqliteCache(path)
    for _ in range(2):  # a damaged index may show only when what was put is looked for
        assert (await cache.get_many(list(known))).items() <= known.items()
        for key, value in known.items():
            cache.put(key, value)
        await cache.flush()
    assert await cache.get_many(list(known)) == known
    await cache.aclose()
    if cache.degraded is None:
        assert (await read(path, known))[0] == known
    return found


@contextmanager
def unclosed(path: Path, known: dict[bytes, bytes]) -> Iterator[None]:
    """A file with its log beside it, as after kill -9: a copy of what a living cache has on the disk."""

    async def living() -> None:
        live = path.with_name("live")
        cache = SqliteCache(live)
        for key, value in known.items():
            cache.put(key, value)
            await cache.flush()
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).write_bytes(live.with_name(f"live{suffix}").read_bytes())
        await cache.aclose()

    asyncio.run(living())
    yield


def flip(path: Path, places: list[tuple[float, int]]) -> None:
    """Change bytes: each place is a share of the file's length and what its byte is XORed with."""
    data = bytearray(path.read_bytes())
    for share, mask in places:
        data[int(share * (len(data) - 1))] ^= mask
    path.write_bytes(bytes(data))


flips = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=40)


# -- S04: damage -------------------------------------------------------------------------------------------------------


@pytest.mark.row("S04")
@given(flips, st.integers(1, 400))
@example(places=[(0.064453125, 4)], count=51)  # in the index: a key that was put again stayed unfound
@example(places=[(0.064453125, 2)], count=52)
@settings(max_examples=25)
def test_bytes_that_flip_anywhere_give_the_right_answer_or_none(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[float, int]], count: int
) -> None:
    path, known = tmp_path_factory.mktemp("c") / "c.sqlite", values(count)
    asyncio.run(write(path, known))
    flip(path, places)
    asyncio.run(never_wrong(path, known))


@pytest.mark.row("S04")
@given(flips, st.sampled_from(["", "-wal", "-shm"]))
@settings(max_examples=20)
def test_flips_in_a_log_that_was_left_behind_do_no_more(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[float, int]], suffix: str
) -> None:
    path, known = tmp_path_factory.mktemp("c") / "c.sqlite", values(30)
    with unclosed(path, known):
        flip(path.with_name(path.name + suffix), places)
        asyncio.run(never_wrong(path, known))


@pytest.mark.row("S04")
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("length", [0, 1, 16, 99, 100, 4095, 4096, 4097, 12_000])
def test_files_that_are_cut_do_no_more(tmp_path: Path, suffix: str, length: int) -> None:
    path, known = tmp_path / "c.sqlite", values(60)
    with unclosed(path, known):
        os.truncate(path.with_name(path.name + suffix), length)
        asyncio.run(never_wrong(path, known))


def _header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"no SQLite database at all")


def _pages(path: Path) -> None:
    """Every page but the first is nonsense, so that it opens well and fails when it is read."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(0).randbytes(size - 4096))


def _payload(path: Path) -> None:
    data = path.read_bytes()
    assert b"answer to 7 " in data
    path.write_bytes(data.replace(b"answer to 7 ", b"answer to 8 "))


def _swapped(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        rows = connection.execute("SELECT rowid, sum, value FROM answers_v1 ORDER BY key").fetchall()
        for (rowid, _, _), (_, total, value) in zip(rows, rows[1:] + rows[:1], strict=True):
            connection.execute("UPDATE answers_v1 SET sum = ?, value = ? WHERE rowid = ?", (total, value, rowid))


def _other_types(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE answers_v1 SET sum = 7, value = 3.5")


def _other_columns(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE answers_v1 (prompt TEXT, answer TEXT)")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.row("S04")
@pytest.mark.parametrize(
    ("spoil", "left", "aside"),
    [
        (_header, 0, 1),
        (_pages, 0, 1),
        (_payload, 199, 0),
        (_swapped, 0, 0),
        (_other_types, 0, 0),
        (_other_columns, 0, 1),
        (_empty, 0, 0),
    ],
)
def test_each_kind_of_damage_is_a_miss_and_the_file_works_again(
    tmp_path: Path, spoil: Callable[[Path], None], left: int, aside: int
) -> None:
    path, known = tmp_path / "c.sqlite", values(200)
    asyncio.run(write(path, known))
    spoil(path)
    assert len(asyncio.run(never_wrong(path, known))) == left
    assert len(list(tmp_path.glob("c.sqlite.damaged-*"))) == aside
    assert asyncio.run(read(path, known))[0] == known


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _another_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE invoices (number INTEGER)")
        connection.execute("INSERT INTO invoices VALUES (7)")


def _later_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE answers_v1 RENAME TO answers_v2")


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.row("S04")
@pytest.mark.parametrize("spoil", [_folder, _pipe, _another_program, _later_version, _loop])
def test_what_is_no_cache_of_ours_is_left_alone(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path, known = tmp_path / "c.sqlite", values(20)
    asyncio.run(write(path, known))
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    assert asyncio.run(never_wrong(path, known)) == {}
    _, cache = asyncio.run(read(path, known))
    assert cache.degraded
    assert before is None or path.read_bytes() == before
    assert list(tmp_path.glob("*.damaged-*")) == []


@pytest.mark.row("S04")
def test_damage_that_shows_while_it_is_used_sets_the_file_aside_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, known = tmp_path / "c.sqlite", values(500)
    asyncio.run(write(path, known))

    async def main() -> SqliteCache:
        cache = SqliteCache(path)
        assert await cache.get_many([b"key-00000000"]) == {b"key-00000000": known[b"key-00000000"]}
        _pages(path)
        with closing(sqlite3.connect(path)) as other:  # tells the cache's connection that its pages are old
            other.execute("PRAGMA user_version=5")
        found = await cache.get_many(list(known))
        assert found.items() <= known.items()
        cache.put(b"new", b"answer")
        await cache.flush()
        assert await cache.get_many([b"new"]) == {b"new": b"answer"}
        await cache.aclose()
        return cache

    assert asyncio.run(main()).degraded is None
    assert len([path for path in tmp_path.glob("c.sqlite.damaged-*") if path.suffix.isascii()]) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert asyncio.run(read(path, {b"new": b"answer"}))[0] == {b"new": b"answer"}


@pytest.mark.row("S04", "S07")
@pytest.mark.parametrize("first", ["reads", "writes"])
def test_of_two_that_share_a_damaged_file_the_second_goes_on_in_the_new_one_of_the_first(
    tmp_path: Path, first: str
) -> None:
    path, known = tmp_path / "c.sqlite", values(500)
    asyncio.run(write(path, known))

    async def main() -> None:
        caches = one, other = SqliteCache(path), SqliteCache(path)
        for cache in caches:
            await cache.get_many([b"key-00000000"])
        _pages(path)
        with closing(sqlite3.connect(path)) as stranger:  # tells both connections that their pages are old
            stranger.execute("PRAGMA user_version=5")
        assert (await one.get_many(list(known))).items() <= known.items()
        one.put(b"one", b"answer")
        await one.flush()
        if first == "reads":
            assert (await other.get_many(list(known))).items() <= known.items()
        other.put(b"other", b"answer")
        await other.flush()
        # Before they are closed, as it would be after kill -9.
        both = {b"one": b"answer", b"other": b"answer"}
        assert (await read(path, both))[0] == both
        for cache in caches:
            await cache.aclose()
            assert cache.degraded is None

    asyncio.run(main())
    assert len([one for one in tmp_path.glob("c.sqlite.damaged-*") if not one.name.endswith("-wal")]) == 1


@pytest.mark.row("S04")
def test_a_file_that_somebody_removes_meanwhile_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"

    async def main() -> None:
        cache = SqliteCache(path)
        for key in (b"before", b"after"):
            cache.put(key, b"answer")
            await cache.flush()
            for file in tmp_path.glob("c.sqlite*") if key == b"before" else ():
                file.unlink()
        await cache.aclose()
        assert cache.degraded is None

    asyncio.run(main())
    assert asyncio.run(read(path, {b"after": b"answer"}))[0] == {b"after": b"answer"}


@pytest.mark.row("S04")
def test_a_disk_that_damages_every_file_ends_in_memory(tmp_path: Path) -> None:
    known = values(20)
    with SqliteFaults(0, sqlite3.SQLITE_CORRUPT).installed():
        asyncio.run(never_wrong(tmp_path / "c.sqlite", known))
        assert asyncio.run(read(tmp_path / "c.sqlite", known))[1].degraded


# -- a disk that fails -------------------------------------------------------------------------------------------------


async def _session(path: Path, known: dict[bytes, bytes]) -> tuple[SqliteCache, set[bytes], set[bytes]]:
    """What a run does with its cache; which keys flush had acknowledged before the disk failed, and which are found."""
    cache = SqliteCache(path)
    acknowledged: set[bytes] = set()
    keys = list(known)
    for start in range(0, len(keys), 10):
        assert (await cache.get_many(keys[start : start + 10])).items() <= known.items()
        for key in keys[start : start + 10]:
            cache.put(key, known[key])
        await cache.flush()
        if cache.degraded is None:
            acknowledged = set(keys[: start + 10])
    found = await cache.get_many(keys)
    assert found.items() <= known.items()
    await cache.aclose()
    return cache, acknowledged, set(found)


@pytest.mark.row("S04", "S01", "S02")
@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("code", CODES)
def test_an_error_of_sqlite_at_every_operation(
    tmp_path: Path, code: str, lasting: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncopt.cache.table._OPENINGS", 2)
    monkeypatch.setattr("asyncopt.cache.table._OPENING_PAUSE", 0.0)
    known = values(30)
    with SqliteFaults(None).installed() as counted:
        asyncio.run(_session(tmp_path / "good.sqlite", known))
    assert counted.operations > 20
    for number in range(counted.operations):
        path = tmp_path / f"{number}.sqlite"
        caplog.clear()
        with SqliteFaults(number, CODES[code], lasting=lasting).installed():
            cache, acknowledged, served = asyncio.run(_session(path, known))
        assert len(caplog.records) == (cache.degraded is not None), number
        found, again = asyncio.run(read(path, known))
        assert again.degraded is None
        assert found.items() <= known.items()
        assert acknowledged <= found.keys(), number
        assert served | found.keys() == known.keys(), number  # in memory or on the disk, every one


@pytest.mark.row("S04", "S01")
@pytest.mark.parametrize("pages", [3, 6, 40])
def test_a_file_that_may_grow_no_more_is_still_read(
    tmp_path: Path, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own SQLITE_FULL, by the limit that it has for it."""

    class Small(sqlite3.Connection):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            self.execute(f"PRAGMA max_page_count={pages}")

    path, known = tmp_path / "c.sqlite", values(300)
    first = dict(list(known.items())[:2])
    asyncio.run(write(path, first))

    async def main() -> SqliteCache:
        cache = SqliteCache(path)
        for key, value in known.items():
            cache.put(key, value)
        await cache.flush()
        assert await cache.get_many(list(known)) == known
        await cache.aclose()
        return cache

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Small))
        assert "full" in (asyncio.run(main()).degraded or "")
    found, cache = asyncio.run(read(path, known))
    assert first.items() <= found.items() <= known.items()
    assert cache.degraded is None


@pytest.mark.row("S04", "S01")
def test_a_run_goes_on_without_its_cache_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The engine tells it as one event; what this run has been answered is not asked for again."""
    seen: list[Event] = []

    class Watcher:
        def notify(self, event: Event) -> None:
            seen.append(event)

    async def main() -> None:
        async with Engine(cache=tmp_path / "c.sqlite", observers=[Watcher()]) as engine:
            model = engine.model("m", endpoint=api.endpoint())
            for most in (20, 40, 60, 60):
                answers = await asyncio.gather(*(model.generate(f"question {number}") for number in range(most)))
                await model.flush()
                assert len(answers) == most

    api = SimulatedAPI()
    with SqliteFaults(9, sqlite3.SQLITE_FULL).installed():
        asyncio.run(main())
    assert api.ledger.count() == 60
    assert len([event for event in seen if isinstance(event, CacheDegraded)]) == 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


# -- who may write there -----------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="the bits of a file's mode say nothing here")


@posix
@pytest.mark.row("S04")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_folder_and_files_are_the_users_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "new" / "c.sqlite"
    old = os.umask(umask)
    try:

        async def main() -> list[int]:
            cache = SqliteCache(path)
            cache.put(b"k", b"v")
            await cache.flush()
            modes = [stat.S_IMODE(found.stat().st_mode) for found in sorted(path.parent.iterdir())]
            await cache.aclose()
            assert cache.degraded is None
            return modes

        modes = asyncio.run(main())
    finally:
        os.umask(old)
    assert modes == [0o600] * 3  # the file, its log and the log's index
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@posix
@pytest.mark.row("S04")
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_where_everybody_may_write_nothing_is_read(tmp_path: Path, what: str, mode: int) -> None:
    path, known = tmp_path / "shared" / "c.sqlite", values(10)
    asyncio.run(write(path, known))
    (path.parent if what == "folder" else path).chmod(mode & (0o7777 if what == "folder" else 0o666))
    found, cache = asyncio.run(read(path, known))
    assert found == {}
    assert f"the {what} " in (cache.degraded or "")
    assert "chmod o-w" in (cache.degraded or "")


@posix
@pytest.mark.row("S04")
def test_a_link_is_followed_and_judged_by_where_it_leads(tmp_path: Path) -> None:
    real, link, known = tmp_path / "real" / "c.sqlite", tmp_path / "link.sqlite", values(10)
    link.symlink_to(real)
    asyncio.run(write(link, known))
    assert asyncio.run(read(real, known))[0] == known
    _header(real)
    assert asyncio.run(never_wrong(link, known)) == {}
    assert link.is_symlink()
    assert len(list(real.parent.glob("c.sqlite.damaged-*"))) == 1
    real.parent.chmod(0o777)
    assert asyncio.run(read(link, known))[0] == {}


@pytest.mark.row("S07")
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/c.sqlite", "nfs4"),
        ("/home/me/disk/c.sqlite", None),
        ("/home/other/c.sqlite", None),
        ("/mnt/the share/c.sqlite", "cifs"),
        ("/c.sqlite", None),
        ("/sshfs/deep/er/c.sqlite", "fuse.sshfs"),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(tmp_path: Path, path: str, kind: str | None) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\nserver:/home /home/me nfs4 rw 0 0\n/dev/vdb /home/me/disk xfs rw 0 0\n"
        "//server/share /mnt/the\\040share cifs rw 0 0\nme@there: /sshfs fuse.sshfs rw 0 0\n"
    )
    assert network_file_system(Path(path), mounts) == kind
    assert network_file_system(Path(path), tmp_path / "none") is None


@pytest.mark.row("S07")
def test_on_a_network_file_system_there_is_no_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncopt.cache.table.network_file_system", lambda path: "nfs4")
    path, known = tmp_path / "c.sqlite", values(700)

    async def main() -> None:
        caches = [SqliteCache(path) for _ in range(3)]
        for number, (key, value) in enumerate(known.items()):
            caches[number % 3].put(key, value)
        await asyncio.gather(*(cache.flush() for cache in caches))
        assert not path.with_name("c.sqlite-shm").exists()
        for cache in caches:
            assert await cache.get_many(list(known)) == known
            await cache.aclose()

    asyncio.run(main())


# -- many processes ----------------------------------------------------------------------------------------------------

WRITER = """
import asyncio, logging, random, sys
from pathlib import Path
from asyncopt.cache import SqliteCache

def value(n): return b"answer to %d " % n * 30

async def main(path, me):
    cache = SqliteCache(path)
    rng = random.Random(me)
    numbers = list(range(me * 2000, me * 2000 + 2000)) + rng.sample(range(16000), 2000)
    for start in range(0, len(numbers), 50):
        some = numbers[start:start + 50]
        keys = {b"key-%08d" % n: value(n) for n in some}
        found = await cache.get_many(list(keys))
        assert found.items() <= keys.items()
        for key in keys.keys() - found.keys():
            cache.put(key, keys[key])
        if start % 500 == 0:
            await cache.flush()
    await cache.aclose()
    assert cache.degraded is None, cache.degraded
    assert cache.dropped == 0

logging.basicConfig(level=logging.WARNING)
asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


@pytest.mark.real
@pytest.mark.row("S07")
def test_eight_processes_share_one_cache(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(me)], stderr=subprocess.PIPE) for me in range(8)
    ]
    complaints = [process.communicate(timeout=200)[1] for process in processes]
    assert complaints == [b""] * 8
    assert [process.returncode for process in processes] == [0] * 8
    known = {b"key-%08d" % n: b"answer to %d " % n * 30 for n in range(16_000)}
    assert asyncio.run(read(path, known))[0] == known
