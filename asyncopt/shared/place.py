"""Where the socket of a broker lies, whose it is, and who may put a new one in its place."""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock, Timeout

LONGEST_PATH = 90  # bytes of a socket's path; systems take 104 and more, of which a draft's name needs a few
_BACKLOG = 256

Seen: TypeAlias = tuple[int, int] | None  # which socket lies in a place; None for none


class Place:
    """The place of one broker after another: a path for a socket, and a lock beside it.

    A path that is too long for a socket stands for a short one in ``/tmp/asyncopt-UID``: the same for all processes of
    the user, whatever their environments say.
    """

    def __init__(self, path: Path) -> None:
        self.stated = path
        path = Path(os.path.realpath(path))
        if len(os.fsencode(path)) > LONGEST_PATH:
            name = blake2b(os.fsencode(path), digest_size=12).hexdigest()
            path = Path("/tmp") / f"asyncopt-{os.getuid()}" / f"{name}.shared"  # noqa: S108 - refused unless private
        self.path = path
        self._lock = FileLock(f"{path}.lock", mode=0o600)

    def prepare(self) -> None:
        """Make the folder, which only its user can enter then.

        Raises OSError for a folder into which somebody else could lay a socket.
        """
        folder = self.path.parent
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        found = folder.stat()
        if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError(
                f"others can write into the folder {folder}; name a path in a folder of your own, which need not exist"
            )

    def seen(self) -> Seen:
        """Which socket lies here now; raises OSError for what is no socket."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISSOCK(found.st_mode):
            raise OSError(f"{self.path} is there and is no socket; name another path")
        return found.st_ino, found.st_mtime_ns

    def replace(self, seen: Seen) -> socket.socket | None:
        """A socket that listens here from now on, in the place of the one that was seen.

        None where somebody else was faster: looking and replacing are one step under the lock, which the system frees
        when its holder dies. The old socket's owner finds another one here, and stops.
        """
        try:
            with self._lock.acquire(blocking=False):
                return self._bound() if self.seen() == seen else None
        except Timeout:
            return None

    def _bound(self) -> socket.socket:
        draft = self.path.with_name(f"{self.path.name[:40]}.{os.getpid()}")
        with suppress(FileNotFoundError):
            draft.unlink()
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.setblocking(False)
            listening.bind(os.fsencode(draft))
            draft.chmod(0o600)
            listening.listen(_BACKLOG)
            draft.replace(self.path)
        except BaseException:
            listening.close()
            with suppress(OSError):
                draft.unlink()
            raise
        return listening

    def leave(self, mine: Seen) -> None:
        """Remove the socket if it is still this one; one that is left hurts nobody."""
        with suppress(OSError, Timeout), self._lock.acquire(blocking=False):
            if self.seen() == mine:
                self.path.unlink()


def is_same_user(connected: socket.socket) -> bool:
    """Whether the process at the other end is this user's; where the system cannot tell, the socket's rights decide."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    _, user, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return bool(user == os.getuid())
