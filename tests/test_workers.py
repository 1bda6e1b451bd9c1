"""A sweep by several processes: the same results, one quota, one budget, one cache, and nothing paid twice."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crewed import FILE, findings
from hypothesis import given
from hypothesis import strategies as st
from swept import Commands, Done, serving

from asyncopt.activity import ACTIVITY, is_sample
from asyncopt.cli.sweep import planned_sweep
from asyncopt.cli.workers import member
from asyncopt.cli.workers.crew import parts
from asyncopt.cli.workers.how_many import workers_for
from asyncopt.cli.workers.sums import Sums
from asyncopt.cli.workers.talk import told, told_again
from asyncopt.ctl import NotRunning, ask
from asyncopt.errors import BudgetExhausted, CallFailed, ConfigError, EndpointRefused, StudyFailed
from asyncopt.limits.budget import Account, Budget
from asyncopt.limits.ledger import Ledger, SharedAccount
from asyncopt.sweep import Sweep
from asyncopt.testing import AnswerModel, Constant, SimulatedAPI
from asyncopt.testing.process import known_items
from asyncopt.values import Fault, FaultKind, Usage

KNOWN = known_items(None)


@pytest.fixture
def asyncopt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    (tmp_path / "two.toml").write_text(FILE)
    return Commands(monkeypatch, capsys, tmp_path)


def simulated(**options: Any) -> SimulatedAPI:
    return SimulatedAPI(**{"latency": Constant(0.0), "answers": AnswerModel(0, KNOWN), **options})


@pytest.fixture
def api() -> SimulatedAPI:
    return simulated()


@pytest.fixture
def url(api: SimulatedAPI) -> Iterator[str]:
    with serving(api) as address:
        yield address


def on(url: str, *more: str, directory: str = "kept") -> list[str]:
    return ["sweep", "two.toml", "--scorer", "mock", "--base-url", url, "--directory", directory, *more]


ONE_TASK = ("--tasks", "antonym")


def asked_of(api: SimulatedAPI) -> list[str]:
    """What was scored; proposals of two studies may have the same prompt, and are different draws."""
    return [entry.prompt for entry in api.ledger.entries if "square brackets" not in entry.prompt]


# -- a whole sweep -----------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_the_results_are_the_same_by_one_two_or_three_processes(asyncopt: Commands) -> None:
    found, counts = [], []
    for count in (1, 2, 3):
        api = simulated()
        with serving(api) as url:
            cache = f'cache="{count}.sqlite"'
            done = asyncopt(*on(url, "--workers", str(count), "--set", cache, "--json", directory=f"by{count}"))
        assert done.code == 0, done.err
        (end,) = done.events("done")
        assert end["calls"] == len(api.ledger.entries)
        assert sum(one["attempts"] for one in end["attribution"]) == len(api.ledger.entries)
        assert len(set(asked_of(api))) == len(asked_of(api))  # two processes never ask the same
        found.append(findings(Path(f"by{count}")))
        counts.append(len(api.ledger.entries))
    assert found[0] == found[1] == found[2]
    assert counts[0] == counts[1] == counts[2]
    lines = [json.loads(line) for line in Path("by2", ACTIVITY).read_bytes().splitlines()]
    assert all(map(is_sample, lines[1:]))
    assert (lines[-1]["calls"], sum(sum(line["latency"]) for line in lines[1:])) == (counts[1], counts[1])
    assert not list(Path("by2").glob("*.ledger"))


@pytest.mark.real
def test_a_finished_sweep_asks_nothing_again(asyncopt: Commands, api: SimulatedAPI, url: str) -> None:
    assert asyncopt(*on(url, *ONE_TASK, "--workers", "2")).code == 0
    sent, before = len(api.ledger.entries), findings(Path("kept"))
    again = asyncopt("resume", "kept", "--workers", "2", "--json")
    assert (again.code, len(again.events("study"))) == (0, 4)
    assert (len(api.ledger.entries), findings(Path("kept"))) == (sent, before)


@pytest.mark.real
def test_a_study_that_fails_leaves_the_others_alone(asyncopt: Commands, url: str) -> None:
    other = Path("kept/antonym-first-s1")
    other.mkdir(parents=True)
    (other / "manifest.json").write_text('{"subject": {}}')
    done = asyncopt(*on(url, *ONE_TASK, "--workers", "2", "--json"))
    assert done.code == 1
    assert "1 of 4 studies failed" in done.err
    assert done.events("done")[0]["failed"] == ["antonym-first-s1"]
    assert "holds another study" in Path("kept/results.csv").read_text()
    (other / "manifest.json").unlink()
    assert asyncopt("resume", "kept", "--workers", "2").code == 0


@pytest.mark.real
def test_studies_that_the_models_cannot_do_are_refused_as_by_one_process(
    asyncopt: Commands, api: SimulatedAPI, url: str
) -> None:
    Path("two.toml").write_text('tasks = ["antonym"]\nseeds = [0, 1]\n[base.optimizer]\nname = "dln2"\n')
    (one, two) = (asyncopt(*on(url, "--workers", count, directory=count)) for count in "12")
    assert (one.code, two.code, len(api.ledger.entries)) == (2, 2, 0)
    assert one.err.splitlines()[-1] == two.err.splitlines()[-1]


@pytest.mark.real
def test_a_refused_key_stops_all_of_them(asyncopt: Commands) -> None:
    api = simulated(require_key="another")
    with serving(api) as url:
        done = asyncopt(*on(url, "--workers", "2"))
    assert done.code == 4
    assert "asyncopt resume kept" in done.err
    assert len(api.ledger.entries) <= 4 * 32


@pytest.mark.real
def test_a_comparison_by_two_processes_asks_for_its_noise_too(asyncopt: Commands, url: str) -> None:
    def compared(count: str) -> Done:
        options = ["--optimizers", "opro,ape", "--aa", "--seeds", "0,1", "--limit", "6", "--scoring-calls", "30"]
        models = ["--scorer", "mock", "--base-url", url, "--set", f'cache="{count}.sqlite"']
        return asyncopt("compare", "antonym", *options, *models, "--directory", count, "--workers", count)

    for count in ("1", "2"):
        done = compared(count)
        assert done.code == 0, done.err
    assert Path("1/asked-twice.json").read_bytes() == Path("2/asked-twice.json").read_bytes()
    assert findings(Path("1")) == findings(Path("2"))


# -- what they share ---------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_the_budget_is_that_of_all_of_them(asyncopt: Commands, api: SimulatedAPI, url: str) -> None:
    done = asyncopt(*on(url, "--workers", "2", "--budget", "calls=300"))
    assert done.code == 3
    assert "300 calls" in done.err
    assert "asyncopt resume kept" in done.err
    # Each may have set one call aside that it then did not make.
    assert 298 <= len(api.ledger.entries) <= 300
    assert asyncopt("resume", "kept", "--workers", "2", "--budget", "calls=310").code == 3
    assert 308 <= len(api.ledger.entries) <= 310
    last = asyncopt("resume", "kept", "--workers", "2", "--budget", "calls=100000", "--json")
    assert last.code == 0
    assert len(set(asked_of(api))) == len(asked_of(api))


@pytest.mark.real
def test_the_quota_is_that_of_all_of_them(asyncopt: Commands) -> None:
    rate, bucket = 100.0, 100.0  # wide, since a busy machine delivers late and then all at once
    api = simulated(requests_per_second=rate, request_burst=bucket)
    with serving(api) as url:
        stated = ("--set", f"models.scorer.requests_per_minute={60 * rate:g}")
        done = asyncopt(*on(url, "--workers", "2", *stated, "--json"))
    assert done.code == 0, done.err
    assert [entry.status for entry in api.ledger.entries if entry.status != 200] == []
    times = sorted(entry.arrived for entry in api.ledger.entries)
    # In every interval no more than the rate and what a bucket holds.
    most = max(number - first + 1 - rate * (times[number] - times[first]) for first, number in _pairs(len(times)))
    assert most <= bucket + 1
    assert "shared quota" not in done.err


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    return ((first, last) for first in range(0, count, 3) for last in range(first, count, 3))


@pytest.mark.real
def test_seconds_are_those_of_the_whole_sitting(asyncopt: Commands) -> None:
    api = simulated(latency=Constant(0.2))
    with serving(api) as url:
        done = asyncopt(*on(url, "--workers", "2", "--budget", "seconds=4"))
    assert done.code == 3
    assert "budget of 4 seconds" in done.err


# -- looked at and steered ---------------------------------------------------------------------------------------------


@pytest.mark.real
def test_ctl_pauses_all_of_them_and_stops_them(asyncopt: Commands, runtime: Path) -> None:
    api = simulated(latency=Constant(0.05))
    seen: dict[str, Any] = {}

    def tell(action: str) -> dict[str, Any]:
        return asyncio.run(ask(Path("kept"), {"do": action}))

    def steer() -> None:
        wait(lambda: len(api.ledger.entries) > 50)
        seen["status"] = tell("status")
        seen["paused"] = tell("pause")
        wait(lambda: all(entry.finished is not None for entry in list(api.ledger.entries)))
        time.sleep(0.3)  # what was on its way to the server is there
        count = len(api.ledger.entries)
        time.sleep(0.5)
        seen["while paused"] = len(api.ledger.entries) - count
        tell("resume")
        wait(lambda: len(api.ledger.entries) > count + 50)
        tell("stop")

    with serving(api) as url:
        steering = threading.Thread(target=steer)
        steering.start()
        done = asyncopt(*on(url, "--workers", "2"))
        steering.join()
        assert done.code == 130, done.err
        assert (seen["status"]["workers"], len(seen["status"]["pids"])) == (2, 2)
        assert seen["status"]["studies"] == 8
        assert seen["paused"]["state"] == "paused"
        assert seen["while paused"] == 0
        assert "asyncopt resume kept" in done.err
        assert done.err.count("paused: no call starts") == 1
        assert asyncopt("resume", "kept", "--workers", "2").code == 0
    assert len(set(asked_of(api))) == len(asked_of(api))


def wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


# -- what dies ---------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_workers_that_always_die_end_the_sweep_with_a_sentence(
    asyncopt: Commands, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "_PROGRAM", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)  # {path} {end}")
    done = asyncopt(*on(url, "--workers", "2"))
    assert done.code == 1
    assert "5 workers have died" in done.err
    assert "was killed (SIGKILL)" in done.err
    assert "asyncopt resume kept" in done.err


# -- how many ----------------------------------------------------------------------------------------------------------


def sweep(asyncopt: Commands, **flags: Any) -> Sweep:
    settings = {f"models.scorer.{name}": value for name, value in flags.items()}
    return planned_sweep("two.toml", {"models.scorer.model": "mock", **settings}, base_url="http://127.0.0.1:1/v1")


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ({}, 1),  # up to 100 in flight, of unknown latency
        ({"concurrency": 1000}, 3),
        ({"concurrency": 1000, "requests_per_minute": 60_000}, 1),
        ({"concurrency": 100_000, "requests_per_minute": 600_000}, 3),
        ({"model": "local", "base_url": None}, 1),
    ],
)
def test_by_default_there_are_as_many_as_the_quotas_keep_busy(
    asyncopt: Commands, monkeypatch: pytest.MonkeyPatch, quota: dict[str, Any], count: int
) -> None:
    monkeypatch.setattr("asyncopt.cli.workers.how_many._cores", lambda: 3)
    kept = {name: value for name, value in quota.items() if value is not None}
    assert workers_for(sweep(asyncopt, **kept), None, None) == count


def test_there_are_no_more_than_studies_at_once(asyncopt: Commands) -> None:
    assert workers_for(sweep(asyncopt), None, 100) == 4
    assert workers_for(replace(sweep(asyncopt), at_once=100), None, 100) == 8
    assert workers_for(sweep(asyncopt), None, 2) == 2


def test_studies_at_once_are_those_of_all_workers() -> None:
    assert parts(4, 2) == [2, 2]
    assert parts(5, 3) == [2, 2, 1]
    assert parts(1, 2) == [1, 1]  # which nobody asks for


def test_observers_hear_one_process(asyncopt: Commands) -> None:
    plain = sweep(asyncopt, concurrency=100_000)
    observed = [replace(one, config=one.config.model_copy(update={"observers": ("otel",)})) for one in plain.planned]
    heard = replace(plain, planned=tuple(observed))
    assert workers_for(heard, None, None) == 1
    with pytest.raises(ConfigError, match="observers hear what one process does"):
        workers_for(heard, None, 2)


def test_a_single_run_has_no_workers(asyncopt: Commands, api: SimulatedAPI, url: str) -> None:
    run = ("run", "antonym", "--limit", "4", "--steps", "1", "--scorer", "mock", "--base-url", url)
    assert asyncopt(*run, "--directory", "one").code == 0
    done = asyncopt("resume", "one", "--workers", "2")
    assert (done.code, "--workers is for a sweep" in done.err) == (2, True)


# -- one budget in a file ----------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "budget.ledger"


def test_what_one_has_spent_the_others_cannot(ledger: Path) -> None:
    earlier = Account()
    earlier.calls, earlier.usd = 2, 0.25
    Ledger.begin(ledger, earlier)
    budget = Budget(calls=5, usd=1.0)
    first, second = (SharedAccount(budget, Ledger(ledger)) for _ in range(2))
    assert first.exhausted(10, 0.25) is None
    first.reserve(10, 0.25)
    assert second.exhausted(10, 0.25) is None  # set aside, though it does not start yet
    assert first.exhausted(10, 0.5) == "the budget of $1 does not cover another call of up to $0.5000"
    first.settle(10, 0.25, Usage(3, 4), 0.125)
    second.reserve(10, 0.25)
    second.settle(10, 0.25, Usage(1, 1), 0.125)
    assert first.exhausted(10, 0.5) is None
    assert second.exhausted() == "the budget of 5 calls is used up"
    first.close()  # which gives back the call that never started
    assert second.exhausted(10, 0.5) is None
    assert (first.calls, first.tokens, second.calls, second.tokens) == (1, 7, 1, 2)
    second.close()


@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["ask", "start", "end"])), max_size=60),
    calls=st.integers(0, 12),
    tokens=st.integers(0, 120),
)
def test_nobody_ever_overspends(tmp_path_factory: pytest.TempPathFactory, steps: Any, calls: int, tokens: int) -> None:
    path = tmp_path_factory.mktemp("ledger") / "budget.ledger"
    Ledger.begin(path, Account())
    accounts = [SharedAccount(Budget(calls=calls, tokens=tokens), Ledger(path)) for _ in range(3)]
    under_way = [0, 0, 0]
    for who, act in steps:
        account = accounts[who]
        if act == "start" and account.exhausted(10, 0.0) is None:
            account.reserve(10, 0.0)
            under_way[who] += 1
        elif act == "ask":
            account.exhausted(7, 0.0)
        elif act == "end" and under_way[who]:
            account.settle(10, 0.0, Usage(5, 4), 0.0)
            under_way[who] -= 1
        assert sum(one.calls for one in accounts) <= calls
        assert sum(one.tokens for one in accounts) + 10 * sum(under_way) <= tokens
    for account in accounts:
        account.close()


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        BudgetExhausted("no more"),
        StudyFailed("nothing"),
        EndpointRefused(Fault(FaultKind.FATAL_CONFIG, "401")),
        CallFailed(Fault(FaultKind.TRANSIENT, "500")),
    ],
)
def test_an_error_is_the_same_in_another_process(error: Any) -> None:
    again = told_again(told(error))
    assert (type(again), str(again), again.exit_code) == (type(error), str(error), error.exit_code)


def test_an_error_of_one_module_is_what_it_is_a_case_of() -> None:
    assert type(told_again(told(NotRunning("no")))).__name__ == "AsyncoptError"


def test_an_error_that_nobody_knows_is_told_all_the_same() -> None:
    assert str(told_again({"kind": "os", "text": "what"})) == "what"


def test_sums_are_of_all_workers_and_rates_are_the_accounts(tmp_path: Path) -> None:
    def line(calls: int, in_flight: int) -> dict[str, Any]:
        scope = {"in_flight": in_flight, "concurrency": 4, "queued": 1, "limiting": "quota", "rate": {"requests": 20.0}}
        done = {"scope": "m", "attempts": calls, "refused": 1, "hedges": 0, "concurrency": 4, "limited": {"quota": 1.0}}
        done |= {"per_minute": {"requests": 1200.0}, "learned": []}
        counts = {"calls": calls, "hits": 0, "tokens": 10 * calls, "usd": 0.0, "throttled": 1, "failed": 0}
        return {"scopes": {"m": scope}, **counts, "latency": [calls] + [0] * 33, "attributions": [done]}

    async def main() -> None:
        total = Account()
        total.calls, total.input_tokens = 100, 1000
        with Sums(tmp_path, total) as sums:
            sums.take(1, line(5, 2))
            sums.take(2, line(7, 3))
            assert (sums.in_flight, sums.queued, sums.failed_attempts) == (5, 2, 2)
            assert (total.calls, total.tokens) == (112, 1120)
            sums.gone(1)
            sums.take(3, line(1, 1))
            assert (sums.in_flight, total.calls) == (4, 113)
            (one,) = sums.attributions()
            assert (one.attempts, one.concurrency, one.per_minute) == (13, 8, {"requests": 1200.0})
            (endpoint,) = sums.endpoints()
            assert (endpoint["in_flight"], endpoint["concurrency"]) == (4, 8)
        written = json.loads((tmp_path / ACTIVITY).read_bytes().splitlines()[-1])
        assert is_sample(written)
        assert (written["calls"], written["scopes"]["m"]["rate"], sum(written["latency"])) == (
            113,
            {"requests": 20},
            13,
        )

    asyncio.run(main())
