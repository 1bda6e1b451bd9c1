"""Signals to a run in a process of its own: the first drains, the second cancels, the third kills; and closed pipes."""

from __future__ import annotations

import asyncio
import os
import random
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from children import ASYNCOPT, Nursery, Watched, child, environment, nursery, until
from served import connecting

from asyncopt.codec import loads
from asyncopt.testing import SimulatedAPI
from asyncopt.testing.answers import AnswerModel
from asyncopt.testing.latency import Constant
from asyncopt.testing.process import known_items
from asyncopt.testing.server import serving

pytestmark = [pytest.mark.real, pytest.mark.row("L06")]

AT_ONCE = 4
HANG = 25.0  # seconds: less than the grace of the first signal, so that a run that sits it out is noticed
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
NOTHING_WRONG = ("Traceback", "Exception", "never retrieved", "was destroyed")


@dataclass
class Run:
    """A run in a forked process, on an API whose answers are in the test's hands."""

    kids: Nursery
    api: Watched
    url: str
    folder: Path

    @property
    def place(self) -> Path:
        return self.folder / "run"

    @property
    def said(self) -> str:
        return (self.folder / "errors").read_text() if (self.folder / "errors").exists() else ""

    def models(self) -> list[str]:
        at_once = ["--set", f"models.scorer.concurrency={AT_ONCE}"]
        return ["--scorer", "mock", "--base-url", self.url, "--limit", "8", *at_once]

    async def start(self, *arguments: str) -> int:
        """The number of the process; by default of a whole run."""
        given = list(arguments) or ["run", "antonym", *self.models(), "--steps", "2", "--directory", str(self.place)]
        return await self.kids.start(given, environment(self.folder), self.folder / "errors")

    async def reaches(self, number: int) -> None:
        """Return when so many requests have come; what it said is the error where they never do."""
        try:
            async with asyncio.timeout(HANG):
                await self.api.until_asked(number)
        except TimeoutError:
            pytest.fail(f"{len(self.api.asked)} requests came and not {number}: {self.said}")

    async def winds_up(self) -> None:
        """Return when it has said that it waits for its calls in flight."""
        try:
            async with asyncio.timeout(HANG):
                await until(lambda: "interrupt again" in self.said)
        except TimeoutError:
            pytest.fail(f"it does not wind up: {self.said}")

    async def ended(self) -> int:
        """Its exit code; a process that hangs is an error here, and no matter of patience."""
        async with asyncio.timeout(HANG):
            code = await self.kids.ended()
        assert not [wrong for wrong in NOTHING_WRONG if wrong in self.said], self.said
        return code

    async def resumed(self) -> dict[str, Any]:
        """The result after it went on and ended by itself."""
        self.api.answer()
        await self.start("resume", str(self.place))
        assert await self.ended() == 0, self.said
        return dict(loads((self.place / "result.json").read_bytes()))


@asynccontextmanager
async def a_run(folder: Path) -> AsyncIterator[Run]:
    answers = AnswerModel(3, known_items(None))
    api = Watched(SimulatedAPI(seed=3, latency=Constant(0.002), answers=answers))
    async with nursery() as kids, serving(api, 0) as url:
        yield Run(kids, api, url, folder)


