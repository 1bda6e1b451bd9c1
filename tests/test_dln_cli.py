"""Language networks from the command line: refused where they must be, killed and resumed, shown layer by layer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from test_cli import Server, call, environment, last_line, start, wait_for_step

from asyncopt.cli.show_network import network_lines, prompts_in

__all__ = ["environment"]  # a fixture

EXACT = ["--set", "models.scorer.format=completions", "--set", "models.scorer.top_logprobs=20"]
SMALL = ["--limit", "16", "--steps", "4", "--set", "optimizer.batch_size=6", "--set", "optimizer.proposal=concise"]


def run(server: Server, *more: str, optimizer: str = "dln2") -> list[str]:
    return ["run", "capital", "--optimizer", optimizer, "--scorer", "mock", "--base-url", server.url, *SMALL, *more]


def test_killed_in_an_iteration_it_is_resumed_and_ends_as_if_it_had_not_been(
    environment: dict[str, str], tmp_path: Path
) -> None:
    server = Server("--latency", "0.02", "--seed", "4")
    options = [*EXACT, "--set", "models.scorer.concurrency=16"]
    other = {**environment, "ASYNCOPT_CACHE_DIR": str(tmp_path / "other")}
    whole = last_line(call(other, *run(server, *options, "--json"), "--directory", str(tmp_path / "whole")))
    place = tmp_path / "killed"
    process = start(environment, *run(server, *options), "--directory", str(place))
    wait_for_step(place, 1)
    process.kill()
    process.communicate()
    done = last_line(call(environment, "resume", str(place), "--json"))
    assert (done["best"], done["initial"], done["steps"]) == (whole["best"], whole["initial"], whole["steps"])
    assert done["unscored"] == 0
    shown = call(environment, "show", str(place)).stdout
    for words in ("hidden  ", "output  ", "ELBO ", "validation", "forward  ", "of 5 candidates"):
        assert words in shown, shown
    server.close()


def test_a_chat_without_log_probabilities_of_texts_is_refused_before_any_call(
    environment: dict[str, str], tmp_path: Path
) -> None:
    server = Server("--latency", "0.005")
    accuracy = ["--set", "optimizer.output_scoring=accuracy"]
    for options, way_out in (([], "output_scoring"), (accuracy, "hidden_scoring")):
        refused = call(environment, *run(server, *options), "--directory", str(tmp_path / "no"), expect=2)
        assert "log-probabilities" in refused.stderr
        assert way_out in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert server.ledger() == []
    sampled = ["--set", "optimizer.hidden_scoring=sampled", "--set", "optimizer.include_prior=false"]
    call(environment, *run(server, *accuracy, *sampled), "--directory", str(tmp_path / "yes"))
    journal = [json.loads(line) for line in (tmp_path / "yes" / "journal.jsonl").read_text().splitlines()]
    states = [record["data"]["state"] for record in journal if record["ev"] == "step"]
    assert all("not the paper's estimator" in state["estimators"]["hidden"] for state in states)
    server.close()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.prompt_sampels=3", "prompt_samples"),
        ("optimizer.batch_size=0", "batch_size"),
        ("optimizer.hidden_scoring=guess", "hidden_scoring"),
        ("optimizer.samples_per_step=3", "no option samples_per_step"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(environment: dict[str, str], setting: str, said: str) -> None:
    options = ["--scorer", "mock", "--base-url", "http://127.0.0.1:9/v1", "--set", setting]
    failed: subprocess.CompletedProcess[str] = call(
        environment, "run", "capital", "--optimizer", "dln2", *options, expect=2
    )
    assert said in failed.stderr
    assert failed.stderr.count("\n") == 1


# -- what is shown -------------------------------------------------------------------------------------------------------


def test_the_prompts_of_a_candidate_are_told_apart() -> None:
    assert prompts_in('{"hidden":"think","output":"say"}') == {"hidden": "think", "output": "say"}
    for text in ("Say it.", '{"hidden": 1}', "[1]", "", '"x"', '{"hidden":"a"'):
        assert prompts_in(text) == {"prompt": text}


def test_an_iteration_is_shown_without_control_characters() -> None:
    example = {
        "example": 3,
        "target": "\x1b[2Jy",
        "output": "",
        "loss": 1.0,
        "hidden": "h\nh",
        "samples": ["a", "\x07b"],
        "weights": [0.25, 0.75],
    }
    report = {"elbo": None, "hidden": {"elbo": -1.5, "rewards": [1, 2]}, "output": {}, "examples": [example]}
    lines = list(network_lines({"current": '{"hidden":"p\\u001b","output":""}', "report": {**report, "accuracy": 0.5}}))
    assert all(line.isprintable() for line in lines)
    assert "(empty)" in lines[1]
    assert "ELBO unknown; hidden -1.5000 of 2 candidates; 50.0 % of the batch were right before" in lines[2]
    assert "  0.750  b" in lines[-1]
    skipped = {"current": "x", "report": {"skipped": "nothing was wrong", "elbo": 1.0}}
    assert [line.strip() for line in network_lines(skipped)] == ["prompt  x", "nothing was wrong"]
