"""The HTTP transport: aiohttp, one attempt per send, every exception translated at this edge.

No redirects (a 307 would resend prompt and key to another host), no cookies, no proxy or netrc look-up, and at most
8 MiB of answer after decompression. aiohttp's exceptions never leave: their text may hold what was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from yarl import URL

from asyncopt.endpoints.addresses import check_address, is_loopback
from asyncopt.endpoints.errands import Errand
from asyncopt.endpoints.http_errands import run_errand
from asyncopt.endpoints.http_exchange import MAX_BODY, Pieces, Pool, Target, read
from asyncopt.endpoints.http_faults import ERRORS, UNANSWERED, broken, unconnected, was_idle
from asyncopt.endpoints.openai import CHAT_CAPABILITIES, OpenAIChat
from asyncopt.endpoints.protocol import Answer, Ask, Codec, LikelihoodCodec, Reply, converse
from asyncopt.endpoints.secret import Secret, redact_patterns
from asyncopt.identity import endpoint_identity
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Generate, Likelihood, Request

IDENTITY_HEADER = "x-asyncopt-identity"

_Read = TypeVar("_Read")
_TOO_LARGE = Fault(FaultKind.MALFORMED, f"the answer is larger than {MAX_BODY} bytes")
_NO_LIKELIHOODS = Fault(FaultKind.FATAL_CONFIG, "this format cannot ask for the log-probabilities of a given text")


class HttpEndpoint:
    """One base URL with one key. The connections are opened by calls and belong to the loop of the first one.

    Raises :class:`~asyncopt.errors.ConfigError` for an address that no key may be sent to; ``allow_insecure`` lets
    plain http go to a public host.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        codec: Codec | None = None,
        identity: str | None = None,
        supports: Capabilities | None = None,
        keepalive: float = 15.0,
        allow_insecure: bool = False,
    ) -> None:
        self.base_url = endpoint_identity(base_url)
        check_address(self.base_url, allow_insecure=allow_insecure)
        self.supports = CHAT_CAPABILITIES if supports is None else supports
        self._key = None if api_key is None else Secret(api_key)
        self.account = "" if self._key is None else self._key.fingerprint()
        self._codec: Codec = OpenAIChat() if codec is None else codec
        # The same messages are another text in another format at the same address.
        variant = getattr(self._codec, "variant", "")
        self.identity = (self.base_url if identity is None else identity) + variant
        self.address = self.base_url + variant  # also where another identity is stated; for those who watch
        self._pool = Pool(keepalive)
        self._targets: dict[str, Target] = {}

    def __repr__(self) -> str:
        return f"HttpEndpoint({self.base_url!r})"

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": "asyncopt", "Content-Type": "application/json"}
        return headers | self._codec.headers(None if self._key is None else self._key.reveal())

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

    def asked(self, model: str, request: Generate) -> Ask:
        """The path and the body that the request has when it is sent alone."""
        return Ask(self._codec.path(model), self._codec.encode(model, request))

    def answered(self, reply: Reply) -> Answer:
        """The completion, or the fault, in what would have been the reply to one request."""
        return self._redacted(self._codec.decode(reply))

    async def errand(self, errand: Errand) -> Reply | Fault:
        """The whole reply to a request beside the answering of prompts; one attempt, and nothing raises."""
        found = await run_errand(self.base_url, self._headers(), errand)
        if isinstance(found, Fault):
            return self._redacted_fault(found)
        if 300 <= found.status < 400:
            return _redirected(found.status, found.headers, self._key)
        return replace(found, body=found.body if self._key is None else self._key.redact_bytes(found.body))

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
        found = await self._attempt(target, body, read_out, self._pool.connect)
        if found is None:
            # Servers close idle connections when they like, and a request may cross that on its way. That is no
            # failure of a call, so it is sent again at once; and the other idle connections are not trusted either.
            found = await self._attempt(target, body, read_out, self._pool.connect_anew)
        return UNANSWERED if found is None else found

    async def _attempt(
        self,
        target: Target,
        body: bytes,
        read_out: Callable[[RawResponseMessage, aiohttp.StreamReader], Awaitable[_Read]],
        connect: Callable[[Target], Awaitable[Connection]],
    ) -> _Read | Fault | None:
        """What came, or None if a connection that was used before ended without a byte of the answer."""
        try:
            connection = await connect(target)
        except ERRORS as error:
            return unconnected(error)
        head, sent = None, asyncio.get_running_loop().time()
        try:
            head = await self._pool.exchange(connection, target, body)
            found = (
                _redirected(head[0].code, head[0].headers, self._key)
                if 300 <= head[0].code < 400
                else await read_out(*head)
            )
        except BaseException as error:
            used = self._pool.is_used(connection)
            connection.close()
            if not isinstance(error, ERRORS):
                raise
            stale = used and head is None and was_idle(error, asyncio.get_running_loop().time() - sent)
            return None if stale else broken(error)
        self._pool.release(connection)
        return found

    async def _reply(self, message: RawResponseMessage, content: aiohttp.StreamReader) -> Reply | Fault:
        data = await read(content)
        if data is None:
            return _TOO_LARGE
        return Reply(message.code, message.headers, data if self._key is None else self._key.redact_bytes(data))

    async def _whole(self, message: RawResponseMessage, content: aiohttp.StreamReader) -> Answer:
        reply = await self._reply(message, content)
        if isinstance(reply, Fault):
            return self._redacted(reply)
        answer = self._codec.decode(reply)
        # In such escapes the key is no longer the bytes that were masked. One byte is found far faster than two.
        hidden = b"\\" in reply.body and b"\\u" in reply.body
        return self._redacted(answer) if hidden or isinstance(answer, Fault) else answer

    async def _streamed(
        self, first_piece: Callable[[], None], message: RawResponseMessage, content: aiohttp.StreamReader
    ) -> Answer:
        pieces = Pieces(self._codec.stream(Reply(message.code, message.headers, b"")), self._key, first_piece)
        while chunk := await content.readany():
            if not pieces.take(chunk):
                return _TOO_LARGE
        return self._redacted(pieces.finish())

    def _redacted(self, answer: Answer) -> Answer:
        key = self._key
        if isinstance(answer, Fault):
            return self._redacted_fault(answer)
        if key is None:
            return answer
        text, model = key.redact(answer.text), key.redact(answer.served_model)
        if (text, model) == (answer.text, answer.served_model):
            return answer
        return replace(answer, text=text, served_model=model, token_logprobs=())

    def _redacted_fault(self, fault: Fault) -> Fault:
        key = self._key
        if key is not None:
            fault = replace(fault, detail=key.redact_cut(fault.detail), code=key.redact_cut(fault.code))
        return replace(fault, detail=redact_patterns(fault.detail))

    async def aclose(self) -> None:
        await self._pool.aclose()


