"""The directory of a run: its lock, its manifest, its journal and its result."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from asyncopt import codec
from asyncopt.errors import ConfigError, RunLocked
from asyncopt.files import write_atomically
from asyncopt.journal import Journal, Record, read_records
from asyncopt.version import __version__

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
RESULT = "result.json"
TRACE = "trace.jsonl"
RANDOM = "random.json"  # the result of random search beside a problem that no model scores
SWEEP = "sweep.json"  # the manifest of a sweep, whose runs have directories below its own


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run directory; raises :class:`ConfigError` where there is none."""
    try:
        value = codec.loads(path.read_bytes())
    except (OSError, codec.CodecError):
        raise ConfigError(f"{path} is missing or unreadable; is {path.parent} the directory of a run?") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} does not hold a JSON object; is {path.parent} the directory of a run?")
    return value


def read_journal(directory: Path) -> list[Record]:
    """The records of the run in this directory, which may be going on; a torn end is left out."""
    path = directory / JOURNAL
    try:
        return read_records(path.read_bytes(), path)[0]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); has the run begun?") from None


def require_subject(directory: Path, subject: Mapping[str, Any], advice: str) -> None:
    """Raise :class:`ConfigError` with the difference if the run in this directory is not of this subject."""
    found, wanted = read_json(directory / MANIFEST).get("subject"), codec.loads(codec.dumps(subject))
    stated, task = task_stated(found), wanted.get("task", {})
    if "options" not in stated and stated.get("fingerprint") == task.get("fingerprint"):
        task.pop("options", None)  # an older version left them to the fingerprint, which covers them
    if found != wanted:
        difference = "; ".join(differences(found if isinstance(found, dict) else {}, wanted))
        raise ConfigError(f"{directory} holds another study ({difference}); {advice}")


def task_stated(subject: object) -> Mapping[str, Any]:
    """What a manifest's subject says of the task; empty where it says nothing."""
    task = subject.get("task") if isinstance(subject, Mapping) else None
    return task if isinstance(task, Mapping) else {}


class RunDirectory:
    """A run's directory, locked for this process while it is open.

    ``subject`` is everything that decides the result; a directory whose manifest states another one is refused with the
    difference. ``config`` is kept so that the run can be resumed by its directory alone.
    """

    def __init__(self, path: Path, subject: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the run directory {path} cannot be made ({error.strerror}); name another one") from None
        if (path / SWEEP).exists():
            raise ConfigError(
                f"{path} holds a sweep; go on with it by `asyncopt resume {path}`, or use another directory"
            )
        self._lock = FileLock(path / "run.lock")
        self._acquire()
        try:
            self._agree(subject, config)
            self.journal = Journal(path / JOURNAL)
        except OSError as error:
            self._lock.release()
            where = error.filename or path
            raise ConfigError(f"{where} cannot be used ({error.strerror}); name another run directory") from None
        except BaseException:
            self._lock.release()
            raise

    def _acquire(self) -> None:
        holder = self.path / "run.holder"
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            who = "another process"
            with suppress(OSError):
                who = codec.printable(holder.read_text(encoding="utf-8", errors="replace"))
            raise RunLocked(f"{self.path} is in use by {who}; wait for it, or use another directory") from None
        except OSError as error:
            raise ConfigError(f"the run directory {self.path} cannot be written ({error.strerror})") from None
        with suppress(OSError):  # a courtesy to whoever finds the lock taken
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")

    def _agree(self, subject: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        path = self.path / MANIFEST
        if path.exists():
            require_subject(self.path, subject, "use another directory")
            return
        manifest = {"v": 1, "asyncopt": __version__, "subject": subject, "config": config}
        write_atomically(path, codec.dumps(manifest))

    def write_result(self, result: Mapping[str, Any]) -> None:
        write_atomically(self.path / RESULT, codec.dumps(result))

    def open_trace(self) -> BinaryIO:
        """The trace's file, to be appended to; of a step that was interrupted, things may stand there twice."""
        path = self.path / TRACE
        try:
            file = path.open("ab+")
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")  # the process died in the middle of a line, which is then the only bad one
            return file
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror}); make room, or leave trace off") from None

    def close(self) -> None:
        self.journal.close()
        self._lock.release()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, one line a value."""
    lines = []
    for key in sorted({*old, *new}):
        first, second = old.get(key), new.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            lines += differences(first, second, f"{prefix}{key}.")
        elif first != second:
            lines.append(f"{prefix}{key} was {codec.printable(str(first), 60)}, is {codec.printable(str(second), 60)}")
    return lines
