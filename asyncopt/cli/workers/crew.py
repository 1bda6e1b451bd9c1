"""The workers of a sweep: studies are handed to processes, and taken over from those that die."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from asyncopt.cli.workers.hand import ASK_TWICE, Orders
from asyncopt.cli.workers.handed import Reviver
from asyncopt.cli.workers.member import Member
from asyncopt.cli.workers.sums import Sums
from asyncopt.cli.workers.talk import told_again
from asyncopt.cli.workers.worker import studies_asked_twice
from asyncopt.directory import RESULT, read_json
from asyncopt.errors import AsyncoptError, StudyFailed
from asyncopt.local.lasting import LastingServer
from asyncopt.result import result_of
from asyncopt.shared.coordinator import BEAT_SECONDS
from asyncopt.sweep import Ended, Planned, Sweep, read_random

MOST_DEATHS = 5  # of workers, one after another, without one study that ended
_ALL_KNOW_SECONDS = 1.5 * BEAT_SECONDS  # after the last has come, every worker knows of every other
_SAME_SECONDS = 5.0  # within which several workers say the same of the same
_LATER_SECONDS = 10.0  # beyond the grace that workers give their calls


class Seen(Protocol):
    """Who is told how it goes."""

    def began(self) -> None:
        """A study was handed out."""

    def interrupted(self) -> None:
        """A study that was handed out has lost its worker."""

    def ended(self, ended: Ended) -> None: ...

    def line(self, text: str) -> None: ...


class Crew:
    """Runs the studies of the sweep in ``place`` by ``count`` processes."""

    def __init__(
        self,
        sweep: Sweep,
        place: Path,
        count: int,
        orders: Orders,
        sums: Sums,
        servers: Mapping[str, LastingServer],
        tell: Seen,
    ) -> None:
        self._place = place
        self._planned = {one.name: one for one in sweep.planned}
        self._count = count
        self._orders = orders
        self._sums = sums
        self._tell = tell
        self._reviver = Reviver(servers)
        self._queue: deque[str] = deque(self._planned)
        if studies_asked_twice(sweep):
            self._queue.append(ASK_TWICE)
        self._most = parts(min(sweep.at_once, len(self._planned)), count)
        self._ended: dict[str, Ended] = {}
        self._members: dict[int, Member] = {}
        self._hired = 0
        self._settled: set[int] = set()  # the keepers whose first worker is ready, or was lost
        self._beginning = self._open = False
        self._deaths = 0
        self._failure: AsyncoptError | None = None
        self._stopping = False
        self._settings: list[dict[str, Any]] = []  # what later workers must be told, too
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: dict[str, float] = {}
        self.paused = False

    async def run(self) -> list[Ended]:
        """How each study ended, in their order; raises what ends them all, when every worker has wound up."""
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(number)) for number in range(self._count)]
        try:
            await asyncio.wait(self._keepers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await _end(self._keepers)
            for task in self._tasks:
                task.cancel()
        if self._failure is not None:
            raise self._failure
        for keeper in self._keepers:
            keeper.result()
        if self._stopping:
            await loop.create_future()  # until whoever stops the sweep cancels it
        return [self._ended[name] for name in self._planned]

    # -- workers -------------------------------------------------------------------------------------------------------

    async def _keep(self, place: int) -> None:
        """Have one worker as long as there is work for it: whenever it dies, another one."""
        while self._queue and not self._stopping and self._failure is None:
            member = await self._hire()
            self._members[member.number] = member
            member.listen(partial(self._hear, place))
            try:
                member.talk.send(asdict(self._orders))
                await member.over()
            except asyncio.CancelledError:
                await member.end()
                raise
            finally:
                self._left(place, member)

    async def _hire(self) -> Member:
        """Another worker."""
        self._hired += 1
        return await Member.start(self._hired)

    def _left(self, place: int, member: Member) -> None:
        del self._members[member.number]
        died = not member.dismissed
        self._sums.gone(member.number)
        for name in member.running:
            if name != ASK_TWICE:
                self._tell.interrupted()
        if died and self._failure is None:
            self._bury(member)
        self._settle(place)
        for other in self._members.values():
            self._hand_out(other)

    def _bury(self, member: Member) -> None:
        self._queue.extendleft(reversed(member.running))
        self._deaths += 1
        ending, studies = f"worker {member.number} {member.ending}", len(member.running)
        if self._deaths >= MOST_DEATHS:
            self._fail(
                StudyFailed(
                    f"{self._deaths} workers have died, and no study has ended meanwhile; the last, {ending}; free "
                    "some memory, or take fewer --workers or --studies, and resume the sweep"
                )
            )
        else:
            self._tell.line(f"{ending}; " + (f"its {studies} studies are taken over" if studies else "it had no study"))

    def _settle(self, place: int) -> None:
        """Hand out work when every worker knows of every other: before, each would take all of what is shared."""
        self._settled.add(place)
        if len(self._settled) == self._count and not self._beginning:
            self._beginning = True
            self._spawn(self._begin())

    async def _begin(self) -> None:
        await asyncio.sleep(_ALL_KNOW_SECONDS if self._count > 1 else 0.0)
        self._open = True
        for member in self._members.values():
            self._hand_out(member)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hand_out(self, member: Member) -> None:
        if not self._open or member.dismissed or not member.ready or self._failure is not None:
            return
        while self._queue and len(member.running) < member.most:
            name = self._queue.popleft()
            member.running.append(name)
            if name != ASK_TWICE:
                self._tell.began()
            member.talk.send({"do": "run", "name": name})
        if not member.running:
            member.dismissed = True
            member.talk.send({"do": "end"})

    # -- what they say -------------------------------------------------------------------------------------------------

    def _hear(self, place: int, member: Member, message: dict[str, Any]) -> None:
        match message["event"]:
            case "ready":
                member.ready, member.most = True, self._most[place]
                for setting in self._settings:
                    member.talk.send(setting)
                self._settle(place)
                self._hand_out(member)
            case "ended":
                self._on_ended(member, message)
            case "activity":
                self._sums.take(member.number, message)
            case "note":
                self._note(message["text"])
            case "failed":
                member.dismissed = True
                self._fail(told_again(message["error"]))
            case "server":
                self._spawn(self._revive(member, message))

    def _note(self, text: str) -> None:
        """Say what a worker says, unless another one has just said the same."""
        now = asyncio.get_running_loop().time()
        self._said = {said: at for said, at in self._said.items() if at > now - _SAME_SECONDS}
        if text not in self._said:
            self._said[text] = now
            self._tell.line(text)

    async def _revive(self, member: Member, message: Mapping[str, Any]) -> None:
        member.talk.send(await self._reviver.answer(message))

    def _on_ended(self, member: Member, message: Mapping[str, Any]) -> None:
        name = message["name"]
        member.running.remove(name)
        error = told_again(message["error"]) if "error" in message else None
        if error is not None and message["stops"]:
            if name != ASK_TWICE:
                self._tell.interrupted()
            self._fail(error)
        elif name != ASK_TWICE:
            self._deaths = 0
            self._record(self._planned[name], error)
        self._hand_out(member)

    def _record(self, one: Planned, error: AsyncoptError | None) -> None:
        try:
            ended = Ended(one, error=error) if error is not None else self._read(one)
        except AsyncoptError as unreadable:
            self._fail(unreadable)
            return
        self._ended[one.name] = ended
        self._tell.ended(ended)

    def _read(self, one: Planned) -> Ended:
        directory = self._place / one.name
        return Ended(one, result_of(read_json(directory / RESULT)), read_random(directory))

    def _fail(self, error: AsyncoptError) -> None:
        if self._failure is None:
            self._failure = error
            for keeper in self._keepers:
                keeper.cancel()

    # -- as an engine is steered and drained ---------------------------------------------------------------------------

    def pause(self) -> None:
        """Start no more calls until :meth:`resume`."""
        self.paused = True
        self._set({"do": "pause"})

    def resume(self) -> None:
        self.paused = False
        self._set({"do": "resume"})

    def set_concurrency(self, most: int) -> None:
        """Have at most so many calls in flight at every endpoint, all workers together; each has one at least."""
        self._set({"do": "set", "concurrency": max(1, most // self._count)})

    def _set(self, setting: dict[str, Any]) -> None:
        same = ("pause", "resume") if setting["do"] in ("pause", "resume") else ("set",)
        self._settings = [*(one for one in self._settings if one["do"] not in same), setting]
        for member in self._members.values():
            if member.ready:
                member.talk.send(setting)

    @property
    def dispatchers(self) -> Sequence[Sums]:
        return (self._sums,)

    @property
    def pids(self) -> list[int]:
        """The numbers of the worker processes."""
        return [member.process.pid for member in self._members.values()]

    async def drain(self, grace: float) -> None:
        """Have all workers wind up, and return when they have ended, or some time after their grace."""
        self._stopping = True
        members = list(self._members.values())
        for member in members:
            member.interrupt()
        if members:
            await asyncio.wait(
                [asyncio.ensure_future(member.over()) for member in members], timeout=grace + _LATER_SECONDS
            )


def parts(studies: int, workers: int) -> list[int]:
    """How many studies each worker has at once, at least one; together no more than one process would have."""
    return [max(1, studies // workers + (worker < studies % workers)) for worker in range(workers)]


async def _end(keepers: Sequence[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait for their ends; whoever is cancelled meanwhile makes them hurry."""
    for keeper in keepers:
        keeper.cancel()
    cancelled = False
    while left := [keeper for keeper in keepers if not keeper.done()]:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError:
            cancelled = True
            for keeper in left:
                keeper.cancel()
    if cancelled:
        raise asyncio.CancelledError
