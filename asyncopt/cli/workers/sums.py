"""What the workers of a sweep are doing, all together: the sums of what each of them tells once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asyncopt.activity import EDGES, SECONDS, ActivityFile
from asyncopt.cli.summary import Attribution
from asyncopt.limits.budget import Account

_COUNTS = ("calls", "hits", "tokens", "usd", "throttled", "failed")
_NUMBERS = ("in_flight", "concurrency", "queued")


class Sums:
    """Adds up the lines of workers, keeps ``total`` at their spending, and writes the sweep's ``activity.jsonl``.

    ``total`` has what was spent before; it goes on counting in tokens of input, which nobody tells apart here.
    """

    def __init__(self, directory: Path, total: Account) -> None:
        self._file = ActivityFile(directory)
        self._total = total
        self._before = (total.calls, total.hits, total.input_tokens, total.usd)
        self._lines: dict[int, Mapping[str, Any]] = {}  # of every worker that ever was, the last one
        self._living: set[int] = set()
        self._latency = [0] * (len(EDGES) + 1)
        self._dirty = False

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer = self._loop.call_later(SECONDS, self._tick)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._write()
        self._file.close()

    def take(self, worker: int, line: Mapping[str, Any]) -> None:
        """A worker's line."""
        self._lines[worker] = line
        self._living.add(worker)
        self._latency = [sum(both) for both in zip(self._latency, line["latency"], strict=True)]
        calls, hits, tokens, usd = self._before
        self._total.calls, self._total.hits = calls + self._sum("calls"), hits + self._sum("hits")
        self._total.input_tokens, self._total.usd = tokens + self._sum("tokens"), usd + self._sum("usd")
        self._dirty = True

    def gone(self, worker: int) -> None:
        """A worker has ended: nothing of it is under way any more, and what it did counts.

        Where there are others, its slots are theirs now.
        """
        self._living.discard(worker)
        line = self._lines.get(worker)
        if line is not None:
            slots = {"concurrency": 0} if self._living else {}
            done = [{**one, **slots} for one in line["attributions"]]
            self._lines[worker] = {**line, "scopes": {}, "attributions": done}

    def _sum(self, name: str) -> Any:
        return sum(line[name] for line in self._lines.values())

    def in_flight_of(self, worker: int) -> int:
        """The calls that one worker had in flight when it told of them last."""
        return sum(one["in_flight"] for one in self._lines.get(worker, {}).get("scopes", {}).values())

    # -- what is shown -------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return sum(map(self.in_flight_of, self._lines))

    @property
    def queued(self) -> int:
        return sum(one["queued"] for one in self._scopes().values())

    @property
    def failed_attempts(self) -> int:
        return int(self._sum("throttled") + self._sum("failed"))

    def endpoints(self) -> list[dict[str, Any]]:
        """What is under way at each endpoint."""
        return [
            {"scope": scope, **{name: one[name] for name in _NUMBERS}, "limiting": one["limiting"]}
            for scope, one in self._scopes().items()
        ]

    def attributions(self) -> list[Attribution]:
        """What was done at each endpoint, and why not more."""
        by_scope: dict[str, list[Attribution]] = {}
        for line in self._lines.values():
            for one in line["attributions"]:
                by_scope.setdefault(one["scope"], []).append(Attribution(**one))
        return [_together(ones) for ones in by_scope.values()]

    def _scopes(self) -> dict[str, dict[str, Any]]:
        by_scope: dict[str, list[Mapping[str, Any]]] = {}
        for line in self._lines.values():
            for scope, one in line["scopes"].items():
                by_scope.setdefault(scope, []).append(one)
        return {scope: _scope(ones) for scope, ones in by_scope.items()}

    # -- the file ------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._write()
        self._timer = self._loop.call_later(SECONDS, self._tick)

    def _write(self) -> None:
        if not self._dirty or self._file.silent:
            return
        self._dirty = False
        total = self._total
        counts = {name: self._sum(name) for name in _COUNTS}
        counts |= {"calls": total.calls, "hits": total.hits, "tokens": total.tokens, "usd": total.usd}
        times = {"t": round(time.time(), 3), "s": round(self._loop.time() - self._began, 3)}
        self._file.write({**times, "scopes": self._scopes(), **counts, "latency": self._latency})
        self._latency = [0] * len(self._latency)


def _scope(ones: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One endpoint as several workers see it; a rate is the whole account's, which each of them knows."""
    busiest = max(ones, key=lambda one: one["in_flight"] + one["queued"])
    rates: dict[str, float] = {}
    for one in ones:
        rates |= {name: max(rate, rates.get(name, 0.0)) for name, rate in one["rate"].items()}
    return {
        **{name: sum(one[name] for one in ones) for name in _NUMBERS},
        "limiting": busiest["limiting"],
        "rate": rates,
    }


def _together(ones: Sequence[Attribution]) -> Attribution:
    """What several workers did at one endpoint; reasons count by how much each of them did."""
    weight = sum(one.attempts for one in ones) or 1
    limited: dict[str, float] = {}
    per_minute: dict[Any, float] = {}
    for one in ones:
        for name, share in one.limited.items():
            limited[name] = limited.get(name, 0.0) + share * one.attempts / weight
        per_minute |= {name: max(rate, per_minute.get(name, 0.0)) for name, rate in one.per_minute.items()}
    return Attribution(
        scope=ones[0].scope,
        attempts=sum(one.attempts for one in ones),
        refused=sum(one.refused for one in ones),
        hedges=sum(one.hedges for one in ones),
        concurrency=sum(one.concurrency for one in ones),
        limited=dict(sorted(limited.items(), key=lambda share: (-share[1], share[0]))),
        per_minute=per_minute,
        learned=_each(name for one in ones for name in one.learned),
    )


def _each(names: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(names))