def _redirected(status: int, headers: Mapping[str, str], key: Secret | None) -> Fault:
    try:
        host = urlsplit(headers.get("Location", "")).hostname or "another place"
    except ValueError:
        host = "a place that cannot be read"
    host = host if key is None else key.redact(host)
    return Fault(
        FaultKind.FATAL_CONFIG,
        f"HTTP {status} redirects to {host[:100]}, which is never followed; set the base URL to the real one",
    )


async def stated_identity(base_url: str, api_key: str | None = None) -> str | None:
    """The identity that a server on this machine states for itself, or None.

    Asked of loopback addresses only, where ports come and go: the answer names the cache entries, so a remote server
    is not asked. Raises :class:`ConfigError` for a base URL that no endpoint would take.
    """
    endpoint = HttpEndpoint(base_url, api_key)
    if not is_loopback(endpoint.base_url):
        return None
    within = aiohttp.ClientTimeout(total=2.0)
    try:
        async with (
            aiohttp.ClientSession(headers=endpoint._headers(), cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(f"{endpoint.base_url}/models", allow_redirects=False, timeout=within) as response,
        ):
            stated = response.headers.get(IDENTITY_HEADER, "")
    except ERRORS:
        return None
    # Prefixed, so that no server can take the identity of another address.
    return f"stated:{stated[:200]}" if stated and stated.isascii() and stated.isprintable() else None
