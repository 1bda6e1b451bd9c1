"""Servers as processes: ``asyncopt simulate`` and the bare responder serve until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asyncopt import codec
from asyncopt.codec import Json
from asyncopt.errors import ConfigError
from asyncopt.limits.descriptors import raise_limit
from asyncopt.loops import loop_factory
from asyncopt.tasks import catalogue, load
from asyncopt.tasks.datasets import DATASETS, tasks_in
from asyncopt.tasks.task import Task
from asyncopt.testing.answers import AnswerModel, Item, items_of
from asyncopt.testing.batches import BatchPlan
from asyncopt.testing.faults import FaultPlan
from asyncopt.testing.latency import parse_latency
from asyncopt.testing.simulated import SimulatedAPI

_DEALS = 40  # enough for every bundled word to be dealt

# The options of the command line whose parameters have longer names.
_PARAMETERS = {
    "rps": "requests_per_second",
    "burst": "request_burst",
    "window": "request_window",
    "tps": "tokens_per_second",
    "itps": "input_tokens_per_second",
    "otps": "output_tokens_per_second",
    "key": "require_key",
}


def run_simulator(options: Mapping[str, Any]) -> None:
    """Serves a simulated API until SIGINT or SIGTERM; prints one line of JSON with its ``url`` when ready."""
    api = simulated_api(options)

    def ready(url: str) -> Json:
        return {
            "event": "ready",
            "url": url,
            "port": urlsplit(url).port,
            "identity": api.identity,
            "pid": os.getpid(),
        }

    serve_until_signal(lambda: api.serve(options.get("port") or 0), ready)


def simulated_api(options: Mapping[str, Any]) -> SimulatedAPI:
    """The server that the options of ``asyncopt simulate`` describe; what is missing or None has its default.

    ``data`` is a folder of published data sets whose items can then be answered beside those of the tasks that come
    with the package.
    """
    chosen = {name: value for name, value in options.items() if name not in ("port", "data")}
    answers = AnswerModel(options.get("seed") or 0, known_items(options.get("data")))
    return SimulatedAPI(**server_parameters(chosen), answers=answers)


def server_parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that describe a server, as parameters of :class:`SimulatedAPI`."""
    return {
        _PARAMETERS.get(name, name): _READERS[name](value) if name in _READERS else value
        for name, value in options.items()
        if value is not None
    }


def parse_change(text: str) -> tuple[float, float]:
    """The seconds and the factor in a command-line text such as ``30:0.5``."""
    at, _, factor = text.partition(":")
    try:
        return float(at), float(factor)
    except ValueError:
        raise ConfigError(f"the change is {text!r}; wanted SECONDS:FACTOR, such as 30:0.5") from None


_READERS: dict[str, Callable[[str], Any]] = {
    "latency": parse_latency,
    "faults": FaultPlan.parse,
    "change": parse_change,
    "batches": BatchPlan.parse,
}


def serve_until_signal(serving: Callable[[], AbstractAsyncContextManager[str]], ready: Callable[[str], Json]) -> None:
    """Serves until SIGINT or SIGTERM, and returns; when ready, prints ``ready(url)`` as one line of JSON."""

    async def main() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows: SIGINT comes as KeyboardInterrupt
                loop.add_signal_handler(number, stopped.set)
        async with serving() as url:
            print(codec.dumps(ready(url)).decode(), flush=True)
            await stopped.wait()

    raise_limit()  # a connection for every client's call in flight
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())


def known_items(data: Path | None) -> dict[str, Item]:
    """The items of the bundled tasks, and of those published tasks whose files are in ``data``.

    Raises :class:`ConfigError` if ``data`` has none of them, :class:`DataError` for another file than published.
    """
    present = [] if data is None else tasks_in(data)
    if data is not None and not present:
        folders = " or ".join(sorted(one.name for one in DATASETS))
        raise ConfigError(f"{data} has no folder {folders}; give the one that holds them")
    tasks = [load(name, data=data) for name in present]
    # A study's seed deals it a part of the bundled words, and this server does not know that seed.
    tasks += [load(info.name, seed=seed) for info in catalogue() if not info.needs_data for seed in range(_DEALS)]
    return items_of(task for task in tasks if isinstance(task, Task))
