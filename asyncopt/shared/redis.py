"""A quota that processes of any machines share: the board in a Redis or Valkey server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import Any, TypeAlias

from asyncopt.limits.meter import LONGEST_TURN
from asyncopt.redislink import Address, Link, LinkFailed, UnknownScript
from asyncopt.shared import lua
from asyncopt.shared.coordinator import ANSWER_SECONDS, BEAT_SECONDS, DEAD_SECONDS, Beat, SharingFailed
from asyncopt.shared.gcra import fresh_seconds
from asyncopt.values import Dimension

_PREFIX = "asyncopt:{shared}:"  # the braces: a cluster keeps these keys in one place
_WORKERS = f"{_PREFIX}workers"
_CLAIMS = 500  # in one script, which holds everybody else up

_Run: TypeAlias = tuple[lua.Script, list[str], list[Any]]  # with its keys and arguments


class RedisCoordinator:
    """What processes with one ``url`` share: ``redis://``, ``rediss://`` (TLS) or ``valkey://HOST:PORT/DB``.

    The server's clock counts, so that those of machines do not matter. Nothing there outlives its use by more than a
    day. Raises :class:`~asyncopt.errors.ConfigError` for a URL that cannot be meant, or without redis-py.
    """

    def __init__(self, url: str) -> None:
        self._link = Link(Address.of(url))
        self._worker = secrets.token_hex(8)
        self._closed = False
        # As the last two beats said, since a server that has lost its data begins with the first. What is asked sooner
        # than a beat after another one counts as the same one: at a loss several may ask within a moment.
        self._workers = (1, 1)
        self._beat_at = -inf
        self._taken: set[tuple[str, Dimension]] = set()  # from which buckets
        self._doubtful: set[bytes] = set()  # claimed, perhaps: the answer has not come

    def __repr__(self) -> str:
        return f"RedisCoordinator({self._link.address})"

    async def take(self, quota: str, dimension: Dimension, amount: float, rate: float, bucket: float) -> float:
        keys = [_bucket(quota, dimension), _pause(quota)]
        # Who has been there before, and finds nothing, knows that there are promises to the others.
        fresh = fresh_seconds(max(self._workers) if (quota, dimension) in self._taken else 1, amount, rate)
        self._taken.add((quota, dimension))
        turns = max(fresh, LONGEST_TURN * max(self._workers))
        (wait,) = await self._run([(lua.TAKE, keys, [amount, rate, bucket, fresh, turns])])
        return float(wait)

    async def give_back(self, quota: str, dimension: Dimension, amount: float, rate: float) -> None:
        await self._run([(lua.GIVE_BACK, [_bucket(quota, dimension)], [amount, rate])])

    async def pause(self, quota: str, seconds: float) -> None:
        await self._run([(lua.PAUSE, [_pause(quota)], [seconds])])

    async def beat(self, quotas: Sequence[str]) -> Beat:
        doubtful = list(self._doubtful)
        beating: _Run = (lua.BEAT, [_WORKERS, *map(_pause, quotas)], [self._worker, DEAD_SECONDS])
        (workers, *pauses), *_ = await self._run([beating, *self._runs(lua.RELEASE, doubtful)], anyway=True)
        self._doubtful.difference_update(doubtful)
        self._remember(int(workers))
        seconds = zip(quotas, map(float, pauses), strict=True)
        return Beat(int(workers), {quota: pause for quota, pause in seconds if pause > 0})

    def _remember(self, workers: int) -> None:
        before, last = self._workers
        now = asyncio.get_running_loop().time()
        if now < self._beat_at + BEAT_SECONDS:
            self._workers = before, max(last, workers)
        else:
            self._workers, self._beat_at = (last, workers), now

    async def claim(self, keys: Sequence[bytes]) -> list[bool]:
        if self._link.down is not None:
            raise SharingFailed(self._link.down)
        self._doubtful.difference_update(keys)  # else a beat that is sent after this would give them up
        try:
            replies = await self._run(self._runs(lua.CLAIM, keys, _WORKERS))
        except BaseException:
            # Whoever asks goes on without an answer, and would never give up what the server may have granted.
            self._doubtful.update(keys)
            raise
        return [ours == ord("1") for reply in replies for ours in reply]

    async def release(self, keys: Sequence[bytes]) -> None:
        self._doubtful.update(keys)
        await self._run(self._runs(lua.RELEASE, keys))
        self._doubtful.difference_update(keys)

    async def aclose(self) -> None:
        """Leave; without an answer the others notice within two seconds, and nothing is raised."""
        self._closed = True
        try:
            with suppress(LinkFailed):  # claims are good while their worker is there
                await self._link.ask([("ZREM", _WORKERS, self._worker)], anyway=True)
        finally:
            await self._link.aclose()

    def _runs(self, script: lua.Script, keys: Sequence[bytes], *first: str) -> list[_Run]:
        """The script for all these claims, some at a time."""
        parts = [keys[start : start + _CLAIMS] for start in range(0, len(keys), _CLAIMS)]
        return [(script, [*first, *map(_claim, part)], [self._worker]) for part in parts]

    async def _run(self, runs: Sequence[_Run], *, anyway: bool = False) -> list[Any]:
        if self._closed:  # what is sent late must open no connection
            raise SharingFailed(f"{self._link.address}: this process has left")
        known = [("EVALSHA", script.digest, len(keys), *keys, *values) for script, keys, values in runs]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                try:
                    return await self._link.ask(known, anyway=anyway)
                except UnknownScript:  # more than one at a time are only what may be done twice
                    new = [("EVAL", script.text, len(keys), *keys, *values) for script, keys, values in runs]
                    return await self._link.ask(new, anyway=anyway)
        except LinkFailed as error:
            raise SharingFailed(str(error)) from None
        except TimeoutError:
            raise SharingFailed(f"{self._link.address} has not answered within {ANSWER_SECONDS:g} s") from None


def _bucket(quota: str, dimension: Dimension) -> str:
    return f"{_PREFIX}bucket:{quota}:{dimension}"


def _pause(quota: str) -> str:
    return f"{_PREFIX}pause:{quota}"


def _claim(key: bytes) -> str:
    return f"{_PREFIX}claim:{key.hex()}"
