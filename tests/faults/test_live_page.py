"""Strangers at the live page are refused, whatever they come with, and hold nobody up; hostile text stays data."""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hostile import EVERYTHING, MEGABYTE, SHORT
from looking import TOKEN, Page, on_page, parsed
from recorded import Toy, recorded

from asyncopt import OPRO
from asyncopt.codec import clean, dumps, loads
from asyncopt.directory import JOURNAL, MANIFEST
from asyncopt.view import door, guard, server

pytestmark = [pytest.mark.real, pytest.mark.row("X10")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    recorded(folder / "toy")
    return folder


async def addresses(page: Page) -> list[tuple[str, str]]:
    """Every address there is, with its method."""
    (row,) = await page.json("/api/runs")
    run = f"/api/runs/{row['id']}"
    reads = ["/", "/assets/page.js", "/api/runs", run, f"{run}/events", f"{run}/answers?candidate=0.0"]
    return [*(("GET", path) for path in reads), ("POST", f"{run}/control")]


JSON = {"Content-Type": "application/json"}
PAUSE = dumps({"do": "pause"})


# -- who is let in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "asyncopt-PORT=wrong"},
        {"Cookie": f"asyncopt-1={TOKEN}"},
        {"Cookie": f"token={TOKEN}"},
        {"X-Token": TOKEN},
        {"Referer": f"http://127.0.0.1/?token={TOKEN}"},
    ],
)
def test_nobody_comes_in_without_the_token(given: dict[str, str], finished: Path) -> None:
    async def test(page: Page) -> None:
        headers = {name: value.replace("PORT", str(page.port)) for name, value in given.items()}
        for method, path in await addresses(page):
            origin = {"Origin": f"http://{page.host}", **JSON} if method == "POST" else {}
            reply = await page.ask(method, path, {**headers, **origin}, PAUSE if method == "POST" else b"")
            assert (reply.status, reply.json) == (401, {"error": "Unauthorized"}), path
            assert "set-cookie" not in reply.headers

    on_page(finished, test)


def test_the_printed_address_gives_a_cookie_that_opens_the_rest_and_no_other_address_does(finished: Path) -> None:
    async def test(page: Page) -> None:
        reply = await page.ask("GET", f"/?token={TOKEN}", {})
        cookie = reply.headers["set-cookie"]
        assert cookie == f"asyncopt-{page.port}={TOKEN}; HttpOnly; Path=/; SameSite=Strict"
        given = {"Cookie": cookie.partition(";")[0]}
        assert (await page.ask("GET", "/api/runs", given)).status == 200
        assert (await page.ask("GET", f"/api/runs?token={TOKEN}", {})).status == 401
        assert (await page.ask("GET", f"/?token={TOKEN}x", {})).status == 401
        assert (await page.ask("GET", "/?token=", {})).status == 401
        assert (await page.ask("POST", f"/?token={TOKEN}", {"Origin": f"http://{page.host}"})).status == 401

    on_page(finished, test)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "127.0.0.2:PORT", "[::1]:PORT", "0.0.0.0:PORT",
     "localhost.evil.example:PORT", "127.0.0.1:PORT.evil.example", "user@127.0.0.1:PORT", "LOCALHOST:PORTx", ""],
)  # fmt: skip
def test_another_name_for_this_machine_is_refused_also_with_the_token(host: str, finished: Path) -> None:
    """A stranger's name that leads to 127.0.0.1 is how a page elsewhere would read ours."""

    async def test(page: Page) -> None:
        wrong = host.replace("PORT", str(page.port))
        for method, path in await addresses(page):
            headers = {**page.key, "Host": wrong, "Origin": f"http://{wrong}"}
            assert (await page.ask(method, path, headers)).status in (400, 421), path
        entrance = await page.ask("GET", f"/?token={TOKEN}", {"Host": wrong})
        assert "set-cookie" not in entrance.headers

    on_page(finished, test)


