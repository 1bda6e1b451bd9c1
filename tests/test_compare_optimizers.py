"""``asyncopt compare TASK --optimizers ...``: equal scoring calls, one engine, and a table that says what is luck."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from swept import Commands, serving

from asyncopt.cli.arms import Asked, planned_contest
from asyncopt.cli.contest_text import contests_lines
from asyncopt.cli.sweep import loaded
from asyncopt.contest import Arm, ArmRun, contest
from asyncopt.errors import ConfigError
from asyncopt.optimizers.overlap import Overlap
from asyncopt.records.contest import OfTask
from asyncopt.result import Measured
from asyncopt.sweep import Sweep, read_sweep
from asyncopt.tasks.task import Task
from asyncopt.testing import AnswerModel, Constant, SimulatedAPI
from asyncopt.testing.contest import simulate_contest
from asyncopt.testing.faults import FaultPlan
from asyncopt.testing.process import known_items

KNOWN = known_items(None)
TWO = ("compare", "antonym", "--optimizers", "opro,ape", "--limit", "8")
SHORT = (*TWO, "--scoring-calls", "48", "--seeds", "0,1")
NOBODY = ("--scorer", "mock", "--base-url", "http://127.0.0.1:9/v1", "--directory", "made")
SETTINGS = """
tasks = ["antonym"]
seeds = [4, 5]
[base.models.scorer]
model = "openai/mock"
[settings.few.optimizer]
samples_per_step = 2
[settings.many.optimizer]
samples_per_step = 9
"""


@pytest.fixture
def asyncopt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    return Commands(monkeypatch, capsys, tmp_path)


def planned(**options: Any) -> Sweep:
    asked = {"what": "antonym", "flags": {"models.scorer.model": "openai/mock"}, **options}
    return planned_contest(Asked(**asked))[0]


def limits(sweep: Sweep) -> dict[str, tuple[int | None, int]]:
    """The scoring calls and the steps of each arm."""
    found = {}
    for one in sweep.planned:
        optimizer = one.config.build_optimizer(one.config.load_task())
        assert isinstance(optimizer, Overlap)
        found[one.setting] = (optimizer.scoring_calls, one.config.build_optimizer(one.config.load_task()).steps)
    return found


# -- which studies a comparison has ------------------------------------------------------------------------------------


def test_all_arms_of_a_seed_stand_side_by_side() -> None:
    sweep = planned(optimizers="opro,ape,reflective", seeds=[3, 1])
    order = [(one.seed, one.setting) for one in sweep.planned]
    assert order == [(seed, arm) for seed in (3, 1) for arm in ("opro", "ape", "reflective")]
    assert sweep.at_once == 3
    assert all(one.config.trace for one in sweep.planned)
    assert sweep.contest == {"opro": None, "ape": None, "reflective": None}


def test_every_arm_has_the_same_scoring_calls_and_they_end_it() -> None:
    found = limits(planned(optimizers="opro,ape,evoprompt-ga,evoprompt-de,reflective,paraphrase", seeds=[0]))
    assert {calls for calls, _ in found.values()} == {50 * 40}
    # 400 proposals for the 50 candidates, or as many steps as the optimizer has anyway, and what it begins with.
    assert {arm: steps for arm, (_, steps) in found.items()} == {
        "opro": 200,
        "ape": 1 + 27,
        "evoprompt-ga": 1 + 40,
        "evoprompt-de": 1 + 40,
        "reflective": 100,
        "paraphrase": 40,
    }
    assert {calls for calls, _ in limits(planned(optimizers="opro,ape", scoring_calls=333)).values()} == {333}


def test_more_steps_than_that_are_left_alone() -> None:
    stated = planned(optimizers="opro,ape", scoring_calls=80, settings=["optimizer.steps=77"])
    assert limits(stated)["opro"] == (80, 77)


def test_an_aa_arm_repeats_the_first_under_later_seeds() -> None:
    sweep = planned(optimizers="opro,ape", seeds=[0, 7], aa=True)
    assert sweep.contest == {"opro": None, "ape": None, "opro (A/A)": "opro"}
    assert [(one.setting, one.seed) for one in sweep.planned] == [
        *(("opro", 0), ("ape", 0), ("opro (A/A)", 8)),
        *(("opro", 7), ("ape", 7), ("opro (A/A)", 9)),
    ]
    first, _, again = sweep.planned[:3]
    assert again.config == first.config.model_copy(update={"seed": 8})


def test_the_settings_of_a_sweep_are_arms(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SETTINGS)
    sweep = planned(what=str(path), flags={})
    assert [(one.setting, one.seed) for one in sweep.planned] == [
        *(("few", 4), ("many", 4)),
        *(("few", 5), ("many", 5)),
    ]
    assert {calls for calls, _ in limits(sweep).values()} == {2000}
    with pytest.raises(ConfigError, match=r"arms of .* are its settings"):
        planned(what=str(path), optimizers="opro,ape")


def test_a_sweep_states_its_scoring_calls_for_all_or_for_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SETTINGS + "[base.optimizer]\nscoring_calls = 400\n")
    assert {calls for calls, _ in limits(planned(what=str(path))).values()} == {400}
    path.write_text(SETTINGS + "scoring_calls = 400\n")  # of the last table
    with pytest.raises(ConfigError, match=r"different scoring_calls \(few none, many 400\)"):
        planned(what=str(path))
    assert {calls for calls, _ in limits(planned(what=str(path), scoring_calls=90)).values()} == {90}


def test_a_configuration_states_one_optimizer_and_not_the_others(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text('[task]\nname = "antonym"\nlimit = 8\n[optimizer]\nname = "ape"\nsamples = 3\n')
    sweep = planned(what=str(path), optimizers="opro,ape")
    by_arm = {one.setting: one.config for one in sweep.planned}
    assert by_arm["ape"].optimizer.samples == 3  # type: ignore[union-attr]
    assert by_arm["opro"].task.limit == 8
    assert sweep.name == "compare-one"
    path.write_text("[optimizer]\nsteps = 3\n")
    with pytest.raises(ConfigError, match="names no task"):
        planned(what=str(path), optimizers="opro,ape")


def test_a_setting_is_for_those_that_have_it() -> None:
    asked = Asked(
        "antonym",
        optimizers="opro,evoprompt-ga,ape",
        flags={"models.scorer.model": "openai/mock"},
        settings=["optimizer.temperature=0.25", "optimizer.popsize=4", "task.limit=9"],
    )
    sweep, remarks = planned_contest(asked)
    assert remarks == ["--set optimizer.popsize=4 is for evoprompt-ga; there is no such option of opro, ape"]
    assert {one.config.optimizer.temperature for one in sweep.planned} == {0.25}  # type: ignore[union-attr]
    assert {one.config.task.limit for one in sweep.planned} == {9}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"optimizers": "opro,ap"}, "did you mean ape"),
        ({"optimizers": "opro"}, "two optimizers or more, and got opro"),
        ({}, "which optimizers on antonym"),
        ({"optimizers": "opro,ape,opro"}, "opro more than once"),
        ({"optimizers": "opro,dln1"}, "dln1 cannot be held to a number of scoring calls"),
        ({"optimizers": "random,opro"}, "random cannot be held to a number of scoring calls"),
        ({"optimizers": "opro,ape", "scoring_calls": 79}, "the 1 starting points and one candidate take 80"),
        ({"optimizers": "opro,ape", "what": "linear-regression"}, "linear-regression has none"),
        ({"optimizers": "opro,ape", "what": "antonyms"}, "no task 'antonyms'"),
        ({"optimizers": "opro,ape", "settings": ["optimizer.popsize=3"]}, "none of opro, ape has an option popsize"),
        ({"optimizers": "opro,ape", "settings": ["optimizer.name=ape"]}, "give --optimizers instead"),
        ({"optimizers": "opro,ape", "settings": ["optimizer.scoring_calls=3"]}, "give --scoring-calls instead"),
        ({"optimizers": "opro,ape", "settings": ["seed=3"]}, "give --seeds instead"),
    ],
)
def test_what_cannot_be_meant_is_said(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        planned(**options)


def test_without_held_out_examples_there_is_nothing_to_compare_on(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"input": f"item {n}", "target": f"{n}"}) + "\n" for n in range(20)))
    splits = ["task.train_ratio=0.8", "task.validation_ratio=0.2", "task.initial=Answer."]
    with pytest.raises(ConfigError, match=r"held-out examples, and .*own\.jsonl has none; name a task that has some"):
        planned(what=str(path), optimizers="opro,ape", settings=splits)


# -- on the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("here", "antonym"), "antonym is no directory; compare takes directories of runs, or one task"),
        (("here", "there", "--optimizers", "opro,ape"), "--optimizers is about one task, and here are 2"),
        (("here", "there", "--seeds", "0,1"), "--seeds is for a comparison of optimizers"),
        (("antonym", "--optimizers", "opro,ape", "--rps", "3"), "--rps describes a simulated API; add --simulated"),
        (("antonym", "--optimizers", "opro,ape", "--simulated", "--directory", "here"), "--directory is for"),
        (("antonym", "--optimizers", "opro,ape", "--simulated", "--budget", "calls=3"), "--budget is for"),
        (("antonym", "--optimizers", "opro,ape", "--seeds", "a"), "--seeds got 'a'"),
        (
            (*TWO[1:2], "--optimizers", "opro,evoprompt-ga", "--simulated", "--limit", "8", "--scoring-calls", "90"),
            "scoring_calls is 90; the 21 starting points",
        ),
        (
            (*TWO[1:2], "--optimizers", "opro,evoprompt-ga", "--limit", "8", "--scoring-calls", "90", *NOBODY),
            "scoring_calls is 90; the 21 starting points",
        ),
    ],
)
def test_wrong_arguments_cost_nothing(asyncopt: Commands, arguments: tuple[str, ...], complaint: str) -> None:
    Path("here").mkdir()
    Path("there").mkdir()
    done = asyncopt("compare", *arguments)
    assert (done.code, done.out) == (2, "")
    assert complaint in done.err
    assert not any(Path("here").iterdir())
    assert not Path("made").exists()


# -- in virtual time ---------------------------------------------------------------------------------------------------


def test_a_simulated_comparison_knows_the_truth(asyncopt: Commands) -> None:
    done = asyncopt(*SHORT, "--simulated", "--latency", "1", "--json")
    assert done.code == 0, done.err
    (found,) = done.events("contest")
    assert (found["task"], found["scoring_calls"]) == ("antonym", 48)
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert list(arms) == ["opro", "ape"]
    for arm in arms.values():
        assert arm["n"] == 2
        assert not arm["failures"]
        assert arm["took"]["scoring_calls"]["mean"] == 48  # six candidates on eight examples
        assert arm["took"]["candidates"]["mean"] == 6
        assert arm["regret"]["mean"] >= 0
        assert arm["took"]["seconds"]["mean"] >= 3  # a step's proposals, its scores and the test take a second each
    assert sorted(arm["true_rank"] for arm in arms.values()) in ([1, 2], [1, 1])
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"], pair["seeds"]) == ("opro", "ape", 2)
    assert pair["verdict"] is None  # from two seeds
    assert any("From two seeds there is no verdict" in note for note in found["notes"])
    assert not list(Path().iterdir())  # nothing is kept


def test_the_truth_is_the_same_for_every_arm_and_the_output_repeats_itself(asyncopt: Commands) -> None:
    one, two = (asyncopt(*SHORT, "--simulated", "--json") for _ in range(2))
    assert one.out == two.out
    slower = asyncopt(*SHORT, "--simulated", "--latency", "lognormal:3:1", "--concurrency", "2", "--json")
    worth = [[(arm["held_out"], arm["regret"], arm["best"]) for arm in done.lines[0]["arms"]] for done in (one, slower)]
    assert worth[0] == worth[1]  # latencies change when, and never what


@pytest.mark.parametrize("use_cache", [True, False])
def test_every_call_of_a_simulated_comparison_is_counted_and_held_out_examples_are_asked_once(
    monkeypatch: pytest.MonkeyPatch, *, use_cache: bool
) -> None:
    apis: list[SimulatedAPI] = []

    class Kept(SimulatedAPI):
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "keep_prompts": True})
            apis.append(self)

    monkeypatch.setattr("asyncopt.testing.servers.SimulatedAPI", Kept)
    flags = {"models.scorer.model": "openai/mock", "task.limit": 8, "use_cache": use_cache}
    sweep = planned(flags=flags, optimizers="opro,ape", scoring_calls=48, seeds=[0, 1])
    tasks = loaded(sweep)
    found = simulate_contest(sweep, tasks, {"latency": Constant(0.1)})

    (api,) = apis
    assert sum(arm.took["calls"].mean * arm.n for arm in found[0].contest.arms) == api.ledger.count()
    (task, *_) = tasks.values()
    assert isinstance(task, Task)
    prompts = [entry.prompt for entry in api.ledger.entries]
    held_out = {task.render(arm.best or "", one.input) for arm in found[0].contest.arms for one in task.test}
    counts = [prompts.count(prompt) for prompt in held_out]
    # Two studies may have chosen the same instruction, and one the initial one.
    assert max(counts) <= (1 if use_cache else len(sweep.planned) + 1)


def test_the_table_is_for_people(asyncopt: Commands) -> None:
    done = asyncopt(*SHORT, "--simulated", "--aa")
    lines = done.out.splitlines()
    assert lines[0] == "antonym: 3 optimizers, 48 scoring calls each"
    assert lines[2].split("  ")[-2:] == ["true regret", "true rank"]
    assert any(line.startswith("opro (A/A) - opro") and "A/A" in line for line in lines)
    assert any(line.startswith("the initial instruction asked twice on 8 examples: +0.0 points") for line in lines)
    assert max(map(len, lines)) <= 100


def test_one_seed_is_about_prompts(asyncopt: Commands) -> None:
    done = asyncopt(*TWO, "--scoring-calls", "32", "--seeds", "3", "--simulated")
    assert done.code == 0
    text = " ".join(done.out.split())
    assert "not about optimizers" in text
    assert "noise: not known from one seed" in text


def test_an_instruction_asked_twice_at_a_temperature_has_noise(asyncopt: Commands) -> None:
    temperature = ("--set", "task.temperature=1.0")
    done = asyncopt(*TWO[:4], "--scoring-calls", "80", "--seeds", "0", "--simulated", "--aa", "--json", *temperature)
    assert done.code == 0, done.err
    twice = done.lines[0]["noise"]["asked_twice"]
    assert twice["n"] == 40
    assert 0 < twice["changed"] < 0.5


def test_a_run_that_fails_is_counted(asyncopt: Commands) -> None:
    done = asyncopt(*SHORT, "--simulated", "--set", "budget.calls=60")
    assert done.code == 1
    assert "opro: 2 of 2 runs have no result" in " ".join(done.out.split())


def test_answers_that_failed_are_scoring_calls_too(asyncopt: Commands) -> None:
    """Also where not one candidate has a score for every example."""
    done = asyncopt(*SHORT, "--simulated", "--faults", "seed=1,rate=0.6,kinds=refused", "--json")
    assert_eight_a_candidate(done.lines[0])


def assert_eight_a_candidate(found: dict[str, Any]) -> None:
    took = [arm["took"] for arm in found["arms"]]
    assert [one["scoring_calls"]["mean"] for one in took] == [8 * one["candidates"]["mean"] for one in took]


def test_models_and_users_cannot_write_to_the_terminal() -> None:
    share = Measured.of(3, 4)
    runs = [ArmRun(seed, "Say\x1b[2J\nit " * 80, share, None, share, {0: 1.0, 1: 0.0}) for seed in (0, 1)]
    arms = [Arm("a\x1b[31m" * 30, runs), Arm("b", [replace(run, failure="\x07no") for run in runs])]
    lines = contests_lines([OfTask("t\n", 8, contest(arms))])
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) <= 100


def test_equal_scores_under_all_seeds_are_no_measure_of_what_seeds_vary() -> None:
    share = Measured.of(3, 4)
    runs = [ArmRun(seed, "Say it", share, None, share, {0: 1.0, 1: 0.0}) for seed in range(3)]
    table = "\n".join(contests_lines([OfTask("t", 8, contest([Arm("a", runs), Arm("b", runs)]))]))
    assert "75.0 to 75.0" not in table
    assert "75.0 ± 0.0" in table
    assert "noise: not known, since every optimizer came to the same" in table


# -- over sockets, in a directory --------------------------------------------------------------------------------------


class Counting(AnswerModel):
    """Calls ``then`` when it has answered so many prompts."""

    def __init__(self, count: int, then: Callable[[], None]) -> None:
        super().__init__(0, KNOWN)
        self.left = count
        self._then = then

    def judged(self, prompt: str, draw: str = "", *, bare: bool = False) -> tuple[str, bool]:
        self.left -= 1
        if self.left == 0:
            self._then()
        return super().judged(prompt, draw, bare=bare)


def serves(answers: AnswerModel) -> SimulatedAPI:
    return SimulatedAPI(latency=Constant(0.0), answers=answers)


@pytest.fixture
def url() -> Iterator[str]:
    with serving(serves(AnswerModel(0, KNOWN))) as address:
        yield address


def on(url: str, directory: str, *more: str) -> tuple[str, ...]:
    return (*SHORT, "--scorer", "mock", "--base-url", url, "--directory", directory, *more)


def found_in(directory: str) -> Any:
    """The comparison that a directory keeps, without what depends on when things happened."""
    (found,) = json.loads((Path(directory) / "contest.json").read_bytes())
    for arm in found["arms"]:
        arm["took"] = {name: arm["took"][name] for name in ("candidates", "scoring_calls")}
    return found


@pytest.mark.real
def test_what_was_asked_twice_is_not_asked_again_even_without_a_cache(asyncopt: Commands) -> None:
    api = serves(AnswerModel(0, KNOWN))
    with serving(api) as address:
        done = asyncopt(*on(address, "kept", "--aa", "--no-cache"))
        assert done.code == 0, done.err
        sent, kept = api.ledger.count(), Path("kept/asked-twice.json").read_bytes()
        assert asyncopt("resume", "kept").code == 0
    assert api.ledger.count() == sent
    assert Path("kept/asked-twice.json").read_bytes() == kept


@pytest.mark.real
def test_a_comparison_is_kept_shown_and_reported(asyncopt: Commands, url: str) -> None:
    done = asyncopt(*on(url, "kept", "--aa", "--json"))
    assert done.code == 0, done.err
    (end,) = done.events("done")
    assert end["contests"] == json.loads(Path("kept/contest.json").read_bytes())
    (found,) = end["contests"]
    assert [arm["name"] for arm in found["arms"]] == ["opro", "ape", "opro (A/A)"]
    assert all(arm["took"]["scoring_calls"]["mean"] == 48 for arm in found["arms"])
    assert found["noise"]["asked_twice"]["n"] == 8
    # The chosen instructions' grades are in their traces: two seeds deal other words, which few have in common.
    result = json.loads(Path("kept/antonym-opro-s0/result.json").read_bytes())
    assert result["best"]["held_out"]["n"] == 8
    shown = asyncopt("show", "kept", "--json").lines[0]
    assert shown["contests"] == end["contests"]
    assert read_sweep(Path("kept")).contest == {"opro": None, "ape": None, "opro (A/A)": "opro"}
    table = asyncopt("show", "kept").out
    assert "6 of 6 studies have ended" in table
    assert "optimizer   n" in table
    assert asyncopt("report", "kept").code == 0
    assert '"contests":{"lines":["antonym: 3 optimizers' in Path("kept/report.html").read_text(encoding="utf-8")
    other = asyncopt(*on(url, "kept", "--seeds", "0,1,2"))
    assert other.code == 2
    assert "holds another sweep" in other.err


@pytest.mark.real
def test_answers_that_failed_are_scoring_calls_in_a_directory_too(asyncopt: Commands) -> None:
    faults = FaultPlan(seed=1, rate=0.4, kinds=("refused",))
    with serving(SimulatedAPI(latency=Constant(0.0), answers=AnswerModel(0, KNOWN), faults=faults)) as url:
        asyncopt(*on(url, "kept"))
    assert_eight_a_candidate(asyncopt("show", "kept", "--json").lines[0]["contests"][0])


@pytest.mark.real
def test_an_interrupted_comparison_ends_as_if_nothing_had_happened(
    asyncopt: Commands, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert asyncopt(*on(url, "whole")).code == 0
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path / "another-cache"))
    with serving(serves(Counting(150, lambda: os.kill(os.getpid(), signal.SIGINT)))) as stopped:
        done = asyncopt(*on(stopped, "kept"))
        assert done.code == 130
        assert "go on with: asyncopt resume kept" in done.err
        assert not Path("kept/contest.json").exists()
        part = asyncopt("show", "kept")
        assert part.code == 0
        assert "have no result, and are in no figure: it has not ended" in " ".join(part.out.split())
        assert asyncopt("resume", "kept").code == 0
    assert found_in("kept") == found_in("whole")
