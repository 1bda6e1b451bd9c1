"""A whole study against simulated servers on a virtual clock: when it would end, what it would take, and its regret.

The models that the configuration names are not called: each of their quotas gets a simulated server that keeps it. The
search, the engine and all settings are the real ones, only the answers are not. What an instruction is worth is known
here, so that the chosen one can be held against the best that was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asyncopt.cache import MemoryCache
from asyncopt.cli.models import roles
from asyncopt.config import Config
from asyncopt.engine import Engine
from asyncopt.optimizers.base import AnyTask
from asyncopt.optimizers.history import Entry
from asyncopt.result import Result
from asyncopt.study import Study
from asyncopt.tasks.task import Task
from asyncopt.testing.clock import run_virtual
from asyncopt.testing.servers import SimulatedServers, Use


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate with what it is truly worth: the accuracy that scores only estimate, or the loss."""

    candidate: str
    step: int
    worth: float


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a study came to on the virtual clock. ``seconds`` are virtual; ``usd`` is None where a price is missing.

    ``regret`` is the best true accuracy among those tried minus that of the chosen candidate; where candidates have a
    loss, the loss of the chosen one above the optimum.
    """

    task: str
    optimizer: str
    seed: int
    steps: int
    measure: Literal["accuracy", "loss"]
    seconds: float
    calls: int
    refused: int
    hedges: int
    cache_hits: int
    tokens: int
    usd: float | None
    candidates: int
    stopped: int
    initial: Tried
    chosen: Tried
    best: Tried
    regret: float
    uses: tuple[Use, ...]


def simulate(config: Config, server: Mapping[str, Any]) -> Simulated:
    """The study of this configuration in virtual time; no model is called, no key needed and nothing written.

    The quotas that the configuration states are the servers', and known to the engine. ``server`` has parameters of
    :class:`SimulatedAPI` for all servers; a quota there takes the stated one's place, and the engine does not know it.
    Raises :class:`ConfigError` for what cannot be meant, and what :meth:`asyncopt.Study.run` raises.
    """
    simulation = _Simulation(config, config.load_task(), server)
    return run_virtual(simulation.run)


class _Simulation:
    def __init__(self, config: Config, task: AnyTask, server: Mapping[str, Any]) -> None:
        self._config = config
        self._task = task
        self._servers = SimulatedServers([config], [task], server)

    async def run(self) -> Simulated:
        """The whole study on the loop it is run in."""
        config = self._config
        async with Engine(cache=MemoryCache() if config.use_cache else None, grace=0.0) as engine:
            models = {role: self._servers.model(engine, wanted) for role, wanted in roles(config).items()}
            study = Study(
                task=self._task,
                optimizer=config.build_optimizer(self._task),
                scorer=models.get("scorer"),
                proposer=models.get("proposer"),
                budget=config.budget.build(),
                seed=config.seed,
            )
            result = await study.run()
            return self._summed_up(study, result, engine)

    def _summed_up(self, study: Study, result: Result, engine: Engine) -> Simulated:
        tried = {entry.candidate: self._tried(entry) for entry in study.history.entries}
        assert result.best is not None and result.initial is not None  # noqa: PT018
        initial, chosen = tried[result.initial.candidate], tried[result.best.candidate]
        accuracy = isinstance(self._task, Task)
        best = (max if accuracy else min)(tried.values(), key=lambda one: one.worth)
        return Simulated(
            task=result.task,
            optimizer=result.optimizer,
            seed=result.seed,
            steps=result.steps,
            measure="accuracy" if accuracy else "loss",
            seconds=result.seconds,
            calls=result.calls,
            refused=sum(dispatcher.counts.throttled for dispatcher in engine.dispatchers),
            hedges=study.account.hedges,
            cache_hits=result.cache_hits,
            tokens=result.tokens,
            usd=result.usd,
            candidates=len(tried),
            stopped=result.stopped,
            initial=initial,
            chosen=chosen,
            best=best,
            regret=best.worth - chosen.worth if accuracy else chosen.worth - (result.optimum_loss or 0.0),
            uses=self._servers.uses(engine, result.seconds),
        )

    def _tried(self, entry: Entry) -> Tried:
        if isinstance(self._task, Task):
            worth = self._servers.true_accuracy(self._task, entry.candidate)
        else:
            worth = entry.score or 0.0  # a loss is exact
        return Tried(entry.candidate, entry.step, worth)
