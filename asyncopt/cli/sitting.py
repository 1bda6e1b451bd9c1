"""A sweep from its first call in this process to its last: one engine, one cache, every model opened once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.activity import Activity
from asyncopt.cli.display_choice import ShownAs
from asyncopt.cli.run import coordinator_of
from asyncopt.cli.signals import Stop
from asyncopt.cli.sweep_display import OfEngine, SweepDisplay
from asyncopt.cli.workers.worker import Worker
from asyncopt.ctl import Controls
from asyncopt.errors import BudgetExhausted
from asyncopt.limits.budget import Account
from asyncopt.optimizers.base import AnyTask
from asyncopt.records.contest import CONTEST, contests_in
from asyncopt.repetitions import ended_json, results_csv, summary_json
from asyncopt.sweep import RESULT, Ended, Planned, Sweep, keep, run_studies

TABLE = "results.csv"


class Sitting:
    """Runs the studies of a sweep in this process; what they came to is in ``ended``."""

    def __init__(
        self,
        sweep: Sweep,
        tasks: Mapping[str, AnyTask],
        place: Path,
        total: Account,
        shown: ShownAs,
        *,
        wait: bool,
        count: int = 1,
    ) -> None:
        self.sweep = sweep
        self.place = place
        self._tasks = tasks
        self._total = total
        self._wait = wait
        self._count = count  # of the processes
        self._display = SweepDisplay(sweep, total, shown)
        self.ended: list[Ended] = []

    async def run(self, stop: Stop) -> None:
        """Run all studies, and keep and show what they came to."""
        coordinator = coordinator_of(self.sweep.planned[0].config)
        worker = Worker(self.sweep, self.place, self._total, self._display, wait=self._wait, coordinator=coordinator)
        async with worker, AsyncExitStack() as stack:
            engine = worker.engine
            stop.watch(engine)
            stack.enter_context(Activity(self.place, engine, self._total))
            await stack.enter_async_context(Controls(self.place, engine, self._figures, stop.wind_up))
            await worker.open_models()
            for one in self.sweep.planned:
                worker.prepare(one, self._tasks[one.name])
            async with self._display.showing(OfEngine(engine), self.place):
                self.ended = await self._within_seconds(self._run_all(worker))
                await worker.ask_twice(self._tasks)
            self._conclude()

    def _figures(self) -> dict[str, Any]:
        """The figures of all studies together, with those of earlier sittings where the sweep has a budget."""
        total = self._total
        studies = {"studies": len(self.sweep.planned), "ended": self._display.done}
        return {**studies, "calls": total.calls, "cache_hits": total.hits, "tokens": total.tokens, "usd": total.usd}

    async def _run_all(self, worker: Worker) -> list[Ended]:
        async def run(one: Planned) -> Ended:
            self._display.began()
            return await worker.run(one)

        return await run_studies(self.sweep.planned, run, self.sweep.at_once, self._display.ended)

    async def _within_seconds(self, work: Awaitable[list[Ended]]) -> list[Ended]:
        seconds = self._total.budget.seconds
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError:
            message = f"the budget of {seconds:g} seconds for this sitting is used up; resume the sweep"
            raise BudgetExhausted(message) from None

    def _conclude(self) -> None:
        """Write what the studies came to, which is the same whoever ran them and in whatever order; and show it."""
        contests = contests_in(self.place, self.sweep, self.ended)
        studies = [ended_json(one) for one in self.ended]
        keep(self.place, RESULT, codec.dumps({"name": self.sweep.name, **summary_json(self.ended), "studies": studies}))
        keep(self.place, TABLE, results_csv(self.ended))
        if contests:
            keep(self.place, CONTEST, codec.dumps([one.to_json() for one in contests]))
        self._display.results(self.ended, self.place, contests)
