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


def sync_directory(folder: Path) -> None:
    """Make the names in a folder durable, where the platform can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file as a whole: after a crash it is the old one or the new one, after an error nothing is left."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    sync_directory(path.parent)
