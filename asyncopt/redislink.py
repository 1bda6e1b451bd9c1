"""One connection to a Redis or Valkey server: what is asked at the same time is sent together, and nobody waits long.

Nothing of redis-py is seen outside: whatever it raises, and whatever the server refuses, is a :class:`LinkFailed`
within a second. A connection that broke is made anew by the next question.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from asyncopt import codec
from asyncopt.errors import ConfigError

if TYPE_CHECKING:
    from redis.asyncio.connection import Connection

ANSWER_SECONDS = 1.0  # after which the server counts as gone
PAUSE_SECONDS = 2.0  # for which nobody tries again then but who must: longer than between the ends of two heartbeats
PASSWORD = "ASYNCOPT_REDIS_PASSWORD"  # noqa: S105 - the variable's name
_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_BATCH = 1000  # commands
_WANTED = "wanted something like redis://HOST:6379/0, or rediss:// for TLS"

Command: TypeAlias = Sequence[bytes | str | int | float]
_OF_A_CLUSTER = "it is one part of a cluster, and other keys are elsewhere; name a server that has all of them"

# What redis-py makes of errors loses their codes; these are the ones that somebody can do something about.
_NO_PASSWORD = f"the password is refused, or is missing; state it in the variable {PASSWORD}"
_REASONS = {
    "AuthenticationError": _NO_PASSWORD,
    "AuthenticationWrongNumberOfArgsError": "the password is refused: the server has no users, only a password",
    "NoPermissionError": "this user may not do that there",
    "BusyLoadingError": "it is still loading its data",
    "ReadOnlyError": "it is a replica, which only reads; name the primary",
    "MovedError": _OF_A_CLUSTER,
    "AskError": _OF_A_CLUSTER,
    "ClusterCrossSlotError": _OF_A_CLUSTER,
    "ClusterDownError": "the cluster is down",
    "MasterDownError": "the primary is down",
    "OutOfMemoryError": "its memory is full",
    "InvalidResponse": "what answers there does not speak as Redis does",
    "MaxClientsError": "it has too many clients",
}
# And these have no class of their own.
_NOT_OURS = "something else has written over keys of ours; delete those that begin with asyncopt:"
_TEXTS = {
    "unauthenticated": _NO_PASSWORD,  # what a long command is refused with
    "WRONGTYPE": _NOT_OURS,
    "attempt to": _NOT_OURS,  # a script of ours cannot reckon with a value
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted; name the file of who issued it: ?ssl_ca_certs=FILE",
}


class LinkFailed(Exception):
    """The server cannot be reached, does not answer in time, or refuses; says why, and nothing of the password."""


class UnknownScript(LinkFailed):
    """The server does not know a script by its hash, and has to be given its text."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and who asks. ``str`` has what may be shown."""

    host: str
    port: int
    database: int
    tls: bool
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    files: tuple[tuple[str, str], ...] = ()  # for TLS

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{host}:{self.port}/{self.database}"

    @classmethod
    def of(cls, url: str) -> Address:
        """Where this URL leads. A password that it lacks is taken from the environment.

        Raises :class:`ConfigError`, which shows nothing of the URL, for what cannot be meant.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            database = int(parts.path.strip("/") or 0)
            files = tuple(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError:
            raise ConfigError(f"the address of Redis cannot be read; {_WANTED}") from None
        if parts.fragment:  # what stands before it would be taken for a host, and shown
            raise ConfigError(f"the address of Redis has a #, which is %23 in a password; {_WANTED}")
        if parts.scheme not in _SCHEMES or not parts.hostname or database < 0:
            raise ConfigError(f"the address of Redis has no host, or not a database's number; {_WANTED}")
        if any(name not in _TLS_FILES for name, _ in files):
            raise ConfigError(f"the address of Redis has options that are not known here; {', '.join(_TLS_FILES)} are")
        password = unquote(parts.password or "") or os.environ.get(PASSWORD) or None
        username = unquote(parts.username or "") or None
        return cls(parts.hostname, port or 6379, database, _SCHEMES[parts.scheme], username, password, files)


def is_redis(place: object) -> bool:
    """Whether this text is the address of a server, and not a file's path."""
    return isinstance(place, str) and place.partition("://")[0].lower() in _SCHEMES and "://" in place


def without_password(url: str) -> str:
    """The same URL, which may stand in a configuration; raises :class:`ConfigError` where it has a password."""
    Address.of(url)
    if urlsplit(url).password:
        raise ConfigError(
            f"the address of Redis has a password; passwords stay in the environment. Remove it, and set {PASSWORD}"
        )
    return url


@dataclass(slots=True)
class _Asked:
    commands: Sequence[Command]
    answer: asyncio.Future[list[Any]]


