"""Calls drawn at random that are all there from the beginning, so that the time they have to take is known."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from asyncopt.engine import Engine
from asyncopt.testing.clock import run_virtual
from asyncopt.testing.invariants import InvariantBroken, pace_complaints
from asyncopt.testing.latency import Latency, LogNormal
from asyncopt.testing.ledger import Ledger
from asyncopt.testing.simulated import SimulatedAPI
from asyncopt.values import Generate, Quota, Sampling

IDEAL = 1.03  # times the ideal time is what a load may take
SHARE = 0.97  # of the stated rate is used while the queue is not empty
_ENDLESS = 1e6  # a rate is stated, so that the engine need not feel for one
_STEADY = 50  # requests from which on the share is taken


@dataclass(frozen=True)
class Load:
    """So many calls, the stated rate (requests a second) and places, and how long each call takes."""

    seed: int
    calls: int
    rate: float
    places: int
    latency: Latency

    def more(self, factor: float) -> Load:
        """The same calls with so many times the capacity."""
        return replace(self, rate=self.rate * factor, places=int(self.places * factor))


@dataclass(frozen=True)
class Done:
    """How long a load took on the virtual clock, in seconds, and what the server saw."""

    seconds: float
    ledger: Ledger


def load(seed: int) -> Load:
    """The load of this seed."""
    rng = random.Random(f"{seed}:load")
    latency = LogNormal(rng.choice([0.2, 0.5]), rng.choice([0.0, 0.5, 1.0]), 0.01, 5.0)
    rate = rng.choice([_ENDLESS, 5.0, 20.0, 80.0])
    return Load(seed, rng.randint(100, 400), rate, rng.choice([4, 16, 64]), latency)


def carried(what: Load) -> Done:
    """The load, carried out on a virtual clock against a server that fails nowhere."""
    api = SimulatedAPI(seed=what.seed, latency=what.latency)
    quota = Quota(requests_per_minute=60 * what.rate, concurrency=what.places)

    async def main() -> float:
        async with Engine() as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=quota)
            sampling = Sampling(max_tokens=16)
            await asyncio.gather(*(model.submit(Generate.of(f"Call {n}.", sampling)) for n in range(what.calls)))
            return asyncio.get_running_loop().time()

    return Done(run_virtual(main), api.ledger)


def check_load(what: Load) -> Done:
    """The load, which has kept its quota (I3), used it (I10) and taken no longer than it had to (I11)."""
    done = carried(what)
    entries = done.ledger.entries
    broken = [f"I3: {text}" for text in pace_complaints(entries, 60 * what.rate)]
    if done.ledger.max_in_flight() > what.places:
        broken.append(f"I3: {done.ledger.max_in_flight()} requests were in flight at {what.places} places")
    ideal = _ideal(what, [(entry.finished or 0.0) - entry.arrived for entry in entries])
    if done.seconds > IDEAL * ideal:
        broken.append(f"I11: it took {done.seconds:.3f} s, and {ideal:.3f} s are ideal")
    broken += [f"I10: {share:.3f} of the quota was used while calls were waiting" for share in _shares(what, done)]
    if broken:
        raise InvariantBroken("\n".join([f"{what}", *broken]))
    return done


def _ideal(what: Load, services: Sequence[float]) -> float:
    """Seconds until the last of these calls is done that start in this order, as soon as the rate and a place allow."""
    places, last, end = [0.0] * what.places, -1 / what.rate, 0.0
    for seconds in services:
        last = max(last + 1 / what.rate, places[0])
        heapq.heapreplace(places, last + seconds)
        end = max(end, last + seconds)
    return end


def _shares(what: Load, done: Done) -> list[float]:
    """The share of the rate that was used from the first requests on, if it is too small and nothing else was short."""
    arrivals = [entry.arrived for entry in done.ledger.entries]
    if len(arrivals) <= 2 * _STEADY or done.ledger.max_in_flight() == what.places:
        return []
    share = (len(arrivals) - 1 - _STEADY) / (arrivals[-1] - arrivals[_STEADY]) / what.rate
    return [share] if share < SHARE else []
