"""A sweep by two processes, of which one is killed, or both, or whoever started them: it ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from children import Child, Ended, Watched, child, environment, until
from crewed import FILE, findings
from test_process import a_fake

from asyncopt import Engine, Generate, Quota, Sampling
from asyncopt.cli.models import local_endpoint
from asyncopt.cli.workers.handed import HandedServer, Reviver, handed
from asyncopt.ctl import ask
from asyncopt.local.lasting import LastingEndpoint, LastingServer
from asyncopt.records.read import is_running
from asyncopt.testing import SimulatedAPI
from asyncopt.testing.answers import AnswerModel
from asyncopt.testing.latency import Constant
from asyncopt.testing.process import known_items
from asyncopt.testing.server import serving

pytestmark = [pytest.mark.real, pytest.mark.row("L08")]

CONCURRENCY = 8
IN_FLIGHT = CONCURRENCY  # of a killed worker, whichever part of the slots it has
GATHERED = 2 * CONCURRENCY  # answers that the cache's writer had not committed yet
TWO = ("--workers", "2")


class Killed:
    """A sweep whose processes are killed, beside the same one that nobody touches."""

    def __init__(self, folder: Path, watched: Watched, url: str) -> None:
        self.folder, self.watched, self.url = folder, watched, url
        (folder / "two.toml").write_text(FILE)

    def order(self, name: str, *more: str) -> list[str]:
        models = ["--scorer", "mock", "--base-url", self.url, "--set", f"models.scorer.concurrency={CONCURRENCY}"]
        return ["sweep", str(self.folder / "two.toml"), *models, "--directory", str(self.folder / name), *more]

    def variables(self, name: str) -> dict[str, str]:
        return environment(self.folder / f"of-{name}", XDG_RUNTIME_DIR=str(self.folder))

    async def whole(self) -> None:
        async with child(self.order("whole"), self.variables("whole")) as one:
            ended = await one.ended()
        assert ended.code == 0, ended.errors
        self.asked = list(self.watched.asked)
        assert len(set(self.asked)) == len(self.asked)
        self.watched.asked.clear()

    async def workers(self) -> list[int]:
        """The numbers of the worker processes."""
        status = await ask(self.folder / "killed", {"do": "status"})
        assert status["workers"] == len(status["pids"])
        pids: list[int] = status["pids"]
        return pids

    async def asked_part(self, share: float) -> None:
        await self.watched.until_asked(int(share * len(self.asked)))

    async def nobody_runs(self) -> None:
        """Return when no process holds any of the studies."""
        await until(lambda: not any(is_running(one) for one in (self.folder / "killed").iterdir() if one.is_dir()))

    async def resumed(self) -> None:
        async with child(["resume", str(self.folder / "killed"), *TWO], self.variables("killed")) as one:
            ended = await one.ended()
        assert ended.code == 0, ended.errors

    def assert_as_if_nothing_had_happened(self, repeated: int) -> None:
        """The same results, and of what was paid for next to nothing asked again."""
        assert findings(self.folder / "killed") == findings(self.folder / "whole")
        asked = Counter(self.watched.asked)
        assert set(asked) == set(self.asked)
        assert asked.total() - len(asked) <= repeated


def with_a_sweep(tmp_path: Path, test: Callable[[Killed], Awaitable[None]]) -> None:
    async def main() -> None:
        answers = AnswerModel(0, known_items(None))
        watched = Watched(SimulatedAPI(latency=Constant(0.01), answers=answers))
        async with serving(watched, 0) as url:
            one = Killed(tmp_path, watched, url)
            await one.whole()
            await test(one)

    asyncio.run(main())


def test_a_worker_that_is_killed_is_replaced_and_its_studies_go_on(tmp_path: Path) -> None:
    async def test(one: Killed) -> None:
        async with child(one.order("killed", *TWO), one.variables("killed")) as parent:
            for share in (0.25, 0.6):
                await one.asked_part(share)
                os.kill((await one.workers())[0], signal.SIGKILL)
            ended = await parent.ended()
        assert ended.code == 0, ended.errors
        assert ended.errors.count("was killed (SIGKILL)") == 2
        assert "are taken over" in ended.errors
        one.assert_as_if_nothing_had_happened(2 * (IN_FLIGHT + GATHERED))

    with_a_sweep(tmp_path, test)


def test_all_workers_may_be_killed_at_once(tmp_path: Path) -> None:
    async def test(one: Killed) -> None:
        async with child(one.order("killed", *TWO), one.variables("killed")) as parent:
            await one.asked_part(0.4)
            for number in await one.workers():
                os.kill(number, signal.SIGKILL)
            ended = await parent.ended()
        assert ended.code == 0, ended.errors
        one.assert_as_if_nothing_had_happened(2 * (IN_FLIGHT + GATHERED))

    with_a_sweep(tmp_path, test)


def test_where_whoever_started_them_is_killed_the_workers_wind_up(tmp_path: Path) -> None:
    async def test(one: Killed) -> None:
        async with child(one.order("killed", *TWO), one.variables("killed")) as parent:
            await one.asked_part(0.4)
            parent.send(signal.SIGKILL)
            assert (await parent.ended()).code == -signal.SIGKILL
        await one.resumed()  # at once: it waits for what they still hold
        one.assert_as_if_nothing_had_happened(0)  # they let their calls end, and kept the answers
        await one.nobody_runs()

    with_a_sweep(tmp_path, test)


def test_workers_without_anybody_to_tell_them_do_not_go_on(tmp_path: Path) -> None:
    async def test(one: Killed) -> None:
        async with child(one.order("killed", *TWO), one.variables("killed")) as parent:
            await one.asked_part(0.4)
            parent.send(signal.SIGKILL)
            await parent.ended()
            asked = len(one.watched.asked)  # on a busy machine more than the part that was waited for
        await one.nobody_runs()
        assert len(one.watched.asked) <= asked + 4 * CONCURRENCY
        assert len(one.watched.asked) < len(one.asked)

    with_a_sweep(tmp_path, test)


@pytest.mark.row("L06")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_lets_all_calls_end_and_goes_on(tmp_path: Path, number: int, code: int) -> None:
    async def test(one: Killed) -> None:
        async with child(one.order("killed", *TWO), one.variables("killed")) as parent:
            await one.asked_part(0.4)
            ended = await interrupted(parent, number)
        assert ended.code == code
        assert f"go on with: asyncopt resume {one.folder / 'killed'}" in ended.errors
        assert "Traceback" not in ended.errors
        assert ended.errors.count("in flight; interrupt again") <= 1
        assert not any(is_running(study) for study in (one.folder / "killed").iterdir() if study.is_dir())
        await one.resumed()
        one.assert_as_if_nothing_had_happened(0)

    with_a_sweep(tmp_path, test)


async def interrupted(parent: Child, number: int) -> Ended:
    parent.send(number)
    return await parent.ended()


def test_a_second_interrupt_ends_it_now(tmp_path: Path) -> None:
    async def test(one: Killed) -> None:
        one.watched.free = 100  # from then on the server does not answer
        async with child(one.order("killed", *TWO), one.variables("killed")) as parent:
            await one.watched.until_asked(104)
            parent.send(signal.SIGINT)
            await asyncio.sleep(0.5)
            parent.send(signal.SIGINT)
            ended = await parent.ended()
        assert ended.code == 130
        assert "Traceback" not in ended.errors
        assert not any(is_running(study) for study in (one.folder / "killed").iterdir() if study.is_dir())

    with_a_sweep(tmp_path, test)


# -- the embedded model of all workers ---------------------------------------------------------------------------------


class Worker:
    """An engine whose embedded model somebody else has started, and starts again when it is asked to."""

    def __init__(self, server: LastingServer, reviver: Reviver, name: str) -> None:
        self.server = HandedServer(name, handed(server), self.ask)
        self.reviver = reviver
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, message: Mapping[str, Any]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(self.answer(message)))

    async def answer(self, message: Mapping[str, Any]) -> None:
        self.server.heard(await self.reviver.answer(message))

    async def words(self, count: int) -> list[str]:
        async with Engine() as engine:
            endpoint = LastingEndpoint(self.server, local_endpoint)
            model = engine.model("local", endpoint=endpoint, quota=Quota(concurrency=4))
            futures = [model.submit(Generate.of(f"word {n}", Sampling(max_tokens=8))) for n in range(count)]
            await asyncio.gather(*futures[:10])
            if self.server.running:
                os.kill(self.server.pid, signal.SIGKILL)
            return [one.text for one in await asyncio.gather(*futures)]


def test_an_embedded_model_that_is_killed_is_started_again_for_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with a_fake(tmp_path, monkeypatch) as server:
            name, first = str(tmp_path / "fake.gguf"), server.pid
            reviver = Reviver({name: server})
            workers = [Worker(server, reviver, name) for _ in range(2)]
            found = await asyncio.gather(*(worker.words(60) for worker in workers))
            assert found == [[f"WORD {n}" for n in range(60)]] * 2
            assert server.pid != first
            assert {worker.server.pid for worker in workers} <= {server.pid, first}

    asyncio.run(main())
