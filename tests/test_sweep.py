"""Sweeps: many studies on one engine, one quota and one cache, resumable as a whole."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from fakes import run_virtual
from hypothesis import given
from hypothesis import strategies as st
from swept import Commands, serving
from typer.testing import CliRunner

from asyncopt import Engine, Quota
from asyncopt.cli.app import app
from asyncopt.cli.run import study_of
from asyncopt.cli.sweep import planned_sweep
from asyncopt.cli.sweep_table import table_lines
from asyncopt.config import BudgetConfig, check
from asyncopt.errors import AsyncoptError, BudgetExhausted, ConfigError, EndpointRefused, StudyFailed
from asyncopt.events import Event
from asyncopt.limits.budget import Account, Budget
from asyncopt.repetitions import Ended, Spread, figures_of, groups_of, results_csv, totals_of
from asyncopt.result import Measured, Result, Scored
from asyncopt.sweep import Planned, Sweep, SweepDirectory, read_sweep, run_studies
from asyncopt.testing import AnswerModel, Constant, SimulatedAPI
from asyncopt.testing.process import known_items
from asyncopt.values import Fault, FaultKind, Usage

FILE = """
tasks = ["antonym", "capital"]
seeds = [0, 1]
studies = 3
[base.task]
limit = 10
[base.optimizer]
steps = 2
[settings.last.optimizer]
history_order = "ascending"
[settings.first.optimizer]
history_order = "descending"
"""
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


def on(url: str, *more: str) -> list[str]:
    return ["sweep", "two.toml", "--scorer", "mock", "--base-url", url, "--directory", "kept", *more]


def table() -> list[dict[str, str]]:
    """The rows of the sweep's CSV file."""
    return list(csv.DictReader(io.StringIO(Path("kept/results.csv").read_text(encoding="utf-8"), newline="")))


class Counting(AnswerModel):
    """Calls ``then`` when it has answered so many prompts."""

    def __init__(self, count: int, then: Callable[[], None]) -> None:
        super().__init__(0, KNOWN)
        self.left = count
        self._then = then

    def judged(self, prompt: str, draw: str = "") -> tuple[str, bool]:
        self.left -= 1
        if self.left == 0:
            self._then()
        return super().judged(prompt, draw)


# -- a whole sweep -----------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_every_study_is_a_run_of_its_own_and_the_table_is_their_mean(
    asyncopt: Commands, api: SimulatedAPI, url: str
) -> None:
    done = asyncopt(*on(url, "--json"))
    assert done.code == 0, done.err
    (launch,), (end,) = done.events("launch"), done.events("done")
    names = [
        f"{task}-{setting}-s{seed}"
        for task in ("antonym", "capital")
        for setting in ("last", "first")
        for seed in (0, 1)
    ]
    assert launch["studies"] == names
    assert sorted(study["directory"] for study in done.events("study")) == sorted(names)
    results = {name: json.loads((Path("kept") / name / "result.json").read_bytes()) for name in names}
    assert end["calls"] == len(api.ledger.entries) == sum(result["calls"] for result in results.values())

    (group,) = [one for one in end["groups"] if (one["task"], one["setting"]) == ("capital", "first")]
    held_out = [results[f"capital-first-s{seed}"]["best"]["held_out"]["score"] for seed in (0, 1)]
    initial = [results[f"capital-first-s{seed}"]["initial"]["held_out"]["score"] for seed in (0, 1)]
    gains = [best - first for best, first in zip(held_out, initial, strict=True)]
    assert group["n"] == 2
    assert (group["figures"]["held_out"]["mean"], group["figures"]["held_out"]["sd"]) == (
        fmean(held_out),
        stdev(held_out),
    )
    assert group["figures"]["gain"]["mean"] == pytest.approx(fmean(gains))
    (total,) = [one for one in end["totals"] if one["setting"] == "first"]
    assert total["tasks"] == 2
    by_task = [
        fmean(results[f"{task}-first-s{seed}"]["best"]["held_out"]["score"] for seed in (0, 1))
        for task in ("antonym", "capital")
    ]
    assert total["means"]["held_out"] == pytest.approx(fmean(by_task))

    rows = table()
    assert [row["directory"] for row in rows] == names
    assert [float(row["held_out"]) for row in rows if row["directory"].startswith("capital-first")] == held_out
    kept = json.loads(Path("kept/sweep-result.json").read_bytes())
    assert (kept["groups"], kept["totals"]) == (end["groups"], end["totals"])

    assert "antonym" in asyncopt("show", "kept/antonym-last-s0").out
    assert "8 of 8 studies" in asyncopt("show", "kept").out
    assert asyncopt("show", "kept", "--json").lines[0]["groups"] == end["groups"]
    shown = asyncopt("resume", "kept").out
    assert f"{100 * fmean(held_out):.1f} ± {100 * stdev(held_out):.1f}" in shown
    assert "mean over tasks" in shown


