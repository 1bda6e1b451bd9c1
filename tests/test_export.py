"""Data out: tables as files, the best candidate as text, and runs beside each other."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hostile
import pytest
from fakes import run_virtual
from recorded import TASK, Toy, recorded

from asyncopt import OPRO, ConfigError, RandomSearch, Study, codec, load_run
from asyncopt.cli.best import show_best
from asyncopt.cli.compare import compare_runs
from asyncopt.cli.export import csv_lines, export_run
from asyncopt.directory import JOURNAL
from asyncopt.errors import StudyFailed
from asyncopt.records import COLUMNS
from asyncopt.records.compare import compare
from asyncopt.stats import mcnemar_p, paired_difference, verdict
from asyncopt.tasks.linear_regression import LinearRegression


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of the same task that found different instructions."""
    folder = tmp_path_factory.mktemp("runs")
    recorded(folder / "a", optimizer=OPRO(steps=0))
    recorded(folder / "b", optimizer=OPRO(steps=4, samples_per_step=4), seed=1)
    return folder / "a", folder / "b"


# -- export ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", sorted(COLUMNS))
def test_json_lines_are_the_rows_of_the_table(what: str, runs: tuple[Path, Path], tmp_path: Path) -> None:
    export_run(runs[1], what, None, tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == json.loads(codec.dumps(list(load_run(runs[1]).table(what))))
    assert all(tuple(row) == COLUMNS[what] for row in rows)


@pytest.mark.parametrize("what", sorted(COLUMNS))
def test_csv_has_the_same_rows_under_their_names(what: str, runs: tuple[Path, Path], tmp_path: Path) -> None:
    export_run(runs[1], what, None, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = list(load_run(runs[1]).table(what))
    assert [tuple(row) for row in rows] == [COLUMNS[what]] * len(table)
    number = "score" if "score" in COLUMNS[what] else "calls"
    assert [row[number] for row in rows] == ["" if row[number] is None else str(row[number]) for row in table]


def test_no_cell_is_a_formula_and_every_text_comes_back() -> None:
    texts = [*hostile.SHORT.values(), hostile.EVERYTHING]
    rows = list(
        csv.reader(io.StringIO(b"".join(csv_lines([{"x": text} for text in texts], ["x"])).decode(), newline=""))
    )
    assert rows == [["x"], *([codec.csv_cell(text)] for text in texts)]
    assert not any(cell[:1] in "=+@" for row in rows[1:] for cell in row if cell)


def test_parquet_has_the_same_rows(runs: tuple[Path, Path], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for what in COLUMNS:
        export_run(runs[1], what, None, tmp_path / "out.parquet")
        rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
        assert [tuple(row) for row in rows] == [COLUMNS[what]] * len(rows)
        assert len(rows) == len(list(load_run(runs[1]).table(what)))


def test_without_pyarrow_the_extra_is_named(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'asyncopt\[parquet\]'"):
        export_run(runs[0], "candidates", "parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("what", "form", "out", "complaint"),
    [
        ("prompts", None, None, "it has candidates, evaluations, calls, activity"),
        ("calls", "xlsx", None, "wanted one of jsonl, csv, parquet"),
        ("calls", None, "x.doc", "wanted one of jsonl, csv, parquet"),
        ("calls", "parquet", None, "name the file to write it to with -o"),
        ("calls", "csv", "missing/x.csv", "cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    what: str, form: str | None, out: str | None, complaint: str, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        export_run(runs[0], what, form, None if out is None else tmp_path / out)


# -- best --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["markup: end of a script", "terminal: title", "terminal: bidi", "terminal: lines"])
def test_the_best_instruction_comes_out_as_it_is(
    name: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = hostile.SHORT[name]
    recorded(tmp_path / "run", optimizer=OPRO(steps=0), task=replace(TASK, initial=(text,)))
    show_best(tmp_path / "run", json=False)
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == text.encode() + b"\n"


def test_on_a_terminal_it_moves_no_cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    text = "Think.\n" + hostile.TERMINAL["clear"] + hostile.TERMINAL["title"]
    recorded(tmp_path / "run", optimizer=OPRO(steps=0), task=replace(TASK, initial=(text,)))
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    show_best(tmp_path / "run", json=False)
    assert terminal.getvalue() == "Think.\n[2J [H ]0;owned\n"


def test_the_best_as_json_says_what_it_is_worth(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    show_best(runs[1], json=True)
    shown, best = json.loads(capsys.readouterr().out), load_run(runs[1]).result.best  # type: ignore[union-attr]
    assert best is not None
    assert best.held_out is not None
    assert (shown["candidate"], shown["state"]) == (best.candidate, "finished")
    assert shown["held_out"]["score"] == best.held_out.score


def test_a_run_without_a_score_has_no_best(tmp_path: Path) -> None:
    recorded(tmp_path / "run", optimizer=OPRO(steps=0))
    (tmp_path / "run" / JOURNAL).write_bytes(b"")
    with pytest.raises(StudyFailed, match="nothing in .* has a score yet"):
        show_best(tmp_path / "run", json=False)


def test_a_damaged_run_is_read_as_far_as_it_goes_and_said_to_be(
    tmp_path: Path, runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = shutil.copytree(runs[0], tmp_path / "damaged")
    lines = (directory / JOURNAL).read_bytes().splitlines(keepends=True)
    (directory / JOURNAL).write_bytes(b"".join([*lines[:4], b"{}\n", *lines[5:]]))
    said = "damaged: journal.jsonl is damaged: record 4"
    show_best(directory, json=True)
    assert said in capsys.readouterr().err
    export_run(directory, "candidates", "jsonl", tmp_path / "out.jsonl")
    assert said in capsys.readouterr().err
    compare_runs([runs[1], directory], json=True)
    assert any(said in note for note in json.loads(capsys.readouterr().out)["notes"])


# -- compare -----------------------------------------------------------------------------------------------------------


def grades(directory: Path) -> dict[int, float | None]:
    """The held-out grades of the best instruction, as the trace's last line of them has them."""
    run = load_run(directory)
    lines = [row for row in run.trace.rows() if row["kind"] == "test" and row["candidate"] == run.best.candidate]  # type: ignore[union-attr]
    return {item["example"]: item["score"] for item in lines[-1]["items"]}


def test_the_difference_is_of_the_same_held_out_examples(runs: tuple[Path, Path]) -> None:
    first, second = map(grades, runs)
    pairs = [(one, second[example]) for example, one in first.items()]
    (paired,) = compare([load_run(directory) for directory in runs]).paired
    assert paired.n == len(pairs) == 20
    assert paired.difference == pytest.approx(sum(two - one for one, two in pairs) / 20)  # type: ignore[operator]
    assert (paired.difference, paired.low, paired.high) == paired_difference(*zip(*pairs, strict=True))  # type: ignore[arg-type]
    assert paired.only_this == pairs.count((0.0, 1.0)) > paired.only_first == pairs.count((1.0, 0.0))
    assert paired.p == mcnemar_p(paired.only_first, paired.only_this)
    assert paired.p_holm == paired.p


def test_runs_are_adjusted_for_how_many_are_compared(runs: tuple[Path, Path]) -> None:
    loaded = [load_run(directory) for directory in runs]
    (alone,) = compare(loaded).paired
    found = compare([*loaded, loaded[1], loaded[1]]).paired
    assert [one.p_holm for one in found] == [min(3 * alone.p, 1.0)] * 3
    assert alone.verdict == verdict(alone.difference, alone.p)
    assert found[0].verdict == verdict(alone.difference, 3 * alone.p)


def test_examples_that_one_run_has_no_score_for_are_left_out(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    task = replace(TASK, test=TASK.test[:15])
    recorded(tmp_path / "c", Toy(), task=task)
    (paired,) = compare([load_run(runs[0]), load_run(tmp_path / "c")]).paired
    assert (paired.n, paired.left_out) == (15, 5)


def test_other_data_are_not_paired(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    recorded(tmp_path / "other", task=replace(TASK, fingerprint="g"))
    recorded(tmp_path / "task", task=replace(TASK, name="elsewhere"))
    run_virtual(Study(task=LinearRegression(), optimizer=RandomSearch(steps=1), directory=tmp_path / "line").run)
    folders = (runs[0], tmp_path / "other", tmp_path / "task", tmp_path / "line")
    compared = compare([load_run(directory) for directory in folders])
    assert compared.paired == ()
    assert [note.partition(": ")[2] for note in compared.notes] == [
        "its data, or how they are split, are others",
        "its task is elsewhere and not toy",
        "its task is linear-regression and not toy",
    ]


def test_a_run_that_has_not_ended_is_compared_by_its_training_score(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    recorded(tmp_path / "run")
    path = tmp_path / "run" / JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"\n", 0, whole.index(b'"ev":"finished"')) + 1])
    compared = compare([load_run(runs[0]), load_run(tmp_path / "run")])
    stopped, best = compared.standings[1], load_run(tmp_path / "run").best
    assert best is not None
    assert (stopped.state, stopped.held_out) == ("stopped", None)
    assert stopped.train is not None
    assert stopped.train.score == best.score
    assert compared.notes[0].endswith("a run has them when it has ended and kept its trace")


def test_runs_of_different_scorers_are_said_to_be_and_no_price_is_no_cost(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (load_run(directory) for directory in runs)
    other = replace(two, models={**two.models, "scorer": "another"})
    assert compare([one, other]).notes == ("These runs were scored by different models.",)
    assert compare([one, two]).notes == ()
    compare_runs(runs, json=False)
    assert "0.0000" not in capsys.readouterr().out


def test_the_comparison_as_text_and_as_json(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    compare_runs(runs, json=True)
    value = json.loads(capsys.readouterr().out)
    assert [one["directory"] for one in value["standings"]] == [str(directory) for directory in runs]
    compare_runs(runs, json=False)
    text = capsys.readouterr().out
    assert f"{100 * value['paired'][0]['difference']:+.1f} points" in text
    assert all(one["best"] in text for one in value["standings"])
    assert f"{value['paired'][0]['verdict']} (p = {value['paired'][0]['p']:.2g})" in text
    compare_runs([*runs, runs[1]], json=False)
    assert "by Holm over 2)" in capsys.readouterr().out


def test_one_run_is_nothing_to_compare(runs: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="two or more"):
        compare_runs(runs[:1], json=False)


@pytest.mark.real
def test_the_shell_gets_the_best_instruction_alone(runs: tuple[Path, Path]) -> None:
    shell = f'printf %s "$({sys.executable} -m asyncopt best {runs[1]})"'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, check=True, text=True)
    assert done.stdout == load_run(runs[1]).best.candidate  # type: ignore[union-attr]
