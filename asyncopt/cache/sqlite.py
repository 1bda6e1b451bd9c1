"""The cache in one SQLite file: WAL, one thread for everything, batches, a checksum on every value.

Several processes may share the file. Every value carries its own checksum, because SQLite's integrity check says "ok"
when bytes of a payload flip; a bad one is deleted and counts as a miss. A file that is no database is set aside. When
the disk fails, the run goes on with what is in memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

_log = logging.getLogger("asyncopt")
_BATCH = 500
_LOOKUP = 200
_OPENINGS, _OPENING_PAUSE = 300, 0.1  # times and seconds: as long as SQLite itself waits for a lock
_SCHEMA = "CREATE TABLE IF NOT EXISTS answers_v1 (key BLOB NOT NULL UNIQUE, sum BLOB NOT NULL, value BLOB NOT NULL)"

_Found: TypeAlias = "asyncio.Future[dict[bytes, bytes]]"
_Job: TypeAlias = Callable[[], None]


def _sum(key: bytes, value: bytes) -> bytes:
    # The key is in it, so that a value that ends up under another key is noticed too.
    return blake2b(key + value, digest_size=8).digest()


class SqliteCache:
    """Answers in ``path``, created with its folder on first use."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.degraded: str | None = None  # why nothing is stored any more, if so
        self.dropped = 0  # values whose checksum was wrong
        self._jobs: SimpleQueue[tuple[bytes, bytes] | _Job | None] = SimpleQueue()
        self._pending: dict[bytes, bytes] = {}  # put, not yet committed
        self._connection: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None

    # -- on the loop ---------------------------------------------------------------------------------------------------

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return await self._ask(lambda: self._select(keys))

    def put(self, key: bytes, value: bytes) -> None:
        self._pending[key] = value
        self._jobs.put((key, value))
        self._start()

    async def flush(self) -> None:
        await self._ask(dict)

    async def aclose(self) -> None:
        if self._thread is None:
            return
        await self.flush()
        thread, self._thread = self._thread, None
        self._jobs.put(None)
        thread.join()  # a millisecond: the work is flushed, its last act is closing the file

    async def _ask(self, query: Callable[[], dict[bytes, bytes]]) -> dict[bytes, bytes]:
        loop = asyncio.get_running_loop()
        answer: _Found = loop.create_future()

        def job() -> None:
            try:
                found = query()
            except sqlite3.Error as error:
                self._degrade(error)
                found = {}
            with suppress(RuntimeError):  # the loop is gone, and with it whoever asked
                loop.call_soon_threadsafe(_resolve, answer, found)

        self._jobs.put(job)
        self._start()
        return await answer

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="asyncopt-cache", daemon=True)
            self._thread.start()

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._connection = self._open()
        try:
            while self._work_off(self._jobs.get()):
                pass
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _work_off(self, first: tuple[bytes, bytes] | _Job | None) -> bool:
        """Do this job and all that wait behind it, writes in one transaction; False at the end."""
        job = first
        batch: list[tuple[bytes, bytes]] = []
        while isinstance(job, tuple):
            batch.append(job)
            if len(batch) >= _BATCH:
                break
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
        self._store(batch)
        if job is None:
            return False
        if not isinstance(job, tuple):
            job()
        return True

    def _open(self) -> sqlite3.Connection | None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return self._connect()
        except sqlite3.DatabaseError as error:
            if not isinstance(error, sqlite3.OperationalError):  # not a database, or a damaged one
                return self._reopen(error)
            self._degrade(error)
        except OSError as error:
            self._degrade(error)
        return None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30.0)
        try:
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _reopen(self, error: Exception) -> sqlite3.Connection | None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        try:
            os.replace(self.path, aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            _log.warning("the cache %s could not be read (%s); it is kept as %s", self.path, error, aside.name)
            return self._connect()
        except (OSError, sqlite3.Error) as again:
            self._degrade(again)
            return None

    def _degrade(self, error: Exception) -> None:
        if self.degraded is None:
            self.degraded = f"{type(error).__name__}: {error}"
            _log.warning("the cache %s is not used any more (%s); the run goes on", self.path, self.degraded)
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _store(self, batch: list[tuple[bytes, bytes]]) -> None:
        if batch and self._connection is not None:
            try:
                self._insert(batch)
            except sqlite3.Error as error:
                self._degrade(error)
        if self.degraded is None:
            for key, _ in batch:
                self._pending.pop(key, None)

    def _insert(self, batch: list[tuple[bytes, bytes]]) -> None:
        assert self._connection is not None
        rows = [(key, _sum(key, value), value) for key, value in batch]
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany("INSERT OR IGNORE INTO answers_v1 VALUES (?, ?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def _select(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found = {key: self._pending[key] for key in keys if key in self._pending}
        if self._connection is None:
            return found
        for start in range(0, len(keys), _LOOKUP):
            some = keys[start : start + _LOOKUP]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, sum, value FROM answers_v1 WHERE key IN ({marks})"  # noqa: S608 - only marks
            for key, checksum, value in self._connection.execute(query, tuple(some)).fetchall():
                if checksum == _sum(key, value):
                    found[key] = value
                else:
                    self._drop(key)
        return found

    def _drop(self, key: bytes) -> None:
        self.dropped += 1
        with suppress(sqlite3.Error):
            assert self._connection is not None
            self._connection.execute("DELETE FROM answers_v1 WHERE key = ?", (key,))


def _use_wal(connection: sqlite3.Connection) -> None:
    """Turn the file into a WAL one; SQLite's own waiting does not cover this when two begin on a new file."""
    for _ in range(_OPENINGS):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        time.sleep(_OPENING_PAUSE)
    connection.execute("PRAGMA journal_mode=WAL")


def _resolve(answer: _Found, found: dict[bytes, bytes]) -> None:
    if not answer.done():
        answer.set_result(found)
