"""Processes that share a quota by a broker, beside an API that this one serves, so that the ledger is at hand."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from asyncopt.testing import SimulatedAPI

CHILD = Path(__file__).with_name("broker_child.py")
RATE = 50.0
BURST = 20  # a bucket of 5, and 0.3 s of a busy machine's jitter; each process alone would have 5 and its own rate


class Child:
    """A process that asks questions; ``serving`` is set when it has said that it serves the others."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.ready, self.serving = asyncio.Event(), asyncio.Event()
        self.said: list[str] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(line.decode().strip())
            self.ready.set()
            if self.said[-1] == "serves":
                self.serving.set()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    async def ended(self) -> int:
        await self.reading
        return await self.process.wait()


@asynccontextmanager
async def children(
    count: int, questions: int, api: SimulatedAPI, *, together: bool = False
) -> AsyncIterator[list[Child]]:
    """Processes that share a quota at the API; the first of them serves the others.

    Those that are ``together`` have the same questions and one cache, and wait until they are told to go.
    """
    started: list[Child] = []
    with TemporaryDirectory(prefix="q") as folder:
        async with api.serve() as url:
            try:
                for number in range(count):
                    asked = ("all", f"{folder}/c/answers") if together else (f"w{number}",)
                    given = (f"{folder}/s/q", url, str(RATE), str(questions), *asked)
                    process = await asyncio.create_subprocess_exec(
                        *(sys.executable, str(CHILD), *given),
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                    )
                    started.append(Child(process))
                    if not number:
                        await started[0].serving.wait()
                for one in started:
                    await one.ready.wait()
                for one in () if together else started:
                    one.go()
                yield started
            finally:
                for one in started:
                    if one.process.returncode is None:
                        one.process.kill()
                    await one.ended()


async def until(api: SimulatedAPI, count: int) -> None:
    while api.ledger.count() < count:  # noqa: ASYNC110 - it happens in other processes
        await asyncio.sleep(0.01)


def worst_excess(api: SimulatedAPI) -> float:
    """How many more requests arrived in any interval than the rate times its length."""
    excess = lowest = 0.0
    for number, time in enumerate(sorted(entry.arrived for entry in api.ledger.entries)):
        lowest = min(lowest, number - RATE * time)
        excess = max(excess, number + 1 - RATE * time - lowest)
    return excess
