"""Run directories are read as they were written: going on, ended, killed, damaged, older, and of every optimizer."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import hostile
import pytest
from dln_toy import Toy as Layered
from dln_toy import run as train
from fakes import run_virtual
from recorded import EXAMPLES, REFUSED, TASK, Toy, recorded

from asyncopt import OPRO, ConfigError, RandomSearch, Study, codec, load_run
from asyncopt.directory import JOURNAL, fork, lock
from asyncopt.journal import pack_record, read_records
from asyncopt.notebook import html_table
from asyncopt.optimizers import DLN2
from asyncopt.records import COLUMNS, Candidate, read
from asyncopt.records.trace import Trace
from asyncopt.tasks import TSP
from asyncopt.tasks.linear_regression import LinearRegression


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "toy"
    recorded(directory)
    return directory


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A directory of its own with the finished run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_a_finished_run_is_read_as_its_study_was(tmp_path: Path) -> None:
    study, result = recorded(tmp_path / "run")
    run = load_run(tmp_path / "run")
    entries = [(e.candidate, e.score, e.step, e.index, e.partial) for e in study.history.entries]
    assert [(c.candidate, c.score, c.step, c.index, c.partial) for c in run.candidates] == entries
    assert (run.task, run.optimizer, run.seed, run.models) == ("toy", "opro", 0, {"scorer": "m", "proposer": "m"})
    assert (run.state, run.planned, run.lost, run.problems) == ("finished", 3, 0, [])
    assert run.result == result
    assert [step.step for step in run.steps] == [-1, 0, 1, 2]
    assert run.best is not None
    assert result.best is not None
    assert run.best.candidate == result.best.candidate
    assert (run.spent[-1].calls, run.spent[-1].tokens) <= (result.calls, result.tokens)
    assert [one.record for one in run.spent] == sorted(one.record for one in run.spent)
    assert [len(run.validations[step]) for step in sorted(run.validations)] == [
        len(validated) for _, validated in sorted(study._chronicle.validations.items())
    ]


def test_a_candidate_says_how_each_example_ended(finished: Path) -> None:
    run = load_run(finished)
    refused = int(REFUSED[1:])
    for one in run.candidates:
        assert one.scores is not None
        assert one.outcomes == tuple("refused" if place == refused else "scored" for place in range(12))
        assert one.problems == {str(EXAMPLES[refused].id): "refused"}
        assert one.partial


def test_answers_are_those_that_were_graded(finished: Path) -> None:
    run = load_run(finished)
    assert run.best is not None
    answers = run.answers(run.best.candidate)
    folds = {fold: [one for one in answers if one.fold == fold] for fold in ("train", "validation", "test")}
    assert [one.example for one in folds["train"]] == [example.id for example in TASK.train]
    assert [one.score for one in folds["train"]] == list(run.best.scores or ())
    assert [one.example for one in folds["test"]] == [example.id for example in TASK.test]
    assert {(one.answer == f"a{one.example - 100}", one.score) for one in answers} == {
        (True, 1),
        (False, 0),
        (False, None),
    }
    assert run.trace.examples("train") == [example.id for example in TASK.train]
    assert run.answers("never tried") == []


def test_parents_are_what_the_meta_prompt_showed(finished: Path) -> None:
    run = load_run(finished)
    tried = {one.candidate for one in run.candidates}
    by_place = {(one.step, one.index): one for one in run.candidates}
    asked = [row for row in run.trace.rows() if row["kind"] == "proposal"]
    proposals = [row for row in asked if (row["step"], row["index"]) in by_place]
    assert len(proposals) >= 6
    for row in proposals:
        prompt = row["prompt"][0][1]
        shown = {text for text in tried if f"text:\n{text}\n" in prompt}
        assert set(by_place[row["step"], row["index"]].parents) == shown


def test_the_closest_parent_shares_most_words() -> None:
    parents = ("Think step by step.", "Answer the question at once.", "Be brief.")
    made = Candidate("Answer the question now.", 1, 0, "rewrite", 0.5, 10, parents=parents)
    assert made.closest == "Answer the question at once."
    assert Candidate("Start.", -1, 0, "initial", 0.5, 10).closest is None


def test_the_closest_of_megabytes_is_looked_for_in_their_beginnings() -> None:
    texts = (hostile.MEGABYTE, "ab " * 400 + "tail " * 100_000)
    assert Candidate("ab " * 400 + "another", 0, 0, "", None, 0, parents=texts).closest == texts[1]


# -- while it goes on, and after it was stopped ------------------------------------------------------------------------


def cut(directory: Path, records: int) -> None:
    """Leave so many records of the journal, as a process leaves them that was killed."""
    path = directory / JOURNAL
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:records]))


def test_a_run_goes_on_while_its_lock_is_held(copy: Path) -> None:
    cut(copy, 4)
    assert load_run(copy).state == "stopped"
    held = lock(copy)
    assert load_run(copy).state == "running"
    held.release()
    assert load_run(copy).state == "stopped"


def test_where_the_system_does_not_list_its_locks_the_lock_is_tried(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "_LOCKS", copy / "nowhere")
    cut(copy, 4)
    held = lock(copy)
    assert load_run(copy).state == "running"
    held.release()
    assert load_run(copy).state == "stopped"
    assert lock(copy).is_locked


def test_reading_changes_nothing(copy: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copy.iterdir()}
    run = load_run(copy)
    assert list(run.table("evaluations"))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copy.iterdir()} == before


@pytest.mark.parametrize("records", range(1, 12))
def test_any_beginning_of_a_journal_is_a_run(copy: Path, records: int) -> None:
    whole = load_run(copy)
    cut(copy, records)
    run = load_run(copy)
    assert (run.state, run.result, run.problems) == ("stopped", None, [])
    known = [(one.candidate, one.score, one.parents) for one in whole.candidates]
    assert [(one.candidate, one.score, one.parents) for one in run.candidates] == known[: len(run.candidates)]


def test_a_torn_end_is_left_out_without_a_word(copy: Path) -> None:
    cut(copy, 5)
    before = load_run(copy)
    with (copy / JOURNAL).open("ab") as file:
        file.write(b'{"v":1,"seq":5,"ev":"entr')
    assert load_run(copy).candidates == before.candidates
    assert load_run(copy).problems == []


def test_of_a_damaged_journal_the_good_beginning_is_read_and_said_so(copy: Path) -> None:
    lines = (copy / JOURNAL).read_bytes().splitlines(keepends=True)
    (copy / JOURNAL).write_bytes(b"".join([*lines[:5], lines[5].replace(b"1", b"2"), *lines[6:]]))
    run = load_run(copy)
    assert run.problems == [
        f"journal.jsonl is damaged: record 5 at byte {sum(map(len, lines[:5]))} cannot be read, and what follows is left out"
    ]
    assert run.state == "stopped"
    cut(copy, 5)
    assert run.candidates == load_run(copy).candidates


def test_a_run_that_has_only_a_manifest_has_begun(copy: Path) -> None:
    (copy / JOURNAL).unlink()
    (copy / "trace.jsonl").unlink()
    run = load_run(copy)
    assert (run.state, list(run.candidates), run.best, run.answers("Start.")) == ("stopped", [], None, [])


# -- what is no run ----------------------------------------------------------------------------------------------------


def no_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def no_subject(directory: Path) -> None:
    (directory / "manifest.json").write_text('{"v": 1, "subject": {"task": "toy"}}')


def odd_seed(directory: Path) -> None:
    (directory / "manifest.json").write_text('{"subject": {"task": {}, "optimizer": {}, "seed": null}}')


def odd_models(directory: Path) -> None:
    (directory / "manifest.json").write_text('{"subject": {"task": {}, "optimizer": {}, "models": {"scorer": 3}}}')


def sweep(directory: Path) -> None:
    (directory / "sweep.json").write_text("{}")
    shutil.copytree(directory, directory / "toy-s0")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (no_manifest, r"manifest\.json is missing or unreadable; is .* the directory of a run\?"),
        (no_subject, r"manifest\.json does not state a task and an optimizer"),
        (odd_seed, r"manifest\.json has a seed or models that no run has"),
        (odd_models, r"manifest\.json has a seed or models that no run has"),
        (sweep, r"the directory of a sweep; name one of its runs, such as .*toy-s0"),
    ],
)
def test_what_is_no_run_is_refused(copy: Path, damage: Callable[[Path], None], complaint: str) -> None:
    damage(copy)
    with pytest.raises(ConfigError, match=complaint):
        load_run(copy)


# -- of other versions and other optimizers ----------------------------------------------------------------------------


def rewritten(directory: Path, change: Callable[[str, dict[str, Any]], None]) -> None:
    """Change the content of every record, as another version would have written it."""
    path = directory / JOURNAL
    records = read_records(path.read_bytes(), path)[0]
    for record in records:
        change(record.kind, record.data)  # type: ignore[arg-type]
    path.write_bytes(b"".join(map(pack_record, records)))


def test_an_older_run_had_no_scores_by_example_and_no_spending(copy: Path) -> None:
    def older(kind: str, data: dict[str, Any]) -> None:
        for name in ("account", "seconds", "search", "test", "outcomes"):
            data.pop(name, None)
        for row in data.get("entries", ()):
            row.pop("scores", None)
            row.pop("problems", None)
        for row in data.get("candidates", ()) if kind == "validated" else ():
            row.pop("scores")
            row.pop("problems", None)

    if (copy / "trace.jsonl").exists():
        (copy / "trace.jsonl").unlink()
    full = load_run(copy)
    rewritten(copy, lambda kind, data: older(kind, data) if kind != "finished" else None)
    run = load_run(copy)
    assert [one.candidate for one in run.candidates] == [one.candidate for one in full.candidates]
    assert {one.scores for one in run.candidates} == {None}
    assert list(run.spent) == []
    assert list(run.table("evaluations")) == []
    assert run.best is not None


def test_a_result_of_another_version_is_a_problem_and_no_error(copy: Path) -> None:
    rewritten(copy, lambda kind, data: data.update(invented=1) if kind == "finished" else None)
    run = load_run(copy)
    assert run.problems == ["the result is of another version of asyncopt, and cannot be read"]
    assert run.best is not None


def test_a_child_begins_with_what_its_parent_had(finished: Path, tmp_path: Path) -> None:
    parent = load_run(finished)
    subject = {**parent.manifest["subject"], "seed": 7}
    fork(finished, tmp_path / "child", subject, {})
    child = load_run(tmp_path / "child")
    assert child.seed == 7
    assert [one.candidate for one in child.candidates] == [one.candidate for one in parent.candidates]
    assert [one.parents for one in child.candidates] == [one.parents for one in parent.candidates]
    assert list(child.spent) == []
    assert child.state == "stopped"


@pytest.mark.parametrize("task", [LinearRegression(), TSP(nodes=6)])
def test_where_no_model_scores_the_lowest_loss_is_best(task: LinearRegression | TSP, tmp_path: Path) -> None:
    result = run_virtual(Study(task=task, optimizer=RandomSearch(steps=3), directory=tmp_path / "run").run)
    run = load_run(tmp_path / "run")
    assert not run.maximize
    assert run.best is not None
    assert result.best is not None
    assert run.best.score == result.best.loss == min(one.score or 0.0 for one in run.candidates)
    assert all(one.scores is None and one.outcomes == () for one in run.candidates)
    assert [step.best_score for step in run.steps] == sorted((step.best_score for step in run.steps), reverse=True)


def test_language_networks_keep_what_their_steps_found(tmp_path: Path) -> None:
    optimizer = DLN2(steps=2, batch_size=4, validate_every=1)
    train(Layered(), optimizer, directory=tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.optimizer == "dln2"
    assert run.maximize
    assert run.candidates
    assert all("report" in step.state for step in run.steps if step.step >= 0)
    assert run.validations


def test_a_provisional_entry_gives_way_to_the_complete_one(tmp_path: Path) -> None:
    study, _ = recorded(tmp_path / "run", Toy(), optimizer=OPRO(steps=2, samples_per_step=3, quorum=0.5, lag=2))
    run = load_run(tmp_path / "run")
    assert [(one.candidate, one.provisional) for one in run.candidates] == [
        (one.candidate, one.provisional) for one in study.history.entries
    ]


# -- the trace ---------------------------------------------------------------------------------------------------------


def line(candidate: str, *scores: float) -> str:
    items = [
        {"example": number, "outcome": "scored", "answer": "x", "parsed": "x", "score": score}
        for number, score in enumerate(scores)
    ]
    return json.dumps({"kind": "evaluation", "step": 0, "index": 0, "candidate": candidate, "items": items}) + "\n"


def test_a_trace_is_read_as_it_grows_and_the_later_line_counts(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.jsonl")
    assert trace.answers("a") == []
    trace.path.write_text(line("a", 0, 1) + line("b", 1) + line("a", 1)[:-9])
    assert [one.score for one in trace.answers("a")] == [0, 1]
    trace.path.write_text(line("a", 0, 1) + line("b", 1) + line("a", 1))
    assert [one.score for one in trace.answers("a")] == [1, 1]
    assert [one.score for one in trace.answers("b")] == [1]
    assert trace.examples("train") == [0, 1]


def test_damaged_lines_of_a_trace_are_passed_over(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.jsonl")
    odd = '{"example": [1], "outcome": "scored", "score": 0, "answer": "", "parsed": null}'
    items = ['{"example": 1}', odd, odd.replace("[1]", "1").replace('"scored"', "null")]
    broken = ['{"kind":\n', "[]\n", "\n"]
    broken += [f'{{"kind": "evaluation", "candidate": "a", "items": [{item}]}}\n' for item in items]
    trace.path.write_text("".join(broken) + line("a", 1))
    assert [one.score for one in trace.answers("a")] == [1]


@pytest.mark.parametrize("name", sorted(hostile.SHORT))
def test_hostile_candidates_are_found_by_their_texts(name: str, tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.jsonl")
    row = {"kind": "evaluation", "candidate": hostile.SHORT[name], "items": [json.loads(line("", 1))["items"][0]]}
    trace.path.write_bytes(codec.dumps(row) + b"\n")
    assert len(trace.answers(codec.clean(hostile.SHORT[name]))) == 1


# -- in notebooks ------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert all(name == "style" for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_run_and_a_result_show_hostile_texts_as_text(tmp_path: Path) -> None:
    texts = (hostile.MARKUP["script"], hostile.MARKUP["image"], hostile.MARKUP["end of a script"])
    task = replace(TASK, name=hostile.MARKUP["comment"], initial=texts)
    _, result = recorded(tmp_path / "run", optimizer=OPRO(steps=0), task=task)
    run = load_run(tmp_path / "run")
    assert run.best is not None
    for shown in (run, result):
        page = Tags(shown._repr_html_())
        assert page.tags == {"table", "caption", "tr", "th", "td"}
        assert codec.printable(run.best.candidate) in page.text
        assert codec.printable(task.name) in page.text


@pytest.mark.parametrize("name", sorted(hostile.SHORT))
def test_a_cell_of_a_notebook_is_one_text(name: str) -> None:
    page = Tags(html_table("t", [("x", hostile.SHORT[name])]))
    assert page.tags == {"table", "caption", "tr", "th", "td"}
    assert "".join(page.text[2:]) == codec.printable(hostile.SHORT[name], 500)


# -- tables ------------------------------------------------------------------------------------------------------------


def test_evaluations_have_one_row_a_candidate_and_example(finished: Path) -> None:
    run = load_run(finished)
    rows = list(run.table("evaluations"))
    of_train = [row for row in rows if row["fold"] == "train"]
    assert len(of_train) == 12 * len(run.candidates)
    assert [row["place"] for row in of_train[:12]] == list(range(12))
    assert {row["fold"] for row in rows} == {"train", "validation", "test"}


def test_without_a_trace_evaluations_are_those_of_the_journal(copy: Path) -> None:
    whole = [row for row in load_run(copy).table("evaluations") if row["fold"] != "test"]
    (copy / "trace.jsonl").unlink()
    rows = list(load_run(copy).table("evaluations"))
    known = ("step", "index", "candidate", "fold", "place", "outcome", "score")
    assert [[row[name] for name in known] for row in rows] == [[row[name] for name in known] for row in whole]
    assert {row["example"] for row in rows} == {None}


def test_a_frame_has_the_rows_of_the_table(finished: Path) -> None:
    pandas = pytest.importorskip("pandas")
    run = load_run(finished)
    for name in ("candidates", "evaluations", "calls", "activity"):
        frame = run.frame(name)
        assert isinstance(frame, pandas.DataFrame)
        assert list(frame.columns) == list(COLUMNS[name])
        assert len(frame) == len(list(run.table(name))) > 0


def test_polars_does_where_there_is_no_pandas(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    polars = pytest.importorskip("polars")
    monkeypatch.setitem(sys.modules, "pandas", None)
    run = load_run(finished)
    for name in COLUMNS:
        frame = run.frame(name)
        assert isinstance(frame, polars.DataFrame)
        assert frame.shape == (len(list(run.table(name))), len(COLUMNS[name]))


def test_without_either_the_extra_is_named(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'asyncopt\[frames\]'"):
        load_run(finished).frame("candidates")


def test_a_table_that_is_not_there_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match="it has candidates, evaluations, calls, activity"):
        load_run(finished).table("prompts")
