"""What a run says at its end, and while it goes on, of why not more was in flight."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from asyncopt import OPRO, Engine, Quota, Study
from asyncopt.cli.display import Display, JsonDisplay, figures_line
from asyncopt.cli.summary import Attribution, attribution_lines, summary_lines
from asyncopt.events import LimitChanged
from asyncopt.result import Result
from asyncopt.tasks import Task, load
from asyncopt.testing import AnswerModel, Constant, SimulatedAPI, items_of, run_virtual

PLACE = Path("run")


def attribution(scope: str = "m", attempts: int = 5000, **limited: float) -> Attribution:
    return Attribution(scope, attempts, 12, 0, 32, limited, {}, [])


def searched(
    display: Display, *, steps: int = 0, racing: float | None = None, requests_per_second: float | None = None
) -> Result:
    """A study with the display watching it; every call takes a second, and ten may be in flight."""
    task = load("antonym")
    assert isinstance(task, Task)
    api = SimulatedAPI(
        latency=Constant(1.0), requests_per_second=requests_per_second, answers=AnswerModel(0, items_of([task]))
    )

    async def main() -> Result:
        async with Engine(observers=[display], grace=0.0) as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=Quota(concurrency=10))
            optimizer = OPRO(steps=steps, racing=racing)
            study = Study(task=task, optimizer=optimizer, scorer=model, proposer=model, observers=[display])
            async with display.showing(study, engine, PLACE):
                result = await study.run()
            display.result(result, None, PLACE)
            return result

    return run_virtual(main)


def test_reasons_come_in_the_order_of_their_shares(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = attribution_lines([attribution(tail=0.61, quota=0.3, proposals=0.089, cpu=0.001)])
    assert line == "limited by: tail 61 %, quota 30 %, proposals 9 %; 12 of 5000 calls refused; 32 at once"


def test_scopes_lead_where_there_are_several_and_idle_ones_say_nothing() -> None:
    lines = attribution_lines([attribution("one", tail=1.0), attribution("idle", 0), attribution("two", cpu=1.0)])
    assert [line.partition(":")[0] for line in lines] == ["one", "two"]
    assert attribution_lines([attribution("idle", 0)]) == []


def test_a_scope_cannot_write_to_the_terminal() -> None:
    lines = attribution_lines([attribution("a\x1b[2J\nb", tail=1.0), attribution("c", tail=1.0)])
    assert "\x1b" not in lines[0]
    assert "\n" not in lines[0]


def test_the_summary_says_what_limited_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    searched(Display())
    shown = capsys.readouterr().out
    # 40 calls to score and 100 to measure, ten at a time.
    assert (
        "140 calls, 0 cache hits, 3767 tokens, 14.0 s\nlimited by: concurrency 100 %; 0 of 140 calls refused; 10 at once\n"
        in shown
    )


def test_a_learned_rate_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    searched(Display(), requests_per_second=50.0)
    assert "2850 requests a minute (learned)" in capsys.readouterr().out  # 95 % of what the headers announce


def test_done_has_the_attribution_and_progress_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    searched(JsonDisplay())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (found,) = lines[-1]["attribution"]
    assert (found["scope"], found["attempts"], found["refused"], found["concurrency"]) == ("m", 140, 0, 10)
    assert sum(found["limited"].values()) == pytest.approx(1.0)
    assert next(iter(found["limited"])) == "concurrency"
    assert {"m": "concurrency"} in [line["limiting"] for line in lines if line["event"] == "progress"]


def test_the_live_line_has_the_reason_only_while_there_is_work() -> None:
    display = Display()
    assert display.limiting() == {}

    async def main() -> None:
        figures = display.status.look()
        assert "in flight, limited by quota and tail" in figures_line(
            figures, {"a": "quota", "b": "tail", "c": "quota"}
        )
        assert "limited" not in figures_line(figures, {})

    asyncio.run(main())


def test_stopped_candidates_are_counted_where_there_are_some(capsys: pytest.CaptureFixture[str]) -> None:
    raced = searched(Display(), steps=3, racing=0.2)
    assert raced.stopped > 0
    assert f"{raced.stopped} candidates stopped early" in capsys.readouterr().out
    plain = searched(Display(), steps=1)
    assert plain.stopped == 0
    assert "stopped" not in "\n".join(summary_lines(plain, None, PLACE, None))


def test_the_end_says_whether_the_gain_is_more_than_luck(capsys: pytest.CaptureFixture[str]) -> None:
    result = searched(Display(), steps=3)
    gain, best, initial = result.gain, result.best, result.initial
    assert gain is not None
    assert best is not None
    assert best.held_out is not None
    assert initial is not None
    assert initial.held_out is not None
    assert gain.n == best.held_out.n == 100
    assert gain.difference == pytest.approx(best.held_out.score - initial.held_out.score)
    assert gain.low <= gain.difference <= gain.high
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("gain ")]
    assert f"{100 * gain.difference:+.1f} points (95 %: {100 * gain.low:+.1f} to {100 * gain.high:+.1f})" in line
    assert f"{gain.verdict} (p = {gain.p:.2g})" in line


def test_a_run_that_kept_its_start_gained_nothing_to_judge(capsys: pytest.CaptureFixture[str]) -> None:
    assert searched(Display()).gain is None
    assert "gain " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "value", "told"),
    [("gate", 5.0, True), ("gate", 60.0, True), ("gate", 4.9, False), ("gate", 0.0, False), ("requests", 60.0, False),
     ("concurrency", 100.0, False), ("tokens", None, False)],
)  # fmt: skip
def test_only_long_pauses_are_worth_a_line(
    what: str, value: float | None, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    Display().notify(LimitChanged("m", what, value, "rate_limited: slow \x1b[2Jdown"))
    shown = capsys.readouterr().err
    assert ("nothing is sent for" in shown) is told
    assert "\x1b" not in shown
