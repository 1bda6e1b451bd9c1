"""Quotas and claims in a real Redis server: the same answers as from the board, on the server's clock, whatever fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_servers import RedisServer, free_port, needs_redis, redis_server, saying, way_to

from asyncopt.errors import ConfigError
from asyncopt.limits.meter import LONGEST_TURN
from asyncopt.redislink import PASSWORD, Address, without_password
from asyncopt.shared import SharingFailed, lua
from asyncopt.shared.board import Board
from asyncopt.shared.gcra import FRESH_SECONDS, fresh_seconds
from asyncopt.shared.redis import RedisCoordinator

pytestmark = [pytest.mark.real, needs_redis]

LONGEST = 10.0  # seconds; one is promised, and machines that run tests stand still at times


@pytest.fixture(scope="module")
def running() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    running.tell("FLUSHALL")
    return running


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(main())


async def failure(asked: Awaitable[object]) -> str:
    """What is said of a question that fails, and it has to."""
    with pytest.raises(SharingFailed) as caught:
        await asyncio.wait_for(asked, LONGEST)
    assert caught.value.__cause__ is None
    return str(caught.value)


async def a_take(coordinator: RedisCoordinator, amount: float = 1.0) -> float:
    return await coordinator.take("q", "requests", amount, 10.0, 2.0)


async def until_it_works(coordinator: RedisCoordinator) -> None:
    """As an engine does: its heartbeat is what finds the server again."""
    async with asyncio.timeout(LONGEST):
        while True:
            try:
                await coordinator.beat([])
            except SharingFailed:
                await asyncio.sleep(0.05)
            else:
                return


# -- the same as the board ---------------------------------------------------------------------------------------------

QUOTAS = st.sampled_from(["q", "other"])
WORKER = st.sampled_from([0, 1, 2])
KEYS = st.lists(st.sampled_from([b"1", b"\xff\r\n"]), min_size=1, max_size=2)
ACT = st.one_of(
    st.tuples(
        st.just("take"), QUOTAS, st.sampled_from(["requests", "tokens"]), st.floats(0.1, 5), st.floats(0.5, 50),
        st.floats(1, 10),
    ),
    st.tuples(
        st.just("give_back"), QUOTAS, st.sampled_from(["requests", "tokens"]), st.floats(0.1, 5), st.floats(0.5, 50)
    ),
    st.tuples(st.just("pause"), QUOTAS, st.floats(0, 5)),
    st.tuples(st.just("beat"), st.just(["q", "other"])),
    st.tuples(st.just("claim"), KEYS),
    st.tuples(st.just("release"), KEYS),
)  # fmt: skip
ACTS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.1]), WORKER, ACT), min_size=30, max_size=50)


def on_board(board: Board, now: float, worker: str, workers: int, act: tuple[Any, ...]) -> Any:
    name, *given = act
    if name == "take":
        _, _, amount, rate, _ = given
        return board.buckets.take(now, *given, fresh=fresh_seconds(workers, amount, rate))
    if name == "give_back":
        return board.buckets.give_back(*given)
    if name == "pause":
        return board.buckets.pause(now, *given)
    if name == "release":
        return board.release(worker, *given)
    return getattr(board, name)(now, worker, *given)


def told_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have scripts take the time from a key, so that a test decides it; all else in them is as it is."""
    for name in ("TAKE", "GIVE_BACK", "PAUSE", "BEAT", "CLAIM"):
        text: str = getattr(lua, name).text
        assert text.startswith(lua._NOW)
        told = "local now = tonumber(redis.call('GET', 'now'))\n" + text.removeprefix(lua._NOW)
        monkeypatch.setattr(lua, name, lua.Script(told))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float):
        return one == pytest.approx(other, abs=1e-4)
    if one is not None and hasattr(one, "pauses"):
        return bool(one.workers == other.workers and one.pauses == pytest.approx(other.pauses, abs=1e-4))
    return bool(one == other)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as found:
        yield found


