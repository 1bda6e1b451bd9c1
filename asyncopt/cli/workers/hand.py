"""A worker of a sweep as a process of its own: it runs the studies that it is told to, and says how they ended."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asyncopt.activity import Activity
from asyncopt.cli.signals import GRACE_SECONDS, Stop, run_in_loop
from asyncopt.cli.summary import Attribution
from asyncopt.cli.sweep_display import Told, told_of
from asyncopt.cli.workers.handed import HandedServer
from asyncopt.cli.workers.talk import Talk, told
from asyncopt.cli.workers.worker import Worker, studies_asked_twice, whole_task
from asyncopt.engine import Engine
from asyncopt.errors import AsyncoptError, ConfigError, RunLocked
from asyncopt.events import Event
from asyncopt.limits.budget import Account
from asyncopt.limits.ledger import Ledger, SharedAccount
from asyncopt.shared.at import coordinator_at
from asyncopt.sweep import Planned, read_sweep, stops

LEDGER = "budget.ledger"  # in a sweep's directory, of the sitting that goes on
ASK_TWICE = "asked-twice"  # told like a study's name; those end with a seed
_PATIENCE_SECONDS = GRACE_SECONDS + 10  # with a study that a worker still holds whose sweep was killed
_RETRY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told first: whose studies, and what it has together with the other workers.

    ``shared`` is the address of their coordinator; ``ledger`` says that they spend one budget, whose ledger is in the
    directory; ``servers`` has the embedded models that were started for all, by name.
    """

    directory: str
    shared: str | None = None
    ledger: bool = False
    wait: bool = False
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Hand:
    """A worker of the sweep in a directory while its block is entered; studies are told to it by their names."""

    def __init__(self, orders: Orders, told: Told, servers: Mapping[str, HandedServer] | None = None) -> None:
        self.place = Path(orders.directory)
        self._sweep = read_sweep(self.place)
        self._planned = {one.name: one for one in self._sweep.planned}
        self.account = self._account(orders)
        coordinator = None if orders.shared is None else coordinator_at(orders.shared)
        self._worker = Worker(
            self._sweep, self.place, self.account, told, wait=orders.wait, coordinator=coordinator, servers=servers
        )
        self._loading = asyncio.Lock()

    def _account(self, orders: Orders) -> Account:
        if not orders.ledger:
            return Account()
        return SharedAccount(self._sweep.budget.build(), Ledger(self.place / LEDGER))

    @property
    def engine(self) -> Engine:
        return self._worker.engine

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._worker)
            await self._worker.open_models()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)
        if isinstance(self.account, SharedAccount):
            self.account.close()

    async def run(self, name: str) -> dict[str, Any]:
        """Run this study until it has a result on the disk, and say how it ended.

        ``error`` has the class and the text of what ended it otherwise; ``stops`` says that this would end any other.
        """
        try:
            if name == ASK_TWICE:
                tasks = {one.name: await self._task(one) for one in studies_asked_twice(self._sweep)}
                await self._worker.ask_twice(tasks)
            else:
                await self._run(self._planned[name])
        except AsyncoptError as error:
            return {"name": name, "error": told(error), "stops": name == ASK_TWICE or self._stops(error, name)}
        return {"name": name}

    def _stops(self, error: AsyncoptError, name: str) -> bool:
        return isinstance(error, _Unfit) or stops(error, self._planned[name])

    async def _task(self, one: Planned) -> Any:
        async with self._loading:
            return await asyncio.to_thread(whole_task, one.config)

    async def _run(self, one: Planned) -> None:
        task = await self._task(one)
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_SECONDS
        while True:
            try:
                self._worker.prepare(one, task)
            except ConfigError as error:
                raise _Unfit(str(error)) from error
            try:
                await self._worker.run(one)
                return
            except RunLocked:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)


class _Unfit(ConfigError):
    """The study cannot be run with these models: no other one of the sweep is to begin."""


# -- the process -------------------------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Be the worker whose sweep is at the other end of this socket; never returns."""
    stop = Stop(quiet=True)
    end = socket.socket(fileno=descriptor)
    stopped = run_in_loop(partial(_work, end, stop), stop)
    sys.exit(0 if stopped is None else 128 + stopped)


async def _work(end: socket.socket, stop: Stop) -> None:
    talk = await Talk.over(end)
    try:
        orders = await talk.receive()
        if orders is not None:
            await Process(Orders(**orders), talk, stop).run()
    except AsyncoptError as error:
        talk.send({"event": "failed", "error": told(error)})
    finally:
        await talk.aclose()


class Process:
    """Does what it is told until it is told to end, or until nobody is there any more; then it winds up."""

    def __init__(self, orders: Orders, talk: Talk, stop: Stop) -> None:
        self._talk = talk
        self._stop = stop
        servers = {name: HandedServer(name, handed, talk.send) for name, handed in orders.servers.items()}
        self._servers = servers
        self._hand = Hand(orders, self, servers)

    async def run(self) -> None:
        async with self._hand as hand:
            self._stop.watch(hand.engine)
            with Activity(hand.place, hand.engine, hand.account, lines=self):
                self._talk.send({"event": "ready", "pid": os.getpid()})
                async with asyncio.TaskGroup() as group:
                    await self._listen(group)

    async def _listen(self, group: asyncio.TaskGroup) -> None:
        while (message := await self._talk.receive()) is not None:
            match message["do"]:
                case "run":
                    group.create_task(self._run(message["name"]))
                case "pause":
                    self._hand.engine.pause()
                case "resume":
                    self._hand.engine.resume()
                case "set":
                    self._hand.engine.set_concurrency(message["concurrency"])
                case "server":
                    self._servers[message["model"]].heard(message)
                case "end":
                    return
        self._stop.wind_up()

    async def _run(self, name: str) -> None:
        self._talk.send({"event": "ended", **await self._hand.run(name)})

    # -- what is told --------------------------------------------------------------------------------------------------

    silent = False

    def line(self, text: str) -> None:
        self._talk.send({"event": "note", "text": text})

    def notify(self, event: Event) -> None:
        text = told_of(event)
        if text is not None:
            self.line(text)

    def write(self, line: Mapping[str, Any]) -> None:
        """A second of activity, with what the dispatchers have done so far."""
        done = [asdict(Attribution.of(one)) for one in self._hand.engine.dispatchers]
        self._talk.send({"event": "activity", **line, "attributions": done})

    def close(self) -> None:
        """The lines have no file of their own."""
