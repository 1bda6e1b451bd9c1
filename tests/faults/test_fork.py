"""A child of a run: it goes on from the finished steps under other settings, where the scores mean the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEndpoint, run_virtual
from test_storage import OPTIMIZER, TASK
from test_study import toy_model

from asyncopt import OPRO, Budget, Engine, MemoryCache, RandomSearch, Study, Task
from asyncopt.directory import MANIFEST, RunDirectory, fork, inherited, read_journal, read_json
from asyncopt.errors import AsyncoptError, BudgetExhausted, ConfigError, RunLocked
from asyncopt.tasks import LinearRegression
from asyncopt.testing.disk import FaultyDisk


class Sitting:
    """A study of the toy task with its own endpoint, by which its calls are counted."""

    def __init__(self, directory: Path, optimizer: OPRO = OPTIMIZER, *, task: Task = TASK, **options: Any) -> None:
        self.endpoint = FakeEndpoint(toy_model)
        self.directory = directory
        self.study: Study | None = None
        self._make = lambda model, proposer: Study(
            task=task, optimizer=optimizer, scorer=model, proposer=proposer, directory=directory, **options
        )
        self.proposer = "m"

    def run(self, cache: MemoryCache | None = None, *, parent: Path | None = None) -> Study:
        async def main() -> Study:
            async with Engine(cache=cache) as engine:
                model = engine.model("m", endpoint=self.endpoint)
                study = self._make(model, engine.model(self.proposer, endpoint=self.endpoint))
                if parent is not None:
                    fork(parent, self.directory, study.subject(), {"steps": "more"})
                self.study = study
                await study.run()
                return study

        return run_virtual(main)


def entries(study: Study, last: int = 10**6) -> list[tuple[str, float | None, int, int]]:
    return [(one.candidate, one.score, one.step, one.index) for one in study.history.entries if one.step <= last]


def test_more_steps_give_what_a_longer_run_would_have_given(tmp_path: Path) -> None:
    longer = OPRO(steps=4, samples_per_step=2)
    parent = Sitting(tmp_path / "parent")
    parent.run()
    whole = Sitting(tmp_path / "whole", longer)
    child = Sitting(tmp_path / "child", longer)
    before = read_journal(tmp_path / "parent")

    assert entries(child.run(parent=tmp_path / "parent")) == entries(whole.run())
    # All but the two steps and the held-out examples is the parent's; and what the child did is the child's.
    assert len(child.endpoint.started) < len(whole.endpoint.started)
    assert child.study is not None
    assert child.study.account.calls == len(child.endpoint.started)
    assert read_journal(tmp_path / "parent") == before

    manifest = read_json(tmp_path / "child" / MANIFEST)
    assert manifest["config"] == {"steps": "more"}
    assert manifest["parent"]["path"] == str((tmp_path / "parent").resolve())
    assert manifest["parent"]["records"] > 0
    assert len(manifest["parent"]["digest"]) == 32


@pytest.mark.parametrize("change", ["seed", "options", "proposer"])
def test_what_proposes_may_change_and_what_was_tried_stays(tmp_path: Path, change: str) -> None:
    parent = Sitting(tmp_path / "parent").run()
    optimizer = OPRO(steps=4, samples_per_step=3 if change == "options" else 2, temperature=0.5)
    child = Sitting(tmp_path / "child", optimizer, seed=7 if change == "seed" else 0)
    child.proposer = "other" if change == "proposer" else "m"
    study = child.run(parent=tmp_path / "parent")
    assert entries(study, 1) == entries(parent)
    assert study.history.entries[-1].step > 1


def test_a_child_is_resumed_and_its_account_is_its_own(tmp_path: Path) -> None:
    optimizer, cache = OPRO(steps=4, samples_per_step=2), MemoryCache()
    spent = Sitting(tmp_path / "parent").run().account.calls
    # Of the parent's money nothing is the child's: with its calls counted too, the first sitting could make none.
    child = Sitting(tmp_path / "child", optimizer, budget=Budget(calls=spent // 4))
    with pytest.raises(BudgetExhausted):
        child.run(cache, parent=tmp_path / "parent")
    assert 0 < len(child.endpoint.started) <= spent // 4
    study = Sitting(tmp_path / "child", optimizer).run(cache)
    assert entries(study) == entries(Sitting(tmp_path / "whole", optimizer).run())


@pytest.mark.parametrize("lag", [0, 3])
def test_of_a_step_that_was_going_on_nothing_is_taken(tmp_path: Path, lag: int) -> None:
    optimizer = OPRO(steps=3, samples_per_step=3, lag=lag)
    whole = Sitting(tmp_path / "whole", optimizer).run()
    for calls in range(20, whole.account.calls, 7):
        place = tmp_path / str(calls)
        with pytest.raises(BudgetExhausted):
            Sitting(place, optimizer, budget=Budget(calls=calls)).run()
        steps = [record.data["step"] for record in read_journal(place) if record.kind == "step"]
        taken = inherited(read_journal(place))[0]
        assert [record.seq for record in taken] == list(range(len(taken)))
        assert {row["step"] for record in taken for row in record.data.get("entries", ())} <= set(steps)
        assert not any("account" in record.data for record in taken)
        child = Sitting(tmp_path / f"{calls}-child", optimizer, seed=1)
        study = child.run(parent=place)
        assert entries(study, max(steps)) == entries(whole, max(steps))
        assert study.history.entries[-1].step == 2


REFUSED: dict[str, dict[str, Any]] = {
    "task.template was": {"task": replace(TASK, template="{{ input }}? {{ instruction }}")},
    "task.fingerprint was": {"task": replace(TASK, fingerprint="other")},
    "task.max_tokens was 1024, is 7": {"task": replace(TASK, max_tokens=7)},
}


@pytest.mark.parametrize("difference", REFUSED)
def test_another_task_is_no_child(tmp_path: Path, difference: str) -> None:
    Sitting(tmp_path / "parent").run()
    child = Sitting(tmp_path / "child", **REFUSED[difference])
    with pytest.raises(ConfigError, match=f"{difference}.*scores would mean something else; start a fresh run"):
        child.run(parent=tmp_path / "parent")
    assert child.endpoint.started == []
    assert not (tmp_path / "child").exists()


def test_another_scorer_and_another_optimizer_are_no_child(tmp_path: Path) -> None:
    Sitting(tmp_path / "parent").run()
    subject = read_json(tmp_path / "parent" / MANIFEST)["subject"]
    scorer = {**subject, "models": {**subject["models"], "scorer": {"name": "n", "identity": "fake"}}}
    optimizer = {**subject, "optimizer": {**subject["optimizer"], "name": "ape"}}
    for other, difference in (
        (scorer, "models.scorer.name was m, is n"),
        (optimizer, "optimizer.name was opro, is ape"),
    ):
        with pytest.raises(ConfigError, match=difference):
            fork(tmp_path / "parent", tmp_path / "child", other, {})


def test_an_objective_has_children_too(tmp_path: Path) -> None:
    async def main() -> int:
        first = Study(task=LinearRegression(3, 5), optimizer=RandomSearch(steps=2), directory=tmp_path / "parent")
        await first.run()
        second = Study(task=LinearRegression(3, 5), optimizer=RandomSearch(steps=4), directory=tmp_path / "child")
        steps = fork(tmp_path / "parent", tmp_path / "child", second.subject(), {})
        await second.run()
        assert second.history.entries[: len(first.history.entries)] == first.history.entries
        return steps

    assert asyncio.run(main()) == 2


def test_places_without_a_parent_or_for_no_child_are_refused(tmp_path: Path) -> None:
    Sitting(tmp_path / "parent").run()
    subject = read_json(tmp_path / "parent" / MANIFEST)["subject"]
    with pytest.raises(ConfigError, match="is missing"):
        fork(tmp_path / "nowhere", tmp_path / "child", subject, {})
    with pytest.raises(ConfigError, match="holds a run"):
        fork(tmp_path / "parent", tmp_path / "parent", subject, {})
    held = RunDirectory(tmp_path / "held", {}, {})
    with pytest.raises(RunLocked):
        fork(tmp_path / "parent", tmp_path / "held", subject, {})
    held.close()
    RunDirectory(tmp_path / "begun", subject, {}).close()
    with pytest.raises(ConfigError, match="has not finished its starting points"):
        fork(tmp_path / "begun", tmp_path / "child", subject, {})


def test_a_child_of_fewer_steps_than_its_parent_has_finished_is_refused(tmp_path: Path) -> None:
    Sitting(tmp_path / "parent").run()
    for steps, fits in ((0, False), (OPTIMIZER.steps - 1, False), (OPTIMIZER.steps, True)):
        child = Sitting(tmp_path / f"of-{steps}", OPRO(steps=steps, samples_per_step=2))
        if fits:
            child.run(parent=tmp_path / "parent")
        else:
            with pytest.raises(ConfigError, match=f"has finished {OPTIMIZER.steps} steps, and the child is to have"):
                child.run(parent=tmp_path / "parent")
        assert child.directory.exists() == fits


@pytest.mark.row("S02")
def test_whichever_operation_fails_there_is_a_whole_child_or_none(tmp_path: Path) -> None:
    Sitting(tmp_path / "parent").run()
    subject = read_json(tmp_path / "parent" / MANIFEST)["subject"]
    for number in count():
        child, disk = tmp_path / str(number), FaultyDisk(number)
        try:
            fork(tmp_path / "parent", child, subject, {}, disk)
        except AsyncoptError:
            disk.crash()
        else:
            break
        if not (child / MANIFEST).exists():
            fork(tmp_path / "parent", child, subject, {})
        assert [record.kind for record in read_journal(child)][-1] == "step"
    assert number > 8


@pytest.mark.parametrize("optimizer", [OPTIMIZER, OPRO(steps=3, samples_per_step=3, lag=3, quorum=0.5)])
def test_the_journal_gives_back_what_was_in_memory(tmp_path: Path, optimizer: OPRO) -> None:
    first = Sitting(tmp_path, optimizer).run()
    again = Sitting(tmp_path, optimizer)
    history = again.run().history
    assert (history.entries, history.commits, history.digest) == (
        first.history.entries,
        first.history.commits,
        first.history.digest,
    )
    assert again.endpoint.started == []
