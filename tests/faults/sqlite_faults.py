"""Faults at the boundary to SQLite: connections whose n-th operation fails, once or from then on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

_MESSAGES = {
    sqlite3.SQLITE_FULL: "database or disk is full",
    sqlite3.SQLITE_READONLY: "attempt to write a readonly database",
    sqlite3.SQLITE_IOERR: "disk I/O error",
    sqlite3.SQLITE_BUSY: "database is locked",
    sqlite3.SQLITE_CORRUPT: "database disk image is malformed",
    sqlite3.SQLITE_CANTOPEN: "unable to open database file",
}


class SqliteFaults:
    """Lets operations through until the ``fail_at``-th, counted from 0 over all connections; None fails none."""

    def __init__(self, fail_at: int | None, code: int = sqlite3.SQLITE_FULL, *, lasting: bool = True) -> None:
        self.fail_at, self.code, self.lasting = fail_at, code, lasting
        self.operations = 0

    def step(self) -> None:
        number, self.operations = self.operations, self.operations + 1
        if self.fail_at is not None and (number == self.fail_at or (self.lasting and number > self.fail_at)):
            kind = sqlite3.DatabaseError if self.code == sqlite3.SQLITE_CORRUPT else sqlite3.OperationalError
            error = kind(_MESSAGES[self.code])
            error.sqlite_errorcode = self.code
            raise error

    @contextmanager
    def installed(self) -> Iterator[SqliteFaults]:
        connect = sqlite3.connect

        def connect_faulty(*arguments: Any, **options: Any) -> sqlite3.Connection:
            self.step()
            connection = connect(*arguments, **options, factory=_Connection)
            connection.faults = self
            return connection

        with patch.object(sqlite3, "connect", connect_faulty):
            yield self


class _Connection(sqlite3.Connection):
    """Every statement asks first; a rollback is let through, as SQLite does it by itself after such errors."""

    faults: SqliteFaults

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement != "ROLLBACK":
            self.faults.step()
        return super().execute(statement, *parameters)

    def executemany(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        self.faults.step()
        return super().executemany(statement, *parameters)
