"""Instructions scored by actors, each with an engine of its own: one call of an actor for a shard of the examples."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeAlias

from asyncopt.cluster.ray import Cluster
from asyncopt.engine import Model
from asyncopt.errors import AsyncoptError, StudyFailed
from asyncopt.evaluation import Evaluation, evaluate
from asyncopt.tasks.task import Example, Task

_LEAST = 32  # examples of a shard: below, the call of the actor is no longer small beside them
_RESTARTS = 3

Opened: TypeAlias = Callable[[], AbstractAsyncContextManager[Model]]


class Scorers:
    """Scores instructions on ``count`` actors of the cluster while its block is entered.

    ``opened`` is called in every actor and opens the model there: what it takes from the environment, such as keys, is
    what its node has. A shard whose actor dies is scored again by another process in its place, so give the engine a
    cache that all of them share, or it is paid for twice; and a coordinator, so that they keep one quota.
    """

    def __init__(self, cluster: Cluster, opened: Opened, count: int) -> None:
        self._cluster = cluster
        self._opened = opened
        self._count = count
        self._next = 0

    async def __aenter__(self) -> Self:
        options = {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS}
        self._actors = [self._cluster.actor(_Scorer, self._opened, **options) for _ in range(self._count)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        if kind is None:
            await asyncio.gather(*(actor.close.remote() for actor in self._actors), return_exceptions=True)
        for actor in self._actors:
            ray.kill(actor)

    async def evaluate(self, task: Task, instruction: str, examples: Sequence[Example]) -> Evaluation:
        """The instruction's evaluation on these examples, in their order; raises what ended a shard."""
        size = max(_LEAST, -(-len(examples) // self._count))
        shards = [examples[start : start + size] for start in range(0, len(examples), size)]
        scoring = [asyncio.ensure_future(self._shard(task, instruction, shard)) for shard in shards]
        try:
            parts = await asyncio.gather(*scoring)
        finally:
            for one in scoring:
                one.cancel()
        return Evaluation(instruction, tuple(item for part in parts for item in part.items))

    async def _shard(self, task: Task, instruction: str, shard: Sequence[Example]) -> Evaluation:
        import ray
        from ray.exceptions import RayActorError

        actor = self._actors[self._next % self._count]
        self._next += 1
        scoring = actor.score.remote(replace(task, train=(), validation=(), test=tuple(shard)), instruction)
        try:
            found = await scoring
        except asyncio.CancelledError:
            ray.cancel(scoring)  # which withdraws what has not started
            raise
        except RayActorError:
            raise StudyFailed(f"a scoring actor has died {_RESTARTS + 1} times; look at its node's memory") from None
        if isinstance(found, AsyncoptError):
            raise found
        assert isinstance(found, Evaluation)
        return found


class _Scorer:
    """The actor's class. Errors are returned: what an actor raises, Ray wraps and logs."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._model: Model | None = None

    async def score(self, task: Task, instruction: str) -> Any:
        try:
            async with self._opening:
                if self._model is None:
                    self._model = await self._stack.enter_async_context(self._opened())
            return await evaluate(self._model, task, instruction, task.test)
        except AsyncoptError as error:
            return error

    async def close(self) -> None:
        await self._stack.aclose()
