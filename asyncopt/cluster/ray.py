"""A Ray cluster, and what is placed on it: actors that do one piece of work each, and talk to whoever placed them.

An actor has a process, an event loop and an environment of its own: keys are those of the node it is on, and nothing
secret goes through Ray. A call of an actor costs as much as some hundred calls of a model do here, so it carries much.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

from asyncopt.errors import ConfigError

ALONE = "local"  # in place of an address: a cluster on this machine that ends with its block
PLACED_SECONDS = 120.0  # for an actor to begin; after that there is no place for it
_FREED_SECONDS = 10.0
_OBJECTS_BYTES = 80 * 2**20  # the least that Ray takes; results go by the disk
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

Message: TypeAlias = Mapping[str, Any]


class Cluster:
    """A cluster that this process has joined."""

    def __init__(self, address: str) -> None:
        self.address = address

    @property
    def alone(self) -> bool:
        """Whether it is on this machine alone, and stays so."""
        return self.address == ALONE

    def free_processors(self, most: int) -> int:
        """How many processors are free, up to so many; those of an actor that has just ended are so some time later."""
        import ray

        wanted = min(most, int(ray.cluster_resources().get("CPU", 0)))
        until = time.monotonic() + _FREED_SECONDS
        while (free := int(ray.available_resources().get("CPU", 0))) < wanted and time.monotonic() < until:
            time.sleep(0.1)
        return min(free, most)

    def post(self, work: Work) -> Post:
        """A new actor that does this work."""
        return Post(self.actor(_Worker), work)

    def actor(self, kind: type, *arguments: Any, **options: Any) -> Any:
        """Ray's handle of a new actor of this class, which has a processor for itself and is not on a crowded node."""
        import ray

        placed = ray.remote(num_cpus=1, scheduling_strategy="SPREAD", **options)(kind)
        return placed.remote(*arguments)


@contextmanager
def ray_cluster(address: str, processors: int | None = None) -> Iterator[Cluster]:
    """The Ray cluster at ``HOST:PORT`` or ``auto``; for ``local`` a new one on this machine, which ends with the block.

    A new one takes half a minute to begin and has so many ``processors``, by default those of the machine. Where the
    process has joined a cluster before, that is the one. Raises :class:`ConfigError` without Ray or without a cluster.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ConfigError("--ray needs Ray; install it with: pip install 'asyncopt[ray]'") from None
    if ray.is_initialized():
        yield Cluster(address)
        return
    _join(address, processors)
    try:
        yield Cluster(address)
    finally:
        ray.shutdown()


def _join(address: str, processors: int | None) -> None:
    import ray

    if "://" in address:
        raise ConfigError("Ray's client is too slow for this; start it on a node of the cluster with --ray HOST:PORT")
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if address == ALONE:
            new = {"num_cpus": processors, "include_dashboard": False, "object_store_memory": _OBJECTS_BYTES}
            # On loopback: nobody else is to reach it.
            ray.init(address=address, _node_ip_address="127.0.0.1", **new, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"there is no Ray cluster at {address!r}, or it cannot be joined: {reason}") from None


# -- in the actor ------------------------------------------------------------------------------------------------------


class Channel:
    """What the work in an actor hears and says."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Message | None] = asyncio.Queue()
        self._said: list[Message] = []
        self._news = asyncio.Event()

    def send(self, message: Message) -> None:
        """Say it; nobody waits for it."""
        self._said.append(message)
        self._news.set()

    async def receive(self) -> Message | None:
        """What is said next; None once the work is to wind up."""
        return await self.heard.get()

    async def said(self, work: asyncio.Task[None]) -> list[Message] | None:
        """What was said since, as soon as there is something; None when nothing comes any more."""
        work.add_done_callback(lambda _: self._news.set())
        await self._news.wait()
        self._news.clear()
        said, self._said = self._said, []
        if not said and work.done():
            work.result()
            return None
        if work.done():
            self._news.set()
        return said


Work: TypeAlias = Callable[[Channel], Awaitable[None]]


class _Worker:
    """The actor's class."""

    async def begin(self, work: Work) -> int:
        self._channel = Channel()
        self._work = asyncio.ensure_future(_of(work, self._channel))
        return os.getpid()

    async def tell(self, messages: list[Message]) -> None:
        for message in messages:
            self._channel.heard.put_nowait(message)

    async def hear(self) -> list[Message] | None:
        return await self._channel.said(self._work)

    async def wind_up(self) -> None:
        self._channel.heard.put_nowait(None)

    async def cancel(self) -> None:
        self._work.cancel()


async def _of(work: Work, channel: Channel) -> None:
    with suppress(asyncio.CancelledError):
        await work(channel)


# -- in the process that places it -------------------------------------------------------------------------------------


class Post:
    """An actor and its work, as a child process is known: ``returncode`` is that of one that ended, or was killed."""

    def __init__(self, actor: Any, work: Work) -> None:
        self.pid = 0  # on its node, when it has begun
        self.returncode: int | None = None
        self._actor = actor
        self._heard: asyncio.Queue[Message | None] = asyncio.Queue()
        self._to_say: asyncio.Queue[Message] = asyncio.Queue()
        self._signals = 0
        self._life = asyncio.get_running_loop().create_task(self._live(work), name="asyncopt-actor")

    async def _live(self, work: Work) -> None:
        import ray
        from ray.exceptions import RayActorError

        saying = None
        try:
            async with asyncio.timeout(PLACED_SECONDS):
                self.pid = await self._actor.begin.remote(work)
            saying = asyncio.get_running_loop().create_task(self._say())
            while (messages := await self._actor.hear.remote()) is not None:
                for message in messages:
                    self._heard.put_nowait(message)
            self.returncode = 0
        except (RayActorError, TimeoutError):
            self.returncode = -signal.SIGKILL
        finally:
            if saying is not None:
                saying.cancel()
            ray.kill(self._actor)
            self._heard.put_nowait(None)

    async def _say(self) -> None:
        """Tell one after another: Ray does not keep the order of calls that are under way together."""
        from ray.exceptions import RayActorError

        with suppress(RayActorError):
            while True:
                messages = [await self._to_say.get()]
                while not self._to_say.empty():
                    messages.append(self._to_say.get_nowait())
                await self._actor.tell.remote(messages)

    def send(self, message: Message) -> None:
        """Say it, if anybody is there; nobody waits for it."""
        self._to_say.put_nowait(message)

    async def receive(self) -> Message | None:
        """What is said next; None when the work has ended, or the actor."""
        return await self._heard.get()

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def wait(self) -> None:
        """Return when the actor has ended; raises what the work has raised, which is a defect of it."""
        await self._life

    def send_signal(self, number: int) -> None:
        """Ask the work to wind up; asked again, it is cancelled."""
        self._signals += 1
        (self._actor.wind_up if self._signals == 1 else self._actor.cancel).remote()

    def kill(self) -> None:
        """End it at once."""
        import ray

        ray.kill(self._actor)
