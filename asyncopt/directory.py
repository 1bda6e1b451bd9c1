"""The directory of a run: its lock, its manifest, its journal and its result."""

from __future__ import annotations

import errno
import os
import shlex
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from asyncopt import codec
from asyncopt.errors import AsyncoptError, ConfigError, RunLocked, StorageFailed
from asyncopt.files import DISK, Disk, write_atomically
from asyncopt.journal import Journal, Record, pack_record, read_records
from asyncopt.version import __version__

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
RESULT = "result.json"
TRACE = "trace.jsonl"
RANDOM = "random.json"  # the result of random search beside a problem that no model scores
HOLDER = "run.holder"
DECISIONS = ("proposed", "entry", "step", "validated")  # the records that a study's history is made of
MEASURED = ("account", "seconds")  # in them too, and never the same twice
SWEEP = "sweep.json"  # the manifest of a sweep, whose runs have directories below its own
SWEEP_RESULT = "sweep-result.json"
_FULL_OR_BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # for which another directory is no remedy


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run directory; raises :class:`ConfigError` where there is none."""
    try:
        value = codec.loads(path.read_bytes())
    except (OSError, codec.CodecError):
        raise ConfigError(f"{path} is missing or unreadable; is {path.parent} the directory of a run?") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} does not hold a JSON object; is {path.parent} the directory of a run?")
    return value


def sweep_of(directory: Path) -> Path | None:
    """The directory of the sweep that the run in this one is a study of; None for a run of its own."""
    above = directory.absolute().parent
    return above if (above / SWEEP).exists() else None


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


def lock(directory: Path, disk: Disk = DISK) -> FileLock:
    """The lock of a run's directory, as :func:`take_lock` gives it; the directory of a sweep is refused."""
    if (directory / SWEEP).exists():
        command = f"asyncopt resume {shlex.quote(str(directory))}"
        raise ConfigError(f"{directory} holds a sweep; go on with it by `{command}`, or use another directory")
    return take_lock(directory, Path(HOLDER).stem, disk)


def take_lock(directory: Path, name: str, disk: Disk = DISK) -> FileLock:
    """The lock ``name`` of a directory, taken for this process; the directory is made where there is none.

    Raises :class:`RunLocked` if another process has it. The system takes a lock back when its process dies, however
    that happens, so that a stale one is never in the way.
    """
    try:
        disk.make_folder(directory)
    except OSError as error:
        if error.errno in _FULL_OR_BROKEN:
            raise StorageFailed.at(directory, error) from None
        raise ConfigError(f"the directory {directory} cannot be made ({error.strerror}); name another one") from None
    holder = directory / f"{name}.holder"
    taken = FileLock(directory / f"{name}.lock")
    try:
        taken.acquire(timeout=0)
    except Timeout:
        who = _held_by(holder)
        raise RunLocked(f"{directory} is in use by {who}; wait for it, or use another directory") from None
    except OSError as error:
        if error.errno in _FULL_OR_BROKEN:
            raise StorageFailed.at(directory, error) from None
        raise ConfigError(f"the directory {directory} cannot be written ({error.strerror}); name another one") from None
    with suppress(OSError):  # a courtesy to whoever finds the lock taken
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")
    return taken


def _held_by(holder: Path) -> str:
    """Who took a lock last: process, host and time."""
    try:
        return codec.printable(holder.read_text(encoding="utf-8", errors="replace"), 200) or "another process"
    except OSError:
        return "another process"


def _unusable(error: OSError, directory: Path) -> AsyncoptError:
    where = error.filename or directory
    if error.errno in _FULL_OR_BROKEN:
        return StorageFailed.at(where, error)
    return ConfigError(f"{where} cannot be used ({error.strerror}); name another run directory")


def _write_manifest(
    directory: Path, subject: Mapping[str, Any], config: Mapping[str, Any], disk: Disk, **more: Any
) -> None:
    manifest = {"v": 1, "asyncopt": __version__, "subject": subject, "config": config, **more}
    write_atomically(directory / MANIFEST, codec.dumps(manifest), disk)