@pytest.mark.real
def test_what_is_finished_is_not_run_again(asyncopt: Commands, api: SimulatedAPI, url: str) -> None:
    first = asyncopt(*on(url, "--json"))
    sent = len(api.ledger.entries)
    for command in (on(url, "--json"), ["resume", "kept", "--json"]):
        again = asyncopt(*command)
        assert again.code == 0
        assert again.events("done")[0]["groups"] == first.events("done")[0]["groups"]
    assert len(api.ledger.entries) == sent


@pytest.mark.real
def test_studies_share_their_answers(asyncopt: Commands, api: SimulatedAPI, url: str) -> None:
    """Both settings score the same start on the same examples, and at temperature 0 nothing is asked twice."""
    assert asyncopt(*on(url)).code == 0
    scored = [entry.prompt for entry in api.ledger.entries if "square brackets" not in (entry.prompt or "")]
    assert len(scored) == len(set(scored)) > 0


@pytest.mark.real
def test_a_sweep_that_was_interrupted_goes_on(asyncopt: Commands) -> None:
    whole = simulated()
    with serving(whole) as url:
        expected = asyncopt(*on(url, "--json", "--set", 'cache="whole.sqlite"')).events("done")[0]
    Path("kept").rename("whole")

    interrupted = simulated(answers=Counting(400, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert interrupted.identity == whole.identity
    with serving(interrupted) as url:
        stopped = asyncopt(*on(url, "--studies", "1"))
        assert stopped.code == 130
        assert "asyncopt resume kept" in stopped.err
        assert "Traceback" not in stopped.err
        assert not Path("kept/results.csv").exists()
        finished = [path.parent.name for path in Path("kept").glob("*/result.json")]
        assert 0 < len(finished) < 8
        assert f"{len(finished)} of 8 studies" in asyncopt("show", "kept").out
        paid = len(interrupted.ledger.entries)
        resumed = asyncopt("resume", "kept", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.events("done")[0]["groups"] == with_spending(expected, resumed)["groups"]
    prompts = [entry.prompt for entry in interrupted.ledger.entries]
    again = [prompt for prompt in prompts[paid:] if prompt in set(prompts[:paid]) and "square brackets" not in prompt]
    assert again == []
    assert len(prompts) <= len(whole.ledger.entries) + 8


def with_spending(expected: dict[str, Any], resumed: Any) -> dict[str, Any]:
    """The expected groups with the spending of the resumed sweep: who paid for a shared answer may differ."""
    groups = [dict(group) for group in expected["groups"]]
    for group, other in zip(groups, resumed.events("done")[0]["groups"], strict=True):
        spent = {name: other["figures"][name] for name in ("calls", "cache_hits", "tokens", "seconds")}
        group["figures"] = {**group["figures"], **spent}
    return {"groups": groups}


@pytest.mark.real
def test_a_study_that_fails_leaves_the_others_alone(asyncopt: Commands, api: SimulatedAPI, url: str) -> None:
    other = Path("kept/antonym-first-s1")
    other.mkdir(parents=True)
    (other / "manifest.json").write_text('{"subject": {}}')
    done = asyncopt(*on(url, "--json"))
    assert done.code == 1
    assert "1 of 8 studies failed" in done.err
    end = done.events("done")[0]
    assert end["failed"] == ["antonym-first-s1"]
    assert [(group["n"], group["failed"]) for group in end["groups"]] == [(2, 0), (1, 1), (2, 0), (2, 0)]
    rows = {row["directory"]: row for row in table()}
    assert "holds another study" in rows["antonym-first-s1"]["error"]
    assert rows["antonym-first-s1"]["held_out"] == ""

    (other / "manifest.json").unlink()
    sent = len(api.ledger.entries)
    again = asyncopt("resume", "kept", "--json")
    assert again.code == 0
    assert again.events("done")[0]["groups"][1]["n"] == 2
    (result,) = [study["result"] for study in again.events("study") if study["directory"] == "antonym-first-s1"]
    assert len(api.ledger.entries) - sent == result["calls"] > 0


@pytest.mark.real
def test_a_refused_key_stops_the_sweep(asyncopt: Commands) -> None:
    api = simulated(require_key="another")
    with serving(api) as url:
        done = asyncopt(*on(url))
    assert done.code == 4
    assert "asyncopt resume kept" in done.err
    assert len(api.ledger.entries) <= 3 * 32


@pytest.mark.real
def test_the_budget_is_the_whole_sweeps_in_all_sittings(asyncopt: Commands, api: SimulatedAPI, url: str) -> None:
    done = asyncopt(*on(url, "--budget", "calls=300"))
    assert done.code == 3
    assert "300 calls" in done.err
    assert "asyncopt resume kept" in done.err
    sent = len(api.ledger.entries)
    assert sent <= 300
    assert asyncopt("resume", "kept", "--budget", "calls=301").code == 3
    assert len(api.ledger.entries) <= 301
    last = asyncopt("resume", "kept", "--budget", "calls=100000", "--json")
    assert last.code == 0
    assert 0 < last.events("done")[0]["calls"] <= len(api.ledger.entries) - sent


@pytest.mark.real
def test_a_budget_holds_in_later_sittings_until_another_one_is_given(
    asyncopt: Commands, api: SimulatedAPI, url: str
) -> None:
    assert asyncopt(*on(url, "--budget", "calls=300,tokens=1000000")).code == 3
    assert asyncopt("resume", "kept").code == 3
    assert len(api.ledger.entries) <= 300
    assert asyncopt("resume", "kept", "--budget", "calls=310").code == 3
    assert read_sweep(Path("kept")).budget.build() == Budget(calls=310, tokens=1000000)


@pytest.mark.real
def test_a_study_with_a_budget_of_its_own_ends_alone(asyncopt: Commands, url: str) -> None:
    text = FILE.replace("[settings.first.optimizer]", "[settings.first.budget]\ncalls = 30\n[settings.first.optimizer]")
    Path("two.toml").write_text(text)
    done = asyncopt(*on(url, "--json", "--seeds", "0", "--tasks", "antonym"))
    assert done.code == 3
    assert [(group["n"], group["failed"]) for group in done.events("done")[0]["groups"]] == [(1, 0), (0, 1)]


@pytest.mark.real
def test_another_sweep_in_the_same_directory_is_refused(asyncopt: Commands, api: SimulatedAPI, url: str) -> None:
    assert asyncopt(*on(url, "--seeds", "0", "--tasks", "antonym")).code == 0
    sent = len(api.ledger.entries)
    done = asyncopt(*on(url, "--seeds", "0", "--tasks", "antonym", "--steps", "3"))
    assert done.code == 2
    assert "antonym-first-s0.optimizer.steps was 2, is 3" in done.err
    more = asyncopt(*on(url))
    assert more.code == 2
    assert "capital-last-s1 is not in it" in more.err
    assert "and 1 more" in more.err
    assert len(api.ledger.entries) == sent
    # Neither how many at once nor a quota decides a result.
    assert (
        asyncopt(
            *on(url, "--seeds", "0", "--tasks", "antonym", "--studies", "1", "--set", "models.scorer.concurrency=4")
        ).code
        == 0
    )


@pytest.mark.real
def test_a_directory_in_use_is_refused(asyncopt: Commands, url: str) -> None:
    sweep = planned_sweep("two.toml", {"models.scorer.model": "mock"}, base_url=url)
    held = SweepDirectory(Path("kept"), sweep)
    try:
        refused = asyncopt(*on(url))
        assert refused.code == 5
        assert f"kept is in use by process {os.getpid()} on {socket.gethostname()} since" in refused.err
    finally:
        held.close()
    assert asyncopt(*on(url, "--tasks", "antonym", "--directory", "kept2")).code == 0


@pytest.mark.real
def test_a_run_does_not_go_into_a_sweeps_directory(asyncopt: Commands, url: str) -> None:
    small = ["--seeds", "0", "--tasks", "antonym", "--steps", "1"]
    assert asyncopt(*on(url, *small)).code == 0
    before = sorted(path.name for path in Path("kept").iterdir())
    done = asyncopt("run", "antonym", "--scorer", "mock", "--base-url", url, "--directory", "kept")
    assert (done.code, "holds a sweep" in done.err) == (2, True)
    assert sorted(path.name for path in Path("kept").iterdir()) == before
    assert asyncopt("resume", "kept").code == 0


@pytest.mark.real
def test_a_quota_in_the_file_goes_with_a_model_on_the_command_line(asyncopt: Commands, url: str) -> None:
    Path("two.toml").write_text(FILE.replace("[base.task]", "[base.models.scorer]\nconcurrency = 4\n[base.task]"))
    assert asyncopt(*on(url, "--seeds", "0", "--tasks", "antonym", "--steps", "1")).code == 0


@pytest.mark.real
def test_a_dry_run_is_the_most_that_all_studies_can_take(asyncopt: Commands, api: SimulatedAPI, url: str) -> None:
    prices = ["--set", "models.scorer.usd_per_million_output_tokens=2", "--set", "models.proposer.model=mock"]
    (told,) = asyncopt(*on(url, *prices, "--dry-run", "--json")).lines
    assert (told["studies"], Path("kept").exists(), api.ledger.entries) == (8, False, [])
    (one,) = asyncopt(*on(url, *prices, "--dry-run", "--json", "--tasks", "antonym", "--seeds", "0")).lines
    assert one["studies"] == 2
    assert told["total"]["calls"] == 4 * one["total"]["calls"] == sum(part["calls"] for part in told["parts"])
    assert told["total"]["usd"] is None  # the proposer has no price
    shown = asyncopt("run", "two.toml", "--scorer", "mock", "--base-url", url, "--dry-run")
    assert shown.out.startswith("8 studies")
    assert f"{told['total']['calls']:,}" in shown.out
    done = asyncopt(*on(url, "--json", "--no-cache")).events("done")[0]
    assert 0.5 * told["total"]["calls"] < done["calls"] <= told["total"]["calls"]


@pytest.mark.real
def test_settings_between_which_the_command_line_leaves_no_difference_are_told(asyncopt: Commands, url: str) -> None:
    small = ["--seeds", "0", "--tasks", "antonym", "--steps", "1"]
    assert "one and the same" not in asyncopt(*on(url, *small)).err
    same = asyncopt(*on(url, *small, "--set", 'optimizer.history_order="random"', "--directory", "b"))
    assert same.code == 0
    assert "settings last, first are one and the same" in same.err


@pytest.mark.real
def test_random_search_stands_beside_whatever_has_ended(asyncopt: Commands, url: str) -> None:
    """Also while the sweep goes on, and where a single run is shown."""
    models = ["--proposer", "mock", "--base-url", url, "--steps", "2"]
    table = ["opro-table-2", *models, "--seeds", "0", "--directory", "kept", "--json"]
    studies = {study["directory"]: study for study in asyncopt("sweep", *table).events("study")}
    Path("kept/sweep-result.json").unlink()
    for study in asyncopt("show", "kept", "--json").lines[0]["studies"]:
        assert study["random"] == studies[study["directory"]]["random"]
    assert "random   best" in asyncopt("show", "kept/linear-regression-w3-b5-s0").out
    shown = asyncopt("show", "kept/linear-regression-w3-b5-s0", "--json").lines[0]
    assert shown["random"] == studies["linear-regression-w3-b5-s0"]["random"]


def test_a_setting_with_random_proposals_stands_beside_one_with_a_model(asyncopt: Commands) -> None:
    Path("lr.toml").write_text(
        'tasks = ["linear-regression"]\nseeds = [0, 1]\n'
        '[settings.model.models]\nproposer.model = "m"\n[settings.random.models]\nproposer.model = "random"\n'
    )
    sweep = planned_sweep("lr.toml", {}, base_url="http://127.0.0.1:9/v1")
    optimizers = [(one.setting, one.config.optimizer.name, one.config.models.proposer) for one in sweep.planned]
    assert [name for _, name, _ in optimizers] == ["opro", "opro", "random", "random"]
    assert [model is None for _, _, model in optimizers] == [False, False, True, True]


@pytest.mark.real
def test_run_takes_sweeps_too(asyncopt: Commands, url: str) -> None:
    common = ["--base-url", url, "--steps", "1", "--json"]
    own = asyncopt("run", "two.toml", "--scorer", "mock", *common, "--seed", "5", "--directory", "a")
    assert [study["seed"] for study in own.events("study")] == [5] * 4
    ready = asyncopt("run", "opro-table-2", "--proposer", "mock", *common, "--seed", "0", "--directory", "b")
    assert len(ready.events("study")) == 7
    assert all(study["random"]["optimizer"] == "random" for study in ready.events("study"))


@pytest.mark.real
def test_linear_regression_stands_beside_random_pairs(asyncopt: Commands, url: str) -> None:
    done = asyncopt(
        "sweep", "opro-table-2", "--proposer", "mock", "--base-url", url, "--steps", "3", "--directory", "a"
    )
    assert done.code == 0
    head = next(line for line in done.out.splitlines() if line.startswith("task"))
    assert "unique pairs" in head
    assert "random: found" in head
    assert sum("of 5" in line for line in done.out.splitlines()) == 7


@pytest.mark.real
def test_all_tasks_of_bbh_and_gsm8k_in_one_sweep(asyncopt: Commands, data: Path) -> None:
    from asyncopt.tasks.bbh import STEMS

    tasks = ["gsm8k", *(f"bbh/{stem}" for stem in STEMS)]
    assert len(tasks) == 28
    Path("all.toml").write_text(f"tasks = {json.dumps(tasks)}\n[base.optimizer]\nsteps = 2\n")
    api = simulated(answers=AnswerModel(0, known_items(data)), keep_prompts=False)
    with serving(api) as url:
        common = ["--scorer", "mock", "--base-url", url, "--data", str(data), "--limit", "3", "--directory", "all"]
        done = asyncopt("sweep", "all.toml", *common)
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert [row[0] for row in rows if row and row[0] in tasks] == tasks
    assert any(row[:2] == ["default", "28"] for row in rows)


# -- wrong inputs ------------------------------------------------------------------------------------------------------

WRONG = [
    ("tasks = []", [], "tasks"),
    ('tasks = ["antonym"]\nseeds = []', [], "seeds"),
    ("seeds = [0]", [], "tasks"),
    ('tasks = ["antonym", "antonym"]', [], "more than once"),
    ('tasks = ["antonym"]\nseeds = [1, 1]', [], "more than once"),
    ('tasks = ["antonym"]\nseeds = [-1]', [], "seeds.0"),
    ('tasks = ["antonym"]\nsetings = 3', [], "did you mean settings"),
    ('tasks = ["antonym"]\n[optimizer]\nsteps = 3', [], "base.optimizer"),
    ('tasks = ["antonym"]\n[base.optimizer]\nstepz = 3', [], "did you mean steps"),
    ('tasks = ["antonym"]\n[base.optimizer]\nstepz = 3', [], "wrong.toml, antonym with default"),
    ('tasks = ["antonym"]\n[base]\ntask = 3\noptimizer = 4', [], "optimizer"),
    ('tasks = ["antonym"]\n[base.task]\ndata = 4', [], "data"),
    ('tasks = ["antonym"]\n[base.models]\nproposer = "m"', [], "models.proposer"),
    ('tasks = ["antonym"]\n[settings.a.optimizer]\nhistory_ordr = "random"', [], "did you mean history_order"),
    ('tasks = ["antonym"]\n[base]\nseed = 3', [], "list it in seeds"),
    ('tasks = ["antonym"]\n[settings.a.task]\nname = "capital"', [], "list it in tasks"),
    ('tasks = ["antonym"]\n[settings.a]\nuse_cache = false', [], "share one cache"),
    ("[[tasks]]\nlimit = 3", [], "has no name"),
    ('tasks = ["run.toml"]', [], "a task's name"),
    ('tasks = ["antonim"]', [], "did you mean antonym"),
    ('tasks = ["antonym"]\n[settings."a b"]\n[settings.a-b]', [], "rename one of them"),
    ('tasks = ["antonym", "gsm8k"]', [], "gsm8k/train.jsonl"),
    ('tasks = ["antonym"]', ["--set", "task.stepz=3"], "stepz"),
    ('tasks = ["antonym"]', ["--set", "seed=3"], "--seeds"),
    ('tasks = ["antonym"]', ["--seeds", "one"], "--seeds"),
    ('tasks = ["antonym"]', ["--tasks", ","], "--tasks"),
    ('tasks = ["antonym"]', ["--tasks", "capitol"], "did you mean capital"),
    ('tasks = ["antonym"]', ["--budget", "cals=3"], "did you mean calls"),
    ('tasks = ["antonym"]', ["--budget", "usd=3"], "has no price"),
    ('tasks = ["antonym"]', ["--set", "models.scorer.api_key_env=NO_SUCH_KEY"], "NO_SUCH_KEY"),
    ('[task]\nname = "antonym"', [], "asyncopt run"),
    ("tasks = [", [], "not TOML"),
]


@pytest.mark.parametrize(("text", "more", "message"), WRONG, ids=[f"{row[0]} {row[1]}"[:60] for row in WRONG])
def test_wrong_input_is_told_before_anything_is_sent(
    text: str, more: list[str], message: str, asyncopt: Commands
) -> None:
    Path("wrong.toml").write_text(text)
    done = asyncopt("sweep", "wrong.toml", "--scorer", "m", "--base-url", "http://127.0.0.1:9/v1", *more)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not Path("runs").exists()


def test_a_wrong_name_is_told_with_the_nearest(asyncopt: Commands) -> None:
    assert "did you mean opro-table-2" in asyncopt("sweep", "opro-table2").err
    assert "cannot be read" in asyncopt("sweep", "none.toml").err
    Path("run").mkdir()
    Path("run/manifest.json").write_text("{}")
    assert "a single run" in asyncopt("sweep", "opro-table-2", "--proposer", "random", "--directory", "run").err
    (Path("damaged")).mkdir()
    Path("damaged/sweep.json").write_text('{"studies": 3}')
    damaged = asyncopt("resume", "damaged")
    assert (damaged.code, "damaged" in damaged.err) == (2, True)


def test_paths_in_a_file_mean_places_beside_it_and_the_command_line_is_on_top(asyncopt: Commands) -> None:
    folder = Path("elsewhere")
    folder.mkdir()
    (folder / "mine.jsonl").write_text("".join(f'{{"input": "q{n}", "target": "a{n}"}}\n' for n in range(10)))
    (folder / "s.toml").write_text(
        '[[tasks]]\nname = "mine.jsonl"\nlimit = 4\n[base.optimizer]\nsteps = 9\n[base.task]\ndata = "d"\n'
    )
    (planned,) = planned_sweep(str(folder / "s.toml"), {"models.scorer.model": "local", "optimizer.steps": 2}).planned
    assert planned.name == "mine-default-s0"
    assert Path(planned.config.task.name) == (folder / "mine.jsonl").absolute()
    assert planned.config.task.data == (folder / "d").absolute()
    assert (planned.config.task.limit, planned.config.optimizer.steps) == (4, 2)


def test_a_task_on_the_command_line_means_a_place_beside_the_user(asyncopt: Commands) -> None:
    sweep = planned_sweep("opro-figure-7-order", {"models.scorer.model": "local"}, tasks="mine.jsonl", seeds="0")
    assert {Path(one.config.task.name) for one in sweep.planned} == {Path("mine.jsonl").absolute()}


# -- how studies run side by side --------------------------------------------------------------------------------------


def planned(setting: str = "a", seed: int = 0, task: str = "antonym", **tables: Any) -> Planned:
    return Planned(task, setting, seed, check({"task": {"name": task}, "seed": seed, **tables}))


def run_all(
    count: int, at_once: int, run: Callable[[Planned], Any], **tables: Any
) -> tuple[list[Ended], list[int], list[int]]:
    """How the studies ended, the order in which they did, and how many ran when each began."""
    order: list[int] = []
    running: list[int] = []

    async def main() -> list[Ended]:
        now = 0

        async def one(study: Planned) -> Ended:
            nonlocal now
            now += 1
            running.append(now)
            try:
                return await run(study)
            finally:
                now -= 1

        studies = [planned(seed=seed, **tables) for seed in range(count)]
        return await run_studies(studies, one, at_once, lambda ended: order.append(ended.planned.seed))

    return run_virtual(main), order, running


def test_so_many_run_at_once_and_the_list_is_in_order() -> None:
    async def run(one: Planned) -> Ended:
        await asyncio.sleep(10 - one.seed)
        return Ended(one)

    ended, order, running = run_all(6, 2, run)
    assert [one.planned.seed for one in ended] == [0, 1, 2, 3, 4, 5]
    assert order != sorted(order)
    assert max(running) == 2


def test_an_error_is_the_studys_own_unless_it_stops_everything() -> None:
    async def failing(one: Planned) -> Ended:
        if one.seed == 1:
            raise StudyFailed("nothing could be scored")
        return Ended(one)

    ended, order, _ = run_all(3, 1, failing)
    assert [one.error is None for one in ended] == [True, False, True]
    assert order == [0, 1, 2]


@pytest.mark.parametrize("error", [EndpointRefused(Fault(FaultKind.FATAL_CONFIG, "401")), BudgetExhausted("used up")])
def test_what_stops_everything_is_raised_as_itself_and_the_others_end(error: AsyncoptError) -> None:
    ended: list[str] = []

    async def run(one: Planned) -> Ended:
        if one.seed == 1:
            await asyncio.sleep(1)
            raise error
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(one.name)
        return Ended(one)

    with pytest.raises(type(error)) as raised:
        run_all(4, 3, run)
    assert raised.value is error
    assert len(ended) == 2


def test_a_defect_is_no_failed_study() -> None:
    async def run(one: Planned) -> Ended:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        run_all(2, 1, run)
    assert raised.value.subgroup(ZeroDivisionError) is not None


def test_all_studies_keep_one_quota_together(tmp_path: Path) -> None:
    """120 calls of three studies at 10 a second: none is refused, and none of the rate is left unused."""
    api = SimulatedAPI(
        latency=Constant(0.2), requests_per_second=10.0, request_burst=2.0, answers=AnswerModel(0, KNOWN)
    )
    sweep = [
        Planned(
            "antonym",
            "a",
            seed,
            check({"task": {"name": "antonym", "limit": 5}, "optimizer": {"steps": 1}, "seed": seed}),
        )
        for seed in range(3)
    ]

    class Silent:
        def notify(self, event: Event) -> None: ...

    async def main() -> list[Ended]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=Quota(requests_per_minute=600))
            models = {"scorer": model, "proposer": model}

            async def run(one: Planned) -> Ended:
                study = study_of(one.config, one.config.load_task(), models, tmp_path / one.name, Silent())
                return Ended(one, await study.run())

            return await run_studies(sweep, run, 3, lambda _: None)

    ended = run_virtual(main)
    assert all(one.error is None for one in ended)
    entries = api.ledger.entries
    assert {entry.status for entry in entries} == {200}
    assert len(entries) == sum(one.result.calls for one in ended if one.result is not None)
    # Steps of one study wait for its answers; while they do, the others use the quota.
    assert len(entries) / (entries[-1].arrived - entries[0].arrived) > 0.9 * 10


def test_a_parent_account_counts_for_all_and_its_budget_holds_for_all() -> None:
    total = Account(Budget(calls=3, tokens=100))
    first, second = Account(parent=total), Account(Budget(calls=1), parent=total)
    for account in (first, second, first):
        assert account.exhausted(10, 0.0) is None
        account.reserve(10, 0.5)
    assert second.exhausted() == first.exhausted() == "the budget of 3 calls is used up"
    first.settle(10, 0.5, Usage(30, 5), 0.25)
    assert (total.calls, total.tokens, total.usd) == (3, 35, 0.25)
    assert (first.calls, second.calls, second.tokens) == (2, 1, 0)
    total.budget = Budget(tokens=100)
    assert second.exhausted() == "the budget of 1 calls is used up"
    assert "100 tokens" in (first.exhausted(50) or "")


# -- figures -----------------------------------------------------------------------------------------------------------


def result(held_out: float, first: float = 0.5, **more: Any) -> Result:
    def scored(share: float) -> Scored:
        return Scored("c", 0, "meta-prompt", Measured.of(16, 20), Measured.of(100 * share, 100))

    fields = {"steps": 2, "calls": 10, "cache_hits": 0, "input_tokens": 1, "output_tokens": 1, "tokens": 2, "usd": None}
    return Result(
        **{
            "task": "t",
            "optimizer": "opro",
            "seed": 0,
            "best": scored(held_out),
            "initial": scored(first),
            "seconds": 1.0,
        }
        | fields
        | more
    )


def loss(steps: int, *, solved: bool, **more: Any) -> Result:
    best = Scored("c", 0, "meta-prompt", None, None, 110.0)
    return result(0, best=best, initial=best, optimum_loss=100.0, solved=solved, steps=steps, **more)


def test_the_spread_over_seeds() -> None:
    spread = Spread.of([0.5, 0.6, 0.7])
    assert (spread.mean, spread.sd, spread.n) == (pytest.approx(0.6), pytest.approx(0.1), 3)
    # Student's t for two degrees of freedom is 4.302652729911275.
    assert spread.low == pytest.approx(0.6 - 4.302652729911275 * 0.1 / 3**0.5)
    assert spread.high == pytest.approx(0.6 + 4.302652729911275 * 0.1 / 3**0.5)
    assert Spread.of([0.5]) == Spread(0.5, None, 1, None, None)


def test_the_figures_of_a_study_that_a_model_scores() -> None:
    figures = figures_of(Ended(planned(), result(0.7)))
    assert (figures["train"], figures["held_out"]) == (0.8, 0.7)
    assert figures["gain"] == pytest.approx(0.2)
    assert figures["overall"] == pytest.approx(86 / 120)
    assert "solved" not in figures
    assert figures_of(Ended(planned(), error=StudyFailed("no"))) == {}


def test_the_figures_of_tours_beside_random_ones() -> None:
    heuristics = {"nearest_neighbour": 125.0, "farthest_insertion": 104.0}
    rows = [
        Ended(
            planned(seed=0),
            loss(4, solved=True, unique_tours=30, gap=0.0, baselines=heuristics),
            loss(9, solved=False, gap=40.0),
        ),
        Ended(
            planned(seed=1),
            loss(8, solved=False, unique_tours=50, gap=10.0, baselines=heuristics),
            loss(9, solved=False, gap=60.0),
        ),
        Ended(planned(seed=2), error=StudyFailed("no")),
    ]
    (group,) = groups_of(rows)
    means = {name: spread.mean for name, spread in group.figures.items()}
    assert (group.n, group.failed) == (2, 1)
    assert (means["gap"], means["random_gap"], means["solved"], means["steps"]) == (5.0, 50.0, 0.5, 6.0)
    assert (means["steps_solved"], means["unique"]) == (4.0, 40.0)
    assert (means["nearest_neighbour"], means["farthest_insertion"]) == (pytest.approx(25.0), pytest.approx(4.0))
    assert "random_steps_solved" not in means
    assert len(results_csv(rows).splitlines()) == 4


def test_the_best_seed_by_validation_of_so_many() -> None:
    def validated(validation: int, held_out: float) -> Result:
        best = Scored("c", 0, "s", Measured.of(1, 2), Measured.of(round(100 * held_out), 100))
        return result(held_out, best=replace(best, validation=Measured.of(validation, 10)))

    scores = [(5, 0.6), (7, 0.8), (6, 0.7)]
    rows = [Ended(planned(seed=n), validated(*pair)) for n, pair in enumerate(scores)]
    (group,) = groups_of(rows)
    # One of three: 60, 80, 70. The better of two: 80, 70, 80.
    assert group.top_k == [
        (pytest.approx(0.7), pytest.approx((0.02 / 3) ** 0.5)),
        (pytest.approx(2.3 / 3), pytest.approx((0.02 / 9) ** 0.5)),
        (pytest.approx(0.8), pytest.approx(0.0, abs=1e-7)),
    ]
    assert any(line.split()[-3:] == ["80.0", "±", "0.0"] for line in table_lines(rows))
    (alone,) = groups_of(rows[:1])
    assert alone.top_k == []


def test_a_total_is_the_mean_over_tasks_that_all_have_the_figure() -> None:
    rows = [
        Ended(planned(task="antonym", seed=0), result(0.6)),
        Ended(planned(task="antonym", seed=1), result(0.8)),
        Ended(planned(task="capital", seed=0), result(0.9)),
        Ended(planned(task="capital", setting="b"), result(0.1)),
        Ended(planned(task="antonym", setting="b"), error=StudyFailed("no")),
    ]
    (total,) = totals_of(groups_of(rows))
    assert (total.setting, total.tasks) == ("a", 2)
    assert total.means["held_out"] == pytest.approx((0.7 + 0.9) / 2)
    assert total.means["gain"] == pytest.approx((0.2 + 0.4) / 2)
    no_test = Ended(planned(task="country"), result(0.5, best=Scored("c", 0, "s", Measured.of(1, 2), None)))
    (total,) = totals_of(groups_of([*rows, no_test]))
    assert "held_out" not in total.means
    assert total.tasks == 3


# -- kept --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=20), min_size=1, max_size=3, unique=True), st.integers(0, 2**53))
def test_a_folders_name_is_only_a_name(settings: list[str], seed: int) -> None:
    for setting in settings:
        name = planned(setting, seed).name
        assert "/" not in name
        assert "\\" not in name
        assert name.isprintable()
        assert name.startswith("antonym-")


def test_a_manifest_gives_the_same_sweep_back(tmp_path: Path) -> None:
    studies = (planned("a", 0, optimizer={"steps": 3}), planned("b", 0, budget={"calls": 3}))
    sweep = Sweep("name", studies, 4, BudgetConfig(usd=1.5))
    SweepDirectory(tmp_path / "kept", sweep).close()
    assert read_sweep(tmp_path / "kept") == sweep


def test_studies_must_have_folders_of_their_own() -> None:
    with pytest.raises(ConfigError, match="rename one of them"):
        Sweep("name", (planned("A"), planned("a")), 1)
    with pytest.raises(ConfigError, match="at least 1"):
        Sweep("name", (planned(),), 0)


def test_a_sweep_is_not_replayed_as_a_run(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    done = CliRunner().invoke(app, ["replay", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)
    assert "is a sweep; replay takes the directory of one of its runs" in str(done.exception)


def test_what_a_sweep_file_states_holds_where_the_command_line_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(
        'name = "s"\ntasks = ["antonym"]\n[base]\nbatch = "test"\nmode = "faithful"\nuse_cache = false\n'
        'shared = "unix:/tmp/q"\nobservers = ["prometheus:9100"]\n[base.models.scorer]\nmodel = "openai/x"\n'
    )
    names = ("batch", "mode", "use_cache", "shared", "observers")
    (study,) = planned_sweep(str(path), dict.fromkeys(names)).planned
    plain = {"observers": ("prometheus:9100",), "batch": "test", "mode": "faithful", "use_cache": False}
    assert {name: getattr(study.config, name) for name in plain} == plain
    assert study.config.shared == "unix:/tmp/q"
    (other,) = planned_sweep(str(path), {"mode": "parallel", "use_cache": True}).planned
    assert (other.config.mode, other.config.use_cache, other.config.batch) == ("parallel", True, "test")


def test_intervals_of_few_seeds_end_where_shares_do() -> None:
    rows = [Ended(planned(seed=n), result(held_out, 0.45)) for n, held_out in enumerate((0.4, 0.6))]
    (line,) = [line for line in table_lines(rows) if line.startswith("antonym")]
    assert "50.0 ± 14.1 (0.0 to 100.0)" in line
    assert "5.0 ± 14.1 (-100.0 to 100.0)" in line
