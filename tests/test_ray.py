"""A sweep on a Ray cluster of this machine: the results of one process, whatever dies; and examples scored in shards."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from crewed import FILE, findings
from redis_servers import RedisServer, needs_redis
from swept import Commands, Done, serving

from asyncopt import Engine, Example, Task, evaluate
from asyncopt.cli.workers.actor import Seat
from asyncopt.cluster import Cluster, Scorers, ray_cluster
from asyncopt.ctl import ask
from asyncopt.errors import ConfigError, EndpointRefused
from asyncopt.testing import AnswerModel, Constant, SimulatedAPI
from asyncopt.testing.process import known_items

KNOWN = known_items(None)
KEY, VARIABLE = "sk-0123456789abcdefghijklmnop", "KEY_OF_THE_NODE"


def _has_ray() -> bool:
    from importlib.util import find_spec

    return find_spec("ray") is not None


def with_ray(test: Callable[..., None]) -> Callable[..., None]:
    missing = pytest.mark.skipif(
        not _has_ray(), reason="NO RAY: the extra ray is not installed, nothing of it is tested"
    )
    # Ray leaves files and sockets of its own open, and warns of its own deprecations.
    noise = pytest.mark.filterwarnings("ignore")
    return pytest.mark.ray(pytest.mark.real(noise(missing(test))))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two processors of this machine, which know the key; whatever joins a cluster in this process gets this one."""
    os.environ[VARIABLE] = KEY
    try:
        with ray_cluster("local", 2) as found:
            yield found
    finally:
        del os.environ[VARIABLE]


@pytest.fixture
def asyncopt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    (tmp_path / "two.toml").write_text(FILE)
    return Commands(monkeypatch, capsys, tmp_path)


def simulated(**options: Any) -> SimulatedAPI:
    return SimulatedAPI(**{"latency": Constant(0.0), "answers": AnswerModel(0, KNOWN), **options})


def swept(asyncopt: Commands, url: str, directory: str, *more: str) -> Done:
    models = ("--scorer", "mock", "--base-url", url, "--set", f"models.scorer.api_key_env={VARIABLE}")
    cache = ("--set", f'cache="{directory}.sqlite"')
    return asyncopt("sweep", "two.toml", *models, *cache, "--directory", directory, *more)


def asked_of(api: SimulatedAPI) -> list[str]:
    """What was scored; proposals of two studies may have the same prompt, and are different draws."""
    return [entry.prompt for entry in api.ledger.entries if "square brackets" not in entry.prompt]


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[bytes, bytes]]:
    """What one process finds."""
    folder = tmp_path_factory.mktemp("by-one")
    with pytest.MonkeyPatch.context() as patch, serving(simulated()) as url:
        (folder / "two.toml").write_text(FILE)
        patch.setenv(VARIABLE, KEY)
        commands = Commands(patch, _Nothing(), folder)  # type: ignore[arg-type]
        assert swept(commands, url, "one").code == 0
        yield findings(folder / "one")


class _Nothing:
    def readouterr(self) -> tuple[str, str]:
        return "", ""


# -- a whole sweep -----------------------------------------------------------------------------------------------------


@with_ray
def test_the_results_are_those_of_one_process(cluster: Cluster, asyncopt: Commands, by_one: Any) -> None:
    api = simulated(require_key=KEY, requests_per_second=200.0, request_burst=100.0)
    with serving(api) as url:
        stated = ("--set", "models.scorer.requests_per_minute=12000")
        done = swept(asyncopt, url, "kept", "--ray", "local", *stated, "--json")
    assert done.code == 0, done.err
    assert findings(Path("kept")) == by_one
    assert done.events("done")[0]["calls"] == len(api.ledger.entries)
    assert {entry.status for entry in api.ledger.entries} == {200}  # one key, which the workers had, and one quota
    assert len(set(asked_of(api))) == len(asked_of(api))  # and one cache
    assert done.err.splitlines() == ["asyncopt: joining Ray (local)"]
    assert not _with(KEY, Path("kept")) | _with(KEY, _session())


def _session() -> Path:
    """The folder in which Ray keeps its logs."""
    import ray

    return Path(ray._private.worker._global_node.get_session_dir_path())


