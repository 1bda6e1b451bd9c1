"""What is shown of a run while it goes on: a panel, lines, JSON lines or nothing, and never a text that gives orders."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
from fakes import run_virtual
from recorded import recorded
from rich.console import Console
from test_summary import searched

from asyncopt import Engine
from asyncopt.cli.display import Display, JsonDisplay, NoDisplay, figures_line
from asyncopt.cli.display_choice import choose_display, shown_as
from asyncopt.cli.display_rich import RichDisplay, _facts, panel
from asyncopt.cli.status import Figures, Status
from asyncopt.errors import ConfigError
from asyncopt.events import AttemptFailed, CandidateScored, ExampleEnded, StepFinished, StudyStarted
from asyncopt.stats import wilson_interval

STYLES = re.compile(r"\x1b\[(?:0|1|2|38;5;[0-9]+)m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(text: str) -> str:
    """The panel with this text wherever one can stand, as it goes to a terminal of 80 columns."""
    console = Console(
        file=io.StringIO(),
        force_terminal=True,
        color_system="256",
        width=80,
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(panel([(text, 3, 8, text)], [(text, text)]))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# -- which display -----------------------------------------------------------------------------------------------------


def test_a_terminal_gets_the_panel_and_everything_else_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert [shown_as(None), shown_as("rich")] == ["plain", "plain"]  # the tests' standard error is no terminal
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert [shown_as(None), shown_as("rich"), shown_as("plain")] == ["rich", "rich", "plain"]
    for fixed in ("dumb", "unknown"):
        monkeypatch.setenv("TERM", fixed)
        assert shown_as("rich") == "plain"


def test_json_is_display_json() -> None:
    assert shown_as(None, json=True) == shown_as("json", json=True) == shown_as("json") == "json"
    with pytest.raises(ConfigError, match="--json is --display json, and --display none was given as well"):
        shown_as("none", json=True)
    with pytest.raises(ConfigError, match="--display is 'loud'; it must be one of rich, plain, json, none"):
        shown_as("loud")


def test_every_way_has_its_display() -> None:
    ways = {"rich": RichDisplay, "plain": Display, "json": JsonDisplay, "none": NoDisplay}
    assert {way: type(choose_display(shown_as(way))) for way in ("plain", "json", "none")} == {
        way: kind for way, kind in ways.items() if way != "rich"
    }
    assert type(choose_display("rich")) is RichDisplay


# -- what is written ---------------------------------------------------------------------------------------------------


def test_lines_come_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    searched(Display())  # 14 seconds
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "in flight" in line]
    assert "109 calls, 10.9/s, 266 tokens/s · 10/10 in flight" in line


def test_none_shows_the_result_alone(capsys: pytest.CaptureFixture[str]) -> None:
    searched(NoDisplay())
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "140 calls" in shown.out


def test_work_that_is_no_study_has_a_line_or_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    for display in (Display(), JsonDisplay(), NoDisplay()):
        with display.open():
            display.work("items", 3, 8, ["2 in flight", "1 queued"])
    shown = capsys.readouterr()
    assert shown.err == "3/8 items · 2 in flight · 1 queued\n"
    assert [json.loads(line) for line in shown.out.splitlines()] == [
        {"event": "note", "text": "3/8 items · 2 in flight · 1 queued"}
    ]


def test_the_panel_of_a_study_is_drawn_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    searched(RichDisplay(), steps=1)
    shown = STYLES.sub("", terminal.getvalue())
    assert "antonym · opro · run" in shown
    assert re.search(r"steps +\S+ 0/1", shown)
    assert re.search(r"scoring +━+ \d+/\d+ examples and proposals", shown)
    assert re.search(r"best +0\.\d+ \(0\.\d+ to [01]\.?\d*\), start 0\.\d+", shown)
    assert "10/10 in flight" in shown
    assert shown.count("calls/s") > 4 * 14  # four times a second
    assert terminal.getvalue().endswith("\x1b[2K")  # and nothing of it stays
    drawn_at = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n").splitlines()
    assert max(len(line.rstrip("\n")) for line in drawn_at if "calls/s" in line) <= 80 - len("^C")


@pytest.mark.parametrize("text", hostile.SHORT.values(), ids=hostile.SHORT)
def test_no_text_gives_orders_to_the_terminal(text: str) -> None:
    bare = STYLES.sub("", drawn(text))
    assert all(char == "\n" or char.isprintable() for char in bare)
    assert bare.count("\n") == 2
    if text == hostile.MARKUP["rich"]:
        assert "[bold red]x[/] [link=https://evil.example]y[/link] :bomb:" in bare


# -- the figures -------------------------------------------------------------------------------------------------------


def figures(*events: object) -> Figures:
    async def main() -> Figures:
        status = Status()
        for event in events:
            status.see(event)  # type: ignore[arg-type]
        return status.look()

    return asyncio.run(main())


def test_a_later_sitting_begins_with_what_was_found_before(tmp_path: Path) -> None:
    study, _ = recorded(tmp_path)

    async def main() -> Figures:
        status = Status()
        async with Engine() as engine:
            status.watch(study, engine)
            status.see(StudyStarted("toy", "opro", 2, 3))
            return status.look()

    found = asyncio.run(main())
    best = study.history.best()
    assert best is not None
    assert best.score is not None
    assert (found.best, found.best_score) == (best.candidate, best.score)
    assert (found.low, found.high) == wilson_interval(best.score * best.examples, best.examples)
    assert found.initial_score == study.history.entries[0].score


def test_the_speed_is_that_of_this_sitting_from_its_first_moment(tmp_path: Path) -> None:
    study, _ = recorded(tmp_path)

    async def main() -> list[float]:
        status = Status()
        async with Engine() as engine:
            status.watch(study, engine)
            status.see(StudyStarted("toy", "opro", 2, 3))
            assert study.account.calls > 0
            rates = [status.look().calls_per_second]
            for more, seconds in ((1, 0.1), (9, 0.4), (10, 1.5), (30, 2.0), (30, 0.5)):
                await asyncio.sleep(seconds)
                study.account.calls += more
                rates.append(status.look().calls_per_second)
        return rates

    assert run_virtual(main) == [0.0, 0.0, 20.0, 10.0, 15.0, 15.0]


def test_the_best_score_has_the_interval_of_its_examples() -> None:
    scored = [CandidateScored(0, 0, "a", 0.5, 10, "x"), CandidateScored(0, 1, "b", 0.8, 40, "x")]
    found = figures(*scored, StepFinished(0, 3, "b", 0.8))
    assert (found.low, found.high) == (pytest.approx(0.6524, abs=1e-4), pytest.approx(0.8950, abs=1e-4))
    later = figures(*scored, StepFinished(0, 3, "b", 0.8), StepFinished(1, 3, "b", 0.8))
    assert (later.low, later.high) == (found.low, found.high)
    assert "best 0.8 (0.652 to 0.895)" in figures_line(found, {})


def test_a_best_on_a_part_of_the_examples_is_told_as_such() -> None:
    part, whole = CandidateScored(0, 0, "a", 0.9, 20, "x", partial=True), CandidateScored(2, 0, "b", 0.85, 40, "x")
    found = figures(part, StepFinished(0, 3, "a", 0.9))
    assert "best 0.9 (0.699 to 0.972) on 20 examples only" in figures_line(found, {})
    assert "on 20 examples only · a" in dict(_facts(found, []))["best"]
    found = figures(
        part, StepFinished(0, 3, "a", 0.9), whole, StepFinished(1, 3, "a", 0.9), StepFinished(2, 3, "b", 0.85)
    )
    assert (found.best_only, found.low) == (None, pytest.approx(0.709, abs=1e-3))  # scored before the step before ended
    assert "best 0.85 (0.709 to 0.929) ·" in figures_line(found, {})


def test_examples_are_counted_by_step_and_by_fold() -> None:
    ended = [ExampleEnded("scored", "a", number, "train") for number in range(5)]
    assert (figures(*ended).fold, figures(*ended).scored) == ("train", 5)
    assert figures(*ended, StepFinished(0, 3, "a", 0.5)).scored == 0
    tested = figures(*ended, ExampleEnded("scored", "a", 0, "test"))
    assert (tested.fold, tested.scored) == ("test", 1)


def test_failures_are_counted_by_what_they_are() -> None:
    failed = [
        AttemptFailed("m", kind, "", wait)
        for kind, wait in [("rate_limited", 1.0), ("transient", 1.0), ("quota", None)]
    ]
    found = figures(*failed)
    assert (found.throttled, found.failed_attempts, found.retries) == (1, 2, 2)


# -- on the command line -----------------------------------------------------------------------------------------------


@pytest.mark.real
def test_every_command_that_runs_takes_the_display(tmp_path: Path) -> None:
    def shown(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "asyncopt", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    search = ["run", "linear-regression", "--optimizer", "random", "--steps", "2"]
    quiet = shown(*search, "--directory", "quiet", "--display", "none")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "quiet" in quiet.stdout
    lines = shown("resume", "quiet", "--display", "json").stdout.splitlines()
    assert [json.loads(lines[0])["event"], json.loads(lines[-1])["event"]] == ["launch", "done"]
    assert "kept in plain" in shown(*search, "--directory", "plain", "--display", "rich").stderr
    for command in (["sweep", "none"], ["eval", "antonym", "x"], ["replay", "quiet"], ["resume", "quiet"], search):
        refused = shown(*command, "--display", "loud")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "--display is 'loud'; it must be one of" in refused.stderr
