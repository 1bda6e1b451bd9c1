"""The engine against servers whose limits it must find, in virtual time; the server's ledger is the judge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count, pairwise
from typing import Any

import pytest
from fakes import FakeEndpoint, echo, run_virtual

from asyncopt import Engine, Generate, Priority, Quota, Sampling
from asyncopt.dispatch import Dispatcher
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.events import Event, LimitChanged, Note
from asyncopt.limits import descriptors
from asyncopt.testing import Constant, LogNormal, SimulatedAPI
from asyncopt.values import Completion, Fault, FaultKind

RATE = 100.0


class Watcher:
    def __init__(self) -> None:
        self.events: list[tuple[float, Event]] = []

    def notify(self, event: Event) -> None:
        self.events.append((asyncio.get_running_loop().time(), event))

    def changes(self, what: str, since: float = 0.0) -> list[LimitChanged]:
        late = [event for time, event in self.events if time >= since]
        return [event for event in late if isinstance(event, LimitChanged) and event.what == what]


def ask(number: object, **sampling: Any) -> Generate:
    return Generate.of(f"question {number}", Sampling(**sampling))


def steady(
    endpoint: Any, quota: Quota, seconds: float, watcher: Watcher | None = None, wanted: int = 300
) -> Dispatcher:
    """Keep so many calls wanted for so long."""

    async def main() -> Dispatcher:
        numbers, over = count(), False

        def submit() -> None:
            future = model.submit(Generate.of(f"q {next(numbers)}", Sampling(max_tokens=1)))
            future.add_done_callback(ended)

        def ended(future: asyncio.Future[Completion]) -> None:
            if not over and not future.cancelled():
                assert future.exception() is None
                submit()

        async with Engine(grace=0.0, observers=[watcher] if watcher else []) as engine:
            model = engine.model("m", endpoint=endpoint, quota=quota)
            for _ in range(wanted):
                submit()
            await asyncio.sleep(seconds)
            over = True
            return engine.dispatchers[0]

    return run_virtual(main)


def granted(api: SimulatedAPI, since: float, until: float) -> float:
    """Requests a second that were let through."""
    let = sum(entry.status != 429 for entry in api.ledger.entries if since <= entry.arrived < until)
    return let / (until - since)


def server(**options: Any) -> SimulatedAPI:
    options = {"latency": LogNormal(0.2, 0.4), "requests_per_second": RATE, "keep_prompts": False} | options
    if "request_window" not in options:
        options.setdefault("request_burst", 12.0)
    return SimulatedAPI(**options)


KNOWN = Quota(requests_per_minute=60 * RATE, concurrency=512)
UNKNOWN = Quota(concurrency=512)


@pytest.mark.parametrize("burst", [12.0, 200.0])
@pytest.mark.parametrize("refused_count", [False, True])
@pytest.mark.parametrize("headers", ["openai", "none"])
def test_a_known_quota_is_full_and_nothing_is_refused(burst: float, refused_count: bool, headers: str) -> None:
    api = server(request_burst=burst, refused_count=refused_count, headers=headers)
    steady(api.endpoint(), KNOWN, 25)
    assert api.ledger.refused() == 0
    assert granted(api, 1, 25) >= 0.98 * RATE
    assert api.ledger.max_in_window(1) <= RATE + 12


@pytest.mark.parametrize("quota", [UNKNOWN, Quota()])
@pytest.mark.parametrize("refused_count", [False, True])
def test_a_quota_in_the_headers_is_full_and_nothing_is_refused(quota: Quota, refused_count: bool) -> None:
    api = server(refused_count=refused_count)
    watcher = Watcher()
    steady(api.endpoint(), quota, 30, watcher)
    assert api.ledger.refused() == 0
    assert granted(api, 5, 30) >= 0.93 * RATE
    assert watcher.changes("requests")[0].value == pytest.approx(0.95 * RATE)


@pytest.mark.parametrize("retry_after", [True, False])
@pytest.mark.parametrize("burst", [12.0, 200.0])
def test_a_quota_that_nobody_states_is_found(retry_after: bool, burst: float) -> None:
    api = server(headers="none", retry_after=retry_after, request_burst=burst, refused_count=True)
    steady(api.endpoint(), UNKNOWN, 100)
    assert granted(api, 60, 100) >= 0.9 * RATE
    assert api.ledger.refused() <= 0.01 * api.ledger.count()


@pytest.mark.parametrize("latency", [10.0, 30.0])
def test_a_refusal_does_not_cost_the_time_of_an_answer(latency: float) -> None:
    api = SimulatedAPI(
        latency=Constant(latency), requests_per_second=10, request_burst=12, headers="none", keep_prompts=False
    )
    steady(api.endpoint(), UNKNOWN, 300, wanted=600)
    assert granted(api, 150, 300) >= 0.9 * 10


def test_a_halving_in_the_headers_is_followed_in_ten_seconds() -> None:
    api = server(change=(20.0, 0.5))
    steady(api.endpoint(), UNKNOWN, 50)
    assert granted(api, 30, 50) == pytest.approx(RATE / 2, rel=0.05)
    assert sum(entry.status == 429 for entry in api.ledger.entries if entry.arrived > 30) == 0


@pytest.mark.parametrize("retry_after", [True, False])
def test_a_silent_halving_is_followed_in_thirty_seconds(retry_after: bool) -> None:
    api = server(headers="none", retry_after=retry_after, change=(60.0, 0.5), silent_change=True)
    steady(api.endpoint(), UNKNOWN, 120)
    assert granted(api, 90, 120) >= 0.9 * RATE / 2
    assert api.ledger.refused() <= 0.01 * api.ledger.count()


def test_a_quota_that_a_stranger_draws_on_is_shared() -> None:
    api = server(stranger=0.3, request_burst=200.0)
    steady(api.endpoint(), UNKNOWN, 60)
    assert granted(api, 20, 60) >= 0.93 * 0.7 * RATE
    assert api.ledger.refused() <= 0.01 * api.ledger.count()


def test_a_sliding_window_costs_its_first_period_at_most() -> None:
    api = server(request_window=10.0)
    steady(api.endpoint(), KNOWN, 60)
    assert granted(api, 20, 60) >= 0.98 * RATE
    assert api.ledger.refused() <= 0.01 * api.ledger.count()


def test_every_change_of_a_limit_is_an_event() -> None:
    watcher = Watcher()
    api = server(headers="none", change=(30.0, 0.5), silent_change=True)
    dispatcher = steady(api.endpoint(), Quota(concurrency="5-300-400"), 60, watcher)
    opening = [event.value for event in watcher.changes("concurrency")]
    assert opening[:4] == [9, 10, 11, 12]
    assert opening[-1] == dispatcher.slots.limit
    assert all(one != two for one, two in pairwise(opening))
    assert watcher.changes("requests")[-1].value == dispatcher.control.lanes.requests.rate
    reasons = {event.reason for event in watcher.changes("concurrency")}
    assert reasons <= {"growth", "refused", "latency", "a rate is known"}
    for before, after in zip(watcher.changes("concurrency"), watcher.changes("concurrency")[1:], strict=False):
        assert before.value is not None
        assert after.value is not None
        assert (after.value > before.value) == (after.reason in ("growth", "a rate is known"))


# -- places that come free ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [200, "10-20-100"])
def test_calls_that_were_all_submitted_at_once_use_a_limit_that_grows(concurrency: int | str) -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=concurrency))
            await asyncio.gather(*(model.submit(ask(n)) for n in range(1000)))

    run_virtual(main)
    assert endpoint.most_in_flight >= 100
    assert endpoint.started[-1] <= 15


def test_the_limit_of_open_files_bounds_the_calls_in_flight_and_is_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "most_sockets", lambda: 30)
    monkeypatch.setattr("asyncopt.engine.most_sockets", lambda: 30)
    watcher = Watcher()

    async def main() -> tuple[int, int]:
        async with Engine(observers=[watcher]) as engine:
            engine.model("m", base_url="http://127.0.0.1:1/v1", quota=Quota(concurrency=512))
            engine.model("m", endpoint=FakeEndpoint(), quota=Quota(concurrency=512))
            real, fake = engine.dispatchers
            assert isinstance(real.endpoint, HttpEndpoint)
            return real.slots.range.most, fake.slots.range.most

    assert run_virtual(main) == (30, 512)
    assert ["30" in event.text for _, event in watcher.events if isinstance(event, Note)] == [True]


# -- why not more ------------------------------------------------------------------------------------------------------


def limited(quota: Quota, endpoint: FakeEndpoint, use: Callable[[Any], Any]) -> tuple[dict[str, float], float]:
    async def main() -> tuple[dict[str, float], float]:
        async with Engine(grace=0.0) as engine:
            await use(engine.model("m", endpoint=endpoint, quota=quota))
            now = asyncio.get_running_loop().time()
            return dict(engine.dispatchers[0].ticker.limited), now

    return run_virtual(main)


async def many(model: Any, calls: int = 100, priority: Priority = Priority.SCORE) -> None:
    await asyncio.gather(*(model.submit(ask(n), priority=priority) for n in range(calls)))


async def now_and_then(model: Any) -> None:
    for n in range(5):
        await model.submit(ask(n), priority=Priority.PROPOSE)
        await asyncio.sleep(2.0)


@pytest.mark.parametrize(
    ("reason", "quota", "seconds", "use"),
    [
        ("quota", Quota(requests_per_minute=600, concurrency=50), 0.1, many),
        ("concurrency", Quota(concurrency=2), 0.2, many),
        ("tail", Quota(requests_per_minute=60_000, concurrency=500), 10.0, lambda model: many(model, 30)),
        ("proposals", Quota(concurrency=50), 0.01, now_and_then),
    ],
)
def test_the_engine_says_why_it_is_not_at_its_limit(reason: str, quota: Quota, seconds: float, use: Any) -> None:
    shares, end = limited(quota, FakeEndpoint(seconds=seconds), use)
    assert sum(shares.values()) == pytest.approx(end, abs=2.1)
    assert shares[reason] >= 0.75 * sum(shares.values())


def test_a_pause_is_called_a_pause() -> None:
    hold = Fault(FaultKind.RATE_LIMITED, "429", 20.0)
    endpoint = FakeEndpoint(lambda request, number: hold if number == 5 else echo(request), seconds=0.1)
    shares, end = limited(Quota(concurrency=5), endpoint, many)
    assert shares["pause"] == pytest.approx(20.0, abs=2.5)
    assert sum(shares.values()) == pytest.approx(end, abs=0.11)


# -- outages -----------------------------------------------------------------------------------------------------------


def test_an_outage_of_a_minute_is_waited_out_with_single_probes_and_loses_nothing() -> None:
    broken = Fault(FaultKind.TRANSIENT, "503")

    def respond(request: Generate, number: int) -> Completion | Fault:
        return broken if 5 <= endpoint.started[number] < 65 else echo(request)

    endpoint = FakeEndpoint(respond, seconds=0.2)
    watcher = Watcher()

    async def main() -> int:
        async with Engine(observers=[watcher]) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(requests_per_minute=1200, concurrency=100))
            return len(await asyncio.gather(*(model.submit(ask(n)) for n in range(600))))

    assert run_virtual(main) == 600
    outage = [time for time in endpoint.started if 6.5 <= time < 65]
    assert 2 <= len(outage) <= 5
    assert all(later - earlier >= 5 for earlier, later in pairwise(outage))
    assert endpoint.started[-1] <= 65 + 40 + 600 / 20
    gates = [event.value for event in watcher.changes("gate")]
    assert gates[0] == 5.0
    assert gates[-1] == 0.0


def test_failed_calls_are_tried_again_no_faster_than_the_budget_for_it() -> None:
    def respond(request: Generate, number: int) -> Completion | Fault:
        return Fault(FaultKind.MALFORMED, "half") if number < 1000 else echo(request)

    endpoint = FakeEndpoint(respond, seconds=0.1)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(requests_per_minute=600_000, concurrency=1000))
            await many(model, 1000)

    run_virtual(main)
    again = endpoint.started[1000:]
    assert len(again) == 1000
    # A hundred at once, a fifth of the attempts, and ten a second.
    for time in range(0, 80, 5):
        assert sum(moment <= time for moment in again) <= 100 + 0.2 * 2000 + 10 * time + 1
