"""``asyncopt report``: one file that asks for nothing from anywhere, whatever texts stand in it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from itertools import takewhile
from pathlib import Path
from typing import Any

import hostile
import pytest
from fakes import run_virtual
from recorded import Toy, recorded

from asyncopt import OPRO, ConfigError, RandomSearch, Study, load_run
from asyncopt.cli.report import LONGEST_ANSWER, MOST_ANSWERS, write_report
from asyncopt.codec import clean
from asyncopt.directory import JOURNAL
from asyncopt.journal import pack_record, read_records
from asyncopt.pages import document, report_html
from asyncopt.pages.report import embedded
from asyncopt.tasks.linear_regression import LinearRegression

ENDS_A_LINE = "\u2028\u2029"


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._in, []).append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.texts["script"][0])
        return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "toy"
    recorded(directory)
    return directory


def report(directories: list[Path], out: Path, against: str | None = None) -> Page:
    write_report(directories, out, against, None)
    return Page(out.read_text(encoding="utf-8"))


def test_a_report_carries_the_document_and_the_answers(finished: Path, tmp_path: Path) -> None:
    page = report([finished], tmp_path / "r.html")
    (shown,) = page.data["documents"]
    run = load_run(finished)
    wanted = document(run)
    answers = shown.pop("answers")
    wanted.pop("answers")
    assert shown == json.loads(json.dumps(wanted))
    assert set(answers) == {str(place) for place in shown["matrix"]["rows"]}
    for place, rows in answers.items():
        assert [row["example"] for row in rows] == shown["matrix"]["examples"]
        text = shown["candidates"][int(place)]["text"]
        assert [row["answer"] for row in rows] == [one.answer for one in run.answers(text) if one.fold == "train"]


def test_the_policy_has_the_hashes_of_what_stands_there(finished: Path, tmp_path: Path) -> None:
    page = report([finished], tmp_path / "r.html")
    policy = next(one["content"] for one in page.attributes("meta") if one.get("http-equiv"))
    assert policy is not None
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'none'"
    _, script = page.texts["script"]
    (style,) = page.texts["style"]
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(sha256(text.encode()).digest()).decode()
        assert parts[name] == f"'sha256-{digest}'"
    # A policy further down would not hold for what stands before it.
    tags = [name for name, _ in page.tags]
    assert tags.index("meta") < tags.index("style")


def test_nothing_is_asked_for_elsewhere(finished: Path, tmp_path: Path) -> None:
    page = report([finished], tmp_path / "r.html")
    for _, attributes in page.tags:
        assert "src" not in attributes
        assert attributes.get("href") in (None, "data:,")
        assert not [name for name in attributes if name.startswith("on")]
    names = [name for name, _ in page.tags]
    assert {"iframe", "img", "object", "embed", "form", "base"}.isdisjoint(names)
    assert names.count("script") == 2


@pytest.mark.parametrize("name", hostile.SHORT)
def test_no_text_leaves_its_element(name: str) -> None:
    text = hostile.SHORT[name]
    data = embedded({"text": text})
    assert json.loads(data) == {"text": clean(text)}
    assert not set("<>&" + ENDS_A_LINE) & set(data)


def test_hostile_runs_make_no_element_more(finished: Path, tmp_path: Path) -> None:
    texts = ["".join(char for char in text if char not in "[]") for text in hostile.SHORT.values()]
    optimizer = OPRO(steps=8, samples_per_step=6)
    recorded(tmp_path / "hostile", Toy(tuple(texts), answer=hostile.EVERYTHING), optimizer=optimizer)
    plain, page = report([finished], tmp_path / "a.html"), report([tmp_path / "hostile"], tmp_path / "b.html")
    assert [name for name, _ in page.tags] == [name for name, _ in plain.tags]
    assert page.texts["script"][1] == plain.texts["script"][1]
    shown = {row["text"] for row in page.data["documents"][0]["candidates"]}
    assert shown == {clean(one.candidate) for one in load_run(tmp_path / "hostile").candidates}
    answers = [row["answer"] for rows in page.data["documents"][0]["answers"].values() for row in rows]
    assert any(clean(hostile.EVERYTHING).startswith(answer[:1000]) for answer in answers if answer)


def test_titles_are_escaped() -> None:
    head = {"task": "</title><script>alert(1)</script>\ud800"}
    page = Page(report_html([{"head": head}]))
    assert "".join(page.texts["title"]) == clean(head["task"])
    assert [name for name, _ in page.tags].count("script") == 2


def test_long_answers_are_cut_and_many_left_out(tmp_path: Path) -> None:
    long = "y" * (LONGEST_ANSWER + 10)
    recorded(tmp_path / "run", Toy(answer=long))
    page = report([tmp_path / "run"], tmp_path / "r.html")
    rows = [row for rows in page.data["documents"][0]["answers"].values() for row in rows]
    assert len(rows) <= MOST_ANSWERS
    cut = {row["answer"] for row in rows if row["answer"].startswith("yy")}
    assert cut == {"y" * LONGEST_ANSWER + f"… ({LONGEST_ANSWER + 10:,} characters)"}


def test_several_runs_make_a_comparison(finished: Path, tmp_path: Path) -> None:
    recorded(tmp_path / "other", seed=1)
    data = report([finished, tmp_path / "other"], tmp_path / "r.html").data
    assert [one["name"] for one in data["documents"]] == ["toy", "other"]
    assert [one["name"] for one in data["comparison"]["paired"]] == ["other"]
    assert report([finished], tmp_path / "one.html").data["comparison"] is None


def test_runs_of_one_name_go_by_their_folders_too(tmp_path: Path) -> None:
    for seed, folder in enumerate(("first", "second")):
        recorded(tmp_path / folder / "toy", seed=seed)
    recorded(tmp_path / "second" / "own", seed=2)
    directories = [tmp_path / "first" / "toy", tmp_path / "second" / "toy", tmp_path / "second" / "own"]
    data = report(directories, tmp_path / "r.html").data
    assert [one["name"] for one in data["documents"]] == ["first/toy", "second/toy", "second/own"]
    assert data["comparison"]["first"] == "first/toy"
    assert [one["name"] for one in data["comparison"]["paired"]] == ["second/toy", "second/own"]


def test_a_sweep_is_its_runs(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for seed in (0, 1):
        recorded(sweep / f"toy-s{seed}", seed=seed)
    (sweep / "sweep.json").write_text("{}")
    data = report([sweep], tmp_path / "r.html").data
    assert [one["name"] for one in data["documents"]] == ["toy-s0", "toy-s1"]
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "sweep.json").write_text("{}")
    with pytest.raises(ConfigError, match="none of the runs"):
        report([tmp_path / "none"], tmp_path / "r.html")


def test_published_results_stand_beside_it(tmp_path: Path) -> None:
    async def main() -> None:
        await Study(task=LinearRegression(), optimizer=RandomSearch(steps=5), directory=tmp_path / "run").run()

    run_virtual(main)
    lines = report([tmp_path / "run"], tmp_path / "r.html", "opro-paper").data["against"]["lines"]
    assert "Large Language Models as Optimizers" in lines[0]
    with pytest.raises(ConfigError, match="dln-paper has no results for linear-regression"):
        report([tmp_path / "run"], tmp_path / "r.html", "dln-paper")


def test_it_is_written_beside_the_run_and_its_path_printed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report([finished], None, None, None)
    assert capsys.readouterr().out == f"{finished / 'report.html'}\n"
    assert (finished / "report.html").stat().st_size > 50_000


def test_what_cannot_be_reported_says_why(finished: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, Path()):
        with pytest.raises(ConfigError, match="is a directory; name a file"):
            report([finished], folder)
    with pytest.raises(ConfigError, match="manifest.json is missing"):
        write_report([tmp_path], tmp_path / "r.html", None, None)
    with pytest.raises(ConfigError, match="nothing to report"):
        write_report([], tmp_path / "r.html", None, None)
    with pytest.raises(ConfigError, match="cannot be written .*; name another file with -o"):
        write_report([finished], tmp_path / "no" / "folder" / "r.html", None, None)


# -- figures for papers ------------------------------------------------------------------------------------------------


def test_figures_are_drawn_twice_the_same(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        write_report([finished], None, None, tmp_path / name)
    names = {f"{name}.{kind}" for name in ("scores", "held-out", "engine") for kind in ("svg", "pdf", "png")}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    drawn = (tmp_path / "one" / "scores.svg").read_text()
    assert "training score (%)" in drawn
    assert "<script" not in drawn


def without_scores(source: Path, directory: Path) -> Path:
    """A copy of the run that has not ended, and in which no candidate got a score."""
    directory.mkdir()
    (directory / "manifest.json").write_bytes((source / "manifest.json").read_bytes())
    records = read_records((source / JOURNAL).read_bytes(), source)[0]
    lost = {"score": None, "scores": None, "complete": False, "examples": 0}
    changed = [
        replace(one, data={**one.data, "entries": [{**row, **lost} for row in one.data.get("entries", [])]})
        for one in takewhile(lambda one: one.kind != "finished", records)
    ]
    (directory / JOURNAL).write_bytes(b"".join(map(pack_record, changed)))
    return directory


def test_figures_of_a_run_without_a_score_are_drawn_without_a_word(
    finished: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    pytest.importorskip("matplotlib")
    nothing = without_scores(finished, tmp_path / "nothing")
    write_report([nothing], None, None, tmp_path / "alone")
    assert not (tmp_path / "alone" / "held-out.svg").exists()
    write_report([nothing, finished], None, None, tmp_path / "both")
    held_out = (tmp_path / "both" / "held-out.svg").read_text()
    assert all(f">{which}<" in held_out for which in ("best", "initial"))
    assert [str(one.message) for one in recwarn] == []


def test_the_engine_of_a_sweep_is_drawn_once(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sweep = tmp_path / "sweep"
    for seed in (0, 1):
        recorded(sweep / f"toy-s{seed}", seed=seed)
        (sweep / f"toy-s{seed}" / "activity.jsonl").rename(sweep / "activity.jsonl")
    (sweep / "sweep.json").write_text("{}")
    write_report([sweep], None, None, tmp_path / "out")
    assert (tmp_path / "out" / "engine.svg").read_text().count(">sweep<") == 1


def test_many_runs_have_room_for_their_names(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("matplotlib")
    recorded(tmp_path / "run-0")
    for number in range(1, 16):
        shutil.copytree(tmp_path / "run-0", tmp_path / f"run-{number}")
    write_report([tmp_path / f"run-{number}" for number in range(16)], None, None, tmp_path / "out")
    assert [str(one.message) for one in recwarn] == []
    for name, least in (("scores", 250), ("held-out", 380), ("engine", 250)):
        drawn = (tmp_path / "out" / f"{name}.svg").read_text()
        height = re.search(r'height="([\d.]+)pt"', drawn)
        assert height is not None
        assert float(height[1]) > least
        assert [drawn.count(f">run-{number}<") for number in range(16)] == [1] * 16


def test_names_are_no_formulae(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    recorded(tmp_path / "_$\\frac{<b>$")
    write_report([tmp_path / "_$\\frac{<b>$"], None, None, tmp_path / "out")
    assert re.search(r"\$\\frac\{&lt;b&gt;\$", (tmp_path / "out" / "scores.svg").read_text())


def test_without_matplotlib_it_says_what_to_install(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'asyncopt\[plots\]'"):
        write_report([finished], None, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
