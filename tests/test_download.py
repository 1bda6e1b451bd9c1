"""``asyncopt data``: the real downloader against servers on this machine, honest ones and others."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest
from aiohttp import web
from served import Connected, connecting, http, serving

from asyncopt.download import LARGEST, download
from asyncopt.errors import ConfigError, DataError
from asyncopt.tasks import load
from asyncopt.tasks.datasets import files_named
from asyncopt.tasks.sources import CHECKSUMS, PublishedFile

pytestmark = [pytest.mark.anyio, pytest.mark.real]

CONTENT = b'{"question": "?"}\n' * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PINNED = PublishedFile("own", "own/pinned.jsonl", "https://example.invalid/pinned.jsonl", SHA256)
SIZED = PublishedFile("own", "own/sized.csv", "https://example.invalid/sized.csv", size=len(CONTENT))


@asynccontextmanager
async def serving_files(folder: Path, asked: list[str]) -> AsyncIterator[str]:
    """The base URL of a server that has the folder's files; ``asked`` gets the paths."""

    async def handle(request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1/")
        asked.append(path)
        return web.FileResponse(folder / path) if (folder / path).is_file() else web.Response(status=404)

    async with serving(handle) as url:
        yield url


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_all_pinned_files_arrive_and_are_not_fetched_again(data: Path, tmp_path: Path) -> None:
    files, asked, lines = files_named(["gsm8k", "bbh", "aqua"]), [], []
    async with serving_files(data, asked) as url:
        fetched = await download(files, tmp_path, lines.append, mirror=url)
        assert sorted(file.path for file in fetched) == sorted(asked) == left_in(tmp_path)
        assert len(lines) == len(asked) == 30
        assert "gsm8k/train.jsonl: 4,166 kB" in lines
        assert await download(files, tmp_path, lines.append, mirror=url) == []
        assert len(asked) == 30
        (tmp_path / "bbh" / "snarks.json").write_bytes(b"{}")
        assert await download(files, tmp_path, lines.append, mirror=url + "/") == files_named(["bbh/snarks"])
    for name in ("gsm8k", "aqua", "bbh/snarks"):
        assert load(name, data=tmp_path) == load(name, data=data)


async def test_a_file_without_a_pin_is_recorded_and_must_stay_the_same(tmp_path: Path) -> None:
    changed = bytearray(CONTENT)

    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(changed))

    async with serving(handle) as url:
        await download([SIZED], tmp_path, str, mirror=url)
        assert json.loads((tmp_path / CHECKSUMS).read_bytes()) == {SIZED.path: SHA256}
        (tmp_path / SIZED.path).unlink()
        changed[0:1] = b"["
        with pytest.raises(DataError, match=f"has the sha256 [0-9a-f]* and not {SHA256}"):
            await download([SIZED], tmp_path, str, mirror=url)
    assert left_in(tmp_path) == [CHECKSUMS]


def raw(answer: bytes) -> Connected:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return connected


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(CONTENT * 100)
        await writer.drain()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1800\r\n\r\n" + CONTENT[:900])
    await writer.drain()
    await reader.read()  # until the client gives up


def redirect(status: int, place: bytes) -> Connected:
    return raw(b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, place))


HOSTILE = {
    "wrong bytes": (raw(http(CONTENT[:-1] + b"x")), "what came has (the sha256|1800 bytes)"),
    "short": (raw(http(CONTENT[:-9])), "what came has (the sha256|1791 bytes)"),
    "empty": (raw(http(b"")), "what came has (the sha256|0 bytes)"),
    "not found": (raw(http(CONTENT, "404 Not Found")), "the answer is HTTP 404"),
    "failing": (raw(http(CONTENT, "500 Oops")), "the answer is HTTP 500"),
    "partial": (raw(http(CONTENT, "206 Partial Content")), "the answer is HTTP 206"),
    "redirect": (
        redirect(302, b"https://evil.example/x"),
        "HTTP 302 redirects to another place, which is never followed",
    ),
    "redirect to itself": (redirect(307, b"/own"), "HTTP 307 redirects"),
    "redirect to a file": (redirect(301, b"file:///etc/passwd"), "HTTP 301 redirects"),
    "cut": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1800\r\n\r\n" + CONTENT[:900]),
        r"no answer \(ClientPayloadError\)",
    ),
    "cut without a length": (raw(b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT[:900]), "what came has (the sha256|900 bytes)"),
    "no answer": (raw(b""), r"no answer \(ServerDisconnectedError\)"),
    "no HTTP": (raw(b"hello\r\n\r\n"), r"no answer \(ClientResponseError\)"),
    "packed": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(CONTENT)),
        "what came has (the sha256|[0-9]+ bytes)",
    ),
    "a bomb": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(50 << 20))),
        "(the sha256|is larger than 1800 bytes)",
    ),
    "endless": (endless, f"the answer is larger than ({LARGEST}|1800) bytes"),
}


@pytest.mark.parametrize("file", [PINNED, SIZED], ids=["pinned", "sized"])
@pytest.mark.parametrize("hostile", HOSTILE)
async def test_of_what_is_not_the_file_nothing_is_kept(tmp_path: Path, hostile: str, file: PublishedFile) -> None:
    if (hostile, file) == ("wrong bytes", SIZED):
        file = replace(file, size=len(CONTENT) + 1)  # without a pin, only the size can tell
    behaviour, message = HOSTILE[hostile]
    lines: list[str] = []
    async with connecting(behaviour) as url:
        with pytest.raises(DataError, match=message) as refused:
            await download([file], tmp_path, lines.append, mirror=url)
    assert left_in(tmp_path) == lines == []
    assert f"load {file.url} by hand and put it at {tmp_path / file.path}" in str(refused.value)
    assert "evil" not in str(refused.value)


