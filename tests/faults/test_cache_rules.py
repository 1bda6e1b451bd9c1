"""What comes into the cache: answers that a server gave, and nothing else; and who gets them while they are fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from asyncopt import Engine, Generate, Quota, Sampling
from asyncopt.cache.memory import unpack
from asyncopt.errors import CallFailed
from asyncopt.testing.clock import run_virtual
from asyncopt.testing.faults import FaultPlan
from asyncopt.testing.latency import parse_latency
from asyncopt.testing.simulated import SimulatedAPI

FAULTS = ("refused", "length-empty", "malformed", "too-large", "400", "no-choices", "401", "quota")


class Kept:
    """A cache that can be looked into."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.puts = 0

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return {key: self.values[key] for key in keys if key in self.values}

    def put(self, key: bytes, value: bytes) -> None:
        self.puts += 1
        self.values[key] = value

    async def flush(self) -> None:
        """Nothing is written."""

    async def aclose(self) -> None:
        """Nothing is open."""

    def texts(self) -> list[str]:
        found = [unpack(value) for value in self.values.values()]
        return [completion.text for completion in found if completion is not None]


def drawn(number: int) -> Generate:
    return Generate.of("Name a colour.", Sampling(temperature=1.0, max_tokens=20, draw=number))


@pytest.mark.row("S04")
@pytest.mark.parametrize("kind", FAULTS)
def test_a_failure_is_not_cached_and_is_told_to_each_of_its_waiters_once(kind: str) -> None:
    api, cache = SimulatedAPI(faults=FaultPlan.parse(f"after=0:{kind}")), Kept()

    async def main() -> list[str]:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=api.endpoint())
            followers = [model.submit(drawn(0)) for _ in range(50)]
            errors = await asyncio.gather(*followers, return_exceptions=True)
            assert all(isinstance(error, CallFailed) for error in errors)
            return [error.fault.kind.value for error in errors if isinstance(error, CallFailed)]

    kinds = run_virtual(main)
    assert len(set(kinds)) == 1
    assert cache.puts == 0
    assert api.ledger.count() <= 3  # malformed answers are asked for twice more, by one for all


@pytest.mark.row("S04")
@pytest.mark.parametrize("seed", range(5))
def test_the_cache_has_only_what_a_server_answered(seed: int) -> None:
    """Invariant I8, under faults of every passing kind."""
    plan = FaultPlan.parse(f"seed={seed},rate=0.3,kinds=500+reset+reset-body+malformed+truncated+refused+length-empty")
    api, cache = SimulatedAPI(faults=plan), Kept()

    async def main() -> list[str]:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=api.endpoint())
            requests = [drawn(number) for number in range(100)]
            answers = await asyncio.gather(*map(model.submit, requests), return_exceptions=True)
            return [answer.text for answer in answers if not isinstance(answer, BaseException)]

    answered = run_virtual(main)
    served = [entry.answer for entry in api.ledger.entries if entry.status == 200]
    assert 50 < len(answered) < 100
    assert sorted(cache.texts()) == sorted(answered)
    assert set(answered) <= set(served)


@pytest.mark.row("S04")
def test_of_two_that_race_only_the_winner_is_cached() -> None:
    api, cache = SimulatedAPI(latency=parse_latency("lognormal:1:0.3:0.1:20")), Kept()

    async def main() -> list[str]:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=Quota(1e6, concurrency=20), hedge=0.1)
            texts = []
            for start in range(0, 400, 20):
                answers = await asyncio.gather(*(model.submit(drawn(start + number)) for number in range(20)))
                texts += [answer.text for answer in answers]
            assert model.account.hedges > 5
            return texts

    texts = run_virtual(main)
    assert cache.puts == 400
    assert sorted(cache.texts()) == sorted(texts)


@pytest.mark.row("S07")
@pytest.mark.parametrize("started", [False, True])
def test_when_the_first_who_asked_is_cancelled_another_gets_the_answer(started: bool) -> None:
    api, cache = SimulatedAPI(latency=parse_latency("1")), Kept()

    async def main() -> list[str]:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=Quota(concurrency=1))
            leader, *followers = [model.submit(drawn(0)) for _ in range(10)]
            if started:
                await asyncio.sleep(0.001)
            assert api.ledger.in_flight() == started
            leader.cancel()
            return [answer.text for answer in await asyncio.gather(*followers)]

    assert len(set(run_virtual(main))) == 1
    assert (api.ledger.count(), cache.puts) == (1, 1)
