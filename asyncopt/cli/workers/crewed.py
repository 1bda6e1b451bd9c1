"""A sweep by several processes of this machine, with one quota, one cache and one budget."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from asyncopt.cli.signals import Stop
from asyncopt.cli.sitting import Sitting
from asyncopt.cli.workers.crew import Crew
from asyncopt.cli.workers.hand import LEDGER, Orders
from asyncopt.cli.workers.handed import handed
from asyncopt.cli.workers.sums import Sums
from asyncopt.cli.workers.worker import start_servers
from asyncopt.ctl import Controls
from asyncopt.errors import StorageFailed
from asyncopt.limits.budget import Account
from asyncopt.limits.ledger import Ledger
from asyncopt.local.lasting import LastingServer


class CrewedSitting(Sitting):
    """Runs the studies of a sweep by several worker processes."""

    async def run(self, stop: Stop) -> None:
        """Run all studies, and keep and show what they came to."""
        async with AsyncExitStack() as stack:
            servers = await start_servers(self.sweep, stack, self.place / "local.log", self._display)
            orders = Orders(
                directory=str(self.place.resolve()),
                shared=self.sweep.planned[0].config.shared or stack.enter_context(meeting_point(self.place)),
                ledger=stack.enter_context(ledger_of(self.place, self._total)),
                wait=self._wait,
                servers={name: handed(server) for name, server in servers.items()},
            )
            sums = stack.enter_context(Sums(self.place, self._total))
            crew = self._crew(orders, sums, servers)
            stop.watch(crew)

            def look() -> Mapping[str, Any]:
                workers = {"workers": len(crew.pids), "pids": crew.pids}
                return {**self._figures(), **workers, "endpoints": sums.endpoints()}

            await stack.enter_async_context(Controls(self.place, crew, look, stop.wind_up))
            async with self._display.showing(sums, self.place):
                self.ended = await self._within_seconds(crew.run())
            self._conclude()

    def _crew(self, orders: Orders, sums: Sums, servers: Mapping[str, LastingServer]) -> Crew:
        """The workers, none of which is there yet."""
        return Crew(self.sweep, self.place, self._count, orders, sums, servers, self._display)


@contextmanager
def ledger_of(place: Path, total: Account) -> Iterator[bool]:
    """Whether there is a budget that all workers spend; while the block runs, its ledger is in the directory."""
    limits = (total.budget.calls, total.budget.tokens, total.budget.usd)
    if all(limit is None for limit in limits):
        yield False
        return
    path = place / LEDGER
    try:
        Ledger.begin(path, total)
    except OSError as error:
        raise StorageFailed.at(path, error) from None
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def meeting_point(place: Path) -> Iterator[str]:
    """The address at which the workers of this sweep share their quotas, also with those of an earlier sitting.

    Not in its own directory, which may be on a network or open to a group.
    """
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    name = blake2b(os.fsencode(place.resolve()), digest_size=12).hexdigest()
    path = runtime / f"asyncopt-{os.getuid()}" / f"{name}.sweep"
    try:
        yield f"unix:{path}"
    finally:
        for left in (path, path.with_name(f"{path.name}.lock")):  # of workers that were killed
            with suppress(OSError):
                left.unlink()
