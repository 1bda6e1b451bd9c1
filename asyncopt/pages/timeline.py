"""What the engine did, in columns for charts: the lines of a run's activity, summed over its endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

MOST_POINTS = 1200  # more than a screen has columns
_TOTALS = ("calls", "throttled", "failed")
_PAUSE_SECONDS = 5.0  # without a line: the run stood still, or was off
_DIMENSION = "requests"  # of the rates that calls a second are held against


def timeline(activity: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns of equal length, with None where nothing is known, at most so many that a screen shows.

    ``t``: seconds since the first line; ``in_flight``, ``limit``, ``queued``: calls; ``calls``, ``throttled``,
    ``failed``: a second; ``busy``: the share in use of the limit that binds, slots or requests; ``limiting``: places in
    ``names``, of what kept more calls from being in flight. ``refused`` and ``broken`` count attempts in all sittings.
    """
    points = [_point(line) for line in activity]
    for (before, line), point in zip(pairwise(activity), points[1:], strict=True):
        _add_rates(point, before, line)
    points = _thinned(_with_gaps(points))
    names = sorted({point["limiting"] for point in points if point["limiting"]})
    first = points[0]["t"] if points else 0.0
    columns = ("in_flight", "limit", "queued", *_TOTALS, "busy")
    return {
        "t": [round(point["t"] - first, 1) for point in points],
        **{name: [point[name] for point in points] for name in columns},
        "limiting": [names.index(point["limiting"]) if point["limiting"] else None for point in points],
        "names": names,
        "refused": _over_sittings(activity, "throttled"),
        "broken": _over_sittings(activity, "failed"),
    }


def _point(line: Mapping[str, Any]) -> dict[str, Any]:
    scopes = list(line["scopes"].values())
    # Of several endpoints the one with the most to do says why.
    busiest = max(scopes, key=lambda one: (one["in_flight"] + one["queued"], one["concurrency"]), default=None)
    in_flight, limit = (sum(one[name] for one in scopes) for name in ("in_flight", "concurrency"))
    return {
        "t": line["t"],
        "in_flight": in_flight,
        "limit": limit,
        "queued": sum(one["queued"] for one in scopes),
        "limiting": busiest["limiting"] if busiest else None,
        "busy": min(in_flight / limit, 1.0) if limit else None,
        "rate": sum(one["rate"].get(_DIMENSION, 0.0) for one in scopes),
        **dict.fromkeys(_TOTALS),
    }


def _add_rates(point: dict[str, Any], before: Mapping[str, Any], line: Mapping[str, Any]) -> None:
    seconds = line["t"] - before["t"]
    if not 0 < seconds <= _PAUSE_SECONDS or line["s"] < before["s"]:
        return
    for name in _TOTALS:
        point[name] = round(max(line[name] - before[name], 0) / seconds, 2)
    if point["rate"]:
        point["busy"] = round(min(max(point["busy"] or 0.0, point["calls"] / point["rate"]), 1.0), 3)


def _with_gaps(points: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """With an empty point in every pause, so that no line is drawn across it."""
    found: list[dict[str, Any]] = []
    for point in points:
        if found and point["t"] - found[-1]["t"] > _PAUSE_SECONDS:
            found.append({**dict.fromkeys(point), "t": found[-1]["t"] + 1.0})
        found.append(point)
    return found


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of so many neighbours in each place the one with the most refusals, then the most calls in flight."""
    every = -(-len(points) // MOST_POINTS) or 1
    groups = (points[start : start + every] for start in range(0, len(points), every))
    return [max(group, key=lambda point: (point["throttled"] or 0, point["in_flight"] or 0)) for group in groups]


def _over_sittings(activity: Sequence[Mapping[str, Any]], name: str) -> int:
    """The sum of a count that begins at zero in every sitting."""
    ends: list[int] = [line[name] for line, after in pairwise(activity) if after["s"] < line["s"]]
    return sum((*ends, *(line[name] for line in activity[-1:])))


def latency(activity: Iterable[Mapping[str, Any]], edges: Sequence[float]) -> dict[str, Any]:
    """How long calls took: ``edges`` in seconds, ``counts`` below the first, between each two and above the last.

    ``p50``, ``p90`` and ``p99`` are in seconds, interpolated within their bucket; None without calls.
    """
    counts = [0] * (len(edges) + 1)
    for line in activity:
        if len(line["latency"]) == len(counts):  # another version may have had other edges
            counts = [one + more for one, more in zip(counts, line["latency"], strict=True)]
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    percentiles = {name: _percentile(counts, edges, share) for name, share in shares.items()}
    return {"edges": list(edges), "counts": counts, **percentiles}


def _percentile(counts: Sequence[int], edges: Sequence[float], share: float) -> float | None:
    wanted, below = share * sum(counts), 0.0
    if not wanted:
        return None
    for bucket, count in enumerate(counts[:-1]):
        if count and below + count >= wanted:
            low = edges[bucket - 1] if bucket else 0.0
            return low + (edges[bucket] - low) * (wanted - below) / count
        below += count
    return edges[-1] if edges else None
