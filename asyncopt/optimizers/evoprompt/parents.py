"""Who has children with whom: draws of parents and donors, each from a generator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from random import Random

from asyncopt.optimizers.evoprompt.options import Selection
from asyncopt.optimizers.evoprompt.population import best_first
from asyncopt.optimizers.history import Entry


def slots(population: Sequence[Entry], selection: Selection, popsize: int, rng: Random) -> Sequence[Entry]:
    """The places from which a generation's parents are drawn.

    With ``roulette`` they are ``popsize`` draws with replacement, each prompt with a probability in proportion to its
    score, and all with the same where every score is 0. Else they are the population.
    """
    if selection != "roulette":
        return population
    scores = [entry.score or 0.0 for entry in population]
    return rng.choices(population, scores if any(scores) else None, k=popsize)


def pair(places: Sequence[Entry], selection: Selection, rng: Random) -> tuple[Entry, Entry]:
    """The parents of one child: two different places, or with ``tour`` the better of two places, twice."""
    if selection == "tour":
        return best_first(_two(places, rng))[0], best_first(_two(places, rng))[0]
    first, second = _two(places, rng)
    return first, second


def _two(places: Sequence[Entry], rng: Random) -> list[Entry]:
    """Two different places; the only one twice where there is no other."""
    return rng.sample(places, 2) if len(places) > 1 else [places[0], places[0]]


def donors(population: Sequence[Entry], member: int, rng: Random) -> tuple[Entry, Entry, Entry]:
    """Three different members beside this one, drawn uniformly.

    Where prompts got lost and there are fewer others, these in turn; where there are none, the member itself.
    """
    others = [entry for number, entry in enumerate(population) if number != member]
    drawn = rng.sample(others, min(len(others), 3)) or [population[member]]
    first, second, third = islice(cycle(drawn), 3)
    return first, second, third
