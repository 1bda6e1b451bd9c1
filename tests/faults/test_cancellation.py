"""Cancelled at every step of the loop: nothing leaks, nothing that was paid is lost, and no answer goes astray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from scripted import Scripted, answer, failure

from asyncopt import Completion, Engine, Generate, Model, Quota
from asyncopt.cache import MemoryCache
from asyncopt.dispatch import Dispatcher
from asyncopt.endpoints.protocol import Answer, Reply
from asyncopt.errors import AsyncoptError
from asyncopt.loops import loop_factory
from asyncopt.testing import SimulatedAPI, run_virtual
from asyncopt.values import Request

Victim = Literal["first", "follower", "all", "worker", "engine", "engine twice", "study"]
PROMPTS = ("a", "a", "b", "c", "d")  # the first two are one call with two who wait for it
QUOTA = Quota(requests_per_minute=1200, concurrency=2)
LAST_STEP = 400


class Troubled(Scripted):
    """A server that refuses once and fails once, and says what it was asked; remembers which answers it gave."""

    def __init__(self) -> None:
        super().__init__(self._reply, seconds=0.5)
        self.given: list[str] = []

    def _reply(self, number: int, prompt: str) -> Reply:
        if number == 1:
            return failure(429, None, {"retry-after-ms": "200"})
        if number == 3:
            return failure(500)
        return answer(f"re: {prompt}")

    async def send(self, model: str, request: Request) -> Answer:
        got = await super().send(model, request)
        if isinstance(got, Completion):
            self.given.append(request.prompt[-1].content)
        return got


@dataclass
class Run:
    """One run of the scenario, and what was there when it had ended."""

    victim: Victim
    step: int
    endpoint: Troubled = field(default_factory=Troubled)
    cache: MemoryCache = field(default_factory=MemoryCache)
    results: dict[int, Completion | BaseException] = field(default_factory=dict)
    reached: bool = False
    model: Model | None = None
    dispatcher: Dispatcher | None = None

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        tasks: dict[str, list[asyncio.Task[Any]]] = {}
        body = asyncio.ensure_future(self._body(tasks))
        tasks["engine"] = [body]
        _at_step(loop, self.step, lambda: self._cancel(tasks))
        if self.victim == "engine twice":
            _at_step(loop, self.step + 3, lambda: self._cancel(tasks))
        await asyncio.wait([body])
        assert body.cancelled() or body.exception() is None
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def _body(self, tasks: dict[str, list[asyncio.Task[Any]]]) -> None:
        async with Engine(cache=self.cache, grace=5.0) as engine:
            self.model = engine.model("m", endpoint=self.endpoint, quota=QUOTA)
            self.dispatcher = engine.dispatchers[0]
            tasks["calls"] = [asyncio.ensure_future(self._call(place)) for place in range(len(PROMPTS))]
            await asyncio.gather(*tasks["calls"], return_exceptions=True)
            if self.victim == "study":
                await asyncio.sleep(0)
            else:  # what is left of the limits still lets somebody through
                with suppress(AsyncoptError if self.victim == "worker" else ()):  # it may be this call's own
                    assert (await self.model.generate("z")).text == "re: z"
                assert self.dispatcher.in_flight <= 2

    async def _call(self, place: int) -> None:
        assert self.model is not None
        try:
            self.results[place] = await self.model.generate(PROMPTS[place])
        except BaseException as error:
            self.results[place] = error
            raise

    def _cancel(self, tasks: dict[str, list[asyncio.Task[Any]]]) -> None:
        calls = tasks.get("calls", [])
        workers = [] if self.dispatcher is None else list(self.dispatcher.in_flight_calls)
        victims: list[asyncio.Task[Any]] = {
            "first": calls[:1],
            "follower": calls[1:2],
            "all": calls,
            "study": calls,
            "worker": workers[:1],
            "engine": tasks["engine"],
            "engine twice": tasks["engine"],
        }[self.victim]
        self.reached = self.reached or not tasks["engine"][0].done()
        for task in victims:
            task.cancel()


def _at_step(loop: asyncio.AbstractEventLoop, step: int, act: Callable[[], None]) -> None:
    """Do something right before the loop's step with this number from now."""
    once: Callable[[], None] = loop._run_once  # type: ignore[attr-defined]
    steps = iter(range(step + 1))

    def counted() -> None:
        if next(steps, None) == step:
            act()
        once()

    loop._run_once = counted  # type: ignore[attr-defined]


