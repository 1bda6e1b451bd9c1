"""A plan of what goes wrong: seeded, printable, shrinkable, and the same in one loop as over sockets."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

from asyncopt.errors import ConfigError

Usual: TypeAlias = Literal["500", "502", "503", "529", "429", "reset", "malformed", "slow"]
"""What a plan does that names no kinds."""

Passing: TypeAlias = Literal[
    Usual, "504", "520", "408", "409", "503-after", "html", "429-after", "429-ms", "429-date", "429-nonsense", "ramp",
    "error-200", "reset-body", "truncated", "no-choices", "hang", "no-usage", "absurd-usage", "other-model",
]  # fmt: skip
"""What a client gets over by trying again, or need not get over."""

OfItems: TypeAlias = Literal["400", "too-large", "refused", "null-content", "length", "length-empty"]
"""What the server says of one request, so that trying again is of no use."""

Permanent: TypeAlias = Literal["401", "403", "404", "402", "quota", "daily"]
"""What no request gets over."""

Kind: TypeAlias = Literal[Passing, OfItems, Permanent]
Event: TypeAlias = tuple[int, Kind]

USUAL: tuple[Kind, ...] = get_args(Usual)
PASSING: tuple[Kind, ...] = get_args(Passing)
OF_ITEMS: tuple[Kind, ...] = get_args(OfItems)
PERMANENT: tuple[Kind, ...] = get_args(Permanent)
KINDS: tuple[Kind, ...] = get_args(Kind)

SLOW_FACTOR = 10.0
_FORM = (
    "seed=NUMBER,rate=SHARE[,kinds=KIND+KIND...], at=NUMBER:KIND+NUMBER:KIND..., after=NUMBER:KIND, or several of "
    f"these, with kinds of {', '.join(KINDS)}"
)


class Cut(Exception):
    """The server cut the connection instead of answering."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """For every request number, whether it fails and how; a retry has a number of its own, and so another chance.

    A request fails as ``at`` says; else, from the number in ``after`` on, as that says; else by chance, a share
    ``rate`` of them, each in one of the ``kinds``. Chance is a function of the seed and the number alone, whatever else
    happens; the order of the kinds counts, since one of them is drawn by its place.

    ``429`` (in all its forms), ``ramp``, ``error-200`` and what is permanent come at once; ``slow`` answers after ten
    times the latency and ``hang`` never; the others come after the latency. ``429`` says nothing of when to come back;
    ``429-after`` says in 3 s, ``429-ms`` in 250 ms beside a contradiction, ``429-date`` at a moment 4 s from now by the
    server's clock, ``429-nonsense`` nothing readable, and ``503-after`` in 5 s. ``reset`` cuts the connection before
    the headers, ``reset-body`` in the body. ``malformed`` and ``truncated`` are bodies of half an answer, the latter of
    the right one. Quotas are asked first: a request that they refuse is not in the plan's hands.
    """

    seed: int = 0
    rate: float = 0.0
    kinds: tuple[Kind, ...] = USUAL
    at: tuple[Event, ...] = ()
    after: Event | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"the rate of faults is {self.rate!r}; it must be in [0, 1]")
        named = (*self.kinds, *(kind for _, kind in self.stated))
        if not self.kinds or not set(named) <= set(KINDS):
            raise ConfigError(f"the kinds of faults are {named!r}; wanted some of {', '.join(KINDS)}")
        if any(number < 0 for number, _ in self.stated):
            raise ConfigError(f"the faults {self.stated!r} have a number below 0; requests are counted from 0")

    @property
    def stated(self) -> tuple[Event, ...]:
        """The events that are named and no matter of chance."""
        return self.at if self.after is None else (*self.at, self.after)

    @classmethod
    def of(cls, events: Iterable[Event]) -> FaultPlan:
        """The plan in which these requests fail, and no others."""
        return cls(at=tuple(sorted(events)))

    @classmethod
    def parse(cls, text: str) -> FaultPlan:
        """The plan that a command-line text such as ``seed=1,rate=0.05,kinds=500+reset,after=90:quota`` describes."""
        parts = dict(part.strip().partition("=")[::2] for part in text.split(","))
        try:
            plan = cls(**_chance(parts), at=_events(parts.pop("at", "")), after=_event(parts.pop("after", "")))
        except (KeyError, ValueError):
            raise ConfigError(f"the faults are {text!r}; wanted {_FORM}") from None
        if parts:
            raise ConfigError(f"the faults name {', '.join(parts)}, which is not known; wanted {_FORM}")
        return plan

    def __str__(self) -> str:
        """The one line that :meth:`parse` reads."""
        kinds = "" if self.kinds == USUAL else f",kinds={'+'.join(self.kinds)}"
        parts = [f"seed={self.seed},rate={self.rate!r}{kinds}"] if self.rate or not self.stated else []
        parts += [f"at={'+'.join(f'{number}:{kind}' for number, kind in self.at)}"] if self.at else []
        parts += [f"after={self.after[0]}:{self.after[1]}"] if self.after is not None else []
        return ",".join(parts)

    def fault(self, number: int) -> Kind | None:
        """What happens to the request with this number; None if nothing does."""
        for planned, kind in self.at:
            if planned == number:
                return kind
        if self.after is not None and number >= self.after[0]:
            return self.after[1]
        if not self.rate:
            return None
        rng = random.Random(f"{self.seed}:fault:{number}")
        return rng.choice(self.kinds) if rng.random() < self.rate else None

    def events(self, until: int) -> tuple[Event, ...]:
        """What happens to the requests below this number, in their order; :meth:`of` makes a plan of it."""
        faults = ((number, self.fault(number)) for number in range(until))
        return tuple((number, kind) for number, kind in faults if kind is not None)


def shrunk(events: Sequence[Event], fails: Callable[[FaultPlan], bool]) -> FaultPlan:
    """A plan of some of these events with which it still fails, and does not with any one of them less.

    Delta debugging (Zeller and Hildebrandt, 2002): halves are tried first, then smaller and smaller parts. ``fails``
    says whether a plan fails; the plan of all the events must.
    """
    left, parts = list(events), 2
    while left and not fails(FaultPlan()):
        size = -(-len(left) // parts)
        without = (left[:start] + left[start + size :] for start in range(0, len(left), size))
        smaller = next((some for some in without if len(left) > 1 and fails(FaultPlan.of(some))), None)
        if smaller is not None:
            left, parts = smaller, max(parts - 1, 2)
        elif parts < len(left):
            parts = min(2 * parts, len(left))
        else:
            return FaultPlan.of(left)
    return FaultPlan()


def _chance(parts: dict[str, str]) -> dict[str, Any]:
    """What the text says of chance; only a plan that states its events needs none."""
    if not {"seed", "rate", "kinds"} & set(parts) and {"at", "after"} & set(parts):
        return {}
    kinds = {"kinds": cast(tuple[Kind, ...], tuple(parts.pop("kinds").split("+")))} if "kinds" in parts else {}
    return {"seed": int(parts.pop("seed")), "rate": float(parts.pop("rate")), **kinds}


def _events(text: str) -> tuple[Event, ...]:
    return tuple(event for part in text.split("+") if (event := _event(part)) is not None)


def _event(text: str) -> Event | None:
    number, _, kind = text.partition(":")
    return (int(number), cast(Kind, kind)) if text else None
