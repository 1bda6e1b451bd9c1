"""One search from its starting points to a result that was measured on examples it never saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import anyio

from asyncopt.directory import RunDirectory
from asyncopt.engine import Model
from asyncopt.errors import AsyncoptError, BudgetExhausted, ConfigError, StudyFailed
from asyncopt.evaluate import Evaluation, evaluate
from asyncopt.events import CandidateScored, Event, Events, Note, Observer, StepFinished, StudyFinished, StudyStarted
from asyncopt.limits.budget import UNLIMITED, Account, Budget
from asyncopt.optimizers.base import AnyTask, Optimizer, Search, State
from asyncopt.optimizers.history import Entry, History
from asyncopt.result import Measured, Result, Scored, result_of
from asyncopt.tasks.linear_regression import LinearRegression, format_pair, parse_pair
from asyncopt.tasks.task import Task

_ACCOUNT_FIELDS = ("calls", "hits", "input_tokens", "output_tokens", "usd")
_EVENT_BUFFER = 10_000


class Study:
    """A task, an optimizer, the models in their roles and a budget; run it once.

    With a ``directory`` every finished step is durable there, and a study on the same directory goes on after the last
    one. Without, nothing is written. Studies share quotas and cache through the engine that their models come from.
    """

    def __init__(
        self,
        *,
        task: AnyTask,
        optimizer: Optimizer,
        scorer: Model | None = None,
        proposer: Model | None = None,
        budget: Budget = UNLIMITED,
        directory: str | Path | None = None,
        seed: int = 0,
        observers: Iterable[Observer] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        optimizer.check(task, scorer, proposer)
        for role, model in (("scorer", scorer), ("proposer", proposer)):
            if budget.usd is not None and model is not None and model.price is None:
                raise ConfigError(f"the budget is in dollars and the {role} {model.name} has no price; state its price")
        self.task = task
        self.optimizer = optimizer
        self.account = Account(budget)
        self.scorer = None if scorer is None else scorer.charged_to(self.account)
        self.proposer = None if proposer is None else proposer.charged_to(self.account)
        self.directory = None if directory is None else Path(directory)
        self.seed = seed
        self.events_hub = Events(observers)
        self._config = dict(config or {})
        self._history = History(maximize=isinstance(task, Task))
        self._scores: dict[str, dict[str, Any]] = {}
        self._run: RunDirectory | None = None
        self._restored: State | None = None
        self._started = False
        self._journalled = self._spending()
        self._complaint = ""
        self._steps_done = 0
        self._seconds_before = 0.0
        self._began = 0.0

    # -- running -------------------------------------------------------------------------------------------------------

    async def run(self) -> Result:
        """The result. Cancelling the task stops the study; what is finished stays in the directory."""
        if self._started:
            raise AsyncoptError("a study is run once; make another one")
        self._started = True
        self._began = asyncio.get_running_loop().time()
        if self.directory is not None:
            self._run = RunDirectory(self.directory, self.subject(), self._config)
        try:
            finished = self._replay()
            if finished is not None:
                return finished
            return await self._bounded()
        except StudyFailed as failure:
            raise StudyFailed(f"{failure} ({self._complaint})" if self._complaint else str(failure)) from None
        finally:
            if self._run is not None:
                self._keep_account(self._run)
                self._run.close()

    def _keep_account(self, run: RunDirectory) -> None:
        """Journal what was spent since the last step, so that a study that goes on keeps to its whole budget."""
        if self._spending() != self._journalled:
            with suppress(AsyncoptError):  # the disk is full; whatever ended the study is the error to report
                run.journal.append("spent", {"account": self._spending(), "seconds": self._seconds()})
                run.journal.sync()

    def _spending(self) -> dict[str, Any]:
        return {name: getattr(self.account, name) for name in _ACCOUNT_FIELDS}

    async def _bounded(self) -> Result:
        seconds = self.account.budget.seconds
        limit = float("inf") if seconds is None else seconds - self._seconds_before
        with anyio.move_on_after(limit) as scope:
            return await self._search()
        if scope.cancelled_caught:
            raise BudgetExhausted(f"the budget of {seconds:g} seconds is used up; raise it and resume the study")
        raise AssertionError("a scope that was not cancelled returns")

    async def _search(self) -> Result:
        self.events_hub.emit(StudyStarted(self.task.name, self.optimizer.name, self._steps_done, self.optimizer.steps))
        search = Search(
            task=self.task,
            history=self._history,
            seed=self.seed,
            score=self._score,
            finish_step=self._finish_step,
            proposer=self.proposer,
            scorer=self.scorer,
            restored=self._restored,
            note=lambda text: self.events_hub.emit(Note(text)),
        )
        await self.optimizer.run(search)
        result = await self._conclude()
        if self._run is not None:
            self._run.journal.append("finished", result.to_json())
            self._run.journal.sync()
            self._run.write_result(result.to_json())
        self.events_hub.emit(StudyFinished(result.to_json()))
        return result

    async def events(self) -> AsyncIterator[Event]:
        """The study's events as they happen, the result's last; leaving the loop cancels the study."""
        send, receive = anyio.create_memory_object_stream[Event](_EVENT_BUFFER)

        class Forward:
            def notify(self, event: Event) -> None:
                # A reader that falls 10,000 events behind loses some; the study never waits for it.
                with suppress(anyio.WouldBlock):
                    send.send_nowait(event)

        forward = Forward()
        self.events_hub.add(forward)
        # A plain task, no task group: a generator that is left early is finished by another task than began it.
        task = asyncio.get_running_loop().create_task(self.run())
        task.add_done_callback(lambda _: send.close())
        try:
            async with receive:
                async for event in receive:
                    yield event
            await task
        finally:
            self.events_hub.remove(forward)
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    # -- scoring -------------------------------------------------------------------------------------------------------

    async def _score(self, candidate: str, step: int, index: int, source: str) -> Entry:
        if isinstance(self.task, Task):
            assert self.scorer is not None
            done = await evaluate(self.scorer, self.task, candidate, self.task.train, events=self.events_hub)
            self._scores[candidate] = _outcomes(done)
            if done.score is None:
                self._complaint = done.complaint()
                self.events_hub.emit(Note(f"nothing of a candidate could be scored: {self._complaint}"))
            entry = Entry(candidate, done.score, step, index, len(done.scores), done.complete, source)
        else:
            entry = Entry(candidate, _loss(self.task, candidate), step, index, 1, True, source)
        self.events_hub.emit(CandidateScored(step, index, candidate, entry.score, entry.examples, source))
        return entry

    async def _finish_step(self, step: int, entries: list[Entry], state: State) -> None:
        for entry in entries:
            self._history.add(entry)
        self._steps_done = step + 1
        if self._run is not None:
            # Answers first: a step that the journal calls finished must not be paid for again, whatever happens.
            for model in (self.scorer, self.proposer):
                if model is not None:
                    await model.flush()
            rows = [asdict(entry) | self._scores.pop(entry.candidate, {}) for entry in entries]
            account = self._spending()
            self._run.journal.append(
                "step", {"step": step, "entries": rows, "state": state, "account": account, "seconds": self._seconds()}
            )
            self._run.journal.sync()
            self._journalled = account
        if step >= 0:
            best = self._history.best()
            self.events_hub.emit(
                StepFinished(step, self.optimizer.steps, best.candidate if best else "", best.score if best else None)
            )

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _conclude(self) -> Result:
        best, initial = self._history.best(), self._best_initial()
        if best is None:
            raise StudyFailed("no candidate could be scored")
        measured = await self._measured(best)
        first = measured if initial == best else None if initial is None else await self._measured(initial)
        account = self.account
        return Result(
            task=self.task.name,
            optimizer=self.optimizer.name,
            seed=self.seed,
            best=measured,
            initial=first,
            steps=self._steps_done,
            calls=account.calls,
            cache_hits=account.hits,
            input_tokens=account.input_tokens,
            output_tokens=account.output_tokens,
            tokens=account.tokens,
            usd=account.usd if self._priced() else None,
            seconds=self._seconds(),
            unscored=sum(self._missing(scored) for scored in {measured, first} if scored is not None),
            **self._pairs(),
        )

    def _missing(self, scored: Scored) -> int:
        if not isinstance(self.task, Task):
            return 0
        parts = ((self.task.train, scored.train), (self.task.test, scored.held_out))
        return sum(len(examples) - (0 if measured is None else measured.n) for examples, measured in parts)

    def _pairs(self) -> dict[str, Any]:
        """What only linear regression reports."""
        if not isinstance(self.task, LinearRegression):
            return {}
        start = [list(pair) for pair in self.task.start()]
        best = self._history.best()
        return {
            "start": [[w, b, self.task.loss(w, b)] for w, b in start],
            "optimum_loss": self.task.optimum_loss,
            "unique_pairs": self._history.unique,
            "solved": best is not None and best.candidate == format_pair(self.task.w_true, self.task.b_true),
        }

    def _best_initial(self) -> Entry | None:
        """The best of the starting points: what the search is held against."""
        starts = [entry for entry in self._history.entries if entry.step < 0]
        return History(maximize=self._history.maximize, entries=starts).best()

    async def _measured(self, entry: Entry) -> Scored:
        if not isinstance(self.task, Task):
            return Scored(entry.candidate, entry.step, entry.source, None, None, entry.score)
        assert self.scorer is not None and entry.score is not None  # noqa: PT018
        train = Measured.of(entry.score * entry.examples, entry.examples)
        held_out = None
        if self.task.test:
            done = await evaluate(self.scorer, self.task, entry.candidate, self.task.test, events=self.events_hub)
            held_out = Measured.of(sum(done.scores), len(done.scores))
        return Scored(entry.candidate, entry.step, entry.source, train, held_out)

    def _priced(self) -> bool:
        return all(model.price is not None for model in (self.scorer, self.proposer) if model is not None)

    def _seconds(self) -> float:
        return self._seconds_before + asyncio.get_running_loop().time() - self._began

    # -- going on ------------------------------------------------------------------------------------------------------

    def subject(self) -> dict[str, Any]:
        """Everything that decides the result, for the manifest: a directory holds one of these."""
        optimizer = asdict(self.optimizer) if is_dataclass(self.optimizer) else {"name": self.optimizer.name}
        task = {"name": self.task.name, "fingerprint": self.task.fingerprint}
        if isinstance(self.task, Task):
            for field in ("template", "initial", "max_tokens", "stop"):
                task[field] = getattr(self.task, field)
        models = {
            role: {"name": model.name, "identity": model.identity}
            for role, model in (("scorer", self.scorer), ("proposer", self.proposer))
            if model is not None
        }
        return {"task": task, "optimizer": optimizer, "models": models, "seed": self.seed}

    def _replay(self) -> Result | None:
        """Take over what the journal says; the result, if the study was finished."""
        if self._run is None:
            return None
        for record in self._run.journal.records:
            if record.kind == "finished":
                return result_of(record.data)
            if record.kind in ("step", "spent"):
                self._seconds_before = record.data["seconds"]
                for name in _ACCOUNT_FIELDS:
                    setattr(self.account, name, record.data["account"][name])
            if record.kind == "step":
                for row in record.data["entries"]:
                    self._history.add(entry_of(row))
                self._restored = record.data["state"]
                self._steps_done = record.data["step"] + 1
        self._journalled = self._spending()
        return None


def _outcomes(done: Evaluation) -> dict[str, Any]:
    problems = {str(item.example): item.outcome.value for item in done.items if item.score is None}
    return {"scores": [item.score for item in done.items]} | ({"problems": problems} if problems else {})


def _loss(task: LinearRegression, candidate: str) -> float:
    pair = parse_pair(candidate)
    assert pair is not None
    return task.loss(*pair)


def entry_of(row: Mapping[str, Any]) -> Entry:
    """The entry in a journal's row."""
    return Entry(**{name: row[name] for name in Entry.__dataclass_fields__})
