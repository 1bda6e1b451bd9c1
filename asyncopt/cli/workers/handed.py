"""An embedded model that the sweep's process has started once for all of its workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from asyncopt.errors import ConfigError
from asyncopt.local.lasting import LastingServer
from asyncopt.local.server import START_SECONDS


class HandedServer(LastingServer):
    """The server as a worker knows it: its address and key; who has started it is asked to start it again."""

    own = False  # its slots are divided among the workers, as any quota is

    def __init__(self, model: str, handed: Mapping[str, Any], ask: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(model, slots=handed["slots"])
        self._ask = ask
        self._asked: asyncio.Future[Mapping[str, Any]] | None = None
        self.identity, self.api_key = handed["identity"], handed["api_key"]
        self.base_url, self.pid = handed["base_url"], handed["pid"]

    @property
    def running(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except OSError:
            return False
        return True

    async def restart(self) -> None:
        """Have it started again; raises :class:`ConfigError` where it does not start."""
        self._asked = asyncio.get_running_loop().create_future()
        self._ask({"event": "server", "model": str(self._model), "pid": self.pid})
        try:
            async with asyncio.timeout(START_SECONDS):
                answer = await self._asked
        except TimeoutError:
            raise ConfigError("the embedded model's server was not started again in time") from None
        if "error" in answer:
            raise ConfigError(str(answer["error"]))
        self.base_url, self.pid = answer["base_url"], answer["pid"]

    def heard(self, answer: Mapping[str, Any]) -> None:
        """The answer of who has started it."""
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(answer)


def handed(server: LastingServer) -> dict[str, Any]:
    """What a worker must know of a server."""
    names = ("base_url", "api_key", "identity", "slots", "pid")
    return {name: getattr(server, name) for name in names}


class Reviver:
    """Starts servers again that workers have found dead; several may find the same one."""

    def __init__(self, servers: Mapping[str, LastingServer]) -> None:
        self._servers = servers
        self._one_at_a_time = asyncio.Lock()

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The message to the worker that asks."""
        server = self._servers[request["model"]]
        told = {"do": "server", "model": request["model"]}
        async with self._one_at_a_time:
            if server.pid == request["pid"]:
                try:
                    await server.restart()
                except ConfigError as error:
                    return {**told, "error": str(error)}
            return {**told, "base_url": server.base_url, "pid": server.pid}