class Link:
    """One connection, made when it is needed. For one loop at a time."""

    def __init__(self, address: Address) -> None:
        """Raises :class:`ConfigError` where redis-py is not installed, or a file for TLS cannot be read."""
        try:
            import redis.asyncio  # noqa: F401 - seconds, which are not to be those of the first question
        except ImportError:
            raise ConfigError(f"{address} needs redis-py; install it: pip install 'asyncopt[redis]'") from None
        for name, file in address.files:  # what is said of the connection later would not tell which
            if not os.access(file, os.R_OK):
                raise ConfigError(f"{name} of {address} cannot be read: {file}")
        self.address = address
        self._waiting: deque[_Asked] = deque()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._down: tuple[float, str] | None = None  # until when, and why

    @property
    def down(self) -> str | None:
        """Why nothing is asked just now, if so."""
        if self._down is None or asyncio.get_running_loop().time() >= self._down[0]:
            return None
        return self._down[1]

    async def ask(self, commands: Sequence[Command], *, anyway: bool = False) -> list[Any]:
        """The replies, all of them or none; raises :class:`LinkFailed` after :data:`ANSWER_SECONDS` at the latest.

        A server that has just failed is not asked again at once, but where ``anyway`` says so.
        """
        if self.down is not None and not anyway:
            raise LinkFailed(self.down)
        loop = asyncio.get_running_loop()
        asked = _Asked(commands, loop.create_future())
        self._waiting.append(asked)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="asyncopt-redis")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asked.answer
        except TimeoutError:
            raise LinkFailed(self._slow()) from None

    async def _run(self) -> None:
        while self._waiting:
            batch = self._batch()
            if not batch:
                continue
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    replies = await self._exchange([command for asked in batch for command in asked.commands])
            except Exception as error:  # redis-py has its own for everything, and TLS and resolvers theirs
                reason = self._reason(error)
                self._down = (asyncio.get_running_loop().time() + PAUSE_SECONDS, reason)
                await self._disconnect()
                _fail([*batch, *self._waiting], reason)
                self._waiting.clear()
            else:
                self._down = None
                for asked in batch:
                    self._settle(asked, [replies.popleft() for _ in asked.commands])

    def _batch(self) -> list[_Asked]:
        """What is sent together; who has given up waiting is not asked for any more."""
        batch: list[_Asked] = []
        commands = 0
        while self._waiting and (not batch or commands + len(self._waiting[0].commands) <= _BATCH):
            asked = self._waiting.popleft()
            if not asked.answer.done():
                batch.append(asked)
                commands += len(asked.commands)
        return batch

    async def _exchange(self, commands: Sequence[Command]) -> deque[Any]:
        from redis.exceptions import ResponseError

        connection = await self._connected()
        await connection.send_packed_command(connection.pack_commands(commands))
        replies: deque[Any] = deque()
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies

    async def _connected(self) -> Connection:
        if self._connection is not None and self._connection.is_connected and await self._connection.can_read():
            await self._disconnect()  # nothing is to be read between two questions but that the server has gone
        if self._connection is None or not self._connection.is_connected:
            self._connection = self._made()
            await self._connection.connect()  # type: ignore[no-untyped-call]
        return self._connection

    def _made(self) -> Connection:
        from redis.asyncio.connection import Connection, SSLConnection
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        where = self.address
        options: dict[str, Any] = {
            "host": where.host,
            "port": where.port,
            "db": where.database,
            "username": where.username,
            "password": where.password,
            "socket_timeout": ANSWER_SECONDS,
            "socket_connect_timeout": ANSWER_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
        }
        return SSLConnection(**(options | dict(where.files))) if where.tls else Connection(**options)

    def _settle(self, asked: _Asked, replies: list[Any]) -> None:
        if asked.answer.done():
            return
        refusal = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if refusal is None:
            asked.answer.set_result(replies)
        elif type(refusal).__name__ == "NoScriptError":
            asked.answer.set_exception(UnknownScript("the script is not known"))
        else:
            asked.answer.set_exception(LinkFailed(self._reason(refusal)))

    def _slow(self) -> str:
        return f"{self.address} has not answered within {ANSWER_SECONDS:g} s"

    def _reason(self, error: Exception) -> str:
        name = type(error).__name__
        if isinstance(error, TimeoutError) or name == "TimeoutError":
            return self._slow()
        said = codec.printable(str(error))
        text = _REASONS.get(name) or next((text for part, text in _TEXTS.items() if part in said), said) or name
        if self.address.password:
            text = text.replace(self.address.password, "***")
        return f"{self.address}: {text}"

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Let go of the connection; a later question makes a new one."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        _fail(self._waiting, f"{self.address}: the connection was closed")
        self._waiting.clear()
        await self._disconnect()


async def answering(url: str) -> None:
    """Return when the server there has answered; raises :class:`LinkFailed` and :class:`ConfigError`."""
    link = Link(Address.of(url))
    try:
        await link.ask([("PING",)])
    finally:
        await link.aclose()


def _fail(all_asked: Sequence[_Asked] | deque[_Asked], reason: str) -> None:
    for asked in all_asked:
        if not asked.answer.done():
            asked.answer.set_exception(LinkFailed(reason))
