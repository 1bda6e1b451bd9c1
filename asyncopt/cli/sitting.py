"""A sweep from its first call in this process to its last: one engine, one cache, every model opened once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from asyncopt import codec
from asyncopt.activity import Activity
from asyncopt.cli.display_choice import ShownAs
from asyncopt.cli.models import open_models, roles, start_local_servers
from asyncopt.cli.run import baseline_of, cache_path, study_of
from asyncopt.cli.signals import Stop
from asyncopt.cli.sweep_display import NotesOf, SweepDisplay
from asyncopt.cli.twice import asked_twice
from asyncopt.config import Config, ModelConfig, ModelsConfig
from asyncopt.ctl import Controls
from asyncopt.engine import Engine, Model
from asyncopt.errors import BudgetExhausted
from asyncopt.limits.budget import Account
from asyncopt.local.lasting import LastingServer
from asyncopt.optimizers.base import AnyTask
from asyncopt.records.contest import CONTEST, TWICE, Grades, OfTask, contests_in, twice_json
from asyncopt.repetitions import ended_json, results_csv, summary_json
from asyncopt.study import Study
from asyncopt.sweep import RESULT, Ended, Planned, Sweep, SweepDirectory, run_studies
from asyncopt.tasks.task import Task
from asyncopt.telemetry import observing

TABLE = "results.csv"


def models_of(sweep: Sweep) -> list[ModelConfig]:
    """The tables of the models, each once."""
    return list(dict.fromkeys(wanted for one in sweep.planned for wanted in roles(one.config).values()))


class Sitting:
    """Runs the studies of a sweep; what they came to is in ``ended``."""

    def __init__(
        self,
        sweep: Sweep,
        tasks: Mapping[str, AnyTask],
        kept: SweepDirectory,
        total: Account,
        shown: ShownAs,
        *,
        wait: bool,
    ) -> None:
        self.sweep = sweep
        self.place = kept.path
        self._tasks = tasks
        self._kept = kept
        self._total = total
        self._wait = wait
        self._display = SweepDisplay(sweep, total, shown)
        self._studies: dict[str, Study] = {}
        self.ended: list[Ended] = []
        self._count = 0  # of studies that have ended

    async def run(self, stop: Stop) -> None:
        """Run all studies, and keep and show what they came to."""
        config = self.sweep.planned[0].config
        async with AsyncExitStack() as stack:
            # Of the engine alone: an observer takes what it hears of studies for one study.
            watching = stack.enter_context(observing(config.observers))
            servers = await self._serve(stack)
            engine = Engine(cache=cache_path(config), observers=[self._display, *watching], wait=self._wait)
            await stack.enter_async_context(engine)
            stop.watch(engine)
            stack.enter_context(Activity(self.place, engine, self._total))
            await stack.enter_async_context(Controls(self.place, engine, self._figures, stop.wind_up))
            models = {wanted: await _opened(wanted, config, engine, servers) for wanted in models_of(self.sweep)}
            for one in self.sweep.planned:
                self._studies[one.name] = self._study(one, models)
            async with self._display.showing(engine, self.place):
                self.ended = await self._within_seconds()
                await self._ask_twice(models)
            contests = contests_in(self.place, self.sweep, self.ended)
            self._keep(contests)
            self._display.results(self.ended, self.place, contests)

    def _figures(self) -> dict[str, Any]:
        """The figures of all studies together, with those of earlier sittings where the sweep has a budget."""
        total = self._total
        studies = {"studies": len(self.sweep.planned), "ended": self._count}
        return {**studies, "calls": total.calls, "cache_hits": total.hits, "tokens": total.tokens, "usd": total.usd}

    async def _serve(self, stack: AsyncExitStack) -> dict[str, LastingServer]:
        servers: dict[str, LastingServer] = {}
        for wanted in models_of(self.sweep):
            if wanted.model not in servers:
                alone = _alone(wanted, self.sweep.planned[0].config)
                servers |= await start_local_servers(alone, stack, self.place / "local.log", self._display.line)
        return servers

    def _study(self, one: Planned, models: Mapping[ModelConfig, Model]) -> Study:
        by_role = {role: models[wanted] for role, wanted in roles(one.config).items()}
        notes = NotesOf(one.name, self._display)
        study = study_of(one.config, self._tasks[one.name], by_role, self.place / one.name, notes)
        study.account.parent = self._total
        return study

    async def _within_seconds(self) -> list[Ended]:
        seconds = self._total.budget.seconds
        try:
            async with asyncio.timeout(seconds):
                return await run_studies(self.sweep.planned, self._run_one, self.sweep.at_once, self._on_ended)
        except TimeoutError:
            message = f"the budget of {seconds:g} seconds for this sitting is used up; resume the sweep"
            raise BudgetExhausted(message) from None

    def _on_ended(self, ended: Ended) -> None:
        self._count += 1
        self._display.ended(ended)

    async def _run_one(self, one: Planned) -> Ended:
        self._display.began()
        study = self._studies.pop(one.name)  # so that its history goes when it has ended
        result = await study.run()
        return Ended(one, result, await baseline_of(study))

    async def _ask_twice(self, models: Mapping[ModelConfig, Model]) -> None:
        """Ask for the initial instructions of an A/A comparison twice, and keep what they got."""
        found: dict[str, tuple[Grades, Grades]] = {}
        for one in self.sweep.planned if any((self.sweep.contest or {}).values()) else ():
            task = self._tasks[one.name]
            if one.task not in found and isinstance(task, Task):
                scorer = models[roles(one.config)["scorer"]].charged_to(self._total)
                found[one.task] = await asked_twice(scorer, task)
        if found:
            self._kept.write(TWICE, twice_json(found))

    def _keep(self, contests: Sequence[OfTask]) -> None:
        value = {
            "name": self.sweep.name,
            **summary_json(self.ended),
            "studies": [ended_json(one) for one in self.ended],
        }
        self._kept.write(RESULT, codec.dumps(value))
        self._kept.write(TABLE, results_csv(self.ended))
        if contests:
            self._kept.write(CONTEST, codec.dumps([one.to_json() for one in contests]))


def _alone(wanted: ModelConfig, config: Config) -> Config:
    """A configuration with this model alone, for what opens the models of one run."""
    return config.model_copy(update={"models": ModelsConfig(scorer=wanted)})


async def _opened(wanted: ModelConfig, config: Config, engine: Engine, servers: Mapping[str, LastingServer]) -> Model:
    return (await open_models(_alone(wanted, config), engine, servers))["scorer"]
