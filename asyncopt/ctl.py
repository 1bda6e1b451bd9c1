"""What a run can be told while it goes on: its state asked, paused, resumed, stopped, given other concurrency.

A run listens on a Unix socket that only its user can reach, and says where in ``ctl.json`` in its directory: paths of
sockets must be short, and those of runs are not. A request is one JSON line, ``{"do": "status"}``, ``"pause"``,
``"resume"``, ``"stop"`` or ``{"do": "set", "concurrency": 8}``; so is its answer, ``{"ok": true, ...}`` or
``{"ok": false, "error": "..."}``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from asyncopt import codec
from asyncopt.directory import MANIFEST, RESULT, SWEEP, SWEEP_RESULT, read_json, sweep_of
from asyncopt.engine import Engine
from asyncopt.errors import AsyncoptError, ConfigError
from asyncopt.files import write_atomically

ADDRESS = "ctl.json"
ACTIONS = ("status", "pause", "resume", "stop", "set")
MOST_CLIENTS = 8
LONGEST_LINE = 4096  # bytes of a request
IDLE_SECONDS = 60.0  # after which a silent client makes room for another
ANSWER_SECONDS = 10.0
_LONGEST_ANSWER = 1 << 20
_LONGEST_PATH = 100  # bytes of a socket's path; systems take 104 and more

_log = logging.getLogger("asyncopt")


class NotRunning(AsyncoptError):
    """Nobody listens: the run has ended, was killed, or has not begun."""


class Steered(Protocol):
    """What can be told something: an engine, or the workers of a sweep."""

    @property
    def paused(self) -> bool: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def set_concurrency(self, most: int) -> None: ...


class Controls:
    """Listens for requests to an engine while its block is entered; ``directory`` gets the ``ctl.json``.

    ``look`` gives the figures of a status, the ``endpoints`` among them where it is not one engine; ``stop`` winds the
    run up. Where no socket can be made the run goes on
    without, and says so in the log.
    """

    def __init__(
        self, directory: Path, engine: Steered, look: Callable[[], Mapping[str, Any]], stop: Callable[[], None]
    ) -> None:
        self._address = directory / ADDRESS
        self._engine = engine
        self._look = look
        self._stop = stop
        self._stopping = False
        self._socket: Path | None = None
        self._server: asyncio.AbstractServer | None = None
        self._clients: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        with suppress(AsyncoptError):
            await ask(self._address.parent, {"do": "status"})
            return self  # somebody else's run, whose lock will refuse ours: its address stays
        try:
            self._socket = _new_socket()
            self._server = await asyncio.start_unix_server(self._serve, self._socket, limit=LONGEST_LINE)
            self._socket.chmod(0o600)
            self._address.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._address, codec.dumps({"socket": str(self._socket), "pid": os.getpid()}))
        except (OSError, AttributeError, NotImplementedError) as error:  # not every system has such sockets
            _log.warning("asyncopt ctl cannot reach this run: %s", error)
            await self._close()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                self._address.unlink()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.unlink()
        for writer in self._clients.values():
            writer.transport.abort()
        if self._clients:
            await asyncio.wait(list(self._clients))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._clients) >= MOST_CLIENTS:
                writer.write(_refusal(f"{MOST_CLIENTS} others are connected; close one of them"))
                return
            self._clients[task] = writer
            while line := await _line(reader):
                writer.write(self._reply(line))
                async with asyncio.timeout(ANSWER_SECONDS):
                    await writer.drain()
        except ValueError:  # the reader's word for a line that is too long
            writer.write(_refusal(f"a request has at most {LONGEST_LINE} bytes"))
        except OSError:  # the client has gone, or says nothing (TimeoutError is one)
            pass
        finally:
            self._clients.pop(task, None)
            writer.close()

    def _reply(self, line: bytes) -> bytes:
        try:
            return codec.dumps({"ok": True, **self._do(line)}) + b"\n"
        except AsyncoptError as error:
            return _refusal(str(error))
        except Exception as error:  # a mistake in the figures must not end the run's last way of being stopped
            _log.exception("a request to asyncopt ctl failed")
            return _refusal(f"{type(error).__name__} in the run; see its log")

    def _do(self, line: bytes) -> dict[str, Any]:
        try:
            request = codec.loads(line)
        except codec.CodecError:
            raise ConfigError('the request is no JSON; wanted a line such as {"do": "status"}') from None
        check_request(request)
        action = request["do"]
        if action == "pause":
            self._engine.pause()
        elif action == "resume":
            self._engine.resume()
        elif action == "set":
            self._engine.set_concurrency(request["concurrency"])
        elif action == "stop":
            self._stopping = True
            self._stop()
        return self._status()

    def _status(self) -> dict[str, Any]:
        state = "stopping" if self._stopping else "paused" if self._engine.paused else "running"
        of_engine = _figures_of(self._engine) if isinstance(self._engine, Engine) else {"endpoints": []}
        return {"state": state, "pid": os.getpid(), **of_engine, **self._look()}


def _figures_of(engine: Engine) -> dict[str, Any]:
    sharing = engine.sharing
    shared = {} if sharing is None else {"workers": sharing.workers, "degraded": sharing.degraded}
    return {**shared, "endpoints": endpoints_of(engine)}


def endpoints_of(engine: Engine) -> list[dict[str, Any]]:
    """What each dispatcher is doing."""
    return [
        {
            "scope": one.control.scope,
            "in_flight": one.in_flight,
            "concurrency": one.slots.limit,
            "queued": one.queued,
            "limiting": one.limiting(),
        }
        for one in engine.dispatchers
    ]


async def _line(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(IDLE_SECONDS):
        return await reader.readline()


def _refusal(error: str) -> bytes:
    return codec.dumps({"ok": False, "error": error}) + b"\n"


def check_request(request: object) -> None:
    """Raise :class:`ConfigError` for what is no request, with what was wanted."""
    action = request.get("do") if isinstance(request, dict) else None
    if not isinstance(request, dict) or action not in ACTIONS:
        raise ConfigError(f"the request does {codec.printable(repr(action), 40)}; wanted one of {', '.join(ACTIONS)}")
    concurrency = request.get("concurrency")
    if action == "set" and (not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1):
        raise ConfigError(
            f"concurrency is {codec.printable(repr(concurrency), 40)}; wanted a whole number of at least 1"
        )


# -- the socket's place ------------------------------------------------------------------------------------------------


def _new_socket() -> Path:
    """A path for a socket of this process, in a folder that only this user can enter."""
    name = f"{os.getpid()}-{secrets.token_hex(4)}.sock"
    for parent in _parents():
        path = parent / f"asyncopt-{os.getuid()}" / name
        if parent.is_dir() and os.access(parent, os.W_OK) and len(os.fsencode(path)) <= _LONGEST_PATH:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _require_private(path.parent)
            _sweep(path.parent)
            return path
    raise OSError("no folder for sockets has a path that is short enough; set XDG_RUNTIME_DIR")


def _parents() -> Iterator[Path]:
    if os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(os.environ["XDG_RUNTIME_DIR"])
    yield Path(tempfile.gettempdir())
    yield Path("/tmp")  # noqa: S108 - the folder in it is this user's alone, or is refused


def _require_private(folder: Path) -> None:
    """Raise OSError where another user made the folder, or could enter it."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OSError(f"{folder} is not this user's alone; remove it, or set XDG_RUNTIME_DIR")


