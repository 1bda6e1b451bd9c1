"""The HTTP transport: aiohttp, one attempt per send, every exception translated at this edge.

No redirects (a 307 would resend prompt and key to another host), no cookies, no proxy or netrc look-up, and at most
8 MiB of answer after decompression. aiohttp's exceptions never leave: their text may hold what was sent.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from yarl import URL

from asyncopt.endpoints.http_exchange import MAX_BODY, Pieces, Target, exchange, read, release
from asyncopt.endpoints.openai import CHAT_CAPABILITIES, OpenAIChat
from asyncopt.endpoints.protocol import Answer, Ask, Codec, LikelihoodCodec, Reply, converse
from asyncopt.endpoints.secret import Secret
from asyncopt.errors import ConfigError
from asyncopt.identity import endpoint_identity
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Likelihood, Request

IDENTITY_HEADER = "x-asyncopt-identity"

_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, TimeoutError, ValueError)
_Read = TypeVar("_Read")
_TOO_LARGE = Fault(FaultKind.MALFORMED, f"the answer is larger than {MAX_BODY} bytes")
_NO_LIKELIHOODS = Fault(FaultKind.FATAL_CONFIG, "this format cannot ask for the log-probabilities of a given text")


def check_address(base_url: str) -> None:
    """Raises :class:`ConfigError` for plain http to a public host and for link-local (cloud metadata) addresses."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        near = host == "localhost" or host.endswith((".localhost", ".local", ".internal")) or "." not in host
    else:
        if address.is_link_local:
            raise ConfigError(f"the base URL points at the link-local address {host}; no model is served there")
        near = address.is_loopback or address.is_private
    if parts.scheme == "http" and not near:
        raise ConfigError(f"the base URL sends the key to {host} in clear text; use https://")


