"""Random studies under random plans of faults, kills and quotas: what must hold after each of them holds.

``--seeds N`` runs N studies, ``--first-seed M`` begins with the M-th. A seed that fails prints the line that runs it
again, with the fewest faults that still make it fail.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from asyncopt.errors import AsyncoptError
from asyncopt.testing import FaultPlan, run_virtual
from asyncopt.testing.answers import signature
from asyncopt.testing.draw import scenario
from asyncopt.testing.invariants import InvariantBroken, Run, check_run, leftovers, open_descriptors
from asyncopt.testing.ledger import Entry
from asyncopt.testing.load import carried, check_load, load
from asyncopt.testing.scenario import SECRET, played, report, reproduction
from asyncopt.values import Quota

CHUNK = 25
# Seeds that failed once: at a pace across a restart, at a clock that overtook a thread, at a rival never sent,
# at a refusal beside a rate limit.
REGRESSIONS = (7, 67, 379, 50065, 60039)
LOADS = 25


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "first" in metafunc.fixturenames:
        # The options are unknown where all of the suite is run; these are then their defaults.
        start, count = (metafunc.config.getoption(name, usual) for name, usual in (("first_seed", 0), ("seeds", 300)))
        chunks = [range(start, start + count)[part : part + CHUNK] for part in range(0, count, CHUNK)]
        metafunc.parametrize(
            "first, seeds", [(chunk[0], chunk) for chunk in chunks], ids=[str(one[0]) for one in chunks]
        )


@pytest.mark.row("N04", "N02")
def test_the_invariants_hold_whatever_happens(first: int, seeds: range) -> None:
    complaints = [complaint for seed in seeds if (complaint := report(seed)) is not None]
    assert not complaints, "\n\n".join(complaints)


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_what_once_failed_does_not_fail_again(seed: int) -> None:
    assert report(seed) is None


def test_a_seed_is_always_the_same_scenario() -> None:
    def told(seed: int) -> str:
        what = scenario(seed)
        return f"{what.task} {what.optimizer} {what.quota} {what.server} {what.plan} {what.stop} {what.latency}"

    assert [told(seed) for seed in range(20)] == [told(seed) for seed in range(20)]
    assert len({told(seed) for seed in range(20)}) == 20


def test_seeds_draw_all_there_is() -> None:
    drawn = [scenario(seed) for seed in range(300)]
    assert {what.optimizer.name for what in drawn} == {"opro", "ape", "dln1"}
    assert {what.stop[0] if what.stop else None for what in drawn} == {None, "kill", "cancel"}
    assert {bool(what.hedge) for what in drawn} == {what.cached for what in drawn} == {True, False}
    assert {what.plan.after is None for what in drawn} == {what.plan == FaultPlan() for what in drawn} == {True, False}
    assert sum(what.timed for what in drawn) >= 5
    assert {what.budget is None for what in drawn} == {what.settled for what in drawn} == {True, False}


# -- calls that are all there from the beginning -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(LOADS))
def test_a_load_uses_its_quota_keeps_it_and_takes_no_longer_than_it_must(seed: int) -> None:
    check_load(load(seed))


def test_more_capacity_makes_nothing_slower() -> None:
    pairs = [(carried(load(seed)).seconds, carried(load(seed).more(1.5)).seconds) for seed in range(LOADS)]
    assert median(more / usual for usual, more in pairs) <= 1.02


# -- the checks can fail -----------------------------------------------------------------------------------------------


@pytest.fixture
def quiet(tmp_path: Path) -> Run:
    """A run in which nothing went wrong."""
    what = next(what for what in map(scenario, range(100)) if what.plan == FaultPlan() and what.cached and what.timed)
    run = played(what, tmp_path / "run")
    check_run(run)
    return run


def entry_after(run: Run) -> Entry:
    """Another request, answered a second after the last one."""
    entry = run.ledger.open((run.ledger.entries[-1].finished or 0.0) + 1, None)
    run.ledger.close(entry, entry.arrived, 200)
    return entry


def test_a_request_that_the_account_does_not_know_is_found(quiet: Run) -> None:
    entry_after(quiet)
    with pytest.raises(InvariantBroken, match="I4.*calls are counted"):
        check_run(quiet)


def test_tokens_that_the_account_does_not_know_are_found(quiet: Run) -> None:
    quiet.ledger.entries[0].output_tokens += 1
    with pytest.raises(InvariantBroken, match="I4.*output_tokens"):
        check_run(quiet)


def test_an_outcome_too_many_is_found(quiet: Run) -> None:
    record = next(record for record in quiet.trace if record["kind"] == "evaluation")
    record["items"].append(record["items"][0])
    with pytest.raises(InvariantBroken, match="I1.*several outcomes"):
        check_run(quiet)


def test_an_answer_to_another_prompt_is_found(quiet: Run) -> None:
    item = next(item for _, _, item in quiet.graded if item["outcome"] == "scored")
    item["answer"] = f"The answer is 7. {signature('another prompt')}"
    with pytest.raises(InvariantBroken, match="I2.*never got"):
        check_run(quiet)


def test_requests_before_their_time_are_found(quiet: Run) -> None:
    quiet.quota = replace(quiet.quota, requests_per_minute=6.0)
    with pytest.raises(InvariantBroken, match="I3.*above a pace"):
        check_run(quiet)


def test_too_many_requests_at_once_are_found(quiet: Run) -> None:
    quiet.quota = Quota(concurrency=1)
    overlapping = [quiet.ledger.open(1000.0, None) for _ in range(2)]
    for entry in overlapping:
        quiet.ledger.close(entry, 1001.0, 200)
    with pytest.raises(InvariantBroken, match="I3.*in flight at once"):
        check_run(quiet)


def test_requests_after_the_end_of_the_money_are_found(quiet: Run) -> None:
    quiet.ledger.entries[0].fault = "quota"
    with pytest.raises(InvariantBroken, match="I5"):
        check_run(quiet)


def test_a_task_that_is_left_is_found(quiet: Run) -> None:
    async def main() -> list[str]:
        task = asyncio.get_running_loop().create_task(asyncio.sleep(1), name="forgotten")
        left = leftovers(open_descriptors() - 1)
        task.cancel()
        return left

    quiet.last.left = run_virtual(main)
    with pytest.raises(InvariantBroken, match="I6.*forgotten, 1 descriptors"):
        check_run(quiet)


def test_a_history_that_the_journal_does_not_have_is_found(quiet: Run) -> None:
    history = quiet.last.study.history
    history.add(replace(history.entries[0], candidate="never tried"))
    with pytest.raises(InvariantBroken, match="I7.*never tried"):
        check_run(quiet)


def test_an_invented_answer_in_the_cache_is_found(quiet: Run) -> None:
    assert quiet.cache
    value = next(iter(quiet.cache.values()))
    quiet.cache = {**quiet.cache, b"key": value.replace(b"signed-", b"signed-x")}
    with pytest.raises(InvariantBroken, match="I8"):
        check_run(quiet)


def test_the_key_is_found(quiet: Run) -> None:
    (quiet.directory / "notes").write_text(f"Bearer {SECRET}", encoding="utf-8")
    quiet.last.error = AsyncoptError(f"with {SECRET}")
    with pytest.raises(InvariantBroken, match="I9.*notes.*\n.*I9.*error"):
        check_run(quiet)


def test_an_answer_that_is_paid_twice_is_found(quiet: Run) -> None:
    entry_after(quiet).prompt = quiet.prompt(*quiet.graded[0][:2])
    with pytest.raises(InvariantBroken, match="P5"):
        check_run(quiet)


def test_a_failing_seed_says_how_to_run_it_again() -> None:
    what = next(what for what in map(scenario, range(100)) if what.plan.rate == 0.25 and what.plan.after is None)
    fault = what.plan.events(20)[0]
    line = reproduction(what, lambda plan: fault in plan.events(20))
    assert line == f"python -m asyncopt.testing.scenario {what.seed} --faults 'at={fault[0]}:{fault[1]}'"
    assert reproduction(what, lambda plan: plan.rate > 0).endswith(f"--faults '{what.plan}'")
