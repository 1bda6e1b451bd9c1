"""A sweep on a Ray cluster: ``asyncopt sweep ... --ray ADDRESS``, with one actor for each worker."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.cli.actor import ActorMember, Seat
from asyncopt.cli.crew import Crew
from asyncopt.cli.crewed import CrewedSitting, _ledger, _meeting_point
from asyncopt.cli.display_choice import ShownAs
from asyncopt.cli.hand import Orders
from asyncopt.cli.handed import handed
from asyncopt.cli.how_many import workers_for
from asyncopt.cli.member import Member
from asyncopt.cli.models import check_batched, check_model
from asyncopt.cli.run import cache_path, new_directory
from asyncopt.cli.signals import Stop
from asyncopt.cli.sums import Sums
from asyncopt.cli.sweep import (
    _check_prices,
    _exit_by,
    _run_until_stopped,
    budget_of,
    loaded,
    planned_sweep,
    shared_at,
    twins,
)
from asyncopt.cli.worker import models_of, start_servers
from asyncopt.cluster import ALONE, Cluster, ray_cluster
from asyncopt.ctl import Controls
from asyncopt.errors import ConfigError
from asyncopt.limits.budget import UNLIMITED, Account
from asyncopt.local import is_local
from asyncopt.redislink import is_redis
from asyncopt.sweep import Sweep, SweepDirectory, charge_earlier, read_sweep
from asyncopt.telemetry.named import maker_of


class ActorCrew(Crew):
    """Runs the studies of a sweep by actors; one that dies is replaced by another, wherever there is room."""

    def __init__(self, cluster: Cluster, *rest: Any) -> None:
        super().__init__(*rest)
        self._cluster = cluster
        self._seat = Seat.of(self._place)

    async def _hire(self) -> Member:
        self._hired += 1
        return await ActorMember.place(self._hired, self._cluster, self._seat)


class ClusteredSitting(CrewedSitting):
    """Runs the studies of a sweep by ``count`` actors of a cluster."""

    def __init__(self, cluster: Cluster, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cluster = cluster

    async def run(self, stop: Stop) -> None:
        """Run all studies, and keep and show what they came to."""
        async with AsyncExitStack() as stack:
            servers = await start_servers(self.sweep, stack, self.place / "local.log", self._display)
            orders = Orders(
                directory=str(self.place.resolve()),
                shared=self.sweep.planned[0].config.shared or stack.enter_context(_meeting_point(self.place)),
                ledger=stack.enter_context(_ledger(self.place, self._total)),
                wait=self._wait,
                servers={name: handed(server) for name, server in servers.items()},
            )
            sums = stack.enter_context(Sums(self.place, self._total))
            crew = ActorCrew(self._cluster, self.sweep, self.place, self._count, orders, sums, servers, self._display)
            stop.watch(crew)

            def look() -> Mapping[str, Any]:
                workers = {"workers": len(crew.pids), "pids": crew.pids}
                return {**self._figures(), **workers, "endpoints": sums.endpoints()}

            await stack.enter_async_context(Controls(self.place, crew, look, stop.wind_up))
            async with self._display.showing(sums, self.place):
                self.ended = await self._within_seconds(crew.run())
            self._conclude()


def begin_on_ray(
    name: str,
    flags: Mapping[str, Any],
    options: Mapping[str, Any],
    directory: Path | None,
    budget: str | None,
    *,
    shown: ShownAs,
    wait: bool,
    workers: int | None,
    address: str,
) -> None:
    """Run the sweep of this name or file on a cluster, as :func:`asyncopt.cli.sweep.begin` does here."""
    sweep = planned_sweep(name, flags, **options, budget=budget)
    for line in twins(sweep):
        print(f"asyncopt: {codec.printable(line, 400)}", file=sys.stderr)
    start_on_ray(sweep, directory, shown, wait=wait, workers=workers, address=address)


def start_on_ray(
    sweep: Sweep, directory: Path | None, shown: ShownAs, *, wait: bool, workers: int | None, address: str
) -> None:
    """Run the sweep to its end by so many actors of the cluster, or as many as it has processors, and show the table.

    Everything is checked before the cluster is joined; the exit codes are those of any sweep.
    """
    if address != ALONE:
        check_shareable(sweep, address)
    workers_for(sweep, directory, workers or len(sweep.planned))  # raises where several cannot be
    total = Account(sweep.budget.build())
    for name in sweep.planned[0].config.observers:
        maker_of(name)
    _check_prices(sweep)
    tasks = loaded(sweep)
    for wanted in models_of(sweep):
        check_model(wanted)
    for one in sweep.planned:
        if one.config.batch is not None:
            check_batched(one.config)
    place = directory or new_directory(sweep.name)
    kept = SweepDirectory(place, sweep)
    try:
        if total.budget != UNLIMITED:
            charge_earlier(total, [place / one.name for one in sweep.planned])
        print(f"asyncopt: joining Ray ({address})", file=sys.stderr, flush=True)
        with ray_cluster(address, workers) as cluster:
            count = actors_for(sweep, cluster, workers)
            sitting = ClusteredSitting(cluster, sweep, tasks, place, total, shown, wait=wait, count=count)
            ended = _run_until_stopped(sitting)
    finally:
        kept.close()
    _exit_by(ended)


def resume_on_ray(
    directory: Path,
    budget: str | None,
    shown: ShownAs,
    *,
    wait: bool,
    shared: str | None,
    workers: int | None,
    address: str,
) -> None:
    """Go on with the sweep in this directory on a cluster, as :func:`asyncopt.cli.sweep.resume_sweep` does here."""
    sweep = read_sweep(directory) if shared is None else shared_at(read_sweep(directory), shared)
    given = {} if budget is None else budget_of(budget).model_dump(exclude_none=True)
    sweep = replace(sweep, budget=sweep.budget.model_copy(update=given))
    start_on_ray(sweep, directory, shown, wait=wait, workers=workers, address=address)


def actors_for(sweep: Sweep, cluster: Cluster, asked: int | None) -> int:
    """How many actors: as many as were asked for, or as processors are free, and no more than there are studies."""
    free = cluster.processors
    if free < (asked or 1):
        raise ConfigError(f"{free} processors of the cluster are free; take fewer --workers, or wait for others to end")
    return min(asked or free, len(sweep.planned))


def check_shareable(sweep: Sweep, address: str) -> None:
    """Raise :class:`ConfigError` unless everything that workers share can be reached from any machine."""
    config = sweep.planned[0].config
    where = f"the workers on the cluster at {address}"
    if any(is_local(wanted.model) for wanted in models_of(sweep)):
        raise ConfigError(f"{where} cannot reach the embedded model of this machine; take --ray {ALONE}")
    if config.shared is None or not is_redis(config.shared):
        raise ConfigError(f"{where} keep one quota by Redis; give --shared redis://HOST:6379/0, or take --ray {ALONE}")
    cache = cache_path(config)
    if cache is not None and not is_redis(str(cache)):
        raise ConfigError(f'{where} keep answers in Redis; give --set cache="redis://HOST:6379/0", or --no-cache')
