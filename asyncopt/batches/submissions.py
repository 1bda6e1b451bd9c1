"""The batches of one piece of work, durable from before they are submitted until their answers are in the cache."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncopt.directory import take_lock
from asyncopt.errors import ConfigError, JournalDamaged
from asyncopt.files import DISK, Disk
from asyncopt.journal import Journal, Record

FILE = "batches.jsonl"  # in the directory of a run


@dataclass(slots=True)
class Submission:
    """Requests that are, or are to be, in one batch; ``batch`` is None until its name is known."""

    token: str
    keys: tuple[bytes, ...]
    batch: str | None = None


class Submissions:
    """A journal of three kinds of records: ``planned``, ``submitted`` and ``ended``; each is on the disk when made.

    One process has it at a time; others get :class:`~asyncopt.errors.RunLocked`.

    The plan comes before the batch, with the token that the batch gets: whoever finds a plan without a batch can ask
    the provider for it, so that a process may die at any moment and nothing is submitted twice.
    """

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self._lock = take_lock(path.parent, path.stem, disk)
        try:
            self._journal = _opened(path, disk)
        except BaseException:
            self._lock.release()
            raise
        self.open: dict[str, Submission] = {}
        for record in self._journal.records:
            self._restore(record)

    def _restore(self, record: Record) -> None:
        token = record.data["token"]
        if record.kind == "planned":
            self.open[token] = Submission(token, tuple(map(bytes.fromhex, record.data["keys"])))
        elif record.kind == "submitted":
            self.open[token].batch = record.data["batch"]
        elif record.kind == "ended":
            self.open.pop(token, None)

    async def plan(self, keys: Sequence[bytes]) -> Submission:
        """A new submission of these requests."""
        planned = Submission(secrets.token_hex(16), tuple(keys))
        self.open[planned.token] = planned
        await self._write("planned", {"token": planned.token, "keys": [key.hex() for key in keys]})
        return planned

    async def submitted(self, planned: Submission, batch: str) -> None:
        """Its batch has this name."""
        planned.batch = batch
        await self._write("submitted", {"token": planned.token, "batch": batch})

    async def ended(self, submission: Submission, how: str) -> None:
        """Nothing more comes of it, and what came is in the cache."""
        del self.open[submission.token]
        await self._write("ended", {"token": submission.token, "batch": submission.batch, "how": how})

    async def _write(self, kind: str, data: Mapping[str, Any]) -> None:
        self._journal.append(kind, data)
        await self._journal.sync()

    def close(self) -> None:
        """Let another process go on with them."""
        self._journal.close()
        self._lock.release()


def _opened(path: Path, disk: Disk) -> Journal:
    try:
        return Journal(path, disk)
    except OSError as error:
        raise ConfigError(f"{path} cannot be used ({error.strerror}); it keeps what was submitted") from None
    except JournalDamaged:
        raise JournalDamaged(
            f"{path} is damaged, and keeps what was submitted; restore it from a copy, or move it away: batches that "
            "were not collected are then submitted again"
        ) from None
