"""The simulation of false claims: its fast judge decides as the package's, and its claims are what they are called."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from asyncopt.stats import crossed_difference

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def false_claims() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("benchmarks_false_claims", BENCHMARKS / "false_claims.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop("benchmarks_false_claims", None)


@pytest.mark.parametrize(("seeds", "items", "score"), [(2, 20, 0.5), (3, 50, 0.9), (5, 100, 0.5)])
def test_the_fast_judge_decides_as_the_package_does(
    false_claims: ModuleType, seeds: int, items: int, score: float
) -> None:
    right = false_claims.grades(np.random.default_rng(1), (60, 2, seeds, items), (0.3, 0.5), score, 0.6)
    fast = false_claims.called(right)["ours"]
    tables = right[:, 1].astype(float) - right[:, 0]
    slow = [crossed_difference([dict(enumerate(row)) for row in table.tolist()])[3] <= 0.05 for table in tables]
    assert fast.tolist() == slow
    assert 0 < sum(slow) < 60


def test_grades_have_the_stated_score_and_the_last_arm_the_gain(false_claims: ModuleType) -> None:
    right = false_claims.grades(np.random.default_rng(1), (400, 2, 3, 100), (0.2, 0.4), 0.8, 0.5)
    assert right[:, 0].mean() == pytest.approx(0.8, abs=0.01)
    assert right[:, 1].mean() > 0.86


def test_claims_are_told_apart(false_claims: ModuleType) -> None:
    held_out = np.ones((3, 40), bool)
    equal = false_claims.contest([false_claims.arm_of(name, np.ones((3, 40)), held_out) for name in "ab"])
    assert not any(false_claims.claims(equal, 120).values())
    apart = [false_claims.arm_of(name, np.full((3, 40), share), held_out) for name, share in (("a", 1), ("b", 0))]
    found = false_claims.claims(false_claims.contest(apart), 120)
    assert found == {"verdict": True, "better": False, "higher mean": True, "z-test": True}


def test_end_to_end_comparisons_of_equals_end_and_repeat(false_claims: ModuleType) -> None:
    found = [false_claims.one_comparison((2, 1, 20), number) for number in (0, 1, 0)]
    assert found[0] == found[2]
    assert set(false_claims.one_eval((3, 20), 0)) == {"verdict", "higher mean", "outside the first's interval"}
