"""The paper's tables hold together and give the means that are known of them; runs are shown beside them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from asyncopt import Engine, Quota, Study
from asyncopt.cli.show import show_against, show_run
from asyncopt.errors import ConfigError
from asyncopt.optimizers import OPRO, RandomSearch
from asyncopt.published import PAPERS, Row, rows
from asyncopt.tasks import LinearRegression, Task, load
from asyncopt.tasks.bbh import STEMS
from asyncopt.tasks.dln import STEMS as DLN_STEMS
from asyncopt.tasks.objective import Objective
from asyncopt.tasks.tsp import TSP
from asyncopt.testing import AnswerModel, Constant, SimulatedAPI, items_of, run_virtual

PALM, BISON = "PaLM 2-L", "text-bison"
STEPWISE = "Let's think step by step."
APE = "Let's work this out in a step by step way to be sure we have the right answer."
SOLVE = "Let's solve the problem."
LEFT_OUT = {
    f"{stem}_{count}_objects"
    for stem in ("logical_deduction", "tracking_shuffled_objects")
    for count in ("three", "five")
}

# The settings of the tables of BBH: Table 7 found and by hand, Table 10, and Table 14 found and its start.
FOUND = {"source": "Table 7", "optimizer": "PaLM 2-L-IT"}
BY_HAND = {"source": "Table 7", "optimizer": None}
# The means over the 23 tasks: setting -> train, test, overall.
MEANS: list[tuple[dict[str, object], tuple[float, float, float]]] = [
    ({**FOUND, "scorer": PALM, "position": "A_begin", "start": ""}, (81.8, 73.2, 74.9)),
    ({**BY_HAND, "scorer": PALM, "instruction": STEPWISE}, (61.6, 58.2, 58.8)),
    ({**BY_HAND, "scorer": PALM, "instruction": APE}, (60.9, 57.2, 57.9)),
    ({**BY_HAND, "scorer": PALM, "instruction": ""}, (54.6, 54.9, 54.8)),
    ({**FOUND, "scorer": BISON, "position": "Q_begin", "start": ""}, (69.3, 60.8, 62.5)),
    ({**BY_HAND, "scorer": BISON, "instruction": STEPWISE}, (51.8, 50.4, 50.6)),
    ({**BY_HAND, "scorer": BISON, "instruction": APE}, (53.8, 52.7, 52.9)),
    ({**BY_HAND, "scorer": BISON, "instruction": ""}, (52.9, 52.6, 52.2)),
    ({"source": "Table 10", "optimizer": "gpt-3.5-turbo", "scorer": PALM, "position": "A_begin"}, (78.9, 70.8, 72.4)),
    ({"source": "Table 10", "optimizer": "gpt-3.5-turbo", "scorer": BISON, "position": "Q_begin"}, (64.3, 59.0, 60.0)),
    ({"source": "Table 10", "optimizer": "gpt-3.5-turbo", "scorer": BISON, "position": "Q_end"}, (68.1, 59.6, 61.3)),
    ({"source": "Table 14", "optimizer": "gpt-3.5-turbo", "scorer": PALM, "start": SOLVE}, (79.9, 71.7, 73.3)),
    ({"source": "Table 14", "optimizer": None, "scorer": PALM, "instruction": SOLVE}, (57.6, 56.9, 57.1)),
]  # fmt: skip
# Cells of which the overall accuracy does not follow from those of the folds: as printed, and as the folds give it.
INCONSISTENT = {
    ("Table 7", "bbh/causal_judgement", PALM, "PaLM 2-L-IT", None): (63.1, 63.3),
    ("Table 7", "bbh/formal_fallacies", PALM, "PaLM 2-L-IT", None): (68.4, 68.0),
    ("Table 7", "bbh/snarks", BISON, None, ""): (73.1, 83.1),
    ("Table 7", "bbh/web_of_lies", BISON, None, ""): (51.2, 51.6),
    ("Table 14", "bbh/ruin_names", PALM, None, SOLVE): (80.8, 78.8),
}
SPLITS = {"bbh/causal_judgement": (37, 150), "bbh/penguins_in_a_table": (29, 117), "bbh/snarks": (35, 143)}


def overall(setting: dict[str, object]) -> dict[str, float]:
    return {row.task: number(row) for row in rows(fold="overall", **setting)}


def number(row: Row) -> float:
    assert row.value is not None
    return row.value


# -- the tables --------------------------------------------------------------------------------------------------------


def test_every_table_has_all_its_numbers() -> None:
    assert Counter(row.source for row in rows()) == {
        "Table 2": 7 * 3 * 2,
        "Table 3": 4 * (5 + 3),
        "Table 4": 8 + 8,
        "Table 5": 5 + 5 + 2,
        "Table 6": 2 * 10,
        "Table 7": 23 * 2 * 4 * 3,
        "Table 10": 23 * 3 * 3,
        "Table 14": 23 * 2 * 3,
        "Section 5.2.1": 5 + 5 + 4,
        "Section 5.2.3": 3,
    }


def test_the_tasks_go_by_the_names_that_they_have_here() -> None:
    graded = {row.task for row in rows() if row.task.startswith("bbh/")}
    assert graded == {f"bbh/{stem}" for stem in STEMS if stem not in LEFT_OUT}
    assert len(graded) == 23
    assert {row.task for row in rows()} - graded == {"linear-regression", "tsp", "gsm8k", "multiarith", "aqua"}


def test_no_cell_is_there_twice() -> None:
    identities = [repr(replace(row, value=None, sd=None, standard_error=None, note=None)) for row in rows()]
    assert len(identities) == len(set(identities))


@pytest.mark.parametrize(("setting", "means"), MEANS)
def test_means_over_the_23_tasks(setting: dict[str, object], means: tuple[float, float, float]) -> None:
    for fold, mean in zip(("train", "test", "overall"), means, strict=True):
        values = [number(row) for row in rows(fold=fold, **setting)]
        assert len(values) == 23
        assert fmean(values) == pytest.approx(mean, abs=0.051)


def test_overall_is_the_weighted_mean_of_the_folds_but_in_five_cells() -> None:
    cells: dict[tuple[object, ...], dict[str | None, Row]] = {}
    for row in rows():
        if row.task.startswith("bbh/") and row.source != "Table 5":
            key = (row.source, row.task, row.scorer, row.optimizer, row.position, row.instruction)
            cells.setdefault(key, {})[row.fold] = row
    found = {}
    for (source, task, scorer, optimizer, _, instruction), folds in cells.items():
        train, test = SPLITS.get(str(task), (50, 200))
        wanted = (train * number(folds["train"]) + test * number(folds["test"])) / (train + test)
        if abs(wanted - number(folds["overall"])) > 0.1:
            found[source, task, scorer, optimizer, instruction] = (number(folds["overall"]), round(wanted, 1))
            assert folds["overall"].note == f"printed so; the folds give {wanted:.1f}"
    assert found == INCONSISTENT


@pytest.mark.parametrize(
    ("scorer", "against", "better"), [(PALM, STEPWISE, 19), (BISON, STEPWISE, 15), (PALM, "", 19), (BISON, "", 15)]
)
def test_on_how_many_tasks_the_found_instruction_is_five_points_better(scorer: str, against: str, better: int) -> None:
    found, by_hand = (
        overall({**FOUND, "scorer": scorer}),
        overall({**BY_HAND, "scorer": scorer, "instruction": against}),
    )
    assert sum(found[task] - by_hand[task] > 5 for task in found) == better  # the paper says 20 where the third says 19


def test_the_extremes_over_step_by_step() -> None:
    for scorer, task, difference, pick in (
        (PALM, "bbh/word_sorting", 50.4, max),
        (PALM, "bbh/tracking_shuffled_objects_seven_objects", -41.2, min),
        (BISON, "bbh/disambiguation_qa", 66.4, max),
    ):
        found = overall({**FOUND, "scorer": scorer})
        by_hand = overall({**BY_HAND, "scorer": scorer, "instruction": STEPWISE})
        gains = {name: found[name] - by_hand[name] for name in found}
        assert pick(gains, key=gains.__getitem__) == task
        assert gains[task] == pytest.approx(difference)


def test_table_5_repeats_the_tables_of_the_appendix() -> None:
    repeated = 0
    for row in rows(source="Table 5"):
        setting = {"task": row.task, "scorer": row.scorer, "optimizer": row.optimizer, "position": row.position}
        others = [other for other in rows(fold="overall", start=row.start, **setting) if other.source != "Table 5"]
        assert [other.value for other in others] in ([row.value], [])
        repeated += len(others)
    assert repeated == 10  # all but those of the pre-trained optimizer


def test_the_numbers_of_the_first_two_demonstrations() -> None:
    (steps,) = rows(task="linear-regression", metric="steps", optimizer="gpt-4", w_true=36, b_true=-1)
    assert (steps.value, steps.sd, steps.runs) == (50.4, 18.8, 5)
    pairs = rows(metric="unique_pairs", optimizer=BISON)
    assert [row.value for row in pairs] == [40.0, 33.4, 30.2, 55.8, 104.0, 126.4, 174.0]
    (tour,) = rows(task="tsp", metric="steps", optimizer="gpt-4", nodes=20)
    assert (tour.value, tour.standard_error, tour.successes) == (195.5, 127.6, 2)
    (never,) = rows(task="tsp", metric="steps", optimizer=BISON, nodes=50)
    assert (never.value, never.successes) == (None, 0)
    assert [row.value for row in rows(metric="gap", optimizer="farthest_insertion")] == [3.2, 1.2, 0.2, 9.8]


def test_the_winner_of_gsm8k_and_where_it_was_taken() -> None:
    best = max(rows(source="Table 4"), key=number)
    assert (best.value, best.position, best.step) == (80.2, "A_begin", 107)
    transferred = rows(source="Table 6", instruction=best.instruction)
    assert [(row.task, row.value) for row in transferred] == [("multiarith", 95.3), ("aqua", 54.3)]


def test_filters_tell_the_empty_instruction_from_none() -> None:
    assert {row.instruction for row in rows(instruction="")} == {""}
    assert {row.optimizer for row in rows(metric="accuracy", optimizer=None, start=None)} == {None}


def test_another_paper_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'ape-paper'; there are opro-paper, dln-paper"):
        rows("ape-paper")


def test_the_tables_of_dln_have_all_their_numbers() -> None:
    found = rows("dln-paper")
    assert Counter(row.source for row in found) == {"Table 1": 10 * 9, "Tables 2, 5, 6 and 9": 35}
    assert {row.task for row in found} == {f"dln/{stem}" for stem in DLN_STEMS if stem != "gsm8k"}
    assert len({(row.task, row.scorer, row.optimizer) for row in found}) == len(found)
    # The paper says by how much two layers are better than one, on the mean of its five tasks.
    two = {row.task: number(row) for row in found if row.optimizer == "DLN-2 end-to-end"}
    one = {row.task: number(row) for row in found if row.optimizer == "DLN-1" and row.scorer == "GPT-3"}
    assert fmean(two[task] - one[task] for task in two) == pytest.approx(7.2, abs=0.05)


# -- runs beside them --------------------------------------------------------------------------------------------------


def graded(name: str) -> Task:
    """A small task under a name of the paper's, in the first of its formats."""
    task = load("antonym", options={"position": "Q_begin"})
    assert isinstance(task, Task)
    return replace(task, name=name, train=task.train[:10], test=task.test[:20])