def test_localhost_is_our_name_too_and_no_name_and_two_names_are_none(finished: Path) -> None:
    async def test(page: Page) -> None:
        headers = {**page.key, "Host": f"localhost:{page.port}", "Origin": f"http://localhost:{page.port}"}
        assert (await page.ask("GET", "/api/runs", headers)).status == 200
        key = f"Authorization: Bearer {TOKEN}\r\nConnection: close\r\n"
        assert (await page.raw(f"GET /api/runs HTTP/1.0\r\n{key}\r\n".encode())).status in (400, 421)
        two = f"GET /api/runs HTTP/1.1\r\nHost: {page.host}\r\nHost: evil.example\r\n{key}\r\n"
        assert (await page.raw(two.encode())).status in (400, 421)
        absolute = f"GET http://evil.example/api/runs HTTP/1.1\r\nHost: {page.host}\r\n{key}\r\n"
        assert (await page.raw(absolute.encode())).status == 421

    on_page(finished, test)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        "https://HOST",
        "http://HOST.evil.example",
        "HOST",
        "http://localhost:PORT",
    ],
)
def test_a_page_from_elsewhere_is_refused_also_with_the_cookie(origin: str, finished: Path) -> None:
    async def test(page: Page) -> None:
        wrong = origin.replace("HOST", page.host).replace("PORT", str(page.port))
        for method, path in await addresses(page):
            headers = {"Cookie": f"asyncopt-{page.port}={TOKEN}", "Origin": wrong, **JSON}
            assert (await page.ask(method, path, headers, PAUSE if method == "POST" else b"")).status == 403, path

    on_page(finished, test)


def test_a_browser_that_does_not_say_where_a_command_comes_from_is_refused(finished: Path) -> None:
    async def test(page: Page) -> None:
        path = (await addresses(page))[-1][1]
        cookie = {"Cookie": f"asyncopt-{page.port}={TOKEN}", **JSON}
        assert (await page.ask("POST", path, cookie, PAUSE)).status == 403
        ours = {**cookie, "Origin": f"http://{page.host}"}
        assert (await page.ask("POST", path, ours, PAUSE)).status == 409  # let in: the run has ended
        form = {**ours, "Content-Type": "text/plain"}  # what a form can send without being asked
        assert (await page.ask("POST", path, form, PAUSE)).status == 415

    on_page(finished, test)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "X"])
def test_other_methods_are_refused(method: str, finished: Path) -> None:
    async def test(page: Page) -> None:
        for allowed, path in await addresses(page):
            assert (await page.ask(method, path)).status in (400, 404, 405, 421), path
            other = "POST" if allowed == "GET" else "GET"
            assert (await page.ask(other, path, {**page.key, **JSON}, PAUSE if other == "POST" else b"")).status == 405

    on_page(finished, test)


def test_every_answer_says_what_a_browser_may_do_with_it(finished: Path) -> None:
    async def test(page: Page) -> None:
        asked = [*await addresses(page), ("GET", "/nothing"), ("DELETE", "/"), ("GET", "/?token=wrong")]
        for method, path in asked:
            if path.endswith("/events"):
                reader, writer = await page.connect()
                writer.write(page.head(method, path, page.key))
                reply = parsed(await reader.readuntil(b"\r\n\r\n"))
                writer.close()
                await writer.wait_closed()
            else:
                reply = await page.ask(method, path)
            for name, value in guard.HEADERS.items():
                assert reply.headers[name.lower()] == value, path
            assert not [name for name in reply.headers if name.startswith("access-control")]

    on_page(finished, test)
    policy = guard.HEADERS["Content-Security-Policy"]
    assert policy.startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
    )
    assert "unsafe" not in policy


# -- what can be asked for ---------------------------------------------------------------------------------------------

TRICKS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "toy",
    "toy/manifest.json",
    "%00",
    "toy%00.js",
    "..\\..\\secret",
    "..%5c..%5csecret",
    "%c0%ae%c0%ae/secret",
    "*",
    "x" * 4000,
]


