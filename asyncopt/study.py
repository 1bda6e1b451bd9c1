"""One search from its starting points to a result that was measured on examples it never saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from asyncopt.batches import BATCHES, Batched, answer_ahead, require_batches
from asyncopt.chronicle import Chronicle, recorded
from asyncopt.directory import RunDirectory
from asyncopt.engine import Model
from asyncopt.errors import AsyncoptError, BudgetExhausted, ConfigError, StudyFailed
from asyncopt.events import Event, Events, Note, Observer, StudyFinished, StudyStarted, StudyStopped
from asyncopt.files import DISK, Disk
from asyncopt.limits.budget import UNLIMITED, Account, Budget, require_price
from asyncopt.optimizers.base import AnyTask, Optimizer, Search
from asyncopt.optimizers.dln.options import Training
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.lost import Proposals
from asyncopt.result import Result
from asyncopt.scoring import Scorer
from asyncopt.tasks.objective import Objective
from asyncopt.tasks.task import Metric, Task

_EVENT_BUFFER = 10_000
# Left out of the manifest where they have these values, so that older directories can still be resumed.
_LATER_TASK_FIELDS: dict[str, Any] = {"answers": "strict", "final_answer_cue": "", "temperature": 0.0, "system": ""}
_LATER_OPTIONS: dict[str, Any] = {
    "lag": 0,
    "quorum": None,
    "racing": None,
    "validate_every": None,
    "patience": None,
    "scoring_calls": None,
    "meta_prompt": "instruction-tuned",
    "history_order": "ascending",
    "score_buckets": 100,
    "exemplar_choice": "random",
    "exemplars_first": False,
    "final_temperature": None,
    "attempts": 1,
    "faithful": False,
    "kept": 3,
}


class Study:
    """A task, an optimizer, the models in their roles and a budget; run it once.

    With a ``directory`` every finished step is durable there, and a study on the same directory goes on after the last
    one. Without, nothing is written. Studies share quotas and cache through the engine that their models come from.
    ``replay`` is the directory of a run of the same study whose decisions are made again, in their order and on what
    they saw then, whatever comes first now; :class:`StudyFailed` is raised where that gives another history. With
    ``trace`` the directory gets a ``trace.jsonl`` with every meta-prompt, every raw proposal and every graded answer.
    With ``batch="test"`` the held-out examples are answered in batches, at half the price and within a day: the study
    waits for them, and one that goes on in the same directory waits for the same ones.
    ``disk`` is what the directory is written through: for tests, and for storage that is not the system's.
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
        replay: str | Path | None = None,
        seed: int = 0,
        observers: Iterable[Observer] = (),
        config: Mapping[str, Any] | None = None,
        trace: bool = False,
        batch: Batched | None = None,
        disk: Disk = DISK,
    ) -> None:
        optimizer.check(task, scorer, proposer)
        for role, model in (("scorer", scorer), ("proposer", proposer)):
            if model is not None:
                require_price(budget, role, model.name, model.price)
        self.task = task
        self.optimizer = optimizer
        self.account = Account(budget)
        self.scorer = None if scorer is None else scorer.charged_to(self.account)
        self.proposer = None if proposer is None else proposer.charged_to(self.account)
        self.directory = None if directory is None else Path(directory)
        self.seed = seed
        self.events_hub = Events(observers)
        self._config = dict(config or {})
        self._disk = disk
        self._replay = None if replay is None else Path(replay)
        if (
            self._replay is not None
            and self.directory is not None
            and self.directory.resolve() == self._replay.resolve()
        ):
            raise ConfigError(f"{self.directory} is the run to be replayed; name another directory, or none")
        models = [model for model in (self.scorer, self.proposer) if model is not None]
        self._chronicle = Chronicle(task, models, self.account, self.events_hub, optimizer.steps)
        program = optimizer.program(task)
        self._scoring = Scorer(task, self.scorer, self.events_hub, self._chronicle, program)
        if trace and directory is None:
            raise ConfigError(
                "a trace is kept in the study's directory, and there is none; give one, or leave trace off"
            )
        self._chronicle.traced = trace
        if batch is not None:
            _require_batches(self.scorer, directory)
        self._batch = batch
        self._started = False

    @property
    def history(self) -> History:
        """Everything that was tried so far."""
        return self._chronicle.history

    @property
    def held_out(self) -> Mapping[int, float]:
        """The chosen candidate's grades on the held-out examples, by number; empty unless this study asked for them."""
        best = self._chosen()
        return {} if best is None else self._scoring.held_out(best.candidate)

    # -- running -------------------------------------------------------------------------------------------------------

    async def run(self) -> Result:
        """The result. Cancelling the task stops the study; what is finished stays in the directory."""
        if self._started:
            raise AsyncoptError("a study is run once; make another one")
        self._started = True
        script = None if self._replay is None else recorded(self._replay, self.subject())
        run = self._open_directory()
        try:
            finished = self._chronicle.open(run, script)
            return await self._told() if finished is None else finished
        except StudyFailed as failure:
            complaint = self._scoring.complaint
            raise StudyFailed(f"{failure} ({complaint})" if complaint else str(failure)) from None
        finally:
            self._chronicle.close()

    def _open_directory(self) -> RunDirectory | None:
        if self.directory is None:
            return None
        return RunDirectory(self.directory, self.subject(), self._config, self._disk)

    async def _told(self) -> Result:
        try:
            return await self._bounded()
        except BaseException as error:  # cancelled, too: whoever watches is to know that no more comes
            self.events_hub.emit(StudyStopped(type(error).__name__))
            raise

    async def _bounded(self) -> Result:
        seconds = self.account.budget.seconds
        limit = float("inf") if seconds is None else seconds - self._chronicle.seconds
        with anyio.move_on_after(limit) as scope:
            return await self._search()
        if scope.cancelled_caught:
            raise BudgetExhausted(f"the budget of {seconds:g} seconds is used up; raise it and resume the study")
        raise AssertionError("a scope that was not cancelled returns")

    async def _search(self) -> Result:
        chronicle = self._chronicle
        name, steps = self.optimizer.name, self.optimizer.steps
        self.events_hub.emit(StudyStarted(self.task.name, name, chronicle.steps_done, steps))
        search = Search(
            task=_without_test(self.task),
            history=chronicle.history,
            seed=self.seed,
            score=self._scoring,
            begin_step=chronicle.begin_step,
            commit=chronicle.commit,
            finish_step=chronicle.finish_step,
            validate=self._scoring.validate,
            finish_validation=chronicle.finish_validation,
            validations=chronicle.validations,
            proposer=self.proposer,
            scorer=self.scorer,
            restored=chronicle.restored,
            unfinished=list(chronicle.unfinished.values()),
            script=chronicle.script,
            note=lambda text: self.events_hub.emit(Note(text)),
            proposals=Proposals(chronicle.lose),
            trace=chronicle.trace,
        )
        await self.optimizer.run(search)
        result = await self._conclude()
        await chronicle.finish(result)
        self.events_hub.emit(StudyFinished(result.to_json()))
        return result

    async def events(self) -> AsyncGenerator[Event, None]:
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

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _conclude(self) -> Result:
        history, scoring = self._chronicle.history, self._scoring
        best, initial = self._chosen(), history.starting_points().best()
        if best is None:
            raise StudyFailed("no candidate could be scored")
        account = self.account
        if self._batch is not None:
            await self._answer_test([entry.candidate for entry in (best, initial) if entry is not None])
        measured = await scoring.measured(best)
        first = measured if initial == best else None if initial is None else await scoring.measured(initial)
        search, test = self._chronicle.spending()
        return Result(
            task=self.task.name,
            optimizer=self.optimizer.name,
            seed=self.seed,
            best=measured,
            initial=first,
            steps=self._chronicle.steps_done,
            calls=account.calls,
            cache_hits=account.hits,
            input_tokens=account.input_tokens,
            output_tokens=account.output_tokens,
            tokens=account.tokens,
            usd=account.usd if self._priced() else None,
            seconds=self._chronicle.seconds,
            unscored=sum(scoring.missing(scored) for scored in {measured, first} if scored is not None),
            stopped=sum(entry.stopped is not None for entry in history.entries),
            possibly_billed_tokens=account.possibly_billed_tokens,
            outcomes=self._chronicle.outcomes.counts() if isinstance(self.task, Task) else None,
            lost_proposals=self._chronicle.lost_proposals,
            search=search,
            test=test,
            gain=None if first is None else scoring.gain(first, measured),
            **self._reported(history, best),
        )

    async def _answer_test(self, candidates: Sequence[str]) -> None:
        """Let batches answer the held-out examples, which are measured after that."""
        assert isinstance(self.task, Task) and self.scorer is not None and self.directory is not None  # noqa: PT018
        model, path = self.scorer.charged_to(self._chronicle.tested), self.directory / BATCHES
        program = self.optimizer.program(self.task)
        await answer_ahead(model, self.task, candidates, self.task.test, path, program=program)

    def _chosen(self) -> Entry | None:
        """The best candidate: by its score on the validation examples where there are such scores."""
        validated = self._chronicle.best_validated()
        entries = reversed(self._chronicle.history.entries)
        chosen = (entry for entry in entries if validated is not None and entry.candidate == validated.candidate)
        return next(chosen, None) or self._chronicle.history.best()

    def _reported(self, history: History, best: Entry) -> dict[str, Any]:
        """What only the results of objectives say."""
        if isinstance(self.task, Task):
            return {}
        return self.task.report(best.candidate, {entry.candidate for entry in history.entries})

    def _priced(self) -> bool:
        return all(model.price is not None for model in (self.scorer, self.proposer) if model is not None)

    def subject(self) -> dict[str, Any]:
        """Everything that decides the result, for the manifest: a directory holds one of these."""
        optimizer = asdict(self.optimizer) if is_dataclass(self.optimizer) else {"name": self.optimizer.name}
        for name, usual in _LATER_OPTIONS.items():
            if optimizer.get(name) == usual:
                optimizer.pop(name, None)
        task: dict[str, Any] = {"name": self.task.name, "fingerprint": self.task.fingerprint}
        if isinstance(self.task, Task):
            for field in ("template", "initial", "max_tokens", "stop"):
                task[field] = getattr(self.task, field)
            for field, usual in _LATER_TASK_FIELDS.items():
                if getattr(self.task, field) != usual:
                    task[field] = getattr(self.task, field)
            if self.task.metric is not None:
                task["metric"] = name_of(self.task.metric)
            if self.task.answers == "evoprompt_compat":  # which looks for them in the answer
                task["classes"] = self.task.classes
            if isinstance(self.optimizer, Training):  # nobody else looks at them
                task |= {"classes": self.task.classes, "hidden_initial": self.task.hidden_initial}
        else:
            task |= _options_of(self.task)
        models = {
            role: {"name": model.name, "identity": model.identity}
            for role, model in (("scorer", self.scorer), ("proposer", self.proposer))
            if model is not None
        }
        return {"task": task, "optimizer": optimizer, "models": models, "seed": self.seed}


