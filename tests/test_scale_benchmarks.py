"""What the scripts for several processes compute: the judge of quotas, Redis' own figures, what machines carry."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NAMES = ("shared_quota", "fleet", "sweep_workers", "machines")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
                del sys.modules[name]


@given(times=st.lists(st.integers(0, 200), min_size=1, max_size=30), rate=st.sampled_from([1, 4, 20]))
def test_the_most_above_the_rate_is_that_of_the_worst_interval(
    scripts: dict[str, ModuleType], times: list[int], rate: int
) -> None:
    at = sorted(time / 16 for time in times)  # exact in binary
    worst = max(
        last - first + 1 - rate * (at[last] - at[first]) for first in range(len(at)) for last in range(first, len(at))
    )
    assert scripts["shared_quota"].most_above([time / 16 for time in times], rate) == worst


def test_a_broken_quota_and_a_late_end_are_told(scripts: dict[str, ModuleType]) -> None:
    script = scripts["shared_quota"]
    case = script.CASES[0]
    good = {
        "seconds": 102.0,
        "over": 0.02,
        "asked": 2000,
        "refused": 0,
        "lost": 0,
        "most_above": 4.0,
        "alone": 0,
        "cpu_us_per_call": 1.0,
    }
    assert script.wrong(case, script.Figures(**good), 5.0, timed=True) == []
    for change in ({"lost": 1}, {"most_above": 5.5}, {"refused": 1}, {"over": 0.04}):
        assert len(script.wrong(case, script.Figures(**good | change), 5.0, timed=True)) == 1, change
    assert script.wrong(case, script.Figures(**good | {"over": 0.04}), 5.0, timed=False) == []


def test_commands_are_read_from_what_redis_says(scripts: dict[str, ModuleType]) -> None:
    info = {
        "cmdstat_get": "calls=460,usec=875,usec_per_call=1.90,rejected_calls=0,failed_calls=0",
        "used_memory": "1024",
        "cmdstat_client|setinfo": "calls=2,usec=6,usec_per_call=3.00,rejected_calls=0,failed_calls=0",
    }
    assert scripts["fleet"].commands(info) == {"get": (460, pytest.approx(0.000875)), "client|setinfo": (2, 6e-6)}


def test_a_sweeps_digest_leaves_out_time_and_bills_and_nothing_else(scripts: dict[str, ModuleType]) -> None:
    stable = scripts["sweep_workers"].stable
    result = {
        "best": {"score": 0.5, "seconds": 1.0},
        "calls": 3,
        "steps": [{"tokens": 1, "n": 2}],
        "outcomes": {"x": 1},
    }
    assert stable(result) == {"best": {"score": 0.5}, "steps": [{"n": 2}], "outcomes": {"x": 1}}


@pytest.mark.parametrize(
    ("costs", "cached", "calls", "bound", "redis"),
    [
        ({}, False, 2 * 16 * 0.5e6 / 100, "processors", 164 * 20e-6),
        ({}, True, 2 * 16 * 0.5e6 / 100, "processors", 164 * 20e-6 + 160_000 * 1e-6),
        ({"question": 10.0}, True, (0.5e6 - 164 * 20) / 10, "Redis", 0.5),
        ({"call": 1.0}, False, 2 * 28_232 / 0.1, "connections", 164 * 20e-6),
    ],
)
def test_the_smallest_bound_is_what_machines_carry(
    scripts: dict[str, ModuleType], costs: dict[str, float], cached: bool, calls: float, bound: str, redis: float
) -> None:
    script = scripts["machines"]
    measured = {
        "call": 100.0,
        "cached": 50.0,
        "study": 400.0,
        "worker_mb": 60.0,
        "script": 20.0,
        "question": 1.0,
        "answer": 900.0,
    }
    chosen = Namespace(cores=16, latency=0.1, busy=0.5)
    found = script.Costs(**measured | costs)
    load = script.carried(found, chosen, 2, found.call, cached=cached)
    assert (load.workers, load.bound) == (32, bound)
    assert (load.calls, load.redis) == (pytest.approx(calls), pytest.approx(redis))
    assert load.in_flight == pytest.approx(calls * 0.1)
    assert load.memory_gb == pytest.approx(16 * 0.06 + calls * 0.1 / 2 * 18 * 1024 / 1e9)
