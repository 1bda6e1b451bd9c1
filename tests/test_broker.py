"""One quota for the processes of a machine: the broker's protocol, who serves, and who takes over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from broker_children import BURST, children, until, worst_excess
from fakes import run_virtual

from asyncopt import Engine
from asyncopt.errors import ConfigError
from asyncopt.shared import SharingFailed
from asyncopt.shared.at import absolute_address, checked_address, coordinator_at
from asyncopt.shared.broker import VERSION, Broker, Peer, Replaced
from asyncopt.shared.coordinator import DEAD_SECONDS
from asyncopt.shared.gcra import FRESH_SECONDS
from asyncopt.shared.place import LONGEST_PATH, Place
from asyncopt.shared.socket import SocketCoordinator
from asyncopt.testing import Constant, SimulatedAPI
from asyncopt.values import Dimension

pytestmark = pytest.mark.anyio
REQUESTS: Dimension = "requests"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "q" / "socket"


# -- addresses and places ----------------------------------------------------------------------------------------------


def test_addresses_are_of_a_socket_or_of_redis() -> None:
    assert checked_address("redis://host:6379/0") == "redis://host:6379/0"
    assert checked_address("unix:///run/q") == "unix:///run/q"
    assert absolute_address("unix:q") == f"unix:{os.getcwd()}/q"
    assert absolute_address("unix:///run/q") == "unix:/run/q"
    assert absolute_address("redis://host") == "redis://host"
    assert "/run/q" in repr(coordinator_at("unix:/run/q"))
    for wrong in ("", "unix", "unix:", "unix:/", "/run/q", "http://host", "redis:host"):
        with pytest.raises(ConfigError, match="wanted unix:/PATH"):
            checked_address(wrong)


def test_a_password_stays_in_the_environment() -> None:
    with pytest.raises(ConfigError, match="passwords stay in the environment") as caught:
        checked_address("redis://:hunter2hunter2@host")
    assert "hunter2" not in str(caught.value)


def test_a_path_that_is_too_long_is_the_same_short_one_for_all_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * LONGEST_PATH)
    found = Place(long).path
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert Place(long).path == found != Place(tmp_path / ("y" * LONGEST_PATH)).path
    assert len(os.fsencode(found)) <= LONGEST_PATH
    assert found.parent == Path("/tmp") / f"asyncopt-{os.getuid()}"  # noqa: S108
    (tmp_path / "link").symlink_to(tmp_path)
    assert Place(tmp_path / "link" / "q").path == Place(tmp_path / "q").path


def test_the_folder_is_made_for_the_user_alone(path: Path) -> None:
    Place(path).prepare()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_into_is_refused(path: Path, mode: int) -> None:
    path.parent.mkdir()
    path.parent.chmod(mode)
    with pytest.raises(OSError, match="others can write into the folder"):
        Place(path).prepare()


def test_what_is_no_socket_is_not_replaced(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("mine")
    with pytest.raises(OSError, match="is no socket"):
        Place(path).seen()
    with pytest.raises(OSError, match="is no socket"):
        Place(path).replace(None)
    assert path.read_text() == "mine"


def test_of_two_that_find_nobody_one_takes_the_place(path: Path) -> None:
    first, second = Place(path), Place(path)
    first.prepare()
    listening = first.replace(None)
    assert listening is not None
    with listening:
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert second.replace(None) is None  # it has changed since
        seen = second.seen()
        with first._lock:  # as while the other one replaces it
            assert second.replace(seen) is None
        other = second.replace(seen)  # what is there does not answer, this one says
        assert other is not None
        with other:
            first.leave(seen)
            assert path.exists()  # another one's
            second.leave(second.seen())
            assert not path.exists()
    assert [one.name for one in path.parent.iterdir()] == ["socket.lock"]


# -- the broker without its socket, on a virtual clock -------------------------------------------------------------------


def test_a_new_broker_counts_those_who_were_there_before_until_they_would_be_dead(path: Path) -> None:
    place = Place(path)
    place.prepare()

    async def main() -> list[int]:
        broker = Broker(place, workers=4)
        counted = []
        for _ in range(int(DEAD_SECONDS) + 1):
            counted.append(broker.ask("1", ["beat", []])[0])
            await asyncio.sleep(1.0)
        return counted

    assert run_virtual(main) == [4, 4, 1]


def test_a_broker_that_was_stopped_finds_another_one_in_its_place_before_it_answers(path: Path) -> None:
    place = Place(path)
    place.prepare()
    listening = place.replace(None)
    assert listening is not None

    async def main() -> None:
        broker = Broker(place)
        assert broker.ask("1", ["take", "q", REQUESTS, 1, 10, 2]) > 0
        await asyncio.sleep(0.15)
        other = Place(path).replace(place.seen())
        assert other is not None
        with other:
            await asyncio.sleep(FRESH_SECONDS)  # before the new one's first permit can be used
            with pytest.raises(Replaced):
                broker.ask("1", ["take", "q", REQUESTS, 1, 10, 2])
            assert broker.closed
            assert path.exists()

    with listening:
        run_virtual(main)


def test_a_worker_counts_from_its_first_word_until_its_connection_ends(path: Path) -> None:
    async def main() -> None:
        broker = Broker(Place(path))
        one, other = Peer(broker, 1), Peer(broker, 2)
        for peer in (one, other):
            broker.ask(peer.worker, ["hello", VERSION])
        assert broker.ask(one.worker, ["claim", ["0f"]]) == [True]
        assert broker.ask(other.worker, ["claim", ["0f"]]) == [False]
        assert broker.ask(other.worker, ["beat", []])[0] == 2
        broker.went(one)
        assert broker.ask(other.worker, ["claim", ["0f"]]) == [True]
        assert broker.ask(other.worker, ["beat", []])[0] == 1

    run_virtual(main)


# -- the protocol ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[SocketCoordinator]:
    coordinator = SocketCoordinator(path)
    try:
        await coordinator.beat([])
        assert coordinator.serves
        yield coordinator
    finally:
        await coordinator.aclose()


async def alone(coordinator: SocketCoordinator) -> None:
    """Return when the others have been seen to go."""
    while (await coordinator.beat([])).workers > 1:  # noqa: ASYNC110 - it happens elsewhere
        await asyncio.sleep(0.01)


async def exchanged(path: Path, lines: list[bytes]) -> list[object]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(b"".join(line + b"\n" for line in lines))
        return [json.loads(await reader.readline()) for _ in lines]
    finally:
        writer.close()


@pytest.mark.real
async def test_requests_are_answered_in_their_order_and_mistakes_harm_nobody(path: Path) -> None:
    async with served(path) as other:
        answers = await exchanged(
            path,
            [
                json.dumps(["hello", VERSION]).encode(),
                b'["take", "q", "requests", 5, 10, 2]',
                b'["take", "q", "requests", 5, 10, 2]',
                b'["beat", ["q"]]',
                b'["claim", ["00ff"]]',
                b"no JSON",
                b'["drop", "everything"]',
                b'["take"]',
                b'["hello", 999]',
                b'["claim", ["00ff", "01"]]',
            ],
        )
        hello, first, second, beat, claim, *wrong, again = answers
        assert hello is None
        assert first == pytest.approx(FRESH_SECONDS + 0.5)
        assert second == pytest.approx(FRESH_SECONDS + 1.0, abs=0.2)
        assert beat == [2, {}]
        assert (claim, again) == ([True], [True, True])
        assert all(isinstance(one, dict) and set(one) == {"error"} for one in wrong)
        assert "another version" in str(wrong[-1])
        await alone(other)  # the connection's end is the worker's
        assert await other.claim([bytes.fromhex("00ff")]) == [True]


@pytest.mark.real
async def test_a_line_without_end_ends_its_connection_and_no_other(path: Path) -> None:
    async with served(path) as other, asyncio.timeout(20):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x" * (3 << 20))
        with suppress(ConnectionError):
            await writer.drain()
            assert await reader.read() == b""
        writer.transport.abort()
        assert (await other.beat([])).workers == 1


@pytest.mark.real
async def test_coordinators_of_one_path_share_and_other_paths_do_not(path: Path) -> None:
    async with served(path) as first, served(path.with_name("other")) as stranger:
        second = SocketCoordinator(path)
        assert (await second.beat(["q"])).workers == (await first.beat(["q"])).workers == 2
        assert (await stranger.beat([])).workers == 1
        keys = [number.to_bytes(2, "big") for number in range(2500)]  # in several lines
        assert await second.claim(keys) == [True] * 2500
        assert await first.claim(keys[:2]) == [False, False]
        await second.release(keys[:1])
        assert await first.claim(keys[:2]) == [True, False]
        await first.pause("q", 30.0)
        assert 29 < (await second.beat(["q", "r"])).pauses["q"] <= 30
        assert await second.take("q", REQUESTS, 1, 10, 2) > 29
        before = await first.take("r", REQUESTS, 600, 10, 2)
        await second.give_back("r", REQUESTS, 600, 10)
        assert await first.take("r", REQUESTS, 1, 10, 2) < before - 50
        await second.aclose()
        await alone(first)
        assert await first.claim(keys[1:]) == [True] * 2499


# -- who serves --------------------------------------------------------------------------------------------------------


@pytest.mark.real
async def test_when_the_serving_one_leaves_another_takes_over_and_remembers(path: Path) -> None:
    first, second, third = (SocketCoordinator(path) for _ in range(3))
    for one in (first, second, third):
        await one.beat([])
    assert (await second.beat([])).workers == (await third.beat([])).workers == 3
    assert [one.serves for one in (first, second, third)] == [True, False, False]
    assert await third.claim([b"k"]) == [True]
    wait = await third.take("q", REQUESTS, 300, 1, 2)  # to be used in five minutes
    await first.aclose()
    assert (await second.beat([])).workers == 3  # the one that left is counted until it would be dead
    assert second.serves
    await third.beat([])  # and tells what it has
    assert await second.claim([b"k"]) == [False]
    assert await second.take("q", REQUESTS, 1, 1, 2) > wait - 5  # after what was promised
    await second.aclose()
    assert await third.claim([b"k"]) == [True]
    assert third.serves
    assert await third.take("q", REQUESTS, 1, 1, 2) > wait - 5
    await third.aclose()
    assert not path.exists()


@pytest.mark.real
async def test_who_is_there_and_says_nothing_is_replaced_in_time(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen(8)
        async with AsyncExitStack() as stack:
            both = [SocketCoordinator(path) for _ in range(2)]
            for one in both:
                stack.push_async_callback(one.aclose)
            beats = await asyncio.gather(*(one.beat([]) for one in both))  # within a second, or it would have raised
            assert sorted(one.serves for one in both) == [False, True]
            assert max(beat.workers for beat in beats) == 2


@pytest.mark.real
async def test_who_has_answered_once_and_says_no_more_is_replaced_in_time(path: Path) -> None:
    path.parent.mkdir(mode=0o700)

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not heard:
            heard.append(await reader.readline())
            writer.write(b"null\n")
        await reader.read()
        writer.close()

    heard: list[bytes] = []
    server = await asyncio.start_unix_server(answer_once, path)
    coordinator = SocketCoordinator(path)
    assert await coordinator.take("q", REQUESTS, 1, 10, 2) > 0  # within a second, or it would have raised
    assert coordinator.serves
    assert len(heard) == 1
    await coordinator.aclose()
    server.close()


@pytest.mark.real
async def test_what_a_crashed_run_has_left_is_in_nobodys_way(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    path.with_name("socket.lock").write_text("")
    path.with_name(f"socket.{os.getpid()}").write_text("half made")
    async with served(path):
        assert stat.S_ISSOCK(path.lstat().st_mode)


@pytest.mark.real
async def test_a_socket_that_was_removed_is_found_to_be(path: Path) -> None:
    async with served(path) as first:
        second = SocketCoordinator(path)
        await second.beat([])
        path.unlink()
        await asyncio.sleep(0.25)  # the broker looks every 0.2 s
        await first.beat([])
        await second.beat([])
        assert (await first.beat([])).workers == (await second.beat([])).workers == 2
        assert path.exists()
        await second.aclose()


@pytest.mark.real
async def test_where_nobody_can_serve_the_reason_is_said_in_time(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(SharingFailed, match="others can write into the folder"):
        await SocketCoordinator(path).beat([])
    with pytest.raises(ConfigError, match="others can write into the folder"):
        async with Engine(coordinator=SocketCoordinator(path)):
            pass


@pytest.mark.real
async def test_a_process_of_another_version_is_refused_and_not_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(path) as first:
        monkeypatch.setattr("asyncopt.shared.socket.VERSION", VERSION + 1)
        other = SocketCoordinator(path)
        with pytest.raises(SharingFailed, match="another version"):
            await other.beat([])
        await other.aclose()
        await first.beat([])
        assert first.serves


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.real
async def test_four_processes_keep_one_quota() -> None:
    api = SimulatedAPI(latency=Constant(0.02))
    async with children(4, 60, api) as started:
        assert [await one.ended() for one in started] == [0] * 4
        assert [one.said[-1] for one in started] == ["answers 60"] * 4
    assert api.ledger.count() == 240
    assert worst_excess(api) <= BURST


@pytest.mark.real
async def test_when_the_serving_process_is_killed_the_others_go_on_under_the_quota() -> None:
    api = SimulatedAPI(latency=Constant(0.02))
    async with children(4, 60, api) as started:
        await until(api, 80)
        started[0].send(signal.SIGKILL)
        assert [await one.ended() for one in started] == [-signal.SIGKILL, 0, 0, 0]
        assert [one.said[-1] for one in started[1:]] == ["answers 60"] * 3
        assert any(one.serving.is_set() for one in started[1:])
    assert worst_excess(api) <= BURST


@pytest.mark.real
async def test_a_serving_process_that_was_stopped_comes_back_as_one_of_the_others() -> None:
    api = SimulatedAPI(latency=Constant(0.02))
    async with children(3, 100, api) as started:
        await until(api, 60)
        started[0].send(signal.SIGSTOP)
        serving = [asyncio.create_task(one.serving.wait()) for one in started[1:]]
        await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
        for task in serving:
            task.cancel()
        await until(api, api.ledger.count() + 30)
        started[0].send(signal.SIGCONT)
        assert [await one.ended() for one in started] == [0] * 3
        assert [one.said[-1] for one in started] == ["answers 100"] * 3
        assert "follows" in started[0].said
    assert api.ledger.count() == 300
    assert worst_excess(api) <= BURST


@pytest.mark.real
async def test_a_worker_that_was_stopped_does_not_come_back_with_a_burst() -> None:
    api = SimulatedAPI(latency=Constant(0.02))
    async with children(3, 100, api) as started:
        await until(api, 60)
        started[2].send(signal.SIGSTOP)
        await until(api, api.ledger.count() + 130)  # longer than permits are good for
        started[2].send(signal.SIGCONT)
        assert [await one.ended() for one in started] == [0] * 3
    assert api.ledger.count() == 300
    assert worst_excess(api) <= BURST


_STRANGER = """
import asyncio, os, sys
from asyncopt.shared import SharingFailed
from asyncopt.shared.socket import SocketCoordinator
os.setuid(65534)
async def main():
    try:
        await SocketCoordinator(sys.argv[1]).beat([])
    except SharingFailed as error:
        print(error)
asyncio.run(main())
"""


@pytest.mark.real
@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users: that others are refused is not tested")
async def test_another_user_gets_no_permits() -> None:
    with TemporaryDirectory(prefix="q") as folder:
        os.chmod(folder, 0o755)  # noqa: S103
        async with served(Path(folder, "socket")) as coordinator:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _STRANGER, f"{folder}/socket", stdout=asyncio.subprocess.PIPE
            )
            said, _ = await process.communicate()
            assert "folder of your own" in said.decode()
            os.chmod(Path(folder, "socket"), 0o666)  # noqa: S103 - even then
            assert await as_a_stranger(Path(folder, "socket")) == b""
            assert (await coordinator.beat([])).workers == 1


async def as_a_stranger(path: Path) -> bytes:
    """What a process of nobody reads there that asks for permits."""
    program = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "try:\n"
        '    s.sendall(b\'["take", "q", "requests", 1, 1, 1]\\n\'); print(s.recv(100).decode(), end=\'\')\n'
        "except OSError: pass"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(path), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return said
