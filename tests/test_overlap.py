"""Steps that run into each other, races and quorums: what decides, what is journalled, and that it comes out again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from fakes import FakeEndpoint, run_virtual

from asyncopt import OPRO, Budget, Engine, Example, MemoryCache, Quota, RandomSearch, Study, Task
from asyncopt.cli.app import app
from asyncopt.cli.show import show_run
from asyncopt.config import check
from asyncopt.directory import read_journal
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import BudgetExhausted, ConfigError, StudyFailed
from asyncopt.journal import Journal, Record
from asyncopt.limits.budget import UNLIMITED
from asyncopt.optimizers.base import derived_seed
from asyncopt.optimizers.history import Entry, History
from asyncopt.racing import Floor, Race, alpha_of
from asyncopt.result import Result
from asyncopt.tasks import load
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.values import Completion, Fault, FaultKind, Generate, Usage

EXAMPLES = tuple(Example(number, f"q{number}", f"a{number}") for number in range(30))
TASK = Task("toy", "text", train=EXAMPLES[:24], test=EXAMPLES[24:], initial=("Start.",))
OPTIMIZER = OPRO(steps=6, samples_per_step=4)
LAG = replace(OPTIMIZER, lag=4)
QUORUM = replace(OPTIMIZER, lag=4, quorum=0.8)
RACING = replace(OPTIMIZER, lag=4, racing=0.3)


def toy_model(request: Generate, number: int) -> Answer:
    """Proposes `Idea N` from what it is shown, and is right with a chance that the instruction's text decides."""
    prompt = request.prompt[0].content
    usage = Usage(len(prompt) // 4, 2)
    if "square brackets" in prompt:
        return Completion(f"[idea {Random(f'{prompt}{request.sampling.seed}').randrange(1000)}]", usage=usage)
    instruction, question = prompt.rsplit("\n", 1)
    right = Random(prompt).random() < Random(instruction).random()
    return Completion(f"a{question[1:]}" if right else "wrong", usage=usage)


class Slow(FakeEndpoint):
    """Answers as the toy model does, after log-normal times and with transient faults that ``seed`` decides."""

    def __init__(self, seed: int, *, faults: float = 0.0, sigma: float = 1.0) -> None:
        super().__init__(self._answer)
        self.draws: list[int] = []
        self._rng = Random(seed)
        self._faults = faults
        self._sigma = sigma

    async def send(self, model: str, request: Generate) -> Answer:
        self.draws.append(request.sampling.draw)
        self.seconds = 0.5 * self._rng.lognormvariate(0.0, self._sigma)
        return await super().send(model, request)

    def _answer(self, request: Generate, number: int) -> Answer:
        if self._rng.random() < self._faults:
            return Fault(self._rng.choice([FaultKind.TRANSIENT, FaultKind.RATE_LIMITED]), "planned")
        return toy_model(request, number)

    @property
    def scored(self) -> list[tuple[str, int]]:
        """The candidate and the number of the question of every call that was not for a proposal."""
        parts = [prompt.rsplit("\nq", 1) for prompt in self.prompts if "square brackets" not in prompt]
        return [(candidate, int(number)) for candidate, number in parts]


def run(
    endpoint: FakeEndpoint,
    optimizer: OPRO = LAG,
    *,
    task: Task = TASK,
    concurrency: int = 64,
    cache: MemoryCache | None = None,
    directory: Path | None = None,
    replay: Path | None = None,
    budget: Budget = UNLIMITED,
    until: float | None = None,
) -> tuple[Study, Result | None]:
    """The study and its result; None if it was cancelled at the time ``until``."""

    async def main() -> tuple[Study, Result | None]:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=concurrency))
            study = Study(
                task=task,
                optimizer=optimizer,
                scorer=model,
                proposer=model,
                directory=directory,
                replay=replay,
                budget=budget,
            )
            running = asyncio.ensure_future(study.run())
            await asyncio.wait([running], timeout=until)
            if not running.done():
                running.cancel()
                await asyncio.wait([running])
                return study, None
            return study, running.result()

    return run_virtual(main)


