"""Engines that share a quota and their questions: exactly, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from time import sleep as stand_still

import pytest
from fakes import run_virtual
from hypothesis import given
from hypothesis import strategies as st
from shared_board import Boards

from asyncopt import Engine, Generate, MemoryCache, Model, Quota, Sampling
from asyncopt.errors import CallFailed, ConfigError
from asyncopt.events import Note
from asyncopt.flights import CACHE_SECONDS, LONGEST_POLL, PATIENCE_SECONDS
from asyncopt.limits.meter import SharedMeter
from asyncopt.shared.board import Board
from asyncopt.shared.gcra import FRESH_SECONDS, Buckets
from asyncopt.shared.share import LEASE_SECONDS, Share
from asyncopt.testing import Constant, FaultPlan, LogNormal, SimulatedAPI

RATE = 20.0
STATED = Quota(requests_per_minute=60 * RATE, concurrency=400)


async def engines(stack: AsyncExitStack, boards: Boards, count: int, **options: object) -> list[Engine]:
    opened = [Engine(coordinator=boards.coordinator(f"w{number}"), grace=0.0, **options) for number in range(count)]  # type: ignore[arg-type]
    return [await stack.enter_async_context(engine) for engine in opened]


def model_of(engine: Engine, api: SimulatedAPI, quota: Quota = STATED) -> Model:
    return engine.model("m", endpoint=api.endpoint(), quota=quota)


async def asked(model: Model, count: int, tag: str = "") -> None:
    await asyncio.gather(*(model.generate(f"{tag} question {number}") for number in range(count)))


def starts(api: SimulatedAPI) -> list[float]:
    return sorted(entry.arrived for entry in api.ledger.entries)


def worst_excess(times: list[float], rate: float) -> float:
    """How many more arrived in any interval than the rate times its length."""
    excess, lowest = 0.0, 0.0
    for number, time in enumerate(times):
        lowest = min(lowest, number - rate * time)
        excess = max(excess, number + 1 - rate * time - lowest)
    return excess


# -- buckets -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0.1, 5)), min_size=1, max_size=60),
    st.floats(0.5, 50),
    st.floats(1, 10),
)
def test_no_interval_gets_more_than_the_rate_and_one_bucket(
    asks: list[tuple[float, float]], rate: float, bucket: float
) -> None:
    buckets, now, granted = Buckets(), 0.0, []
    for gap, amount in asks:
        now += gap
        granted.append((now + buckets.take(now, "q", "requests", amount, rate, bucket), amount))
    granted.sort()
    for first in range(len(granted)):
        total = 0.0
        for time, amount in granted[first:]:
            total += amount
            assert total <= rate * (time - granted[first][0]) + bucket + max(a for _, a in granted) + 1e-6


def test_an_unknown_bucket_starts_empty_and_nothing_gathers_in_a_pause() -> None:
    buckets = Buckets()
    assert buckets.take(0.0, "q", "requests", 1, 10, 2) == pytest.approx(FRESH_SECONDS + 0.1)
    assert buckets.take(10.0, "q", "requests", 2, 10, 2) == 0.0  # two have gathered, and no more
    assert buckets.take(10.0, "q", "requests", 1, 10, 2) == pytest.approx(0.1)
    buckets.pause(20.0, "q", 5.0)
    assert buckets.take(21.0, "q", "requests", 1, 10, 2) == pytest.approx(4.1)
    assert buckets.take(21.0, "other", "requests", 1, 10, 2) < 1
    buckets.give_back("q", "requests", 1, 10)
    assert buckets.take(21.0, "q", "requests", 1, 10, 2) == pytest.approx(4.1)


def test_claims_are_the_first_ones_until_given_up_or_dead() -> None:
    board = Board()
    board.beat(0.0, "a", [])
    board.beat(0.0, "b", [])
    assert board.claim(0.0, "a", [b"1", b"2"]) == [True, True]
    assert board.claim(0.5, "b", [b"1", b"3"]) == [False, True]
    board.release("b", [b"1"])  # not its own
    assert board.claim(0.5, "b", [b"1"]) == [False]
    board.release("a", [b"1"])
    assert board.claim(0.5, "b", [b"1"]) == [True]
    board.beat(1.9, "b", [])
    assert board.claim(2.1, "b", [b"2"]) == [True]  # a has not been heard of for two seconds
    assert board.beat(2.1, "b", []).workers == 1
    board.leave("b")
    assert board.claim(2.2, "c", [b"2"]) == [True]


# -- a quota -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_rate_is_kept_full_and_never_broken_by_any_number_of_workers(workers: int) -> None:
    api = SimulatedAPI(latency=LogNormal(1.0, 0.4), requests_per_second=RATE, request_burst=5)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            models = [model_of(engine, api) for engine in await engines(stack, Boards(), workers)]
            began = loop.time()
            await asyncio.gather(*(asked(model, 2000 // workers, str(n)) for n, model in enumerate(models)))
            return loop.time() - began

    seconds = run_virtual(main)
    assert api.ledger.refused() == 0
    assert worst_excess(starts(api), RATE) <= 5
    assert max(starts(api)) <= 103
    assert seconds < 110


def test_what_one_does_not_use_the_others_have() -> None:
    api = SimulatedAPI(latency=Constant(0.5), requests_per_second=RATE, request_burst=5)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            busy, idle = [model_of(engine, api) for engine in await engines(stack, Boards(), 2)]
            await asyncio.gather(asked(busy, 1000, "busy"), asked(idle, 10, "idle"))

    run_virtual(main)
    assert max(starts(api)) <= 1010 / RATE * 1.03
    assert api.ledger.refused() == 0


def test_the_state_may_be_lost_and_the_rate_still_holds() -> None:
    api = SimulatedAPI(latency=Constant(0.5), requests_per_second=RATE, request_burst=8)
    boards = Boards()

    async def main() -> None:
        async def trouble() -> None:
            for _ in range(5):
                await asyncio.sleep(3.0)
                boards.board = Board()
            await asyncio.sleep(3.0)
            boards.board = None  # gone for five seconds
            await asyncio.sleep(5.0)
            boards.board = Board()

        async with AsyncExitStack() as stack:
            models = [model_of(engine, api) for engine in await engines(stack, boards, 4)]
            await asyncio.gather(trouble(), *(asked(model, 200, str(n)) for n, model in enumerate(models)))

    run_virtual(main)
    assert api.ledger.refused() == 0
    assert worst_excess(starts(api), RATE) <= 8
    assert max(starts(api)) <= 40 * 1.1


@pytest.mark.parametrize("lost", ["emptied", "away"])
@pytest.mark.parametrize(("workers", "rate"), [(40, RATE), (4, 1.0)])
def test_a_loss_gives_nothing_away_however_many_wait_for_their_turn(workers: int, rate: float, lost: str) -> None:
    api = SimulatedAPI(latency=Constant(0.5))
    boards = Boards()

    async def trouble() -> None:
        for _ in range(5):
            await asyncio.sleep(6.0)
            kept, boards.board = boards.board, None if lost == "away" else Board()
            await asyncio.sleep(3.0)
            boards.board = kept if lost == "away" else boards.board

    async def main() -> None:
        async with AsyncExitStack() as stack:
            quota = Quota(requests_per_minute=60 * rate, concurrency=400)
            models = [model_of(one, api, quota) for one in await engines(stack, boards, workers)]
            await asyncio.gather(
                trouble(), *(asked(model, int(50 * rate) // workers, str(n)) for n, model in enumerate(models))
            )

    run_virtual(main)
    assert worst_excess(starts(api), rate) <= 3.001  # rounded sums of many tenths
    assert max(starts(api)) <= 50 * 1.4


@pytest.mark.parametrize(("workers", "a_minute"), [(4, 15.0), (3, 30.0), (8, 6.0)])
def test_a_rate_below_one_a_second_is_kept_full_and_nobody_comes_early(workers: int, a_minute: float) -> None:
    api, rate = SimulatedAPI(latency=Constant(0.3)), a_minute / 60

    async def main() -> None:
        async with AsyncExitStack() as stack:
            quota = Quota(requests_per_minute=a_minute)
            models = [model_of(one, api, quota) for one in await engines(stack, Boards(), workers)]
            waiting = []
            for number in range(200):  # new ones come while others wait for their permits
                waiting += [asyncio.ensure_future(asked(model, 1, f"{number} {n}")) for n, model in enumerate(models)]
                await asyncio.sleep(1.0)
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    run_virtual(main)
    assert worst_excess(starts(api), rate) <= 2
    assert len(starts(api)) >= 200 * rate - 3


@pytest.mark.parametrize("workers", [1, 4, 12])
def test_calls_that_need_many_seconds_of_two_quotas_take_turns(workers: int) -> None:
    api = SimulatedAPI(latency=Constant(0.3))
    quota = Quota(requests_per_minute=15, tokens_per_minute=6000)  # four seconds of requests a call, and five of tokens

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            models = [model_of(one, api, quota) for one in await engines(stack, Boards(), workers)]
            began = loop.time()

            async def ask(model: Model, number: int) -> None:
                await asyncio.sleep(0.7 * number)
                await model.generate(f"{number}", Sampling(max_tokens=500))

            async with asyncio.timeout(1000):
                await asyncio.gather(*(ask(model, n) for model in models for n in range(24 // workers)))
            return loop.time() - began

    assert run_virtual(main) <= 24 * 5.1 + 6
    assert worst_excess(starts(api), 0.25) <= 2.1


def test_permits_that_came_due_while_the_process_stood_still_are_not_used() -> None:
    async def main() -> list[float]:
        share = Share(Boards().coordinator("a"), "q", lambda reason: None)
        meters = [SharedMeter(10.0, dimension, share) for dimension in ("requests", "tokens")]
        await meters[1].take_chunk(1.0)
        asyncio.get_running_loop().call_later(0.1, stand_still, LEASE_SECONDS + 0.5)
        await meters[0].take_chunk(1.0)
        assert not any(meter.covers(0.5) for meter in meters)
        await meters[0].take_chunk(1.0)
        return [meter.credit for meter in meters]

    assert asyncio.run(main()) == [1.0, 0.0]


def test_where_a_stranger_takes_a_part_everybody_probes_in_turn() -> None:
    api = SimulatedAPI(latency=Constant(0.3), requests_per_second=1.0, request_burst=5, stranger=0.5)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            models = [model_of(one, api, Quota(60)) for one in await engines(stack, Boards(), 8)]
            await asyncio.gather(*(asked(model, 5, str(n)) for n, model in enumerate(models)))

    run_virtual(main)
    assert api.ledger.refused() <= 40
    assert max(starts(api)) <= 100


def test_it_is_said_once_that_the_quota_is_lost_and_once_that_it_is_back() -> None:
    notes: list[str] = []
    boards = Boards()

    class Watch:
        def notify(self, event: object) -> None:
            if isinstance(event, Note):
                notes.append(event.text)

    api = SimulatedAPI(latency=Constant(0.1))

    async def main() -> None:
        async with AsyncExitStack() as stack:
            first, _ = [model_of(engine, api) for engine in await engines(stack, boards, 2, observers=[Watch()])]
            await asyncio.sleep(1.0)
            boards.board = None
            await asked(first, 30)
            boards.board = Board()
            await asyncio.sleep(1.0)

    run_virtual(main)
    assert [note.partition(" (")[0] for note in notes].count("the shared quota cannot be kept") == 2  # of each engine
    assert all("one of 2" in note for note in notes if "cannot be kept" in note)
    assert notes.count("the shared quota is back") == 2


def test_a_coordinator_that_is_not_there_at_the_start_is_an_error() -> None:
    boards = Boards()
    boards.board = None

    async def main() -> None:
        async with Engine(coordinator=boards.coordinator("a")):
            raise AssertionError

    with pytest.raises(ConfigError, match="the shared quota cannot be reached"):
        run_virtual(main)


def test_a_refusal_of_one_holds_all_back() -> None:
    api = SimulatedAPI(latency=Constant(0.2), faults=FaultPlan(1, 0.0))
    refusing = SimulatedAPI(latency=Constant(0.1), requests_per_second=0.2, request_burst=1)

    async def main() -> float:
        boards = Boards()
        async with AsyncExitStack() as stack:
            one, two = await engines(stack, boards, 2)
            refused, other = model_of(one, refusing), model_of(two, refusing)
            waiting = asyncio.ensure_future(asked(refused, 3, "a"))
            await asyncio.sleep(1.2)
            before = refusing.ledger.count()
            waiting_too = asyncio.ensure_future(asked(other, 1, "b"))
            await asyncio.sleep(2.0)
            started = refusing.ledger.count() - before
            for task in (waiting, waiting_too):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            return started

    assert run_virtual(main) == 0
    assert api.ledger.count() == 0


def test_stated_concurrency_is_divided_by_who_is_there() -> None:
    api = SimulatedAPI(latency=Constant(5.0))

    async def main() -> tuple[int, int]:
        async with AsyncExitStack() as stack:
            boards = Boards()
            models = [model_of(engine, api, Quota(concurrency=12)) for engine in await engines(stack, boards, 3)]
            await asyncio.sleep(1.0)
            tasks = [asyncio.ensure_future(asked(model, 20, str(n))) for n, model in enumerate(models)]
            await asyncio.sleep(1.0)
            together = api.ledger.in_flight()
            await asyncio.gather(*tasks)
            return together, api.ledger.max_in_flight()

    assert run_virtual(main) == (12, 12)


# -- questions ---------------------------------------------------------------------------------------------------------


def test_what_several_ask_is_answered_once() -> None:
    api, cache = SimulatedAPI(latency=LogNormal(1.0, 0.5)), MemoryCache()

    async def main() -> None:
        async with AsyncExitStack() as stack:
            models = [model_of(one, api) for one in await engines(stack, Boards(), 3, cache=cache)]
            await asyncio.gather(*(asked(model, 300) for model in models))

    run_virtual(main)
    assert api.ledger.count() == 300


def test_those_who_ask_the_same_divide_the_work() -> None:
    api, cache = SimulatedAPI(latency=Constant(1.0)), MemoryCache()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            some = await engines(stack, Boards(), 2, cache=cache)
            models = [model_of(engine, api, Quota(concurrency=100)) for engine in some]
            await asyncio.sleep(1.0)  # until both know of each other
            began = loop.time()
            await asyncio.gather(*(asked(model, 1000) for model in models))
            return loop.time() - began

    seconds = run_virtual(main)
    assert api.ledger.count() == 1000
    assert api.ledger.max_in_flight() == 100
    assert seconds <= 13  # of ten at least: one alone would have half of the places


def test_concurrency_is_not_exceeded_when_all_is_forgotten() -> None:
    api, boards = SimulatedAPI(latency=Constant(1.0)), Boards()

    async def main() -> None:
        async with AsyncExitStack() as stack:
            models = [model_of(engine, api, Quota(concurrency=12)) for engine in await engines(stack, boards, 3)]
            await asyncio.sleep(1.0)
            tasks = [asyncio.ensure_future(asked(model, 40, str(n))) for n, model in enumerate(models)]
            for _ in range(3):
                await asyncio.sleep(1.7)
                boards.board = Board()
            await asyncio.gather(*tasks)

    run_virtual(main)
    assert api.ledger.max_in_flight() == 12


def test_a_question_whose_asker_gives_up_or_fails_is_asked_by_another() -> None:
    api, cache = SimulatedAPI(latency=Constant(2.0), faults=FaultPlan(1, 1.0, ("refused",))), MemoryCache()

    async def main() -> str:
        async with AsyncExitStack() as stack:
            one, two = [model_of(engine, api) for engine in await engines(stack, Boards(), 2, cache=cache)]
            first = asyncio.ensure_future(one.generate("q"))
            second = asyncio.ensure_future(two.generate("q"))
            failed = await asyncio.gather(first, second, return_exceptions=True)
            assert all(isinstance(one, CallFailed) for one in failed), failed
            api.faults = None
            blocked = asyncio.ensure_future(one.generate("other"))
            await asyncio.sleep(0.5)
            waiting = asyncio.ensure_future(two.generate("other"))
            await asyncio.sleep(0.5)
            assert api.ledger.in_flight() == 1
            blocked.cancel()
            return (await waiting).text

    assert run_virtual(main)


def test_what_a_dead_worker_was_asking_is_asked_by_another() -> None:
    api, cache, boards = SimulatedAPI(latency=Constant(1.0)), MemoryCache(), Boards()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        dead = boards.coordinator("dead")
        async with AsyncExitStack() as stack:
            (engine,) = await engines(stack, boards, 1, cache=cache)
            model = model_of(engine, api)
            await dead.beat([])
            key = model._keys.of(Generate.of("q", model.sampling))
            assert await dead.claim([key]) == [True]
            began = loop.time()
            await model.generate("q")
            return loop.time() - began

    assert 2.0 <= run_virtual(main) <= 3.0 + 2 * LONGEST_POLL


@pytest.mark.parametrize("ends", ["failed", "withdrawn"])
def test_what_is_asked_again_at_once_stays_claimed_while_it_is_asked(ends: str) -> None:
    api, cache = SimulatedAPI(latency=Constant(6.0)), MemoryCache()

    async def main() -> int:
        async with AsyncExitStack() as stack:
            some = await engines(stack, Boards(), 2, cache=cache)
            one, two = [model_of(engine, api, Quota(concurrency=2)) for engine in some]
            waiting: list[asyncio.Future[object]] = []
            await asyncio.sleep(1.0)
            if ends == "failed":
                api.faults = FaultPlan(1, 1.0, ("refused",))
                with pytest.raises(CallFailed):
                    await one.generate("q")
                api.faults = None
            else:
                blocking = asyncio.ensure_future(one.generate("in the only place"))
                await asyncio.sleep(0.2)
                withdrawn = asyncio.ensure_future(one.generate("q"))
                await asyncio.sleep(0.2)
                withdrawn.cancel()
                waiting.append(blocking)
            before = api.ledger.count()
            waiting.append(asyncio.ensure_future(one.generate("q")))
            await asyncio.sleep(0.2)
            await asyncio.gather(*waiting, two.generate("q"))
            return api.ledger.count() - before

    assert run_virtual(main) == 1


class Late(MemoryCache):
    """What is found was there a while ago."""

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found = await super().get_many(keys)
        await asyncio.sleep(0.4)
        return found


def test_who_leaves_at_once_after_an_answer_has_it_asked_by_nobody() -> None:
    api, cache, boards = SimulatedAPI(latency=Constant(1.0)), Late(), Boards()

    async def leaving() -> None:
        async with Engine(coordinator=boards.coordinator("leaves"), cache=cache) as engine:
            await model_of(engine, api).generate("q")

    async def main() -> None:
        async with Engine(coordinator=boards.coordinator("stays"), cache=cache) as engine:
            left = asyncio.ensure_future(leaving())
            await asyncio.sleep(1.6)  # looks for it shortly before it is answered, and claims it shortly after
            await asyncio.gather(left, model_of(engine, api).generate("q"))

    run_virtual(main)
    assert api.ledger.count() == 1


def test_a_cache_of_ones_own_that_cannot_be_flushed_leaves_nobody_waiting() -> None:
    class Full(MemoryCache):
        async def flush(self) -> None:
            raise OSError("no space left on device")

    api, cache = SimulatedAPI(latency=Constant(0.3), faults=FaultPlan(1, 1.0, ("refused",))), Full()

    async def main() -> list[object]:
        async with AsyncExitStack() as stack:
            models = [model_of(one, api) for one in await engines(stack, Boards(), 2, cache=cache)]
            return await asyncio.gather(*(model.generate("q") for model in models), return_exceptions=True)

    assert all(isinstance(one, CallFailed) for one in run_virtual(main))


def test_a_coordinator_that_is_away_for_a_while_has_no_question_asked_twice() -> None:
    api, cache, boards = SimulatedAPI(latency=Constant(0.5)), MemoryCache(), Boards()

    async def main() -> None:
        async def trouble() -> None:
            for _ in range(3):
                await asyncio.sleep(2.0)
                board, boards.board = boards.board, None
                await asyncio.sleep(2.5)  # longer than a worker that is not heard of is taken for alive
                boards.board = board

        async with AsyncExitStack() as stack:
            models = [model_of(one, api) for one in await engines(stack, boards, 2, cache=cache)]
            await asyncio.gather(trouble(), *(asked(model, 300) for model in models))

    run_virtual(main)
    assert api.ledger.count() == 300


class Distant(MemoryCache):
    """One process's way to a common place; while that is ``away`` its own answers stay here."""

    def __init__(self, place: MemoryCache) -> None:
        super().__init__()
        self._place = place
        self.away = False

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return await super().get_many(keys) | ({} if self.away else await self._place.get_many(keys))

    async def flush(self) -> None:
        if not self.away:
            for key, value in self._values.items():
                self._place.put(key, value)
            self._values.clear()


