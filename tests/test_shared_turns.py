"""Turns at a shared quota that take long: who fails, withdraws, is overtaken or stops meanwhile holds nobody up."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest
from fakes import run_virtual
from shared_board import Boards, OfBoard

from asyncopt import Engine, Generate, Model, Priority, Quota, Sampling
from asyncopt.events import Events
from asyncopt.limits.meter import SharedMeter
from asyncopt.shared import SharingFailed
from asyncopt.shared.board import Board
from asyncopt.shared.share import Share
from asyncopt.shared.sharing import Sharing
from asyncopt.testing import Constant, SimulatedAPI
from asyncopt.values import Dimension

TOKENS = Quota(tokens_per_minute=6000)  # a hundred a second
BIG, SMALL = Sampling(max_tokens=5000), Sampling(max_tokens=10)


class Sharer:
    """Who has a share, and nothing else."""

    grants: Share

    def share(self, grants: Share) -> None:
        self.grants = grants

    def divide(self, workers: int) -> None:
        pass

    def paused_by_others(self, now: float, seconds: float) -> None:
        pass


class Untakable(OfBoard):
    """Its beats are answered and no take ever is, as where somebody wrote over the key of one bucket."""

    async def take(self, quota: str, dimension: Dimension, amount: float, rate: float, bucket: float) -> float:
        raise SharingFailed("not a number")


async def sharing(stack: AsyncExitStack, coordinator: OfBoard) -> Share:
    """The share of an engine that has joined."""
    one, sharer = Sharing(coordinator, Events()), Sharer()
    await one.start()
    stack.push_async_callback(one.aclose)
    one.join("endpoint", "account", "scope", sharer)
    return sharer.grants


# -- on its own --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [100.0, 10.0, 1.0])
def test_takes_that_fail_while_beats_are_answered_starve_nobody(rate: float) -> None:
    boards = Boards()

    async def main() -> list[float]:
        times = []
        async with AsyncExitStack() as stack:
            for number in range(3):
                await sharing(stack, boards.coordinator(f"other {number}"))
            share = await sharing(stack, Untakable(boards, "a"))
            await asyncio.sleep(1.0)  # until all have been counted
            async with asyncio.timeout(40 * (4 / rate + 2.0)):
                for _ in range(20):
                    await share.take("requests", 1.0, rate, 2.0)
                    times.append(asyncio.get_running_loop().time())
        return times

    times = run_virtual(main)
    assert times[-1] - times[0] >= 19 * 4 / rate * 0.9  # and never more than its own part


def test_who_is_on_its_own_goes_back_to_its_turn_as_soon_as_the_quota_is_back() -> None:
    boards = Boards()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            shares = [await sharing(stack, boards.coordinator(f"w{number}")) for number in range(8)]
            await asyncio.sleep(2.0)
            kept, boards.board = boards.board, None
            loop.call_later(1.0, setattr, boards, "board", kept)
            began = loop.time()
            await shares[0].take("requests", 1.0, 0.1, 1.01)
            return loop.time() - began

    assert run_virtual(main) <= 13.0  # of its turn it waits ten seconds, and of its own part eighty


# -- permits that nobody uses ------------------------------------------------------------------------------------------


def test_permits_that_have_expired_are_not_given_back() -> None:
    boards = Boards()

    async def main() -> tuple[float, float]:
        coordinator = boards.coordinator("a")
        share = Share(coordinator, "q", lambda reason: None)
        meter = SharedMeter(10.0, "tokens", share)
        await meter.take_chunk(300.0)
        await asyncio.sleep(3600.0)  # stopped, and its call withdrawn
        await coordinator.take("q", "tokens", 300.0, 10.0, 2.0)  # somebody else keeps the quota full
        before = await coordinator.take("q", "tokens", 1.0, 10.0, 2.0)
        meter.forget_credit()
        await asyncio.sleep(0.0)
        return before, await coordinator.take("q", "tokens", 1.0, 10.0, 2.0)

    before, after = run_virtual(main)
    assert after == pytest.approx(before + 0.1)


# -- a turn that is not wanted any more --------------------------------------------------------------------------------


def tokens_ahead(board: Board | None, now: float) -> float:
    """For how many seconds of the only bucket of tokens there are promises."""
    assert board is not None
    (tat,) = (tat for (_, dimension), tat in board.buckets._tats.items() if dimension == "tokens")
    return tat - now


async def model_in(stack: AsyncExitStack, api: SimulatedAPI, boards: Boards | None, name: str = "a") -> Model:
    engine = Engine(coordinator=boards and boards.coordinator(name), grace=0.0)
    model = (await stack.enter_async_context(engine)).model("m", endpoint=api.endpoint(), quota=TOKENS)
    await model.generate("warm", SMALL)
    return model


@pytest.mark.parametrize("shared", [True, False])
def test_a_withdrawn_large_call_lets_the_next_small_one_start_at_once(shared: bool) -> None:
    api = SimulatedAPI(latency=Constant(0.1))

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            model = await model_in(stack, api, Boards() if shared else None)
            big = asyncio.ensure_future(model.generate("big", BIG))
            await asyncio.sleep(0.2)
            waiting = asyncio.ensure_future(model.generate("small", SMALL))
            await asyncio.sleep(0.1)
            big.cancel()
            began = loop.time()
            await waiting
            return loop.time() - began

    assert run_virtual(main) <= 1.0
    assert api.ledger.count() == 2


@pytest.mark.parametrize("shared", [True, False])
def test_a_call_that_goes_first_overtakes_a_large_one_that_waits(shared: bool) -> None:
    api = SimulatedAPI(latency=Constant(0.1))

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            model = await model_in(stack, api, Boards() if shared else None)
            began = loop.time()
            big = asyncio.ensure_future(model.generate("big", BIG))
            await asyncio.sleep(5.0)
            await model.submit(Generate.of("urgent", SMALL), priority=Priority.PROPOSE)
            urgent = loop.time() - began
            await big
            return urgent, loop.time() - began

    urgent, big = run_virtual(main)
    assert urgent <= 6.0
    assert big <= 60.0


@pytest.mark.parametrize("away", [True, False])
def test_a_large_call_that_is_overtaken_again_and_again_is_not_set_back(away: bool) -> None:
    api, boards = SimulatedAPI(latency=Constant(0.1)), Boards()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            model = await model_in(stack, api, boards)
            if away:
                boards.board = None
            began = loop.time()
            big = asyncio.ensure_future(model.generate("big", Sampling(max_tokens=1000)))
            for number in range(100):
                await asyncio.sleep(3.0)
                if big.done():
                    break
                await model.submit(Generate.of(f"urgent {number}", SMALL), priority=Priority.PROPOSE)
            await big
            return loop.time() - began

    assert run_virtual(main) <= 16.0


def test_who_is_overtaken_before_its_turn_has_come_does_not_lose_it() -> None:
    api, boards = SimulatedAPI(latency=Constant(0.1)), Boards()

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            models = [await model_in(stack, api, boards, name) for name in "abc"]
            began = loop.time()

            async def ask(model: Model, after: float, request: Generate, priority: Priority = Priority.SCORE) -> float:
                await asyncio.sleep(after)
                await model.submit(request, priority=priority)
                return loop.time() - began

            first, second, third = models
            return await asyncio.gather(
                ask(first, 0.0, Generate.of("first", BIG)),
                ask(second, 1.0, Generate.of("second", BIG)),
                ask(third, 2.0, Generate.of("third", BIG)),
                ask(second, 3.0, Generate.of("urgent", SMALL), Priority.PROPOSE),
            )

    *_, urgent = run_virtual(main)
    assert urgent <= 55.0  # the first one's fifty seconds, and not those of the third


class Slow(OfBoard):
    """Says what it has granted after a while."""

    async def take(self, quota: str, dimension: Dimension, amount: float, rate: float, bucket: float) -> float:
        wait = await super().take(quota, dimension, amount, rate, bucket)
        await asyncio.sleep(0.2)
        return wait


def test_permits_that_are_granted_to_somebody_who_has_gone_are_given_back() -> None:
    boards = Boards()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        share = Share(Slow(boards, "a"), "q", lambda reason: None)
        taking = asyncio.ensure_future(share.take("tokens", 5000.0, 100.0, 10.0))
        await asyncio.sleep(0.1)
        assert tokens_ahead(boards.board, loop.time()) >= 40.0
        taking.cancel()
        await asyncio.sleep(0.5)
        return tokens_ahead(boards.board, loop.time())

    assert run_virtual(main) <= 1.0


def test_permits_of_a_withdrawn_turn_are_there_for_others() -> None:
    api, boards = SimulatedAPI(latency=Constant(0.1)), Boards()

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            one = await model_in(stack, api, boards)
            other = await model_in(stack, api, boards, "b")
            big = asyncio.ensure_future(one.generate("big", BIG))
            await asyncio.sleep(0.2)
            ahead = tokens_ahead(boards.board, loop.time())
            big.cancel()
            await asyncio.sleep(0.1)
            began = loop.time()
            await other.generate("small", SMALL)
            return ahead, loop.time() - began

    ahead, seconds = run_virtual(main)
    assert ahead >= 40.0
    assert seconds <= 1.0


def test_an_engine_that_stops_in_the_middle_of_a_turn_leaves_nothing_behind() -> None:
    api, boards = SimulatedAPI(latency=Constant(0.1)), Boards()

    async def main() -> tuple[float, set[str]]:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            model = await model_in(stack, api, boards)
            big = asyncio.ensure_future(model.generate("big", BIG))
            await asyncio.sleep(0.2)
            assert tokens_ahead(boards.board, loop.time()) >= 40.0
            before = loop.time()
        assert loop.time() - before <= 0.5
        with suppress(Exception):
            await big
        left = {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        return tokens_ahead(boards.board, loop.time()), left

    ahead, left = run_virtual(main)
    assert ahead <= 1.0
    assert not left
    assert api.ledger.count() == 1