def history_of(study: Study) -> bytes:
    return orjson.dumps(study.history.entries)


def decisions(directory: Path, *kinds: str) -> list[tuple[str, dict[str, Any]]]:
    """The journal without what is measured on the way."""
    return [
        (record.kind, {name: value for name, value in record.data.items() if name not in ("account", "seconds")})
        for record in read_journal(directory)
        if record.kind in (kinds or ("proposed", "entry", "step"))
    ]


def copy_of(directory: Path, other: Path, keep: Callable[[Record], bool]) -> Path:
    """Another directory with those records of the journal."""
    other.mkdir()
    (other / "manifest.json").write_bytes((directory / "manifest.json").read_bytes())
    journal = Journal(other / "journal.jsonl")
    for record in filter(keep, read_journal(directory)):
        journal.append(record.kind, record.data)
    journal.close()
    return other


# -- lag 0: nothing that happens on the way decides ----------------------------------------------------------------------


@pytest.mark.parametrize("racing", [None, 0.3])
def test_without_lag_the_history_is_the_same_at_any_concurrency_and_under_any_faults(racing: float | None) -> None:
    optimizer = replace(OPTIMIZER, racing=racing)
    histories = {
        history_of(run(Slow(seed, faults=faults), optimizer, concurrency=concurrency)[0])
        for concurrency in (1, 8, 64)
        for seed, faults in ((1, 0.1), (2, 0.05))
    }
    assert len(histories) == 1
    stopped = [entry for entry in orjson.loads(histories.pop()) if entry["stopped"] is not None]
    assert bool(stopped) == (racing is not None)


def test_without_lag_a_step_sees_all_of_the_one_before(tmp_path: Path) -> None:
    study, _ = run(Slow(1), OPTIMIZER, directory=tmp_path / "run")
    kinds = [(kind, data["step"]) for kind, data in decisions(tmp_path / "run")]
    assert kinds == [(kind, step) for step in range(-1, 6) for kind in ("proposed", "step")]
    places = [(entry.step, entry.index) for entry in study.history.entries]
    assert places == sorted(places)


# -- lag -----------------------------------------------------------------------------------------------------------------


def test_a_step_begins_when_at_most_lag_candidates_are_unscored(tmp_path: Path) -> None:
    class Distinct(Slow):
        def _answer(self, request: Generate, number: int) -> Answer:
            answer = toy_model(request, number)
            if isinstance(answer, Completion) and answer.text.startswith("["):
                return replace(answer, text=f"[distinct {number}]")
            return answer

    directory = tmp_path / "run"
    run(Distinct(3), LAG, directory=directory)
    unscored = {}
    joined = 0
    for kind, data in decisions(directory, "proposed", "entry"):
        joined += kind == "entry"
        if kind == "proposed":
            assert data["seen"] == joined
            unscored[data["step"]] = (1 + 4 * data["step"] if data["step"] >= 0 else 0) - joined
    assert len(unscored) == 7
    assert max(unscored.values()) == 4  # never more than the lag, and all of it is used


def test_lag_fills_the_time_of_stragglers() -> None:
    def seconds(lag: int) -> float:
        endpoint = Slow(5)
        run(endpoint, OPRO(steps=12, samples_per_step=4, lag=lag), concurrency=64)
        return endpoint.started[-1]

    alone, together = seconds(0), seconds(16)
    assert alone > 2 * together


def test_a_proposal_sees_the_entries_that_had_joined_and_no_others(tmp_path: Path) -> None:
    endpoint = Slow(3)
    run(endpoint, LAG, directory=tmp_path / "run")
    prompts = list(dict.fromkeys(prompt for prompt in endpoint.prompts if "square brackets" in prompt))
    seen = [data["seen"] for kind, data in decisions(tmp_path / "run", "proposed")][1:]
    entries = [row for _, data in decisions(tmp_path / "run", "entry") for row in data["entries"]]
    assert len(prompts) == len(seen) == 6
    for prompt, count in zip(prompts, seen, strict=True):
        shown = {row["candidate"] for row in entries if f"\n{row['candidate']}\n" in prompt}
        assert shown == {row["candidate"] for row in entries[:count]}


