"""A comparison of optimizers against simulated servers on a virtual clock, where the truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from asyncopt.cache import MemoryCache
from asyncopt.cli.models import roles
from asyncopt.cli.twice import asked_twice
from asyncopt.cli.workers.worker import models_of
from asyncopt.config import ModelConfig
from asyncopt.contest import ArmRun
from asyncopt.engine import Engine, Model
from asyncopt.optimizers.base import AnyTask
from asyncopt.records.contest import OfTask, Twice, arm_run, contests_of
from asyncopt.study import Study
from asyncopt.sweep import Ended, Planned, Sweep, run_studies
from asyncopt.tasks.task import Task
from asyncopt.testing.clock import run_virtual
from asyncopt.testing.servers import SimulatedServers


def simulate_contest(sweep: Sweep, tasks: Mapping[str, AnyTask], server: Mapping[str, Any]) -> list[OfTask]:
    """The comparison in virtual time, task by task, with true regrets; no model is called and nothing is written.

    All studies share one engine, as in a real comparison, and one hidden truth, which comes from the first study's
    seed. ``tasks`` are by the studies' names; ``server`` has parameters of :class:`SimulatedAPI` for all servers.
    """
    return run_virtual(_Comparison(sweep, tasks, server).run)


class _Comparison:
    def __init__(self, sweep: Sweep, tasks: Mapping[str, AnyTask], server: Mapping[str, Any]) -> None:
        self._sweep = sweep
        self._tasks = tasks
        self._servers = SimulatedServers([one.config for one in sweep.planned], tasks.values(), server)
        self._studies: dict[str, Study] = {}
        self._runs: dict[str, ArmRun] = {}

    async def run(self) -> list[OfTask]:
        sweep, config = self._sweep, self._sweep.planned[0].config
        async with Engine(cache=MemoryCache() if config.use_cache else None, grace=0.0) as engine:
            models = {wanted: self._servers.model(engine, wanted) for wanted in models_of(sweep)}

            # All of them first: what cannot be meant is an error of the comparison, and not of one run.
            self._studies = {one.name: self._study(one, models) for one in sweep.planned}
            await run_studies(sweep.planned, self._run_one, sweep.at_once, self._take)
            twice = await self._twice(models)
        return contests_of(sweep, self._runs, twice)

    def _take(self, ended: Ended) -> None:
        if ended.error is not None:
            self._runs[ended.planned.name] = ArmRun(ended.planned.seed, failure=str(ended.error))

    def _study(self, one: Planned, models: Mapping[ModelConfig, Model]) -> Study:
        task, by_role = self._task(one), {role: models[wanted] for role, wanted in roles(one.config).items()}
        return Study(
            task=task,
            optimizer=one.config.build_optimizer(task),
            scorer=by_role.get("scorer"),
            proposer=by_role.get("proposer"),
            budget=one.config.budget.build(),
            seed=one.config.seed,
        )

    async def _run_one(self, one: Planned) -> Ended:
        study, task = self._studies.pop(one.name), self._task(one)
        result = await study.run()
        worth = {entry.candidate: self._servers.true_accuracy(task, entry.candidate) for entry in study.history.entries}
        chosen = 0.0 if result.best is None else worth[result.best.candidate]
        run = arm_run(one.seed, result, study.history.entries, len(task.train), study.held_out)
        self._runs[one.name] = replace(run, true_accuracy=chosen, best_true_accuracy=max(worth.values()))
        return Ended(one, result)

    def _task(self, one: Planned) -> Task:
        task = self._tasks[one.name]
        assert isinstance(task, Task)
        return task

    async def _twice(self, models: Mapping[ModelConfig, Model]) -> Twice:
        if not any((self._sweep.contest or {}).values()):
            return {}
        firsts = {one.task: one for one in reversed(self._sweep.planned)}
        return {
            name: await asked_twice(models[roles(one.config)["scorer"]], self._task(one))
            for name, one in firsts.items()
        }
