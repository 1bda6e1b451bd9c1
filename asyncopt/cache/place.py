"""Where a cache may lie: a folder and a file that nobody else can write into, and whether a network is between."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|lustre|gpfs|beegfs|fuse\.(sshfs|glusterfs|s3fs|rclone|ceph.*)"
)


class UnsafePlace(Exception):
    """A cache must not be read or written here, for the reason given."""


def prepare(path: Path) -> Path:
    """The real path of the cache's file, which is there then: a new one with 0600, in a new folder with 0700.

    Raises :class:`UnsafePlace` where anybody on the machine could put answers into it, and where there is something
    else than a file; OSError where the system refuses.
    """
    path = Path(os.path.realpath(path))
    folder = path.parent
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _make_private(folder, 0o700)
    _require_private(folder, "folder")
    try:
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if not path.is_file():  # a pipe would wait for ever, a directory is somebody's own
            raise UnsafePlace(f"{path} is no file; name another one") from None
        _require_private(path, "file")
        return path
    os.close(made)
    _make_private(path, 0o600)
    return path


def _make_private(path: Path, mode: int) -> None:
    if os.name == "posix":  # elsewhere these bits say nothing
        path.chmod(mode)  # what the umask has taken away is given back, too


def _require_private(path: Path, what: str) -> None:
    # A sticky folder such as /tmp is no better: a write-ahead log could be laid there before the file.
    if os.name == "posix" and path.stat().st_mode & stat.S_IWOTH:
        raise UnsafePlace(f"the {what} {path} can be written by everybody, who could change answers; chmod o-w {path}")


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The type of the network file system that this path is on, or None for a disk, or where it cannot be known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    longest, kind = Path("/"), ""
    for fields in map(str.split, lines):
        place = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
        if path.is_relative_to(place) and len(place.parts) >= len(longest.parts):
            longest, kind = place, fields[2]
    return kind if _NETWORK.fullmatch(kind) else None
