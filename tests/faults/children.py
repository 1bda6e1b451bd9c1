"""The command line as a child process beside an API that this process serves, so that the ledger is at hand."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from asyncopt.endpoints.protocol import Reply
from asyncopt.testing import SimulatedAPI
from asyncopt.testing.streaming import Write

ASYNCOPT = (sys.executable, "-m", "asyncopt")
_HIDDEN = ("OPENAI_", "ASYNCOPT_", "ANTHROPIC_", "PYTHON")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a child that shares nothing with whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN)}
    return kept | {"ASYNCOPT_CACHE_DIR": str(folder / "cache")} | more


@dataclass(frozen=True)
class Ended:
    """How a child ended, and what it said."""

    code: int
    output: str
    errors: str


class Child:
    """A child that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    def send(self, number: int) -> None:
        """Send a signal, if the child has not ended."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)  # its own method would take the exit code away from the loop

    async def line(self) -> str:
        """The next line on its standard output."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode()

    def close(self, stream: str) -> None:
        """Close this end of the pipe of its ``stdout`` or ``stderr``, as a reader does that has enough."""
        transport = self.process._transport.get_pipe_transport({"stdout": 1, "stderr": 2}[stream])  # type: ignore[attr-defined]
        transport.close()

    async def ended(self) -> Ended:
        output, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return Ended(self.process.returncode, output.decode(), errors.decode())


@asynccontextmanager
async def child(
    arguments: list[str], variables: dict[str, str], *, python: tuple[str, ...] = ASYNCOPT
) -> AsyncIterator[Child]:
    """A child with these arguments; one that still runs at the end is killed."""
    process = await asyncio.create_subprocess_exec(
        *python, *arguments, env=variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    running = Child(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; the test's own time limit ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - what it waits for happens in other processes
        await asyncio.sleep(0.005)


# -- an API that knows who asked what ----------------------------------------------------------------------------------


class Watched:
    """A simulated API that keeps what was asked, byte by byte, and answers the first ``free`` requests at once.

    The others wait until it is told to :meth:`answer`.
    """

    def __init__(self, api: SimulatedAPI) -> None:
        self.identity = api.identity
        self.ledger = api.ledger
        self.asked: list[bytes] = []
        self.answered = 0
        self.free: float = math.inf
        self._api = api
        self._released = asyncio.Event()
        self._wanted: list[tuple[int, asyncio.Future[None]]] = []

    async def handle(self, body: bytes, headers: Mapping[str, str], path: str, write: Write | None = None) -> Reply:
        self.asked.append(body)
        for number, reached in self._wanted:
            if len(self.asked) >= number and not reached.done():
                reached.set_result(None)
        if len(self.asked) > self.free:
            await self._released.wait()
        reply = await self._api.handle(body, headers, path, write)
        self.answered += 1
        return reply

    def models(self, headers: Mapping[str, str]) -> Reply:
        return self._api.models(headers)

    def answer(self) -> None:
        """Answer everything from now on."""
        self.free = math.inf
        self._released.set()

    async def until_asked(self, number: int) -> None:
        """Return when so many requests have come."""
        reached = asyncio.get_running_loop().create_future()
        self._wanted.append((number, reached))
        if len(self.asked) < number:
            await reached


# -- children that start at once ---------------------------------------------------------------------------------------


class Nursery:
    """Runs the command line in forked processes, one at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._running: int | None = None

    async def start(self, arguments: list[str], variables: dict[str, str], errors: Path) -> int:
        """The number of a process with these arguments."""
        order = {"arguments": arguments, "variables": variables, "errors": str(errors)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._running = await self._number()
        return self._running

    async def ended(self) -> int:
        """How the process ended: its exit code, or less than 0 by a signal."""
        code = await self._number()
        self._running = None
        return code

    def kill(self) -> None:
        """End the process that runs, if one does."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.kill(self._running, signal.SIGKILL)

    async def _number(self) -> int:
        assert self._process.stdout is not None
        return int(await self._process.stdout.readline())


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """A nursery, which ends with the block."""
    program = str(Path(__file__).with_name("nursery.py"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    kids = Nursery(process)
    try:
        yield kids
    finally:
        kids.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
