"""A disk that fails at one operation, stays full or broken if wanted, and loses at a crash what was never synced.

It works on real files, and syncs none of them: what is durable is kept in memory, for :meth:`FaultyDisk.crash`. Which
operation fails is a number, so that a test can let each of them fail in turn, until a run comes through with ``failed``
false.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from asyncopt.files import Disk


@dataclass
class _File:
    """What a crash leaves of a file: its content when it was last synced."""

    durable: bytes


class FaultyDisk(Disk):
    """A disk whose operation ``fail_at`` (the first is 0) raises ``error``; ``None`` never fails.

    With ``short`` a write that fails takes half of its bytes first, as a full disk does, and a crash in the middle of a
    record. With ``lasting`` all that would change the disk fails from then on. ``only`` names the kind of operation
    that is counted, such as ``"sync"``. With ``lose_unsynced`` :meth:`crash` puts every file and every name back to
    what was synced.
    """

    def __init__(
        self,
        fail_at: int | None = None,
        error: int = errno.ENOSPC,
        *,
        short: bool = False,
        lasting: bool = False,
        only: str | None = None,
        lose_unsynced: bool = True,
    ) -> None:
        self.operations = 0
        self.failed = False
        self._fail_at = fail_at
        self._error = error
        self._short = short
        self._lasting = lasting
        self._only = only
        self._lose_unsynced = lose_unsynced
        self._paths: dict[int, Path] = {}  # of the descriptors that are open
        self._names: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._known: set[Path] = set()
        self._lock = RLock()  # a journal syncs in a thread of its own

    def durable(self, path: Path) -> bytes | None:
        """What a crash would leave of a file that was written here; None if not even its name."""
        with self._lock:
            file = self._durable_names.get(path)
            return None if file is None else file.durable

    def crash(self) -> None:
        """Put the files back to what the disk is sure to have; the process that wrote them is to be given up."""
        if not self._lose_unsynced:
            return
        for path in self._known:
            content = self.durable(path)
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)

    # -- operations ----------------------------------------------------------------------------------------------------

    def make_folder(self, path: Path) -> None:
        if not path.is_dir():
            self._step("make_folder", path)
        super().make_folder(path)

    def read(self, path: Path) -> bytes:
        self._step("read", path)
        return super().read(path)

    def open_append(self, path: Path) -> int:
        self._step("open", path)
        self._know(path)
        return self._opened(super().open_append(path), path)

    def open_empty(self, path: Path) -> int:
        self._step("open", path)
        self._know(path)
        return self._opened(super().open_empty(path), path)

    def write(self, file: int, data: bytes) -> int:
        try:
            self._step("write", self._paths[file])
        except OSError:
            if self._short and len(data) > 1:
                super().write(file, data[: len(data) // 2])
            raise
        return super().write(file, data)

    def sync(self, file: int) -> None:
        with self._lock:
            path = self._paths[file]
            self._step("sync", path)
            self._names[path].durable = path.read_bytes()

    def truncate(self, file: int, size: int) -> None:
        self._step("truncate", self._paths[file])
        super().truncate(file, size)

    def close(self, file: int) -> None:
        with self._lock:
            del self._paths[file]
        super().close(file)

    def replace(self, source: Path, target: Path) -> None:
        self._step("replace", target)
        self._know(source)
        self._know(target)
        super().replace(source, target)
        self._names[target] = self._names.pop(source)

    def unlink(self, path: Path) -> None:
        self._step("unlink", path)
        self._know(path)
        super().unlink(path)
        self._names.pop(path, None)

    def sync_folder(self, folder: Path) -> None:
        self._step("sync_folder", folder)
        for path in self._known:
            if path.parent == folder:
                if path in self._names:
                    self._durable_names[path] = self._names[path]
                else:
                    self._durable_names.pop(path, None)

    # -- what fails, and what is sure ----------------------------------------------------------------------------------

    def _step(self, kind: str, path: Path) -> None:
        with self._lock:
            if self._only in (None, kind):
                hit = self.operations == self._fail_at
                self.operations += 1
            else:
                hit = False
            if hit or (self.failed and self._lasting and kind != "read"):
                self.failed = True
                raise OSError(self._error, os.strerror(self._error), str(path))

    def _opened(self, file: int, path: Path) -> int:
        with self._lock:
            self._names.setdefault(path, _File(b""))
            self._paths[file] = path
        return file

    def _know(self, path: Path) -> None:
        """Take what is there before the first change of a file as durable."""
        if path in self._known:
            return
        self._known.add(path)
        if path.exists():
            self._names[path] = self._durable_names[path] = _File(path.read_bytes())
