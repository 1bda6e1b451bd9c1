"""The event loop that the command line and the benchmarks run on, which the library never chooses; and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What to pass as ``asyncio.Runner(loop_factory=...)``: uvloop where it is installed, else None for the default."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for something short, also where the waiting is cancelled: half an end would leave tasks and sockets."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError
