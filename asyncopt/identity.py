"""The name under which an answer is cached and journalled: everything that decides it, and nothing else.

In the key: the endpoint's identity, the model, the messages, every sampling parameter, the draw and further fields.
Never in it: the API key, headers, timeouts, or a free port. A stated identity (the embedded model's weights, a
simulated API's seed) stands in for the base URL where the address says nothing about who answers.
"""

from __future__ import annotations

from hashlib import blake2b
from urllib.parse import urlsplit, urlunsplit

from asyncopt import codec
from asyncopt.errors import ConfigError
from asyncopt.values import Likelihood, Request

KEY_VERSION = 1  # raised when what goes into a key changes: old entries are then never found, not wrongly found
KEY_BYTES = 16

_SCOPE = "asyncopt-request"


def endpoint_identity(base_url: str) -> str:
    """The base URL in its normal form, which is the endpoint's identity unless it states another.

    Raises :class:`ConfigError` for a URL with credentials in it, a query, or another scheme than http and https.
    """
    try:
        parts = urlsplit(base_url.strip())
        port = parts.port
    except ValueError:
        raise ConfigError("the base URL cannot be read; wanted something like https://host/v1") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"the base URL of {parts.hostname} has credentials in it; remove them and give the key in the environment"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the base URL is {base_url!r}; wanted http(s)://host[:port]/path, such as https://host/v1")
    if parts.query or parts.fragment:
        raise ConfigError(f"the base URL of {parts.hostname} has a query or a fragment; remove it")
    host = parts.hostname if ":" not in parts.hostname else f"[{parts.hostname}]"
    default_port = {"http": 80, "https": 443}[parts.scheme]
    netloc = host if port in (None, default_port) else f"{host}:{port}"
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))


class RequestKeys:
    """Keys of requests to one model of one endpoint; the constant part is hashed once."""

    __slots__ = ("_prefix",)

    def __init__(self, endpoint: str, model: str) -> None:
        self._prefix = blake2b(codec.dumps([_SCOPE, KEY_VERSION, endpoint, model]), digest_size=KEY_BYTES)

    def of(self, request: Request) -> bytes:
        """The 16-byte BLAKE2b key of the request."""
        hasher = self._prefix.copy()
        hasher.update(codec.dumps(_contents(request)))
        return hasher.digest()


def _contents(request: Request) -> list[object]:
    prompt = [[message.role, message.content] for message in request.prompt]
    if isinstance(request, Likelihood):
        return ["likelihood", prompt, request.continuation]  # of a Generate the first item is a list
    sampling = request.sampling
    # Only where there is any, so that the keys of all other requests stay what they were.
    extra = [request.extra] if request.extra else []
    return [
        prompt,
        sampling.temperature,
        sampling.top_p,
        sampling.max_tokens,
        sampling.stop,
        sampling.seed,
        sampling.draw,
        sampling.grammar,
        request.top_logprobs,
        *extra,
    ]
