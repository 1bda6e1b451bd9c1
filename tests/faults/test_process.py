"""The process and its loop: blocking calls, a killed model server, forks and second loops, cancelling, Python's strict modes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from blockbuster import BlockingError, blockbuster_ctx
from children import Watched, child, environment

from asyncopt import OPRO, AsyncoptError, Engine, Generate, Quota, Sampling, Study
from asyncopt.errors import EndpointDown
from asyncopt.local.lasting import MOST_STARTS, LastingEndpoint, LastingServer
from asyncopt.result import Result
from asyncopt.tasks import load
from asyncopt.tasks.task import Task
from asyncopt.testing import SimulatedAPI
from asyncopt.testing.answers import AnswerModel
from asyncopt.testing.latency import Constant
from asyncopt.testing.process import known_items
from asyncopt.testing.server import serving

pytestmark = pytest.mark.real

WORDS = load("antonym")
assert isinstance(WORDS, Task)
TASK = replace(WORDS, train=WORDS.train[:8], test=WORDS.test[:8])


@asynccontextmanager
async def an_api(latency: float = 0.002) -> AsyncIterator[tuple[Watched, str]]:
    api = Watched(SimulatedAPI(seed=5, latency=Constant(latency), answers=AnswerModel(5, known_items(None))))
    async with serving(api, 0) as url:
        yield api, url


def study_of(engine: Engine, url: str, place: Path) -> Study:
    model = engine.model("mock", base_url=url, quota=Quota(concurrency=8))
    optimizer = OPRO(steps=2, samples_per_step=4)
    return Study(task=TASK, optimizer=optimizer, scorer=model, proposer=model, directory=place, trace=True)


async def studied(url: str, folder: Path) -> Result:
    async with Engine(cache=folder / "answers.sqlite") as engine:
        return await study_of(engine, url, folder / "run").run()


# -- blocking calls ----------------------------------------------------------------------------------------------------

# What may hold the loop up, and why: a few lines into the page cache, the disk once a step, and files at start and end.
MAY_BLOCK = {
    "asyncopt/chronicle.py": ("open", "finish", "finish_step", "finish_validation", "trace", "close", "_append"),
    "asyncopt/study.py": ("_open_directory",),
    "asyncopt/templates.py": ("packaged",),
    "asyncopt/cache/sqlite.py": ("aclose", "_join"),
    "asyncopt/limits/descriptors.py": ("most_sockets",),
}


@pytest.mark.row("L03")
def test_nothing_of_ours_blocks_the_loop_but_what_is_listed(tmp_path: Path) -> None:
    async def main() -> None:
        async with an_api() as (_, url):
            with blockbuster_ctx("asyncopt") as guard:
                for function in guard.functions.values():
                    for file, names in MAY_BLOCK.items():
                        function.can_block_in(file, names)
                await studied(url, tmp_path)

    asyncio.run(main())


@pytest.mark.row("L03")
def test_a_blocking_call_would_be_found(tmp_path: Path) -> None:
    async def main() -> None:
        async with an_api() as (_, url):
            with blockbuster_ctx("asyncopt"):
                await studied(url, tmp_path)  # the journal, for one, where nothing is listed

    with pytest.raises(BlockingError):
        asyncio.run(main())


# -- the embedded model's server ---------------------------------------------------------------------------------------

FAKE = """#!{python}
import http.server, json, os, sys, threading
settings = json.loads(sys.stdin.readline())
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.reply({{}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if os.path.exists({doom!r}):
            os._exit(9)
        text = body["messages"][-1]["content"].upper()
        self.reply({{"choices": [{{"message": {{"content": text}}, "finish_reason": "stop"}}]}})
    def reply(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(json.dumps({{"address": f"http://127.0.0.1:{{server.server_port}}"}}), flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def a_fake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LastingServer]:
    """A model server whose process is a program of ours; it dies of every request while the file ``doom`` is there."""
    pytest.importorskip("xllamacpp")
    weights, program = folder / "fake.gguf", folder / "python"
    weights.write_bytes(b"GGUF")
    program.write_text(FAKE.format(python=sys.executable, doom=str(folder / "doom")))
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(folder / "cache"))
    async with LastingServer(str(weights)) as server:
        yield server


@pytest.mark.row("L08")
def test_a_model_server_that_is_killed_is_started_again_and_no_answer_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncopt.cli.models import local_endpoint

    async def main() -> None:
        async with a_fake(tmp_path, monkeypatch) as server, Engine() as engine:
            model = engine.model("local", endpoint=LastingEndpoint(server, local_endpoint), quota=Quota(concurrency=4))
            first = server.pid
            futures = [model.submit(Generate.of(f"word {n}", Sampling(max_tokens=8))) for n in range(60)]
            await asyncio.gather(*futures[:10])
            os.kill(first, signal.SIGKILL)
            assert [one.text for one in await asyncio.gather(*futures)] == [f"WORD {n}" for n in range(60)]
            assert server.pid != first

    asyncio.run(main())


@pytest.mark.row("L08")
def test_a_model_server_that_always_dies_ends_the_run_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncopt.cli.models import local_endpoint

    async def main() -> None:
        async with a_fake(tmp_path, monkeypatch) as server, Engine() as engine:
            model = engine.model("local", endpoint=LastingEndpoint(server, local_endpoint), quota=Quota(concurrency=4))
            (tmp_path / "doom").touch()
            with pytest.raises(EndpointDown, match=f"died {MOST_STARTS} times"):
                await model.generate("word")

    asyncio.run(main())


# -- forks, loops, engines used again ----------------------------------------------------------------------------------


@pytest.mark.row("L09")
def test_an_engine_belongs_to_one_loop_and_is_entered_once(tmp_path: Path) -> None:
    engine = Engine()

    async def first(url: str) -> None:
        async with engine:
            model = engine.model("mock", base_url=url)
            assert (await model.generate("Say hello.")).text
            with pytest.raises(AsyncoptError, match="entered once"):
                await engine.__aenter__()
            error = await asyncio.to_thread(asyncio.run, elsewhere(url))
            assert "belongs to another event loop" in error

    async def elsewhere(url: str) -> str:
        with pytest.raises(AsyncoptError) as found:
            engine.model("mock", base_url=url)
        return str(found.value)

    async def main() -> None:
        async with an_api() as (_, url):
            await first(url)
            with pytest.raises(AsyncoptError, match="not open"):
                engine.model("mock", base_url=url)

    asyncio.run(main())
    with pytest.raises(AsyncoptError, match="entered once"):
        asyncio.run(engine.__aenter__())


FORKED = """
import asyncio, os, sys
from asyncopt import AsyncoptError, Engine
async def again(engine):
    try:
        engine.model("mock", base_url=sys.argv[1])
    except AsyncoptError as error:
        print(error, flush=True)
async def main():
    async with Engine() as engine:
        await engine.model("mock", base_url=sys.argv[1]).generate("Say hello.")
        if os.fork() == 0:
            asyncio._set_running_loop(None)
            asyncio.new_event_loop().run_until_complete(again(engine))
            os._exit(0)
        os.wait()
        print((await engine.model("mock", base_url=sys.argv[1]).generate("Say it again.")).text)
asyncio.run(main())
"""


@pytest.mark.row("L09")
def test_a_fork_cannot_use_the_engine_of_its_parent_which_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with an_api() as (_, url):
            async with child([], environment(tmp_path), python=(sys.executable, "-c", FORKED, url)) as process:
                ended = await process.ended()
        assert ended.code == 0, ended.errors
        assert "belongs to another event loop" in ended.output.splitlines()[0]
        assert len(ended.output.splitlines()) == 2

    asyncio.run(main())


# -- cancelling the task ------------------------------------------------------------------------------------------------


def descriptors() -> set[str]:
    """What this process has open, without what only this listing opens."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return {name for name in found if "/proc/" not in name}


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Fail if the block leaves a task, a thread or a descriptor behind."""
    tasks, threads, before = asyncio.all_tasks(), set(threading.enumerate()), descriptors()
    yield
    await asyncio.sleep(0)  # a transport that was closed lets its socket go in the next turn
    assert asyncio.all_tasks() == tasks
    assert [one for one in set(threading.enumerate()) - threads if one.name.startswith("asyncopt")] == []
    left = [name for name in descriptors() - before if "socket" not in name]
    assert left == []


async def cancelled_plainly(url: str, folder: Path, api: Watched, number: int) -> None:
    task = asyncio.ensure_future(studied(url, folder))
    await api.until_asked(number)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancelled_twice(url: str, folder: Path, api: Watched, number: int) -> None:
    task = asyncio.ensure_future(studied(url, folder))
    await api.until_asked(number)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def timed_out(url: str, folder: Path, api: Watched, number: int) -> None:
    async def within() -> None:
        async with asyncio.timeout(None) as limit:

            async def expire() -> None:
                await api.until_asked(number)
                limit.reschedule(0)

            async with asyncio.TaskGroup() as group:
                group.create_task(expire())
                await studied(url, folder)

    with pytest.raises(TimeoutError):
        await within()


async def in_a_group(url: str, folder: Path, api: Watched, number: int) -> None:
    async def fail() -> None:
        await api.until_asked(number)
        raise ZeroDivisionError

    async def within() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(studied(url, folder))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await within()


WAYS = [cancelled_plainly, cancelled_twice, timed_out, in_a_group]


@pytest.mark.row("L06")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
def test_a_cancelled_study_leaves_nothing_and_goes_on(way: Callable[..., object], tmp_path: Path) -> None:
    async def main() -> None:
        chance = random.Random(way.__name__)
        async with an_api() as (api, url):
            whole = await studied(url, tmp_path / "whole")
            once = set(api.asked)
            for attempt in range(4):
                api.asked.clear()
                folder = tmp_path / str(attempt)
                number = chance.randint(1, len(once) - 8)
                async with nothing_left():
                    await way(url, folder, api, number)  # type: ignore[misc]
                result = await studied(url, folder)
                assert (result.best, result.initial) == (whole.best, whole.initial)
                assert set(api.asked) == once
                if way is not cancelled_twice:  # which cuts the grace of the calls in flight short
                    assert len(api.asked) == len(once)

    asyncio.run(main())


@pytest.mark.row("L06")
def test_a_server_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with an_api() as (api, url):
            api.free = 20
            async with nothing_left():
                task = asyncio.ensure_future(quickly(url, tmp_path))
                await api.until_asked(28)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert api.answered == 20  # the other eight never are

    async def quickly(url: str, folder: Path) -> None:
        async with Engine(cache=folder / "answers.sqlite", grace=0.1) as engine:
            await study_of(engine, url, folder / "run").run()

    asyncio.run(main())


# -- Python's strictest modes --------------------------------------------------------------------------------------------

STRICT = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import test_process
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    folder = Path(sys.argv[3])
    async with test_process.an_api() as (api, url):
        await test_process.studied(url, folder / "whole")
        for way in test_process.WAYS:
            api.asked.clear()
            await way(url, folder / way.__name__, api, 30)
            await test_process.studied(url, folder / way.__name__)
asyncio.run(main(), debug=True)
"""


@pytest.mark.row("L10")
def test_a_study_finished_and_cancelled_makes_no_warning_in_pythons_strictest_mode(tmp_path: Path) -> None:
    async def main() -> None:
        here = Path(__file__).parent
        python = (sys.executable, "-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning:forbiddenfruit")
        variables = environment(tmp_path, PYTHONASYNCIODEBUG="1")
        order = ["-c", STRICT, str(here), str(here.parent), str(tmp_path)]
        async with child(order, variables, python=python) as process:
            ended = await process.ended()
        assert (ended.code, ended.errors) == (0, "")

    asyncio.run(main())
