"""Certificates that are not to be trusted, and handshakes that fail: the one ends a run at once, the other passes."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable

import pytest
import trustme
from conftest import CANARY
from transported import GOOD, Seen, ask, kinds

from asyncopt import CallFailed, Engine
from asyncopt.endpoints.protocol import Answer
from asyncopt.testing.raw import End, RawServer, answer
from asyncopt.values import Fault, FaultKind

pytestmark = [pytest.mark.anyio, pytest.mark.real, pytest.mark.row("T14")]

AUTHORITY = trustme.CA()
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
CERTIFICATES: dict[str, Callable[[], trustme.LeafCert]] = {
    "of an authority that nobody knows": lambda: trustme.CA().issue_cert("localhost"),
    "expired": lambda: AUTHORITY.issue_cert("localhost", not_before=LONG_AGO, not_after=LONG_AGO),
    "of another host": lambda: AUTHORITY.issue_cert("elsewhere.example"),
}


def server_side(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def _trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp makes its context when it is imported; this trusts the authority besides what that one trusts."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", context)


@pytest.mark.usefixtures("_trusting")
async def test_a_certificate_that_is_good_is_accepted() -> None:
    server = RawServer(lambda _: [answer(GOOD)], tls=server_side(AUTHORITY.issue_cert("localhost")))
    async with server as url:
        assert kinds(await ask(url, "one", "two")) == ["hello", "hello"]
    assert server.connections == 1


@pytest.mark.usefixtures("_trusting")
@pytest.mark.parametrize("certificate", CERTIFICATES.values(), ids=CERTIFICATES)
async def test_a_certificate_that_is_not_good_is_fatal_and_names_the_host(
    certificate: Callable[[], trustme.LeafCert],
) -> None:
    server = RawServer(lambda _: [answer(GOOD)], tls=server_side(certificate()))
    async with server as url:
        (found,) = await ask(url, "q")
        seen = Seen()
        async with Engine(observers=[seen]) as engine:
            with pytest.raises(CallFailed, match="the certificate of localhost was not accepted"):
                await engine.model("m", base_url=url, api_key=CANARY).generate("q")
    assert fatal(found) == "the certificate of localhost was not accepted"
    assert 1 <= len(seen.failures) <= 2  # at once, or verified by a second call
    assert set(seen.failures) == {"fatal_config"}
    assert server.requests == []


async def test_plain_http_on_the_port_for_tls_is_said_so() -> None:
    server = RawServer(lambda _: [answer(GOOD)], greeting=[b"HTTP/1.1 400 Bad Request\r\n\r\n", End.CLOSE])
    async with server as url:
        (found,) = await ask(url.replace("http://", "https://"), "q")
    assert "does not speak TLS" in fatal(found)


async def test_tls_on_the_port_for_plain_http_is_no_answer() -> None:
    server = RawServer(lambda _: [answer(GOOD)], tls=server_side(AUTHORITY.issue_cert("localhost")))
    async with server as url:
        (found,) = await ask(url.replace("https://", "http://"), "q")
    assert kinds([found])[0] in (FaultKind.TRANSIENT, FaultKind.MALFORMED)
    assert server.requests == []


@pytest.mark.parametrize("greeting", [[End.RESET], [End.CLOSE], [b"\x16\x03\x03", End.RESET]])
async def test_a_handshake_that_is_cut_is_a_passing_fault(greeting: list[bytes | End]) -> None:
    server = RawServer(lambda _: [answer(GOOD)], greeting=greeting)
    async with server as url:
        (found,) = await ask(url.replace("http://", "https://"), "q")
    assert kinds([found]) == [FaultKind.TRANSIENT]
    assert server.requests == []


def fatal(found: Answer) -> str:
    assert isinstance(found, Fault)
    assert found.kind is FaultKind.FATAL_CONFIG
    return found.detail
