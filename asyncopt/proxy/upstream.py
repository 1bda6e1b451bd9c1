"""The models behind a proxy: opened when they are first asked, and again after their endpoint was given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from asyncopt.engine import Model
from asyncopt.proxy.refusals import Refusal

Open: TypeAlias = "Callable[[str, int], Awaitable[Model]]"
"""Opens the model of this name. The number is 0, then 1 and so on: each time another dispatcher (``Quota.scope``)."""

MOST_MODELS = 64
GIVEN_UP_SECONDS = 60.0  # a new key, or more credit, is found out after so long; until then nothing is sent


@dataclass(slots=True)
class _Opened:
    model: Model
    times: int = 1
    given_up: float | None = None


class Upstream:
    """Gives the model that a client names. ``names`` are those of the one model; without any, every name is one."""

    def __init__(self, open_model: Open, names: Sequence[str] = ()) -> None:
        self._open = open_model
        self._names = tuple(names)
        self._opened: dict[str, _Opened] = {}
        self._opening = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """What clients may ask for, as far as it is known."""
        return list(self._names or self._opened)

    def require(self, name: str) -> None:
        """Refuse a name that is not among the stated ones."""
        if self._names and name not in self._names:
            wanted = " or ".join(self._names)
            raise Refusal(404, f"the model {name} is not served here; ask for {wanted}", code="model_not_found")

    async def model(self, name: str) -> Model:
        """The model of this name; raises :class:`Refusal` for one that is not served."""
        self.require(name)
        name = self._names[0] if self._names else name
        opened = self._opened.get(name)
        if opened is None or self._is_over(opened):
            async with self._opening:
                opened = await self._reopened(name)
        return opened.model

    def give_up(self, model: Model) -> None:
        """Open this model anew when it is asked some time from now: its endpoint serves nobody as things are."""
        for opened in self._opened.values():
            if opened.model is model and opened.given_up is None:
                opened.given_up = asyncio.get_running_loop().time()

    def _is_over(self, opened: _Opened) -> bool:
        now = asyncio.get_running_loop().time()
        return opened.given_up is not None and now - opened.given_up >= GIVEN_UP_SECONDS

    async def _reopened(self, name: str) -> _Opened:
        opened = self._opened.get(name)
        if opened is not None and not self._is_over(opened):  # somebody else was faster
            return opened
        if opened is None and len(self._opened) >= MOST_MODELS:
            message = f"{MOST_MODELS} models are open, and no more are; start another proxy for {name}"
            raise Refusal(404, message, code="model_not_found")
        times = 0 if opened is None else opened.times
        found = self._opened[name] = _Opened(await self._open(name, times), times + 1)
        return found
