"""Several endpoints as one model: who gets which call, what happens when one fails, and that it comes out exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fakes import FakeEndpoint, run_virtual
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncopt import Budget, Engine, Generate, MemoryCache, Model, Quota, Sampling
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import AsyncoptError, BudgetExhausted, CallFailed, ConfigError, EndpointRefused
from asyncopt.events import CallEnded, Event, Note
from asyncopt.limits.budget import Account
from asyncopt.limits.gate import Gate
from asyncopt.pool import Member, PoolMember, common
from asyncopt.pool.health import Health
from asyncopt.testing import Constant, FaultPlan, LogNormal, SimulatedAPI
from asyncopt.testing.faults import Kind
from asyncopt.values import NO_CONNECTION, Capabilities, Completion, Fault, FaultKind, Priority, Request

SECONDS = 0.5


def rate(per_second: float) -> Quota:
    return Quota(requests_per_minute=60 * per_second, concurrency=100)


def places(count: int) -> Quota:
    return Quota(concurrency=count)


def api(number: int = 0, **options: Any) -> SimulatedAPI:
    return SimulatedAPI(**{"latency": Constant(SECONDS), **options})


def member(server: SimulatedAPI, number: int, quota: Quota = Quota(), weight: float = 1.0) -> Member:
    """A member whose account is another one than those of the others."""
    return Member(endpoint=server.endpoint(api_key=f"key-{number}"), quota=quota, weight=weight)


def pool_of(engine: Engine, servers: Sequence[SimulatedAPI], quota: Quota = Quota(), **options: Any) -> Model:
    return engine.pool("m", [member(server, number, quota) for number, server in enumerate(servers)], **options)


async def asked(model: Model, count: int, tag: str = "question") -> list[str]:
    answers = await asyncio.gather(*(model.generate(f"{tag} {number}") for number in range(count)))
    return [answer.text for answer in answers]


class Notes:
    """What observers are told in words, and which server answered."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.servers: Counter[str] = Counter()

    def notify(self, event: Event) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)
        elif isinstance(event, CallEnded):
            self.servers[event.server] += 1


def in_engine(main: Callable[[Engine], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with asyncio.timeout(10_000), Engine(**options) as engine:
            return await main(engine)

    return run_virtual(run)


class Mortal(FakeEndpoint):
    """An endpoint that can be cut off: what is in flight then breaks, and nothing connects until it is back."""

    def __init__(self, name: str, seconds: float = SECONDS) -> None:
        super().__init__(seconds=seconds, identity=name)
        self.dead = False
        self.refused: list[float] = []

    async def send(self, model: str, request: Request) -> Answer:
        assert isinstance(request, Generate)
        if self.dead:
            self.refused.append(asyncio.get_running_loop().time())
            return Fault(FaultKind.TRANSIENT, "no connection", code=NO_CONNECTION)
        answer = await super().send(model, request)
        return Fault(FaultKind.AMBIGUOUS, "the connection broke") if self.dead else answer


# -- who gets which call -----------------------------------------------------------------------------------------------


def test_quotas_of_the_members_add_up_and_none_is_exceeded() -> None:
    servers = [api(requests_per_second=each, request_burst=3) for each in (10, 20, 30)]

    async def main(engine: Engine) -> float:
        members = [
            member(server, n, rate(each)) for n, (server, each) in enumerate(zip(servers, (10, 20, 30), strict=True))
        ]
        await asked(engine.pool("m", members), 600)
        return asyncio.get_running_loop().time()

    took = in_engine(main)
    assert [server.ledger.refused() for server in servers] == [0, 0, 0]
    assert sum(server.ledger.answered() for server in servers) == 600
    assert 0.97 * 10 <= took - SECONDS <= 1.03 * 10
    assert [server.ledger.count() for server in servers] == pytest.approx([100, 200, 300], rel=0.05)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (5.0, 3.0, 2.0)])
def test_work_is_spread_by_weight_where_there_is_room(weights: tuple[float, ...]) -> None:
    servers = [api(), api(), api()]

    async def main(engine: Engine) -> None:
        pool = engine.pool("m", [member(one, n, places(100), weights[n]) for n, one in enumerate(servers)])
        for burst in range(10):
            await asked(pool, 40, f"burst {burst}")

    in_engine(main)
    shares = [server.ledger.count() / 400 for server in servers]
    assert shares == pytest.approx([weight / sum(weights) for weight in weights], abs=0.05)


