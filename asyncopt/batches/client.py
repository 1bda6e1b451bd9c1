"""The five things that are asked of a provider about batches, each until it has an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from asyncopt import codec
from asyncopt.batches.wire import TOKEN, WINDOW, Batch, batch_of, batches_of, form_of, has_results, id_in
from asyncopt.endpoints.errands import BatchingEndpoint, Errand
from asyncopt.endpoints.faults import fault_of, malformed
from asyncopt.endpoints.parts import json_of
from asyncopt.endpoints.protocol import Reply
from asyncopt.errors import MissingCapability, error_of
from asyncopt.values import Fault, FaultKind

MISSED = 3  # looks in vain, after which there is no such batch: a provider may not know at once what it has just taken
PATIENCE = 3600.0  # seconds without a reply, after which a provider counts as down: a batch has a day
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 1.0, 60.0, 1.5
_PASSING = (
    FaultKind.RATE_LIMITED,
    FaultKind.RAMP,
    FaultKind.TRANSIENT,
    FaultKind.AMBIGUOUS,
    FaultKind.MALFORMED,
)
_UNCERTAIN = (FaultKind.TRANSIENT, FaultKind.AMBIGUOUS, FaultKind.MALFORMED)  # it may have been done all the same
_NOT_THERE = (404, 405, 501)
_PAGE = 100  # batches of a list, as many as a provider gives at once
_MOST_PAGES = 100


def pauses() -> Iterator[float]:
    """Seconds between looks: from one second to a minute, growing by half."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


class BatchClient:
    """A provider's files and batches. What may pass is waited for, everything else raises what a call would raise."""

    def __init__(self, endpoint: BatchingEndpoint) -> None:
        self._endpoint = endpoint

    async def require(self, name: str) -> None:
        """Raise :class:`MissingCapability` where there are no batches; nothing is sent for that."""
        reply = await self._reply(Errand("GET", "/batches?limit=1"))  # a page here is a wrong address: said at once
        if reply.status in _NOT_THERE:
            raise MissingCapability(
                f"{name} at {self._endpoint.identity} has no batches (HTTP {reply.status}); leave batches out, and it "
                "is asked one by one"
            )
        _require(batches_of(reply))

    async def upload(self, data: bytes) -> str:
        """The identifier of a new file with these requests."""
        body, kind = form_of(data)
        found = id_in(await self._reply(Errand("POST", "/files", body, kind)))
        if isinstance(found, Fault):
            raise error_of(found)
        return found

    async def create(self, file: str, url: str, token: str) -> Batch:
        """The new batch over this file; where it is not known whether there is one, it is looked for first."""
        fields = {"input_file_id": file, "endpoint": url, "completion_window": WINDOW, "metadata": {TOKEN: token}}
        errand = Errand("POST", "/batches", codec.dumps(fields))
        waited = 0.0
        for pause in pauses():
            found = await self._created(errand)
            if isinstance(found, Batch):
                return found
            _require_hope(found, waited)
            wait = max(pause, found.retry_after or 0.0)
            await asyncio.sleep(wait)
            waited += wait
            if found.kind in _UNCERTAIN and (batch := await self.find(token)) is not None:
                return batch
        raise AssertionError("pauses do not end")

    async def _created(self, errand: Errand) -> Batch | Fault:
        reply = await self._endpoint.errand(errand)
        return reply if isinstance(reply, Fault) else batch_of(reply)

    async def look(self, batch: str) -> Batch | None:
        """How the batch is now; None where there is none of that name any more."""
        reply = await self._reply(Errand("GET", f"/batches/{batch}"), _says("id"))
        if reply.status == _NOT_THERE[0]:
            return None
        found = batch_of(reply)
        if isinstance(found, Fault):
            raise error_of(found)
        return found

    async def find(self, token: str) -> Batch | None:
        """The batch that was submitted with this token, if any was.

        It is looked for again and again: a provider may still work on what was asked of it when the connection ended.
        """
        for _, pause in zip(range(MISSED - 1), pauses(), strict=False):
            if (found := await self._found(token)) is not None:
                return found
            await asyncio.sleep(pause)
        return await self._found(token)

    async def _found(self, token: str) -> Batch | None:
        after = ""
        for _ in range(_MOST_PAGES):
            reply = await self._reply(Errand("GET", f"/batches?limit={_PAGE}{after}"), _says("data"))
            batches, more = _require(batches_of(reply))
            for batch in batches:
                if batch.token == token:
                    return batch
            if not more or not batches:
                return None
            after = f"&after={batches[-1].id}"
        return None

    async def content(self, file: str) -> bytes | None:
        """The results in the file; None where there is none of that name any more."""
        reply = await self._reply(Errand("GET", f"/files/{file}/content"), has_results)
        if reply.status == _NOT_THERE[0]:
            return None
        if reply.status != 200:
            raise error_of(_fault_in(reply))
        return reply.body

    async def _reply(self, errand: Errand, readable: Callable[[bytes], bool] = lambda _: True) -> Reply:
        """The reply to something that may be asked twice, after whatever passes.

        So does what is not ``readable``, such as a page of a gateway in the provider's place.
        """
        waited = 0.0
        for pause in pauses():
            reply = await self._endpoint.errand(errand)
            fault = reply if isinstance(reply, Fault) else _fault_in(reply) if reply.status >= 400 else None
            if isinstance(reply, Reply) and fault is None and not readable(reply.body):
                fault = malformed(reply.status, "not what a provider says of batches")
            if isinstance(reply, Reply) and (fault is None or fault.kind not in _PASSING):
                return reply
            assert fault is not None
            _require_hope(fault, waited)
            wait = max(pause, fault.retry_after or 0.0)
            await asyncio.sleep(wait)
            waited += wait
        raise AssertionError("pauses do not end")


def _says(name: str) -> Callable[[bytes], bool]:
    """Whether a reply is an object with this in it."""

    def readable(body: bytes) -> bool:
        value = json_of(body)
        return isinstance(value, dict) and name in value

    return readable


def _require_hope(fault: Fault, waited: float) -> None:
    """Raise what a call would raise for a fault that does not pass, or has not passed for too long."""
    if fault.kind not in _PASSING:
        raise error_of(fault)
    if waited > PATIENCE:
        detail = f"no word of batches for {waited:.0f} s; at last: {fault.detail}"
        raise error_of(Fault(FaultKind.DOWN, codec.printable(detail)))


def _fault_in(reply: Reply) -> Fault:
    return fault_of(reply.status, reply.headers, json_of(reply.body), reply.body)


def _require(found: tuple[list[Batch], bool] | Fault) -> tuple[list[Batch], bool]:
    if isinstance(found, Fault):
        raise error_of(found)
    return found