def test_the_same_requests_get_the_same_answers_as_from_the_board(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, runner: asyncio.Runner
) -> None:
    told_the_time(monkeypatch)

    @settings(max_examples=60)
    @given(ACTS)
    def compared(acts: list[tuple[float, int, tuple[Any, ...]]]) -> None:
        async def main() -> None:
            coordinators = [RedisCoordinator(server.url) for _ in range(3)]
            known = [[1], [1], [1]]  # workers, as each has heard
            taken: set[tuple[int, str, str]] = set()
            await coordinators[0]._link.ask([("FLUSHALL",)])
            board, now = Board(), 1.8e9  # as large as the server's own are
            for gap, worker, act in acts:
                now = round(now + gap, 6)
                await coordinators[0]._link.ask([("SET", "now", f"{now:.6f}")])
                found = await getattr(coordinators[worker], act[0])(*act[1:])
                workers = 1
                if act[0] == "take":  # who has been there before takes the others to have been promised something
                    workers = max(known[worker][-2:]) if (worker, *act[1:3]) in taken else 1
                    taken.add((worker, act[1], act[2]))
                wanted = on_board(board, now, str(worker), workers, act)
                assert same(found, wanted), (act, found, wanted)
                if act[0] == "beat":
                    known[worker].append(found.workers)
            for coordinator in coordinators:
                await coordinator.aclose()

        runner.run(main())

    compared()


def test_the_servers_own_clock_runs(server: RedisServer) -> None:
    async def main() -> None:
        one, other = RedisCoordinator(server.url), RedisCoordinator(server.url)
        began = time.monotonic()
        first = await a_take(one)
        assert 0.35 - 0.01 <= first <= FRESH_SECONDS + 0.1  # the bucket is empty, and begins later
        waits = [await a_take(coordinator) for coordinator in (one, other) * 10]
        passed = time.monotonic() - began
        # Whoever asks: permits are earned in their order, a tenth of a second each.
        assert first + 20 * 0.1 - passed - 0.01 <= waits[-1] <= first + 20 * 0.1 + 0.01
        await one.aclose()
        await other.aclose()

    run(main)


def test_a_server_that_has_lost_everything_first_lets_pass_what_it_had_promised(server: RedisServer) -> None:
    async def main() -> None:
        coordinators = [RedisCoordinator(server.url) for _ in range(20)]
        for coordinator in coordinators * 2:
            await coordinator.beat([])
        began = time.monotonic()
        promised = [await a_take(coordinator) for coordinator in coordinators]
        server.tell("FLUSHALL")
        await coordinators[0].beat([])  # and finds itself alone
        wait = await a_take(coordinators[0])
        assert wait >= promised[-1] - (time.monotonic() - began)
        for coordinator in coordinators:
            await coordinator.aclose()

    run(main)


def test_nothing_stays_for_ever_and_a_cluster_keeps_it_together(server: RedisServer) -> None:
    async def main() -> None:
        one = RedisCoordinator(server.url)
        await one.beat(["q"])
        await a_take(one)
        await one.give_back("q", "requests", 0.5, 10.0)
        await one.pause("q", 5.0)
        await one.claim([b"1", b"2"])
        keys = [bytes(key) for key in (await one._link.ask([("KEYS", "*")]))[0]]
        left = await one._link.ask([("TTL", key) for key in keys])
        assert len(keys) == 5
        assert all(key.startswith(b"asyncopt:{shared}:") for key in keys)
        assert all(0 < seconds <= 86_400 for seconds in left), dict(zip(keys, left, strict=True))
        await one.aclose()

    run(main)


