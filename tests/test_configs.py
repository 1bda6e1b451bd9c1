"""The ready configurations: each is run for two steps, and says what the paper says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from swept import Commands, serving

from asyncopt import configs
from asyncopt.cli.sweep import planned_sweep
from asyncopt.errors import ConfigError
from asyncopt.sweep import Sweep
from asyncopt.sweepfile import SweepFile, read_sweep_file
from asyncopt.tasks.mmlu import files_of
from asyncopt.testing import AnswerModel, Constant, SimulatedAPI
from asyncopt.testing.process import known_items

NAMES = configs.names()


def planned(name: str, **flags: object) -> Sweep:
    return planned_sweep(name, {"models.scorer.model": "m", **flags}, base_url="http://127.0.0.1:9/v1")


@pytest.fixture
def asyncopt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    return Commands(monkeypatch, capsys, tmp_path)


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A simulated API that knows the published items, where there are some."""
    try:
        folder: Path | None = request.getfixturevalue("data")
    except pytest.skip.Exception:
        folder = None
    api = SimulatedAPI(latency=Constant(0.0), answers=AnswerModel(0, known_items(folder)), keep_prompts=False)
    with serving(api) as address:
        yield address


def own_mmlu(folder: Path) -> Path:
    """The files of MMLU's category STEM in their published form, with three questions each."""
    rows = 'What is 1 + 1?,1,2,3,4,B\n"Two, or three?",2,3,4,5,A\nWhich is even?,2,3,5,7,A\n'
    for file in files_of("stem"):
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rows)
    return folder


def own_examples(folder: Path, published: Path, tasks: list[str]) -> Path:
    """The published items of BIG-Bench Hard, with worked examples and a pool in the form of EvoPrompt's repository."""
    (folder / "BBH/lib_prompt").mkdir(parents=True)
    (folder / "bbh").symlink_to(published / "bbh")
    (folder / "BBH/prompts.txt").write_text("Think first.\nTake your time.\n")
    for task in tasks:
        stem = task.removeprefix("evoprompt/")
        (folder / f"BBH/lib_prompt/{stem}.txt").write_text("Q: Is it so?\nA: <prompt> It is. So the answer is Yes.\n")
    return folder


def evolves(file: SweepFile) -> bool:
    """Whether the sweep has optimizers that count generations, so that ``--steps`` is not theirs."""
    names = [tables.get("optimizer", {}).get("name", "opro") for tables in file.settings.values()]
    return any(name.startswith("evoprompt") for name in names)


