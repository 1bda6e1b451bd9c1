"""Round trips through points in the plane: how one is written and read, how long it is, and two quick ways to one.

A tour is a list of the points' numbers, each once, that starts with 0; it ends where it started.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Points: TypeAlias = Sequence[tuple[int, int]]
Tour: TypeAlias = list[int]

_OPENING, _CLOSING = "<trace>", "</trace>"


def format_tour(tour: Sequence[int]) -> str:
    """The tour as a candidate's text, such as ``0,3,1,2``.

    A tour and its reverse are as long as each other and stay two candidates, as in the reference code: what a model
    has read in one direction it should find again in that direction.
    """
    return ",".join(map(str, tour))


def parse_tour(text: str, nodes: int) -> Tour | None:
    """The tour between the first ``<trace>`` and the next ``</trace>``, or None where there is none (reference code).

    Between commas, what is no integer is passed over. What is left must be 0, then every other number below ``nodes``
    once; the reference lets negative numbers pass, which Python takes for counting from the end.
    """
    inside, closing, _ = text.partition(_OPENING)[2].partition(_CLOSING)
    if not closing:
        return None
    tour = [number for number in map(_integer, inside.split(",")) if number is not None]
    return tour if tour[:1] == [0] and sorted(tour) == list(range(nodes)) else None


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def tour_length(points: Points, tour: Sequence[int]) -> float:
    """The Euclidean length of the closed tour, summed exactly, so that neither direction nor start changes it."""
    places = [points[node] for node in tour]
    return math.fsum(math.dist(here, there) for here, there in zip(places, places[1:] + places[:1], strict=True))


def distances(points: Points) -> NDArray[np.float64]:
    """The Euclidean distances of all pairs of points, shape (n, n)."""
    import numpy as np  # `import asyncopt` stays light

    x, y = np.array(points, dtype=np.float64).T
    apart: NDArray[np.float64] = np.hypot(np.subtract.outer(x, x), np.subtract.outer(y, y))
    return apart


def nearest_neighbour(points: Points) -> Tour:
    """The tour that goes from point 0 always on to the nearest point left, of equals to the first."""
    tour, left = [0], list(range(1, len(points)))
    while left:
        here = points[tour[-1]]
        tour.append(min(left, key=lambda node: math.dist(here, points[node])))
        left.remove(tour[-1])
    return tour


def farthest_insertion(points: Points) -> Tour:
    """The tour that takes in, from [0] on, the point that is dearest to insert, at the place where it is cheapest.

    Inserting k between i and j costs d(i, k) + d(k, j) - d(i, j). The reference code compares lengths cut to whole
    numbers; here they are exact. Of equals the first point and the first place are taken.
    """
    import numpy as np  # `import asyncopt` stays light

    apart = distances(points)
    tour, left = [0], np.arange(1, len(points))
    while left.size:
        ahead = tour[1:] + tour[:1]
        costs = apart[left][:, tour] + apart[left][:, ahead] - apart[tour, ahead]
        dearest = int(costs.min(axis=1).argmax())
        tour.insert(int(costs[dearest].argmin()) + 1, int(left[dearest]))
        left = np.delete(left, dearest)
    return tour