def test_a_clock_that_was_set_back_holds_nobody_up(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    told_the_time(monkeypatch)
    server.tell("SET", "now", "2000000000")

    async def main() -> float:
        one = RedisCoordinator(server.url)
        await a_take(one)
        server.tell("SET", "now", "1990000000")
        wait = await a_take(one)
        await one.aclose()
        return wait

    assert run(main) == pytest.approx(FRESH_SECONDS + 0.1)


def test_long_turns_of_many_are_no_clock_that_was_set_back(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_the_time(monkeypatch)
    server.tell("SET", "now", "2000000000")

    async def main() -> list[float]:
        coordinators = [RedisCoordinator(server.url) for _ in range(16)]
        for coordinator in coordinators * 2:
            await coordinator.beat([])
        waits = [await one.take("q", "tokens", LONGEST_TURN, 1.0, 2.0) for one in coordinators]
        for coordinator in coordinators:
            await coordinator.aclose()
        return waits

    assert run(main) == pytest.approx([FRESH_SECONDS + LONGEST_TURN * number for number in range(1, 17)], abs=1e-4)


def test_looks_in_quick_succession_do_not_forget_how_many_there_were(server: RedisServer) -> None:
    async def main() -> float:
        coordinators = [RedisCoordinator(server.url) for _ in range(20)]
        for coordinator in coordinators * 2:
            await coordinator.beat([])
        await a_take(coordinators[0])
        server.tell("FLUSHALL")
        for _ in range(2):  # a heartbeat, and one of who has questions to claim
            await coordinators[0].beat([])
        wait = await a_take(coordinators[0])
        for coordinator in coordinators:
            await coordinator.aclose()
        return wait

    assert run(main) >= 19 * 0.1


def test_who_leaves_is_gone_at_once_and_its_claims_are_free(server: RedisServer) -> None:
    async def main() -> None:
        one, other = RedisCoordinator(server.url), RedisCoordinator(server.url)
        await one.beat([])
        assert (await other.beat([])).workers == 2
        many = [number.to_bytes(4, "big") for number in range(1200)]  # more than fit one script
        assert await one.claim(many) == [True] * 1200
        assert await other.claim([*many, b"own"]) == [False] * 1200 + [True]
        await one.release(many[:600])
        assert (await other.claim(many)).count(True) == 600
        await one.aclose()
        assert all(await other.claim(many))
        assert (await other.beat([])).workers == 1
        await other.aclose()

    run(main)


def test_what_is_asked_at_once_goes_over_one_connection(server: RedisServer) -> None:
    async def main() -> None:
        one = RedisCoordinator(server.url)
        before = connections(server)
        waits = await asyncio.gather(*(a_take(one) for _ in range(300)))
        assert connections(server) == before + 1
        assert sorted(waits) == pytest.approx([0.35 + 0.1 * number for number in range(300)], abs=5)
        assert len(set(waits)) == 300
        await one.aclose()

    run(main)


def connections(server: RedisServer) -> int:
    """How many were ever made, without the one that asks."""
    line = next(line for line in server.tell("INFO", "stats").split(b"\r\n") if line.startswith(b"total_connections"))
    return int(line.partition(b":")[2]) - asked_before(server)


def asked_before(server: RedisServer) -> int:
    server.told = getattr(server, "told", 0) + 1  # type: ignore[attr-defined]
    return server.told  # type: ignore[attr-defined, no-any-return]


# -- what fails --------------------------------------------------------------------------------------------------------


def test_scripts_and_state_may_be_flushed(server: RedisServer) -> None:
    async def main() -> None:
        one = RedisCoordinator(server.url)
        for command in (("SCRIPT", "FLUSH"), ("FLUSHALL",)):
            await a_take(one)
            await one.claim([b"1"])
            server.tell(*command)
            assert await a_take(one, 1.0) <= 0.5
            assert await one.claim([b"1"]) == [True]
            assert (await one.beat(["q"])).workers == 1
        await one.aclose()

    run(main)


def test_after_a_restart_it_works_again_by_itself() -> None:
    with redis_server() as server:

        async def main() -> None:
            one = RedisCoordinator(server.url)
            await one.beat([])
            server.stop()
            reasons = [await failure(a_take(one)), await failure(one.claim([b"1"])), await failure(one.beat([]))]
            assert all(f"127.0.0.1:{server.port}" in reason for reason in reasons)
            server.start()
            await until_it_works(one)
            assert await a_take(one) > 0
            assert await one.claim([b"1"]) == [True]
            # A connection that has died unnoticed costs nothing.
            server.tell("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.05)
            assert (await one.beat([])).workers == 1
            await one.aclose()

        run(main)


def test_who_does_not_answer_is_not_waited_for(server: RedisServer) -> None:
    async def main() -> None:
        one = RedisCoordinator(server.url)
        await one.beat([])
        await one.release([b"never claimed"])
        sleeping = server.begin("DEBUG", "SLEEP", "3")
        await asyncio.sleep(0.3)  # until it does: this connection is new, and the other one might be read first
        together = await asyncio.gather(*(failure(a_take(one)) for _ in range(50)))
        assert all("has not answered within 1 s" in reason for reason in together)
        # While it is silent only the heartbeat asks, so that nobody else waits in vain.
        assert await failure(asyncio.wait_for(one.claim([b"1"]), 0.5)) == together[0]
        await until_it_works(one)
        assert await one.claim([b"1"]) == [True]
        await one.aclose()
        sleeping.close()

    run(main)


def test_a_slow_way_is_borne_up_to_a_second(server: RedisServer) -> None:
    async def main() -> None:
        async with way_to(server) as way:
            one = RedisCoordinator(way.url)
            await one.beat([])
            way.seconds = 0.2
            assert (await one.beat([])).workers == 1
            way.seconds = 3.0
            assert "has not answered" in await failure(one.beat([]))
            way.seconds = 0.0
            await until_it_works(one)
            await one.aclose()

    run(main)


def test_a_claim_whose_answer_never_came_is_given_up(server: RedisServer) -> None:
    async def main() -> None:
        async with way_to(server) as way:
            one, other = RedisCoordinator(way.url), RedisCoordinator(server.url)
            await one.beat([])
            way.seconds = 3.0
            await failure(one.claim([b"1"]))
            assert await other.claim([b"1"]) == [False]  # it was granted, and nobody knows
            way.seconds = 0.0
            await until_it_works(one)
            assert await other.claim([b"1"]) == [True]
            await one.aclose()
            await other.aclose()

    run(main)


async def told(url: str) -> str:
    one = RedisCoordinator(url)
    reason = await failure(one.beat([]))
    assert await failure(a_take(one)) != ""
    await one.aclose()
    return reason


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "still loading"),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", "part of a cluster"),
        (b"-CLUSTERDOWN Hash slot not served\r\n", "cluster is down"),
        (b"-READONLY You can't write against a read only replica.\r\n", "replica"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "memory is full"),
        (b"-ERR max number of clients reached\r\n", "max number of clients reached"),
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak as Redis"),
        (b"-\x1b[31mred\r\n", "[31mred"),
        (b"", "has not answered"),
    ],
)
def test_every_refusal_is_said_in_words(line: bytes, said: str) -> None:
    async def main() -> str:
        async with saying(line) as url:
            return await told(url)

    reason = run(main)
    assert said in reason
    assert reason.isprintable()


