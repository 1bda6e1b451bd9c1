"""What a run may take is counted from its configuration, and no run takes more."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from asyncopt.cli.app import app
from asyncopt.cli.dry_run import Part, planned
from asyncopt.config import check
from asyncopt.errors import ConfigError
from asyncopt.testing.study import simulate

MODELS = {"scorer": {"model": "a"}, "proposer": {"model": "b", "usd_per_million_output_tokens": 2.0}}


def parts(**tables: Any) -> dict[str, Part]:
    return {part.part: part for part in planned(check({"models": MODELS, **tables}))}


def test_the_calls_are_those_of_the_papers_loop() -> None:
    found = parts(task={"name": "antonym"}, optimizer={"steps": 5, "samples_per_step": 3, "validate_every": 2})
    assert found["proposals"].calls == 5 * 3
    assert found["training"].calls == (1 + 5 * 3) * 40
    assert found["validation"].calls == (1 + 3 * (3 + 1)) * 40  # the start, and steps 0, 2 and 4 with the best then
    assert found["test"].calls == 2 * 100
    assert found["proposals"].output_tokens == 15 * 1024
    assert found["proposals"].usd == pytest.approx(15 * 1024 * 2e-6)
    assert found["training"].usd is None  # no price is stated
    assert found["training"].output_tokens == 16 * 40 * 16


def test_scoring_calls_are_the_most_that_is_scored_in_training() -> None:
    limited = parts(task={"name": "antonym"}, optimizer={"steps": 50, "scoring_calls": 1000})
    assert limited["training"].calls == 1000
    assert limited["proposals"].calls == 50 * 8  # those that repeat what is known take no scoring calls
    raced = parts(task={"name": "antonym"}, optimizer={"steps": 50, "scoring_calls": 1000, "racing": 0.1})
    assert raced["training"].calls == (1 + 50 * 8) * 40  # answers under way when a race is lost come on top


@pytest.mark.parametrize("name", ["evoprompt-ga", "evoprompt-de", "paraphrase", "reflective", "ape"])
def test_of_other_optimizers_the_calls_are_counted_and_expected(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "antonym", "--optimizer", name, "--scorer", "m", "--base-url", "http://127.0.0.1:9/v1", "--dry-run"]
    more = ["--set", "optimizer.scoring_calls=1000", "--json"]
    app([*run, *more], standalone_mode=False)
    value = orjson.loads(capsys.readouterr().out)
    assert value["expected"]["calls"]["high"] < 1.02 * value["total"]["calls"]  # some attempts are made again
    least = 0.2 * 1000 if name == "ape" else 0.5 * 1000  # APE has 15 candidates
    assert least < value["expected"]["calls"]["middle"] < 1000 + 2 * 100 + 500


def test_answers_that_a_reflection_shows_are_asked_again_without_a_cache() -> None:
    tables: dict[str, Any] = {"task": {"name": "antonym"}, "optimizer": {"name": "reflective", "steps": 5}}
    assert "shown" not in parts(**tables)
    assert parts(**tables, use_cache=False)["shown"].calls == 5 * 4 * 3


def test_a_generation_is_counted_by_its_children() -> None:
    optimizer = {"name": "evoprompt-de", "popsize": 6, "generations": 4, "pool": ["Think.", "Be quick."]}
    found = parts(task={"name": "antonym"}, optimizer=optimizer)
    assert found["proposals"].calls == 3 + 4 * 6
    assert found["training"].calls == (3 + 3 + 4 * 6) * 40


def test_networks_are_expected_and_not_counted() -> None:
    with pytest.raises(ConfigError, match="asyncopt plan"):
        parts(task={"name": "capital"}, optimizer={"name": "dln1"})


def test_a_second_call_for_the_final_answer_counts() -> None:
    once = parts(task={"name": "antonym"}, optimizer={"steps": 1})["training"].calls
    assert (
        parts(task={"name": "antonym", "final_answer_cue": "So:"}, optimizer={"steps": 1})["training"].calls == 2 * once
    )


def test_a_second_call_sends_the_first_answer_and_gets_a_short_one() -> None:
    table = {"name": "antonym", "max_tokens": 300}
    once = parts(task=table, optimizer={"steps": 1})["training"]
    both = parts(task={**table, "final_answer_cue": "So:"}, optimizer={"steps": 1})["training"]
    assert both.output_tokens == once.output_tokens + once.calls * 50
    assert both.input_tokens > 2 * once.input_tokens + once.calls * 300


def test_a_meta_prompt_is_counted_with_what_it_shows() -> None:
    few, many = (parts(task={"name": "tsp", "nodes": nodes})["proposals"].input_tokens for nodes in (10, 50))
    assert many > 2 * few
    # All of the history is shown to a pre-trained model, so that the tokens go with the square of the steps.
    short, long = (
        parts(task={"name": "antonym"}, optimizer={"steps": steps, "meta_prompt": "pre-trained"})["proposals"]
        for steps in (20, 200)
    )
    assert long.calls == 10 * short.calls
    assert long.input_tokens > 80 * short.input_tokens


@pytest.mark.parametrize(
    "tables",
    [
        {"task": {"name": "linear-regression", "w_true": 36, "b_true": -1}, "optimizer": {"steps": 5}},
        {"task": {"name": "tsp", "nodes": 20}, "optimizer": {"steps": 3}},
        {"task": {"name": "antonym"}, "optimizer": {"steps": 20, "meta_prompt": "pre-trained", "max_tokens": 64}},
    ],
    ids=["pairs", "tours", "pre-trained"],
)
def test_no_study_takes_more_tokens(tables: dict[str, Any]) -> None:
    most = planned(check({"models": MODELS, **tables}))
    took = simulate(check({"models": MODELS, **tables}), {})
    sent = sum(part.input_tokens for part in most)
    assert 0.5 * sent < took.tokens <= sent + sum(part.output_tokens for part in most)


def test_a_problem_that_no_model_scores_takes_proposals_alone() -> None:
    assert list(parts(task={"name": "linear-regression"})) == ["proposals"]
    assert parts(task={"name": "linear-regression"})["proposals"].calls == 500 * 8
    assert parts(task={"name": "linear-regression"}, optimizer={"name": "random"})["proposals"].calls == 0


@pytest.mark.parametrize("seed", range(3))
def test_no_study_takes_more(seed: int) -> None:
    tables = {
        "models": MODELS,
        "seed": seed,
        "task": {"name": "capital"},
        "optimizer": {"steps": 4, "validate_every": 3},
    }
    most = planned(check(tables))
    took = simulate(check(tables), {})
    assert 0.5 * sum(part.calls for part in most) < took.calls <= sum(part.calls for part in most)


def test_the_command_line_prints_it_and_sends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    # Nobody listens there, so that any call would fail.
    run = ["run", "antonym", "--scorer", "m", "--base-url", "http://127.0.0.1:9/v1", "--steps", "2", "--dry-run"]
    app(run, standalone_mode=False)
    text = capsys.readouterr().out
    assert "nothing was sent" in text
    assert "total" in text
    app([*run, "--json"], standalone_mode=False)
    value = orjson.loads(capsys.readouterr().out)
    assert value["total"]["calls"] == sum(part["calls"] for part in value["parts"])