@pytest.mark.real
@pytest.mark.parametrize("name", NAMES)
def test_a_ready_configuration_runs_for_two_steps(
    name: str, url: str, asyncopt: Commands, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = read_sweep_file(configs.path_of(name))
    tasks = [task["name"] for task in file.tasks]
    more: list[str] = []
    if tasks == ["mmlu/stem"]:
        more = ["--data", str(own_mmlu(tmp_path / "data"))]
    elif tasks[0].startswith("evoprompt/"):
        more = ["--data", str(own_examples(tmp_path / "data", request.getfixturevalue("data"), tasks))]
    elif any(task.startswith(("gsm8k", "bbh/")) for task in tasks):
        more = ["--data", str(request.getfixturevalue("data"))]
    small = ["--set", "optimizer.scoring_calls=12"] if evolves(file) else ["--steps", "2"]
    sizes = [*small, "--limit", "2", "--seeds", "1"]
    place = ["--directory", str(tmp_path / "sweep"), "--json"]
    models = ["--scorer", "mock", "--proposer", "mock", "--base-url", url]
    done = asyncopt("sweep", name, *models, *sizes, *more, *place)
    assert done.code == 0, done.err
    (end,) = done.events("done")
    settings = list(file.settings) or ["default"]
    assert [(group["task"], group["setting"]) for group in end["groups"]] == [
        (task, setting) for task in tasks for setting in settings
    ]
    assert all((group["n"], group["failed"]) == (1, 0) for group in end["groups"])
    for study in done.events("study"):
        result = study["result"]
        assert evolves(file) or result["steps"] == 2 or result["solved"]
        assert result["seed"] == 1
        assert result["unscored"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_changes_something(name: str) -> None:
    sweep = planned_sweep(name, {})
    for task in {one.task for one in sweep.planned}:
        subjects = [one.config.to_plain() for one in sweep.planned if one.task == task]
        assert all(first != second for n, first in enumerate(subjects) for second in subjects[:n])


@pytest.mark.parametrize("name", NAMES)
def test_a_ready_configuration_has_a_line_of_its_own(name: str) -> None:
    file = read_sweep_file(configs.path_of(name))
    assert file.name == name
    assert 0 < len(file.summary) <= 100
    assert "\n" not in file.summary


def test_the_numbers_are_the_papers() -> None:
    lines = planned("opro-table-2").planned
    pairs = list(dict.fromkeys((one.config.task.options["w_true"], one.config.task.options["b_true"]) for one in lines))
    assert pairs == [(15, 14), (17, 17), (16, 10), (3, 5), (25, 23), (2, 30), (36, -1)]
    assert len(lines) == 35
    assert sorted({one.config.load_task().repetition for one in lines}) == [0, 1, 2, 3, 4]

    tours = planned("opro-table-3").planned
    assert sorted({one.config.task.options["nodes"] for one in tours}) == [10, 15, 20, 50]
    assert len(tours) == 20

    assert len({one.task for one in planned("opro-table-7-bbh").planned}) == 23

    budgets = [one.config.optimizer for one in planned("opro-figure-8-samples").planned]
    assert {one.samples_per_step for one in budgets} == {1, 2, 4, 8, 16}
    assert {(one.steps or 0) * one.samples_per_step for one in budgets} == {1600}

    temperatures = {one.config.optimizer.temperature for one in planned("opro-figure-10-temperature").planned}
    assert temperatures == {0.0, 0.5, 1.0, 1.5, 2.0}

    once = {one.setting: one.config.optimizer for one in planned("opro-ablation-a8-one-step").planned}["one-step"]
    assert (once.steps, once.samples_per_step) == (1, 50)

    pretrained = planned("opro-pre-trained").planned[0].config
    assert pretrained.task.options["initial"] == ["", "The answer is"]
    assert pretrained.optimizer.temperature == 1.5


A10 = ["opro-figure-12-against-evoprompt", "opro-figure-12-against-evoprompt-bbh"]


@pytest.mark.parametrize("name", A10)
def test_opro_and_evoprompt_begin_with_the_same_and_score_as_many_answers(name: str, data: Path) -> None:
    first = planned(name, **{"task.data": data}).planned
    assert sorted({one.seed for one in first}) == [0, 1, 2]
    configs = {one.setting: one.config for one in first}
    task = configs["opro"].load_task()
    assert len(task.initial) == 2
    optimizers = {setting: config.build_optimizer(task) for setting, config in configs.items()}
    opro, *evolving = (optimizers[setting] for setting in ("opro", "evoprompt-ga", "evoprompt-de"))
    assert (opro.temperature, {one.temperature for one in evolving}) == (1.0, {0.5})
    assert all(one.starts(task) == list(task.initial) for one in evolving)
    assert {one.scoring_calls for one in optimizers.values()} == {1600 * len(task.train)}
    assert min(one.steps * samples for one, samples in ((opro, 8), *((one, 10) for one in evolving))) > 2 * 1600


def test_evoprompts_own_setting_has_the_calls_of_the_reference(data: Path, tmp_path: Path) -> None:
    tasks = [task["name"] for task in read_sweep_file(configs.path_of("evoprompt-bbh")).tasks]
    folder = own_examples(tmp_path / "data", data, tasks)
    sweep = planned("evoprompt-bbh", **{"task.data": folder})
    assert len(tasks) == 23
    assert {one.setting for one in sweep.planned} == {"ga", "de"}
    for one in sweep.planned[:2]:
        task = one.config.load_task()
        optimizer = one.config.build_optimizer(task)
        assert (len(task.train), optimizer.popsize, optimizer.generations) == (50, 10, 10)
        assert optimizer.starts(task) == ["Think first.", "Take your time."]


def test_thirds_are_thirds(data: Path) -> None:
    snarks = planned("opro-figure-11-overfitting", **{"task.data": data}).planned[0].config.load_task()
    assert [len(snarks.fold(fold)) for fold in ("train", "validation", "test")] == [59, 59, 60]


def test_a_wrong_name_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean opro-table-2"):
        configs.path_of("opro-table2")
    assert configs.find("opro-table2") is None


def test_names_are_listed_with_their_lines(asyncopt: Commands) -> None:
    listed = asyncopt("sweep", "--list")
    assert [line.split()[0] for line in listed.out.splitlines()] == NAMES
    assert asyncopt("sweep", "--list", "--json").lines[0]["name"] == NAMES[0]
