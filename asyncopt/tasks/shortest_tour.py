"""The shortest tour, proven: by dynamic programming where there are few points, else by linear programming with cuts.

The paper's oracle is Gurobi; this one needs no licence. scipy is imported where it is used: `import asyncopt` stays
light.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncopt.errors import AsyncoptError
from asyncopt.tasks.tours import Points, Tour, distances, tour_length

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Integers: TypeAlias = NDArray[np.int64]

FEW_POINTS = 12  # up to which dynamic programming takes milliseconds; each point more doubles time and memory
TOLERANCE = 1e-6  # the absolute one of HiGHS: by so much may the tour be longer than the shortest

_VIOLATION = 1e-4  # by which a cut must be broken before it is worth a row
_FIRST_SLACK = 0.02  # of the bound: the shortest tour is seldom more than 2 % above it


def shortest_tour(points: Points) -> Tour:
    """The shortest of all tours.

    It takes about a second for 50 points, up to a minute for 100 and some minutes for 200.
    """
    return held_karp(points) if len(points) <= FEW_POINTS else branch_and_cut(points)


def held_karp(points: Points) -> Tour:
    """The shortest tour by Held and Karp's recursion over sets of visited points: O(2^n n^2) time, O(2^n n) memory."""
    import numpy as np

    apart = distances(points)
    others = len(points) - 1
    between, home = apart[1:, 1:], apart[0, 1:]
    sets = np.arange(1 << others)
    sizes = sum((sets >> node) & 1 for node in range(others))
    best = np.full((sets.size, others), np.inf)  # [set, last]: from 0 through all of the set, ending in `last`
    best[1 << np.arange(others), np.arange(others)] = home
    for size in range(2, others + 1):
        for last in range(others):
            grown = sets[(sizes == size) & ((sets >> last) & 1 == 1)]
            best[grown, last] = (best[grown ^ (1 << last)] + between[:, last]).min(axis=1)
    left, reached, backwards = sets.size - 1, home, []
    for _ in range(others):
        backwards.append(int((best[left] + reached).argmin()))
        left, reached = left ^ (1 << backwards[-1]), between[:, backwards[-1]]
    return [0, *(node + 1 for node in reversed(backwards))]


def branch_and_cut(points: Points) -> Tour:
    """The shortest tour by integer programming over the edges, proven up to :data:`TOLERANCE`.

    The relaxation with all subtour cuts gives a lower bound, and of each edge by how much it would raise the bound. So
    only cheap edges are tried first. Where the tour found is above the bound by no more than what each of the others
    would add, none of them can be in a shorter one.
    """
    edges = _Edges.between_all(points)
    bound, added, groups = _relaxed(edges)
    slack = _FIRST_SLACK * bound
    while True:
        tour = _shortest_of(edges.where(added <= slack + TOLERANCE), groups)
        excess = 2 * slack if tour is None else tour_length(points, tour) - bound
        if tour is not None and excess <= slack:
            return tour
        slack = excess


@dataclass(frozen=True, slots=True)
class _Edges:
    """Edges between points: ``ends`` of shape (2, m), and their lengths."""

    points: int
    ends: Integers
    lengths: Floats

    @classmethod
    def between_all(cls, points: Points) -> _Edges:
        import numpy as np

        ends = np.array(np.triu_indices(len(points), 1))
        return cls(len(points), ends, distances(points)[tuple(ends)])

    def where(self, kept: NDArray[np.bool_]) -> _Edges:
        return _Edges(self.points, self.ends[:, kept], self.lengths[kept])

    def incidence(self) -> Any:
        """A sparse matrix of ones where an edge (column) ends at a point (row)."""
        import numpy as np
        from scipy.sparse import csr_array

        columns = np.tile(np.arange(self.lengths.size), 2)
        return csr_array((np.ones(columns.size), (self.ends.ravel(), columns)), shape=(self.points, self.lengths.size))

    def leaving(self, group: Integers) -> NDArray[np.bool_]:
        """Which edges have one end in the group and one outside."""
        import numpy as np

        inside = np.zeros(self.points, dtype=bool)
        inside[group] = True
        leaving: NDArray[np.bool_] = inside[self.ends[0]] != inside[self.ends[1]]
        return leaving

    def weights(self, used: Floats) -> Floats:
        """The symmetric (n, n) matrix of how far each edge is used."""
        import numpy as np

        weights = np.zeros((self.points, self.points))
        weights[tuple(self.ends)] = used
        return weights + weights.T