def test_a_slow_member_gets_fewer_calls_and_holds_nobody_up() -> None:
    fast, slow = api(), api(latency=Constant(20 * SECONDS))

    async def main(engine: Engine) -> float:
        await asked(pool_of(engine, [slow, fast], places(5)), 400)
        return asyncio.get_running_loop().time()

    took = in_engine(main)
    assert (fast.ledger.count(), slow.ledger.count()) == pytest.approx((380, 20), abs=6)
    assert took <= 400 / (5 / SECONDS) + 20 * SECONDS


def test_whoever_comes_free_takes_the_most_urgent_call() -> None:
    class Recorder(FakeEndpoint):
        pass

    ends = [Recorder(identity="a", seconds=1.0), Recorder(identity="b", seconds=1.5)]

    async def main(engine: Engine) -> None:
        pool = engine.pool("m", [Member(endpoint=one, quota=places(1)) for one in ends])
        first = [pool.submit(Generate.of(f"score {n}")) for n in range(4)]
        urgent = pool.submit(Generate.of("propose"), priority=Priority.PROPOSE)
        await asyncio.gather(*first, urgent)

    in_engine(main)
    assert [one.prompts for one in ends] == [["score 0", "propose", "score 3"], ["score 1", "score 2"]]


def test_a_call_waits_for_no_member_in_particular() -> None:
    """Bound late: what waits goes to the one that is there, however long the others have been at it."""
    ends = [FakeEndpoint(identity="a", seconds=100.0), FakeEndpoint(identity="b", seconds=1.0)]

    async def main(engine: Engine) -> None:
        pool = engine.pool("m", [Member(endpoint=one, quota=places(1)) for one in ends])
        await asyncio.gather(*(pool.generate(f"q {n}") for n in range(6)))

    in_engine(main)
    assert [len(one.started) for one in ends] == [1, 5]


# -- failures ----------------------------------------------------------------------------------------------------------


def test_one_dies_in_the_middle_and_only_what_was_in_flight_is_asked_again() -> None:
    notes = Notes()
    ends = [Mortal(name) for name in "abc"]

    async def main(engine: Engine) -> tuple[list[str], int]:
        pool = engine.pool("m", [Member(endpoint=one, quota=places(10)) for one in ends])
        asking = asyncio.ensure_future(asked(pool, 600))
        await asyncio.sleep(5.25)
        ends[1].dead, lost = True, ends[1].in_flight
        return await asking, lost

    answers, lost = in_engine(main, observers=[notes])
    assert answers == [f"QUESTION {number}" for number in range(600)]
    assert lost == 10
    counts = Counter(prompt for end in ends for prompt in end.prompts)
    assert sorted(counts.values()) == [1] * (600 - lost) + [2] * lost
    assert len(ends[1].refused) <= lost  # those that its workers took before the first was refused
    assert sum("b is left out for 30 s" in text for text in notes.texts) == 1


def test_a_member_that_is_back_is_asked_again_first_with_one_call() -> None:
    ends = [Mortal("a"), Mortal("b")]

    async def main(engine: Engine) -> list[float]:
        pool = engine.pool("m", [Member(endpoint=one, quota=places(4)) for one in ends])
        ends[0].dead = True
        asking = asyncio.ensure_future(asked(pool, 1000))
        await asyncio.sleep(60.0)  # it is asked at 30 s, in vain, and left out for 60 s from then on
        ends[0].dead = False
        await asking
        return ends[0].started

    started = in_engine(main)
    assert len([time for time in ends[0].refused if time < 20]) <= 4
    assert [round(time) for time in ends[0].refused if time > 20] == [30]
    assert round(started[0]) == 90
    assert all(time >= started[0] + SECONDS for time in started[1:])
    assert len(started) > 50


@pytest.mark.parametrize("kind", ["500", "hang", "malformed"])
def test_five_failures_in_a_row_put_a_member_out(kind: Kind) -> None:
    notes, well, ill = Notes(), api(), api(faults=FaultPlan(after=(0, kind)))

    async def main(engine: Engine) -> list[str]:
        return await asked(pool_of(engine, [ill, well], places(1), timeout=2.0), 100)

    assert len(set(in_engine(main, observers=[notes]))) == 100
    assert any("is left out for 30 s" in text for text in notes.texts)
    assert 5 <= ill.ledger.count() <= 7
    assert well.ledger.count() == 100


