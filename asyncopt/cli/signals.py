"""Signals and closed pipes, which only the command line handles; the library never touches them.

The first signal asks a run to wind up: nothing more is admitted, and calls in flight may end. The second cancels them.
The third ends the process as if nobody handled it. In every case but the last, what was paid for is kept.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from asyncopt.errors import StorageFailed
from asyncopt.limits.descriptors import raise_limit
from asyncopt.loops import loop_factory

GRACE_SECONDS = 30.0
_HANDLED = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_SIGPIPE = 13  # not in every system's signal module, and never handled: sockets raise it, too


def run_in_loop(main: Callable[[], Coroutine[Any, Any, None]], stop: Stop | None = None) -> int | None:
    """Run the coroutine on uvloop where there is one; the number of the signal that stopped it, if one did.

    ``stop`` is for a coroutine that opens an engine, and passes it to :meth:`Stop.watch`.
    """
    stop = stop or Stop()
    raise_limit()
    with stop.listening(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(stop.guard(main))
        except asyncio.CancelledError:
            if stop.number is None:
                raise
            return stop.number
    return None


class _InFlight(Protocol):
    @property
    def in_flight(self) -> int: ...


class Drained(Protocol):
    """What has calls in flight that may end: an engine, or the workers of a sweep."""

    @property
    def dispatchers(self) -> Sequence[_InFlight]: ...

    async def drain(self, grace: float) -> None: ...


class Stop:
    """Ends what runs in the loop early: gently, then now, then at any price.

    ``number`` is that of the first signal that came. A closed pipe counts as a first SIGPIPE. A ``quiet`` one leaves it
    to somebody else to say what is waited for.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.number: int | None = None
        self._quiet = quiet
        self._came = 0
        self._engine: Drained | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[Any] | None = None
        self._winding_up: asyncio.Task[None] | None = None

    def watch(self, engine: Drained) -> None:
        """Let this engine's calls in flight end when the first signal comes."""
        self._engine = engine

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over; one that whoever started us ignores, as nohup does, stays ignored."""
        before = {number: signal.getsignal(number) for number in _HANDLED}
        taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
        for outlet in _outlets():
            outlet.on_closed = self._on_closed
        for number in taken:
            # Not the loop's own handlers: the third signal must end a process whose loop stands still, too.
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])

    async def guard(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the coroutine until it ends or a signal cancels it."""
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        if self.number is not None:  # the signal came before the loop
            raise asyncio.CancelledError
        try:
            await main()
        finally:
            self._loop = None
            if self._winding_up is not None:
                self._winding_up.cancel()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._came += 1
        if self._came > 2:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._pass_on(number)

    def wind_up(self, number: int = signal.SIGINT) -> None:
        """Do as at the first signal, of that number; nothing if one came before."""
        if not self._came:
            self._came = 1
            self._pass_on(number)

    def _on_closed(self) -> None:
        self.wind_up(_SIGPIPE)

    def _pass_on(self, number: int) -> None:
        self.number = self.number or number
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._act, self._came)

    def _act(self, came: int) -> None:
        assert self._main is not None
        if came == 1:
            self._winding_up = asyncio.ensure_future(self._wind_up())
            self._winding_up.add_done_callback(lambda _: self._cancel())
        elif self._winding_up is None or not self._winding_up.cancel():
            self._cancel()

    def _cancel(self) -> None:
        assert self._main is not None
        self._main.cancel()

    async def _wind_up(self) -> None:
        """Return when the calls in flight have ended, or the grace has."""
        in_flight = sum(one.in_flight for one in self._engine.dispatchers) if self._engine is not None else 0
        if self._engine is None or not in_flight:
            return
        if not self._quiet:
            calls = "1 call" if in_flight == 1 else f"{in_flight} calls"
            wait = f"waiting up to {GRACE_SECONDS:g} s for {calls} in flight; interrupt again to stop now"
            print(f"asyncopt: {wait}", file=sys.stderr, flush=True)
        await self._engine.drain(GRACE_SECONDS)


# -- closed pipes ------------------------------------------------------------------------------------------------------


class _Outlet(io.FileIO):
    """Standard output or error, whose reader may go: `| head` has enough, or the terminal was closed."""

    on_closed: Callable[[], None] | None = None
    failure: str | None = None  # why it takes nothing more, where it is the disk that it is written to

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._terminal = os.isatty(descriptor)
        self._open = True

    def write(self, data: Any, /) -> int:
        if self._open:
            try:
                return super().write(data)
            except OSError as error:
                hung_up = self._terminal and error.errno == errno.EIO
                if not hung_up and not isinstance(error, BrokenPipeError):
                    self.failure = error.strerror
            self._open = False
            if self.on_closed is not None:
                self.on_closed()
            elif self.failure is None:
                sys.exit(128 + _SIGPIPE)
        return memoryview(data).nbytes


def guard_outputs() -> None:
    """Let nobody raise who writes to a pipe that its reader has closed, or that never was open."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # `>&-`; the number must not go to the next file that is opened
            descriptor = os.open(os.devnull, os.O_WRONLY)
        elif stream is not getattr(sys, f"__{name}__"):  # somebody collects what we write
            continue
        usual = {} if stream is None else {"encoding": stream.encoding, "errors": "backslashreplace"}
        buffered = io.BufferedWriter(_Outlet(descriptor))
        setattr(
            sys, name, io.TextIOWrapper(buffered, **usual, line_buffering=name == "stderr" or os.isatty(descriptor))
        )


def flush_outputs() -> None:
    """Write out what was printed, while a closed pipe or a full disk still is an exit code and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    failures = [outlet.failure for outlet in _outlets() if outlet.failure is not None]
    if failures:
        print(f"asyncopt: the output cannot be written ({failures[0]}); make room", file=sys.stderr)
        sys.exit(StorageFailed.exit_code)


def _outlets() -> list[_Outlet]:
    raws = (getattr(getattr(stream, "buffer", None), "raw", None) for stream in (sys.stdout, sys.stderr))
    return [raw for raw in raws if isinstance(raw, _Outlet)]