@pytest.mark.parametrize("whose", [0, 1])
def test_a_cache_that_one_process_loses_for_a_while_has_no_question_asked_twice(whose: int) -> None:
    api, place = SimulatedAPI(latency=Constant(0.1)), MemoryCache()
    caches = [Distant(place), Distant(place)]

    async def main() -> None:
        async def trouble() -> None:
            for _ in range(3):
                await asyncio.sleep(3.3)
                caches[whose].away = True
                await asyncio.sleep(2.2)
                caches[whose].away = False

        async with AsyncExitStack() as stack:
            boards = Boards()
            models = [
                model_of(
                    await stack.enter_async_context(Engine(coordinator=boards.coordinator(f"w{n}"), cache=one)), api
                )
                for n, one in enumerate(caches)
            ]
            await asyncio.gather(trouble(), *(asked(model, 300) for model in models))

    run_virtual(main)
    assert api.ledger.count() == 300


def test_a_cache_that_stays_away_holds_nobody_up_for_long() -> None:
    api, cache = SimulatedAPI(latency=Constant(0.1)), Distant(MemoryCache())
    cache.away = True

    async def main() -> float:
        began = asyncio.get_running_loop().time()
        async with AsyncExitStack() as stack:
            (engine,) = await engines(stack, Boards(), 1, cache=cache)
            await asked(model_of(engine, api, Quota(concurrency=400)), 300)
        return asyncio.get_running_loop().time() - began

    assert run_virtual(main) <= CACHE_SECONDS + 3.0
    assert api.ledger.count() == 300


def test_without_a_coordinator_everybody_asks_after_a_while() -> None:
    api, boards = SimulatedAPI(latency=Constant(0.5)), Boards()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            (engine,) = await engines(stack, boards, 1, cache=MemoryCache())
            boards.board = None
            began = loop.time()
            await asked(model_of(engine, api, Quota(concurrency=400)), 300)
            return loop.time() - began

    assert run_virtual(main) <= PATIENCE_SECONDS + 5.0