def on_a_run(folder: Path, test: Callable[[Run], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with a_run(folder) as run:
            await test(run)

    asyncio.run(main())


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_first_signal_lets_calls_in_flight_end_and_keeps_them(number: int, code: int, tmp_path: Path) -> None:
    async def test(run: Run) -> None:
        run.api.free = 100
        process = await run.start()
        await run.reaches(100 + AT_ONCE)
        os.kill(process, number)
        await run.winds_up()
        assert f"waiting up to 30 s for {AT_ONCE} calls in flight; interrupt again to stop now" in run.said
        run.api.answer()
        assert await run.ended() == code
        assert f"asyncopt: stopped; go on with: asyncopt resume {run.place}" in run.said
        assert len(run.api.asked) == 100 + AT_ONCE == run.api.answered  # nothing more was admitted
        assert (await run.resumed())["steps"] == 2
        assert len(set(run.api.asked)) == len(run.api.asked)  # and nothing is paid twice

    on_a_run(tmp_path, test)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_second_signal_cancels_them_and_keeps_what_was_answered(number: int, code: int, tmp_path: Path) -> None:
    async def test(run: Run) -> None:
        run.api.free = 100
        process = await run.start()
        await run.reaches(100 + AT_ONCE)
        os.kill(process, number)
        await run.winds_up()
        os.kill(process, signal.SIGINT)
        assert await run.ended() == code  # the first one's
        in_flight = run.api.asked[100:]
        assert (await run.resumed())["steps"] == 2
        twice = [body for body in set(run.api.asked) if run.api.asked.count(body) > 1]
        assert set(twice) == set(in_flight)

    on_a_run(tmp_path, test)


STUBBORN = """
import asyncio, time
from asyncopt.cli.signals import run_in_loop
async def stubborn():
    print("ready", flush=True)
    while True:
        try:
            {wait}
        except asyncio.CancelledError:
            pass
run_in_loop(stubborn)
"""


@pytest.mark.parametrize("wait", ["await asyncio.sleep(3600)", "time.sleep(3600)"], ids=["stubborn", "stuck"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_third_signal_ends_even_what_cannot_be_cancelled(number: int, wait: str, tmp_path: Path) -> None:
    async def main() -> None:
        program = (sys.executable, "-c", STUBBORN.format(wait=wait))
        async with child([], environment(tmp_path), python=program) as process:
            await process.line()
            while process.running:
                process.send(number)
                await asyncio.sleep(0.02)  # else the kernel makes one signal of three
            ended = await process.ended()
        assert (ended.code, ended.errors) == (-number, "")

    asyncio.run(main())


AT_IMPORT = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
sys.argv = ["asyncopt", "run", "antonym", "--scorer", "m", "--base-url", "http://127.0.0.1:9/v1", "--directory", {place!r}]
from asyncopt.cli import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "asyncopt.cli.app", "asyncopt.cli.settings", "asyncopt.cli.run", "uvloop"])
def test_an_interrupt_while_it_starts_is_no_traceback(module: str, tmp_path: Path) -> None:
    async def main() -> None:
        program = AT_IMPORT.format(module=module, number=int(signal.SIGINT), place=str(tmp_path / "run"))
        async with child([], environment(tmp_path), python=(sys.executable, "-c", program)) as process:
            ended = await process.ended()
        assert ended.code == 130
        assert ended.errors in ("", "asyncopt: interrupted\n", "asyncopt: stopped; nothing was begun; start it again\n")

    asyncio.run(main())


# Where nothing is left once the calls in flight are answered, whether it ends by itself or by the signal is a matter of
# microseconds: either is right, as long as the result stands or is there without another call.
@pytest.mark.parametrize(("left", "codes"), [(AT_ONCE, {143}), (0, {143, 0})], ids=["half", "last"])
def test_a_signal_in_the_final_evaluation_leaves_it_to_be_finished(left: int, codes: set[int], tmp_path: Path) -> None:
    async def test(run: Run) -> None:
        await run.start()
        assert await run.ended() == 0
        whole, asked = loads((run.place / "result.json").read_bytes()), len(run.api.asked)
        other = Run(run.kids, run.api, run.url, tmp_path / "other")
        other.folder.mkdir()
        run.api.asked.clear()
        run.api.free = asked - left - AT_ONCE
        process = await other.start()
        await run.reaches(asked - left)
        os.kill(process, signal.SIGTERM)
        await other.winds_up()
        run.api.answer()
        assert await other.ended() in codes
        assert len(run.api.asked) == asked - left
        result = await other.resumed()
        assert (result["best"], result["initial"]) == (whole["best"], whole["initial"])
        assert len(run.api.asked) == asked

    on_a_run(tmp_path, test)


@pytest.mark.parametrize("seed", range(4))
def test_signals_at_random_moments_lose_nothing(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)

    async def test(run: Run) -> None:
        order: tuple[str, ...] = ()
        for _ in range(6):
            process = await run.start(*order)
            wanted = run.api.until_asked(len(run.api.asked) + chance.randint(1, 40))
            moment, ending = asyncio.ensure_future(wanted), asyncio.ensure_future(run.ended())
            await asyncio.wait([moment, ending], return_when=asyncio.FIRST_COMPLETED)
            moment.cancel()
            number, code = chance.choice(SIGNALS)
            if not ending.done():
                os.kill(process, number)
            assert await ending in (code, 0)
            order = ("resume", str(run.place))
        assert (await run.resumed())["steps"] == 2
        assert len(set(run.api.asked)) == len(run.api.asked)

    on_a_run(tmp_path, test)


# -- the other commands ------------------------------------------------------------------------------------------------


def other_commands(run: Run) -> dict[str, list[str]]:
    models, other = run.models(), str(run.folder / "other")
    sweep = run.folder / "mine.toml"
    sweep.write_text('tasks = ["antonym"]\n[base.optimizer]\nsteps = 1\n')
    return {
        "eval": ["eval", "antonym", "Say the opposite.", *models],
        "sweep": ["sweep", str(sweep), *models, "--directory", other],
        "replay": ["replay", str(run.place), "--directory", other],
        "probe": ["models", "probe", "mock", "--base-url", run.url],
    }


@pytest.mark.parametrize("name", ["eval", "sweep", "replay", "probe"])
@pytest.mark.parametrize(("number", "code"), SIGNALS[:2])
def test_every_command_that_calls_a_model_ends_the_same_way(name: str, number: int, code: int, tmp_path: Path) -> None:
    async def test(run: Run) -> None:
        if name == "replay":
            await run.start()
            assert await run.ended() == 0
        run.api.free = len(run.api.asked)
        arguments = other_commands(run)[name]
        variables = environment(tmp_path / "fresh")  # a replay, too, asks a model whose answers it does not find
        process = await run.kids.start(arguments, variables, run.folder / "errors")
        await run.reaches(len(run.api.asked) + 1)
        os.kill(process, number)
        if name != "probe":  # which has nothing to keep, and is cancelled at once
            await run.winds_up()
        run.api.answer()
        assert await run.ended() == code

    on_a_run(tmp_path, test)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_in_peace(number: int, tmp_path: Path) -> None:
    async def main() -> None:
        async with child(["simulate"], environment(tmp_path)) as process:
            await process.line()
            process.send(number)
            ended = await process.ended()
        assert (ended.code, ended.errors) == (0, "")

    asyncio.run(main())


def test_a_download_ends_with_the_code_of_its_signal(tmp_path: Path) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()

        async with connecting(silent) as url:
            fetch = ["data", "get", "gsm8k", "--data", str(tmp_path / "data"), "--mirror", url]
            async with child(fetch, environment(tmp_path)) as process:
                await asked.wait()
                process.send(signal.SIGTERM)
                ended = await process.ended()
        assert ended.code == 143
        assert "Traceback" not in ended.errors

    asyncio.run(main())


def test_what_was_to_be_ignored_is(tmp_path: Path) -> None:
    async def main() -> None:
        answers = AnswerModel(3, known_items(None))
        api = Watched(SimulatedAPI(seed=3, latency=Constant(0.002), answers=answers))
        async with serving(api, 0) as url:
            api.free = 20
            order = shlex.join([*ASYNCOPT, "eval", "antonym", "Say the opposite.", "--scorer", "m", "--base-url", url])
            deaf = ("sh", "-c", f"trap '' HUP; exec {order}")  # as nohup does
            async with child([], environment(tmp_path), python=deaf) as process:
                await api.until_asked(21)
                process.send(signal.SIGHUP)
                api.answer()
                assert (await process.ended()).code == 0

    asyncio.run(main())


# -- closed pipes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_leaves_stops_a_run_that_can_go_on(stream: str, tmp_path: Path) -> None:
    async def test(run: Run) -> None:
        run.api.free = 60
        order = ["run", "antonym", *run.models(), "--steps", "2", "--directory", str(run.place)]
        order += ["--json"] if stream == "stdout" else []
        async with child(order, environment(tmp_path)) as process:
            await run.reaches(61)
            process.close(stream)
            run.api.answer()
            ended = await process.ended()
        assert ended.code == 141
        assert not [wrong for wrong in NOTHING_WRONG if wrong in ended.errors + ended.output]
        assert (await run.resumed())["steps"] == 2
        assert len(set(run.api.asked)) == len(run.api.asked)

    on_a_run(tmp_path, test)


def test_a_list_whose_reader_has_left_ends_with_the_code_of_a_closed_pipe(tmp_path: Path) -> None:
    async def main() -> None:
        async with child(["tasks", "ls"], environment(tmp_path)) as process:
            process.close("stdout")  # long before the first line
            ended = await process.ended()
        assert (ended.code, ended.errors) == (141, "")

    asyncio.run(main())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
@pytest.mark.row("S01")
def test_an_output_on_a_full_disk_stops_a_run_that_can_go_on(tmp_path: Path) -> None:
    async def test(run: Run) -> None:
        order = ["run", "antonym", *run.models(), "--steps", "2", "--json", "--directory", str(run.place)]
        full = ("sh", "-c", f"exec {shlex.join([*ASYNCOPT, *order])} > /dev/full")
        async with child([], environment(tmp_path), python=full) as process:
            ended = await process.ended()
        assert ended.code == 3
        assert f"go on with: asyncopt resume {run.place}" in ended.errors
        assert ended.errors.endswith("asyncopt: the output cannot be written (No space left on device); make room\n")
        assert not [wrong for wrong in NOTHING_WRONG if wrong in ended.errors]
        assert (await run.resumed())["steps"] == 2
        assert len(set(run.api.asked)) == len(run.api.asked)

    on_a_run(tmp_path, test)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
@pytest.mark.row("S01")
def test_a_list_that_a_full_disk_does_not_take_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        full = ("sh", "-c", f"exec {shlex.join([*ASYNCOPT, 'tasks', 'ls'])} > /dev/full")
        async with child([], environment(tmp_path), python=full) as process:
            ended = await process.ended()
        assert ended.code == 3
        assert ended.errors == "asyncopt: the output cannot be written (No space left on device); make room\n"

    asyncio.run(main())


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_an_output_that_never_was_open_is_no_complaint(closed: str, tmp_path: Path) -> None:
    async def main() -> None:
        order = f"exec {shlex.join([*ASYNCOPT, 'tasks', 'ls'])} {closed}"
        async with child([], environment(tmp_path), python=("sh", "-c", order)) as process:
            ended = await process.ended()
        assert (ended.code, ended.errors) == (0, "")

    asyncio.run(main())
