"""Permits and questions that a worker held when it died, with a broker between the processes of one machine."""

from __future__ import annotations

import signal

import pytest
from broker_children import BURST, children, until, worst_excess

from asyncopt.testing import Constant, SimulatedAPI


@pytest.mark.anyio
@pytest.mark.real
@pytest.mark.row("S09")
async def test_what_a_killed_worker_held_is_soon_the_others() -> None:
    """Its permits are gone, never used twice; its questions are asked by others, and only those in flight twice."""
    api = SimulatedAPI(latency=Constant(0.2))
    async with children(3, 200, api, together=True) as started:
        started[2].go()  # and claims all questions
        await until(api, 30)
        for one in started[:2]:
            one.go()
        await until(api, 60)
        started[2].send(signal.SIGKILL)
        assert [await one.ended() for one in started] == [0, 0, -signal.SIGKILL]
        assert [one.said[-1] for one in started[:2]] == ["answers 200"] * 2
    prompts = [entry.prompt for entry in api.ledger.entries]
    assert len(set(prompts)) == 200
    asked_twice = len(prompts) - 200
    assert asked_twice <= api.ledger.max_in_flight()
    assert worst_excess(api) <= BURST