class RunDirectory:
    """A run's directory, locked for this process while it is open.

    ``subject`` is everything that decides the result; a directory whose manifest states another one is refused with the
    difference. ``config`` is kept so that the run can be resumed by its directory alone.
    """

    def __init__(self, path: Path, subject: Mapping[str, Any], config: Mapping[str, Any], disk: Disk = DISK) -> None:
        self.path = path
        self._disk = disk
        self._lock = lock(path, disk)
        try:
            self._agree(subject, config)
            self.journal = Journal(path / JOURNAL, disk)
        except OSError as error:
            self._lock.release()
            raise _unusable(error, path) from None
        except BaseException:
            self._lock.release()
            raise

    def _agree(self, subject: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        path = self.path / MANIFEST
        if path.exists():
            require_subject(self.path, subject, "use another directory, or make a child of it: resume --fork")
            return
        journal = self.path / JOURNAL
        if journal.is_file() and journal.stat().st_size:
            raise ConfigError(
                f"{journal} belongs to a study, but {path} is missing, which says to which; restore it from a copy, or "
                "use another directory: the cache still has the answers"
            )
        _write_manifest(self.path, subject, config, self._disk)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the result's file; raises :class:`StorageFailed` if the disk does not take it."""
        path = self.path / RESULT
        try:
            write_atomically(path, codec.dumps(result), self._disk)
        except OSError as error:
            raise StorageFailed.at(path, error) from None

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


# -- children ----------------------------------------------------------------------------------------------------------


def fork(parent: Path, child: Path, subject: Mapping[str, Any], config: Mapping[str, Any], disk: Disk = DISK) -> int:
    """How many finished steps of the run in ``parent`` the new run in ``child`` begins with, of another subject.

    The child's account begins at zero; the parent is only read, and may be going on. More steps, other options of the
    optimizer, another proposer and another seed make a child. Raises :class:`ConfigError` where scores would mean
    something else: for another task, another scorer, another optimizer; and where no step is finished.
    """
    _require_kin(parent, subject)
    records, last = inherited(read_journal(parent))
    if last is None:
        raise ConfigError(f"{parent} has not finished its starting points yet; start a fresh run instead")
    wanted = subject.get("optimizer", {}).get("steps", last + 1)
    if wanted <= last:
        raise ConfigError(
            f"{parent} has finished {last + 1} steps, and the child is to have {wanted}; let it have more (--steps)"
        )
    lines = b"".join(pack_record(record) for record in records)
    held = lock(child, disk)
    try:
        if (child / MANIFEST).exists():
            command = f"asyncopt resume {shlex.quote(str(child))}"
            raise ConfigError(f"{child} holds a run; go on with it by `{command}`, or name another directory")
        # The journal first: without a manifest no study takes it for its own.
        write_atomically(child / JOURNAL, lines, disk)
        origin = {"path": str(parent.resolve()), "records": len(records), "digest": blake2b(lines).hexdigest()[:32]}
        _write_manifest(child, subject, config, disk, parent=origin)
    except OSError as error:
        raise _unusable(error, child) from None
    finally:
        held.release()
    return last + 1


def inherited(records: Sequence[Record]) -> tuple[list[Record], int | None]:
    """What a child takes over, numbered anew: all that was decided of finished steps, not what it took; and the last.

    Of a step that had only begun nothing is taken, so that the child makes it by its own settings.
    """
    last = max((record.data["step"] for record in records if record.kind == "step"), default=None)
    if last is None:
        return [], None
    kept: list[Record] = []
    for record in records:
        rows = record.data.get("entries", ())
        step = record.data.get("step", rows[0]["step"] if rows else None)
        if record.kind in DECISIONS and step <= last:
            data = {name: value for name, value in record.data.items() if name not in MEASURED}
            kept.append(Record(len(kept), record.kind, data))
    return kept, last


def _require_kin(parent: Path, subject: Mapping[str, Any]) -> None:
    found, wanted = read_json(parent / MANIFEST).get("subject"), codec.loads(codec.dumps(subject))
    lines = differences(_meaning(found if isinstance(found, dict) else {}), _meaning(wanted))
    if lines:
        raise ConfigError(
            f"{parent} cannot have this child ({'; '.join(lines)}): its scores would mean something else; start a "
            "fresh run, which the cache still answers where the calls are the same"
        )


def _meaning(subject: Mapping[str, Any]) -> dict[str, Any]:
    """Those parts of a subject without which its scores cannot be compared with another's."""
    models, optimizer = subject.get("models", {}), subject.get("optimizer", {})
    return {
        "task": dict(subject.get("task", {})),
        "models": {"scorer": models.get("scorer")},
        "optimizer": {"name": optimizer.get("name")},
    }
