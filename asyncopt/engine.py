"""The engine that calls share; it hands out the models that everything above talks to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from asyncopt.cache import Cache, cache_at
from asyncopt.calls import Call
from asyncopt.dispatch import Dispatcher
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.protocol import Endpoint
from asyncopt.endpoints.providers import provider
from asyncopt.errors import AsyncoptError, ConfigError
from asyncopt.events import Events, Note, Observer
from asyncopt.limits.budget import Account
from asyncopt.limits.descriptors import most_sockets
from asyncopt.lookups import Lookups
from asyncopt.loops import to_its_end
from asyncopt.model import Model
from asyncopt.pool import Front, Member, Pool, PoolMember, common
from asyncopt.shared import Coordinator, Sharing
from asyncopt.values import DEFAULT_SAMPLING, Capabilities, Concurrency, Price, Quota, Sampling

__all__ = ["CALL_SECONDS", "Engine", "Model"]

_log = logging.getLogger("asyncopt")

CALL_SECONDS = 600.0
_MOST_HEDGED = 0.1
_NO_QUOTA = Quota()


class Engine:
    """Owns what calls share: sessions, dispatchers (one per endpoint, key and quota scope), cache and events.

    Use it as ``async with Engine(cache="answers.sqlite") as engine``. ``cache`` is None for none, a path, or a
    :class:`~asyncopt.cache.Cache`. Nothing is global: two engines in one process do not meet. An engine belongs to the
    loop it was entered in. When the block is left, calls in flight have ``grace`` seconds to bring what is paid for.
    With ``wait`` a server that asks for more than two minutes, such as for a quota of a day, is waited for; without, it
    ends its studies with :class:`~asyncopt.errors.QuotaExhausted`, and they can be resumed. With a ``coordinator``
    quotas are those of all engines that have the same one, and a question that several ask is answered once.
    """

    def __init__(
        self,
        *,
        cache: Cache | str | Path | None = None,
        observers: Iterable[Observer] = (),
        grace: float = 5.0,
        wait: bool = False,
        coordinator: Coordinator | None = None,
    ) -> None:
        self.events = Events(observers)
        self._sharing = None if coordinator is None else Sharing(coordinator, self.events)
        self._grace = grace
        self._wait = wait
        self._lookups = Lookups(cache_at(cache), self.events, coordinator, self._slots)
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._dispatchers: dict[tuple[str, str, str], Dispatcher] = {}
        self._shared: dict[bytes, Call] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._concurrency: int | None = None  # what the user has set since
        self.paused = False

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise AsyncoptError("an engine is entered once; make another one")
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise AsyncoptError("the engine runs on asyncio; under anyio choose the asyncio backend") from None
        if self._sharing is not None:
            await self._sharing.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for dispatcher in self._dispatchers.values():
            dispatcher.close()
        try:
            await asyncio.gather(*(dispatcher.drain(self._grace) for dispatcher in self._dispatchers.values()))
        finally:
            await to_its_end(self._stop())

    async def _stop(self) -> None:
        stopping = (dispatcher.stop() for dispatcher in self._dispatchers.values())
        await asyncio.gather(self._lookups.stop(), *stopping, return_exceptions=True)
        for call in list(self._shared.values()):
            call.finish(AsyncoptError("the engine was closed before this call had its answer"))
        await self._lookups.aclose()
        if self._sharing is not None:
            await self._sharing.aclose()

    def model(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        endpoint: Endpoint | None = None,
        quota: Quota = _NO_QUOTA,
        sampling: Sampling = DEFAULT_SAMPLING,
        price: Price | None = None,
        timeout: float = CALL_SECONDS,
        hedge: float = 0.0,
    ) -> Model:
        """A handle on the model ``name``: ``openai/NAME``, ``anthropic/NAME``, ... or a name known at ``base_url``.

        ``sampling`` is what :meth:`Model.generate` uses when it is given none; ``timeout`` is in seconds and for one
        attempt; without a ``price`` no budget in dollars can be kept. An ``endpoint`` of your own takes the place of
        ``base_url`` and ``api_key``. ``hedge`` is the share of calls, such as 0.02, that may be asked a second time
        when their answer does not begin; they are then all streamed.
        """
        self._require_open()
        served, endpoint = self._endpoint_of(name, base_url, api_key, endpoint)
        _check_hedge(name, hedge, endpoint.supports)
        dispatcher = self._dispatcher(endpoint, quota.scope or served, quota)
        return Model(self, dispatcher, name, served, sampling, price, timeout, hedge, Account())

    def pool(
        self,
        name: str,
        members: Sequence[Member],
        *,
        identity: str | None = None,
        sampling: Sampling = DEFAULT_SAMPLING,
        price: Price | None = None,
        timeout: float = CALL_SECONDS,
        hedge: float = 0.0,
    ) -> Model:
        """A handle on the model ``name`` that all these endpoints serve, which act as one.

        Each has its own quota; a call goes to whichever may start it first, and from one that fails it to another. In
        the cache the answers are those of ``identity``, or else of the first member: others may be added and leave. The
        same members are the same pool; the rest is as in :meth:`model`. Raises :class:`ConfigError` for an endpoint
        that is used outside of the pool under the same scope, where one quota would be kept twice.
        """
        self._require_open()
        if not members:
            raise ConfigError(f"the pool of {name} has no members; give at least one")
        served, endpoints = "", []
        for member in members:
            served, endpoint = self._endpoint_of(name, member.base_url, member.api_key, member.endpoint)
            endpoints.append(endpoint)
        front = Front(identity or endpoints[0].identity, common(endpoint.supports for endpoint in endpoints))
        _check_hedge(name, hedge, front.supports)
        pool = self._pool(served, front, list(zip(members, endpoints, strict=True)))
        return Model(self, pool.members[0], name, served, sampling, price, timeout, hedge, Account())

    def _pool(self, served: str, front: Front, members: Sequence[tuple[Member, Endpoint]]) -> Pool:
        keys = [(one.identity, one.account, member.quota.scope or served) for member, one in members]
        known = [self._dispatchers.get(key) for key in keys]
        if isinstance(known[0], PoolMember) and known[0].pool.is_made_of(front, known, [one for one, _ in members]):
            return known[0].pool
        if len(set(keys)) < len(keys) or any(known):
            raise ConfigError(
                f"an endpoint of the pool of {served} is given twice, or is in use outside of it or on other terms; "
                "state each once and always alike, or give its quota another scope"
            )
        pool = Pool(served, front, members, self.events, wait_for_quota=self._wait)
        for key, dispatcher in zip(keys, pool.members, strict=True):
            self._enlist(key, dispatcher)
        return pool

    def _require_open(self) -> None:
        if self._loop is None or self._closed:
            raise AsyncoptError("the engine is not open; use it inside `async with Engine(...) as engine:`")
        if asyncio.get_running_loop() is not self._loop:
            raise AsyncoptError("the engine belongs to another event loop; make one in each loop")

    def _endpoint_of(
        self, name: str, base_url: str | None, api_key: str | None, endpoint: Endpoint | None
    ) -> tuple[str, Endpoint]:
        """The name that the model has there, and the endpoint."""
        if endpoint is not None:
            return provider(name, "http://localhost", None).model, endpoint
        found = provider(name, base_url, api_key)
        fresh = HttpEndpoint(found.base_url, api_key, codec=found.codec, supports=found.capabilities)
        # Two formats at one address are two endpoints, and so are two accounts.
        key = (fresh.identity, f"{type(found.codec).__name__}:{fresh.account}")
        return found.model, self._endpoints.setdefault(key, fresh)

    def _dispatcher(self, endpoint: Endpoint, scope: str, quota: Quota) -> Dispatcher:
        key = (endpoint.identity, endpoint.account, scope)
        dispatcher = self._dispatchers.get(key)
        if dispatcher is None:
            dispatcher = Dispatcher(endpoint, scope, quota, self.events, wait_for_quota=self._wait)
            self._enlist(key, dispatcher)
        elif isinstance(dispatcher, PoolMember):
            raise ConfigError(f"{endpoint.identity} serves {scope} in a pool; state another scope to use it alone")
        elif quota not in (_NO_QUOTA, dispatcher.quota):
            raise ConfigError(
                f"{scope} at {endpoint.identity} has the quota {dispatcher.quota} and is given {quota}; "
                "state one of them, or different scopes"
            )
        return dispatcher

    def _enlist(self, key: tuple[str, str, str], dispatcher: Dispatcher) -> None:
        """Put a dispatcher under the engine's controls."""
        self._dispatchers[key] = dispatcher
        if self._sharing is not None and not getattr(dispatcher.endpoint, "own", False):
            self._sharing.join(*key, dispatcher.control)
        if self._concurrency is not None:
            dispatcher.control.set_concurrency(self._concurrency)
        self._clamp(dispatcher)
        if self.paused:
            dispatcher.control.pause(asyncio.get_running_loop().time())

    def _clamp(self, dispatcher: Dispatcher) -> None:
        """Keep within the process's limit of open files, and say so: a socket is needed for each call in flight."""
        most = most_sockets() if isinstance(dispatcher.endpoint, HttpEndpoint) else None
        if most is not None and isinstance(dispatcher, PoolMember):
            most = max(most // len(dispatcher.pool.members), 1)
        if most is not None and dispatcher.slots.clamp(most):
            message = f"at most {most} calls are in flight: the limit of open files allows no more (raise ulimit -n)"
            _log.warning("%s", message)
            self.events.emit(Note(message))

    @property
    def sharing(self) -> Sharing | None:
        """With how many others quotas are shared, and whether that works now; None for an engine on its own."""
        return self._sharing

    def _slots(self) -> int:
        return sum(dispatcher.slots.limit for dispatcher in self._dispatchers.values())

    @property
    def dispatchers(self) -> tuple[Dispatcher, ...]:
        """All dispatchers, for those who show what the engine is doing."""
        return tuple(self._dispatchers.values())

    # -- controls ------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Start no more calls until :meth:`resume`; those in flight end, and seconds of budgets go on."""
        self._require_open()
        if not self.paused:
            self.paused = True
            for dispatcher in self._dispatchers.values():
                dispatcher.control.pause(asyncio.get_running_loop().time())
            self.events.emit(Note("paused: no call starts until the run is resumed"))

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._require_open()
        if self.paused:
            self.paused = False
            for dispatcher in self._dispatchers.values():
                dispatcher.go_on()
            self.events.emit(Note("resumed after a pause"))

    def set_concurrency(self, most: int) -> None:
        """Have at most so many calls in flight at every endpoint, from now on and beginning with so many.

        Limits that adapt go on adapting below it. Raises :class:`ConfigError` for what is no number of calls.
        """
        self._require_open()
        try:
            Concurrency.of(most)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._concurrency = most
        for dispatcher in self._dispatchers.values():
            dispatcher.control.set_concurrency(most)
            self._clamp(dispatcher)
            if not self.paused:
                dispatcher.go_on()
        self.events.emit(Note(f"at most {most} calls are in flight from now on"))

    async def drain(self, grace: float) -> None:
        """Start no more calls, and return when none is in flight or ``grace`` seconds have passed.

        Whoever still waits then gets no answer until the engine is left, which then waits no second time.
        """
        self._grace = 0.0
        await asyncio.gather(*(dispatcher.drain(grace) for dispatcher in self._dispatchers.values()))

    async def flush(self) -> None:
        """Return when all answers so far are on disk."""
        await self._lookups.flush()


def _check_hedge(name: str, hedge: float, supports: Capabilities) -> None:
    if not 0 <= hedge <= _MOST_HEDGED:
        raise ConfigError(f"hedge is {hedge}; it is the share of calls asked twice, from 0 to {_MOST_HEDGED}")
    if hedge and not supports.stream:
        raise ConfigError(f"hedging needs streamed answers, which the endpoint of {name} does not give")
