"""A worker of a sweep as an actor of a Ray cluster: it does what :mod:`asyncopt.cli.workers.hand` does in a process."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

from asyncopt.cli.signals import Stop
from asyncopt.cli.workers.hand import Orders, Process
from asyncopt.cli.workers.member import Member
from asyncopt.cli.workers.talk import Talk, told
from asyncopt.cluster import Cluster
from asyncopt.cluster.ray import Channel
from asyncopt.errors import AsyncoptError, ConfigError
from asyncopt.limits.descriptors import raise_limit
from asyncopt.sweep import MANIFEST
from asyncopt.version import __version__


@dataclass(frozen=True, slots=True)
class Seat:
    """What must be the same where a worker is as where the sweep was started: folder, files and program."""

    folder: str
    manifest: bytes
    version: str

    @classmethod
    def of(cls, directory: Path) -> Seat:
        """That of this process, for the sweep in this directory."""
        return cls(os.getcwd(), _digest(directory), __version__)

    def take(self, directory: Path) -> None:
        """Work in the same folder from now on, so that relative paths mean the same files.

        Raises :class:`ConfigError` where that or the sweep's directory is not seen, or the program is another one.
        """
        node = socket.gethostname()
        if self.version != __version__:
            raise ConfigError(f"{node} has asyncopt {__version__}; all nodes need {self.version}, as here")
        try:
            os.chdir(self.folder)
            seen = _digest(directory)
        except OSError as error:
            seen, reason = b"", f" ({error.strerror})"
        else:
            reason = ""
        if seen != self.manifest:
            raise ConfigError(
                f"{node} does not see the sweep's directory {directory}, or the folder {self.folder}{reason}; start it "
                "in a folder on storage that all nodes of the cluster see"
            )


def _digest(directory: Path) -> bytes:
    return blake2b((directory / MANIFEST).read_bytes(), digest_size=16).digest()


class ActorMember(Member):
    """A worker in an actor; to whoever hands out studies it is like any other."""

    @classmethod
    async def place(cls, number: int, cluster: Cluster, seat: Seat) -> ActorMember:
        """A new actor of the cluster."""
        post = cast(Any, cluster.post(partial(work, seat)))
        return cls(number, post, post)


# -- in the actor ------------------------------------------------------------------------------------------------------


async def work(seat: Seat, channel: Channel) -> None:
    """Be the worker whose sweep is at the other end of the channel, until it has wound up."""
    raise_limit()
    stop = Stop(quiet=True)
    with suppress(asyncio.CancelledError):
        await stop.guard(partial(_work, seat, channel, stop))


async def _work(seat: Seat, channel: Channel, stop: Stop) -> None:
    orders = await channel.receive()
    if orders is None:
        return
    try:
        seat.take(Path(orders["directory"]))
        await Process(Orders(**orders), cast(Talk, channel), stop).run()
    except AsyncoptError as error:
        channel.send({"event": "failed", "error": told(error)})
