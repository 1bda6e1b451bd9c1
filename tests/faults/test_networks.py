"""Names that do not resolve, addresses that are dead, peers that are gone, and descriptors that are used up."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator

import orjson
import pytest
from transported import Seen, deaf, echo, kinds

from asyncopt import Engine, Quota
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.protocol import Answer
from asyncopt.testing.raw import Asked, End, RawServer, Step
from asyncopt.values import FaultKind, Generate

pytestmark = [pytest.mark.anyio, pytest.mark.real]

Found = list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]]


class Names:
    """What the system's resolver says of every name that is no address, try by try; the last again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *tries: list[str] | OSError) -> None:
        self.asked = 0
        self._tries = tries
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, *args: object, **options: object) -> Found:
        if host != "model.example":
            return self._real(host, port, *args, **options)  # type: ignore[arg-type,return-value]
        found = self._tries[min(self.asked, len(self._tries) - 1)]
        self.asked += 1
        if isinstance(found, OSError):
            raise found
        kinds = [(socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in found]
        return [(family, socket.SOCK_STREAM, 6, "", (one, port)) for family, one in kinds]


def named(url: str) -> str:
    return url.replace("127.0.0.1", "model.example")


async def ask_by_name(url: str, *texts: str) -> list[Answer]:
    endpoint = HttpEndpoint(named(url), allow_insecure=True, keepalive=0.0)
    try:
        return [await endpoint.send("m", Generate.of(text)) for text in texts]
    finally:
        await endpoint.aclose()


UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
LATER = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.mark.row("T13")
@pytest.mark.parametrize("error", [UNKNOWN, LATER])
async def test_a_name_that_does_not_resolve_is_a_passing_fault(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, error)
    found = await ask_by_name("http://model.example/v1", "q")
    assert kinds(found) == [FaultKind.TRANSIENT]


@pytest.mark.row("T13")
async def test_a_name_that_resolves_now_and_then_loses_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, LATER, ["127.0.0.1"])
    async with RawServer(lambda asked: [echo(asked)]) as url:
        assert kinds(await ask_by_name(url, "one", "two", "three")) == [FaultKind.TRANSIENT, "two", "three"]
    assert names.asked == 2


@pytest.mark.row("T13")
@pytest.mark.parametrize("first", [["127.0.0.3", "127.0.0.1"], ["127.0.0.1", "127.0.0.3"]])
async def test_of_two_addresses_the_one_that_answers_is_used(first: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, first)
    async with RawServer(lambda asked: [echo(asked)]) as url:
        assert kinds(await ask_by_name(url, "one", "two")) == ["one", "two"]


@pytest.mark.row("T13")
async def test_an_address_that_swallows_everything_does_not_hold_a_call_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(lambda asked: [echo(asked)]) as url:
        port = int(url.removesuffix("/v1").rpartition(":")[2])
        Names(monkeypatch, ["127.0.0.4", "127.0.0.1"])
        with deaf("127.0.0.4", port):
            # Well below the ten seconds after which connecting is given up, which would be a fault.
            assert kinds(await ask_by_name(url, "q")) == ["q"]


@pytest.mark.row("T13")
async def test_a_name_is_asked_for_again_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: now)
    names = Names(monkeypatch, ["127.0.0.3"], ["127.0.0.1"])
    async with RawServer(lambda asked: [echo(asked)]) as url:
        endpoint = HttpEndpoint(named(url), allow_insecure=True)
        found = [await endpoint.send("m", Generate.of("q")) for _ in range(2)]
        now += 11.0
        found.append(await endpoint.send("m", Generate.of("q")))
        await endpoint.aclose()
    assert kinds(found) == [FaultKind.TRANSIENT, FaultKind.TRANSIENT, "q"]
    assert names.asked == 2


# -- after a sleep -------------------------------------------------------------------------------------------------------


