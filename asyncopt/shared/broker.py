"""A broker: the board of one process behind a Unix socket, for the other processes of the same user and machine.

A request is one line of JSON, such as ``["take", quota, dimension, amount, rate, bucket]``, and so is its answer: a
value, or ``{"error": "..."}``. Answers come in the order of the requests, so that many can be under way at once. A
connection is a worker; when it ends the worker has left, and what it had claimed is free.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, cast

from asyncopt import codec
from asyncopt.shared.board import Board
from asyncopt.shared.coordinator import DEAD_SECONDS
from asyncopt.shared.place import Place, is_same_user

VERSION = 1
LONGEST_LINE = 1 << 20  # bytes
CHECK_SECONDS = 0.2  # less than FRESH_SECONDS: a broker that was replaced stops before the new one's first permit

_log = logging.getLogger("asyncopt")


class Replaced(ConnectionError):
    """Another broker has taken this one's place."""


class Broker:
    """Serves a board until it is closed, or finds another broker in its place; ``workers`` is what was known before.

    That many are said to be there for the first two seconds: those that share a stated concurrency have yet to come.
    Make it in the loop that serves.
    """

    def __init__(self, place: Place, workers: int = 1) -> None:
        self._loop = asyncio.get_running_loop()
        self._place = place
        self._mine = place.seen()
        self._board = Board()
        self._before = workers, self._loop.time() + DEAD_SECONDS
        self._checked_at = self._loop.time()
        self._server: asyncio.AbstractServer | None = None
        self._peers: set[Peer] = set()
        self._numbers = count(1)
        self._methods: dict[str, Callable[..., Any]] = {
            "hello": self._hello,
            "take": self._take,
            "give_back": self._give_back,
            "pause": self._pause,
            "beat": self._beat,
            "claim": self._claim,
            "release": self._release,
        }
        self.closed = False

    async def start(self, listening: socket.socket) -> None:
        """Serve whoever connects to this socket."""
        self._server = await self._loop.create_unix_server(lambda: Peer(self, next(self._numbers)), sock=listening)

    def ask(self, worker: str, request: Sequence[Any]) -> Any:
        """The answer to a request; raises :class:`Replaced` where it is another's to answer by now."""
        now = self._loop.time()
        if now - self._checked_at > CHECK_SECONDS:
            self._checked_at = now
            self._check()
        if self.closed:
            raise Replaced("another broker has taken over")
        return self._methods[request[0]](now, worker, *request[1:])

    def _check(self) -> None:
        try:
            there = self._place.seen()
        except OSError:
            there = None
        if there != self._mine:
            self.close()

    def _hello(self, now: float, worker: str, version: int) -> None:
        if version != VERSION:
            raise ValueError("the process that serves the quota has another version of asyncopt")
        self._board.beat(now, worker, [])

    def _take(
        self, now: float, worker: str, quota: str, dimension: Any, amount: float, rate: float, bucket: float
    ) -> float:
        return self._board.buckets.take(now, quota, dimension, amount, rate, bucket)

    def _give_back(self, now: float, worker: str, quota: str, dimension: Any, amount: float, rate: float) -> None:
        self._board.buckets.give_back(quota, dimension, amount, rate)

    def _pause(self, now: float, worker: str, quota: str, seconds: float) -> None:
        self._board.buckets.pause(now, quota, seconds)

    def _beat(self, now: float, worker: str, quotas: Sequence[str]) -> tuple[int, dict[str, float]]:
        beat = self._board.beat(now, worker, quotas)
        workers, until = self._before
        return max(beat.workers, workers if now < until else 1), dict(beat.pauses)

    def _claim(self, now: float, worker: str, keys: Sequence[str]) -> list[bool]:
        return self._board.claim(now, worker, [bytes.fromhex(key) for key in keys])

    def _release(self, now: float, worker: str, keys: Sequence[str]) -> None:
        self._board.release(worker, [bytes.fromhex(key) for key in keys])

    def came(self, peer: Peer) -> None:
        """A worker has connected."""
        self._peers.add(peer)

    def went(self, peer: Peer) -> None:
        """A worker has ended, or was killed."""
        self._peers.discard(peer)
        self._board.leave(peer.worker)

    def close(self) -> None:
        """Serve nobody any more: whoever notices first takes over."""
        if not self.closed:
            self.closed = True
            self._place.leave(self._mine)
            if self._server is not None:
                self._server.close()
            for peer in list(self._peers):
                peer.leave()


class Peer(asyncio.Protocol):
    """One worker's connection, at the broker's end."""

    def __init__(self, broker: Broker, number: int) -> None:
        self.worker = str(number)
        self._broker = broker
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # of uvloop, which has classes of its own
        if self._broker.closed or not is_same_user(transport.get_extra_info("socket")):
            self._transport.abort()
        else:
            self._broker.came(self)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            self._transport.write(b"".join(codec.dumps(self._answer(line)) + b"\n" for line in lines))
        except Replaced:
            self.leave()
        if len(self._rest) > LONGEST_LINE:
            self.leave()

    def _answer(self, line: bytes) -> Any:
        try:
            return self._broker.ask(self.worker, codec.loads(line))
        except Replaced:
            raise
        except Exception as error:  # a request that cannot be meant must not end the quota of everybody
            _log.debug("a request to the broker failed", exc_info=True)
            return {"error": codec.printable(f"{type(error).__name__}: {error}")}

    def connection_lost(self, exc: Exception | None) -> None:
        self._broker.went(self)

    def leave(self) -> None:
        """End the connection when what was answered is on its way."""
        self._transport.close()
