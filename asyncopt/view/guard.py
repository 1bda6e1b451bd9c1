"""Who is let in: requests with the token, for an address of ours, from a page of ours."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from ipaddress import ip_address
from typing import TypeAlias

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from asyncopt import codec
from asyncopt.errors import ConfigError

# Nothing of a stranger is loaded, and nothing of ours is shown inside a stranger's page.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "asyncopt",
}
_LOOPBACK = "127.0.0.1"
_LEAST_TOKEN = 16
_WRITING = (hdrs.METH_POST,)

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """Refuses requests; ``host`` is where the server listens, ``port`` is told once it is known."""

    def __init__(self, host: str, token: str) -> None:
        self.host = host
        self.token = token
        self.address = ""  # as the browser is to name us
        self._hosts: tuple[str, ...] = ()
        self._cookie = ""

    def listens(self, port: int) -> None:
        """Requests are for this port from now on."""
        self.address = f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"
        self._hosts = (self.address, f"localhost:{port}") if self.host == _LOOPBACK else (self.address,)
        self._cookie = f"asyncopt-{port}"  # cookies know no ports: two servers of one machine would share one

    def refusal(self, request: web.Request) -> HTTPStatus | None:
        """Why the request is refused, if it is."""
        hosts = request.headers.getall(hdrs.HOST, [])
        # Another name that leads here is how a stranger's page would come to look like ours to the browser.
        if len(hosts) != 1 or hosts[0] not in self._hosts or not request.raw_path.startswith("/"):
            return HTTPStatus.MISDIRECTED_REQUEST
        origins = request.headers.getall(hdrs.ORIGIN, [])
        bearer = self._equal(request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer "))
        if origins not in ([], [f"http://{hosts[0]}"]):
            return HTTPStatus.FORBIDDEN
        if not origins and request.method in _WRITING and not bearer:
            return HTTPStatus.FORBIDDEN  # browsers always say where a POST comes from
        if bearer or self._equal(request.cookies.get(self._cookie, "")) or self.is_entrance(request):
            return None
        return HTTPStatus.UNAUTHORIZED

    def is_entrance(self, request: web.Request) -> bool:
        """Whether this is the page's address as it was printed, token included."""
        return request.path == "/" and request.method == hdrs.METH_GET and self._equal(request.query.get("token", ""))

    def admit(self, response: web.StreamResponse) -> None:
        """Give the browser the cookie that stands for the token."""
        response.set_cookie(self._cookie, self.token, path="/", httponly=True, samesite="Strict")

    def _equal(self, given: str) -> bool:
        return secrets.compare_digest(codec.clean(given).encode(), self.token.encode())


def check_token(host: str, token: str | None) -> str:
    """The token to use: a random one by default; an address that others can reach needs one that was chosen.

    Raises :class:`ConfigError` for a short one, and for an address that is every address: pages could then not be told
    from a stranger's.
    """
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - it is refused
        raise ConfigError(f"--host {host or '(empty)'} is every address of this machine; name the one to be reached at")
    if token is None:
        if not is_loopback(host):
            raise ConfigError(f"--host {host} can be reached by others; choose a secret for it: --token")
        return secrets.token_urlsafe(24)
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"--token needs at least {_LEAST_TOKEN} letters, digits, - or _")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guarded(guard: Guard) -> Middleware:
    """The middleware that lets nobody else in, and says no more than no."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = guard.refusal(request)
        if refused is not None:
            return error_response(refused, refused.phrase)
        try:
            return await handler(request)
        except web.HTTPException as error:  # the router's: aiohttp's own words have the URL in them
            headers = {"Allow": error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else None
            return error_response(HTTPStatus(error.status), HTTPStatus(error.status).phrase, headers)

    return middleware


def error_response(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as JSON; the connection ends with it."""
    response = web.Response(
        status=status, body=codec.dumps({"error": text}), content_type="application/json", headers=headers
    )
    response.force_close()
    return response


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Put :data:`HEADERS` on every answer."""
    response.headers.update(HEADERS)
