"""What the engine was doing, second by second: the lines say what happened, and can hurt nobody."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from calls import started
from fakes import FakeEndpoint, echo, run_virtual
from recorded import recorded

from asyncopt import Engine, Fault, Generate, Quota, Sampling, load_run
from asyncopt.activity import EDGES, Activity
from asyncopt.endpoints.protocol import Answer
from asyncopt.limits.budget import Account
from asyncopt.values import FaultKind

WALL = 1_800_000_000.0


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "activity.jsonl").read_text().splitlines()]


def watched(directory: Path, endpoint: FakeEndpoint, calls: int, idle: float = 0.0) -> Account:
    """Make so many calls, four at once, then do nothing; the account that they were counted on."""
    account = Account()

    async def main() -> None:
        async with Engine() as engine:
            quota = Quota(requests_per_minute=6e4, concurrency=4)
            model = engine.model("m", endpoint=endpoint, quota=quota).charged_to(account)
            with Activity(directory, engine, account, wall=lambda: WALL):
                requests = (Generate.of("x", Sampling(draw=number)) for number in range(calls))
                await asyncio.gather(*map(model.submit, requests), return_exceptions=True)
                await asyncio.sleep(idle)

    run_virtual(main)
    return account


def test_there_is_a_line_a_second_and_its_counts_are_totals(tmp_path: Path) -> None:
    account = watched(tmp_path, FakeEndpoint(seconds=0.7), calls=18)  # five rounds, of four calls and of two
    head, *samples = lines(tmp_path)
    assert head == {"v": 1, "edges": list(EDGES)}
    assert [sample["s"] for sample in samples] == [1.0, 2.0, 3.0, 3.5]
    assert {sample["t"] for sample in samples} == {WALL}
    assert [sample["calls"] for sample in samples] == [8, 12, 18, 18]
    assert [sample["scopes"]["m"]["in_flight"] for sample in samples] == [4, 4, 2, 0]
    assert [sample["scopes"]["m"]["queued"] for sample in samples] == [10, 6, 0, 0]
    assert samples[0]["scopes"]["m"] == {
        "in_flight": 4, "concurrency": 4, "queued": 10, "limiting": "concurrency", "rate": {"requests": 1000.0},
    }  # fmt: skip
    assert (samples[-1]["calls"], samples[-1]["tokens"]) == (account.calls, account.tokens)


def test_every_answer_is_in_one_line_under_its_latency(tmp_path: Path) -> None:
    watched(tmp_path, FakeEndpoint(seconds=0.7), calls=18)
    samples = lines(tmp_path)[1:]
    place = next(number for number, edge in enumerate(EDGES) if edge > 0.7)
    assert [sample["latency"][place] for sample in samples] == [4, 4, 8, 2]
    assert all(len(sample["latency"]) == len(EDGES) + 1 for sample in samples)
    assert sum(sum(sample["latency"]) for sample in samples) == 18


def test_refusals_and_failures_are_told_apart(tmp_path: Path) -> None:
    def answers(request: Generate, number: int) -> Answer:
        kinds = {1: FaultKind.RATE_LIMITED, 2: FaultKind.TRANSIENT, 3: FaultKind.REFUSED}
        return Fault(kinds[number], "planned", retry_after=0.1) if number in kinds else echo(request)

    watched(tmp_path, FakeEndpoint(answers, seconds=0.2), calls=8)
    last = lines(tmp_path)[-1]
    assert (last["throttled"], last["failed"]) == (1, 2)
    assert sum(sum(line.get("latency", ())) for line in lines(tmp_path)) == 7


def test_while_nothing_happens_nothing_is_written(tmp_path: Path) -> None:
    watched(tmp_path, FakeEndpoint(seconds=0.5), calls=4, idle=3600)
    assert len(lines(tmp_path)) == 2
    watched(tmp_path / "none", FakeEndpoint(), calls=0, idle=10)
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that takes nothing is only on Linux")
def test_on_a_full_disk_it_is_silent_and_the_study_goes_on(tmp_path: Path) -> None:
    _, wanted = recorded(tmp_path / "roomy")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "activity.jsonl").symlink_to("/dev/full")
    _, result = recorded(tmp_path / "full")
    assert result == wanted
    assert load_run(tmp_path / "full").result == wanted


def test_a_sitting_goes_on_behind_a_torn_line(tmp_path: Path) -> None:
    watched(tmp_path, FakeEndpoint(seconds=0.8), calls=8)
    path = tmp_path / "activity.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[:-20])
    watched(tmp_path, FakeEndpoint(seconds=0.8), calls=4)
    torn, head, *rest = path.read_bytes().splitlines()[before.count(b"\n") - 1 :]
    assert before.endswith(torn + before[-20:])
    assert json.loads(head) == {"v": 1, "edges": list(EDGES)}
    assert [json.loads(line)["calls"] for line in rest] == [4]


def test_a_run_has_the_samples_and_the_edges(tmp_path: Path) -> None:
    study, result = recorded(tmp_path)
    run = load_run(tmp_path)
    assert run.latency_edges == list(EDGES)
    assert run.activity == lines(tmp_path)[1:]
    assert run.activity[-1]["calls"] == result.calls == study.account.calls
    assert all(one["s"] < two["s"] and one["calls"] <= two["calls"] for one, two in pairwise(run.activity))
    rows = list(run.table("activity"))
    assert [row["in_flight"] for row in rows] == [line["scopes"]["m"]["in_flight"] for line in run.activity]


def test_the_studies_of_a_sweep_hold_its_lines_once(tmp_path: Path) -> None:
    for seed in (0, 1):
        recorded(tmp_path / f"toy-s{seed}", seed=seed)
        (tmp_path / f"toy-s{seed}" / "activity.jsonl").rename(tmp_path / "activity.jsonl")
    (tmp_path / "sweep.json").write_text("{}")
    one, two = (load_run(tmp_path / f"toy-s{seed}") for seed in (0, 1))
    assert len(one.activity) == len(lines(tmp_path)) - 1 > 0
    assert all(first is second for first, second in zip(one.activity, two.activity, strict=True))


def test_lines_that_are_not_the_engines_are_passed_over(tmp_path: Path) -> None:
    recorded(tmp_path)
    before = load_run(tmp_path)
    whole = lines(tmp_path)[-1]
    scope = {"m": {"in_flight": 1}}
    whole_scope = next(iter(whole["scopes"].values()))
    odd = [
        {"edges": 5},
        {"edges": ["x"]},
        {**whole, "latency": [*whole["latency"][:-1], []]},
        {**whole, "scopes": 3},
        {**whole, "scopes": scope},
        {**whole, "latency": 1},
    ]
    odd += [
        {**whole, "scopes": {"m": {**whole_scope, name: wrong}}} for name, wrong in (("queued", "x"), ("rate", [1]))
    ]
    odd += [{**whole, "calls": None}, {name: value for name, value in whole.items() if name != "t"}]
    with (tmp_path / "activity.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in odd)
    after = load_run(tmp_path)
    assert (after.activity, after.latency_edges) == (before.activity, before.latency_edges)
    assert len(before.activity) > 0


@pytest.mark.real
def test_the_command_line_keeps_activity_and_trace_unless_told_not_to(tmp_path: Path) -> None:
    with started("-m", "asyncopt", "simulate", "--latency", "0.01") as (_, server):
        models = ["--scorer", "m", "--proposer", "m", "--base-url", str(server["url"]), "--no-cache", "--json"]
        for name, *more in (("usual",), ("plain", "--no-trace")):
            arguments = ["run", "antonym", "--steps", "1", "--limit", "4", "--directory", str(tmp_path / name)]
            command = [sys.executable, "-m", "asyncopt", *arguments, *models, *more]
            subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    usual, plain = load_run(tmp_path / "usual"), load_run(tmp_path / "plain")
    assert usual.best is not None
    assert usual.result is not None
    assert len(usual.answers(usual.best.candidate)) == 8
    assert usual.activity[-1]["calls"] == usual.result.calls > 0
    assert plain.activity
    assert not plain.trace.path.exists()
