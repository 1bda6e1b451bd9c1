"""The time of servers, and loops whose time jumps to the next timer: hours take milliseconds and come out exact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from asyncopt.errors import ConfigError

T = TypeVar("T")


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What ``main()`` returns, run on a virtual clock that starts at 0 and ticks in microseconds.

    Raises :class:`ConfigError` where looptime is not installed.
    """
    try:
        import looptime
    except ImportError:
        message = "the virtual clock needs looptime, which is not installed; pip install 'asyncopt[simulate]'"
        raise ConfigError(message) from None

    # Without idle cycles before each jump, which are for threads and cost 20 times the time of a run.
    def new_loop() -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = looptime.new_event_loop(start=0, noop_cycles=0)
        return loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


class ServerClock:
    """Time that starts at 0 and goes on where it stopped when a later loop takes the server over."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._origin = self._last = 0.0

    def now(self) -> float:
        """Seconds since the first call."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._origin = loop, loop.time() - self._last
        self._last = loop.time() - self._origin
        return self._last
