"""What servers, callers and clocks may do to the control loops: every call ends, and no quota is overrun."""

from __future__ import annotations

import asyncio
from itertools import count
from math import ceil

import pytest
from fakes import FakeEndpoint, echo, run_virtual
from hypothesis import given, settings
from hypothesis import strategies as st
from test_adaptive import RATE, UNKNOWN, Watcher, ask, many, server

from asyncopt import Engine, Generate, MemoryCache, Quota
from asyncopt.dispatch import Dispatcher
from asyncopt.errors import BudgetExhausted, CallFailed
from asyncopt.events import CacheDegraded
from asyncopt.limits.budget import Account, Budget
from asyncopt.testing import Constant, SimulatedAPI
from asyncopt.values import Allowance, Completion, Fault, FaultKind, RateLimits, Usage


def test_a_server_that_refuses_everything_for_a_minute_and_says_come_back_at_once_is_not_flooded() -> None:
    def respond(request: Generate, number: int) -> Completion | Fault:
        return Fault(FaultKind.RATE_LIMITED, "429", 0.0) if endpoint.started[number] < 60 else echo(request)

    endpoint = FakeEndpoint(respond)

    async def main() -> int:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            return len(await asyncio.gather(*(model.submit(ask(n)) for n in range(100))))

    assert run_virtual(main) == 100
    assert sum(time < 60 for time in endpoint.started) <= 100
    assert endpoint.started[-1] <= 120


@pytest.mark.parametrize(
    "verdict",
    [
        Fault(FaultKind.BAD_REQUEST, "400"),
        Fault(FaultKind.TOO_LARGE, "413"),
        Fault(FaultKind.REFUSED, "no"),
        Fault(FaultKind.TRUNCATED, "length"),
        Fault(FaultKind.MALFORMED, "half"),
        Fault(FaultKind.TRANSIENT, "500"),
        Fault(FaultKind.AMBIGUOUS, "reset"),
        ZeroDivisionError(),
    ],
)
def test_the_gate_opens_again_whatever_becomes_of_the_probe(verdict: Fault | Exception) -> None:
    def respond(request: Generate, number: int) -> Completion | Fault:
        if number == 1 and isinstance(verdict, Exception):
            raise verdict
        return {0: Fault(FaultKind.RATE_LIMITED, "429", 5.0), 1: verdict}.get(number, echo(request))  # type: ignore[return-value]

    endpoint = FakeEndpoint(respond, seconds=0.1)

    async def main() -> list[Completion | BaseException]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=1))
            return list(await asyncio.gather(*(model.submit(ask(n)) for n in range(20)), return_exceptions=True))

    results = run_virtual(main)
    assert sum(isinstance(result, CallFailed) for result in results) <= 1
    assert endpoint.started[-1] < 60


def test_a_probe_that_is_withdrawn_or_hangs_or_cannot_be_paid_leaves_the_gate_to_the_next() -> None:
    def respond(request: Generate, number: int) -> Completion | Fault:
        return Fault(FaultKind.RATE_LIMITED, "429", 5.0) if number == 0 else echo(request)

    endpoint = FakeEndpoint(respond, seconds=0.5)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=1), timeout=20.0)
            poor = model.charged_to(Account(Budget(calls=1)))
            futures = [poor.submit(ask("poor"))]
            gone = [model.submit(ask(f"gone {n}")) for n in range(2)]
            futures += [model.submit(ask(n)) for n in range(5)]
            await asyncio.sleep(1)
            assert gone[0].cancel()  # while the gate is closed
            with pytest.raises(BudgetExhausted):
                await futures[0]  # its one call was refused, and it cannot be the probe
            await asyncio.sleep(0.1)
            endpoint.seconds = 30.0
            assert gone[1].cancel()  # it is the probe, and out
            await asyncio.sleep(3)
            endpoint.seconds = 0.5
            await asyncio.gather(*futures[1:])

    run_virtual(main)
    assert len(endpoint.started) >= 7


def test_a_call_that_is_larger_than_the_server_ever_grants_holds_up_nobody() -> None:
    api = SimulatedAPI(latency=Constant(0.2), tokens_per_second=1000, token_burst=500, headers="none")

    async def main() -> tuple[float, BaseException | Completion]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=Quota(concurrency=8))
            large = model.submit(ask("large", max_tokens=600))
            await asyncio.gather(*(model.submit(ask(n, max_tokens=20)) for n in range(200)))
            took = asyncio.get_running_loop().time()
            (result,) = await asyncio.gather(large, return_exceptions=True)
            return took, result

    took, result = run_virtual(main)
    assert took < 120
    assert isinstance(result, CallFailed)


