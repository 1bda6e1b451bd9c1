"""Runs a coroutine on a loop whose time jumps to the next timer, so that hours take milliseconds and come out exact."""

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
        raise ConfigError("the virtual clock needs looptime, which is missing; pip install 'asyncopt[test]'") from None

    def new_loop() -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = looptime.new_event_loop(start=0)
        return loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())
