"""The command line in this process, against a simulated API in another thread."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from asyncopt.cli import main
from asyncopt.testing import SimulatedAPI


class Done(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]


@contextmanager
def serving(api: SimulatedAPI) -> Iterator[str]:
    """The base URL of the API, which is served by a thread of its own until the block is left."""
    started = threading.Event()
    urls: list[str] = []
    stop: list[Any] = []

    async def serve() -> None:
        ended = asyncio.Event()
        stop.extend((asyncio.get_running_loop(), ended))
        async with api.serve() as url:
            urls.append(url)
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait()
    try:
        yield urls[0]
    finally:
        loop, ended = stop
        loop.call_soon_threadsafe(ended.set)
        thread.join()


class Commands:
    """Runs ``asyncopt`` as if it had been typed, with a cache of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(folder / "cache"))
        monkeypatch.delenv("ASYNCOPT_DATA", raising=False)
        monkeypatch.chdir(folder)

    def __call__(self, *arguments: str) -> Done:
        self._monkeypatch.setattr(sys, "argv", ["asyncopt", *arguments])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Done(code, *self._capsys.readouterr())
