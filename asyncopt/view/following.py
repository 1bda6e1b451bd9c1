"""A run followed by its files: what is new goes to each browser that looks at it, as fast as this one takes it.

Nothing is queued for a browser. It is sent what differs from what it has, so that a slow one gets fewer, larger steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from asyncopt import codec
from asyncopt.ctl import ask
from asyncopt.errors import AsyncoptError, ConfigError
from asyncopt.view.runs import Shown

LOOK_SECONDS = 0.5  # between two looks at the files of a run
SHARE = 4  # times as long as reading took is not read: a large run is looked at less often
STATUS_SECONDS = 1.0
HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b":\n\n"


class Following:
    """Reads runs for those who look at them: in threads, one at a time, so that a large run holds up nobody's page."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._statuses: dict[str, tuple[float, bytes]] = {}

    async def refresh(self, shown: Shown) -> None:
        """Return when what is shown of the run is what its files say."""
        async with self._reading:
            await asyncio.to_thread(shown.refresh)

    async def answers(self, shown: Shown, candidate: str) -> list[dict[str, Any]]:
        """What :meth:`Shown.answers` finds."""
        async with self._reading:
            return await asyncio.to_thread(shown.answers, candidate)

    async def tell(self, shown: Shown, request: Mapping[str, Any]) -> bytes:
        """The answer of the run's controls to a request, which is news for all who look; raises as :func:`ask`."""
        status = codec.dumps(await ask(shown.controlled_by(), request))
        self._statuses[shown.place.id] = asyncio.get_running_loop().time(), status
        return status

    async def events(self, shown: Shown) -> AsyncGenerator[bytes, None]:
        """Server-Sent Events from now on: what is new, and heartbeats; empty where there is nothing to send."""
        loop = asyncio.get_running_loop()
        sent: dict[str, bytes] = {}
        status, sent_at = b"", loop.time()
        while True:
            began = loop.time()
            with suppress(ConfigError):  # the directory has gone: what was shown stays
                await self.refresh(shown)
            took = loop.time() - began
            news = b""
            parts = shown.parts
            new = {name: part for name, part in parts.items() if sent.get(name) is not part}
            if new:
                news += _event("change" if sent else "document", _joined(new))
                sent = parts
            if (latest := await self._status(shown)) != status:
                status = latest
                news += _event("status", status)
            if loop.time() - sent_at >= HEARTBEAT_SECONDS:
                news = news or HEARTBEAT
            if news:
                sent_at = loop.time()
            yield news
            await asyncio.sleep(max(LOOK_SECONDS, SHARE * took))

    async def _status(self, shown: Shown) -> bytes:
        """What the run's controls say as JSON, asked once a second for all who look; null where nobody listens."""
        now = asyncio.get_running_loop().time()
        asked_at, status = self._statuses.get(shown.place.id, (float("-inf"), b"null"))
        if now - asked_at < STATUS_SECONDS:
            return status
        self._statuses[shown.place.id] = now, status  # the others need not ask meanwhile
        try:
            return await self.tell(shown, {"do": "status"})
        except AsyncoptError:
            self._statuses[shown.place.id] = now, b"null"
            return b"null"


def _event(name: str, data: bytes) -> bytes:
    """One event; JSON has no line breaks of its own, so that nothing in it can begin another event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _joined(parts: dict[str, bytes]) -> bytes:
    """One JSON object of these values."""
    return b"{" + b",".join(codec.dumps(name) + b":" + part for name, part in parts.items()) + b"}"


def whole(shown: Shown) -> bytes:
    """The run's document as JSON."""
    return _joined(shown.parts)
