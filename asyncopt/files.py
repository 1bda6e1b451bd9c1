"""Where this package keeps its files, and how one is written as a whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def cache_folder() -> Path:
    """``$ASYNCOPT_CACHE_DIR``, or the platform's folder for caches."""
    from platformdirs import user_cache_path

    stated = os.environ.get("ASYNCOPT_CACHE_DIR")
    return Path(stated) if stated else user_cache_path("asyncopt")


class Disk:
    """The calls of the system through which everything durable goes: one place where any of them can be made to fail.

    Every method raises :class:`OSError` as the system does.
    """

    def make_folder(self, path: Path) -> None:
        """Make the folder and those above it, durably, where there are none."""
        if not path.is_dir():
            self.make_folder(path.parent)
            path.mkdir(exist_ok=True)
            self.sync_folder(path.parent)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def open_append(self, path: Path) -> int:
        """A descriptor whose writes go to the end of the file, which is made if there is none."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def open_empty(self, path: Path) -> int:
        """A descriptor of the file, which is made or emptied."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def write(self, file: int, data: bytes) -> int:
        """How many bytes were written: a full disk first takes fewer than it was given, and only then raises."""
        return os.write(file, data)

    def sync(self, file: int) -> None:
        """Return when what was written to the descriptor is on the disk."""
        os.fsync(file)

    def truncate(self, file: int, size: int) -> None:
        os.ftruncate(file, size)

    def close(self, file: int) -> None:
        os.close(file)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable, where the platform can."""
        try:
            handle = os.open(folder, os.O_RDONLY)
        except OSError:  # Windows opens no folders
            return
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


DISK = Disk()


def write_whole(disk: Disk, file: int, data: bytes) -> None:
    """Write all of it, however little the disk takes at a time."""
    while data:
        data = data[disk.write(file, data) :]


def write_atomically(path: Path, content: bytes, disk: Disk = DISK) -> None:
    """Replace the file as a whole: after a crash it is the old one or the new one, after an error nothing is left."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        file = disk.open_empty(draft)
        try:
            write_whole(disk, file, content)
            disk.sync(file)
        finally:
            disk.close(file)
        disk.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            disk.unlink(draft)
        raise
    disk.sync_folder(path.parent)