@pytest.mark.parametrize(
    "optimizer", [LAG, QUORUM, RACING, replace(QUORUM, lag=0)], ids=["lag", "quorum", "racing", "q0"]
)
def test_a_study_is_replayed_whatever_comes_first_now(optimizer: OPRO, tmp_path: Path) -> None:
    first, result = run(Slow(1, faults=0.02), optimizer, directory=tmp_path / "first", concurrency=64)
    for seed, concurrency in ((2, 64), (3, 5)):
        other = tmp_path / f"other-{seed}"
        study, again = run(Slow(seed), optimizer, directory=other, replay=tmp_path / "first", concurrency=concurrency)
        assert history_of(study) == history_of(first)
        assert decisions(other) == decisions(tmp_path / "first")
        assert result is not None
        assert again is not None
        assert again.best == result.best
    live = [history_of(run(Slow(seed), optimizer)[0]) for seed in (2, 3)]
    assert history_of(first) not in live  # else the replay would have shown nothing


def test_a_replay_with_another_model_is_refused_at_the_first_difference(tmp_path: Path) -> None:
    class Other(Slow):
        def _answer(self, request: Generate, number: int) -> Answer:
            if request.prompt[0].content.startswith("Start.\nq7"):
                return Completion("a7" if toy_model(request, number) == Completion("wrong") else "wrong")
            return super()._answer(request, number)

    run(Slow(1), directory=tmp_path / "first")
    with pytest.raises(StudyFailed, match="the replay differs in decision"):
        run(Other(1), directory=tmp_path / "second", replay=tmp_path / "first")


def test_a_replay_with_another_proposer_is_refused(tmp_path: Path) -> None:
    class Other(Slow):
        def _answer(self, request: Generate, number: int) -> Answer:
            answer = super()._answer(request, number)
            if isinstance(answer, Completion) and answer.text.startswith("[") and request.sampling.draw % 3 == 0:
                return replace(answer, text="[something else]")
            return answer

    run(Slow(1), directory=tmp_path / "first")
    with pytest.raises(StudyFailed, match=r"was 'Idea \d+' and is 'Something else'"):
        run(Other(1), replay=tmp_path / "first")


def test_what_cannot_be_replayed_is_said_before_any_call(tmp_path: Path) -> None:
    run(Slow(1), directory=tmp_path / "first")
    endpoint = Slow(1)
    with pytest.raises(ConfigError, match="lag was 4, is 5"):
        run(endpoint, replace(LAG, lag=5), replay=tmp_path / "first")
    with pytest.raises(ConfigError, match="name another"):
        run(endpoint, directory=tmp_path / "first", replay=tmp_path / "first")
    with pytest.raises(ConfigError, match="manifest"):
        run(endpoint, replay=tmp_path / "nowhere")
    assert endpoint.started == []


