"""The command line as a user meets it: real processes, real sockets, real signals, and a simulated API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from asyncopt.cli import main
from asyncopt.stats import wilson_interval
from asyncopt.version import __version__

pytestmark = pytest.mark.real

KEY = "sk-canary-0123456789abcdef"
ASYNCOPT = [sys.executable, "-m", "asyncopt"]


class Server:
    """A simulated API in a process of its own."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [*ASYNCOPT, "simulate", "--port", "0", *options], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.url = ready["url"]
        self.identity = ready["identity"]

    def ledger(self) -> list[dict[str, Any]]:
        with urlopen(f"{self.url.removesuffix('/v1')}/ledger") as response:  # noqa: S310 - our own server
            return list(json.loads(response.read())["entries"])

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("--latency", "0.005")
    yield server
    server.close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ASYNCOPT_"))}
    return kept | {"ASYNCOPT_CACHE_DIR": str(tmp_path / "cache"), "OPENAI_API_KEY": KEY}


def call(environment: dict[str, str], *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*ASYNCOPT, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == expect, done.stderr
    assert KEY not in done.stdout + done.stderr
    return done


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["event"] == "launch"
    assert lines[-1]["event"] == "done"
    return dict(lines[-1])


def on(server: Server, *more: str) -> list[str]:
    return ["--scorer", "mock", "--base-url", server.url, *more]


# -- the main job ------------------------------------------------------------------------------------------------------


def test_a_run_ends_with_the_best_instruction_measured_on_held_out_examples(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    before = len(server.ledger())
    run = ["run", "antonym", *on(server), "--steps", "4", "--json"]
    done = last_line(call(environment, *run, "--directory", str(tmp_path / "one")))
    best, initial = done["best"], done["initial"]
    assert best["train"]["score"] >= initial["train"]["score"]
    assert (best["train"]["n"], best["held_out"]["n"]) == (40, 100)
    low, high = wilson_interval(best["held_out"]["correct"], 100)
    assert (best["held_out"]["low"], best["held_out"]["high"]) == (low, high)
    assert done["steps"] == 4
    assert done["calls"] == len(server.ledger()) - before
    assert done["tokens"] == done["input_tokens"] + done["output_tokens"] > 0

    again = last_line(call(environment, *run, "--directory", str(tmp_path / "two")))
    assert again["calls"] == 0
    assert again["cache_hits"] > 0
    assert (again["best"], again["initial"]) == (best, initial)
    assert len(server.ledger()) == before + done["calls"]

    shown = call(environment, "show", str(tmp_path / "one")).stdout
    assert best["candidate"] in shown
    for path in [*(tmp_path / "one").rglob("*"), *(tmp_path / "cache").rglob("*")]:
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_a_server_that_states_its_identity_keeps_its_answers_under_another_port(
    environment: dict[str, str], tmp_path: Path
) -> None:
    calls = []
    for name in ("one", "two"):
        server = Server("--latency", "0", "--seed", "5")
        run = ["run", "capital", *on(server), "--steps", "1", "--limit", "5", "--json"]
        calls.append(last_line(call(environment, *run, "--directory", str(tmp_path / name)))["calls"])
        assert len(server.ledger()) == calls[-1]
        server.close()
    assert calls[0] > 0
    assert calls[1] == 0


def test_people_get_a_summary_on_standard_output_and_progress_on_standard_error(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    done = call(
        environment, "run", "capital", *on(server), "--steps", "1", "--limit", "8", "--directory", str(tmp_path / "run")
    )
    assert "held out" in done.stdout
    assert "95 %" in done.stdout
    assert "step 1/1" not in done.stdout
    assert "step 1/1" in done.stderr


def test_own_data_in_a_file(server: Server, environment: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(f'{{"input": "what is {n}+1?", "target": "{n + 1}"}}\n' for n in range(40)))
    config = tmp_path / "mine.toml"
    config.write_text(
        f'[task]\nname = "mine.jsonl"\nkind = "number"\n[optimizer]\nsteps = 1\n[models.scorer]\nmodel = "mock"\nbase_url = "{server.url}"\n'
    )
    done = last_line(call(environment, "run", str(config), "--json", "--directory", str(tmp_path / "run")))
    assert done["best"]["held_out"]["n"] > 0


def test_linear_regression_stops_on_the_hit_and_is_shown_beside_random_pairs(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    settings = ["--set", "task.w_true=15", "--set", "task.b_true=14", "--set", "task.repetition=0"]
    run = ["run", "linear-regression", "--proposer", "mock", "--base-url", server.url, *settings]
    done = last_line(call(environment, *run, "--json", "--directory", str(tmp_path / "one")))
    assert [row[:2] for row in done["start"]] == [[10, 13], [15, 10], [16, 14], [17, 18], [18, 15]]
    assert done["optimum_loss"] == pytest.approx(47.038, abs=5e-4)
    assert done["solved"]
    assert done["best"]["candidate"] == "[15, 14]"
    assert done["random"]["solved"]
    shown = call(environment, *run, "--directory", str(tmp_path / "two")).stdout
    assert "random" in shown


def test_random_pairs_alone_need_no_server(environment: dict[str, str], tmp_path: Path) -> None:
    run = ["run", "linear-regression", "--proposer", "random", "--json", "--directory", str(tmp_path / "run")]
    done = last_line(call(environment, *run))
    assert (done["optimizer"], done["calls"], done["solved"]) == ("random", 0, True)


def test_published_items_run_on_the_simulated_api(data: Path, environment: dict[str, str], tmp_path: Path) -> None:
    server = Server("--latency", "0.002", "--data", str(data))
    for task, train, test in [("bbh/boolean_expressions", 50, 200), ("gsm8k", 30, 30)]:
        more = ["--limit", "30"] if task == "gsm8k" else []
        run = ["run", task, *on(server), "--data", str(data), "--steps", "2", "--json", *more]
        done = last_line(call(environment, *run, "--directory", str(tmp_path / task.replace("/", "-"))))
        assert (done["best"]["train"]["n"], done["best"]["held_out"]["n"]) == (train, test)
        assert 0 < done["best"]["train"]["score"] <= 1
    server.close()


# -- stopping and going on ---------------------------------------------------------------------------------------------


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*ASYNCOPT, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(directory: Path, steps: int) -> None:
    """Return when so many steps stand in the journal; the test's own time limit ends a wait in vain."""
    journal = directory / "journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b'"ev":"step"') <= steps:
        time.sleep(0.02)


def test_killed_in_a_step_it_is_resumed_without_paying_for_finished_steps_again(
    environment: dict[str, str], tmp_path: Path
) -> None:
    server = Server("--latency", "0.02", "--seed", "9")
    options = ["--set", "models.scorer.concurrency=8", "--steps", "6", "--limit", "20"]
    whole = last_line(
        call(
            {**environment, "ASYNCOPT_CACHE_DIR": str(tmp_path / "other")},
            "run",
            "antonym",
            *on(server),
            *options,
            "--json",
            "--directory",
            str(tmp_path / "whole"),
        )
    )
    place = tmp_path / "killed"
    process = start(environment, "run", "antonym", *on(server), *options, "--directory", str(place))
    wait_for_step(place, 3)
    process.kill()
    process.communicate()
    sent = len(server.ledger()) - whole["calls"]
    done = last_line(call(environment, "resume", str(place), "--json"))
    assert (done["best"], done["initial"], done["steps"]) == (whole["best"], whole["initial"], whole["steps"])
    total = len(server.ledger()) - whole["calls"]
    assert (
        sent < total <= whole["calls"] + 8 + 500
    )  # at most what was in flight, and one unwritten batch, is sent twice
    finished = {entry["prompt"] for entry in server.ledger()[: whole["calls"]]}
    twice = server.ledger()[whole["calls"] + sent :]
    assert {entry["prompt"] for entry in twice} <= finished
    server.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_cleanly_and_it_can_be_resumed(
    number: signal.Signals, code: int, environment: dict[str, str], tmp_path: Path
) -> None:
    server = Server("--latency", "0.05")
    place = tmp_path / "run"
    process = start(
        environment, "run", "antonym", *on(server), "--steps", "3", "--limit", "20", "--directory", str(place)
    )
    wait_for_step(place, 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"asyncopt resume {place}" in errors
    assert "Traceback" not in errors
    before = len(server.ledger())
    done = last_line(call(environment, "resume", str(place), "--json"))
    assert done["steps"] == 3
    prompts = [(entry["prompt"], entry["number"]) for entry in server.ledger()]
    again = {prompt for prompt, n in prompts if n >= before} & {prompt for prompt, n in prompts if n < before}
    assert len([prompt for prompt in again if "square brackets" not in prompt]) == 0  # what was paid for was kept
    server.close()


def test_a_budget_ends_a_run_with_3_and_a_larger_one_goes_on(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    place = str(tmp_path / "my run")
    run = ["run", "capital", *on(server), "--steps", "3", "--limit", "10", "--seed", "77", "--directory", place]
    before = len(server.ledger())
    done = call(environment, *run, "--budget", "calls=40", expect=3)
    assert "40 calls" in done.stderr
    assert f"asyncopt resume '{place}'" in done.stderr  # as a shell takes it
    assert len(server.ledger()) - before <= 40
    assert last_line(call(environment, "resume", place, "--budget", "calls=10000", "--json"))["steps"] == 3


def test_a_child_begins_with_the_finished_steps_of_its_parent(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    parent, child = str(tmp_path / "parent"), str(tmp_path / "child")
    call(environment, "run", "capital", *on(server), "--steps", "2", "--limit", "8", "--directory", parent)
    refused = call(environment, "resume", parent, "--steps", "3", expect=2).stderr
    assert "--fork CHILD" in refused
    done = last_line(call(environment, "resume", parent, "--fork", child, "--steps", "3", "--wait", "--json"))
    assert done["steps"] == 3
    shared = [(Path(one) / "journal.jsonl").read_bytes().count(b'"ev":"step"') for one in (parent, child)]
    assert shared == [3, 4]  # the starting points count as a step
    assert "holds a run" in call(environment, "resume", parent, "--fork", child, "--steps", "4", expect=2).stderr


def test_another_configuration_is_refused_with_the_difference_and_the_way_out(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    run = ["run", "capital", *on(server), "--limit", "8", "--directory", str(tmp_path / "run")]
    call(environment, *run, "--steps", "1")
    refused = call(environment, *run, "--steps", "2", expect=2).stderr
    assert "optimizer.steps was 1, is 2" in refused
    assert "--fork" in refused


def test_a_directory_in_use_is_refused_with_5(environment: dict[str, str], tmp_path: Path) -> None:
    server = Server("--latency", "0.3")
    place = tmp_path / "run"
    run = ["run", "antonym", *on(server), "--directory", str(place)]
    process = start(environment, *run)
    while not (place / "manifest.json").exists():
        time.sleep(0.02)
    assert f"process {process.pid}" in call(environment, *run, expect=5).stderr
    process.kill()
    process.communicate()
    server.close()


# -- wrong inputs ------------------------------------------------------------------------------------------------------

WRONG = [
    (["run", "antonim"], 2, "did you mean antonym"),
    (["run", "bad.toml"], 2, "did you mean steps"),
    (["run", "key.toml"], 2, "api_key_env"),
    (["run", "none.toml"], 2, "none.toml"),
    (["run", "antonym", "--scorer", "openai/gpt-4o-mini"], 2, "OPENAI_API_KEY"),
    (["run", "antonym", "--scorer", "gpt-4o-mini"], 2, "--base-url"),
    (["run", "antonym", "--base-url", "http://127.0.0.1:9/v1"], 2, "--scorer"),
    (["run", "gsm8k", "--scorer", "m", "--base-url", "http://127.0.0.1:9/v1"], 2, "--data"),
    (
        ["run", "bbh/navigate", "--data", "nowhere", "--scorer", "m", "--base-url", "http://127.0.0.1:9/v1"],
        2,
        "navigate.json",
    ),
    (["run", "bad.jsonl", "--scorer", "m", "--base-url", "http://127.0.0.1:9/v1"], 2, "line 2"),
    (["run", "antonym", "--scorer", "m", "--base-url", "http://me:hunter2@127.0.0.1/v1"], 2, "credentials"),
    (["run", "antonym", "--scorer", "m", "--base-url", "http://far.example.com/v1"], 2, "clear text"),
    (["run", "antonym", "--scorer", "none.gguf"], 2, "none.gguf"),
    (
        ["run", "antonym", "--proposer", "random", "--scorer", "m", "--base-url", "http://127.0.0.1:9/v1"],
        2,
        "--proposer",
    ),
    (["run", "antonym", "--set", "nonsense"], 2, "--set"),
    (["run", "antonym", "--budget", "cals=3"], 2, "did you mean calls"),
    (["resume", "nowhere"], 2, "manifest.json"),
    (["show", "nowhere"], 2, "manifest.json"),
    (["show", "damaged"], 5, "damaged"),
    (["run", "antonym", "--budget", "calls"], 2, "--budget"),
    (["run", "antonym", "--seed", "99999999999999999999"], 2, "seed"),
    (["run", "antonym", "--budget", "seconds=inf"], 2, "budget.seconds"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG, ids=[" ".join(row[0])[:50] for row in WRONG])
def test_wrong_input_ends_at_once_with_a_sentence(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASYNCOPT_DATA", raising=False)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text('{"subject": 3}')
    (tmp_path / "damaged" / "journal.jsonl").touch()
    (tmp_path / "bad.toml").write_text('[task]\nname = "antonym"\n[optimizer]\nstepz = 3\n')
    (tmp_path / "key.toml").write_text(f'[task]\nname = "antonym"\n[models.scorer]\nmodel = "m"\napi_key = "{KEY}"\n')
    (tmp_path / "bad.jsonl").write_text('{"input": "a", "target": "b"}\n{"input": oops}\n')
    monkeypatch.setattr(sys, "argv", ["asyncopt", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == code
    assert message in error
    assert "hunter2" not in error
    assert KEY not in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


INTERRUPTED = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
sys.argv = ["asyncopt", "--help"]
from asyncopt.cli import main
main()
"""


def test_an_interrupt_while_starting_is_no_traceback(environment: dict[str, str]) -> None:
    # Ctrl-C at a stated moment, the slowest import of the start, which is where it falls in practice.
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "asyncopt: interrupted\n")


def test_a_run_is_resumed_from_any_folder(server: Server, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("".join(f'{{"input": "q{n}", "target": "a{n}"}}\n' for n in range(10)))
    run = [
        *ASYNCOPT,
        "run",
        "mine.jsonl",
        *on(server),
        "--steps",
        "1",
        "--directory",
        str(tmp_path / "run"),
        "--budget",
        "calls=3",
    ]
    assert subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, check=False).returncode == 3
    assert (
        last_line(call(environment, "resume", str(tmp_path / "run"), "--budget", "calls=1000", "--json"))["steps"] == 1
    )


def test_a_wrong_key_ends_with_4_after_few_calls(environment: dict[str, str], tmp_path: Path) -> None:
    server = Server("--latency", "0.01", "--key", "another-key")
    done = call(environment, "run", "antonym", *on(server), "--directory", str(tmp_path / "run"), expect=4)
    assert "401" in done.stderr
    assert len(server.ledger()) <= 32
    server.close()


def test_help_and_lists(environment: dict[str, str]) -> None:
    assert "resume" in call(environment, "--help").stdout
    assert call(environment, "--version").stdout == f"asyncopt {__version__}\n"
    listed = call(environment, "tasks", "ls").stdout
    assert all(name in listed for name in ("antonym", "capital", "gsm8k", "bbh/navigate", "linear-regression"))
    assert all(json.loads(line)["name"] for line in call(environment, "tasks", "ls", "--json").stdout.splitlines())
