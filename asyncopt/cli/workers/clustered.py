"""A sweep on a Ray cluster: ``asyncopt sweep ... --ray ADDRESS``, with one actor for each worker."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.cli.display_choice import ShownAs
from asyncopt.cli.run import cache_path
from asyncopt.cli.sweep import (
    budget_of,
    planned_sweep,
    prepared,
    run_kept,
    run_until_stopped,
    shared_at,
    twins,
)
from asyncopt.cli.workers.actor import ActorMember, Seat
from asyncopt.cli.workers.crew import Crew
from asyncopt.cli.workers.crewed import CrewedSitting
from asyncopt.cli.workers.hand import Orders
from asyncopt.cli.workers.how_many import workers_for
from asyncopt.cli.workers.member import Member
from asyncopt.cli.workers.sums import Sums
from asyncopt.cli.workers.worker import models_of
from asyncopt.cluster import ALONE, Cluster, ray_cluster
from asyncopt.errors import ConfigError
from asyncopt.limits.budget import Account
from asyncopt.local import is_local
from asyncopt.local.lasting import LastingServer
from asyncopt.redislink import is_redis
from asyncopt.sweep import Ended, Sweep, read_sweep


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

    def _crew(self, orders: Orders, sums: Sums, servers: Mapping[str, LastingServer]) -> Crew:
        return ActorCrew(self._cluster, self.sweep, self.place, self._count, orders, sums, servers, self._display)


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
    tasks = prepared(sweep)

    def run(place: Path, total: Account) -> list[Ended]:
        print(f"asyncopt: joining Ray ({address})", file=sys.stderr, flush=True)
        with ray_cluster(address, workers) as cluster:
            count = actors_for(sweep, cluster, workers)
            sitting = ClusteredSitting(cluster, sweep, tasks, place, total, shown, wait=wait, count=count)
            return run_until_stopped(sitting)

    run_kept(sweep, directory, run)


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
    most = min(asked or len(sweep.planned), len(sweep.planned))
    free = cluster.free_processors(most)
    if free < (1 if asked is None else most):
        raise ConfigError(f"{free} processors of the cluster are free; take fewer --workers, or wait for others to end")
    return free


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