def test_never_are_all_left_out() -> None:
    """The last one is asked as any endpoint is; when it serves again, everything is answered."""
    ends = [Mortal("a"), Mortal("b")]
    notes = Notes()

    async def main(engine: Engine) -> list[str]:
        pool = engine.pool("m", [Member(endpoint=one, quota=places(4)) for one in ends])
        await asked(pool, 20, "before")
        for end in ends:
            end.dead = True
        asking = asyncio.ensure_future(asked(pool, 20))
        await asyncio.sleep(10.0)
        ends[1].dead = False
        return await asking

    assert len(in_engine(main, observers=[notes])) == 20
    assert [text.split()[0] for text in notes.texts if "left out" in text] == ["a"]


@pytest.mark.parametrize("how", ["dies", "is lost"])
def test_when_the_last_that_is_in_goes_the_others_are_asked_before_their_time(how: str) -> None:
    """Two are left out for minutes and well again when the third goes: nobody waits for minutes."""
    ends = [Mortal("a"), Mortal("b"), Mortal("c")]

    async def main(engine: Engine) -> float:
        loop = asyncio.get_running_loop()
        pool = engine.pool("m", [Member(endpoint=one, quota=places(4)) for one in ends])
        await asked(pool, 20, "before")
        ends[0].dead = ends[1].dead = True
        asking = asyncio.ensure_future(asked(pool, 1600, "meanwhile"))
        await asyncio.sleep(100.0)  # both were asked in vain at 30 s and at 90 s, and are out for 90 s more
        ends[0].dead = ends[1].dead = False
        began = loop.time()
        if how == "dies":
            ends[2].dead = True
        else:
            engine.dispatchers[2].give_up(Fault(FaultKind.FATAL_CONFIG, "the key is refused"))
        await asking
        assert len(ends[0].started) + len(ends[1].started) > 700
        first = min(time for end in ends[:2] for time in end.started if time >= began)
        return first - began

    assert in_engine(main) < 10


def test_coming_back_early_makes_no_ejection_longer() -> None:
    health = Health()
    assert health.eject(0.0) == 30.0
    assert health.eject(30.0) == 60.0
    for moment in (31.0, 32.0, 33.0):
        health.take_back()
        assert health.eject(moment) == 60.0
    assert health.eject(93.0) == 90.0


def test_a_pause_that_the_server_asked_for_outlasts_coming_back_early() -> None:
    gate = Gate()
    gate.close(now=0, wait=20, episode=0)
    gate.held_until = 300
    assert gate.wait(1) == 299
    gate.held_until = 0.0
    assert gate.wait(1) == 19


def test_servers_that_were_never_there_end_the_run_after_half_a_minute() -> None:
    async def main(engine: Engine) -> float:
        ends = [Mortal(name) for name in "abc"]
        for end in ends:
            end.dead = True
        pool = engine.pool("m", [Member(endpoint=one) for one in ends])
        with pytest.raises(AsyncoptError, match="nothing was served"):
            await asked(pool, 100)
        with pytest.raises(AsyncoptError, match="nothing was served"):
            await pool.generate("another")
        return asyncio.get_running_loop().time()

    assert 30 <= in_engine(main) < 90


def test_a_wrong_key_loses_that_member_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    notes, well, wrong = Notes(), [api(), api()], api(require_key="sk-another")

    async def main(engine: Engine) -> list[str]:
        return await asked(pool_of(engine, [wrong, *well], places(4)), 200)

    assert len(in_engine(main, observers=[notes])) == 200
    (said,) = [text for text in notes.texts if "lost for good" in text]
    assert "2 of 3 endpoints go on" in said
    assert [record.message for record in caplog.records if "lost for good" in record.message] == [said]
    assert wrong.ledger.count() <= 5  # what was in flight, and once more to be sure
    assert sum(server.ledger.answered() for server in well) == 200
    assert sum(server.ledger.count() for server in well) == 200


def test_the_last_member_that_is_lost_ends_the_run() -> None:
    async def main(engine: Engine) -> None:
        pool = pool_of(engine, [api(require_key="x"), api(require_key="y")], places(2))
        with pytest.raises(EndpointRefused, match="API key"):
            await asked(pool, 20)
        with pytest.raises(EndpointRefused, match="API key"):
            await pool.generate("another")

    in_engine(main)


