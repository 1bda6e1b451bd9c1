"""What a candidate is worth: an entry for the history while the search goes on, and the shares that a result states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from asyncopt.chronicle import Chronicle
from asyncopt.engine import Model
from asyncopt.evaluate import Evaluation, evaluate
from asyncopt.events import CandidateScored, Events, Note
from asyncopt.optimizers.base import AnyTask
from asyncopt.optimizers.history import Entry
from asyncopt.racing import Floor
from asyncopt.result import Measured, Scored
from asyncopt.tasks.linear_regression import LinearRegression, parse_pair
from asyncopt.tasks.task import Task
from asyncopt.values import Outcome


class Scorer:
    """Scores the candidates of one study; calling it is the search's ``score``."""

    def __init__(self, task: AnyTask, model: Model | None, events: Events, chronicle: Chronicle) -> None:
        self.complaint = ""
        self._task = task
        self._model = model
        self._events = events
        self._chronicle = chronicle

    async def __call__(
        self,
        candidate: str,
        step: int,
        index: int,
        source: str,
        *,
        floor: Floor | None = None,
        quorum: float | None = None,
        on_quorum: Callable[[Entry], None] | None = None,
    ) -> Entry:
        """The candidate's entry; whether and when it joins the history is for the search to decide."""
        blank = Entry(candidate, None, step, index, 0, False, source)
        if not isinstance(self._task, Task):
            return self._kept(replace(blank, score=_loss(self._task, candidate), examples=1, complete=True), {})

        def early(done: Evaluation) -> None:
            if on_quorum is not None and done.pending and done.score is not None:
                on_quorum(self._entry(replace(blank, provisional=True), done))

        script = self._chronicle.script
        if script is None or not script.covers(step, index):
            done = await self._evaluated(candidate, floor, quorum, early if on_quorum else None)
        else:
            # Which examples came first is the record's to say: they are picked out when all of them are there.
            done = await self._evaluated(candidate, floor, None, None)
            row = script.provisional(step, index)
            if row is not None:
                early(_part(done, row))
        return self._entry(blank, done)

    async def _evaluated(
        self,
        candidate: str,
        floor: Floor | None,
        quorum: float | None,
        on_quorum: Callable[[Evaluation], None] | None,
    ) -> Evaluation:
        assert self._model is not None and isinstance(self._task, Task)  # noqa: PT018
        done = await evaluate(
            self._model,
            self._task,
            candidate,
            self._task.train,
            events=self._events,
            floor=floor,
            quorum=quorum if on_quorum else None,
            on_quorum=on_quorum,
        )
        if done.score is None and done.stopped is None:
            self.complaint = done.complaint()
            self._events.emit(Note(f"nothing of a candidate could be scored: {self.complaint}"))
        return done

    def _entry(self, blank: Entry, done: Evaluation) -> Entry:
        assert isinstance(self._task, Task)
        if done.stopped is not None:
            entry = replace(blank, examples=done.stopped, stopped=done.stopped)
        else:
            entry = replace(blank, score=done.score, examples=len(done.scores), complete=done.complete)
        return self._kept(entry, _outcomes(self._task, done))

    def _kept(self, entry: Entry, outcomes: Mapping[str, Any]) -> Entry:
        self._chronicle.keep(entry, outcomes)
        self._events.emit(
            CandidateScored(
                entry.step,
                entry.index,
                entry.candidate,
                entry.score,
                entry.examples,
                entry.source,
                entry.stopped,
                entry.provisional,
            )
        )
        return entry

    # -- at the end ----------------------------------------------------------------------------------------------------

    async def measured(self, entry: Entry) -> Scored:
        """The entry's shares of right answers, in training and on examples that the search never saw."""
        if not isinstance(self._task, Task):
            return Scored(entry.candidate, entry.step, entry.source, None, None, entry.score)
        assert self._model is not None and entry.score is not None  # noqa: PT018
        train = Measured.of(entry.score * entry.examples, entry.examples)
        held_out = None
        if self._task.test:
            done = await evaluate(self._model, self._task, entry.candidate, self._task.test, events=self._events)
            held_out = Measured.of(sum(done.scores), len(done.scores))
        return Scored(entry.candidate, entry.step, entry.source, train, held_out)

    def missing(self, scored: Scored) -> int:
        """How many examples have no score."""
        if not isinstance(self._task, Task):
            return 0
        parts = ((self._task.train, scored.train), (self._task.test, scored.held_out))
        return sum(len(examples) - (0 if measured is None else measured.n) for examples, measured in parts)


def _outcomes(task: Task, done: Evaluation) -> dict[str, Any]:
    """The scores in the order of the training examples, None where there is none, and why not if that is known."""
    items = {item.example: item for item in done.items}
    scores = [items[example.id].score if example.id in items else None for example in task.train]
    problems = {
        str(item.example): item.outcome.value
        for item in done.items
        if item.score is None and item.outcome is not Outcome.WITHDRAWN
    }
    return {"scores": scores} | ({"problems": problems} if problems else {})


def _part(done: Evaluation, row: Mapping[str, Any]) -> Evaluation:
    """The evaluation of those examples that had ended when the row was written."""
    problems = row.get("problems", {})
    pairs = zip(done.items, row["scores"], strict=True)
    ended = [item for item, score in pairs if score is not None or str(item.example) in problems]
    return replace(done, items=tuple(ended), pending=len(done.items) - len(ended))


def _loss(task: LinearRegression, candidate: str) -> float:
    pair = parse_pair(candidate)
    assert pair is not None
    return task.loss(*pair)
