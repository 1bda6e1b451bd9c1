"""The event loop that the command line and the benchmarks run on; the library itself never chooses one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What to pass as ``asyncio.Runner(loop_factory=...)``: uvloop where it is installed, else None for the default."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