def _relaxed(edges: _Edges) -> tuple[float, Floats, list[Integers]]:
    """The least length with every subtour cut, each edge's reduced cost, and the groups whose cuts were needed."""
    groups: list[Integers] = []
    while True:
        solved = _solve(edges, groups, whole=False)
        weights = edges.weights(solved.x)
        broken = _parts(weights) or list(_light_cuts(weights))
        if not broken:
            return solved.fun, solved.lower.marginals, groups
        groups += broken


def _shortest_of(edges: _Edges, groups: list[Integers]) -> Tour | None:
    """The shortest tour of these edges, None if there is none; cuts that it needed are added to the groups."""
    while True:
        solved = _solve(edges, groups, whole=True)
        if solved is None:
            return None
        used = edges.weights(solved.x) > 0.5
        broken = _parts(used)
        if not broken:
            return _walk(used)
        groups += broken


def _solve(edges: _Edges, groups: list[Integers], *, whole: bool) -> Any:
    """The cheapest use of the edges, two at every point and at least two out of every group; None if there is none."""
    import numpy as np
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    limits: dict[str, Any] = {"integrality": 1, "options": {"mip_rel_gap": 0.0}} if whole else {}
    if groups:
        limits["A_ub"] = -csr_array(np.array([edges.leaving(group) for group in groups], dtype=np.float64))
        limits["b_ub"] = np.full(len(groups), -2.0)
    solved = linprog(
        edges.lengths,
        A_eq=edges.incidence(),
        b_eq=np.full(edges.points, 2.0),
        bounds=(0, 1),
        **limits,
    )
    if solved.status not in (0, 2):
        raise AsyncoptError(f"the shortest tour of {edges.points} points could not be found: {solved.message}")
    return solved if solved.status == 0 else None


def _parts(weights: NDArray[Any]) -> list[Integers]:
    """The points of each connected part; none where all are connected."""
    import numpy as np
    from scipy.sparse.csgraph import connected_components

    count, part = connected_components(weights > TOLERANCE, directed=False)
    return [np.flatnonzero(part == number) for number in range(count)] if count > 1 else []


def _light_cuts(weights: Floats) -> Iterator[Integers]:
    """Groups that are left by a weight below 2: what Stoer and Wagner's search for a minimum cut comes across."""
    import numpy as np

    weights = weights.copy()
    groups = [[node] for node in range(len(weights))]
    while len(groups) > 1:
        tied = weights[0].copy()  # how closely each group is tied to those already visited
        before = last = 0
        for _ in range(len(groups) - 1):
            tied[last] = -np.inf
            before, last = last, int(tied.argmax())
            weight = tied[last]
            tied += weights[last]
        if weight < 2 - _VIOLATION:
            yield np.array(groups[last])
        groups[before].extend(groups[last])
        del groups[last]
        weights[before] += weights[last]
        weights[:, before] += weights[:, last]
        weights[before, before] = 0.0
        weights = np.delete(np.delete(weights, last, axis=0), last, axis=1)


def _walk(used: NDArray[np.bool_]) -> Tour:
    import numpy as np

    neighbours = [np.flatnonzero(row).tolist() for row in used]
    tour = [0, neighbours[0][0]]
    while len(tour) < len(neighbours):
        one, other = neighbours[tour[-1]]
        tour.append(other if one == tour[-2] else one)
    return tour
