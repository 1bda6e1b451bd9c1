"""``asyncopt simulate --study``: figures that arithmetic gives, the same for the same configuration."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from asyncopt.cli import main
from asyncopt.cli.settings import settle
from asyncopt.config import check
from asyncopt.local import LocalServer
from asyncopt.tasks import Task, load
from asyncopt.testing import AnswerModel, Constant, FaultPlan, LogNormal, items_of
from asyncopt.testing.servers import LOCAL_SLOTS
from asyncopt.testing.study import Simulated, simulate

SECOND = {"latency": Constant(1.0)}
OVERLAP = """
seed = 3
[task]
name = "antonym"
[optimizer]
steps = 3
lag = 8
racing = 0.05
[models.scorer]
model = "openai/small"
requests_per_minute = 600
concurrency = 32
[models.proposer]
model = "anthropic/large"
concurrency = 4
"""


def simulated(*settings: str, task: str = "antonym", server: dict[str, Any] | None = None) -> Simulated:
    return simulate(settle(task, {}, None, None, list(settings)), SECOND if server is None else server)


def scorer(**fields: object) -> list[str]:
    named = {"model": '"openai/m"', **fields}
    return ["optimizer.steps=0", *(f"models.scorer.{name}={value}" for name, value in named.items())]


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of ``asyncopt simulate`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["asyncopt", "simulate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


# -- figures that arithmetic gives: one instruction, 40 calls to score it and 100 to measure it ------------------------


def test_all_places_are_used_where_only_concurrency_limits() -> None:
    run = simulated(*scorer(concurrency=10))
    assert run.seconds == pytest.approx(4.0 + 10.0, abs=1e-3)
    assert (run.calls, run.refused, run.candidates) == (140, 0, 1)
    (use,) = run.uses
    assert use.mean_in_flight == pytest.approx(10.0, abs=0.01)
    assert use.utilisation == pytest.approx(1.0, abs=1e-3)
    assert (use.most_in_flight, dict(use.quota)) == (10, {})
    assert next(iter(use.attribution.limited)) == "concurrency"


def test_a_stated_quota_is_the_servers_and_known_to_the_engine() -> None:
    run = simulated(*scorer(requests_per_minute=120, concurrency=20))
    (use,) = run.uses
    assert run.seconds == pytest.approx(140 / 2, abs=1.0)
    assert (run.calls, run.refused) == (140, 0)
    assert use.quota["requests"] == pytest.approx(1.0, abs=0.02)
    assert next(iter(use.attribution.limited)) == "quota"
    assert use.attribution.per_minute == {"requests": 120.0}
    assert not use.attribution.learned


def test_a_quota_of_the_command_line_takes_its_place_and_is_not_known() -> None:
    run = simulated(*scorer(requests_per_minute=6000), server={"requests_per_second": 1.0, "headers": "none"})
    assert run.refused > 0
    assert run.seconds > 140 - 2
    assert run.uses[0].attribution.learned == ["requests"]


def test_a_tokens_quota_of_a_minute_holds_an_answer_longer_than_a_seconds_worth() -> None:
    run = simulated(*scorer(tokens_per_minute=600, concurrency=1))
    assert run.calls - run.refused == 140
    assert run.uses[0].quota["tokens"] > 0.5


def test_a_stranger_and_a_change_are_taken_off_what_could_be_used() -> None:
    server = SECOND | {"requests_per_second": 8.0, "stranger": 0.5, "change": (35.0, 2.0)}
    run = simulated(*scorer(requests_per_minute=120, concurrency=20), server=server)
    assert run.seconds == pytest.approx(70, abs=1.0)
    # 140 calls of the 4 a second that were left in the first half, and 8 in the second.
    assert run.uses[0].quota["requests"] == pytest.approx(140 / (35 * 4 + 35 * 8), abs=0.02)


def test_models_of_one_scope_share_a_server_and_others_have_their_own() -> None:
    both = ["optimizer.steps=1", "models.scorer.model=openai/m", "models.proposer.model=openai/p"]
    apart = simulated(*both)
    assert [use.attribution.scope for use in apart.uses] == ["m", "p"]
    assert apart.uses[1].attribution.attempts == 8
    shared = simulated(*both, 'models.scorer.scope="s"', 'models.proposer.scope="s"')
    assert [use.attribution.scope for use in shared.uses] == ["s"]
    elsewhere = simulated(*both, "models.proposer.model=m", "models.proposer.base_url=http://elsewhere/v1")
    assert [use.attribution.attempts for use in elsewhere.uses][1:] == [8]


def test_the_embedded_model_has_as_many_places_as_its_server() -> None:
    assert inspect.signature(LocalServer).parameters["slots"].default == LOCAL_SLOTS
    run = simulated("optimizer.steps=0")
    assert run.uses[0].attribution.concurrency == LOCAL_SLOTS


# -- what was found ----------------------------------------------------------------------------------------------------


def test_regret_is_held_against_the_hidden_accuracies() -> None:
    run = simulated("optimizer.steps=4", "models.scorer.model=openai/m", "seed=5")
    task = load("antonym", seed=5)
    assert isinstance(task, Task)
    answers = AnswerModel(5, items_of([task]))
    for tried in (run.initial, run.chosen, run.best):
        assert tried.worth == answers.true_accuracy(task.render(tried.candidate, ""))
    assert run.initial.candidate in task.initial
    assert run.best.worth >= max(run.chosen.worth, run.initial.worth)
    assert run.regret == run.best.worth - run.chosen.worth


def test_of_many_studies_some_choose_another_than_the_best() -> None:
    regrets = [simulated("optimizer.steps=2", "task.limit=10", f"seed={seed}").regret for seed in range(4)]
    assert all(regret >= 0 for regret in regrets)
    assert any(regret > 0 for regret in regrets)


def test_the_regret_of_pairs_is_the_loss_above_the_optimum() -> None:
    solved = simulated("models.proposer.model=openai/m", task="linear-regression")
    assert (solved.measure, solved.chosen.candidate, solved.regret) == ("loss", "[15, 14]", 0.0)
    assert solved.seconds == pytest.approx(solved.steps, abs=1e-3)  # one round of proposals of a second in each
    early = simulated("models.proposer.model=openai/m", "optimizer.steps=0", task="linear-regression")
    assert early.regret == pytest.approx(836.832 - 47.038, abs=1e-3)


def test_random_pairs_need_no_server() -> None:
    run = simulated("models.proposer.model=random", task="linear-regression")
    assert (run.optimizer, run.calls, run.seconds, run.uses) == ("random", 0, 0.0, ())


def test_the_cache_is_as_configured(tmp_path: Path) -> None:
    path = tmp_path / "alike.jsonl"
    path.write_text("".join(f'{{"input": "{"x" * 60} {n}", "target": "2"}}\n' for n in range(40)))
    template = "task.template={{ instruction }} {{ input[:60] }}"  # of all inputs the same
    settings = ["optimizer.steps=0", "models.scorer.model=openai/m", template]
    with_cache = simulated(*settings, task=str(path))
    without = simulated(*settings, "use_cache=false", task=str(path))
    # In training the one prompt is sent once in any case; held out it comes back a second later.
    assert (with_cache.calls, without.calls) == (1, 2)
    assert with_cache.cache_hits == without.cache_hits + 1
    assert (with_cache.seconds, without.seconds) == (1.0, 2.0)


# -- the same again ----------------------------------------------------------------------------------------------------


def test_the_same_configuration_gives_the_same_figures(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(OVERLAP)
    server = {"latency": LogNormal(1.0, 1.0, 0.01, 10.0), "faults": FaultPlan(1, 0.02)}
    config = settle(str(path), {}, None, None, [])
    run = simulate(config, server)
    assert run == simulate(config, server)
    assert run.stopped > 0
    assert run != simulate(config, {**server, "latency": LogNormal(1.1, 1.0, 0.01, 10.0)})
    assert list(tmp_path.iterdir()) == [path]


def test_a_sweep_is_no_study(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(monkeypatch, "--study", "opro-table-2") == 2
    assert "opro-table-2 is a sweep" in capsys.readouterr().err


def test_lag_ends_sooner_than_barriers() -> None:
    settings = ["optimizer.steps=5", "models.scorer.model=openai/m", "models.scorer.concurrency=200"]
    server = {"latency": LogNormal(1.0, 1.0)}
    barriers = simulated(*settings, server=server)
    lag = simulated(*settings, "optimizer.lag=24", server=server)
    assert lag.seconds < 0.9 * barriers.seconds


def test_hedged_calls_are_counted() -> None:
    server = {"latency": LogNormal(1.0, 0.4, 0.01, 10.0)}
    run = simulated("optimizer.steps=2", "models.scorer.model=openai/m", "models.scorer.hedge=0.02", server=server)
    assert 0 < run.hedges <= 0.02 * run.calls + 1


# -- the command line --------------------------------------------------------------------------------------------------


def test_json_is_one_line_with_the_median_of_all_seeds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "study.toml"
    path.write_text(OVERLAP)
    options = ["--study", str(path), "--set", "optimizer.steps=1", "--latency", "1", "--repeat", "3", "--json"]
    assert asked(monkeypatch, *options) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert [run["seed"] for run in found["runs"]] == [3, 4, 5]
    assert (found["event"], found["config"]["optimizer"]["racing"]) == ("simulated", 0.05)
    seconds = [run["seconds"] for run in found["runs"]]
    assert found["median"]["seconds"] == median(seconds)
    assert found["range"]["seconds"] == [min(seconds), max(seconds)]
    assert found["median"]["quota of requests, small"] > 0


def test_people_get_a_few_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "optimizer.steps=0", "--set", "models.scorer.model=openai/m"]
    more = ["--set", "models.scorer.concurrency=10", "--latency", "1"]
    assert asked(monkeypatch, "--study", "antonym", *settings, *more) == 0
    shown = capsys.readouterr().out
    assert "ends after 14.0 s with 140 calls" in shown
    assert "10.0 in flight on average, 10 at most, 100 % of the places" in shown
    assert "limited by: concurrency" in shown
    assert "regret   0.0 points" in shown
    assert asked(monkeypatch, "--study", "antonym", *settings, "--repeat", "2", "--seed", "7") == 0
    assert "seeds 7 to 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "nosuch"], "there is no task 'nosuch'"),
        (["--study", "nosuch.toml"], "nosuch.toml cannot be read"),
        (["--study", "antonym", "--port", "8000"], "--port is for a server"),
        (["--study", "antonym", "--key", "k"], "--key is for a server"),
        (["--study", "antonym", "--latency", "slow"], "the latency is 'slow'"),
        (["--study", "antonym", "--faults", "often"], "the faults are 'often'"),
        (["--study", "antonym", "--stranger", "0.3"], "give a rate too"),
        (["--study", "antonym", "--set", "optimizer.lagg=1"], "did you mean lag"),
        (["--study", "antonym", "--set", "optimizer.racing=0.1", "--set", "optimizer.quorum=0.9"], "choose one"),
        (["--set", "optimizer.lag=1"], "--set was given without a study"),
        (["--repeat", "3"], "--repeat was given without a study"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_sentence(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
    assert len(said.err.splitlines()) == 1


def test_without_looptime_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "looptime", None)
    assert asked(monkeypatch, "--study", "antonym") == 2
    assert "pip install 'asyncopt[simulate]'" in capsys.readouterr().err


def test_a_budget_ends_the_simulation_as_it_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(monkeypatch, "--study", "antonym", "--set", "budget.calls=10") == 3
    assert "the budget of 10 calls is used up" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ape", "dln1", "dln2"])
def test_other_optimizers_than_opro_are_simulated_too(name: str) -> None:
    models = {role: {"model": "local"} for role in ("scorer", "proposer")}
    options = {} if name == "ape" else {"steps": 3, "batch_size": 8, "proposal": "concise"}
    tables = {"task": {"name": "capital"}, "models": models, "optimizer": {"name": name, **options}}
    found = simulate(check(tables), {})
    assert found.optimizer == name
    assert found.candidates > 1
    assert found.chosen.worth >= found.initial.worth
    assert found.calls > 0
