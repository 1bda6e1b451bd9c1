"""The cache in one SQLite file: WAL, one thread for everything, batches, a checksum on every value.

Several processes may share the file. Every value carries its own checksum, because SQLite's integrity check says "ok"
when bytes of a payload flip; a bad one is deleted and counts as a miss. A file that is damaged is set aside, once. When
the disk takes no more, what is on it is still read; when it gives nothing either, the run goes on with what is in
memory. On a network file system the journal is a rollback journal: processes of one machine, or of machines whose locks
work, may share it there; slower, and never beside others who see the same file as a local one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

from filelock import FileLock

from asyncopt.cache.place import prepare
from asyncopt.cache.table import Table, is_damage

_log = logging.getLogger("asyncopt")
_BATCH = 500
# Answers that come within so many seconds are one transaction: a commit costs CPU, and makes all other processes read
# again what they knew of the file. It is also the most that a killed process loses of what it had.
_WINDOW = 0.02
_LOCK_SECONDS = 30.0

_Found: TypeAlias = dict[bytes, bytes]
_Job: TypeAlias = Callable[[], None]
_Batch: TypeAlias = list[tuple[bytes, bytes]]


class SqliteCache:
    """Answers in ``path``, created with its folder on first use."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.degraded: str | None = None  # why nothing is stored any more, if so
        self.dropped = 0  # values whose checksum was wrong
        self._jobs: SimpleQueue[_Batch | _Job | None] = SimpleQueue()
        self._batch: _Batch = []  # put within this window
        self._loop: asyncio.AbstractEventLoop | None = None  # whose window it is
        self._pending: _Found = {}  # put, not yet committed
        self._table: Table | None = None
        self._file: tuple[int, int] | None = None  # which one the table is in
        self._replaced = False
        self._thread: threading.Thread | None = None

    # -- on the loop ---------------------------------------------------------------------------------------------------

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return await self._ask(lambda: self._select(keys))

    def put(self, key: bytes, value: bytes) -> None:
        if key in self._pending:
            return  # as in the file, the first answer stays
        loop = asyncio.get_running_loop()
        self._pending[key] = value
        self._batch.append((key, value))
        if len(self._batch) == 1 or self._loop is not loop:  # the window of a loop that has ended never ends
            self._loop = loop
            loop.call_later(_WINDOW, self._hand_over)
        if len(self._batch) >= _BATCH:
            self._hand_over()

    async def flush(self) -> None:
        """Return when every value put so far is on the disk, and would survive a loss of power.

        Where ``degraded`` says why that cannot be, it returns all the same: what was flushed before is on the disk, and
        what was not is served from memory for as long as this object lives.
        """
        self._hand_over()
        await self._ask(self._sync)

    async def aclose(self) -> None:
        """Flush, and end the thread; whoever is cancelled here does not wait for it, and it ends all the same."""
        self._hand_over()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        flushed = self._asked(self._sync)
        self._jobs.put(None)
        await flushed
        thread.join()  # a millisecond: the work is flushed, its last act is closing the file

    def _hand_over(self) -> None:
        """Let the thread write what was put; nothing where somebody has handed it over before the window's end."""
        batch, self._batch = self._batch, []
        if batch and self._is_started():
            self._jobs.put(batch)

    async def _ask(self, query: Callable[[], _Found]) -> _Found:
        return await self._asked(query) if self._is_started() else query()

    def _asked(self, query: Callable[[], _Found]) -> asyncio.Future[_Found]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Found] = loop.create_future()

        def job() -> None:
            found: _Found = {}
            try:
                found = query()
            except Exception as error:  # whatever it is, somebody waits for an answer
                self._degrade(error)
            with suppress(RuntimeError):  # the loop is gone, and with it whoever asked
                loop.call_soon_threadsafe(_resolve, answer, found)

        self._jobs.put(job)
        return answer

    def _is_started(self) -> bool:
        """Whether the thread runs, now at the latest; without it there is what is in memory."""
        if self._thread is None and self.degraded is None:
            thread = threading.Thread(target=self._run, name="asyncopt-cache", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left, or no memory for its stack
                self._degrade(error)
            else:
                self._thread = thread
        return self._thread is not None

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self.degraded is None:
            self._open()
        try:
            while self._work_off(self._jobs.get()):
                pass
        finally:
            self._close()

    def _work_off(self, first: _Batch | _Job | None) -> bool:
        """Do this job and all that wait behind it, writes in one transaction; False at the end."""
        job = first
        batch: _Batch = []
        while isinstance(job, list):
            batch += job
            if len(batch) >= _BATCH:
                break
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
        self._store(batch)
        if job is None:
            return False
        if not isinstance(job, list):
            job()
        return True

    def _store(self, batch: _Batch) -> None:
        if batch and self._table is not None and _identity(self.path) != self._file:
            self._close()  # it was set aside by another process, or removed by somebody
            self._open()
        while batch and self._table is not None and self.degraded is None:
            try:
                self._table.insert(batch)
            except Exception as error:
                self._write_failed(error)  # again into another file, or never more
            else:
                for key, _ in batch:
                    self._pending.pop(key, None)
                return

    def _select(self, keys: Sequence[bytes]) -> _Found:
        pending = {key: self._pending[key] for key in keys if key in self._pending}
        found: _Found = {}
        damaged: list[bytes] = []
        if self._table is not None:
            try:
                found, damaged = self._table.select(keys)
            except Exception as error:
                self._read_failed(error)
        if damaged:
            self._drop(damaged)
        return pending | found  # whoever wrote first

    def _drop(self, damaged: list[bytes]) -> None:
        self.dropped += len(damaged)
        if self._table is not None and self.degraded is None:
            try:
                self._table.delete(damaged)  # else the answer that is paid for now could not be stored
            except Exception as error:
                self._write_failed(error)

    def _sync(self) -> _Found:
        if self._table is not None and self.degraded is None:
            try:
                self._table.sync()
            except Exception as error:
                self._write_failed(error)
        return {}

    # -- when it fails -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            path = prepare(self.path)
            self._file = _identity(path)
            self._table = Table(path)
        except Exception as error:
            self._read_failed(error)

    def _read_failed(self, error: Exception) -> None:
        self._close()
        if is_damage(error) and not self._replaced:
            self._replace(error)
        else:
            self._degrade(error)

    def _write_failed(self, error: Exception) -> None:
        if is_damage(error):
            self._read_failed(error)
            return
        self._degrade(error)
        if self._table is not None and self._table.stuck:
            self._close()

    def _replace(self, error: Exception) -> None:
        self._replaced = True  # a second time it is the disk
        path = Path(os.path.realpath(self.path))
        try:
            with FileLock(path.with_name(f"{path.name}.lock"), timeout=_LOCK_SECONDS):
                if _identity(path) == self._file:  # else another process was faster, and this would be its new file
                    aside = _set_aside(path)
                    _log.warning("the cache %s could not be read (%s); it is kept as %s", self.path, error, aside)
        except OSError as again:
            self._degrade(again)
            return
        self._open()

    def _degrade(self, error: Exception) -> None:
        if self.degraded is None:
            name = "" if type(error).__module__.startswith("asyncopt") else f"{type(error).__name__}: "
            self.degraded = f"{name}{error}"
            _log.warning("the cache %s is not used any more (%s); the run goes on", self.path, self.degraded)

    def _close(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            table.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has this name now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _set_aside(path: Path) -> str:
    """The name that a damaged file has now, and its log with it."""
    aside = f"{path.name}.damaged-{time.time_ns()}"
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            os.replace(path.with_name(path.name + suffix), path.with_name(aside + suffix))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    return aside


def _resolve(answer: asyncio.Future[_Found], found: _Found) -> None:
    if not answer.done():
        answer.set_result(found)
