"""How a step asks: many calls at once, proposals in the order of their arrival, and what may fail without harm."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from asyncopt.engine import Model
from asyncopt.errors import CallFailed, EndpointUnusable
from asyncopt.optimizers.base import Search, derived_seed
from asyncopt.optimizers.dln.proposals import PromptRequest, read_prompt
from asyncopt.optimizers.dln.roles import Templates
from asyncopt.values import Completion, FaultKind, Generate, Priority, Request, Sampling

T = TypeVar("T")
NAN = float("nan")


async def completed(call: Awaitable[Completion]) -> Completion | None:
    """What the call brings; None where it failed for good. Raises when the endpoint will serve nobody."""
    try:
        return await call
    except EndpointUnusable:
        raise
    except CallFailed:
        return None


async def all_completed(calls: Sequence[asyncio.Future[Completion]]) -> list[Completion | None]:
    """What the calls bring, in their order; leaving early withdraws those that have not started."""
    try:
        return [await completed(call) for call in calls]
    finally:
        withdraw(calls)


def withdraw(calls: Iterable[asyncio.Future[Completion]]) -> None:
    """Withdraw what has not started."""
    for call in calls:
        if not call.cancel() and not call.cancelled():
            call.exception()  # else asyncio complains of failures that nobody waits for any more


class Asked(Protocol):
    """What is asked of candidates, as the candidates become known."""

    def add(self, candidates: Iterable[str]) -> None:
        """Ask for those that are new."""
        ...

    def close(self) -> None:
        """Withdraw what has not started."""
        ...


class Rows(Asked, Protocol):
    """Scores of candidates."""

    async def row(self, candidate: str) -> list[float]:
        """The candidate's scores by place; NaN where a call failed for good."""
        ...


class Table(Generic[T]):
    """A call for every candidate and every place; ``missing`` stands where one failed for good.

    With ``by_place`` the candidates that are added together are asked for place by place, else candidate by candidate:
    whatever stands first in the request is what a server's cache shares.
    """

    def __init__(
        self,
        model: Model,
        places: int,
        request: Callable[[str, int], Request],
        read: Callable[[Completion, int], T],
        missing: T,
        *,
        by_place: bool = False,
    ) -> None:
        self._model = model
        self._places = places
        self._request = request
        self._read = read
        self._missing = missing
        self._by_place = by_place
        self._calls: dict[str, list[asyncio.Future[Completion]]] = {}

    def add(self, candidates: Iterable[str]) -> None:
        new = [candidate for candidate in dict.fromkeys(candidates) if candidate not in self._calls]
        self._calls |= {candidate: [] for candidate in new}
        places = range(self._places)
        if self._by_place:
            pairs = [(candidate, place) for place in places for candidate in new]
        else:
            pairs = [(candidate, place) for candidate in new for place in places]
        for candidate, place in pairs:
            self._calls[candidate].append(self._model.submit(self._request(candidate, place)))

    async def row(self, candidate: str) -> list[T]:
        done = [await completed(call) for call in self._calls[candidate]]
        return [self._missing if one is None else self._read(one, place) for place, one in enumerate(done)]

    def close(self) -> None:
        withdraw(call for calls in self._calls.values() for call in calls)


async def arrived(
    tables: Sequence[Asked], known: Sequence[str], proposals: Sequence[asyncio.Task[str | None]]
) -> list[str]:
    """The new prompts that the proposals bring, in the proposals' order; each is in the tables since it arrived."""
    for table in tables:
        table.add(known)
    pending = set(proposals)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        texts = [task.result() for task in proposals if task in done]
        for table in tables:
            table.add(text for text in texts if text is not None)
    return [text for text in (task.result() for task in proposals) if text is not None]


def drawn(model: Model, sampling: Sampling, number: int) -> Sampling:
    """The sampling as the draw of this number, which the server gets for a seed if it takes one."""
    # The draw, too: two studies with the same batch must not get the same samples out of the cache.
    return replace(sampling, seed=number if model.supports.seed else None, draw=number)


@dataclass(frozen=True)
class Proposer:
    """The backward model, asked for new prompts in the steps of one search."""

    search: Search
    model: Model
    templates: Templates
    temperature: float
    tokens: int

    def sampling(self, step: int, purpose: str, index: int, stop: tuple[str, ...]) -> Sampling:
        """How one sample of the backward model is drawn."""
        plain = Sampling(temperature=self.temperature, max_tokens=self.tokens, stop=stop)
        return drawn(self.model, plain, derived_seed(self.search.seed, step, purpose, index))

    async def prompt(self, step: int, purpose: str, index: int, request: PromptRequest) -> str | None:
        """The prompt that the model proposes; None where the call failed, or the answer holds none.

        Where the request is too large its last case is left out, and then the next, until one is left.
        """
        stop = self.templates.stop("proposal")
        sampling = self.sampling(step, purpose, index, stop)
        shown: PromptRequest | None = request
        while shown is not None:
            call = self.model.submit(Generate.of(shown.prompt(self.templates), sampling), priority=Priority.PROPOSE)
            try:
                completion = await call
            except EndpointUnusable:
                raise
            except CallFailed as error:
                shrinks = error.fault.kind is FaultKind.TOO_LARGE and not shown.turns  # these show no cases
                shown = shown.shrunk() if shrinks else None
                if shown is None:
                    self.search.proposals.lost(step, error)
                continue
            finally:
                withdraw([call])
            self.search.proposals.came(step)
            prompt = read_prompt(completion.text, stop)
            place = {"step": step, "index": index, "purpose": purpose, "cases": len(shown.cases)}
            rejected = "" if prompt is not None else "empty or too long"
            self.search.trace(
                "proposal", {**place, "answer": completion.text, "candidate": prompt, "rejected": rejected}
            )
            return prompt
        return None
