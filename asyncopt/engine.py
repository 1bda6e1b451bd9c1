"""The engine that calls share, and the model handles that everything above talks to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from asyncopt.cache import Cache, cache_at
from asyncopt.calls import Call, State, Waiter
from asyncopt.dispatch import Dispatcher
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.protocol import Answer, Endpoint
from asyncopt.endpoints.providers import provider
from asyncopt.errors import AsyncoptError, ConfigError, MissingCapability, error_of
from asyncopt.events import Events, Note, Observer
from asyncopt.identity import RequestKeys
from asyncopt.limits.budget import Account
from asyncopt.limits.descriptors import most_sockets
from asyncopt.lookups import Lookups
from asyncopt.loops import to_its_end
from asyncopt.shared import Coordinator, Sharing
from asyncopt.values import (
    DEFAULT_SAMPLING,
    Capabilities,
    Completion,
    Concurrency,
    Fault,
    Generate,
    Likelihood,
    LogProb,
    Price,
    Priority,
    Prompt,
    Quota,
    Request,
    Sampling,
)

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
        self._lookups = Lookups(cache_at(cache), self.events, coordinator)
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
        if not 0 <= hedge <= _MOST_HEDGED:
            raise ConfigError(f"hedge is {hedge}; it is the share of calls asked twice, from 0 to {_MOST_HEDGED}")
        if endpoint is None:
            served, endpoint = self._http_endpoint(name, base_url, api_key)
        else:
            served = provider(name, "http://localhost", None).model
        if hedge and not endpoint.supports.stream:
            raise ConfigError(f"hedging needs streamed answers, which the endpoint of {name} does not give")
        dispatcher = self._dispatcher(endpoint, quota.scope or served, quota)
        return Model(self, dispatcher, name, served, sampling, price, timeout, hedge, Account())

    def _require_open(self) -> None:
        if self._loop is None or self._closed:
            raise AsyncoptError("the engine is not open; use it inside `async with Engine(...) as engine:`")
        if asyncio.get_running_loop() is not self._loop:
            raise AsyncoptError("the engine belongs to another event loop; make one in each loop")

    def _http_endpoint(self, name: str, base_url: str | None, api_key: str | None) -> tuple[str, Endpoint]:
        found = provider(name, base_url, api_key)
        fresh = HttpEndpoint(found.base_url, api_key, codec=found.codec, supports=found.capabilities)
        # Two formats at one address are two endpoints, and so are two accounts.
        key = (fresh.identity, f"{type(found.codec).__name__}:{fresh.account}")
        return found.model, self._endpoints.setdefault(key, fresh)

    def _dispatcher(self, endpoint: Endpoint, scope: str, quota: Quota) -> Dispatcher:
        key = (endpoint.identity, endpoint.account, scope)
        dispatcher = self._dispatchers.get(key)
        if dispatcher is None:
            dispatcher = self._dispatchers[key] = Dispatcher(
                endpoint, scope, quota, self.events, wait_for_quota=self._wait
            )
            if self._sharing is not None:
                self._sharing.join(endpoint.identity, endpoint.account, scope, dispatcher.control)
            if self._concurrency is not None:
                dispatcher.control.set_concurrency(self._concurrency)
            self._clamp(dispatcher)
            if self.paused:
                dispatcher.control.pause(asyncio.get_running_loop().time())
        elif quota not in (_NO_QUOTA, dispatcher.quota):
            raise ConfigError(
                f"{scope} at {endpoint.identity} has the quota {dispatcher.quota} and is given {quota}; "
                "state one of them, or different scopes"
            )
        return dispatcher

    def _clamp(self, dispatcher: Dispatcher) -> None:
        """Keep within the process's limit of open files, and say so: a socket is needed for each call in flight."""
        most = most_sockets() if isinstance(dispatcher.endpoint, HttpEndpoint) else None
        if most is not None and dispatcher.slots.clamp(most):
            message = f"at most {most} calls are in flight: the limit of open files allows no more (raise ulimit -n)"
            _log.warning("%s", message)
            self.events.emit(Note(message))

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


