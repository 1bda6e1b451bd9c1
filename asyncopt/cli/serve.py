"""``asyncopt local serve`` and ``asyncopt simulate``: servers on this machine, until interrupted."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from asyncopt import codec
from asyncopt.errors import ConfigError

_OF_STUDIES = {"settings": "--set", "repeat": "--repeat"}  # options that mean nothing to a server


def serve_local(model: str, threads: int | None) -> None:
    """Serve the embedded model; one JSON line on stdout has its address and key."""
    from asyncopt.cli.models import check_model
    from asyncopt.cli.signals import run_in_loop
    from asyncopt.config import ModelConfig
    from asyncopt.local import is_local

    if is_local(model):  # else the server itself says what it takes
        check_model(ModelConfig(model=model))
    run_in_loop(partial(_serve_local, model, threads))


async def _serve_local(model: str, threads: int | None) -> None:
    from asyncopt.files import cache_folder
    from asyncopt.local import LocalServer

    log = cache_folder() / "local.log"
    log.parent.mkdir(parents=True, exist_ok=True)

    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    async with LocalServer(model, threads=threads, log=log, progress=tell) as server:
        ready = {"event": "ready", "url": server.base_url, "api_key": server.api_key, "identity": server.identity}
        print(codec.dumps(ready).decode(), flush=True)
        await asyncio.Event().wait()


def serve_simulated(options: Mapping[str, Any]) -> None:
    """Serve the simulated API; one JSON line on stdout has its address."""
    from asyncopt.testing.process import run_simulator

    for name, flag in _OF_STUDIES.items():
        if options.get(name):
            raise ConfigError(f"{flag} was given without a study; name one with --study, or leave {flag} out")
    others = (*_OF_STUDIES, "study", "json")  # the server speaks JSON anyway
    run_simulator({name: value for name, value in options.items() if name not in others})