def search(directory: Path, name: str, seed: int = 0, initial: str = "") -> None:
    task = replace(graded(name), initial=(initial,))
    api = SimulatedAPI(latency=Constant(0.1), answers=AnswerModel(0, items_of([task])))

    async def main() -> None:
        async with Engine(grace=0.0) as engine:
            model = engine.model("sim", endpoint=api.endpoint(), quota=Quota(concurrency=10))
            optimizer = OPRO(steps=1)
            await Study(
                task=task, optimizer=optimizer, scorer=model, proposer=model, directory=directory, seed=seed
            ).run()

    run_virtual(main)


def draw(directory: Path, task: Objective, seed: int = 0) -> None:
    asyncio.run(Study(task=task, optimizer=RandomSearch(steps=30), directory=directory, seed=seed).run())


Shown = Callable[..., list[str]]


@pytest.fixture
def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shown:
    def show(directory: Path, *, json: bool = False) -> list[str]:
        capsys.readouterr()
        show_against(directory, "opro-paper", json=json)
        return capsys.readouterr().out.splitlines()

    return show


def test_a_run_on_bbh_stands_beside_the_papers_settings(tmp_path: Path, shown: Shown) -> None:
    search(tmp_path / "run", "bbh/navigate")
    lines = shown(tmp_path / "run")
    assert lines[0] == f"beside {PAPERS['opro-paper']}"
    head = next(number for number, line in enumerate(lines) if "scorer" in line)
    assert lines[head + 1].startswith("this run")
    assert "Q_begin" in lines[head + 1]
    # Table 7's Q_begin comes first, as the run is one; its gain is over the empty instruction it began with.
    assert (
        lines[head + 3].split()
        == "Table 7 text-bison PaLM 2-L-IT Q_begin found from (empty) 72.0 61.0 63.2 +4.0".split()
    )
    assert "compare gains" in lines[-1]


