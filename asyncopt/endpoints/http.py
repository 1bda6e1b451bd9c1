"""The HTTP transport: aiohttp, one attempt per send, every exception translated at this edge.

No redirects (a 307 would resend prompt and key to another host), no cookies, no proxy or netrc look-up, and at most
8 MiB of answer after decompression. aiohttp's exceptions never leave: their repr holds the Authorization header.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from urllib.parse import urlsplit

import aiohttp

from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Answer, Codec, Reply
from asyncopt.endpoints.secret import Secret
from asyncopt.errors import ConfigError
from asyncopt.identity import endpoint_identity
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Generate

MAX_BODY = 8 * 2**20
CONNECT_SECONDS = 10.0
IDENTITY_HEADER = "x-asyncopt-identity"


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
    """One base URL with one key. The session is opened by the first call and belongs to the loop of that call."""

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
        self.identity = self.base_url if identity is None else identity
        self.supports = Capabilities() if supports is None else supports
        self._key = None if api_key is None else Secret(api_key)
        self.account = "" if self._key is None else self._key.fingerprint()
        self._codec: Codec = OpenAIChat() if codec is None else codec
        self._url = self.base_url + self._codec.path
        self._keepalive = keepalive
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"HttpEndpoint({self.base_url!r})"

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
        return headers

    def _open(self) -> aiohttp.ClientSession:
        self._session = open_session(self._keepalive)
        return self._session

    async def send(self, model: str, request: Generate) -> Answer:
        body = self._codec.encode(model, request)
        session = self._session or self._open()
        try:
            async with session.post(self._url, data=body, headers=self._headers(), allow_redirects=False) as response:
                if 300 <= response.status < 400:
                    return self._redacted(_redirected(response))
                data = await _read(response)
                if data is None:
                    return Fault(FaultKind.MALFORMED, f"the answer is larger than {MAX_BODY} bytes")
                if self._key is not None:
                    data = self._key.redact_bytes(data)
                return self._redacted(self._codec.decode(Reply(response.status, response.headers, data)))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return _transport_fault(error)

    def _redacted(self, answer: Answer) -> Answer:
        if isinstance(answer, Completion) or self._key is None:
            return answer
        return replace(answer, detail=self._key.redact(answer.detail))

    async def aclose(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def open_session(keepalive: float = 15.0) -> aiohttp.ClientSession:
    """A session with the settings of all the engine's traffic; admission is the dispatcher's, so no pool limit."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=keepalive),
        cookie_jar=aiohttp.DummyCookieJar(),
        # Only connecting is timed here; the dispatcher sweeps deadlines, as a timer for each call costs a tenth more.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        headers={"User-Agent": "asyncopt"},
        trust_env=False,
    )


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    length = response.content_length
    if length is not None and length <= MAX_BODY and "Content-Encoding" not in response.headers:
        return await response.read()
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY:
            response.close()
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _redirected(response: aiohttp.ClientResponse) -> Fault:
    response.close()
    host = urlsplit(response.headers.get("Location", "")).hostname or "another place"
    return Fault(
        FaultKind.FATAL_CONFIG,
        f"HTTP {response.status} redirects to {host[:100]}, which is never followed; set the base URL to the real one",
    )


def _transport_fault(error: Exception) -> Fault:
    """The fault behind an exception of the HTTP client; only the exception's type goes into the text."""
    name = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):  # an OSError too, so it is looked at first
        return Fault(FaultKind.FATAL_CONFIG, f"the certificate of {error.host} was not accepted")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Fault(FaultKind.TRANSIENT, f"no connection ({name})")
    if isinstance(error, aiohttp.ServerDisconnectedError):  # most often an idle connection that the server closed
        return Fault(FaultKind.TRANSIENT, "the server closed the connection before answering")
    if isinstance(error, aiohttp.ClientResponseError):  # a local parse error that looks like the provider's 400
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
    try:
        async with (
            open_session() as session,
            session.get(
                f"{endpoint.base_url}/models",
                headers=endpoint._headers(),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=2.0),
            ) as response,
        ):
            stated = response.headers.get(IDENTITY_HEADER, "")
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None
    # Prefixed, so that no server can take the identity of another address.
    return f"stated:{stated[:200]}" if stated and stated.isascii() and stated.isprintable() else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
