"""The handle on a model that everything above talks to."""

from __future__ import annotations

import asyncio
from typing import Protocol

from asyncopt.bulk import Bulk
from asyncopt.calls import Call, State, Waiter
from asyncopt.dispatch import Dispatcher
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import AsyncoptError, MissingCapability, error_of
from asyncopt.identity import RequestKeys
from asyncopt.limits.budget import Account
from asyncopt.lookups import Lookups
from asyncopt.values import (
    Capabilities,
    Completion,
    Fault,
    Generate,
    Likelihood,
    LogProb,
    Price,
    Priority,
    Prompt,
    Request,
    Sampling,
)


class Host(Protocol):
    """What a model sees of its engine."""

    _lookups: Lookups
    _shared: dict[bytes, Call]
    _closed: bool

    async def flush(self) -> None: ...


class Model:
    """A handle on one model: cached, de-duplicated, rate-limited, and counted for the study that holds it."""

    def __init__(
        self,
        engine: Host,
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
        self._keys = RequestKeys(dispatcher.front.identity, served)

    def __repr__(self) -> str:
        return f"Model({self.name!r} at {self.identity!r})"

    @property
    def supports(self) -> Capabilities:
        """What its endpoint can be asked for."""
        return self._dispatcher.front.supports

    @property
    def identity(self) -> str:
        """The endpoint's part of the cache key."""
        return self._dispatcher.front.identity

    @property
    def bulk(self) -> Bulk:
        """What is needed to ask it many things at once, beside its queue."""
        dispatcher, lookups = self._dispatcher, self._engine._lookups
        named = (self.name, self._served, dispatcher.endpoint, self._keys)  # of a pool, its first member
        return Bulk(*named, lookups, dispatcher.events, self._estimate, self.price, self.account)

    async def flush(self) -> None:
        """Return when all answers so far are on disk."""
        await self._engine.flush()

    def charged_to(self, account: Account) -> Model:
        """The same model, with its calls counted on this account."""
        kept = (self.name, self._served, self.sampling, self.price, self._timeout, self._hedge)
        return Model(self._engine, self._dispatcher, *kept, account)

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
