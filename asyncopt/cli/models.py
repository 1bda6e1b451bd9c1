"""Models as the command line names them: checked before anything is started, then opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from asyncopt.batches import check_batches
from asyncopt.config import Config, ModelConfig
from asyncopt.endpoints.http import HttpEndpoint, stated_identity
from asyncopt.endpoints.llamacpp import LlamaChat
from asyncopt.endpoints.protocol import Endpoint
from asyncopt.endpoints.providers import as_completions, key_variable, provider
from asyncopt.engine import Engine, Model
from asyncopt.errors import ConfigError
from asyncopt.local import KEEPALIVE_SECONDS, LocalServer, is_local
from asyncopt.local.lasting import LastingEndpoint, LastingServer
from asyncopt.pool import Member
from asyncopt.values import Price


def roles(config: Config) -> dict[str, ModelConfig]:
    """The models that this run has, by their role."""
    named = {"scorer": config.models.scorer, "proposer": config.models.proposer}
    return {role: wanted for role, wanted in named.items() if wanted is not None}


def check_model(wanted: ModelConfig) -> None:
    """Raise :class:`ConfigError` for a model that cannot be called, before anything is started."""
    if is_local(wanted.model):
        if wanted.model != "local" and not Path(wanted.model).is_file():
            raise ConfigError(f"there is no model file {wanted.model}; give the path of a GGUF file, or say local")
        if wanted.format != "chat" or wanted.top_logprobs is not None:
            raise ConfigError(f"{wanted.model} runs here, and its format is known; leave format and top_logprobs out")
        if wanted.endpoints is not None:
            raise ConfigError(f"{wanted.model} runs here, and not at endpoints; leave them out")
        return
    there = [_endpoint_of(one) for one in wanted.each]
    accounts = [(one.identity, one.account) for one in there]
    for endpoint in there:
        if accounts.count((endpoint.identity, endpoint.account)) > 1:
            raise ConfigError(
                f"{endpoint.base_url} is among the endpoints of {wanted.model} twice with the same key; state it once, "
                "or name another key (api_key_env)"
            )


def check_batched(config: Config) -> None:
    """Raise :class:`ConfigError` where the scorer cannot be asked in batches, before anything is started."""
    wanted = config.models.scorer
    if wanted is not None:
        endpoint = None if is_local(wanted.model) else _endpoint_of(wanted.each[0])
        check_batches(wanted.model, endpoint, cached=config.use_cache)


def key_of(wanted: ModelConfig) -> str | None:
    """The API key in the environment; None where a server of the user's own needs none."""
    name = wanted.api_key_env or key_variable(wanted.model)
    key = os.environ.get(name)
    if not key and (wanted.base_url is None or wanted.api_key_env is not None):
        raise ConfigError(
            f"{wanted.model} needs an API key; set the environment variable {name}, or use the embedded model (local)"
        )
    return key or None


async def start_local_servers(
    config: Config, stack: AsyncExitStack, log: Path, progress: Callable[[str], None]
) -> dict[str, LastingServer]:
    """The embedded models that this run needs, each served once; they end with the stack."""
    servers: dict[str, LastingServer] = {}
    for wanted in roles(config).values():
        if is_local(wanted.model) and wanted.model not in servers:
            log.parent.mkdir(parents=True, exist_ok=True)
            server = LastingServer(wanted.model, threads=wanted.threads, log=log, progress=progress)
            servers[wanted.model] = await stack.enter_async_context(server)
    return servers


async def open_models(config: Config, engine: Engine, servers: Mapping[str, LastingServer]) -> dict[str, Model]:
    """The models by role."""
    endpoints = {name: LastingEndpoint(server, local_endpoint) for name, server in servers.items()}
    models = {}
    for role, wanted in roles(config).items():
        quota, price = wanted.quota, wanted.price
        if wanted.endpoints is not None:
            models[role] = await _pool_of(wanted, engine)
            continue
        if wanted.model in servers:
            endpoint: Endpoint = endpoints[wanted.model]
            quota = replace(quota, concurrency=quota.concurrency or servers[wanted.model].slots)
            price = price or Price()
        else:
            endpoint = await _remote_endpoint(wanted)
        models[role] = engine.model(
            wanted.model, endpoint=endpoint, quota=quota, price=price, timeout=wanted.timeout, hedge=wanted.hedge
        )
    return models


async def _pool_of(wanted: ModelConfig, engine: Engine) -> Model:
    assert wanted.endpoints is not None
    members = [
        Member(endpoint=_endpoint_of(one), quota=one.quota, weight=stated.weight)
        for one, stated in zip(wanted.each, wanted.endpoints, strict=True)
    ]
    identity = wanted.identity or (await _remote_endpoint(wanted.each[0])).identity
    return engine.pool(
        wanted.model, members, identity=identity, price=wanted.price, timeout=wanted.timeout, hedge=wanted.hedge
    )


def local_endpoint(server: LocalServer) -> HttpEndpoint:
    """The endpoint of an embedded model at the address that it has now."""
    return HttpEndpoint(
        server.base_url,
        server.api_key,
        codec=LlamaChat(),
        identity=server.identity,
        supports=server.supports,
        keepalive=KEEPALIVE_SECONDS,
    )


def _endpoint_of(wanted: ModelConfig, identity: str | None = None) -> HttpEndpoint:
    provider(wanted.model, wanted.base_url, "unset")  # a name that means nothing is said before a missing key
    key = key_of(wanted)
    found = provider(wanted.model, wanted.base_url, key)
    if wanted.format == "completions":
        found = as_completions(found, wanted.prompt_logprobs or "echo")
    supports = found.capabilities
    if wanted.top_logprobs is not None:
        supports = replace(supports, top_logprobs=wanted.top_logprobs)
    return HttpEndpoint(found.base_url, key, codec=found.codec, supports=supports, identity=identity)


async def _remote_endpoint(wanted: ModelConfig) -> HttpEndpoint:
    plain = _endpoint_of(wanted)
    return _endpoint_of(wanted, await stated_identity(plain.base_url, key_of(wanted)))
