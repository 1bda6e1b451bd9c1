"""The truth about a study: append-only JSON lines, each with a number and a checksum.

A torn last line (a crash in the middle of a write) is cut off and kept aside. Damage anywhere else is refused, never
skipped. A thread makes the records durable in groups; who cannot wait for that calls :meth:`Journal.sync`.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import Any

from asyncopt import codec
from asyncopt.errors import ConfigError, JournalDamaged, StorageFailed
from asyncopt.files import DISK, Disk, write_atomically, write_whole

VERSION = 1
_GROUP_SECONDS, _GROUP_RECORDS = 0.1, 500  # a record waits so long for others at most: durable within 200 ms
_NAP = 0.001  # seconds that a loop may stand still in one turn: most disks have synced by then
_CRC_FIELD = b',"crc":"'
_CRC_SIZE = len(_CRC_FIELD) + 8 + len(b'"}')


@dataclass(frozen=True, slots=True)
class Record:
    """One event of a study: its number, its kind, and its content."""

    seq: int
    kind: str
    data: Mapping[str, Any]


def pack_record(record: Record) -> bytes:
    """The record's line, checksum and newline included."""
    body = codec.dumps({"v": VERSION, "seq": record.seq, "ev": record.kind, "data": record.data})
    return b'%b%b%08x"}\n' % (body[:-1], _CRC_FIELD, zlib.crc32(body))


def unpack_record(line: bytes) -> Record | None:
    """The record in a line without its newline, or None if the line is damaged."""
    body = line[:-_CRC_SIZE] + b"}"
    if line[-_CRC_SIZE:] != b'%b%08x"}' % (_CRC_FIELD, zlib.crc32(body)):
        return None
    try:
        value = codec.loads(body)
        if value["v"] > VERSION:
            raise ConfigError(
                f"the journal has version {value['v']}, by a newer asyncopt; this one reads {VERSION}: upgrade it"
            )
        record = Record(value["seq"], value["ev"], value["data"])
        return record if isinstance(record.kind, str) and isinstance(record.data, dict) else None
    except (codec.CodecError, KeyError, TypeError):
        return None


def _lines(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start) + 1 or len(content)
        yield content[start:end]
        start = end


def good_records(content: bytes) -> tuple[list[Record], int]:
    """The records before the first that is damaged, and where the last of them ends."""
    records: list[Record] = []
    offset = 0
    for line in _lines(content):
        record = unpack_record(line.rstrip(b"\n")) if line.endswith(b"\n") else None
        if record is None or record.seq != len(records):
            break
        records.append(record)
        offset += len(line)
    return records, offset


def read_records(content: bytes, path: Path) -> tuple[list[Record], int]:
    """The records in a journal's bytes, and where the last good one ends: short of the end if its last line is torn.

    Raises :class:`JournalDamaged` where a bad record has others behind it.
    """
    records, good = good_records(content)
    if 0 < content.find(b"\n", good) + 1 < len(content):
        raise JournalDamaged(
            f"{path}: record {len(records)} at byte {good} is damaged and others follow it; restore the file from a "
            f"copy, or go back to the records before it: asyncopt doctor {path.parent} --repair"
        )
    return records, good