def _without_test(task: AnyTask) -> AnyTask:
    """The task as a search sees it: no optimizer can learn from what its result is measured on."""
    return replace(task, test=()) if isinstance(task, Task) and task.train else task


def _require_batches(scorer: Model | None, directory: object) -> None:
    """Raise :class:`ConfigError` where a test cannot be answered in batches, before the search is paid for."""
    if scorer is None:
        raise ConfigError("batches are for the answers of a scorer, and this task has none; leave batch out")
    if directory is None:
        raise ConfigError("what was submitted in batches is kept in the study's directory, and there is none; give one")
    require_batches(scorer)


def name_of(metric: Metric) -> str:
    """What tells two metrics apart: where they are defined. Their code may change unseen."""
    while isinstance(metric, partial):
        metric = metric.func
    kind = type(metric)
    return f"{getattr(metric, '__module__', kind.__module__)}.{getattr(metric, '__qualname__', kind.__qualname__)}"


def _options_of(objective: Objective) -> dict[str, Any]:
    """The options of an objective that are not the usual ones, for whoever reads the manifest."""
    if not is_dataclass(objective):
        return {}
    unusual = {f.name: getattr(objective, f.name) for f in fields(objective) if getattr(objective, f.name) != f.default}
    return {"options": unusual} if unusual else {}