def test_no_money_on_one_account_is_no_end_while_another_has_some() -> None:
    poor, rich = api(faults=FaultPlan(after=(10, "quota"))), api()

    async def main(engine: Engine) -> list[str]:
        return await asked(pool_of(engine, [poor, rich], places(4)), 200)

    assert len(in_engine(main)) == 200
    assert poor.ledger.count() <= 14
    assert poor.ledger.answered() + rich.ledger.answered() == 200


@pytest.mark.parametrize("wait", [False, True])
def test_a_quota_of_the_day_that_is_used_up_holds_up_its_member_alone(wait: bool) -> None:
    used_up, other = api(faults=FaultPlan(after=(10, "daily"))), api()

    async def main(engine: Engine) -> float:
        assert len(await asked(pool_of(engine, [used_up, other], places(4)), 200)) == 200
        first = engine.dispatchers[0]
        assert isinstance(first, PoolMember)
        assert (first in first.pool.live) == wait  # with it, it is asked again when the day is over
        return asyncio.get_running_loop().time()

    assert in_engine(main, wait=wait) < 60.0
    assert used_up.ledger.count() <= 14
    assert other.ledger.refused() == 0


def test_a_refusal_closes_only_the_gate_of_its_member() -> None:
    refusing, other = api(faults=FaultPlan.of([(4, "429-after")])), api()

    async def main(engine: Engine) -> list[str]:
        return await asked(pool_of(engine, [refusing, other], places(4)), 100)

    assert len(in_engine(main)) == 100
    at = refusing.ledger.entries[4].arrived
    closed = [entry for entry in refusing.ledger.entries if at < entry.arrived < at + 3.0]
    assert len(closed) <= 3  # those that started in the same instant
    assert len([entry for entry in other.ledger.entries if at < entry.arrived < at + 3.0]) > 15


def test_a_failed_call_goes_to_another_member_and_keeps_its_age() -> None:
    class Fails(FakeEndpoint):
        async def send(self, model: str, request: Request) -> Answer:
            answer = await super().send(model, request)
            return Fault(FaultKind.TRANSIENT, "planned") if len(self.started) == 1 else answer

    ends = [Fails(identity="a", seconds=1.0), FakeEndpoint(identity="b", seconds=0.75)]

    async def main(engine: Engine) -> None:
        pool = engine.pool("m", [Member(endpoint=one, quota=places(1)) for one in ends])
        await asyncio.gather(*(pool.generate(f"q {n}") for n in range(6)))

    in_engine(main)
    assert ends[0].prompts == ["q 0", "q 3", "q 4"]
    assert ends[1].prompts == ["q 1", "q 2", "q 0", "q 5"]


def test_what_fails_everywhere_is_tried_eight_times_and_with_pauses() -> None:
    ends = [FakeEndpoint(lambda *_: Fault(FaultKind.TRANSIENT, "no"), identity=name) for name in "abc"]

    async def main(engine: Engine) -> float:
        pool = engine.pool("m", [Member(endpoint=one) for one in ends])
        with pytest.raises(CallFailed):
            await pool.generate("q")
        return asyncio.get_running_loop().time()

    assert in_engine(main) > 1.0
    assert sum(len(one.started) for one in ends) == 8


def test_a_request_that_is_refused_says_nothing_of_the_member() -> None:
    bad = Fault(FaultKind.BAD_REQUEST, "no such thing", code="invalid")
    ends = [
        FakeEndpoint(lambda request, _: bad if "bad" in request.prompt[0].content else Completion("ok"), identity=name)
        for name in "ab"
    ]

    async def main(engine: Engine) -> tuple[int, list[str]]:
        pool = engine.pool("m", [Member(endpoint=one, quota=places(1)) for one in ends])
        await asked(pool, 1, "good")  # only the first has ever served, and its word is good for both
        found = await asyncio.gather(*(pool.generate(f"bad {n}") for n in range(20)), return_exceptions=True)
        return sum(isinstance(one, CallFailed) for one in found), await asked(pool, 4, "fine")

    assert in_engine(main) == (20, ["ok"] * 4)


# -- one model ---------------------------------------------------------------------------------------------------------


def test_answers_are_the_same_whoever_gives_them() -> None:
    def run(count: int, seed: int) -> list[str]:
        async def main(engine: Engine) -> list[str]:
            servers = [api(latency=LogNormal(0.5, 1.0), faults=FaultPlan(seed + n, 0.1)) for n in range(count)]
            for server in servers:
                server.seed = seed
            return await asked(pool_of(engine, servers, places(5)), 100)

        found: list[str] = in_engine(main)
        return found

    assert run(1, 0) == run(3, 1) == run(4, 2)