def test_real_refusals_are_said_in_words(server: RedisServer) -> None:
    try:
        server.tell("REPLICAOF", "127.0.0.1", "1")
        assert "it is a replica" in run(lambda: told(server.url))
        server.tell("REPLICAOF", "NO", "ONE")
        server.tell("CONFIG", "SET", "maxmemory", "1")
        assert "its memory is full" in run(lambda: told(server.url))
    finally:
        server.tell("REPLICAOF", "NO", "ONE")
        server.tell("CONFIG", "SET", "maxmemory", "0")


def test_one_server_with_all_slots_of_a_cluster_will_do_and_another_part_will_not(tmp_path: Path) -> None:
    def part(name: str) -> AbstractContextManager[RedisServer]:
        bus = str(buses[name])
        return redis_server(
            "--cluster-enabled", "yes", "--cluster-config-file", str(tmp_path / name), "--cluster-port", bus
        )

    buses = {name: free_port() for name in ("one", "two")}
    with part("one") as one, part("two") as two:
        one.tell("CLUSTER", "ADDSLOTSRANGE", "0", "16383")

        async def main() -> str:
            coordinator = RedisCoordinator(one.url)
            await until_it_works(coordinator)
            await coordinator.beat(["q", "other"])
            await a_take(coordinator)
            await coordinator.pause("q", 1.0)
            assert await coordinator.claim([b"1", b"2"]) == [True, True]
            await coordinator.release([b"1", b"2"])
            await coordinator.aclose()
            two.tell("CLUSTER", "MEET", "127.0.0.1", str(one.port), str(buses["one"]))
            while "part of a cluster" not in (reason := await told(two.url)):
                time.sleep(0.1)  # noqa: ASYNC251 - until the two have told each other who has which slots
            return reason

        reason = run(main)
    assert "name a server that has all of them" in reason


