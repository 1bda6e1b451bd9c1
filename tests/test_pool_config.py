"""How users name several endpoints of one model, what is refused, and that runs and the proxy work in front of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from calls import started
from fakes import run_virtual
from shared_board import Boards
from test_shared import worst_excess

from asyncopt import Engine, Quota, codec
from asyncopt.cli.models import check_model, open_models
from asyncopt.cli.settings import settle
from asyncopt.config import check
from asyncopt.errors import ConfigError
from asyncopt.pool import Member
from asyncopt.testing import Constant, SimulatedAPI

TWO = [
    {"base_url": "http://127.0.0.1:9001/v1", "weight": 2, "requests_per_minute": 600},
    {"base_url": "http://127.0.0.1:9002/v1", "requests_per_minute": 300, "concurrency": 8},
]


def of(endpoints: Any, **more: Any) -> dict[str, Any]:
    return {"task": {"name": "antonym"}, "models": {"scorer": {"model": "m", "endpoints": endpoints, **more}}}


def test_endpoints_are_a_list_of_tables_and_come_back_from_the_run_directory() -> None:
    config = check(of(TWO, scope="fleet", api_key_env="ALL_KEYS"))
    assert check(config.to_plain()) == config
    wanted = config.models.scorer
    assert wanted is not None
    assert hash(wanted) == hash(check(config.to_plain()).models.scorer)
    assert [one.base_url for one in wanted.each] == [one["base_url"] for one in TWO]
    assert [one.api_key_env for one in wanted.each] == ["ALL_KEYS"] * 2
    assert wanted.each[1].quota == Quota(requests_per_minute=300, concurrency=8, scope="fleet")
    assert wanted.quota == Quota(requests_per_minute=900, concurrency="18-28-108", scope="fleet")
    assert wanted.address == TWO[0]["base_url"]


def test_what_is_known_of_some_endpoints_only_is_no_quota_of_all() -> None:
    wanted = check(of([{"base_url": "http://127.0.0.1:1/v1"}, TWO[0]])).models.scorer
    assert wanted is not None
    assert wanted.quota == Quota()


def test_one_endpoint_is_written_as_before() -> None:
    plain = check({"task": {"name": "antonym"}, "models": {"scorer": {"model": "m", "base_url": "http://h/v1"}}})
    assert "endpoints" not in plain.to_plain()["models"]["scorer"]
    assert plain.models.scorer is not None
    assert plain.models.scorer.each == (plain.models.scorer,)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (of([]), "endpoints"),
        (of(TWO, base_url="http://h/v1"), "each of the endpoints has its own base_url"),
        (of(TWO, requests_per_minute=5, concurrency=3), "its own requests_per_minute and concurrency"),
        (of([{"weight": 0}]), "weight"),
        (of([{"concurrency": "a-b"}]), "concurrency"),
        (of([{"wieght": 2}]), "unknown key models.scorer.endpoints.0.wieght; did you mean weight?"),
        (of([{"api_key": "sk-canary-012345678901234567890"}]), "holds a key"),
        (of([{"base_url": "https://sk-canary-012345678901234567890@host/v1"}]), "holds a key"),
        (of(None, identity="x"), "identity is what several endpoints are known by"),
    ],
)
def test_mistakes_are_named_and_no_key_is_shown(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(tables)
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


def test_what_cannot_be_called_is_said_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_A", "sk-a")
    monkeypatch.delenv("KEY_B", raising=False)
    accounts = [{"api_key_env": "KEY_A"}, {"api_key_env": "KEY_B"}]
    for tables, said in (
        (of(accounts, model="openai/gpt-x"), "set the environment variable KEY_B"),
        (of(accounts[:1] * 2, model="openai/gpt-x"), "twice with the same key"),
        (of(TWO, model="local"), "not at endpoints"),
    ):
        wanted = check(tables).models.scorer
        assert wanted is not None
        with pytest.raises(ConfigError, match=said) as caught:
            check_model(wanted)
        assert "sk-a" not in str(caught.value)


def test_the_address_of_the_environment_is_not_for_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    tables = {"models.scorer.model": "openai/m", "models.scorer.endpoints": TWO}
    config = settle("antonym", tables, None, None, ["optimizer.name=random"])
    assert config.models.scorer is not None
    assert config.models.scorer.base_url is None


def test_two_roles_at_the_same_endpoints_are_one_pool() -> None:
    async def main() -> None:
        tables = of(TWO)
        config = check({**tables, "models": dict.fromkeys(("scorer", "proposer"), tables["models"]["scorer"])})
        async with Engine() as engine:
            models = await open_models(config, engine, {})
            assert sorted(models) == ["proposer", "scorer"]
            assert [one.control.scope for one in engine.dispatchers] == ["m#1", "m#2"]
            assert {one.identity for one in models.values()} == {"http://127.0.0.1:9001/v1"}

    run_virtual(main)


def test_processes_share_the_quota_of_every_member() -> None:
    servers = [SimulatedAPI(latency=Constant(0.2)) for _ in range(2)]
    boards = Boards()

    async def work(name: str) -> None:
        async with Engine(coordinator=boards.coordinator(name), grace=0.0) as engine:
            members = [
                Member(endpoint=servers[n].endpoint(api_key=f"k{n}"), quota=Quota(600, concurrency=100))
                for n in ((0, 1) if name == "a" else (1, 0))
            ]
            pool = engine.pool("m", members)
            await asyncio.gather(*(pool.generate(f"{name} {n}") for n in range(200)))

    async def main() -> float:
        await asyncio.gather(work("a"), work("b"))
        return asyncio.get_running_loop().time()

    assert 19 <= run_virtual(main) <= 22
    for server in servers:
        arrived = sorted(entry.arrived for entry in server.ledger.entries)
        assert worst_excess(arrived, 10.0) <= 4


# -- real servers ------------------------------------------------------------------------------------------------------

ASYNCOPT = ("-m", "asyncopt")


def ledger(url: str) -> dict[str, Any]:
    with urlopen(f"{url.removesuffix('/v1')}/ledger") as response:  # noqa: S310 - our own server
        found: dict[str, Any] = json.load(response)
    return found


@pytest.mark.real
def test_a_run_at_two_servers_uses_both_and_shows_no_key(tmp_path: Path) -> None:
    keys = ["sk-canary-aaaaaaaaaaaaaaaa", "sk-canary-bbbbbbbbbbbbbbbb"]
    variables = {"KEY_0": keys[0], "KEY_1": keys[1], "ASYNCOPT_CACHE_DIR": str(tmp_path / "cache")}
    with ExitStack() as stack:
        urls = [
            str(stack.enter_context(started(*ASYNCOPT, "simulate", "--latency", "0.02", "--key", key))[1]["url"])
            for key in keys
        ]
        tables = [f'{{base_url = "{url}", api_key_env = "KEY_{n}"}}' for n, url in enumerate(urls)]
        (tmp_path / "run.toml").write_text(
            f'[task]\nname = "antonym"\nlimit = 20\n[models.scorer]\nmodel = "m"\nendpoints = [{", ".join(tables)}]\n'
        )
        command = [sys.executable, *ASYNCOPT, "run", "run.toml", "--steps", "1", "--directory", "out", "--json"]
        done = subprocess.run(
            command,
            env={**os.environ, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        seen = [ledger(url) for url in urls]
    assert all(one["answered"] == one["requests"] > 5 for one in seen)
    files = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not any(b"canary" in content for content in [*files, done.stdout.encode(), done.stderr.encode()])


@pytest.mark.real
def test_the_proxy_works_in_front_of_a_pool(tmp_path: Path) -> None:
    with ExitStack() as stack:
        urls = [str(stack.enter_context(started(*ASYNCOPT, "simulate", "--latency", "0"))[1]["url"]) for _ in range(2)]
        endpoints = "[" + ", ".join(f'{{base_url = "{url}", concurrency = 1}}' for url in urls) + "]"
        command = (*ASYNCOPT, "proxy", "--scorer", "m", "--no-cache", "--set", f"models.scorer.endpoints={endpoints}")
        _, ready = stack.enter_context(started(*command))
        for number in range(3):
            body = codec.dumps({"model": "m", "messages": [{"role": "user", "content": f"hi {number}"}]})
            with urlopen(Request(f"{ready['url']}/chat/completions", body)) as response:  # noqa: S310 - our own server
                assert json.load(response)["choices"][0]["message"]["content"]
        assert sum(ledger(url)["answered"] for url in urls) == 3