async def test_a_server_that_stalls_is_left(tmp_path: Path) -> None:
    async with connecting(silent) as url:
        with pytest.raises(DataError, match=r"no answer \(\w*Timeout\w*\)"):
            await download([PINNED], tmp_path, str, mirror=url, seconds=0.2)
    assert left_in(tmp_path) == []


async def test_an_old_file_stays_when_the_new_one_is_not_right(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / PINNED.path).write_bytes(b"mine")
    async with connecting(raw(http(b"theirs"))) as url:
        with pytest.raises(DataError):
            await download([PINNED], tmp_path, str, mirror=url)
    assert (tmp_path / PINNED.path).read_bytes() == b"mine"


async def test_what_can_be_fetched_is_fetched_and_the_first_failure_is_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "own").mkdir(parents=True)
    (source / PINNED.path).write_bytes(CONTENT)
    missing = [replace(PINNED, path=f"own/missing-{number}.jsonl") for number in range(20)]
    target = tmp_path / "target"
    async with serving_files(source, []) as url:
        with pytest.raises(
            DataError, match=r"^own/missing-0.jsonl could not .* \(19 more could not be fetched either\)$"
        ):
            await download([*missing, PINNED], target, str, mirror=url)
    assert left_in(target) == [PINNED.path]


async def test_nobody_there_is_one_sentence(tmp_path: Path) -> None:
    async with connecting(raw(b"")) as url:
        pass  # the port is free again
    with pytest.raises(DataError, match=r"no answer \(ClientConnectorError\); load https://example.invalid/pinned"):
        await download([PINNED], tmp_path, str, mirror=url)


async def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(b"a file where a folder should be")
    async with connecting(raw(http(CONTENT))) as url:
        with pytest.raises(DataError, match=r"own/pinned.jsonl cannot be written \(.*\); name another folder"):
            await download([PINNED], tmp_path, str, mirror=url)
    assert left_in(tmp_path) == ["own"]


async def test_a_download_that_is_cancelled_leaves_nothing_half(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def hanging(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await silent(reader, writer)

    async with connecting(hanging) as url:
        task = asyncio.create_task(download([PINNED], tmp_path, str, mirror=url))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "mirror",
    [
        "http://example.com/data",
        "ftp://127.0.0.1/",
        "file:///etc",
        "data",
        "https://",
        "https://[1/",
        "http://127.0.0.1.evil.example",
    ],
)
async def test_mirrors_that_cannot_be_trusted_are_refused(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(ConfigError, match="is no https:// URL"):
        await download([PINNED], tmp_path, str, mirror=mirror)


# The commands


@contextmanager
def server_of(folder: Path) -> Iterator[str]:
    """A server in a thread, for commands in other processes."""
    started, stop, urls = Event(), [], []

    async def main() -> None:
        stop.append((asyncio.get_running_loop(), asyncio.Event()))
        async with serving_files(folder, []) as url:
            urls.append(url)
            started.set()
            await stop[0][1].wait()

    thread = Thread(target=asyncio.run, args=(main(),))
    thread.start()
    started.wait()
    try:
        yield urls[0]
    finally:
        loop, event = stop[0]
        loop.call_soon_threadsafe(event.set)
        thread.join()


def call(cache: Path, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "asyncopt", "data", *arguments],
        env={"ASYNCOPT_CACHE_DIR": str(cache), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return done


def test_the_commands(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    with server_of(data) as url:
        first = call(cache, "get", "aqua", "bbh/navigate", "--mirror", url)
        again = call(cache, "get", "bbh/navigate", "--mirror", url)
        failed = call(cache, "get", "multiarith", "--mirror", url, expect=2)
    assert first.stdout == f"{cache / 'data'}: 2 files fetched, 0 were there\n"
    assert sorted(first.stderr.splitlines()) == ["aqua/test.json: 130 kB", "bbh/navigate.json: 55 kB"]
    assert again.stdout == f"{cache / 'data'}: 0 files fetched, 1 were there\n"
    assert failed.stderr.startswith("multiarith: its authors state no licence;")
    assert "asyncopt: multiarith/MultiArith.json could not be fetched" in failed.stderr
    (cache / "data" / "aqua" / "test.json").write_bytes(b"")
    listed = call(cache, "ls").stdout.splitlines()
    assert listed[0] == str(cache / "data")
    assert {line.split()[0]: line.split("  ")[-1].strip() for line in listed[1:]}["multiarith"] == "no licence stated"
    states = {line[2:17].strip(): line[17:45].strip() for line in listed[1:]}
    assert states == {
        "gsm8k": "missing",
        "bbh": "1 there, 26 missing",
        "aqua": "1 not as published",
        "mmlu": "missing",
        "multiarith": "missing",
        "ordered-prompt": "missing",
    }
    rows = [json.loads(line) for line in call(cache, "ls", "--json").stdout.splitlines()]
    assert len(rows) == 97
    assert [row["path"] for row in rows if row["presence"] == "there"] == ["bbh/navigate.json"]
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(cache))
    assert load("bbh/navigate") == load("bbh/navigate", data=data)
