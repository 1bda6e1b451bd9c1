"""One process's part of a sweep: one engine, one cache, every model opened once, and the studies that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from asyncopt.cli.models import open_models, roles, start_local_servers
from asyncopt.cli.run import baseline_of, cache_path, study_of
from asyncopt.cli.sweep_display import NotesOf, Told
from asyncopt.cli.twice import asked_twice
from asyncopt.config import Config, ModelConfig, ModelsConfig
from asyncopt.engine import Engine, Model
from asyncopt.events import Observer
from asyncopt.limits.budget import Account
from asyncopt.local.lasting import LastingServer
from asyncopt.optimizers.base import AnyTask
from asyncopt.records.contest import TWICE, Grades, read_twice, twice_json
from asyncopt.shared import Coordinator
from asyncopt.study import Study
from asyncopt.sweep import Ended, Planned, Sweep, keep
from asyncopt.tasks.task import Task
from asyncopt.telemetry import observing


class Worker:
    """Runs studies of the sweep kept in ``place`` while its block is entered, any number of them at a time.

    ``total`` counts all that they spend. A ``coordinator`` is for the quotas of several workers; ``servers`` are
    embedded models that somebody else has started, by their names: without, the worker starts its own.
    """

    engine: Engine

    def __init__(
        self,
        sweep: Sweep,
        place: Path,
        total: Account,
        told: Told,
        *,
        wait: bool,
        coordinator: Coordinator | None = None,
        servers: Mapping[str, LastingServer] | None = None,
    ) -> None:
        self._sweep = sweep
        self._place = place
        self._total = total
        self._told = told
        self._wait = wait
        self._coordinator = coordinator
        self._servers = servers
        self._models: dict[ModelConfig, Model] = {}
        self._studies: dict[str, Study] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        config = self._sweep.planned[0].config
        async with AsyncExitStack() as stack:
            # Of the engine alone: an observer takes what it hears of studies for one study.
            watching: list[Observer] = stack.enter_context(observing(config.observers))
            if self._servers is None:
                # Servers first, so that the engine is closed before they are.
                self._servers = await start_servers(self._sweep, stack, self._place / "local.log", self._told)
            self.engine = Engine(
                cache=cache_path(config),
                observers=[self._told, *watching],
                wait=self._wait,
                coordinator=self._coordinator,
            )
            await stack.enter_async_context(self.engine)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def open_models(self) -> None:
        """Open every model of the sweep."""
        config, servers = self._sweep.planned[0].config, self._servers or {}
        for wanted in models_of(self._sweep):
            found = await open_models(alone(wanted, config), self.engine, servers)
            self._models[wanted] = found["scorer"]

    def prepare(self, one: Planned, task: AnyTask) -> None:
        """Make the study; raises :class:`ConfigError` for one that cannot be run with these models."""
        by_role = {role: self._models[wanted] for role, wanted in roles(one.config).items()}
        study = study_of(one.config, task, by_role, self._place / one.name, NotesOf(one.name, self._told))
        study.account.parent = self._total
        self._studies[one.name] = study

    async def run(self, one: Planned) -> Ended:
        """How the study ended that was prepared; raises what ended it otherwise."""
        study = self._studies.pop(one.name)  # so that its history goes when it has ended
        result = await study.run()
        return Ended(one, result, await baseline_of(study))

    async def ask_twice(self, tasks: Mapping[str, AnyTask]) -> None:
        """Ask for the initial instructions of an A/A comparison twice, and keep what they got; what is kept stays.

        ``tasks`` are those of the studies of :func:`studies_asked_twice`, by their names.
        """
        kept = read_twice(self._place)
        found: dict[str, tuple[Grades, Grades]] = dict(kept)
        for one in studies_asked_twice(self._sweep):
            task = tasks[one.name]
            if isinstance(task, Task) and one.task not in kept:
                scorer = self._models[roles(one.config)["scorer"]].charged_to(self._total)
                found[one.task] = await asked_twice(scorer, task)
        if found.keys() != kept.keys():
            keep(self._place, TWICE, twice_json(found))


async def start_servers(sweep: Sweep, stack: AsyncExitStack, log: Path, told: Told) -> dict[str, LastingServer]:
    """The embedded models of the sweep, each served once; they end with the stack."""
    servers: dict[str, LastingServer] = {}
    for wanted in models_of(sweep):
        if wanted.model not in servers:
            config = alone(wanted, sweep.planned[0].config)
            servers |= await start_local_servers(config, stack, log, told.line)
    return servers


def models_of(sweep: Sweep) -> list[ModelConfig]:
    """The tables of the models, each once."""
    return list(dict.fromkeys(wanted for one in sweep.planned for wanted in roles(one.config).values()))


def alone(wanted: ModelConfig, config: Config) -> Config:
    """A configuration with this model alone, for what opens the models of one run."""
    return config.model_copy(update={"models": ModelsConfig(scorer=wanted)})


def studies_asked_twice(sweep: Sweep) -> list[Planned]:
    """The studies whose starting points measure the noise of an A/A comparison: the first of each task."""
    if not any((sweep.contest or {}).values()):
        return []
    firsts: dict[str, Planned] = {}
    for one in sweep.planned:
        firsts.setdefault(one.task, one)
    return list(firsts.values())


def whole_task(config: Config) -> AnyTask:
    """The configuration's task with all that takes time on it done; raises :class:`ConfigError` as loading does."""
    task = config.load_task()
    if not isinstance(task, Task):
        _ = task.optimum_loss  # an exact tour takes seconds, which must not hold up the loop later
    return task