def held_by(run: Run) -> None:
    """P1-P3 for one run, whatever was cancelled when."""
    assert run.model is not None
    assert run.dispatcher is not None
    account = run.model.account
    assert run.dispatcher.slots.in_use == 0
    assert run.dispatcher.in_flight == run.dispatcher.queued == 0
    assert (account._reserved_tokens, account._reserved_usd) == (pytest.approx(0.0), 0.0)
    assert account.calls == run.dispatcher.counts.attempts
    assert 0 <= account.calls - len(run.endpoint.arrived) <= 2  # started on the books, and cut before it was sent
    assert run.endpoint.in_flight == 0
    for place, result in run.results.items():
        if isinstance(result, Completion):
            assert result.text == f"re: {PROMPTS[place]}"
        else:
            assert isinstance(result, asyncio.CancelledError | AsyncoptError)
    kept = b"".join(run.cache._values.values())
    assert [prompt for prompt in run.endpoint.given if f"re: {prompt}".encode() not in kept] == []
    answers = len(run.cache._values)
    assert answers == len(set(run.endpoint.given)) == len(run.endpoint.given)  # and none was paid for twice
    assert account.input_tokens == 10 * answers


@pytest.mark.row("T16")
@pytest.mark.parametrize("victim", ["first", "follower", "all", "worker", "engine", "engine twice", "study"])
def test_cancelled_at_every_step(victim: Victim) -> None:
    for step in range(LAST_STEP):
        run = Run(victim, step)
        run_virtual(run.main)
        if not run.reached:
            break
        if run.model is None:
            continue  # cancelled before there was an engine
        held_by(run)
        ended_well = sum(isinstance(result, Completion) for result in run.results.values())
        if victim in ("first", "follower"):
            assert ended_well >= len(PROMPTS) - 1
        elif victim == "worker":
            assert ended_well >= len(PROMPTS) - 2  # the call that the worker had, and whoever else waited for it
    else:
        pytest.fail("the scenario takes more steps than are looked at")
    assert step > 30


# -- on real sockets ---------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.row("T16")
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
def test_cancelled_on_uvloop_with_real_sockets(turns: int) -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_over_sockets(turns))


async def _over_sockets(turns: int) -> None:
    api = SimulatedAPI(seed=turns)
    async with api.serve() as url, Engine(cache=(cache := MemoryCache()), grace=5.0) as engine:
        model = engine.model("m", base_url=url, quota=Quota(concurrency=8))
        tasks = [asyncio.ensure_future(model.generate(f"Repeat: {number}")) for number in range(40)]
        for task in tasks[::2]:
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        alone = {f"Repeat: {number}": await model.generate(f"Repeat: {number}") for number in range(40)}
        for number, result in enumerate(results):
            if isinstance(result, Completion):
                assert result == alone[f"Repeat: {number}"]
            else:
                assert isinstance(result, asyncio.CancelledError)
                assert number % 2 == 0
        prompts = [entry.prompt for entry in api.ledger.entries if entry.status == 200]
        assert sorted(prompts) == sorted(set(prompts))  # what was paid for was kept, and asked once
        assert len(cache._values) == len(prompts) == 40
        dispatcher = engine.dispatchers[0]
        assert dispatcher.slots.in_use == dispatcher.queued == 0
        assert model.account._reserved_tokens == pytest.approx(0.0)


# -- draining ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("T16")
@pytest.mark.parametrize(("grace", "arrive"), [(0.0, 0), (0.5, 0), (10.0, 4)])
def test_draining_starts_nothing_and_waits_for_what_is_in_flight(grace: float, arrive: int) -> None:
    endpoint, cache = Scripted(lambda _, prompt: answer(prompt)), MemoryCache()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Engine(cache=cache, grace=0.0) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=4))
            futures = [model.submit(Generate.of(f"q{number}")) for number in range(20)]
            await asyncio.sleep(0.25)
            began = loop.time()
            await engine.drain(grace)
            assert loop.time() - began <= min(grace, 1.0)
            assert sum(future.done() for future in futures) == arrive
            late = model.submit(Generate.of("late"))
            await asyncio.sleep(2.0)
            assert len(endpoint.arrived) == 4
            assert not late.done()
        assert all(future.done() for future in (*futures, late))
        assert len(cache._values) == 4  # the others arrived while nobody stopped them

    run_virtual(main)


@pytest.mark.row("T16")
def test_a_drain_and_the_end_of_the_engine_may_come_at_once() -> None:
    endpoint = Scripted(lambda *_: answer(), seconds=1.0)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with Engine(grace=60.0) as engine:
            future = engine.model("m", endpoint=endpoint).submit(Generate.of("q"))
            await asyncio.sleep(0.1)
            draining = asyncio.ensure_future(engine.drain(60.0))
            await asyncio.sleep(0.1)
        await draining
        assert future.done()
        return loop.time()

    assert run_virtual(main) < 2.0


@pytest.mark.row("T16")
def test_a_refused_call_is_not_verified_while_draining() -> None:
    endpoint = Scripted(lambda *_: failure(401))

    async def main() -> None:
        async with Engine() as engine:
            future = engine.model("m", endpoint=endpoint).submit(Generate.of("q"))
            await asyncio.sleep(0.1)
            await engine.drain(5.0)
            assert not future.done()
        assert len(endpoint.arrived) == 1

    run_virtual(main)