def test_tls_is_checked_against_the_stated_authority(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    mine = authority.issue_cert("127.0.0.1")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    port = free_port()
    options = ["--tls-port", port, "--tls-auth-clients", "no", "--tls-ca-cert-file", tmp_path / "ca.pem"]
    options += ["--tls-cert-file", tmp_path / "cert.pem", "--tls-key-file", tmp_path / "key.pem"]

    async def main() -> str:
        one = RedisCoordinator(f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path / 'ca.pem'}")
        assert (await one.beat([])).workers == 1
        await one.aclose()
        return await told(f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path / 'other.pem'}")

    with redis_server(*map(str, options)):
        assert "certificate" in run(main)


def test_who_has_left_opens_no_connection_any_more(server: RedisServer) -> None:
    async def main() -> None:
        one = RedisCoordinator(server.url)
        await one.beat([])
        await one.aclose()
        assert "has left" in await failure(one.give_back("q", "requests", 1.0, 10.0))
        assert one._link._connection is None

    run(main)


@pytest.mark.parametrize("value", [("SET", "x"), ("LPUSH", "x")])
def test_who_wrote_over_our_keys_is_told_of(server: RedisServer, value: tuple[str, str]) -> None:
    async def main() -> str:
        coordinator = RedisCoordinator(server.url)
        server.tell(value[0], "asyncopt:{shared}:bucket:q:requests", value[1])
        try:
            return await failure(coordinator.take("q", "requests", 1.0, 10.0, 2.0))
        finally:
            await coordinator.aclose()

    assert "delete those that begin with asyncopt:" in run(main)


def test_a_file_for_tls_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"ssl_ca_certs of rediss://host:6379/0 cannot be read: /no/ca\.pem"):
        RedisCoordinator("rediss://host?ssl_ca_certs=/no/ca.pem")


# -- the password ------------------------------------------------------------------------------------------------------

SECRET = "s3cr:t/pass@word"
QUOTED = "s3cr%3At%2Fpass%40word"


def test_the_password_is_in_the_url_or_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server(password=SECRET) as server:
        named = f"valkey://:{QUOTED}@127.0.0.1:{server.port}"

        async def works(url: str) -> None:
            coordinator = RedisCoordinator(url)
            assert (await coordinator.beat([])).workers >= 1
            await coordinator.aclose()

        run(lambda: works(named))
        assert "password is refused" in run(lambda: told(named.replace("s3cr", "another")))
        assert "is missing" in run(lambda: told(server.url))
        monkeypatch.setenv(PASSWORD, SECRET)
        run(lambda: works(server.url))


def test_nothing_shows_the_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"redis://user:{QUOTED}@127.0.0.1:1/3"

    async def main() -> str:
        async with saying(f"-ERR unknown command 'AUTH', with args beginning with: '{SECRET}'\r\n".encode()) as place:
            there = RedisCoordinator(place.replace("//", f"//:{QUOTED}@"))
            return "".join([await failure(there.beat([])), await told(url), repr(there), repr(there._link.address)])

    shown = run(main) + caplog.text + repr(RedisCoordinator(url)) + str(Address.of(url)) + repr(Address.of(url))
    assert "unknown command" in shown
    assert not [form for form in (SECRET, QUOTED, "s3cr", "pass@") if form in shown]


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@host",
        f"redis://:{QUOTED}@host:port",
        f"redis://:{QUOTED}@host/name",
        f"redis://:{QUOTED}@",
        f"redis://{QUOTED}#@host",
        f"redis://host?password={QUOTED}",
        f"http://:{QUOTED}@host",
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Address.of(url)
    assert "s3cr" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_url_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    assert Address.of("redis://host") == Address("host", 6379, 0, False)
    assert Address.of("valkeys://u:p%20w@[::1]:7/2") == Address("::1", 7, 2, True, "u", "p w")
    assert str(Address.of("valkeys://u:p%20w@[::1]:7/2")) == "rediss://[::1]:7/2"
    assert Address.of("rediss://host?ssl_ca_certs=/ca.pem").files == (("ssl_ca_certs", "/ca.pem"),)
    assert without_password("redis://user@host") == "redis://user@host"
    with pytest.raises(ConfigError, match=PASSWORD):
        without_password(f"redis://:{QUOTED}@host")