def test_members_may_be_added_and_the_cache_stays() -> None:
    cache, servers = MemoryCache(), [api(), api(), api()]

    async def main(count: int, **options: Any) -> None:
        async with Engine(cache=cache) as engine:
            await asked(pool_of(engine, servers[:count], places(5), **options), 50)

    for count in (1, 2, 3):
        run_virtual(lambda count=count: main(count))  # type: ignore[misc]
    assert sum(server.ledger.count() for server in servers) == 50
    run_virtual(lambda: main(2, identity="my fleet"))
    assert sum(server.ledger.count() for server in servers) == 100


def test_the_same_members_are_the_same_pool_and_others_are_refused() -> None:
    servers = [api(), api()]

    async def main(engine: Engine) -> None:
        first, again = (pool_of(engine, servers, places(3)) for _ in range(2))
        await asyncio.gather(asked(first, 30), asked(again, 30))
        assert len(engine.dispatchers) == 2
        with pytest.raises(ConfigError, match="other terms"):
            pool_of(engine, servers, places(4))
        with pytest.raises(ConfigError, match="given twice"):
            pool_of(engine, [servers[0]], places(3))
        with pytest.raises(ConfigError, match="given twice"):
            engine.pool("m2", [member(servers[0], 0), member(servers[0], 0)])
        with pytest.raises(ConfigError, match="serves m in a pool"):
            engine.model("m", endpoint=servers[0].endpoint(api_key="key-0"))
        with pytest.raises(ConfigError, match="no members"):
            engine.pool("m", [])

    in_engine(main)
    assert sum(server.ledger.count() for server in servers) == 30
    assert [server.ledger.max_in_flight() for server in servers] == [3, 3]
    with pytest.raises(ConfigError, match="weight"):
        Member(weight=0.0)


def test_keys_of_members_are_in_no_repr() -> None:
    assert "sk-secret" not in repr(Member("http://127.0.0.1:1/v1", "sk-secret"))


def test_a_pool_can_do_what_all_its_members_can() -> None:
    able = Capabilities(top_logprobs=20, stream=True, extra=True)
    assert common([able, Capabilities(top_logprobs=5, stream=True)]) == Capabilities(top_logprobs=5, stream=True)


def test_counts_events_and_the_budget_are_those_of_all_members() -> None:
    notes, servers = Notes(), [api(), api()]

    async def main(engine: Engine) -> Account:
        account = Account(Budget(calls=50))
        pool = pool_of(engine, servers, places(4)).charged_to(account)
        futures = [pool.submit(Generate.of(f"q {n}")) for n in range(60)]
        assert sum(one.queued for one in engine.dispatchers) == 52
        found = await asyncio.gather(*futures, return_exceptions=True)
        assert sum(isinstance(one, BudgetExhausted) for one in found) == 10
        assert [one.queued for one in engine.dispatchers] == [0, 0]
        return account

    account = in_engine(main, observers=[notes])
    assert account.calls == 50
    assert sum(notes.servers.values()) == 50
    assert sum(server.ledger.count() for server in servers) == 50


def test_pause_concurrency_and_drain_are_for_all_members() -> None:
    servers = [api(), api()]

    async def main(engine: Engine) -> list[object]:
        pool = pool_of(engine, servers, places(8))
        futures = [pool.submit(Generate.of(f"q {n}")) for n in range(64)]
        await asyncio.sleep(0.1)
        engine.pause()
        await asyncio.sleep(100.0)
        assert [server.ledger.count() for server in servers] == [8, 8]
        engine.set_concurrency(2)
        engine.resume()
        await asyncio.sleep(SECONDS * 4)
        assert all(server.ledger.in_flight() == 2 for server in servers)
        for future in futures[-8:]:
            future.cancel()
        await engine.drain(5.0)
        assert all(server.ledger.in_flight() == 0 for server in servers)
        assert all(one.slots.in_use == 0 for one in engine.dispatchers)
        return await asyncio.gather(*futures[:16], return_exceptions=True)

    done = in_engine(main)
    assert all(isinstance(one, Completion) for one in done)


