"""``asyncopt eval`` as a user meets it: real processes, real sockets, real signals, and a simulated API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cli import ASYNCOPT, KEY, Server, call

from asyncopt.cli import main
from asyncopt.records import load_run


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("--latency", "0.005")
    yield server
    server.close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ASYNCOPT_"))}
    return kept | {"ASYNCOPT_CACHE_DIR": str(tmp_path / "cache"), "OPENAI_API_KEY": KEY}


def on(server: Server) -> list[str]:
    return ["--scorer", "mock", "--base-url", server.url]


def events(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The last event, after nothing but notes."""
    *notes, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert {note["event"] for note in notes} == {"note"}
    assert last["event"] == "done"
    return dict(last)


@pytest.mark.real
def test_instructions_from_everywhere_are_scored_and_a_second_time_for_nothing(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_text("From a file,\nin two lines.\n")
    (tmp_path / "more.jsonl").write_text('"=quoted"\n\n{"instruction": "An object."}\n')
    out = tmp_path / "out"
    command = ["eval", "antonym", "Say it.", "", f"@{tmp_path / 'one.txt'}", "--file", str(tmp_path / "more.jsonl")]
    command += [*on(server), "--fold", "validation", "--limit", "20", "--out", str(out), "--json"]
    before = len(server.ledger())
    first = events(call(environment, *command))
    texts = ["Say it.", "", "From a file,\nin two lines.", "=quoted", "An object."]
    assert [one["instruction"] for one in first["instructions"]] == texts
    assert [one["number"] for one in first["comparisons"]] == [2, 3, 4, 5]
    assert (first["calls"], first["fold"], first["unscored"]) == (100, "validation", 0)
    assert len(server.ledger()) == before + 100
    items = [json.loads(line) for line in (out / "items.jsonl").read_bytes().splitlines()]
    correct = Counter(item["number"] for item in items if item["correct"])
    measured = [one["measured"] for one in first["instructions"]]
    assert [(one["correct"], one["n"]) for one in measured] == [(correct[number], 20) for number in range(1, 6)]
    again = events(call(environment, *command))
    assert (again["calls"], again["cache_hits"]) == (0, 100)
    assert again["instructions"] == first["instructions"]
    assert len(server.ledger()) == before + 100


@pytest.mark.real
def test_the_best_of_a_run_scores_as_it_did_in_the_run(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    options = ["--steps", "2", "--limit", "15", "--json", "--directory", str(tmp_path / "run")]
    run = call(environment, "run", "capital", *on(server), *options)
    best = json.loads(run.stdout.splitlines()[-1])["best"]
    command = ["eval", "capital", "--run", str(tmp_path / "run"), *on(server), "--limit", "15", "--json"]
    found = events(call(environment, *command))
    assert [one["instruction"] for one in found["instructions"]] == [best["candidate"]]
    assert found["instructions"][0]["measured"] == best["held_out"]
    assert found["calls"] == 0
    run_directory = load_run(tmp_path / "run")
    shares = {one.candidate: one.score for one in run_directory.candidates if one.score is not None}
    found = events(call(environment, *command, "--top", "3"))
    texts = [one["instruction"] for one in found["instructions"]]
    assert texts[0] == best["candidate"]
    assert [shares[text] for text in texts] == sorted(shares.values(), reverse=True)[:3]


@pytest.mark.real
def test_people_get_a_table_and_a_gate_that_is_not_met_ends_with_1(server: Server, environment: dict[str, str]) -> None:
    command = ["eval", "capital", "Name it.", "\x1b[31mred", *on(server), "--limit", "10"]
    done = call(environment, *command)
    assert "Name it." in done.stdout
    assert "points against 1" in done.stdout
    assert "\x1b" not in done.stdout
    assert "10 examples, 2 instructions" in done.stderr
    assert "on the same 10 examples" in done.stdout
    failed = call(environment, *command, "--min-score", "1", expect=1)
    assert "below the wanted 100 %" in failed.stderr
    assert failed.stdout.splitlines()[:4] == done.stdout.splitlines()[:4]
    call(environment, *command, "--min-score", "0")


@pytest.mark.real
def test_an_interrupted_evaluation_goes_on_from_the_cache(environment: dict[str, str]) -> None:
    server = Server("--latency", "0.1")
    command = [*ASYNCOPT, "eval", "antonym", "a", "b", *on(server), "--set", "models.scorer.concurrency=4"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(server.ledger()) < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in errors
    assert len(server.ledger()) < 200
    call(environment, *command[len(ASYNCOPT) :])
    assert max(Counter(entry["prompt"] for entry in server.ledger()).values()) == 1  # nothing is paid for twice
    assert len(server.ledger()) == 200
    server.close()


@pytest.mark.real
def test_items_without_a_score_end_with_1_and_a_budget_with_3(environment: dict[str, str], tmp_path: Path) -> None:
    server = Server("--latency", "0", "--faults", "seed=1,rate=1,kinds=malformed")
    command = ["eval", "antonym", "a", *on(server), "--limit", "2", "--json"]
    failed = call(environment, *command, expect=1)
    assert events(failed)["instructions"][0]["measured"] is None
    assert "2 examples have no score" in failed.stderr
    assert "1 calls" in call(environment, *command, "--budget", "calls=1", expect=3).stderr
    server.close()


BASE = ["--scorer", "m", "--base-url", "http://127.0.0.1:9/v1"]
WRONG = [
    (["antonym", *BASE], "no instruction"),
    (["antonim", "a", *BASE], "did you mean antonym"),
    (["linear-regression", "a", *BASE], "no instructions"),
    (["antonym", "a", "--base-url", "http://127.0.0.1:9/v1"], "--scorer"),
    (["antonym", "a", "--fold", "dev", *BASE], "one of train, validation, test, all"),
    (["antonym", "a", "--position", "start", *BASE], "before_Q"),
    (["antonym", "a", "--position", "A_begin", *BASE], "frame"),
    (["antonym", "@none.txt", *BASE], "none.txt"),
    (["antonym", "--file", "none.jsonl", *BASE], "none.jsonl"),
    (["antonym", "--file", "bad.jsonl", *BASE], "wanted a text in quotes"),
    (["antonym", "--file", "latin.txt", *BASE], "UTF-8"),
    (["antonym", "--run", "nowhere", *BASE], "nowhere/manifest.json is missing"),
    (["antonym", "--run", "swept", *BASE], "swept is the directory of a sweep"),
    (["antonym", "a", "--top", "3", *BASE], "add --run DIR"),
    (["antonym", "a", "--min-score", "80", *BASE], "min-score"),
    (["antonym", "a", "--out", "bad.jsonl", *BASE], "--out"),
    (["antonym", "a", "--budget", "calls", *BASE], "--budget"),
    (["antonym", "a", "--budget", "usd=1", *BASE], "price"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(row[0])[:40] for row in WRONG])
def test_wrong_input_is_said_before_the_first_call(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "bad.jsonl").write_text('{"instrution": "a"}\n')
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "sweep.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["asyncopt", "eval", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert (ended.value.code, message in error) == (2, True), error
    assert "Traceback" not in error
