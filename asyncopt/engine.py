"""The engine that calls share, and the model handles that everything above talks to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from asyncopt.cache import Cache, SqliteCache
from asyncopt.cache.memory import Recent, pack, unpack
from asyncopt.calls import Call, State, Waiter
from asyncopt.dispatch import Dispatcher
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.protocol import Answer, Endpoint
from asyncopt.endpoints.providers import provider
from asyncopt.errors import AsyncoptError, ConfigError, MissingCapability, error_of
from asyncopt.events import CacheDegraded, Events, Note, Observer
from asyncopt.identity import RequestKeys
from asyncopt.limits.budget import Account
from asyncopt.limits.descriptors import most_sockets
from asyncopt.values import (
    DEFAULT_SAMPLING,
    Capabilities,
    Completion,
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
    """

    def __init__(
        self,
        *,
        cache: Cache | str | Path | None = None,
        observers: Iterable[Observer] = (),
        grace: float = 5.0,
    ) -> None:
        self.events = Events(observers)
        self._grace = grace
        self._cache: Cache | None = SqliteCache(cache) if isinstance(cache, str | Path) else cache
        self._recent = Recent()
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._dispatchers: dict[tuple[str, str, str], Dispatcher] = {}
        self._shared: dict[bytes, Call] = {}
        self._lookups: list[tuple[Call, Dispatcher]] = []
        self._lookup_tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._complained = False

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise AsyncoptError("an engine is entered once; make another one")
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise AsyncoptError("the engine runs on asyncio; under anyio choose the asyncio backend") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for task in self._lookup_tasks:
            task.cancel()
        try:
            closing = (dispatcher.aclose(self._grace) for dispatcher in self._dispatchers.values())
            await asyncio.gather(*self._lookup_tasks, *closing, return_exceptions=True)
        finally:
            for call in list(self._shared.values()):
                call.finish(AsyncoptError("the engine was closed before this call had its answer"))
            if self._cache is not None:
                await self._cache.aclose()

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
            dispatcher = self._dispatchers[key] = Dispatcher(endpoint, scope, quota, self.events)
            self._clamp(dispatcher)
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

    # -- the cache -----------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Return when all answers so far are on disk."""
        if self._cache is not None:
            await self._cache.flush()

    def _remember(self, key: bytes, completion: Completion) -> None:
        if self._cache is None:
            return
        self._recent.put(key, completion)
        try:
            self._cache.put(key, pack(completion))
        except Exception as error:  # somebody's own cache must not leave calls waiting for ever
            self._complain(f"{type(error).__name__}: {error}")

    def _recall(self, key: bytes) -> Completion | None:
        return None if self._cache is None else self._recent.get(key)

    def _look_up(self, call: Call, dispatcher: Dispatcher) -> None:
        """Ask the cache, then the dispatcher; what is asked within one turn of the loop is asked together."""
        if self._cache is None:
            dispatcher.enqueue(call)
            return
        if not self._lookups:
            task = asyncio.get_running_loop().create_task(self._answer_lookups(self._cache))
            self._lookup_tasks.add(task)
            task.add_done_callback(self._lookup_tasks.discard)
        self._lookups.append((call, dispatcher))

    async def _answer_lookups(self, cache: Cache) -> None:
        lookups, self._lookups = self._lookups, []
        found = await self._found(cache, [call.key for call, _ in lookups])
        for call, dispatcher in lookups:
            if call.state is State.DONE:
                continue
            value = found.get(call.key)
            completion = None if value is None else unpack(value)
            if completion is None:
                dispatcher.enqueue(call)
            else:
                self._recent.put(call.key, completion)
                for waiter in call.waiters:
                    waiter.account.count_hit()
                call.finish(completion)

    async def _found(self, cache: Cache, keys: list[bytes]) -> dict[bytes, bytes]:
        """What the cache has; a cache that fails has nothing, and is complained of once."""
        try:
            found = await cache.get_many(keys)
            reason = getattr(cache, "degraded", None)
        except Exception as error:  # somebody's own cache must not leave calls waiting for ever
            found, reason = {}, f"{type(error).__name__}: {error}"
        if reason is not None:
            self._complain(reason)
        return found

    def _complain(self, reason: str) -> None:
        if not self._complained:
            self._complained = True
            self.events.emit(CacheDegraded(reason))


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
        completion = engine._recall(key)
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
            engine._look_up(call, self._dispatcher)
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

    def _done(self, call: Call, result: Answer | AsyncoptError) -> None:
        """Keep the answer, then tell everybody who waits for it."""
        self._engine._shared.pop(call.key, None)
        if isinstance(result, Completion):
            if call.attempts:
                self._engine._remember(call.key, result)
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
