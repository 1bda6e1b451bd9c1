"""``asyncopt models probe`` and ``asyncopt models ls``: what endpoints were found to be able to do."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.cli.columns import aligned
from asyncopt.cli.models import check_model, key_of
from asyncopt.cli.signals import run_in_loop
from asyncopt.config import ModelConfig
from asyncopt.endpoints.http import HttpEndpoint, stated_identity
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.probe import TOKENS, Probe
from asyncopt.endpoints.protocol import Answer, Codec
from asyncopt.endpoints.providers import provider
from asyncopt.engine import Engine
from asyncopt.errors import CallFailed, error_of
from asyncopt.files import cache_folder, write_atomically
from asyncopt.limits.backoff import THROTTLED
from asyncopt.local import KEEPALIVE_SECONDS, LocalServer, is_local
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Quota, Request

_SECONDS = 60.0  # for one call
_REFUSED_SECONDS = 120.0  # for one call with all its refusals
_TERMINAL = (FaultKind.FATAL_CONFIG, FaultKind.QUOTA, FaultKind.QUOTA_DAILY)
_ALL = Capabilities(completion=True, top_logprobs=100, prompt_logprobs=True, grammar=True)


def probe_model(model: str, base_url: str | None, *, json: bool) -> None:
    """Ask the model's endpoint what it can do, print it and keep it.

    Exits with 1 if the endpoint answers nothing; raises what a refused key or a used-up quota is in a run.
    """
    if base_url is None and model.startswith("openai/"):
        base_url = os.environ.get("OPENAI_BASE_URL") or None
    wanted = ModelConfig(model=model, base_url=base_url)
    check_model(wanted)
    done: list[tuple[Probe, str]] = []
    stopped = run_in_loop(partial(_probe, wanted, done))
    if stopped is not None:
        sys.exit(128 + stopped)
    ((probe, identity),) = done
    if probe.failure is not None and probe.failure.kind in _TERMINAL:
        raise error_of(probe.failure)
    found = {
        "model": model,
        "identity": identity,
        "calls": probe.calls,
        "findings": [asdict(finding) for finding in probe.findings],
    }
    if probe.failure is None:
        _keep(found)
    if json:
        sys.stdout.write(codec.json_line({"event": "probed", **found}))
    else:
        print(f"{model} at {identity}, {probe.calls} calls of at most {TOKENS} tokens")
        print("\n".join(_lines(found)))
    if probe.failure is not None:
        print("asyncopt: the endpoint answers nothing; look at its address and its log", file=sys.stderr)
        sys.exit(1)


def list_probes(*, json: bool) -> None:
    """Print what was found of every model that was asked."""
    for path in sorted(_folder().glob("*.json")):
        try:
            found = codec.loads(path.read_bytes())
            lines = _lines(found)
            title = f"{codec.printable(found['model'])} at {codec.printable(found['identity'])}"
        except (OSError, codec.CodecError, LookupError, TypeError, AttributeError):
            print(f"asyncopt: {path} cannot be read and is left out; probe its model again", file=sys.stderr)
            continue
        if json:
            sys.stdout.write(codec.json_line(found))
        else:
            print("\n".join([title, *lines]))


def _folder() -> Path:
    return cache_folder() / "probes"


def _keep(found: dict[str, Any]) -> None:
    """Keep what was found under the endpoint's identity and the model, whatever the key was."""
    name = blake2b(codec.dumps([found["identity"], found["model"]]), digest_size=16).hexdigest()
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        write_atomically(_folder() / f"{name}.json", codec.dumps(found))
    except OSError as error:
        print(f"asyncopt: {_folder()} cannot be written ({error.strerror}): nothing is kept", file=sys.stderr)


def _lines(found: dict[str, Any]) -> list[str]:
    words = {True: "yes", False: "no", None: "unknown"}
    rows = []
    for finding in found["findings"]:
        value = finding["value"]
        shown = words[value] if value is None or isinstance(value, bool) else f"{value}"
        name = str(finding["name"]).replace("_", " ")
        rows.append(tuple(map(codec.printable, (name, shown, finding["evidence"]))))
    return [f"  {line}" for line in aligned(rows, (0, 1, 2))] if rows else []


# -- asking ------------------------------------------------------------------------------------------------------------


async def _probe(wanted: ModelConfig, done: list[tuple[Probe, str]]) -> None:
    async with AsyncExitStack() as stack:
        asked = await _asked(wanted, stack)
        engine = await stack.enter_async_context(Engine())
        model = engine.model(wanted.model, endpoint=asked, quota=Quota(concurrency=1))

        async def ask(wire: Codec, request: Request) -> tuple[Answer, float]:
            asked.wire = wire
            try:
                async with asyncio.timeout(_REFUSED_SECONDS):
                    await model.submit(request)
            except TimeoutError:
                return Fault(FaultKind.RATE_LIMITED, f"refused for {_REFUSED_SECONDS:g} s"), _REFUSED_SECONDS
            except CallFailed as error:
                return error.fault, 0.0
            return asked.answer, asked.seconds

        probe = Probe(ask, asked.wire)
        await probe.run()
        done.append((probe, asked.identity))


async def _asked(wanted: ModelConfig, stack: AsyncExitStack) -> _Asked:
    if is_local(wanted.model):
        server = await stack.enter_async_context(LocalServer(wanted.model, progress=_tell))

        def endpoint_for(wire: Codec) -> HttpEndpoint:
            url, key, identity = server.base_url, server.api_key, server.identity
            return HttpEndpoint(url, key, codec=wire, identity=identity, keepalive=KEEPALIVE_SECONDS)

        return _Asked(endpoint_for, OpenAIChat())
    key = key_of(wanted)
    found = provider(wanted.model, wanted.base_url, key)
    identity = await stated_identity(found.base_url, key)
    return _Asked(lambda wire: HttpEndpoint(found.base_url, key, codec=wire, identity=identity), found.codec)


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


class _Asked:
    """Under the engine, which paces and holds back what is asked, an endpoint to which failures are answers.

    One call is in flight at a time. The engine is told of refusals alone; all else would be tried again, or end every
    further call. ``answer`` is the last one, and took ``seconds``.
    """

    supports = _ALL

    def __init__(self, endpoint_for: Callable[[Codec], HttpEndpoint], chat: Codec) -> None:
        self.wire = chat
        self.answer: Answer = Fault(FaultKind.TRANSIENT, "nothing was asked")
        self.seconds = 0.0
        self._endpoint_for = endpoint_for
        usual = endpoint_for(chat)
        self.identity, self.account = usual.identity, usual.account
        self._endpoints: dict[Codec, HttpEndpoint] = {chat: usual}

    async def send(self, model: str, request: Request) -> Answer:
        loop = asyncio.get_running_loop()
        if self.wire not in self._endpoints:
            self._endpoints[self.wire] = self._endpoint_for(self.wire)
        began = loop.time()
        try:
            async with asyncio.timeout(_SECONDS):
                self.answer = await self._endpoints[self.wire].send(model, request)
        except TimeoutError:
            self.answer = Fault(FaultKind.AMBIGUOUS, f"no answer within {_SECONDS:g} s")
        self.seconds = loop.time() - began
        if isinstance(self.answer, Completion) or self.answer.kind in THROTTLED:
            return self.answer
        return Completion("", usage=self.answer.usage or Completion("").usage, limits=self.answer.limits)

    async def aclose(self) -> None:
        for endpoint in self._endpoints.values():
            await endpoint.aclose()
