"""What a candidate is worth: an entry for the history while the search goes on, and the shares that a result states."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from asyncopt.chronicle import Chronicle
from asyncopt.engine import Model
from asyncopt.evaluation import Evaluation, Program, evaluate
from asyncopt.events import CandidateScored, Events, Note
from asyncopt.optimizers.base import AnyTask, Validated
from asyncopt.optimizers.history import Entry
from asyncopt.outcomes import Ends, ends_of
from asyncopt.racing import Floor
from asyncopt.result import Gain, Measured, Scored
from asyncopt.tasks.task import Split, Task


class Scorer:
    """Scores the candidates of one study; calling it is the search's ``score``."""

    def __init__(
        self, task: AnyTask, model: Model | None, events: Events, chronicle: Chronicle, program: Program
    ) -> None:
        self.complaint = ""
        self._task = task
        self._model = model
        self._examiner = None if model is None else model.charged_to(chronicle.tested)
        self._events = events
        self._chronicle = chronicle
        self._program = program
        self._missing: dict[str, int] = {}
        self._held_out: dict[str, dict[int, float]] = {}  # by candidate, then by example

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
            return self._kept(replace(blank, score=self._task.loss_of(candidate), examples=1, complete=True), {})

        def early(done: Evaluation) -> None:
            if on_quorum is not None and done.pending and done.score is not None:
                on_quorum(self._entry(replace(blank, provisional=True), done))

        script = self._chronicle.script
        if script is None or not script.covers(step, index):
            done = await self._trained(candidate, floor, quorum, early if on_quorum else None)
        else:
            # Which examples came first is the record's to say: they are picked out when all of them are there.
            done = await self._trained(candidate, floor, None, None)
            row = script.provisional(step, index)
            if row is not None:
                early(_part(done, row))
        return self._entry(blank, done)

    async def _trained(
        self,
        candidate: str,
        floor: Floor | None,
        quorum: float | None,
        on_quorum: Callable[[Evaluation], None] | None,
    ) -> Evaluation:
        quorum = quorum if on_quorum else None
        done = await self._on(self._model, "train", candidate, floor=floor, quorum=quorum, on_quorum=on_quorum)
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
        if self._chronicle.traced:
            items = self._traced(done)
            place = {"step": entry.step, "index": entry.index}
            self._chronicle.trace(
                "evaluation", {**place, "candidate": entry.candidate, "score": entry.score, "items": items}
            )
        return self._kept(entry, ends_of(done, self._task.train))

    def _traced(self, done: Evaluation) -> list[dict[str, Any]]:
        """The examples of an evaluation as a trace has them."""
        if not self._chronicle.traced:
            return []
        assert isinstance(self._task, Task)
        parse = self._task.parse
        return [
            {
                "example": item.example,
                "outcome": item.label,
                **({"first_answer": item.first_answer} if item.first_answer else {}),
                "answer": item.answer,
                "parsed": parse(item.answer),
                "score": item.score,
            }
            for item in done.items
        ]

    def _kept(self, entry: Entry, ends: Ends) -> Entry:
        self._chronicle.keep(entry, ends)
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
                entry.partial,
            )
        )
        return entry

    async def validate(self, candidates: Sequence[str]) -> list[Validated]:
        """The candidates' scores on the validation examples, in their order; all calls are submitted at once."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._on(self._model, "validation", candidate)) for candidate in candidates]
        done = [task.result() for task in tasks]
        for one in done:
            self._chronicle.trace("validation", {"candidate": one.instruction, "items": self._traced(one)})
        return [self._validated(one) for one in done]

    def _validated(self, done: Evaluation) -> Validated:
        assert isinstance(self._task, Task)
        ends = ends_of(done, self._task.validation)
        scores, problems = tuple(ends["scores"]), ends.get("problems", {})
        return Validated(done.instruction, done.score, len(done.scores), done.complete, scores, problems)

    async def _on(self, model: Model | None, fold: Split, candidate: str, **options: Any) -> Evaluation:
        assert model is not None and isinstance(self._task, Task)  # noqa: PT018
        examples = self._task.fold(fold)

        def left(done: Evaluation) -> None:
            self._chronicle.leave(fold, candidate, ends_of(done, examples))

        return await evaluate(
            model,
            self._task,
            candidate,
            examples,
            events=self._events,
            on_left=left,
            program=self._program,
            fold=fold,
            **options,
        )

    # -- at the end ----------------------------------------------------------------------------------------------------

    async def measured(self, entry: Entry) -> Scored:
        """The entry's shares of right answers, in training and on examples that the search never saw."""
        if not isinstance(self._task, Task):
            return Scored(entry.candidate, entry.step, entry.source, None, None, entry.score)
        assert entry.score is not None
        train = Measured.of(entry.score * entry.examples, entry.examples)
        validation = self._chronicle.validated(entry.candidate)
        seen = (
            None
            if validation is None
            else Measured.of((validation.score or 0.0) * validation.examples, validation.examples)
        )
        done = await self._on(self._examiner, "test", entry.candidate)
        self._chronicle.outcomes.take("test", entry.candidate, ends_of(done, self._task.test))
        self._missing[entry.candidate] = self._unscored(entry, seen, done)
        scores = {item.example: item.score for item in done.items if item.score is not None}
        self._held_out[entry.candidate] = scores
        self._chronicle.trace("test", {"candidate": entry.candidate, "items": self._traced(done)})
        held_out = Measured.of(sum(done.scores), len(done.scores))
        return Scored(
            entry.candidate, entry.step, entry.source, train, held_out, validation=seen, partial=entry.partial
        )

    def _unscored(self, entry: Entry, validation: Measured | None, test: Evaluation) -> int:
        """How many examples have no score; an entry may be complete on a batch of the training examples."""
        assert isinstance(self._task, Task)
        train = 0 if entry.complete else len(self._task.train) - entry.examples
        validated = 0 if validation is None else len(self._task.validation) - validation.n
        return train + validated + len(self._task.test) - len(test.scores)

    def gain(self, initial: Scored, best: Scored) -> Gain | None:
        """What two measured candidates have gained over each other on the held-out examples; None for one candidate."""
        if initial.candidate == best.candidate:
            return None
        return Gain.of(self.held_out(initial.candidate), self.held_out(best.candidate))

    def held_out(self, candidate: str) -> Mapping[int, float]:
        """The grades of a measured candidate on the held-out examples that have one, by number."""
        return self._held_out.get(candidate, {})

    def missing(self, scored: Scored) -> int:
        """How many examples of a measured candidate have no score."""
        return self._missing.get(scored.candidate, 0)


def _part(done: Evaluation, row: Mapping[str, Any]) -> Evaluation:
    """The evaluation of those examples that had ended when the row was written."""
    problems = row.get("problems", {})
    pairs = zip(done.items, row["scores"], strict=True)
    ended = [item for item, score in pairs if score is not None or str(item.example) in problems]
    return replace(done, items=tuple(ended), pending=len(done.items) - len(ended))
