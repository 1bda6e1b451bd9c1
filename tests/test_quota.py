"""The engine against the simulated API's quotas, on a virtual clock: the ledger is the judge."""

from __future__ import annotations

import asyncio

import pytest
from fakes import run_virtual

from asyncopt import Engine, Generate, Quota, Sampling
from asyncopt.testing import Constant, LogNormal, SimulatedAPI

RATE = 20.0


def offered(api: SimulatedAPI, quota: Quota, calls: int, max_tokens: int = 1) -> None:
    """Submit so many different calls at once and wait for all."""

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("openai/mock", endpoint=api.endpoint(), quota=quota)
            sampling = Sampling(max_tokens=max_tokens)
            futures = [model.submit(Generate.of(f"q {n} " + "word " * (n % 50), sampling)) for n in range(calls)]
            await asyncio.gather(*futures)

    run_virtual(main)


@pytest.mark.parametrize("refused_count", [False, True])
def test_two_thousand_calls_fill_a_quota_of_twenty_a_second_and_none_is_refused(refused_count: bool) -> None:
    api = SimulatedAPI(
        latency=LogNormal(1.0, 0.4), requests_per_second=RATE, request_burst=2 * RATE, refused_count=refused_count
    )
    offered(api, Quota(requests_per_minute=60 * RATE, concurrency=500), 2000)
    ledger = api.ledger
    assert (ledger.count(), ledger.refused()) == (2000, 0)
    assert ledger.entries[-1].arrived == pytest.approx(2000 / RATE, abs=2.1 / RATE)
    for seconds in (1, 10, 60):
        assert ledger.max_in_window(seconds) <= RATE * seconds + 4


@pytest.mark.parametrize("burst", [3.0, 10.0])
def test_a_small_bucket_is_not_overrun_either(burst: float) -> None:
    api = SimulatedAPI(latency=Constant(0.5), requests_per_second=RATE, request_burst=burst, refused_count=True)
    offered(api, Quota(requests_per_minute=60 * RATE, concurrency=500), 400)
    assert (api.ledger.count(), api.ledger.refused()) == (400, 0)


def test_a_token_quota_is_filled_by_long_and_short_prompts_alike() -> None:
    api = SimulatedAPI(latency=Constant(0.5), tokens_per_second=1000, token_burst=400)
    offered(api, Quota(tokens_per_minute=60_000, concurrency=500), 1500)
    charged = sum(entry.charged for entry in api.ledger.entries)
    assert api.ledger.refused() == 0
    assert api.ledger.entries[-1].arrived == pytest.approx(charged / 1000, rel=0.03)
    order = [int(entry.prompt.split()[1]) for entry in api.ledger.entries]
    assert order == sorted(order)  # nobody overtakes


def test_a_quota_that_nobody_stated_loses_no_call() -> None:
    api = SimulatedAPI(latency=Constant(0.2), requests_per_second=RATE, request_burst=RATE)
    offered(api, Quota(concurrency=64), 300)
    assert api.ledger.answered() == 300


def test_the_concurrency_of_the_quota_is_the_most_in_flight() -> None:
    api = SimulatedAPI(latency=LogNormal(1.0, 1.0))
    offered(api, Quota(concurrency=17), 300)
    assert api.ledger.max_in_flight() == 17
