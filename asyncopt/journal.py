"""The truth about a study: append-only JSON lines, each with a number and a checksum.

A torn last line (a crash in the middle of a write) is cut off and kept aside. Damage anywhere else is refused, never
skipped. Records become durable with :meth:`Journal.sync`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.errors import AsyncoptError, JournalDamaged
from asyncopt.files import sync_directory

VERSION = 1
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
            raise AsyncoptError(
                f"the journal has version {value['v']}, written by a newer asyncopt; this one reads {VERSION}"
            )
        return Record(value["seq"], value["ev"], value["data"])
    except (codec.CodecError, KeyError, TypeError):
        return None


def read_records(content: bytes, path: Path) -> tuple[list[Record], int]:
    """The records in a journal's bytes, and where the last good one ends: short of the end if its last line is torn.

    Raises :class:`JournalDamaged` where a bad record has others behind it.
    """
    records: list[Record] = []
    offset = 0
    for line in _lines(content):
        record = unpack_record(line.rstrip(b"\n")) if line.endswith(b"\n") else None
        if record is None or record.seq != len(records):
            if offset + len(line) < len(content):
                raise JournalDamaged(
                    f"{path}: record {len(records)} at byte {offset} is damaged and others follow it; "
                    "restore the file from a copy, or start the study anew in another directory"
                )
            break
        records.append(record)
        offset += len(line)
    return records, offset


class Journal:
    """The journal in ``path``; opening it reads what is there, and cuts off a torn end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        existed = path.exists()
        if existed:
            content = path.read_bytes()
            self.records, good = read_records(content, path)
            if good < len(content):
                path.with_name(f"{path.name}.tail-{good}").write_bytes(content[good:])
                os.truncate(path, good)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if not existed:
            sync_directory(path.parent)
        self._end = os.fstat(self._file).st_size

    def append(self, kind: str, data: Mapping[str, Any]) -> None:
        """Write one record; raises :class:`AsyncoptError` (and leaves no half of it) if the disk does not take it."""
        record = Record(len(self.records), kind, data)
        line = pack_record(record)
        try:
            _write(self._file, line)
        except OSError as error:
            with suppress(OSError):  # if this fails too, the next opening cuts the torn end off
                os.ftruncate(self._file, self._end)
            raise AsyncoptError(
                f"{self.path} cannot be written ({error.strerror}); make room and resume the study"
            ) from None
        self._end += len(line)
        self.records.append(record)

    def sync(self) -> None:
        """Return when all records are on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _lines(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start) + 1 or len(content)
        yield content[start:end]
        start = end


def _write(file: int, data: bytes) -> None:
    # A full disk first gives a short write without any error, and only then ENOSPC.
    while data:
        data = data[os.write(file, data) :]
