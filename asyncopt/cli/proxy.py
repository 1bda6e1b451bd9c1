"""``asyncopt proxy``: the engine in front of an endpoint, for programs that speak OpenAI's API, until interrupted."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from asyncopt import codec
from asyncopt.cli.models import check_model, open_models, start_local_servers
from asyncopt.cli.run import cache_path, coordinator_of
from asyncopt.cli.settings import settle
from asyncopt.cli.signals import Stop, run_in_loop
from asyncopt.config import Config, ModelConfig, ModelsConfig
from asyncopt.endpoints.providers import provider
from asyncopt.engine import Engine, Model
from asyncopt.errors import ConfigError
from asyncopt.files import cache_folder
from asyncopt.limits.budget import Account, require_price
from asyncopt.local import is_local
from asyncopt.local.lasting import LastingServer
from asyncopt.proxy import Draws, Proxy
from asyncopt.telemetry import observing

_ANY = "openai/ANY"  # stands for the names that clients give, where none is stated
_SETTINGS = ("models.scorer.", "budget.")
# The configuration is a run's without its task and its search.
_NO_RUN: Mapping[str, Any] = {"optimizer.name": "random"}


@dataclass(frozen=True, slots=True)
class Door:
    """How the proxy is reached, and whether the same request is the same draw."""

    port: int = 0
    token: str | None = None
    draws: Draws = "fresh"


def proxy(
    scorer: str | None = None,
    base_url: str | None = None,
    *,
    rpm: float | None = None,
    tpm: float | None = None,
    concurrency: str | None = None,
    hedge: float | None = None,
    cache: str | None = None,
    no_cache: bool = False,
    draws: str = "fresh",
    budget: str | None = None,
    settings: Sequence[str] = (),
    observe: Sequence[str] = (),
    port: int = 0,
    key_env: str | None = None,
    token_env: str | None = None,
    wait: bool = False,
    shared: str | None = None,
) -> None:
    """Serve OpenAI's API on 127.0.0.1 in front of a model, or of every model of a server; one JSON line is its address.

    ``settings`` are of ``models.scorer`` and ``budget``, as in a run; ``observe`` names observers. ``key_env`` names
    the variable with the provider's key, ``token_env`` one with the key that clients must send.
    """
    for setting in settings:
        if not setting.strip().startswith(_SETTINGS):
            raise ConfigError(f"--set {setting} is for runs; a proxy has models.scorer.KEY and budget.KEY")
    given: dict[str, Any] = {
        **_NO_RUN,
        "models.scorer.model": scorer or (_ANY if base_url is not None else None),
        "models.scorer.requests_per_minute": rpm,
        "models.scorer.tokens_per_minute": tpm,
        "models.scorer.concurrency": None if concurrency is None else _whole_or_range(concurrency),
        "models.scorer.hedge": hedge,
        "models.scorer.api_key_env": key_env,
        "use_cache": False if no_cache else None,
        "cache": cache,
        "observers": list(observe) or None,
        "shared": shared,
    }
    config = settle("proxy", given, base_url, budget, list(settings))
    wanted = _checked(config)
    if draws not in get_args(Draws):
        raise ConfigError(f"--draws is {draws!r}; it must be one of {', '.join(get_args(Draws))}")
    door = Door(port, _token(token_env), "cached" if draws == "cached" else "fresh")
    stop = Stop()
    run_in_loop(partial(_serve, config, wanted, door, stop, wait=wait), stop)


def _whole_or_range(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


def _checked(config: Config) -> ModelConfig:
    """The model's table, if it can be called and its budget be kept."""
    wanted = config.models.scorer
    assert wanted is not None
    check_model(wanted)
    require_price(config.budget.build(), "model", wanted.model, wanted.price)
    if config.budget.seconds is not None:
        raise ConfigError("--budget seconds is for runs; a proxy serves until it is interrupted")
    return wanted


def _token(variable: str | None) -> str | None:
    token = None if variable is None else os.environ.get(variable, "").strip()  # headers come without blanks around
    if variable is not None and not token:
        raise ConfigError(f"--token-env names {variable}, which is not set; set it to what clients send as their key")
    return token


async def _serve(config: Config, wanted: ModelConfig, door: Door, stop: Stop, *, wait: bool) -> None:
    async with AsyncExitStack() as stack:
        watching = stack.enter_context(observing(config.observers))
        log = cache_folder() / "local.log"
        servers = await start_local_servers(config, stack, log, partial(print, file=sys.stderr))
        coordinator = coordinator_of(config)
        engine = Engine(cache=cache_path(config), observers=watching, wait=wait, coordinator=coordinator)
        await stack.enter_async_context(engine)
        stop.watch(engine)
        models = _Models(config, wanted, engine, servers)
        served = Proxy(
            engine,
            models.open,
            names=models.names,
            draws=door.draws,
            first_draw=time.time_ns() // 1000,  # after those of an earlier proxy with the same cache
            account=models.account,
            token=door.token,
        )
        url = await stack.enter_async_context(served.serve(door.port))
        print(codec.json_line({"event": "ready", "url": url, "pid": os.getpid()}), end="", flush=True)
        named = "every model" if not models.names else codec.printable(wanted.model)
        print(f"asyncopt: {named} is served at {url}; end it with Ctrl-C", file=sys.stderr)
        await asyncio.Event().wait()


class _Models:
    """Opens the one model that was named, or those that clients name, on one account."""

    def __init__(
        self, config: Config, wanted: ModelConfig, engine: Engine, servers: Mapping[str, LastingServer]
    ) -> None:
        self.account = Account(config.budget.build())
        self.names = () if wanted.model == _ANY else _names_of(wanted)
        self._config = config
        self._wanted = wanted
        self._engine = engine
        self._servers = servers

    async def open(self, name: str, times: int) -> Model:
        """The model of this name, with a quota of its own each time."""
        changes: dict[str, Any] = {} if self.names else {"model": f"openai/{name}"}
        if times:
            changes["scope"] = f"{self._wanted.scope or name}, opened {times + 1} times"
        alone = ModelsConfig(scorer=self._wanted.model_copy(update=changes))
        opened = await open_models(self._config.model_copy(update={"models": alone}), self._engine, self._servers)
        return opened["scorer"].charged_to(self.account)


def _names_of(wanted: ModelConfig) -> tuple[str, ...]:
    """What clients may call the model: its name here, and the one that its server knows."""
    if is_local(wanted.model):
        return (wanted.model,)
    served = provider(wanted.model, wanted.address, "unset").model
    return tuple(dict.fromkeys((served, wanted.model)))
