"""Errands over HTTP, by aiohttp's own session: they are few, so what a session costs does not count.

As with calls there are no redirects, no cookies and no proxy or netrc look-up, and aiohttp's exceptions never leave.
"""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

from asyncopt.endpoints.errands import Errand
from asyncopt.endpoints.http_exchange import CONNECT_SECONDS
from asyncopt.endpoints.http_faults import ERRORS, broken, unconnected
from asyncopt.endpoints.protocol import Reply
from asyncopt.values import Fault, FaultKind

LARGEST_FILE = 2**30  # of answers: those to 50,000 requests of 2,000 tokens are half of it
SILENT_SECONDS = 300.0  # a server that stores a large file may think about it before it answers

_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
_TOO_LARGE = Fault(FaultKind.MALFORMED, f"the file is larger than {LARGEST_FILE} bytes")
_BEFORE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


async def run_errand(base_url: str, headers: Mapping[str, str], errand: Errand) -> Reply | Fault:
    """The whole reply to one request, or the fault that stands for none."""
    fields = {**headers, "Content-Type": errand.content_type}
    try:
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=_TIMEOUT) as session,
            session.request(
                errand.method,
                f"{base_url}{errand.path}",
                data=errand.body or None,
                headers=fields,
                allow_redirects=False,
            ) as response,
        ):
            found = await _read(response)
            return _TOO_LARGE if found is None else Reply(response.status, response.headers, found)
    except ERRORS as error:
        return unconnected(error) if isinstance(error, _BEFORE) else broken(error)


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > LARGEST_FILE:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