def _sweep(folder: Path) -> None:
    """Remove the sockets of processes that were killed."""
    for left in folder.glob("*-*.sock"):
        try:
            os.kill(int(left.name.partition("-")[0]), 0)
        except (ProcessLookupError, ValueError):
            with suppress(OSError):
                left.unlink()
        except OSError:  # it lives, and is another user's by now
            continue


# -- the other side ----------------------------------------------------------------------------------------------------


async def ask(directory: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the run in this directory to one request.

    Raises :class:`NotRunning` where nobody listens, and :class:`ConfigError` for what the run refuses.
    """
    path = _socket_of(directory)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path, limit=_LONGEST_ANSWER)
            try:
                writer.write(codec.dumps(dict(request)) + b"\n")
                answer = codec.loads(await reader.readline())
            finally:
                writer.close()
    except TimeoutError:
        raise AsyncoptError(f"the run in {directory} does not answer; its process {_pid(directory)} is busy") from None
    except (OSError, ValueError, AttributeError):
        raise NotRunning(_not_running(directory)) from None
    if not isinstance(answer, dict) or answer.pop("ok", False) is not True:
        said = answer.get("error") if isinstance(answer, dict) else answer
        raise ConfigError(f"the run refuses: {codec.printable(str(said), 200)}")
    return answer


def _socket_of(directory: Path) -> Path:
    if not directory.is_dir():
        raise ConfigError(f"{directory} is no directory; name that of a run or a sweep")
    try:
        path = Path(str(read_json(directory / ADDRESS).get("socket")))
        _require_private(path.parent)  # a directory that came from elsewhere may name any socket of ours
    except (ConfigError, OSError, ValueError):
        raise NotRunning(_not_running(directory)) from None
    if path.suffix != ".sock" or not path.parent.name.startswith("asyncopt-"):
        raise NotRunning(_not_running(directory))
    return path


def _pid(directory: Path) -> object:
    with suppress(ConfigError):
        return read_json(directory / ADDRESS).get("pid")
    return None


def _not_running(directory: Path) -> str:
    if not any((directory / name).exists() for name in (MANIFEST, SWEEP)):
        return f"{directory} is not running: no run has begun there; name the directory of a run or a sweep"
    named = shlex.quote(str(directory))
    if any((directory / name).exists() for name in (RESULT, SWEEP_RESULT)):
        return f"{directory} is not running: it has ended; see what it found with: asyncopt show {named}"
    if (sweep := sweep_of(directory)) is not None:
        command = f"asyncopt ctl {shlex.quote(str(sweep))}"
        return f"{directory} is a study of a sweep, which alone can be told something: {command}"
    return f"{directory} is not running, so that nothing can be told to it; go on with: asyncopt resume {named}"