class HttpEndpoint:
    """One base URL with one key. The connections are opened by calls and belong to the loop of the first one."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        codec: Codec | None = None,
        identity: str | None = None,
        supports: Capabilities | None = None,
        keepalive: float = 15.0,
    ) -> None:
        self.base_url = endpoint_identity(base_url)
        check_address(self.base_url)
        self.supports = CHAT_CAPABILITIES if supports is None else supports
        self._key = None if api_key is None else Secret(api_key)
        self.account = "" if self._key is None else self._key.fingerprint()
        self._codec: Codec = OpenAIChat() if codec is None else codec
        # The same messages are another text in another format at the same address.
        self.identity = (self.base_url if identity is None else identity) + getattr(self._codec, "variant", "")
        self._keepalive = keepalive
        self._connector: aiohttp.TCPConnector | None = None
        self._targets: dict[str, Target] = {}

    def __repr__(self) -> str:
        return f"HttpEndpoint({self.base_url!r})"

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": "asyncopt", "Content-Type": "application/json"}
        return headers | self._codec.headers(None if self._key is None else self._key.reveal())

    async def _connect(self, target: Target) -> Connection:
        if self._connector is None:  # no limit: admission is the dispatcher's
            self._connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keepalive)
        return await target.connect(self._connector)

    async def send(self, model: str, request: Request) -> Answer:
        if isinstance(request, Likelihood):
            return await self._likelihood(model, request)
        return await self._post(self._url(self._codec.path(model)), self._codec.encode(model, request), self._whole)

    async def send_streamed(self, model: str, request: Request, first_piece: Callable[[], None]) -> Answer:
        """One attempt, as :meth:`send`; ``first_piece`` is called once, when the answer begins.

        A :class:`Likelihood` has no pieces: it is sent as ever.
        """
        if isinstance(request, Likelihood):
            return await self._likelihood(model, request)
        body = self._codec.encode(model, request, stream=True)
        return await self._post(self._url(self._codec.path(model)), body, partial(self._streamed, first_piece))

    async def _likelihood(self, model: str, request: Likelihood) -> Answer:
        if not isinstance(self._codec, LikelihoodCodec):
            return _NO_LIKELIHOODS
        answer = await converse(self._codec.likelihood(model, request), self._reply_to)
        return answer if isinstance(answer, Completion) else self._redacted(answer)

    async def _reply_to(self, ask: Ask) -> Reply | Fault:
        return await self._post(self._url(ask.path, ask.at_root), ask.body, self._reply)

    def _url(self, path: str, at_root: bool = False) -> str:
        return (self.base_url.removesuffix("/v1") if at_root else self.base_url) + path

    async def _post(
        self, url: str, body: bytes, read_out: Callable[[RawResponseMessage, aiohttp.StreamReader], Awaitable[_Read]]
    ) -> _Read | Fault:
        target = self._targets.get(url)
        if target is None:
            target = self._targets[url] = Target(URL(url), self._headers())
        try:
            connection = await self._connect(target)
        except _ERRORS as error:
            return _unconnected(error)
        try:
            message, content = await exchange(connection, target, body)
            if 300 <= message.code < 400:
                found: _Read | Fault = _redirected(message, self._key)
            else:
                found = await read_out(message, content)
        except BaseException as error:
            connection.close()
            if isinstance(error, _ERRORS):
                return _broken(error)
            raise
        release(connection)
        return found

    async def _reply(self, message: RawResponseMessage, content: aiohttp.StreamReader) -> Reply | Fault:
        data = await read(content)
        if data is None:
            return _TOO_LARGE
        return Reply(message.code, message.headers, data if self._key is None else self._key.redact_bytes(data))

    async def _whole(self, message: RawResponseMessage, content: aiohttp.StreamReader) -> Answer:
        reply = await self._reply(message, content)
        answer = reply if isinstance(reply, Fault) else self._codec.decode(reply)
        return answer if isinstance(answer, Completion) else self._redacted(answer)

    async def _streamed(
        self, first_piece: Callable[[], None], message: RawResponseMessage, content: aiohttp.StreamReader
    ) -> Answer:
        pieces = Pieces(self._codec.stream(Reply(message.code, message.headers, b"")), self._key, first_piece)
        while chunk := await content.readany():
            if not pieces.take(chunk):
                return _TOO_LARGE
        return self._redacted(pieces.finish())

    def _redacted(self, answer: Answer) -> Answer:
        if self._key is None:
            return answer
        if isinstance(answer, Fault):
            return replace(answer, detail=self._key.redact(answer.detail))
        text = self._key.redact(answer.text)
        return answer if text == answer.text else replace(answer, text=text, token_logprobs=())

    async def aclose(self) -> None:
        if self._connector is not None:
            connector, self._connector = self._connector, None
            await connector.close()


def _redirected(message: RawResponseMessage, key: Secret | None) -> Fault:
    try:
        host = urlsplit(message.headers.get("Location", "")).hostname or "another place"
    except ValueError:
        host = "a place that cannot be read"
    host = host if key is None else key.redact(host)
    return Fault(
        FaultKind.FATAL_CONFIG,
        f"HTTP {message.code} redirects to {host[:100]}, which is never followed; set the base URL to the real one",
    )


def _unconnected(error: Exception) -> Fault:
    """The fault behind an exception before anything was sent; of every exception only the type goes into the text."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Fault(FaultKind.FATAL_CONFIG, f"the certificate of {error.host} was not accepted")
    return Fault(FaultKind.TRANSIENT, f"no connection ({type(error).__name__})")


def _broken(error: Exception) -> Fault:
    """The fault behind an exception after the request was written."""
    name = type(error).__name__
    if isinstance(error, aiohttp.ServerDisconnectedError):  # most often an idle connection that the server closed
        return Fault(FaultKind.TRANSIENT, "the server closed the connection before answering")
    if isinstance(error, HttpProcessingError):
        return Fault(FaultKind.MALFORMED, f"the answer is not HTTP ({name})")
    return Fault(FaultKind.AMBIGUOUS, f"the connection broke after the request was sent ({name})")


async def stated_identity(base_url: str, api_key: str | None = None) -> str | None:
    """The identity that a server on this machine states for itself, or None.

    Asked of loopback addresses only, where ports come and go: the answer names the cache entries, so a remote server
    is not asked. Raises :class:`ConfigError` for a base URL that no endpoint would take.
    """
    endpoint = HttpEndpoint(base_url, api_key)
    host = urlsplit(endpoint.base_url).hostname or ""
    if host != "localhost" and not _is_loopback(host):
        return None
    within = aiohttp.ClientTimeout(total=2.0)
    try:
        async with (
            aiohttp.ClientSession(headers=endpoint._headers(), cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(f"{endpoint.base_url}/models", allow_redirects=False, timeout=within) as response,
        ):
            stated = response.headers.get(IDENTITY_HEADER, "")
    except _ERRORS:
        return None
    # Prefixed, so that no server can take the identity of another address.
    return f"stated:{stated[:200]}" if stated and stated.isascii() and stated.isprintable() else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
