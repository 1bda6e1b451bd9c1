"""What a call's server, request and answer are called in OpenTelemetry's conventions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from asyncopt.codec import dumps
from asyncopt.telemetry import names
from asyncopt.values import Completion, Generate, Request


@lru_cache(maxsize=256)
def place(server: str) -> dict[str, Any]:
    """The attributes that the server decides: who it is, where, and in which format it is asked."""
    completions = server.endswith("/completions")
    attributes: dict[str, Any] = {names.OPERATION_NAME: names.TEXT_COMPLETION if completions else names.CHAT}
    parts = urlsplit(server) if server.startswith(("http://", "https://")) else None
    host = None if parts is None else parts.hostname
    if parts is None or host is None:  # the embedded model, or an endpoint of the user's own
        return attributes | {names.PROVIDER_NAME: server.partition(":")[0][:40] or names.SCOPE}
    azure = host.endswith(names.AZURE_HOSTS)
    usual = 443 if parts.scheme == "https" else 80
    return attributes | {
        names.PROVIDER_NAME: names.AZURE if azure else names.PROVIDERS.get(host, names.COMPATIBLE),
        names.SERVER_ADDRESS: host,
        names.SERVER_PORT: parts.port or usual,
    }


def of_request(request: Request | None) -> dict[str, Any]:
    """The parameters that a request states."""
    if not isinstance(request, Generate):
        return {}
    sampling = request.sampling
    stated = {
        names.REQUEST_TEMPERATURE: sampling.temperature,
        names.REQUEST_TOP_P: sampling.top_p,
        names.REQUEST_MAX_TOKENS: sampling.max_tokens,
        names.REQUEST_SEED: sampling.seed,
    }
    return {name: value for name, value in stated.items() if value is not None}


def of_answer(completion: Completion | None) -> dict[str, Any]:
    """Why an answer ended."""
    return {} if completion is None else {names.RESPONSE_FINISH_REASONS: [completion.finish.value]}


def content(request: Request | None, completion: Completion | None) -> dict[str, str]:
    """What was said, as the conventions want it on spans: JSON in a text."""
    found: dict[str, str] = {}
    if request is not None:
        said = [_turn(message.role, message.content) for message in request.prompt]
        found[names.INPUT_MESSAGES] = dumps(said).decode()
    if completion is not None:
        answer = _turn("assistant", completion.text) | {"finish_reason": completion.finish.value}
        found[names.OUTPUT_MESSAGES] = dumps([answer]).decode()
    return found


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}