class Journal:
    """The journal in ``path``; opening it reads what is there, and cuts off a torn end."""

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self.path = path
        self.records: list[Record] = []
        self._disk = disk
        self._failure: str | None = None  # why nothing is taken any more: what is on the disk is not known then
        existed = path.exists()
        content = disk.read(path) if existed else b""
        self.records, self._end = read_records(content, path)
        self._file = disk.open_append(path)
        try:
            if self._end < len(content):
                keep_aside(path, f"tail-{self._end}", content[self._end :], disk)
                disk.truncate(self._file, self._end)
                disk.sync(self._file)
            if not existed:
                disk.sync_folder(path.parent)
        except BaseException:
            disk.close(self._file)
            raise
        self._group = Condition()
        self._unsynced = 0  # records; this and the next two are the thread's too, under the condition
        self._waiting: list[Future[None]] = []
        self._closing = False
        self._thread: Thread | None = None

    def append(self, kind: str, data: Mapping[str, Any]) -> None:
        """Write one record; raises :class:`StorageFailed` (and leaves no half of it) if the disk does not take it."""
        self._require_sound()
        self._start()
        record = Record(len(self.records), kind, data)
        line = pack_record(record)
        try:
            write_whole(self._disk, self._file, line)
        except OSError as error:
            self._take_back()
            raise StorageFailed.at(self.path, error) from None
        self._end += len(line)
        self.records.append(record)
        with self._group:
            self._unsynced += 1
            self._group.notify()

    async def sync(self) -> None:
        """Return when all records are on the disk; raises :class:`StorageFailed` if they cannot be brought there."""
        self._require_sound()
        self._start()
        done: Future[None] = Future()
        with self._group:
            self._waiting.append(done)
            self._group.notify()
        while not done.done():
            # Turn by turn: in a loop that only waits for a thread, a virtual clock would jump to the next timer.
            try:
                done.result(_NAP)
            except TimeoutError:
                await asyncio.sleep(0)
        self._require_sound()

    def close(self) -> None:
        """Make what was written durable, as far as the disk lets it, and end the thread."""
        if self._file < 0:
            return
        with self._group:
            self._closing = True
            self._group.notify()
        if self._thread is not None:
            self._thread.join()
        self._disk.close(self._file)
        self._file = -1

    def _take_back(self) -> None:
        """Cut off what was written of a record."""
        try:
            self._disk.truncate(self._file, self._end)
        except OSError as error:  # the next opening cuts the torn end off, if nothing comes behind it
            self._failure = str(StorageFailed.at(self.path, error))

    def _require_sound(self) -> None:
        if self._failure is not None:
            raise StorageFailed(self._failure)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            thread = Thread(target=self._sync_groups, name="asyncopt-journal", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left, or no memory for its stack
                raise StorageFailed(f"{self.path} cannot be written ({error}); resume when there is room") from None
            self._thread = thread

    def _sync_groups(self) -> None:
        while True:
            with self._group:
                self._group.wait_for(lambda: self._unsynced or self._urgent)
                self._group.wait_for(lambda: self._unsynced >= _GROUP_RECORDS or self._urgent, _GROUP_SECONDS)
                if self._closing and not self._unsynced and not self._waiting:
                    return
                waiting, self._waiting, self._unsynced = self._waiting, [], 0
            self._sync_once()
            for done in waiting:
                if done.set_running_or_notify_cancel():
                    done.set_result(None)

    @property
    def _urgent(self) -> bool:
        return bool(self._waiting) or self._closing

    def _sync_once(self) -> None:
        if self._failure is not None:
            return
        try:
            self._disk.sync(self._file)
        except OSError as error:
            # Not tried again: after a failure the system may call pages clean that never reached the disk.
            self._failure = str(StorageFailed.at(self.path, error))


def keep_aside(path: Path, why: str, content: bytes, disk: Disk = DISK) -> Path:
    """Where the content is now: a new file beside ``path``, named after the reason."""
    aside = path.with_name(f"{path.name}.{why}")
    number = 0
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{why}-{number}")
    write_atomically(aside, content, disk)
    return aside


def repair(path: Path, disk: Disk = DISK) -> tuple[int, Path | None]:
    """How many good records the journal begins with, and where the damaged file is kept; None if it was whole.

    The journal is cut to those records. Answers that were paid for later are still in the cache.
    """
    content = disk.read(path)
    records, good = good_records(content)
    if good == len(content):
        return len(records), None
    aside = keep_aside(path, f"damaged-{good}", content, disk)
    write_atomically(path, content[:good], disk)
    return len(records), aside
