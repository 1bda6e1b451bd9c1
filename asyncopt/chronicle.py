"""What a study has decided so far: in memory, and in its journal where it has a directory.

A record ``proposed`` says how much of the history a step's proposals see; ``entry`` that an entry joined it alone;
``step`` that a step has ended, with those of its entries that join only then; ``validated`` what some of its candidates
are worth on the validation examples. The history is their entries in that order. ``spent`` and ``finished`` keep the
account and the result. ``left`` and ``lost`` decide nothing: how far a candidate was when a sitting ended, and a
proposal that never came. A record is written at once, so that a process may die at any moment, and forced to the disk
at the end of a step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from asyncopt import codec
from asyncopt.directory import DECISIONS, MEASURED, RESULT, RunDirectory, read_journal, require_subject
from asyncopt.engine import Model
from asyncopt.errors import CallFailed, ConfigError, StorageFailed
from asyncopt.events import Events, Note, StepFinished, StepValidated
from asyncopt.journal import Record
from asyncopt.limits.budget import Account
from asyncopt.optimizers.base import AnyTask, Seen, State, Validated, comparable
from asyncopt.optimizers.history import Entry, History, entry_of, row_of
from asyncopt.optimizers.script import Decision, Script
from asyncopt.outcomes import Ends, Outcomes
from asyncopt.result import Result, Spending, result_of
from asyncopt.tasks.task import Fold, Task

_SPENDING = ("calls", "hits", "input_tokens", "output_tokens", "usd")
_ACCOUNT_FIELDS = (*_SPENDING, "possibly_billed_tokens")


class Chronicle:
    """The history of one study and everything that makes it durable."""

    def __init__(self, task: AnyTask, models: Iterable[Model], account: Account, events: Events, steps: int) -> None:
        self.history = History(maximize=isinstance(task, Task))
        self.script: Script | None = None
        self.restored: State | None = None
        self.unfinished: dict[int, Seen] = {}
        self.steps_done = 0
        self.validations: dict[int, list[Validated]] = {}
        self.outcomes = Outcomes()
        self.lost_proposals = 0
        self.traced = False
        self._trace: BinaryIO | None = None
        self._task = task
        self._models = list(models)
        self._account = account
        self._events = events
        self._steps = steps
        self._run: RunDirectory | None = None
        self._ends: dict[tuple[str, bool], Ends] = {}
        self.tested = Account(parent=account)  # of the account, what the held-out examples take
        self._journalled = _spent(account)
        self._seconds_before = 0.0
        self._began = 0.0

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self, run: RunDirectory | None, script: Sequence[Decision] | None) -> Result | None:
        """Take over what the journal says, and follow the script from there; the result, if the study was finished."""
        self._run = run
        self._began = asyncio.get_running_loop().time()
        records = [] if run is None else run.journal.records
        if script is not None:
            done = decisions_of(records)
            common = min(len(done), len(script))
            if done[:common] != list(script[:common]):
                raise ConfigError("the directory holds another course of the study than the replay; name another one")
            self.script = Script(script, common)
        for record in records:
            if record.kind == "finished":
                if run is not None and not (run.path / RESULT).exists():
                    run.write_result(record.data)  # the disk was full, or the process was killed in between
                return result_of(record.data)
            self._restore(record)
        if run is not None and self.traced:
            self._trace = run.open_trace()
        return None

    def _restore(self, record: Record) -> None:
        if "account" in record.data:
            self._seconds_before = record.data["seconds"]
            _restore_account(self._account, record.data["account"])
            self._journalled = record.data["account"]
        for row in record.data.get("entries", ()):
            self._add(entry_of(row), row)
        if "tested" in record.data:
            _restore_account(self.tested, record.data["tested"])
        self.lost_proposals += record.kind == "lost"
        if record.kind == "validated":
            self._take_validations(record.data["step"], [Validated.of_row(row) for row in record.data["candidates"]])
        elif record.kind == "proposed":
            self.unfinished[record.data["step"]] = self._seen(record.data["step"])
        elif record.kind == "step":
            self.restored = record.data["state"]
            self.steps_done = record.data["step"] + 1
            self.unfinished.pop(record.data["step"], None)

    def close(self) -> None:
        """Journal what was spent since the last record, so that a study that goes on keeps to its whole budget."""
        if self._run is None:
            return
        if self._trace is not None:
            with suppress(OSError):
                self._trace.close()
        if _spent(self._account) != self._journalled:
            with suppress(StorageFailed):  # whatever ended the study is the error to report
                self._append("spent", {"tested": _spent(self.tested)} if any(_spent(self.tested).values()) else {})
        self._run.close()

    def spending(self) -> tuple[Spending, Spending]:
        """What the search took and what the test took so far, in all sittings."""
        # By who asked and not by when: calls that an ended search left in flight are paid for while the test goes on.
        accounts = (self._account, self.tested)
        total, test = (Spending(*(getattr(account, name) for name in _SPENDING)) for account in accounts)
        return total.less(test), test

    async def finish(self, result: Result) -> None:
        """Make the result durable."""
        if self._run is not None:
            await self._flush()  # whoever asks the same later finds all of it
            self._run.journal.append("finished", result.to_json())
            await self._run.journal.sync()
            self._run.write_result(result.to_json())

    @property
    def seconds(self) -> float:
        """How long the study has run, in all its sittings."""
        return self._seconds_before + asyncio.get_running_loop().time() - self._began

    def trace(self, kind: str, data: Mapping[str, Any]) -> None:
        """Keep what a decision rested on, where the study is traced; the trace is for reading, and decides nothing."""
        if self._trace is None:
            return
        try:
            self._trace.write(codec.dumps({"kind": kind, **data}) + b"\n")
            self._trace.flush()
        except OSError as error:
            self._trace = None
            self._events.emit(Note(f"the trace cannot be written any more ({error.strerror}); the study goes on"))

    # -- decisions -----------------------------------------------------------------------------------------------------

    def keep(self, entry: Entry, ends: Ends) -> None:
        """Remember how the examples of an entry ended until it joins the history."""
        self._ends[entry.candidate, entry.provisional] = ends

    def leave(self, fold: Fold, candidate: str, ends: Ends) -> None:
        """Journal how far a candidate was when the sitting ended; resumed, it is scored again, from the cache."""
        if self._run is not None:
            with suppress(StorageFailed):  # whatever ended the sitting is the error to report
                self._run.journal.append("left", {"fold": fold, "candidate": candidate, **ends})

    def lose(self, step: int, error: CallFailed) -> None:
        """Journal that a call for a proposal failed for good, and say so."""
        self.lost_proposals += 1
        if self._run is not None:
            reason, detail = error.fault.kind.value, error.fault.detail
            self._run.journal.append("lost", {"step": step, "reason": reason, "detail": detail})
        self._events.emit(Note(f"step {step + 1}: a proposal was lost ({error})"))

    def begin_step(self, step: int) -> Seen:
        """What the proposals of this step see: everything that has joined the history by now."""
        self._decide("proposed", {"step": step, "seen": self.history.commits, "digest": self.history.digest})
        return self._seen(step)

    def commit(self, entry: Entry) -> None:
        """Make one entry part of the history."""
        row = self._row(entry)
        self._decide("entry", {"entries": [row]})
        self._add(entry, row)

    async def finish_step(self, step: int, entries: list[Entry], state: State) -> None:
        """Make these entries part of the history, and everything up to the end of the step durable."""
        if self._run is not None:
            # Answers first: a step that the journal calls finished must not be paid for again, whatever happens.
            await self._flush()
        rows = [self._row(entry) for entry in entries]
        self._decide("step", {"step": step, "entries": rows, "state": state})
        if self._run is not None:
            await self._run.journal.sync()
        for entry, row in zip(entries, rows, strict=True):
            self._add(entry, row)
        self.steps_done = step + 1
        if step >= 0:
            best = self.history.best()
            self._events.emit(
                StepFinished(step, self._steps, best.candidate if best else "", best.score if best else None)
            )

    async def finish_validation(self, step: int, validated: list[Validated]) -> None:
        """Keep a step's scores on the validation examples, and make them durable."""
        if self._run is not None:
            await self._flush()
        self._decide("validated", {"step": step, "candidates": [one.to_row() for one in validated]})
        if self._run is not None:
            await self._run.journal.sync()
        self._take_validations(step, validated)
        best = self.best_validated()
        self._events.emit(
            StepValidated(step, len(validated), best.candidate if best else "", best.score if best else None)
        )

    async def _flush(self) -> None:
        """Return when every answer that a decision may rest on is in the cache for good."""
        for model in self._models:
            await model.flush()

    def _take_validations(self, step: int, validated: list[Validated]) -> None:
        self.validations[step] = validated
        for one in validated:
            self.outcomes.take("validation", one.candidate, {"scores": one.scores, "problems": one.problems})

    def validated(self, candidate: str) -> Validated | None:
        """The candidate's score on the validation examples, if it has one."""
        all_of_them = (one for validated in self.validations.values() for one in validated)
        return next((one for one in all_of_them if one.candidate == candidate), None)

    def best_validated(self) -> Validated | None:
        """The candidate with the best comparable score on the validation examples; of equals, complete before partial.

        Then the better in training, then the earliest, so that no tie is broken by when answers came.
        """
        entries = {entry.candidate: entry for entry in reversed(self.history.ranked(provisional=False))}
        candidates = [one for one in comparable(self.validations) if one.candidate in entries]

        def rank(one: Validated) -> tuple[float, bool, float, int, int]:
            entry = entries[one.candidate]
            return one.score or 0.0, one.complete, entry.score or 0.0, -entry.step, -entry.index

        return max(candidates, key=rank, default=None)

    def _decide(self, kind: str, data: Mapping[str, Any]) -> None:
        if self.script is not None:
            self.script.confirm(kind, data)
        self._append(kind, data)

    def _append(self, kind: str, data: Mapping[str, Any]) -> None:
        if self._run is not None:
            account = _spent(self._account)
            self._run.journal.append(kind, {**data, "account": account, "seconds": self.seconds})
            self._journalled = account

    def _row(self, entry: Entry) -> dict[str, Any]:
        return {**row_of(entry), **self._ends.pop((entry.candidate, entry.provisional), {})}

    def _add(self, entry: Entry, row: Mapping[str, Any]) -> None:
        scores: dict[int, float] | None = None
        if isinstance(self._task, Task):
            self.outcomes.take("train", entry.candidate, row)
            if entry.score is not None and "scores" in row:  # a repeated entry has none
                pairs = zip(self._task.train, row.get("scores", ()), strict=False)
                scores = {example.id: score for example, score in pairs if score is not None}
        self.history.add(entry, scores)

    def _seen(self, step: int) -> Seen:
        return Seen(step, self.history.copy())


def _spent(account: Account) -> dict[str, Any]:
    return {name: getattr(account, name) for name in _ACCOUNT_FIELDS}


def _restore_account(account: Account, spent: Mapping[str, Any]) -> None:
    for name in _ACCOUNT_FIELDS:
        setattr(account, name, spent.get(name, 0))  # older journals do not have all of them


def decisions_of(records: Sequence[Record]) -> list[Decision]:
    """The decisions in a journal, without what is measured on the way."""
    return [
        Decision(record.kind, {name: value for name, value in record.data.items() if name not in MEASURED})
        for record in records
        if record.kind in DECISIONS
    ]


def recorded(directory: Path, subject: Mapping[str, Any]) -> list[Decision]:
    """The decisions of the run in this directory; raises :class:`ConfigError` if it is not one of this study."""
    require_subject(directory, subject, "replay it with the same settings")
    decisions = decisions_of(read_journal(directory))
    if decisions and decisions[0].kind != "proposed":
        raise ConfigError(f"{directory} was written by a version that kept no decisions; run the study again")
    return decisions
