"""The table of answers in one SQLite file: its schema, its checksums, and what its errors mean."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from asyncopt.cache.place import network_file_system

_LOOKUP = 200
_BUSY_SECONDS = 30.0
_OPENINGS, _OPENING_PAUSE = 300, 0.1  # times and seconds: as long as SQLite itself waits for a lock
_SCHEMA = "CREATE TABLE IF NOT EXISTS answers_v1 (key BLOB NOT NULL UNIQUE, sum BLOB NOT NULL, value BLOB NOT NULL)"
_COLUMNS = ["key", "sum", "value"]
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class ForeignFile(Exception):
    """The file is a database of somebody else, or of a later version; it is left alone."""


class DamagedTable(sqlite3.DatabaseError):
    """The table has another form than the one that is written here."""


def is_damage(error: Exception) -> bool:
    """Whether the file itself is bad, and not the disk, a lock or a permission."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # Python's own complaints have none
    # Keys can be twice in the table only where the index was bad.
    return isinstance(error, DamagedTable | sqlite3.IntegrityError) or code & 0xFF in _DAMAGED


class Table:
    """Answers by key, open on an existing file; for one thread. Every method raises sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        """Opens the file, an empty one too. Raises :class:`ForeignFile` where other tables are in it."""
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS)
        try:
            self._connection.text_factory = bytes  # damage can make a text of what was written as bytes
            # The index of a write-ahead log is shared memory, which two machines do not have.
            _begin(self._connection, "DELETE" if network_file_system(path) else "WAL")
        except BaseException:
            self.close()
            raise

    @property
    def stuck(self) -> bool:
        """Whether a failed transaction could not be undone, so that other processes wait for it."""
        return self._connection.in_transaction

    def insert(self, answers: Sequence[tuple[bytes, bytes]]) -> None:
        """Commit all of them, or none; what is there already stays."""
        rows = [(key, checksum(key, value), value) for key, value in answers]
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany("INSERT OR IGNORE INTO answers_v1 VALUES (?, ?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def select(self, keys: Sequence[bytes]) -> tuple[dict[bytes, bytes], list[bytes]]:
        """The answers that are there, and the keys of those that are damaged."""
        found, damaged = {}, []
        for start in range(0, len(keys), _LOOKUP):
            some = keys[start : start + _LOOKUP]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, sum, value FROM answers_v1 WHERE key IN ({marks})"  # noqa: S608 - only marks
            for key, written, value in self._connection.execute(query, tuple(some)).fetchall():
                if isinstance(key, bytes) and isinstance(value, bytes) and written == checksum(key, value):
                    found[key] = value
                else:
                    damaged.append(key)
        return found, damaged

    def delete(self, keys: Sequence[bytes]) -> None:
        """Remove the damaged answers with these keys, so that good ones can take their place."""
        self._connection.executemany("DELETE FROM answers_v1 WHERE key = ?", [(key,) for key in keys])
        self._connection.execute("REINDEX answers_v1")  # the damage may be in the index, which would hide what is put

    def sync(self) -> None:
        """Return when all commits are on the disk; SQLite alone lets the last ones be lost with the power."""
        self._connection.execute("PRAGMA synchronous=FULL")
        try:
            self._connection.execute("PRAGMA user_version=1")  # a commit, which brings those before it to the disk
        finally:
            self._connection.execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()


def checksum(key: bytes, value: bytes) -> bytes:
    # The key is in it, so that a value that ends up under another key is noticed too.
    return blake2b(key + value, digest_size=8).digest()


def _begin(connection: sqlite3.Connection, journal: str) -> None:
    """Look at the file and make it ready; SQLite's own waiting does not cover this when two begin on a new one."""
    for opening in range(_OPENINGS):
        try:
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("PRAGMA cell_size_check=ON")
            _require_own(connection)
            connection.execute(f"PRAGMA journal_mode={journal}")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_SCHEMA)
            return
        except sqlite3.OperationalError as error:
            busy = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or opening + 1 == _OPENINGS:
                raise
        time.sleep(_OPENING_PAUSE)


def _require_own(connection: sqlite3.Connection) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and b"answers_v1" not in tables:
        raise ForeignFile("it is a database of another program, or of a later version; name another file")
    columns = [row[1].decode(errors="replace") for row in connection.execute("PRAGMA table_info(answers_v1)")]
    if columns not in ([], _COLUMNS):
        raise DamagedTable(f"its table has the columns {', '.join(columns)}")
