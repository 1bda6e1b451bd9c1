"""What simulated models answer to a meta-prompt with traces through points; all they know stands in the prompt."""

from __future__ import annotations

import itertools
import math
import random
import re

_POINT = re.compile(r"\((\d+)\): \((-?\d+), (-?\d+)\)")
_TRACE = re.compile(r"<trace>([\d, ]+)</trace>\s*length:\s*(\d+)")
_TRIES = 20

_Point = tuple[int, int]


def propose_tour(rng: random.Random, prompt: str) -> str | None:
    """One of the three best traces with a stretch of it turned round or moved; None where the prompt shows no trace.

    It does not look at the coordinates: a run makes progress by selection alone.
    """
    scored = sorted((int(length), _numbers(trace)) for trace, length in _TRACE.findall(prompt))
    shown = [trace for _, trace in scored]
    if not shown:
        return None
    new = shown[0]
    for _ in range(_TRIES):
        new = _changed(rng, rng.choice(shown[:3]))
        if new not in shown:
            break
    return f"Turning a stretch round could make it shorter: {_written(new)}"


def descend_from_random(prompt: str, draw: str) -> str:
    """A random trace through the prompt's points, improved by 2-opt until no exchange of two edges makes it shorter.

    With one draw a sample this is multi-start local search, which ends at the optimum of small problems.
    """
    points = [(int(x), int(y)) for _, x, y in _POINT.findall(prompt)]
    start = [0, *random.Random(draw).sample(range(1, len(points)), len(points) - 1)]
    return _written(two_opt(points, start))


def two_opt(points: list[_Point], tour: list[int]) -> list[int]:
    """The tour after exchanges of two edges for two shorter ones, until there are none."""
    tour = list(tour)
    improved = True
    while improved:
        improved = False
        for i, j in itertools.combinations(range(len(tour)), 2):
            a, b, c, d = (points[tour[k % len(tour)]] for k in (i, i + 1, j, j + 1))
            if math.dist(a, c) + math.dist(b, d) < math.dist(a, b) + math.dist(c, d) - 1e-9:
                tour[i + 1 : j + 1] = reversed(tour[i + 1 : j + 1])
                improved = True
    return tour


def _changed(rng: random.Random, tour: list[int]) -> list[int]:
    """The tour with a stretch turned round (a 2-opt move) or put in elsewhere (an Or-opt move); 0 stays in front."""
    first, last = sorted(rng.sample(range(1, len(tour) + 1), 2))
    if rng.random() < 0.5:
        return tour[:first] + tour[first:last][::-1] + tour[last:]
    stretch, rest = tour[first:last], tour[:first] + tour[last:]
    place = rng.randint(1, len(rest))
    return rest[:place] + stretch + rest[place:]


def _numbers(trace: str) -> list[int]:
    return [int(number) for number in trace.split(",") if number.strip()]


def _written(tour: list[int]) -> str:
    return f"<trace> {','.join(map(str, tour))} </trace>"