@pytest.mark.parametrize("optimizer", [LAG, QUORUM, RACING], ids=["lag", "quorum", "racing"])
@pytest.mark.parametrize("until", [0.1, 3.0, 8.0])
def test_an_interrupted_study_with_lag_goes_on_as_its_journal_says(
    optimizer: OPRO, until: float, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    _, result = run(Slow(1), optimizer, directory=directory, until=until)
    assert result is None
    before = decisions(directory)
    rows = [row for _, data in before for row in data.get("entries", ())]
    decided = {row["candidate"] for row in rows if "provisional" not in row}
    proposed = {derived_seed(0, row["step"], "propose", row["index"]) for row in rows}
    second = Slow(2)
    study, result = run(second, optimizer, directory=directory, concurrency=16)
    after = decisions(directory)
    assert after[: len(before)] == before
    assert result is not None
    assert result.steps == 6
    assert not decided & {candidate for candidate, number in second.scored if number < 24}
    assert not proposed & set(second.draws)
    replayed, _ = run(Slow(3), optimizer, replay=directory)
    assert history_of(replayed) == history_of(study)


def test_a_study_whose_process_died_after_any_record_goes_on_as_its_journal_says(tmp_path: Path) -> None:
    run(Slow(1), QUORUM, directory=tmp_path / "whole")
    count = len(read_journal(tmp_path / "whole"))
    for cut in range(1, count, 7):
        directory = copy_of(tmp_path / "whole", tmp_path / f"cut-{cut}", lambda record: record.seq < cut)
        study, result = run(Slow(cut), QUORUM, directory=directory)
        assert result is not None
        assert not any(entry.provisional for entry in study.history.entries)
        assert decisions(directory)[:cut] == decisions(tmp_path / "whole")[:cut]
        assert history_of(run(Slow(0), QUORUM, replay=directory)[0]) == history_of(study)


def test_an_interrupted_replay_goes_on_as_a_replay(tmp_path: Path) -> None:
    first, _ = run(Slow(1), directory=tmp_path / "first")
    assert run(Slow(2), directory=tmp_path / "second", replay=tmp_path / "first", until=6.0)[1] is None
    begun = decisions(tmp_path / "second")
    assert 0 < len(begun) < len(decisions(tmp_path / "first"))
    study, _ = run(Slow(3), directory=tmp_path / "second", replay=tmp_path / "first")
    assert history_of(study) == history_of(first)


def test_a_replay_of_an_interrupted_run_follows_it_as_far_as_it_goes(tmp_path: Path) -> None:
    run(Slow(1), directory=tmp_path / "first", until=6.0)
    begun = decisions(tmp_path / "first")
    _, result = run(Slow(2), directory=tmp_path / "second", replay=tmp_path / "first")
    assert result is not None
    assert decisions(tmp_path / "second")[: len(begun)] == begun
    run(Slow(3), directory=tmp_path / "other")
    with pytest.raises(ConfigError, match="another course"):
        run(Slow(1), directory=tmp_path / "other", replay=tmp_path / "first")


def test_a_replay_that_cannot_go_on_says_so_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    class Broken(Slow):
        def _answer(self, request: Generate, number: int) -> Answer:
            if "square brackets" in request.prompt[0].content:
                return toy_model(request, number)
            return Fault(FaultKind.REFUSED, "no")

    run(Slow(1), QUORUM, directory=tmp_path / "first")
    with pytest.raises(StudyFailed, match="ends before decision"):
        run(Broken(1), QUORUM, replay=tmp_path / "first")


@pytest.mark.parametrize("lag", [0, 4])
def test_a_twin_that_comes_first_leaves_the_place_to_the_first_sample(lag: int) -> None:
    class Backwards(Slow):
        async def send(self, model: str, request: Generate) -> Answer:
            answer = await super().send(model, request)
            if "square brackets" in request.prompt[0].content:
                await asyncio.sleep(10 - self.prompts.count(request.prompt[0].content))
                return Completion("[the same]")
            await asyncio.sleep(20)
            return answer

    study, _ = run(Backwards(1, sigma=0.0), OPRO(steps=1, samples_per_step=4, lag=lag))
    assert [(entry.candidate, entry.index) for entry in study.history.entries] == [("Start.", 0), ("The same", 0)]


def test_twins_of_different_steps_are_scored_once_and_the_journal_says_whose_they_are(tmp_path: Path) -> None:
    class Few(Slow):
        def _answer(self, request: Generate, number: int) -> Answer:
            answer = super()._answer(request, number)
            if isinstance(answer, Completion) and answer.text.startswith("["):
                return replace(answer, text=f"[idea {request.sampling.draw % 9}]")
            return answer

    endpoint = Few(1)
    optimizer = replace(LAG, lag=12)
    first, _ = run(endpoint, optimizer, directory=tmp_path / "first")
    candidates = [entry.candidate for entry in first.history.entries]
    assert len(candidates) == len(set(candidates)) == 10
    train = [call for call in endpoint.scored if call[1] < 24]
    assert len(train) == len(set(train)) == 10 * 24
    replayed, _ = run(Few(2), optimizer, replay=tmp_path / "first")
    assert history_of(replayed) == history_of(first)
    for cut in range(2, len(read_journal(tmp_path / "first")) - 1, 2):  # also where the owner's step has not ended
        interrupted = copy_of(tmp_path / "first", tmp_path / f"cut-{cut}", lambda record: record.seq < cut)
        run(Few(cut), optimizer, directory=tmp_path / f"again-{cut}", replay=interrupted)
        assert decisions(tmp_path / f"again-{cut}")[:cut] == decisions(interrupted)


def test_a_proposal_that_was_lost_stays_lost_in_a_replay(tmp_path: Path) -> None:
    class Losing(Slow):
        def _answer(self, request: Generate, number: int) -> Answer:
            if request.sampling.draw % 3 == 1:
                return Fault(FaultKind.REFUSED, "no")
            return super()._answer(request, number)

    first, _ = run(Losing(1), directory=tmp_path / "first")
    study, _ = run(Slow(2), replay=tmp_path / "first")
    assert history_of(study) == history_of(first)
    assert len(first.history) < 20


def test_lag_ends_at_the_optimum_and_withdraws_the_rest(tmp_path: Path) -> None:
    class Pairs(Slow):
        def _answer(self, request: Generate, number: int) -> Answer:
            return Completion("[15, 14]" if number == 20 else f"[{number}, {number}]")

    async def study_on(endpoint: FakeEndpoint, directory: Path) -> tuple[Study, Result]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            task = LinearRegression(w_true=15, b_true=14)
            study = Study(task=task, optimizer=OPRO(steps=500, lag=6), proposer=model, directory=directory)
            return study, await study.run()

    first, result = run_virtual(lambda: study_on(Pairs(1), tmp_path / "first"))
    assert result.solved
    assert first.history.entries[-1].candidate == "[15, 14]"
    assert result.calls < 40
    killed = copy_of(tmp_path / "first", tmp_path / "killed", lambda record: record.kind != "finished")
    cut = copy_of(killed, tmp_path / "cut", lambda record: record.seq < len(read_journal(killed)) - 1)
    assert read_journal(cut)[-1].kind == "entry"  # the optimum's, and the step has not ended
    for directory in (tmp_path / "first", killed, cut):
        endpoint = Pairs(2)
        _, ended = run_virtual(lambda: study_on(endpoint, directory))
        assert endpoint.started == []
        assert replace(ended, seconds=0) == replace(result, seconds=0)


def test_random_search_overlaps_too() -> None:
    async def main() -> Result:
        return await Study(task=LinearRegression(), optimizer=RandomSearch(steps=500, lag=20)).run()

    assert run_virtual(main).solved


def test_a_budget_that_runs_out_ends_a_study_with_lag_and_more_lets_it_go_on(tmp_path: Path) -> None:
    endpoint = Slow(1)
    with pytest.raises(BudgetExhausted):
        run(endpoint, directory=tmp_path / "run", budget=Budget(calls=300))
    assert len(endpoint.started) <= 500
    assert run(Slow(2), directory=tmp_path / "run", budget=Budget(calls=3000))[1] is not None


def test_a_run_without_decisions_goes_on_but_cannot_be_replayed(tmp_path: Path) -> None:
    """A directory as it was written before steps could overlap."""
    whole, _ = run(Slow(1), OPTIMIZER, directory=tmp_path / "new")
    copy_of(tmp_path / "new", tmp_path / "old", lambda record: record.kind == "step" and record.data["step"] < 2)
    with pytest.raises(ConfigError, match="no decisions"):
        run(Slow(2), OPTIMIZER, replay=tmp_path / "old")
    study, _ = run(Slow(2), OPTIMIZER, directory=tmp_path / "old")
    assert history_of(study) == history_of(whole)


# -- quorum --------------------------------------------------------------------------------------------------------------


def test_a_quorum_decides_until_the_late_answers_come(tmp_path: Path) -> None:
    study, result = run(Slow(1), replace(QUORUM, lag=0), directory=tmp_path / "run")
    rows = [row for _, data in decisions(tmp_path / "run", "step", "entry") for row in data["entries"]]
    early = {row["candidate"]: row for row in rows if row.get("provisional")}
    final = {row["candidate"]: row for row in rows if not row.get("provisional")}
    assert len(early) > 10
    assert set(early) <= set(final)
    assert all(20 <= row["examples"] < 24 and not row["complete"] for row in early.values())
    assert all(sum(score is not None for score in row["scores"]) == row["examples"] for row in rows)
    assert all(row["examples"] == 24 and row["complete"] for row in final.values())
    assert any(early[candidate]["score"] != final[candidate]["score"] for candidate in early)
    assert not any(entry.provisional for entry in study.history.entries)
    exact = {entry.candidate: entry.score for entry in study.history.entries}
    assert exact == {candidate: row["score"] for candidate, row in final.items()}
    assert result is not None
    assert result.best is not None
    assert result.best.train is not None
    assert result.best.train.score == max(exact.values())


def test_a_provisional_entry_is_shown_and_is_not_the_best() -> None:
    late = Entry("late", 0.9, 0, 0, 8, False, "", None, True)
    history = History(maximize=True, entries=[Entry("done", 0.5, -1, 0, 10), late])
    assert [entry.candidate for entry in history.view(5)] == ["done", "late"]
    best = history.best()
    assert best is not None
    assert best.candidate == "done"
    history.add(replace(late, score=0.4, examples=10, complete=True, provisional=False))
    assert [entry.candidate for entry in history.view(5)] == ["late", "done"]
    assert (len(history), history.unique, history.commits) == (2, 2, 3)


def test_what_is_added_to_a_copy_or_its_original_shows_only_there() -> None:
    history = History(maximize=True, entries=[Entry("a", 0.5, -1, 0, 10)])
    twin = history.copy()
    assert twin.digest == history.digest
    history.add(Entry("b", 0.6, 0, 0, 10))
    assert "b" not in twin
    assert (len(twin), twin.commits) == (1, 1)
    assert twin.digest != history.digest


def test_ties_are_broken_by_place_and_not_by_arrival() -> None:
    history = History(maximize=True, entries=[Entry("later", 0.5, 3, 1, 10), Entry("sooner", 0.5, 2, 7, 10)])
    best = history.best()
    assert best is not None
    assert best.candidate == "sooner"


# -- racing --------------------------------------------------------------------------------------------------------------


def test_a_stopped_candidate_has_no_score_is_not_shown_and_not_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint, plain = Slow(1), Slow(1)
    study, result = run(endpoint, replace(OPTIMIZER, racing=0.3), directory=tmp_path / "run")
    run(plain, OPTIMIZER)
    stopped = [entry for entry in study.history.entries if entry.stopped is not None]
    assert result is not None
    assert result.stopped == len(stopped) > 0
    assert all(entry.score is None and not entry.complete and 0 < (entry.stopped or 0) < 24 for entry in stopped)
    shown = [prompt for prompt in endpoint.prompts if "square brackets" in prompt]
    assert not any(f"\n{entry.candidate}\n" in prompt for prompt in shown for entry in stopped)
    assert all(entry.candidate in study.history for entry in stopped)
    assert len(endpoint.started) < len(plain.started)
    show_run(tmp_path / "run", json=False)
    assert capsys.readouterr().out.count("(stopped after ") == len(stopped)


def test_the_floor_is_the_best_that_the_proposal_saw(tmp_path: Path) -> None:
    """Every race comes out again from the journal alone."""
    run(Slow(1), RACING, directory=tmp_path / "run")
    seen: dict[int, dict[str, Any] | None] = {}
    best: dict[str, Any] | None = None
    checked = 0
    for kind, data in decisions(tmp_path / "run"):
        if kind == "proposed":
            seen[data["step"]] = best
        for row in data.get("entries", ()):
            floor = seen[row["step"]]
            if floor is not None:
                race = Race(
                    Floor(dict(enumerate(floor["scores"])), alpha_of(0.3, 24), derived_seed(0, -1, "race")),
                    range(24),
                    row["candidate"],
                )
                for turn, example in enumerate(race.order):
                    if race.stopped is None:
                        race.end(turn, row["scores"][example])
                assert race.stopped == row.get("stopped")
                checked += race.stopped is not None
            if row["score"] is not None and (best is None or row["score"] > best["score"]):
                best = row
    assert checked > 3


def test_the_best_ones_scores_come_back_from_the_journal(tmp_path: Path) -> None:
    """A resumed study races against the same floor, or it would stop others."""
    optimizer = replace(OPTIMIZER, racing=0.3)
    whole, _ = run(Slow(1), optimizer)
    assert run(Slow(1), optimizer, directory=tmp_path / "run", until=15.0)[1] is None
    assert 1 < len(decisions(tmp_path / "run", "step")) < 7
    study, _ = run(Slow(2), optimizer, directory=tmp_path / "run")
    assert history_of(study) == history_of(whole)


# -- settings ------------------------------------------------------------------------------------------------------------


def test_the_command_line_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    search = ["run", "linear-regression", "--proposer", "random", "--set", "optimizer.lag=4", "--no-cache"]
    app([*search, "--directory", first], standalone_mode=False)
    app(["replay", first, "--directory", second], standalone_mode=False)
    assert decisions(tmp_path / "first") == decisions(tmp_path / "second")
    assert capsys.readouterr().out.count("loss 47.038, found in step") == 2


def test_a_configuration_names_the_options() -> None:
    table = {"steps": 3, "lag": 4, "racing": 0.05}
    config = check({"task": {"name": "antonym"}, "optimizer": table})
    assert config.build_optimizer(load("antonym")) == OPRO(steps=3, lag=4, racing=0.05)
    random = check({"task": {"name": "linear-regression"}, "optimizer": {"name": "random", "lag": 4}})
    assert random.build_optimizer(LinearRegression()) == RandomSearch(steps=500, lag=4)
    for wrong in ({"lag": -1}, {"quorum": 0}, {"racing": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            check({"task": {"name": "antonym"}, "optimizer": wrong})


@pytest.mark.parametrize(
    "wrong",
    [{"lag": -1}, {"quorum": 0.0}, {"quorum": 1.1}, {"racing": 0.0}, {"racing": 1.0}, {"quorum": 0.9, "racing": 0.05}],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    for optimizer in (OPRO, RandomSearch):
        with pytest.raises(ConfigError, match="|".join(wrong)):
            optimizer(**wrong)  # type: ignore[arg-type]


def test_a_task_without_examples_has_no_quorum_and_no_race() -> None:
    with pytest.raises(ConfigError, match="examples"):
        Study(task=LinearRegression(), optimizer=RandomSearch(racing=0.05))


def test_options_that_are_off_do_not_change_what_a_directory_is_of() -> None:
    async def main() -> tuple[dict[str, Any], dict[str, Any]]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint())
            studies = [Study(task=TASK, optimizer=o, scorer=model, proposer=model) for o in (OPTIMIZER, LAG)]
            return studies[0].subject()["optimizer"], studies[1].subject()["optimizer"]

    plain, lagging = run_virtual(main)
    assert not {"lag", "quorum", "racing"} & set(plain)
    assert lagging == plain | {"lag": 4}
