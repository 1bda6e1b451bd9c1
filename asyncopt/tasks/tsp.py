"""The paper's second demonstration: the shortest round trip through points in the plane (OPRO, section 3.2).

What the paper leaves open is as in its reference code, which sets no seed: instances here are seeded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from asyncopt import codec
from asyncopt.errors import ConfigError
from asyncopt.tasks.shortest_tour import shortest_tour
from asyncopt.tasks.tours import (
    Points,
    Tour,
    farthest_insertion,
    format_tour,
    nearest_neighbour,
    tour_length,
)

REACH = 100.0  # coordinates are uniform in [-100, 100], then cut to whole numbers

_SAME = 1e-9  # lengths closer than this are those of equally long tours, summed from other rounded square roots
_DRAWS = 100  # for each starting point: with four points most tours are used up or the shortest


@dataclass(frozen=True)
class TSP:
    """The travelling salesman's problem through ``nodes`` points; tours are texts such as ``0,3,1,2``.

    ``instance`` chooses the points and the ``starts`` starting points; the paper has 10, 15, 20 and 50 nodes with five
    instances each. Raises :class:`ConfigError` for other values than integers in range.
    """

    nodes: int = 10
    instance: int = 0
    starts: int = 5

    def __post_init__(self) -> None:
        for name, low, high in (("nodes", 4, 200), ("instance", 0, 2**53), ("starts", 1, 100)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"{name} of tsp is {value!r}; it must be an integer from {low} to {high}")

    @property
    def name(self) -> str:
        return "tsp"

    @cached_property
    def points(self) -> Points:
        """The integer coordinates (x, y) by node.

        No two nodes share a point, which the reference would allow: such a pair is one stop with two names, and with
        all of them apart the optimum is above 0 and every gap defined.
        """
        rng = Random(f"tsp {self.nodes} {self.instance}")
        found: dict[tuple[int, int], None] = {}
        while len(found) < self.nodes:
            x, y = rng.uniform(-REACH, REACH), rng.uniform(-REACH, REACH)
            found[int(x), int(y)] = None
        return tuple(found)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the points and the number of starting points."""
        return hashlib.sha256(codec.dumps([self.name, self.points, self.starts])).hexdigest()

    @cached_property
    def optimum(self) -> Tour:
        """A shortest tour, proven to 1e-6.

        It is found when first asked for, by computing that blocks the caller: milliseconds for 20 nodes, about a second
        for 50, up to a minute for 100. ``load`` asks for it, so that no event loop waits.
        """
        return shortest_tour(self.points)

    # -- as an objective -----------------------------------------------------------------------------------------------

    @cached_property
    def optimum_loss(self) -> float:
        return tour_length(self.points, self.optimum)

    @cached_property
    def _start(self) -> tuple[str, ...]:
        rng = Random(f"tsp {self.nodes} {self.instance} starts")
        found: dict[str, None] = {}
        for _ in range(_DRAWS * self.starts):
            tour = self.random(rng)
            if not self.solved(tour):
                found[tour] = None
            if len(found) == self.starts:
                break
        return tuple(found)

    def initial(self) -> list[str]:
        """As many random tours as were wished for, none of them a shortest one; fewer where there are not so many."""
        return list(self._start)

    def loss_of(self, candidate: str) -> float:
        """The exact length; the meta-prompt shows it cut to a whole number, by which the reference also compares."""
        return tour_length(self.points, _nodes_of(candidate))

    def solved(self, candidate: str) -> bool:
        """Whether no tour is shorter, in whatever direction it goes."""
        return self.loss_of(candidate) <= self.optimum_loss + _SAME

    def random(self, rng: Random) -> str:
        return format_tour([0, *rng.sample(range(1, self.nodes), self.nodes - 1)])

    def report(self, best: str, tried: Collection[str]) -> dict[str, Any]:
        """The gap is (length - optimum) / optimum in percent (section 3.2)."""
        optimum = self.optimum_loss
        return {
            "start": [[tour, self.loss_of(tour)] for tour in self.initial()],
            "optimum_loss": optimum,
            "unique_tours": len(tried),
            "solved": self.solved(best),
            "gap": 100 * (self.loss_of(best) - optimum) / optimum,
            "baselines": {
                "nearest_neighbour": tour_length(self.points, nearest_neighbour(self.points)),
                "farthest_insertion": tour_length(self.points, farthest_insertion(self.points)),
            },
        }


def _nodes_of(candidate: str) -> Tour:
    return [int(node) for node in candidate.split(",")]
