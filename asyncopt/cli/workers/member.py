"""One worker process as the sweep's process knows it: started, told what to do, asked to end, and replaced."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Self

from asyncopt.cli.signals import GRACE_SECONDS
from asyncopt.cli.workers.talk import Talk

# Seconds after each signal: to let calls in flight end, to cancel them, to die. Then it is killed.
_PATIENCE = (GRACE_SECONDS + 10, 15.0, 5.0)
_PROGRAM = "import sys; sys.path[:] = {path!r}; from asyncopt.cli.workers.hand import main; main({end})"


class Member:
    """A worker process; ``running`` are the studies that it was told to run and has not told the end of."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, talk: Talk) -> None:
        self.number = number
        self.process = process
        self.talk = talk
        self.running: list[str] = []
        self.ready = False
        self.most = 1  # studies at once
        self.dismissed = False  # it was told to end, or has nothing to do any more
        self._over: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, number: int) -> Self:
        """A new process; it ends when this one does, since nobody is at the other end of its socket then."""
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as stack:
            stack.callback(ours.close)
            # With the modules of this process: where they are may not be where Python would look.
            program = _PROGRAM.format(path=sys.path, end=theirs.fileno())
            # In a session of its own, Ctrl-C in the terminal reaches the sweep's process alone, which passes it on.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", program),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            stack.pop_all()
        return cls(number, process, await Talk.over(ours))

    def listen(self, hear: Callable[[Member, dict[str, Any]], None]) -> None:
        """Have every message heard from now on, until the process has ended."""
        self._over = asyncio.get_running_loop().create_task(self._listen(hear), name="asyncopt-member")

    async def _listen(self, hear: Callable[[Member, dict[str, Any]], None]) -> None:
        while (message := await self.talk.receive()) is not None:
            hear(self, message)
        await self.process.wait()
        await self.talk.aclose()

    async def over(self) -> None:
        """Return when the process has ended and all it has said was heard."""
        assert self._over is not None
        await asyncio.shield(self._over)

    def interrupt(self) -> None:
        """Ask it to wind up; asked again, it cancels what is in flight."""
        self.dismissed = True
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    async def end(self) -> None:
        """Have it end, gently at first; each time that whoever waits is cancelled, less so."""
        for seconds in _PATIENCE:
            if self.process.returncode is None:
                self.interrupt()
            try:
                async with asyncio.timeout(seconds):
                    await self.over()
                return
            except (TimeoutError, asyncio.CancelledError):
                continue
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.over()

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        code = self.process.returncode or 0
        return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended by itself (exit code {code})"