def _with(text: str, folder: Path) -> set[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return {str(path) for path in files if text.encode() in path.read_bytes()}


@with_ray
def test_a_killed_actor_is_replaced_and_its_studies_are_taken_over(
    cluster: Cluster, asyncopt: Commands, by_one: Any
) -> None:
    api = simulated(latency=Constant(0.05))

    def kill() -> None:
        wait(lambda: len(api.ledger.entries) > 200)
        pids = asyncio.run(ask(Path("kept"), {"do": "status"}))["pids"]
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGKILL)

    with serving(api) as url, beside(kill):
        done = swept(asyncopt, url, "kept", "--ray", "local", "--set", "models.scorer.concurrency=8")
    assert done.code == 0, done.err
    assert "was killed (SIGKILL)" in done.err
    assert "are taken over" in done.err
    assert findings(Path("kept")) == by_one
    # Only what was in flight of the one that died, or not on the disk yet, is asked again.
    assert len(asked_of(api)) - len(set(asked_of(api))) <= 64


@with_ray
def test_an_interrupt_drains_the_actors_and_the_sweep_goes_on_later(
    cluster: Cluster, asyncopt: Commands, by_one: Any
) -> None:
    api = simulated(latency=Constant(0.05))

    def interrupt() -> None:
        wait(lambda: len(api.ledger.entries) > 200)
        if len(api.ledger.entries) > 200:
            os.kill(os.getpid(), signal.SIGINT)

    with serving(api) as url:
        with beside(interrupt):
            done = swept(asyncopt, url, "kept", "--ray", "local", "--workers", "2")
        assert done.code == 130, done.err
        assert "asyncopt resume kept" in done.err
        assert all(entry.finished is not None for entry in api.ledger.entries)
        assert asyncopt("resume", "kept", "--ray", "local").code == 0
    assert findings(Path("kept")) == by_one
    assert len(set(asked_of(api))) == len(asked_of(api))


@with_ray
def test_a_second_interrupt_waits_for_nothing(cluster: Cluster, asyncopt: Commands) -> None:
    api = simulated(latency=Constant(600.0))

    def interrupt() -> None:
        wait(lambda: len(api.ledger.entries) >= 8)
        for _ in range(2 if api.ledger.entries else 0):
            time.sleep(2.5)  # until the workers have told of them
            os.kill(os.getpid(), signal.SIGINT)

    with serving(api) as url, beside(interrupt):
        done = swept(asyncopt, url, "kept", "--ray", "local", "--set", "models.scorer.concurrency=16")
    assert done.code == 130, done.err
    assert "interrupt again to stop now" in done.err
    assert len(api.ledger.entries) <= 16


@needs_redis
@with_ray
def test_workers_on_any_machine_share_by_redis(cluster: Cluster, asyncopt: Commands, by_one: Any) -> None:
    api, redis = simulated(), RedisServer()
    redis.start()
    try:
        with serving(api) as url:
            shared = ("--shared", redis.url, "--set", f'cache="{redis.url}"')
            done = swept(asyncopt, url, "kept", "--ray", "auto", *shared)
    finally:
        redis.stop()
    assert done.code == 0, done.err
    assert findings(Path("kept")) == by_one
    assert len(set(asked_of(api))) == len(asked_of(api))


@with_ray
def test_more_workers_than_processors_are_refused(cluster: Cluster, asyncopt: Commands) -> None:
    with serving(simulated()) as url:
        done = swept(asyncopt, url, "kept", "--ray", "local", "--workers", "8")
    assert (done.code, "2 processors of the cluster are free" in done.err) == (2, True), done.err


@contextmanager
def beside(act: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60.0  # a command that has failed meets no condition
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)


# -- what cannot be, without any cluster ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "give --shared redis://HOST:6379/0"),
        (("--shared", "unix:/tmp/here"), "give --shared redis://HOST:6379/0"),
        (("--shared", "redis://127.0.0.1:1/0"), 'give --set cache="redis://HOST:6379/0", or --no-cache'),
    ],
)
def test_on_other_machines_everything_is_shared_by_redis(asyncopt: Commands, more: tuple[str, ...], said: str) -> None:
    done = swept(asyncopt, "http://127.0.0.1:1/v1", "kept", "--ray", "10.0.0.1:6379", *more)
    assert (done.code, said in done.err) == (2, True), done.err
    assert not Path("kept").exists()


