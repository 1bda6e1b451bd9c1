"""A coordinator without a daemon: one of the processes serves the others, and another one when it has gone."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from asyncopt import codec
from asyncopt.errors import ConfigError
from asyncopt.shared.broker import VERSION, Broker
from asyncopt.shared.coordinator import ANSWER_SECONDS, Beat, SharingFailed
from asyncopt.shared.place import Place, Seen, is_same_user
from asyncopt.values import Dimension

_PATIENCE_SECONDS = 0.5  # for an answer; then whoever serves is asked on another connection whether it is there,
_PROBE_SECONDS = 0.35  # and is replaced where it is not: both within ANSWER_SECONDS
_RETRY_SECONDS = 0.02
_MOST_KEYS = 1000  # in one line
_SELF = "0"  # the serving process among its workers


class SocketCoordinator:
    """Shares quotas and questions among the processes of one user on this machine, which name the same ``path``.

    Who finds nobody there serves the others in its own loop, with state in memory; when it ends, is killed or does not
    answer for a second, the next one takes over, with empty buckets. Raises :class:`ConfigError` where the system has
    no Unix sockets.
    """

    def __init__(self, path: str | Path) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigError("this system has no Unix sockets; share by redis:// instead of unix:")
        self._place = Place(Path(path))
        self._seat: Broker | _Link | None = None
        self._joining: asyncio.Task[None] | None = None
        self._closed = False
        self._workers = 1
        self._claims: set[bytes] = set()
        self._promised: dict[tuple[str, Dimension], tuple[float, tuple[Any, ...]]] = {}  # and from when on

    def __repr__(self) -> str:
        return f"SocketCoordinator({str(self._place.stated)!r})"

    @property
    def serves(self) -> bool:
        """Whether this process is the one that serves the others."""
        return isinstance(self._seat, Broker) and not self._seat.closed

    # -- what can be asked ---------------------------------------------------------------------------------------------

    async def take(self, quota: str, dimension: Dimension, amount: float, rate: float, bucket: float) -> float:
        request = ("take", quota, dimension, amount, rate, bucket)
        wait = float(await self._ask(request))
        self._promised[quota, dimension] = asyncio.get_running_loop().time() + wait, request
        return wait

    async def give_back(self, quota: str, dimension: Dimension, amount: float, rate: float) -> None:
        await self._ask(("give_back", quota, dimension, amount, rate))

    async def pause(self, quota: str, seconds: float) -> None:
        await self._ask(("pause", quota, seconds))

    async def beat(self, quotas: Sequence[str]) -> Beat:
        self._workers, pauses = await self._ask(("beat", list(quotas)))
        return Beat(self._workers, pauses)

    async def claim(self, keys: Sequence[bytes]) -> list[bool]:
        granted: list[bool] = []
        for batch in _batches(keys):
            granted += await self._ask(("claim", [key.hex() for key in batch]))
        self._claims.update(key for key, ours in zip(keys, granted, strict=True) if ours)
        return granted

    async def release(self, keys: Sequence[bytes]) -> None:
        self._claims.difference_update(keys)
        for batch in _batches(keys):
            await self._ask(("release", [key.hex() for key in batch]))

    async def aclose(self) -> None:
        self._closed = True
        if self._joining is not None:
            self._joining.cancel()
            await asyncio.gather(self._joining, return_exceptions=True)
        if self._seat is not None:
            self._seat.close()

    async def _ask(self, request: Sequence[Any]) -> Any:
        """The answer, from whoever serves by then; all but what is given back may be asked twice."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while True:
                    seat = await self._seated()
                    try:
                        return seat.ask(_SELF, request) if isinstance(seat, Broker) else await _asked(seat, request)
                    except (ConnectionError, TimeoutError):
                        self._rise(seat)
                        if request[0] == "give_back":  # it may have been heard, and what is new knows nothing of it
                            return None
        except TimeoutError:
            raise SharingFailed(f"no answer at {self._place.stated}") from None
        except OSError as error:
            raise SharingFailed(str(error)) from None

    # -- who serves ----------------------------------------------------------------------------------------------------

    def _rise(self, seat: Broker | _Link) -> None:
        seat.close()
        if self._seat is seat:
            self._seat = None

    async def _seated(self) -> Broker | _Link:
        while self._seat is None or self._seat.closed:
            if self._closed:
                raise SharingFailed("it was closed")
            if self._joining is None or self._joining.done():
                self._joining = asyncio.get_running_loop().create_task(self._join(), name="asyncopt-join")
                self._joining.add_done_callback(_heard)
            await asyncio.shield(self._joining)
        return self._seat

    async def _join(self) -> None:
        """Connect to whoever serves, or serve. Whoever is there and says nothing is replaced."""
        self._place.prepare()
        while True:
            seen = self._place.seen()
            self._seat = await self._connected() or await self._serving(seen)
            if self._seat is not None:
                return
            await asyncio.sleep(_RETRY_SECONDS)

    async def _connected(self) -> _Link | None:
        loop = asyncio.get_running_loop()
        link = _Link(loop)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await loop.create_unix_connection(lambda: link, str(self._place.path))
                await link.ask(("hello", VERSION))
        except PermissionError:
            raise
        except OSError:  # TimeoutError is one
            link.close()
            return None
        except BaseException:
            link.close()
            raise
        for request in self._remembered():
            link.send(request)
        return link

    async def _serving(self, seen: Seen) -> Broker | None:
        listening = self._place.replace(seen)
        if listening is None:
            return None
        broker = Broker(self._place, self._workers)
        try:
            await broker.start(listening)
        except BaseException:
            listening.close()
            broker.close()
            raise
        for request in [("hello", VERSION), *self._remembered()]:
            broker.ask(_SELF, request)
        return broker

    def _remembered(self) -> list[tuple[Any, ...]]:
        """What a new broker must know: permits that are still to be used, and claims."""
        now = asyncio.get_running_loop().time()
        takes = [request for until, request in self._promised.values() if until > now]
        return [*takes, *(("claim", [key.hex() for key in batch]) for batch in _batches(list(self._claims)))]


async def _asked(link: _Link, request: Sequence[Any]) -> Any:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        return await link.ask(request)


def _batches(keys: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [keys[start : start + _MOST_KEYS] for start in range(0, len(keys), _MOST_KEYS)]


def _heard(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waited for it has got it, and may have gone


class _Link(asyncio.Protocol):
    """A connection to the process that serves; answers come in the order of the questions."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._rest = b""
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # of uvloop, which has classes of its own
        if self.closed or not is_same_user(transport.get_extra_info("socket")):
            self._transport.abort()

    def send(self, request: Sequence[Any]) -> asyncio.Future[Any]:
        """The answer to come."""
        if self.closed or self._transport is None:
            raise ConnectionResetError("the connection has ended")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._asked.append(future)
        self._transport.write(codec.dumps(request) + b"\n")
        return future

    async def ask(self, request: Sequence[Any]) -> Any:
        """The answer; raises ConnectionError when the connection ends before."""
        answer = await self.send(request)
        if isinstance(answer, dict) and "error" in answer:
            raise SharingFailed(str(answer["error"]))
        return answer

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            future = self._asked.popleft()
            if not future.done():
                future.set_result(codec.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        for future in self._asked:
            if not future.done():
                future.set_exception(ConnectionResetError("the connection has ended"))
                future.exception()  # nobody may wait for it any more
        self._asked.clear()

    def close(self) -> None:
        """End the connection, and with it every question that is under way."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