def test_shown_scores_are_those_of_the_result(tmp_path: Path, shown: Shown) -> None:
    search(tmp_path / "run", "bbh/navigate")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    best, initial = result["best"], result["initial"]
    both = (best["train"]["correct"] + best["held_out"]["correct"]) / 30
    cells = next(line for line in shown(tmp_path / "run") if "best: " in line).split()
    gain = best["held_out"]["score"] - initial["held_out"]["score"]
    wanted = [100 * best["train"]["score"], 100 * best["held_out"]["score"], 100 * both, 100 * gain]
    assert [float(cell) for cell in cells[-4:]] == pytest.approx(wanted, abs=0.051)


def test_the_command_prints_the_same(tmp_path: Path, shown: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    from asyncopt.cli.app import app

    draw(tmp_path / "run", LinearRegression())
    lines = shown(tmp_path / "run")
    app(["show", str(tmp_path / "run"), "--against", "opro-paper"], standalone_mode=False)
    assert capsys.readouterr().out.splitlines() == lines


def test_all_is_said_in_json_too(tmp_path: Path, shown: Shown) -> None:
    search(tmp_path / "run", "bbh/navigate")
    (line,) = shown(tmp_path / "run", json=True)
    value = json.loads(line)
    (comparison,) = value["comparisons"]
    assert (value["paper"], comparison["task"], comparison["runs"][0]["position"]) == (
        "opro-paper",
        "bbh/navigate",
        "Q_begin",
    )
    assert comparison["runs"][0]["result"] == json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(comparison["published"]) == len(rows(task="bbh/navigate"))
    positions = [row["position"] for row in comparison["published"]]
    assert positions[:15] == ["Q_begin"] * 15  # five settings with three folds each, the nearest to the run's own
    assert "Q_begin" not in positions[15:]


def test_a_run_of_linear_regression_stands_beside_its_pair(tmp_path: Path, shown: Shown) -> None:
    draw(tmp_path / "run", LinearRegression(17, 17))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    lines = shown(tmp_path / "run")
    assert "linear-regression with w_true = 17, b_true = 17" in lines[2]
    assert lines[3].split() == f"this run {result['steps']:.1f} (1 of 1) {result['unique_pairs']:.1f}".split()
    assert [line.split() for line in lines[4:7]] == [
        "paper: text-bison 4.0 ± 1.8 33.4 ± 11.7".split(),
        "paper: gpt-3.5-turbo 12.6 ± 6.0 53.8 ± 16.9".split(),
        "paper: gpt-4 6.0 ± 3.7 26.0 ± 10.6".split(),
    ]


def test_tours_stand_beside_those_of_as_many_nodes(tmp_path: Path, shown: Shown) -> None:
    for instance in (0, 1):
        draw(tmp_path / f"tsp-default-s{instance}", TSP(10, instance))
    (tmp_path / "sweep.json").write_text("{}")
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*/result.json"))]
    gaps = [result["gap"] for result in results]
    greedy = [100 * (one["baselines"]["nearest_neighbour"] / one["optimum_loss"] - 1) for one in results]
    lines = shown(tmp_path)
    assert lines[2].startswith("tsp with nodes = 10 ")
    for line, (first, second) in ((lines[3], gaps), (lines[4], greedy)):
        error = abs(first - second) / 2  # of the mean of two
        assert f" {(first + second) / 2:.1f} ± {error:.1f}" in line
    assert lines[4].startswith("nearest neighbour, same instances ")
    assert next(line for line in lines if "gpt-4" in line).split() == "paper: gpt-4 0.0 9.6 ± 3.0 (5 of 5)".split()


def test_a_sweep_is_shown_by_task_with_its_mean_gain(tmp_path: Path, shown: Shown) -> None:
    for name in ("navigate", "word_sorting"):
        for seed in (0, 1):
            search(tmp_path / f"bbh-{name}-default-s{seed}", f"bbh/{name}", seed)
    (tmp_path / "sweep.json").write_text("{}")
    lines = shown(tmp_path)
    table = [line.split() for line in lines if line.startswith(("bbh-", "mean"))]
    assert [cells[:2] for cells in table[:2]] == [["bbh-navigate-default", "2"], ["bbh-word_sorting-default", "2"]]
    assert [cells[-3:] for cells in table[:2]] == [["57.0", "61.0", "+4.0"], ["7.5", "17.5", "+10.0"]]
    own = [float(cells[4]) for cells in table[:2]]
    assert table[2][:3] == ["mean", "of", "2"]
    assert [float(cell) for cell in table[2][3:]] == pytest.approx([fmean(own), 7.0], abs=0.051)


def test_tasks_that_the_paper_has_not_are_no_part_of_the_means(tmp_path: Path, shown: Shown) -> None:
    search(tmp_path / "bbh-navigate-default-s0", "bbh/navigate")
    search(tmp_path / "antonym-default-s0", "antonym")
    (tmp_path / "sweep.json").write_text("{}")
    lines = shown(tmp_path)
    (other,) = [line.split() for line in lines if line.startswith("antonym")]
    assert other[5:] == ["-"] * 4
    assert [line.split()[-1] for line in lines if line.startswith("mean of 1 ")] == ["+4.0"]


def test_the_gain_at_the_end_of_the_question_is_over_the_same_empty_instruction(tmp_path: Path, shown: Shown) -> None:
    search(tmp_path / "run", "bbh/navigate")
    (line,) = [line for line in shown(tmp_path / "run") if "Q_end" in line]
    assert line.split()[-4:] == ["68.0", "59.5", "61.2", "+2.5"]  # over 57.0 at Q_begin


def test_repetitions_have_a_mean_and_a_deviation(tmp_path: Path, shown: Shown) -> None:
    steps = []
    for seed in range(3):
        draw(tmp_path / f"linear-regression-default-s{seed}", LinearRegression(repetition=seed), seed)
        result = json.loads((tmp_path / f"linear-regression-default-s{seed}" / "result.json").read_text())
        steps += [result["steps"]] if result["solved"] else []
    (tmp_path / "sweep.json").write_text("{}")
    line = next(line for line in shown(tmp_path) if line.startswith("3 runs"))
    assert f"({len(steps)} of 3)" in line
    assert float(line.split()[2]) == pytest.approx(fmean(steps), abs=0.051)


@pytest.mark.parametrize("seeds", [1, 2])
def test_settings_of_one_problem_are_told_apart(tmp_path: Path, shown: Shown, seeds: int) -> None:
    for setting in ("one", "two"):
        for seed in range(seeds):
            draw(tmp_path / f"linear-regression-{setting}-s{seed}", LinearRegression(repetition=seed), seed)
    (tmp_path / "sweep.json").write_text("{}")
    titles = [line.split("   ")[0] for line in shown(tmp_path) if "linear-regression-" in line]
    assert titles == [f"linear-regression-{setting}, {seeds} run{'s' * (seeds > 1)}" for setting in ("one", "two")]


def test_as_many_random_proposals_stand_beside_what_a_model_found(tmp_path: Path, shown: Shown) -> None:
    for seed in range(2):
        place = tmp_path / f"linear-regression-default-s{seed}"
        draw(place, LinearRegression(repetition=seed), seed)
        (place / "random.json").write_bytes((place / "result.json").read_bytes())
    (tmp_path / "sweep.json").write_text("{}")
    lines = shown(tmp_path)
    (runs,) = [line.split() for line in lines if line.startswith("2 runs ")]
    (random,) = [line.split() for line in lines if line.startswith("as many random proposals ")]
    assert random[4:] == runs[2:]
    (value,) = [json.loads(line) for line in shown(tmp_path, json=True)]
    assert all(run["random"] == run["result"] for run in value["comparisons"][0]["runs"])


def test_studies_of_a_sweep_that_have_not_begun_are_counted_among_those_left_out(tmp_path: Path, shown: Shown) -> None:
    draw(tmp_path / "linear-regression-default-s0", LinearRegression())
    (tmp_path / "sweep.json").write_text(json.dumps({"studies": [{"seed": seed} for seed in range(5)]}))
    assert shown(tmp_path)[-1] == "4 of 5 studies have not ended and are left out"
    assert [json.loads(line)["left_out"] for line in shown(tmp_path, json=True)] == [4]


def test_a_problem_that_the_paper_has_not_is_answered_with_those_it_has(tmp_path: Path) -> None:
    draw(tmp_path / "run", LinearRegression(3, 3))
    with pytest.raises(ConfigError, match=r"w_true = 3, b_true = 3; it has linear-regression with \(15, 14\)"):
        show_against(tmp_path / "run", "opro-paper", json=False)
    search(tmp_path / "other", "antonym")
    with pytest.raises(ConfigError, match=r"no results for antonym; it has .*tsp with 10, 15, 20, 50 nodes.*gsm8k"):
        show_against(tmp_path / "other", "opro-paper", json=False)


def test_what_has_not_ended_is_not_compared(tmp_path: Path, shown: Shown) -> None:
    for seed in range(2):
        draw(tmp_path / f"linear-regression-default-s{seed}", LinearRegression(repetition=seed), seed)
    (tmp_path / "sweep.json").write_text("{}")
    journal = tmp_path / "linear-regression-default-s1" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    assert shown(tmp_path)[-1] == "1 of 2 studies have not ended and are left out"
    with pytest.raises(ConfigError, match="has ended; `asyncopt resume"):
        show_against(journal.parent, "opro-paper", json=False)
    show_run(journal.parent, json=False)  # step by step, it is shown all the same


def test_an_instruction_cannot_write_to_the_terminal(tmp_path: Path, shown: Shown) -> None:
    search(tmp_path / "run", "bbh/navigate", initial="\x1b[2JOpposite\n\u202eword")
    lines = shown(tmp_path / "run")
    assert any("initial: [2JOpposite word" in line for line in lines)
    assert not any(char in line for line in lines for char in "\x1b\u202e")
