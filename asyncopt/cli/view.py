"""``asyncopt view``: the live page of the runs in a folder, until interrupted."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path

from asyncopt import codec
from asyncopt.cli.signals import run_in_loop
from asyncopt.directory import MANIFEST
from asyncopt.errors import ConfigError
from asyncopt.records.read import read_manifest


def view(
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    open_browser: bool = False,
    json: bool = False,
) -> None:
    """Serve the page and print its address; one JSON line on standard output with ``json``."""
    run_in_loop(partial(_view, directory, host, port, token, open_browser, json))


async def _view(directory: Path, host: str, port: int, token: str | None, open_browser: bool, json: bool) -> None:
    from asyncopt.view import viewing

    if not await asyncio.to_thread(directory.is_dir):
        raise ConfigError(f"{directory} is no directory; name a run's, or a folder of runs")
    if (directory / MANIFEST).exists():
        await asyncio.to_thread(read_manifest, directory)  # who names a damaged run is told so, and not shown nothing
    async with viewing(directory, host, port, token) as url:
        print(codec.json_line({"event": "ready", "url": url}) if json else url, end="" if json else "\n", flush=True)
        print(f"asyncopt: showing {codec.printable(str(directory))}; Ctrl-C ends it", file=sys.stderr)
        if open_browser:
            import webbrowser

            await asyncio.to_thread(webbrowser.open, url)
        await asyncio.Event().wait()