def test_rivals_are_asked_elsewhere_and_limits_are_heard_by_whose_they_are() -> None:
    late, usual = api(), api()

    async def main(engine: Engine) -> Answer:
        members = [member(late, 0, places(50), 100.0), member(usual, 1, places(50))]
        pool = engine.pool("m", members, hedge=0.02)
        await asked(pool, 100)
        late.faults = FaultPlan(after=(late.ledger.count(), "hang"))
        before = usual.ledger.count()
        answer = await pool.generate("late")
        assert usual.ledger.count() == before + 1
        assert [one.slots.in_use for one in engine.dispatchers] == [0, 0]
        return answer

    assert isinstance(in_engine(main), Completion)
    assert late.ledger.entries[-1].prompt == usual.ledger.entries[-1].prompt == "late"


# -- ejection, by itself -----------------------------------------------------------------------------------------------


def test_each_ejection_is_longer_and_time_in_service_makes_up_for_it() -> None:
    health = Health()
    now, seconds = 0.0, []
    for _ in range(12):
        assert health.failed(now, dead=True)
        seconds.append(health.eject(now))
        assert not health.failed(now, dead=True)  # it was on its way
        now += seconds[-1]
    assert seconds == [30.0 * n for n in range(1, 11)] + [300.0, 300.0]
    health.answered(now - seconds[-1], now)
    assert health.out  # it was asked before
    health.answered(now, now)
    assert not health.out
    for _ in range(4):
        assert not health.failed(now + 3000, dead=False)
    assert health.failed(now + 3000, dead=False)
    assert health.eject(now + 3000) == 30.0


# -- whatever happens --------------------------------------------------------------------------------------------------

KINDS: tuple[Kind, ...] = (
    "500", "503-after", "429", "429-after", "ramp", "reset", "malformed", "hang", "slow", "400", "refused", "401", "quota",
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    plans=st.lists(
        st.tuples(
            st.integers(0, 99), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sets(st.sampled_from(KINDS), min_size=1)
        ),
        min_size=1,
        max_size=4,
    ),
    calls=st.integers(1, 60),
    withdrawn=st.integers(0, 10),
)
def test_every_call_ends_in_one_way_and_no_quota_is_exceeded(
    plans: list[tuple[int, float, set[Kind]]], calls: int, withdrawn: int
) -> None:
    servers = [api(faults=FaultPlan(seed, share, tuple(sorted(kinds)))) for seed, share, kinds in plans]

    async def main(engine: Engine) -> None:
        pool = pool_of(engine, servers, Quota(requests_per_minute=600, concurrency=5), timeout=5.0)
        account = Account()
        futures = [pool.charged_to(account).submit(Generate.of(f"q {n}")) for n in range(calls)]
        await asyncio.sleep(0.3)
        for future in futures[:withdrawn]:
            future.cancel()
        async with asyncio.timeout(7200):
            found = await asyncio.gather(*futures, return_exceptions=True)
        kinds = (Completion, AsyncoptError, asyncio.CancelledError)
        assert all(isinstance(one, kinds) for one in found)
        await asyncio.sleep(60.0)
        for one in engine.dispatchers:
            assert isinstance(one, PoolMember)
            assert (one.slots.in_use, one.in_flight, one.queued, one.load()) == (0, 0, 0, 1.0)
        assert not len(one.pool.queue)
        assert not engine._shared

    in_engine(main)
    for server in servers:
        assert server.ledger.max_in_window(1.0) <= 10 + 2
        assert server.ledger.max_in_flight() <= 5


# -- real sockets ------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_over_sockets_a_server_that_goes_away_costs_no_answer() -> None:
    servers = [api(latency=Constant(0.02), require_key=f"sk-{n}") for n in range(3)]
    notes = Notes()

    async def main() -> list[str]:
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(Engine(observers=[notes], grace=0.0))
            leaving = await stack.enter_async_context(AsyncExitStack())
            urls = [
                await leaving.enter_async_context(servers[0].serve()),
                *[await stack.enter_async_context(server.serve()) for server in servers[1:]],
            ]
            members = [Member(url, f"sk-{n}", Quota(concurrency=4)) for n, url in enumerate(urls)]
            pool = engine.pool("m", members, sampling=Sampling(seed=1))
            await asked(pool, 60)
            assert all(server.ledger.answered() > 5 for server in servers)
            asking = asyncio.ensure_future(asked(pool, 200, "then"))
            await asyncio.sleep(0.05)
            await leaving.aclose()
            return await asking

    assert len(set(asyncio.run(main()))) > 1
    assert servers[0].ledger.count() < 150
    assert any("is left out for 30 s" in text for text in notes.texts)
    assert not any("sk-" in text for text in notes.texts)