def test_a_call_that_is_larger_than_a_minutes_quota_passes_when_it_is_paid_for() -> None:
    endpoint = FakeEndpoint(lambda request, number: Completion("x", usage=Usage(10, 990)))

    async def main() -> None:
        async with Engine() as engine:
            quota = Quota(output_tokens_per_minute=600, concurrency=8)
            model = engine.model("m", endpoint=endpoint, quota=quota)
            await asyncio.gather(model.submit(ask(0, max_tokens=990)), model.submit(ask(1, max_tokens=10)))

    run_virtual(main)
    assert endpoint.started == pytest.approx([99.0, 100.0], abs=1.1)


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.none() | st.sampled_from([0.0, 1.0, 60.0, 6000.0, 1e12]),
            st.none() | st.sampled_from([-1e9, 0.0, 5.0, 1e12]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.none() | st.sampled_from([0.0, 0.001, 1.0, 120.0]), max_size=4),
)
def test_whatever_the_headers_say_every_call_ends(
    says: list[tuple[float | None, float | None]], refusals: list[float | None]
) -> None:
    def respond(request: Generate, number: int) -> Completion | Fault:
        limits = RateLimits(*(Allowance(*says[(number + shift) % len(says)]) for shift in range(4)))
        if number % 7 == 3 and number // 7 < len(refusals):
            return Fault(FaultKind.RATE_LIMITED, "429", refusals[number // 7], limits=limits)
        return Completion("x", usage=Usage(3, 1), limits=limits)

    endpoint = FakeEndpoint(respond, seconds=0.2)

    async def main() -> int:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            return len(await asyncio.gather(*(model.submit(ask(n, max_tokens=1)) for n in range(30))))

    assert run_virtual(main) == 30


def test_an_hour_of_rest_is_no_reason_to_jump() -> None:
    api = server(headers="none", keep_prompts=True)
    watcher = Watcher()

    async def main() -> Dispatcher:
        async with Engine(observers=[watcher]) as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=UNKNOWN)
            await many(model, 500)
            learned = engine.dispatchers[0].control.lanes.requests.rate
            assert learned is not None
            await asyncio.sleep(3600)
            await asyncio.gather(*(model.submit(ask(f"again {n}")) for n in range(2000)))
            rates = [change.value or 0.0 for change in watcher.changes("requests", since=3600)]
            assert rates[0] <= learned * 1.05
            assert min(rates) > 0.6 * RATE  # no refusal takes the hour for a time in which nothing was granted
            return engine.dispatchers[0]

    dispatcher = run_virtual(main)
    again = [entry.arrived for entry in api.ledger.entries if entry.prompt.startswith("question again")]
    assert sum(time <= again[0] + 0.05 for time in again) <= 0.15 * RATE + 3
    assert dispatcher.ticker.limited["proposals"] == pytest.approx(3600, abs=0.2)


def test_ten_thousand_that_wait_and_are_all_cancelled_cost_nothing() -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> tuple[int, int]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(requests_per_minute=60, concurrency=5))
            futures = [model.submit(ask(n)) for n in range(10_000)]
            await asyncio.sleep(0)
            for future in futures:
                future.cancel()
            await model.submit(ask("after"))
            return engine.dispatchers[0].queued, len(engine._shared)

    assert run_virtual(main) == (0, 0)
    assert len(endpoint.started) <= 3


def test_a_deadline_and_the_end_of_the_engine_may_come_together() -> None:
    class Slow(FakeEndpoint):
        async def send(self, model: str, request: Generate) -> Completion:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(2)  # to close its connection
            return echo(request)

    async def main() -> int:
        async with Engine(grace=0.0) as engine:
            model = engine.model("m", endpoint=Slow(), timeout=3.0)
            future = model.submit(ask(1))
            await asyncio.sleep(4)  # its deadline has passed, and it is being ended
        assert future.exception() is not None
        return len(asyncio.all_tasks())

    async def bounded() -> int:
        return await asyncio.wait_for(main(), 60)

    assert run_virtual(bounded) == 2  # these two


def test_closing_while_the_gate_is_closed_ends_everybody() -> None:
    endpoint = FakeEndpoint(lambda *_: Fault(FaultKind.RATE_LIMITED, "429", 100.0))

    async def main() -> list[BaseException | Completion]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            futures = [model.submit(ask(n)) for n in range(50)]
            await asyncio.sleep(1)
        assert asyncio.get_running_loop().time() == 1.0
        return list(await asyncio.gather(*futures, return_exceptions=True))

    assert all(isinstance(result, Exception) for result in run_virtual(main))


def test_a_cache_that_cannot_keep_an_answer_does_not_keep_it_from_those_who_wait() -> None:
    class Full(MemoryCache):
        def put(self, key: bytes, value: bytes) -> None:
            raise OSError("no space")

    watcher = Watcher()

    async def main() -> int:
        async with Engine(cache=Full(), observers=[watcher]) as engine:
            model = engine.model("m", endpoint=FakeEndpoint())
            return len(await asyncio.gather(*(model.submit(ask(n)) for n in range(3))))

    assert run_virtual(main) == 3
    assert sum(isinstance(event, CacheDegraded) for _, event in watcher.events) == 1


@given(
    st.floats(60, 60_000),
    st.integers(1, 40),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 30)), min_size=1, max_size=6),
)
def test_a_stated_rate_is_never_exceeded_over_any_second_by_more_than_the_burst(
    per_minute: float, concurrency: int, plan: list[tuple[float, int]]
) -> None:
    endpoint = FakeEndpoint(seconds=0.05)

    async def main() -> None:
        numbers = count()
        async with Engine() as engine:
            quota = Quota(requests_per_minute=per_minute, concurrency=concurrency)
            model = engine.model("m", endpoint=endpoint, quota=quota)
            futures = []
            for pause, calls in plan:
                await asyncio.sleep(pause)
                futures += [model.submit(ask(next(numbers))) for _ in range(calls)]
            await asyncio.gather(*futures)

    run_virtual(main)
    rate = per_minute / 60
    burst = max(2.0, 0.1 * rate) + max(1.0, 0.02 * rate)
    times = endpoint.started
    for time in times:
        assert sum(time <= other < time + 1 for other in times) <= ceil(rate + burst) + 1
    assert endpoint.most_in_flight <= concurrency
