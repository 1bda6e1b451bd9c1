"""How users name a shared quota, where it stands, and what they see of it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeEndpoint, run_virtual
from shared_board import Boards
from test_doctor import verdicts

from asyncopt import Engine, Quota
from asyncopt.activity import ACTIVITY, Activity, is_sample
from asyncopt.cli.ctl import lines_of
from asyncopt.cli.settings import settle, settle_resumed
from asyncopt.cli.sweep import loaded, planned_sweep, shared_at
from asyncopt.config import check
from asyncopt.ctl import endpoints_of
from asyncopt.directory import MANIFEST, read_json
from asyncopt.errors import ConfigError
from asyncopt.limits.budget import Account
from asyncopt.shared.board import Board
from asyncopt.shared.socket import SocketCoordinator

RUN = ("run", "linear-regression", "--optimizer", "random", "--steps", "3", "--display", "none")


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path / 'q' / 'socket'}"


def asyncopt(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "ASYNCOPT_CACHE_DIR": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "asyncopt", *arguments], capture_output=True, text=True, env=variables, check=False
    )


# -- the configuration -------------------------------------------------------------------------------------------------


def test_the_address_is_a_setting_and_the_same_from_every_folder() -> None:
    config = settle("linear-regression", {"shared": "unix:q/socket"}, None, None, ["optimizer.name=random"])
    assert config.shared == f"unix:{os.getcwd()}/q/socket"
    assert check(config.to_plain()) == config
    config = settle("linear-regression", {}, None, None, ["optimizer.name=random", "shared=redis://host:1/2"])
    assert config.shared == "redis://host:1/2"


@pytest.mark.parametrize("wrong", ["here", "unix:", "http://host"])
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="shared: this is no address of a shared quota; wanted unix:/PATH"):
        check({"task": {"name": "antonym"}, "shared": wrong})


def test_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="passwords stay in the environment") as caught:
        check({"task": {"name": "antonym"}, "shared": "redis://:hunter2hunter2@host"})
    assert "hunter2" not in str(caught.value)


def test_the_studies_of_a_sweep_share_at_one_address(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    text = 'tasks = ["linear-regression"]\nseeds = [0]\n[base.optimizer]\nname = "random"\nsteps = 1\n'
    file.write_text(text + '[settings.a]\nshared = "redis://a"\n[settings.b]\nshared = "redis://b"\n')
    sweep = planned_sweep(str(file), {})
    with pytest.raises(ConfigError, match="has another shared quota than"):
        loaded(sweep)
    assert {one.config.shared for one in shared_at(sweep, "unix:/q/s").planned} == {"unix:/q/s"}
    assert list(loaded(shared_at(sweep, "unix:/q/s"))) == [one.name for one in sweep.planned]
    with pytest.raises(ConfigError, match="no address of a shared quota"):
        shared_at(sweep, "somewhere")


@pytest.mark.real
def test_a_run_is_the_same_with_a_shared_quota_and_goes_on_under_another(tmp_path: Path, address: str) -> None:
    for name, more in (("alone", ()), ("shared", ("--shared", address))):
        done = asyncopt(*RUN, "--directory", str(tmp_path / name), *more, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    alone, shared = (read_json(tmp_path / name / MANIFEST) for name in ("alone", "shared"))
    assert alone["subject"] == shared["subject"]
    assert shared["config"] == {**alone["config"], "shared": address}
    assert settle_resumed(tmp_path / "shared", None).shared == address
    assert settle_resumed(tmp_path / "shared", None, shared="unix:/other/q").shared == "unix:/other/q"
    done = asyncopt("resume", str(tmp_path / "alone"), "--display", "none", "--shared", f"{address}2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "q" / "socket").exists()  # nobody serves any more


@pytest.mark.real
def test_a_quota_that_cannot_be_reached_is_said_before_anything_is_begun(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    place = tmp_path / "run"
    done = asyncopt(*RUN, "--directory", str(place), "--shared", f"unix:{folder}/q", folder=tmp_path)
    assert done.returncode == 2
    assert "others can write into the folder" in done.stderr
    assert not place.exists()


# -- what is seen ------------------------------------------------------------------------------------------------------


def test_what_is_not_shared_is_not_divided() -> None:
    boards = Boards()

    async def main() -> list[int]:
        async with Engine(coordinator=boards.coordinator("a")) as one, Engine(coordinator=boards.coordinator("b")):
            mine, ours = FakeEndpoint(identity="mine"), FakeEndpoint(identity="ours")
            mine.own = True  # type: ignore[attr-defined]
            for endpoint in (mine, ours):
                one.model("m", endpoint=endpoint, quota=Quota(concurrency=8))
            await asyncio.sleep(2.0)
            return [dispatcher.slots.limit for dispatcher in one.dispatchers]

    assert run_virtual(main) == [8, 4]


def test_activity_tells_how_many_share_and_whether_they_are_heard(tmp_path: Path) -> None:
    boards = Boards()

    async def main() -> None:
        async with Engine(coordinator=boards.coordinator("a")) as one, Engine(coordinator=boards.coordinator("b")):
            model = one.model("m", endpoint=FakeEndpoint(seconds=3.5))
            with Activity(tmp_path, one, model.account):
                asked = asyncio.ensure_future(model.generate("q"))
                await asyncio.sleep(1.6)
                boards.board = None
                await asked
            assert one.sharing is not None
            assert one.sharing.degraded == "nobody answers"
            assert endpoints_of(one)[0]["in_flight"] == 0
            boards.board = Board()

    run_virtual(main)
    _, *lines = map(json.loads, (tmp_path / ACTIVITY).read_text().splitlines())
    assert all(map(is_sample, lines))
    told = [(line["workers"], line["alone"]) for line in lines]
    assert (told[0], told[-1]) == ((2, False), (2, True))


def test_an_engine_on_its_own_tells_of_no_workers(tmp_path: Path) -> None:
    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint(seconds=1.5))
            with Activity(tmp_path, engine, Account()):
                await model.generate("q")
            assert engine.sharing is None

    run_virtual(main)
    assert "workers" not in (tmp_path / ACTIVITY).read_text()


def test_ctl_says_it_in_words() -> None:
    answer = {"state": "running", "pid": 1, "calls": 2, "workers": 4, "degraded": None}
    assert lines_of(answer) == ["running (process 1)", "calls 2", "the quota is shared by 4"]
    answer["degraded"] = "no answer at /q"
    assert lines_of(answer)[-1] == "the shared quota is lost (no answer at /q): this process keeps to one part of 4"


@pytest.mark.real
def test_doctor_tells_whether_the_shared_quota_answers(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asyncopt(*RUN, "--directory", str(tmp_path / "run"), "--shared", address, folder=tmp_path).returncode == 0
    assert verdicts(capsys, tmp_path / "run")["shared quota"] == ("pass", "it answers")
    (tmp_path / "q").chmod(0o777)
    verdict, detail = verdicts(capsys, tmp_path / "run")["shared quota"]
    assert verdict == "fail"
    assert "others can write into the folder" in detail


@pytest.mark.real
def test_doctor_takes_nobodys_place_and_goes(tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert asyncopt(*RUN, "--directory", str(tmp_path / "run"), "--shared", address, folder=tmp_path).returncode == 0
    path = address.removeprefix("unix:")

    async def main() -> None:
        coordinator = SocketCoordinator(path)
        await coordinator.beat([])
        await asyncio.to_thread(verdicts, capsys, tmp_path / "run")
        while (await coordinator.beat([])).workers > 1:  # noqa: ASYNC110 - until the end of its connection is seen
            await asyncio.sleep(0.01)
        assert coordinator.serves
        await coordinator.aclose()

    asyncio.run(main())
