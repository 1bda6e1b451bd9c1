"""The budget on which optimizers are compared: answers scored on training examples, from the cache or not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from test_overlap import LAG, OPTIMIZER, RACING, TASK, Slow, decisions, history_of, run

from asyncopt import MemoryCache
from asyncopt.errors import ConfigError
from asyncopt.evaluation import most_asked
from asyncopt.optimizers.base import Search, Seen
from asyncopt.optimizers.overlap import Overlap, Plan, Proposal
from asyncopt.optimizers.steps import run_steps
from asyncopt.tasks.linear_regression import LinearRegression

LONG = replace(OPTIMIZER, steps=100)
CALLS = 10 * len(TASK.train) + 7  # the start, nine more, and too few for another


@pytest.mark.parametrize("cached", [False, True])
def test_a_search_ends_before_the_candidate_that_its_scoring_calls_do_not_cover(cached: bool) -> None:
    cache = MemoryCache() if cached else None
    for _ in range(2):  # the second time from the cache, where there is one
        endpoint = Slow(1)
        study, result = run(endpoint, replace(LONG, scoring_calls=CALLS), cache=cache)
        assert result is not None
        assert study.history.unique == 10
    assert not endpoint.scored or not cached


@pytest.mark.parametrize("optimizer", [LAG, replace(LAG, quorum=0.8)])
@pytest.mark.parametrize("seed", range(5))
def test_with_lag_no_more_is_scored_either(optimizer: Overlap, seed: int) -> None:
    optimizer = replace(optimizer, steps=100, scoring_calls=CALLS)  # type: ignore[call-arg]
    study, result = run(Slow(seed), optimizer)  # type: ignore[arg-type]
    assert result is not None
    assert study.history.unique == 10


@pytest.mark.parametrize("lag", [0, 4])
def test_what_a_race_saves_is_left_for_others(lag: int) -> None:
    calls = 600
    plain, _ = run(Slow(1), replace(LONG, lag=lag, scoring_calls=calls))
    for seed in range(3):
        endpoint = Slow(seed)
        raced, _ = run(endpoint, replace(RACING, lag=lag, steps=100, scoring_calls=calls))
        asked = [one for one in endpoint.scored if one[1] < len(TASK.train)]
        used = sum(most_asked(one.stopped, len(TASK.train)) for one in raced.history.entries)
        assert calls - len(TASK.train) < used
        assert 0.9 * used < len(asked) <= used <= calls  # those ahead of a decision are paid for as well
        assert raced.history.unique > plain.history.unique


@pytest.mark.parametrize("lag", [0, 3])
def test_a_search_that_was_interrupted_ends_where_it_would_have_ended(lag: int, tmp_path: Path) -> None:
    optimizer = replace(LONG, lag=lag, scoring_calls=CALLS)
    whole, _ = run(Slow(4), optimizer)
    for number, until in enumerate((1.0, 2.0, 3.0, 4.0)):
        run(Slow(4), optimizer, directory=tmp_path / f"{number}", until=until)
        again, result = run(Slow(5), optimizer, directory=tmp_path / f"{number}")
        assert result is not None
        assert again.history.unique == whole.history.unique == 10
        if not lag:
            assert history_of(again) == history_of(whole)


def test_the_last_step_is_validated_wherever_it_comes() -> None:
    task = replace(TASK, validation=TASK.train[12:], train=TASK.train[:12])
    study, _ = run(Slow(1), replace(LONG, scoring_calls=6 * 12, validate_every=50), task=task)
    assert [one.candidate for one in study.history.entries if study._chronicle.validated(one.candidate) is None] == []


def test_too_few_calls_for_a_start_are_refused_before_any_call() -> None:
    with pytest.raises(ConfigError, match="the 1 starting points and one candidate take 48 on the 24 training"):
        run(Slow(1), replace(LONG, scoring_calls=47))
    with pytest.raises(ConfigError, match="scoring_calls is 0"):
        replace(LONG, scoring_calls=0)
    with pytest.raises(ConfigError, match="linear-regression has none"):
        replace(LONG, scoring_calls=100).check_examples(LinearRegression())


def test_a_candidate_that_a_quorum_has_decided_keeps_its_place_when_it_is_repeated(tmp_path: Path) -> None:
    study, _ = run(Slow(1, sigma=2.0), Echo(quorum=0.3), directory=tmp_path)  # type: ignore[arg-type]
    rows = [row for _, data in decisions(tmp_path, "entry", "step") for row in data["entries"]]
    assert [row["candidate"] for row in rows if row.get("provisional")] == ["Start.", "Idea 0", "Idea 1"]
    assert [row["step"] for row in rows if row.get("provisional")] == [-1, 0, 1]
    places = {(entry.candidate, entry.step) for entry in study.history.entries}
    assert places >= {("Start.", -1), ("Idea 0", 0), ("Idea 1", 1)}


@dataclass(frozen=True)
class Echo(Overlap):
    """Proposes the same few candidates again and again, one a step."""

    steps: int = 6
    name: str = "echo"

    def check(self, *_: object) -> None: ...

    async def run(self, search: Search) -> None:
        async def propose(step: int, _index: int, _seen: Seen) -> Proposal | None:
            await asyncio.sleep(0)
            return f"Idea {step % 2}", "echo"

        await run_steps(search, self, Plan(self.steps, 1, ["Start."], propose, repeats=True))


def test_a_repeated_candidate_joins_again_and_is_not_scored_again(tmp_path: Path) -> None:
    endpoint = Slow(1)
    study, _ = run(endpoint, Echo(), directory=tmp_path)  # type: ignore[arg-type]
    entries = study.history.entries
    assert [(one.candidate, one.step) for one in entries[1:]] == [(f"Idea {step % 2}", step) for step in range(6)]
    assert entries[1].score == entries[3].score == entries[5].score
    assert {len(scores) for scores in study.history.scores.values()} == {24}
    trained = [one for one in endpoint.scored if one[1] < 24]
    assert len(trained) == len(set(trained))
    copy = tmp_path / "journal.jsonl"
    lines = copy.read_text().splitlines(keepends=True)
    copy.write_text("".join(lines[:-2]))
    (tmp_path / "result.json").unlink()
    again, _ = run(Slow(2), Echo(), directory=tmp_path)  # type: ignore[arg-type]
    assert history_of(again) == history_of(study)
    assert again.history.scores == study.history.scores
