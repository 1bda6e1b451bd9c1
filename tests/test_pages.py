"""What a page shows of a run: its document, and the assets that draw it."""

from __future__ import annotations

import json
import re
import shlex
from hashlib import sha256
from pathlib import Path
from typing import Any

import hostile
import pytest
from fakes import run_virtual
from recorded import EXAMPLES, REFUSED, Toy, recorded

from asyncopt import OPRO, RandomSearch, Study, codec, load_run
from asyncopt.cli.settings import settle
from asyncopt.directory import JOURNAL
from asyncopt.journal import pack_record, read_records
from asyncopt.pages import comparison, document
from asyncopt.pages.asked import Asked
from asyncopt.pages.assets import SCRIPTS, STYLES, asset, live_page
from asyncopt.pages.document import LONGEST_TEXT, MOST_CANDIDATES
from asyncopt.pages.matrix import MOST_CELLS
from asyncopt.pages.repeat import command
from asyncopt.pages.timeline import MOST_POINTS, latency, timeline
from asyncopt.records import Answer
from asyncopt.result import Result
from asyncopt.stats import wilson_interval
from asyncopt.tasks.linear_regression import LinearRegression

REFUSED_COLUMN = int(REFUSED[1:])
OURS = tuple(name for name in SCRIPTS if not name.startswith("uPlot"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    directory = tmp_path_factory.mktemp("runs") / "toy"
    return directory, recorded(directory)[1]


# -- the document ------------------------------------------------------------------------------------------------------


def test_the_head_and_the_steps_are_those_of_the_run(finished: tuple[Path, Result]) -> None:
    directory, result = finished
    shown = document(load_run(directory))
    assert shown["name"] == "toy"
    head = shown["head"]
    assert (head["task"], head["optimizer"], head["state"], head["scored"]) == ("toy", "opro", "finished", "share")
    assert (head["step"], head["steps"], head["seed"]) == (3, 3, 0)
    assert [row["step"] for row in shown["steps"]] == [-1, 0, 1, 2]
    best = [row["best"] for row in shown["steps"]]
    assert best == sorted(best)
    assert [row["only"] for row in shown["steps"]] == [11] * 4  # one example is always refused
    calls = [row["calls"] for row in shown["steps"]]
    assert calls == sorted(calls)
    assert shown["cost"]["calls"] == result.calls
    assert shown["cost"]["to_come"] is None


def test_candidates_stand_best_first_with_wilsons_intervals(finished: tuple[Path, Result]) -> None:
    directory, result = finished
    shown = document(load_run(directory))
    rows = shown["candidates"]
    assert result.best is not None
    assert rows[0]["text"] == result.best.candidate
    for row in rows:
        assert (row["low"], row["high"]) == wilson_interval(row["score"] * row["n"], row["n"])
        assert all(rows[place]["step"] < row["step"] for place in row["parents"])
        assert row["closest"] is None or row["closest"] in range(len(rows))
    assert any(row["closest"] is not None for row in rows)
    others = [row["score"] for row in rows[1:]]
    assert others == sorted(others, reverse=True)


def test_the_matrix_says_how_every_example_ended(finished: tuple[Path, Result]) -> None:
    directory, _ = finished
    run = load_run(directory)
    shown = document(run)
    table = shown["matrix"]
    by_place = {(one.step, one.index): one for one in run.candidates}
    assert table["examples"] == [example.id for example in EXAMPLES[:12]]
    assert len(table["rows"]) == len(run.candidates)
    for place, cells, reasons in zip(table["rows"], table["cells"], table["reasons"], strict=True):
        one = by_place[shown["candidates"][place]["step"], shown["candidates"][place]["index"]]
        assert reasons == {str(REFUSED_COLUMN): "refused"}
        signs = {None: "!", 0.0: "0", 1.0: "9"}
        assert cells == "".join(signs[score] for score in one.scores or ())


def test_held_out_scores_stand_beside_the_initial_ones(finished: tuple[Path, Result]) -> None:
    directory, result = finished
    ends = {row["which"]: row for row in document(load_run(directory))["held_out"]}
    assert result.best is not None
    assert result.best.held_out is not None
    held = result.best.held_out
    assert ends["best"]["test"] == {"score": held.score, "low": held.low, "high": held.high, "n": held.n}
    assert ends["initial"]["test"] is not None


def test_what_is_to_come_is_the_mean_step_times_the_steps_left(tmp_path: Path, finished: tuple[Path, Result]) -> None:
    source, _ = finished
    records = read_records((source / JOURNAL).read_bytes(), source)[0]
    last = next(place for place, one in enumerate(records) if one.kind == "step" and one.data["step"] == 1)
    directory = tmp_path / "cut"
    directory.mkdir()
    (directory / "manifest.json").write_bytes((source / "manifest.json").read_bytes())
    (directory / JOURNAL).write_bytes(b"".join(pack_record(one) for one in records[: last + 1]))
    shown = document(load_run(directory))
    calls = [row["calls"] for row in shown["steps"]]
    assert [row["step"] for row in shown["steps"]] == [-1, 0, 1]
    assert shown["cost"]["to_come"]["calls"] == pytest.approx((calls[2] - calls[0]) / 2 * 1)
    assert shown["head"]["state"] == "stopped"
    # Held-out scores come at the end; until then the card has those in training.
    assert {row["which"]: row["test"] for row in shown["held_out"]} == {"best": None, "initial": None}
    assert all(row["train"]["n"] == 11 for row in shown["held_out"])


def test_a_study_of_a_sweep_is_shown_with_the_engine_of_all_its_studies(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    recorded(sweep / "toy-s0")
    alone = document(load_run(sweep / "toy-s0"))
    assert len(alone["activity"]["t"]) > 0
    assert (alone["activity"]["shared"], alone["latency"]["shared"]) == (None, None)
    # As the command line keeps it: one engine for all studies, and its lines in the folder of the sweep.
    (sweep / "toy-s0" / "activity.jsonl").rename(sweep / "activity.jsonl")
    (sweep / "sweep.json").write_text("{}")
    shown = document(load_run(sweep / "toy-s0"))
    assert shown["activity"] == {**alone["activity"], "shared": "sweep"}
    assert shown["latency"] == {**alone["latency"], "shared": "sweep"}
    assert {name for name in shown["errors"] if name.startswith("attempts")} <= {
        "attempts refused (429) in the whole sweep",
        "attempts failed in the whole sweep",
    }


def test_losses_have_no_intervals_and_no_matrix(tmp_path: Path) -> None:
    async def main() -> None:
        await Study(task=LinearRegression(), optimizer=RandomSearch(steps=5), directory=tmp_path / "run").run()

    run_virtual(main)
    shown = document(load_run(tmp_path / "run"))
    assert shown["head"]["scored"] == "loss"
    scores = [row["score"] for row in shown["candidates"]]
    assert scores == sorted(scores)
    assert {row["low"] for row in shown["candidates"]} == {None}
    assert shown["matrix"] == {"rows": [], "examples": [], "cells": [], "reasons": []}
    assert shown["held_out"] == []


def test_hostile_texts_come_through_as_they_are(tmp_path: Path) -> None:
    texts = ["".join(char for char in text if char not in "[]") for text in hostile.SHORT.values()]
    steps = -(-len(texts) // 6)
    recorded(
        tmp_path / "run", Toy(tuple(texts), answer="</script>\u2028"), optimizer=OPRO(steps=steps, samples_per_step=6)
    )
    run = load_run(tmp_path / "run")
    shown = document(run)
    assert sorted(row["text"] for row in shown["candidates"]) == sorted(one.candidate for one in run.candidates)
    assert len(run.candidates) > 20
    assert len(json.loads(codec.dumps(shown))["candidates"]) == len(run.candidates)


def entry(step: int, index: int, candidate: str, scores: list[float]) -> dict[str, Any]:
    row = {"candidate": candidate, "score": sum(scores) / len(scores), "step": step, "index": index}
    return {**row, "examples": len(scores), "complete": True, "source": "meta-prompt", "scores": scores}


def journal(source: Path, directory: Path, rows: list[dict[str, Any]]) -> None:
    """A run of one step with these candidates."""
    directory.mkdir()
    (directory / "manifest.json").write_bytes((source / "manifest.json").read_bytes())
    first = read_records((source / JOURNAL).read_bytes(), source)[0][0]
    kind = type(first)
    records = [
        kind(0, "proposed", {"step": 0, "seen": 0, "digest": ""}),
        kind(1, "step", {"step": 0, "entries": rows, "state": {}}),
    ]
    (directory / JOURNAL).write_bytes(b"".join(pack_record(one) for one in records))


def test_the_document_is_bounded(tmp_path: Path, finished: tuple[Path, Result]) -> None:
    scores = [1.0, 0.0] * 250
    rows = [entry(0, number, f"Idea {number}", scores) for number in range(MOST_CANDIDATES + 5)]
    rows.append(entry(0, len(rows), "x" * (LONGEST_TEXT + 1000), [1.0] * 500))
    journal(finished[0], tmp_path / "run", rows)
    shown = document(load_run(tmp_path / "run"))
    assert len(shown["candidates"]) == MOST_CANDIDATES
    assert shown["candidates"][0]["text"] == "x" * LONGEST_TEXT + f"… ({LONGEST_TEXT + 1000:,} characters)"
    assert shown["left_out"]["candidates"] == 6
    cells = sum(map(len, shown["matrix"]["cells"]))
    assert cells <= MOST_CELLS
    assert cells + shown["left_out"]["cells"] == MOST_CANDIDATES * 500


# -- the timeline ------------------------------------------------------------------------------------------------------


def line(
    t: float, calls: int, *, s: float | None = None, limiting: str = "quota", in_flight: int = 5, **more: Any
) -> dict[str, Any]:
    scope = {"in_flight": in_flight, "concurrency": 10, "queued": 3, "limiting": limiting, "rate": {"requests": 20.0}}
    counts = {"hits": 0, "tokens": 0, "usd": 0.0, "throttled": 0, "failed": 0, "latency": [0, 4, 0], **more}
    return {"t": t, "s": t if s is None else s, "scopes": {"a": scope}, "calls": calls, **counts}


def test_rates_are_by_the_second_and_busy_is_the_limit_that_binds() -> None:
    shown = timeline([line(100.0, 0), line(102.0, 36, throttled=4), line(103.0, 37, limiting="tail")])
    assert shown["t"] == [0.0, 2.0, 3.0]
    assert shown["calls"] == [None, 18.0, 1.0]
    assert shown["throttled"] == [None, 2.0, 0]
    assert shown["busy"] == [0.5, 0.9, 0.5]
    assert [shown["names"][place] for place in shown["limiting"]] == ["quota", "quota", "tail"]


def test_nothing_is_drawn_across_a_pause_and_sittings_are_added_up() -> None:
    shown = timeline(
        [line(0.0, 10, s=9.0, throttled=3), line(100.0, 20, s=1.0, throttled=1), line(101.0, 21, s=2.0, throttled=2)]
    )
    assert shown["t"] == [0.0, 1.0, 100.0, 101.0]
    assert shown["in_flight"] == [5, None, 5, 5]
    assert shown["calls"] == [None, None, None, 1.0]
    assert shown["refused"] == 5


def test_a_long_timeline_is_thinned_and_keeps_its_refusals() -> None:
    lines = [line(float(t), t, throttled=int(t >= 5001), s=float(t)) for t in range(10_000)]
    shown = timeline(lines)
    assert len(shown["t"]) <= MOST_POINTS
    assert shown["t"] == sorted(shown["t"])
    assert 1.0 in shown["throttled"]


def test_an_empty_timeline_has_empty_columns() -> None:
    shown = timeline([])
    assert (shown["t"], shown["busy"], shown["names"], shown["refused"]) == ([], [], [], 0)
    assert latency([], [])["p50"] is None


def test_percentiles_are_interpolated_in_their_bucket() -> None:
    edges = [1.0, 2.0, 4.0]
    shown = latency([{"latency": [0, 50, 40, 10]}, {"latency": [0, 50, 40, 10]}, {"latency": [1]}], edges)
    assert shown["counts"] == [0, 100, 80, 20]
    assert shown["p50"] == pytest.approx(2.0)
    assert shown["p90"] == pytest.approx(4.0)
    assert shown["p99"] == 4.0  # above the last edge it is only known to be more
    assert latency([{"latency": [0, 100, 0, 0]}], edges)["p90"] == pytest.approx(1.9)


# -- prompts and commands ----------------------------------------------------------------------------------------------


def settled(directory: Path, text: str, settings: list[str]) -> dict[str, Any]:
    """A run directory of ``asyncopt run``, as far as its configuration goes."""
    config = settle(text, {}, None, None, settings).to_plain()
    task = settle(text, {}, None, None, settings).load_task()
    directory.mkdir(parents=True)
    subject = {
        "task": {"name": text, "fingerprint": getattr(task, "fingerprint", ""), "template": ""},
        "optimizer": {"name": "opro"},
        "seed": 0,
    }
    (directory / "manifest.json").write_bytes(
        codec.dumps({"v": 1, "asyncopt": "0", "subject": subject, "config": config})
    )
    return config


@pytest.mark.parametrize(
    "settings",
    [
        ["models.scorer.model=openai/m", "optimizer.steps=7", "seed=3", "task.limit=9"],
        ["models.scorer.model=local", "optimizer.temperature=1.0"],
        ['models.scorer.model="true"', "optimizer.name=random", 'optimizer.styles=["rewrite"]', "mode=parallel"],
        ["models.scorer.model=a b; rm -rf 'x' $(y) \"z\"", "models.scorer.base_url=http://localhost:1/v1"],
    ],
)  # fmt: skip
def test_the_command_settles_to_the_same_configuration(tmp_path: Path, settings: list[str]) -> None:
    config = settled(tmp_path / "run", "antonym", settings)
    line = command(load_run(tmp_path / "run"))
    assert line is not None
    program, verb, task, *rest = shlex.split(line)
    assert (program, verb, set(rest[::2])) == ("asyncopt", "run", {"--set"})
    again = settle(task, {}, None, None, rest[1::2]).to_plain()
    assert again == config


def test_the_command_of_a_fork_begins_with_its_parent_and_says_every_setting(tmp_path: Path) -> None:
    # The parent may have other settings than the usual ones, which a fork inherits where nothing is said.
    config = settled(tmp_path / "run", "antonym", ["models.scorer.model=openai/m", "optimizer.samples_per_step=8"])
    path = tmp_path / "run" / "manifest.json"
    path.write_bytes(codec.dumps({**codec.loads(path.read_bytes()), "parent": {"path": "/runs/a b"}}))
    words = shlex.split(command(load_run(tmp_path / "run")) or "")
    assert words[:5] == ["asyncopt", "resume", "/runs/a b", "--fork", "NEW-DIRECTORY"]
    assert "optimizer.samples_per_step=8" in words
    assert settle("antonym", {}, None, None, words[6::2]).to_plain() == config


def test_a_run_of_a_program_has_no_command(finished: tuple[Path, Result]) -> None:
    assert document(load_run(finished[0]))["command"] is None


def test_prompts_are_made_again_from_the_task(tmp_path: Path) -> None:
    settled(tmp_path / "run", "antonym", ["models.scorer.model=openai/m"])
    run = load_run(tmp_path / "run")
    task = settle("antonym", {}, None, None, ["models.scorer.model=openai/m"]).load_task()
    example = task.train[0]  # type: ignore[union-attr]
    answer = Answer("train", example.id, "scored", 1.0, "cold", "cold")
    row = Asked(run).rows("Say it.", [answer])[0]
    assert row["prompt"] == task.render("Say it.", example.input)  # type: ignore[union-attr]
    assert row["target"] == example.target


def test_answers_are_shown_alone_where_the_data_have_changed(tmp_path: Path) -> None:
    settled(tmp_path / "run", "antonym", ["models.scorer.model=openai/m"])
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["subject"]["task"]["fingerprint"] = "another"
    path.write_text(json.dumps(manifest))
    row = Asked(load_run(tmp_path / "run")).rows("Say it.", [Answer("train", 0, "scored", 1.0, "cold", "cold")])[0]
    assert "prompt" not in row
    assert row["answer"] == "cold"


# -- comparisons -------------------------------------------------------------------------------------------------------


def test_runs_are_held_against_the_first(tmp_path: Path, finished: tuple[Path, Result]) -> None:
    recorded(tmp_path / "other", seed=1)
    compared = comparison([load_run(finished[0]), load_run(tmp_path / "other")])
    assert compared["first"] == "toy"
    (one,) = compared["paired"]
    assert (one["name"], one["n"]) == ("other", 20)
    assert one["low"] <= one["difference"] <= one["high"]
    assert one["difference"] * one["n"] == pytest.approx(one["only_this"] - one["only_first"])
    assert (one["p_holm"], one["verdict"]) == (one["p"], "better" if one["p"] <= 0.05 else "no difference shown")
    assert compared["notes"] == []


def test_a_comparison_of_different_tasks_says_so(tmp_path: Path, finished: tuple[Path, Result]) -> None:
    async def main() -> None:
        await Study(task=LinearRegression(), optimizer=RandomSearch(steps=2), directory=tmp_path / "run").run()

    run_virtual(main)
    compared = comparison([load_run(finished[0]), load_run(tmp_path / "run")])
    assert compared["paired"] == []
    assert "not of one task" in " ".join(compared["notes"])


# -- the assets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_scripts_make_nodes_and_never_markup(name: str) -> None:
    text = asset(name)
    for banned in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "srcdoc",
        '"style"',
    ):
        assert banned not in text, f"{name} has {banned}"
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_nothing_in_the_assets_ends_its_element() -> None:
    for name in (*STYLES, *SCRIPTS):
        assert "</" not in asset(name)
        assert "<!--" not in asset(name)
    for name in STYLES:
        assert "url(" not in asset(name)
        assert "@import" not in asset(name)


def test_other_names_are_no_assets() -> None:
    for name in ("../document.py", "uPlot.LICENSE", "", "page.js/", "PAGE.JS"):
        with pytest.raises(KeyError):
            asset(name)


def test_the_live_page_has_its_assets_beside_it_and_nothing_inline() -> None:
    page = live_page()
    assert re.findall(r'<script src="assets/([^"]+)"></script>', page) == list(SCRIPTS)
    assert re.findall(r'<link rel="stylesheet" href="assets/([^"]+)">', page) == list(STYLES)
    assert "<style" not in page
    assert not re.search(r"<script(?! src=)", page)


def test_the_vendored_library_is_the_published_one() -> None:
    assert (
        sha256(asset("uPlot.iife.min.js").encode()).hexdigest()
        == "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    )
    assert (
        sha256(asset("uPlot.min.css").encode()).hexdigest()
        == "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"
    )