@pytest.mark.row("T18")
async def test_after_a_sleep_the_first_call_finds_out_and_the_pool_is_flushed() -> None:
    asleep = asyncio.Event()
    gathered = asyncio.Event()

    def script(asked: Asked) -> Iterator[Step]:
        if asked.connection < 8 and asked.number:  # the peer has forgotten it
            yield End.RESET
            return
        if len(server.requests) == 8:
            gathered.set()
        if not asleep.is_set():
            yield gathered  # all at once, so that there are eight connections
        yield echo(asked)

    seen = Seen()
    server = RawServer(script)
    async with server as url, Engine(observers=[seen]) as engine:
        model = engine.model("m", base_url=url, quota=Quota(concurrency=8))
        await asyncio.gather(*(model.generate(f"before {number}") for number in range(8)))
        asleep.set()
        assert (await model.generate("after")).text == "after"
        assert len(server.requests) == 10  # one of the eight was tried
        after = await asyncio.gather(*(model.generate(f"after {number}") for number in range(8)))
    assert [one.text for one in after] == [f"after {number}" for number in range(8)]
    assert len(server.requests) == 18  # and none of the other seven
    assert seen.failures == []


_SLEEP = """
import asyncio, subprocess
from asyncopt.endpoints import http_exchange
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.testing.raw import RawServer, answer
from asyncopt.values import Generate

http_exchange._SOCKET_OPTIONS = tuple((name, 500 if "TIMEOUT" in name else 1) for name, _ in http_exchange._SOCKET_OPTIONS)

def link(state):
    subprocess.run(["ip", "link", "set", "lo", state], check=True)

async def main():
    body = b'{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}'
    link("up")
    async with RawServer.saying(answer(body)) as url:
        endpoint = HttpEndpoint(url)
        first = await endpoint.send("m", Generate.of("q"))
        link("down")
        asyncio.get_running_loop().call_later(0.2, lambda: None)
        second = await endpoint.send("m", Generate.of("q"))
        link("up")
        third = await endpoint.send("m", Generate.of("q"))
        await endpoint.aclose()
    print([getattr(answer, "text", None) or answer.kind.value for answer in (first, second, third)])

asyncio.run(main())
"""


@pytest.mark.row("T18")
@pytest.mark.skipif(sys.platform != "linux", reason="a network that goes down takes a namespace of Linux's")
def test_a_peer_that_is_gone_is_noticed_and_not_waited_for_by_the_hour() -> None:
    command = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may make no network namespace: a network that goes down is not tested")
    done = subprocess.run([*command, sys.executable, "-c", _SLEEP], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['hello', 'transient', 'hello']"


# -- descriptors and ports -----------------------------------------------------------------------------------------------

_CROWD = """
import asyncio, json, logging, os, resource, sys
from asyncopt import Engine, Quota
from asyncopt.events import AttemptFailed, Note

logging.basicConfig(stream=sys.stdout, format="%(message)s")
url, most, taken = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if most:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
failed = []

class Observer:
    def notify(self, event):
        if isinstance(event, AttemptFailed):
            failed.append(event.detail)
            if len(failed) == 20:  # whoever took them gives them back
                while held:
                    os.close(held.pop())

async def main():
    async with Engine(observers=[Observer()]) as engine:
        model = engine.model("m", base_url=url, quota=Quota(concurrency=256))
        held.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(taken))
        answers = await asyncio.gather(*(model.generate(str(number)) for number in range(300)))
    assert [answer.text for answer in answers] == [str(number) for number in range(300)]
    print(json.dumps({"failed": len(failed), "details": sorted(set(failed))}))

asyncio.run(main())
"""


@pytest.mark.row("T15")
async def test_with_few_descriptors_fewer_calls_are_in_flight_and_it_is_said() -> None:
    at_once = most = 0

    def script(asked: Asked) -> Iterator[Step]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        yield 0.001
        at_once -= 1
        yield echo(asked)

    async with RawServer(script) as url:
        out = await _crowd(url, 100, 0)
    assert out[:-1] == ["at most 36 calls are in flight: the limit of open files allows no more (raise ulimit -n)"]
    assert orjson.loads(out[-1])["failed"] == 0
    assert most <= 36


@pytest.mark.row("T15")
async def test_descriptors_that_others_have_used_up_pass_without_a_loss() -> None:
    async with RawServer(lambda asked: [echo(asked)]) as url:
        out = await _crowd(url, 100, 84)
    told = orjson.loads(out[-1])
    assert 20 <= told["failed"] < 300  # each waits longer than the last, and no call is tried without end
    assert told["details"] == [
        "no connection: this process may open no more files (raise ulimit -n, or lower the concurrency)"
    ]


async def _crowd(url: str, most: int, taken: int) -> list[str]:
    command = (sys.executable, "-c", _CROWD, url, str(most), str(taken))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().splitlines()