class Model:
    """A handle on one model: cached, de-duplicated, rate-limited, and counted for the study that holds it."""

    def __init__(
        self,
        engine: Engine,
        dispatcher: Dispatcher,
        name: str,
        served: str,
        sampling: Sampling,
        price: Price | None,
        timeout: float,
        hedge: float,
        account: Account,
    ) -> None:
        self.name = name
        self.sampling = sampling
        self.price = price
        self.account = account
        self._engine = engine
        self._dispatcher = dispatcher
        self._served = served
        self._timeout = timeout
        self._hedge = hedge
        self._estimate = dispatcher.estimate(served)
        # Bound once: a bound method for each of 100,000 queued calls would be 12 MB.
        self._on_done, self._on_abandoned = self._done, self._abandoned
        self._loop = asyncio.get_running_loop()
        self._keys = RequestKeys(dispatcher.endpoint.identity, served)

    def __repr__(self) -> str:
        return f"Model({self.name!r} at {self.identity!r})"

    @property
    def supports(self) -> Capabilities:
        """What its endpoint can be asked for."""
        return self._dispatcher.endpoint.supports

    @property
    def identity(self) -> str:
        """The endpoint's part of the cache key."""
        return self._dispatcher.endpoint.identity

    async def flush(self) -> None:
        """Return when all answers so far are on disk."""
        await self._engine.flush()

    def charged_to(self, account: Account) -> Model:
        """The same model, with its calls counted on this account."""
        return Model(
            self._engine,
            self._dispatcher,
            self.name,
            self._served,
            self.sampling,
            self.price,
            self._timeout,
            self._hedge,
            account,
        )

    def submit(self, request: Request, *, priority: Priority = Priority.SCORE) -> asyncio.Future[Completion]:
        """A future of the completion; no task is made for it, and cancelling it before its call starts costs nothing.

        It raises :class:`~asyncopt.errors.CallFailed` when the call has failed for good, and
        :class:`~asyncopt.errors.BudgetExhausted` when the account does not cover it. A request that the endpoint
        cannot answer is refused here and now, with :class:`~asyncopt.errors.MissingCapability`.
        """
        self._check(request)
        engine = self._engine
        key = self._keys.of(request)
        waiter = Waiter(loop=self._loop)
        completion = engine._lookups.recall(key)
        if completion is not None:
            self.account.count_hit()
            waiter.set_result(completion)
            return waiter
        call = engine._shared.get(key)
        waiter.account = self.account
        if call is None:
            if engine._closed:
                raise AsyncoptError("the engine is closed; submit inside its `async with` block")
            call = self._call(key, request, priority)
            waiter.call = call
            call.waiters.append(waiter)
            engine._shared[key] = call
            engine._lookups.look_up(call, self._dispatcher)
        else:
            self.account.count_hit()  # somebody has asked the same: it is answered once, and paid once
            waiter.call = call
            call.waiters.append(waiter)
        return waiter

    async def generate(self, prompt: Prompt, sampling: Sampling | None = None) -> Completion:
        """The model's answer to a text or to messages; raises as :meth:`submit` does."""
        return await self.submit(Generate.of(prompt, self.sampling if sampling is None else sampling))

    async def likelihood(self, prompt: Prompt, continuation: str) -> LogProb:
        """log p(continuation | prompt) by tokens, nothing put between the two; raises as :meth:`submit` does."""
        return LogProb.of(await self.submit(Likelihood.of(prompt, continuation)))

    def _check(self, request: Request) -> None:
        supports = self.supports
        if isinstance(request, Likelihood):
            if not supports.prompt_logprobs:
                raise MissingCapability(
                    f"{self.name} gives no log-probabilities of a given text; that takes a server which echoes its "
                    'prompt with them (format = "completions", as of vLLM), or the embedded model (local)'
                )
        elif request.top_logprobs > supports.top_logprobs:
            raise MissingCapability(
                f"{request.top_logprobs} top log-probabilities are wanted of {self.name}, which gives "
                f"{supports.top_logprobs or 'none'}; ask for at most that many, or use another model"
            )
        elif request.extra and not supports.extra:
            raise MissingCapability(f"{self.name} is asked in a format that carries no further fields; leave extra out")

    def _call(self, key: bytes, request: Request, priority: Priority) -> Call:
        return Call(
            key,
            self._served,
            request,
            priority,
            self._estimate.of(request),
            self.price,
            self._timeout,
            0.0 if isinstance(request, Likelihood) else self._hedge,  # it has no first piece that could be late
            self._on_done,
            self._on_abandoned,
        )

    def _abandoned(self, call: Call) -> None:
        self._dispatcher.withdraw(call)
        if call.state is State.DONE:
            self._engine._shared.pop(call.key, None)
            self._engine._lookups.ended(call.key)

    def _done(self, call: Call, result: Answer | AsyncoptError) -> None:
        """Keep the answer, then tell everybody who waits for it."""
        self._engine._shared.pop(call.key, None)
        if isinstance(result, Completion):
            if call.attempts:
                self._engine._lookups.remember(call.key, result)
            for waiter in call.waiters:
                waiter.call = None
                if not waiter.done():
                    waiter.set_result(result)
        else:
            for waiter in call.waiters:
                waiter.call = None
                if not waiter.done():
                    waiter.set_exception(error_of(result) if isinstance(result, Fault) else result)
                    if self._engine._closed:
                        waiter.exception()  # else asyncio complains of everybody who stopped caring before the end
        call.waiters.clear()
        if self._engine._lookups.flights is not None:
            self._engine._lookups.flights.ended(call.key)