@pytest.mark.parametrize("trick", TRICKS)
def test_no_path_leads_to_a_file(trick: str, tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished / "toy", tmp_path / "runs" / "toy")
    (tmp_path / "secret").write_text("root:secret")

    async def test(page: Page) -> None:
        for before in ("/", "/assets/", "/api/", "/api/runs/", "/api/runs/toy/answers?candidate="):
            reply = await page.ask("GET", before + trick)
            listing = before + trick == "/api/runs/"
            assert reply.status in (400, 404, 421) or listing, before
            assert b"root:" not in reply.body
            assert trick.encode() not in reply.body

    on_page(tmp_path / "runs", test)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(finished / "toy", target_is_directory=True)

    async def test(page: Page) -> None:
        assert await page.json("/api/runs") == []

    on_page(tmp_path / "runs", test)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: x\r\n" % number for number in range(50_000)) + b"\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ],
    ids=["tls", "garbage", "version", "bytes", "space", "header", "headers", "smuggling"],
)
def test_what_is_no_http_is_refused_and_the_next_one_is_served(
    request_: bytes, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(page: Page) -> None:
        reader, writer = await page.connect()
        with suppress(ConnectionError):
            writer.write(request_)
            writer.write_eof()
            answer = await reader.read()
            assert not answer or parsed(answer).status >= 400
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        assert len(await page.json("/api/runs")) == 1

    on_page(finished, test)
    assert "Traceback" not in caplog.text


# -- how much can be asked for -----------------------------------------------------------------------------------------


def test_who_says_nothing_or_drips_is_let_go_and_others_are_served_meanwhile(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "REQUEST_SECONDS", 0.2)

    async def drip(page: Page, text: bytes) -> None:
        """Return when the server has had enough."""
        reader, writer = await page.connect()
        ended = asyncio.ensure_future(reader.read())
        with suppress(ConnectionError):
            for byte in text * 1000:
                writer.write(bytes([byte]))
                if (await asyncio.wait([ended], timeout=0.02))[0]:
                    break
            await ended
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def test(page: Page) -> None:
        slow = [
            asyncio.ensure_future(drip(page, text)) for text in (b"", b"GET / HTTP/1.1\r\nX: y\r\n") for _ in range(20)
        ]
        assert len(await page.json("/api/runs")) == 1
        await asyncio.gather(*slow)
        reader, writer = await page.connect()  # one that has been answered may not stay for ever either
        writer.write(page.head("GET", "/api/runs", page.key))
        with suppress(ConnectionError):
            assert parsed(await reader.read()).status == 200
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    on_page(finished, test)


def test_a_body_that_does_not_come_is_not_waited_for(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.1)

    async def test(page: Page) -> None:
        path = (await addresses(page))[-1][1]
        head = page.head("POST", path, {**page.key, **JSON, "Content-Length": "100"})
        assert (await page.raw(head + b'{"do":')).status == 408
        large = page.head("POST", path, {**page.key, **JSON, "Content-Length": "100000000"})
        assert (await page.raw(large + b" " * 100_000)).status in (400, 408, 413)

    on_page(finished, test)


def test_a_thousand_followers_are_bounded_and_none_of_them_keeps_the_user_out(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []

    async def test(page: Page) -> None:
        path = (await addresses(page))[4][1]
        open_: list[asyncio.StreamWriter] = []
        for _ in range(1000):
            with suppress(ConnectionError):
                reader, writer = await page.connect()
                open_.append(writer)
                writer.write(page.head("GET", path, page.key))
                statuses.append(parsed(await reader.readuntil(b"\r\n\r\n")).status)
        assert statuses.count(200) == server.MOST_FOLLOWERS
        assert set(statuses) == {200, 503}
        assert len(await page.json("/api/runs")) == 1
        for writer in open_:
            writer.close()
        await _room(page, path)

    on_page(finished, test)


async def _room(page: Page, path: str) -> None:
    """Return when the places of those who have gone are free again."""
    while True:
        reader, writer = await page.connect()
        writer.write(page.head("GET", path, page.key))
        status = parsed(await reader.readuntil(b"\r\n\r\n")).status
        writer.close()
        await writer.wait_closed()
        if status == 200:
            return


def test_connections_are_bounded(finished: Path) -> None:
    async def test(page: Page) -> None:
        opened = [await page.connect() for _ in range(2 * door.MOST_CONNECTIONS)]
        ended = [asyncio.ensure_future(reader.read()) for reader, _ in opened[door.MOST_CONNECTIONS :]]
        await asyncio.wait(ended)  # those beyond are closed at once; the first are still there
        assert not [reader for reader, _ in opened[: door.MOST_CONNECTIONS] if reader.at_eof()]
        for one in ended:
            with suppress(ConnectionError):
                assert one.result() == b""
        for _, writer in opened:
            writer.close()
        while True:
            with suppress(ConnectionError):
                reply = await page.ask("GET", "/api/runs")
                if reply.status == 200:
                    return

    on_page(finished, test)


def test_a_browser_that_takes_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STALLED_SECONDS", 0.1)
    recorded(tmp_path / "toy", Toy((MEGABYTE,) * 4), optimizer=OPRO(steps=1, samples_per_step=4))
    padding = {"padding": "x" * (64 << 20)}  # far more than any socket holds
    manifest = tmp_path / "toy" / MANIFEST
    manifest.write_bytes(dumps({**loads(manifest.read_bytes()), **padding}))

    async def test(page: Page) -> None:
        monkeypatch.setattr(server, "MOST_FOLLOWERS", 1)
        (row,) = await page.json("/api/runs")
        path = f"/api/runs/{row['id']}/events"
        _, writer = await page.connect()
        writer.write(page.head("GET", path, page.key))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        await _room(page, path)
        writer.transport.abort()

    on_page(tmp_path, test)


# -- what is shown -----------------------------------------------------------------------------------------------------


def hostile_run(folder: Path, texts: list[str]) -> None:
    recorded(folder / "toy", Toy(tuple(texts), answer=EVERYTHING), optimizer=OPRO(steps=2, samples_per_step=4))
    journal, manifest = folder / "toy" / JOURNAL, folder / "toy" / MANIFEST
    assert journal.stat().st_size
    stated = loads(manifest.read_bytes())
    stated["subject"]["task"]["name"] = EVERYTHING
    manifest.write_bytes(dumps(stated))


@pytest.mark.row("X01", "X02")
def test_hostile_text_comes_as_json_and_makes_no_event_and_no_header(tmp_path: Path) -> None:
    texts = [text.replace("[", "(").replace("]", ")") for text in SHORT.values() if text.strip()][:8]
    hostile_run(tmp_path, texts)

    async def test(page: Page) -> None:
        (row,) = await page.json("/api/runs")
        assert row["task"] == clean(EVERYTHING)
        path = f"/api/runs/{row['id']}"
        for reply in (await page.ask("GET", path), await page.ask("GET", f"{path}/answers?candidate=-1.0")):
            assert reply.headers["content-type"] == "application/json"
            assert reply.headers["x-content-type-options"] == "nosniff"
        given = await page.json(path)
        shown = await page.json(f"{path}/answers?candidate=-1.0")
        assert clean(EVERYTHING) in {answer["answer"] for answer in shown}
        async with page.following(row["id"]) as events:
            assert (await events.next("document"))["candidates"] == given["candidates"]
        front = await page.ask("GET", "/")
        assert not re.search(rb"alert|evil\.example|onerror", front.body)

    on_page(tmp_path, test)


@pytest.mark.row("X02")
def test_a_folder_may_have_any_name_and_a_megabyte_is_sent_whole_or_cut(tmp_path: Path) -> None:
    name = "<script>alert(1)<!-- \u202e\u2028'\""
    hostile_run(tmp_path / name, [MEGABYTE])

    async def test(page: Page) -> None:
        (row,) = await page.json("/api/runs")
        assert row["name"] == f"{name}/toy"
        assert re.fullmatch("[0-9a-f]{16}", row["id"])
        given = await page.json(f"/api/runs/{row['id']}")
        assert len(dumps(given)) < 4 * len(MEGABYTE)

    on_page(tmp_path, test)
