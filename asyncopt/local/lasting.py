"""A model server that is started again when something kills it, as a system short of memory does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import ConfigError
from asyncopt.local.server import LocalServer
from asyncopt.values import Fault, FaultKind, Request

MOST_STARTS = 4  # what kills it every time, such as too little memory, would kill it for ever


class LastingServer(LocalServer):
    """A :class:`LocalServer` that can be started again after its process has died."""

    own = True  # this process's alone
    _path: Path

    async def _start(self, path: Path) -> None:
        self._path = path
        await super()._start(path)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def restart(self) -> None:
        """Start the process again, at another address; raises :class:`ConfigError` where it does not start."""
        await self._stop()
        try:
            await self._start(self._path)
        except BaseException:
            await self._stop()
            raise


class LastingEndpoint:
    """The endpoint of such a server, at whatever address it is: identity, key and answers stay the same.

    ``own`` says that its slots are this process's alone, whoever shares quotas with it.
    """

    def __init__(self, server: LastingServer, endpoint_of: Callable[[LocalServer], HttpEndpoint]) -> None:
        self._server = server
        self._endpoint_of = endpoint_of
        self.own = server.own
        self._endpoint = endpoint_of(server)
        self._starts = 1
        self._reviving = asyncio.Lock()
        self.identity, self.account = self._endpoint.identity, self._endpoint.account
        self.supports = self._endpoint.supports

    async def send(self, model: str, request: Request) -> Answer:
        used = self._endpoint
        answer = await used.send(model, request)
        if isinstance(answer, Fault) and not self._server.running:
            return await self._revive(used) or answer
        return answer

    async def _revive(self, used: HttpEndpoint) -> Fault | None:
        """Start the server again unless another call has; the fault if it will not live."""
        async with self._reviving:
            if self._endpoint is not used:
                return None
            if self._starts == MOST_STARTS:
                return Fault(FaultKind.DOWN, f"the embedded model's server died {MOST_STARTS} times; free some memory")
            self._starts += 1
            try:
                await self._server.restart()
            except ConfigError as error:
                return Fault(FaultKind.DOWN, str(error))
            self._endpoint = self._endpoint_of(self._server)
            await used.aclose()
            return None

    async def aclose(self) -> None:
        await self._endpoint.aclose()