def test_the_embedded_model_is_of_one_machine(asyncopt: Commands) -> None:
    done = asyncopt("sweep", "two.toml", "--scorer", "local", "--ray", "10.0.0.1:6379", "--directory", "kept")
    assert (done.code, "cannot reach the embedded model of this machine" in done.err) == (2, True), done.err


def test_a_single_run_is_not_for_a_cluster(asyncopt: Commands) -> None:
    with serving(simulated()) as url:
        run = ("run", "antonym", "--limit", "4", "--steps", "1", "--scorer", "mock", "--base-url", url)
        assert asyncopt(*run, "--directory", "one").code == 0
    done = asyncopt("resume", "one", "--ray", "local")
    assert (done.code, "--ray is for a sweep" in done.err) == (2, True)


def test_a_node_must_see_the_files_and_have_the_same_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "sweep"
    there.mkdir()
    (there / "sweep.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    seat = Seat.of(there)
    monkeypatch.chdir("/")
    seat.take(there)
    assert Path.cwd() == tmp_path
    with pytest.raises(ConfigError, match="all nodes need 0.0"):
        Seat(seat.folder, seat.manifest, "0.0").take(there)
    with pytest.raises(ConfigError, match=r"does not see .*No such file"):
        Seat(f"{tmp_path}/elsewhere", seat.manifest, seat.version).take(there)
    (there / "sweep.json").write_text('{"another": 1}')
    with pytest.raises(ConfigError, match="does not see the sweep's directory"):
        seat.take(there)


# -- shards of examples ------------------------------------------------------------------------------------------------


EXAMPLES = [Example(number, f"What is {number} plus 1?", str(number + 1)) for number in range(100)]
TASK = Task("sums", "number", train=tuple(EXAMPLES), test=())


def opener(url: str, key: str | None = None, folder: Path | None = None) -> Callable[[], Any]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        if folder is not None:
            (folder / f"{os.getpid()}.pid").touch()
        async with Engine(cache=None if folder is None else folder / "answers.sqlite") as engine:
            yield engine.model("mock", base_url=url, api_key=key)

    return opened


@with_ray
def test_an_instruction_scored_in_shards_has_the_evaluation_of_one_process(cluster: Cluster) -> None:
    async def compare(url: str) -> None:
        async with opener(url)() as model:
            alone = await evaluate(model, TASK, "Add.", EXAMPLES)
        async with Scorers(cluster, opener(url), 2) as scorers:
            assert await scorers.evaluate(TASK, "Add.", EXAMPLES) == alone

    with serving(simulated()) as url:
        asyncio.run(compare(url))


@with_ray
def test_what_ends_a_shard_is_raised_as_it_is(cluster: Cluster) -> None:
    async def refused(url: str) -> None:
        async with Scorers(cluster, opener(url, "wrong"), 2) as scorers:
            await scorers.evaluate(TASK, "Add.", EXAMPLES)

    with serving(simulated(require_key="right")) as url, pytest.raises(EndpointRefused):
        asyncio.run(refused(url))


@with_ray
def test_the_shard_of_a_killed_actor_is_scored_by_another(cluster: Cluster, tmp_path: Path) -> None:
    api = simulated(latency=Constant(0.1))

    async def score(url: str) -> None:
        async with Scorers(cluster, opener(url, folder=tmp_path), 2) as scorers:
            found = await scorers.evaluate(TASK, "Add.", EXAMPLES)
        assert [item.example for item in found.items] == [example.id for example in EXAMPLES]
        assert found.complete

    def kill() -> None:
        wait(lambda: len(api.ledger.entries) > 20)
        os.kill(int(next(tmp_path.glob("*.pid")).stem), signal.SIGKILL)

    with serving(api) as url, beside(kill):
        asyncio.run(score(url))
    assert len(list(tmp_path.glob("*.pid"))) == 3
