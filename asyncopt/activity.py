"""What the engine was doing, second by second, for whoever looks at a run: one JSON line a second in its directory.

Nothing is decided by it, and a lost line hurts nobody: all counts but those of the latencies are totals.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from asyncopt import codec
from asyncopt.dispatch import Dispatcher
from asyncopt.engine import Engine
from asyncopt.events import AttemptFailed, CallEnded, Event
from asyncopt.limits.budget import Account

ACTIVITY = "activity.jsonl"
SECONDS = 1.0
EDGES = tuple(
    float(f"{0.01 * 2 ** (half / 2):.3g}") for half in range(33)
)  # seconds: 10 ms to 11 min, by the root of 2
_THROTTLED = ("rate_limited", "ramp")
_COUNTS = ("t", "s", "calls", "hits", "tokens", "usd", "throttled", "failed")
_NUMBERS_OF_SCOPE = ("in_flight", "concurrency", "queued")


class Lines(Protocol):
    """Where the lines go; ``silent`` says that it takes no more."""

    silent: bool

    def write(self, line: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class ActivityFile:
    """The file in a run's directory; it never raises."""

    def __init__(self, directory: Path) -> None:
        self.silent = False
        self._path = directory / ACTIVITY
        self._file: BinaryIO | None = None

    def write(self, line: Mapping[str, Any]) -> None:
        try:
            if self._file is None:
                self._file = self._path.open("ab")
                # If a process died in the middle of a line, that line is the only bad one.
                self._file.write(b"\n" if _is_torn(self._path) else b"")
                self._file.write(codec.dumps({"v": 1, "edges": EDGES}) + b"\n")
            self._file.write(codec.dumps(line) + b"\n")
            self._file.flush()
        except OSError:
            self.silent = True

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


class Activity:
    """Writes ``activity.jsonl`` while the block runs; it never raises, and goes silent where the disk takes no more.

    The first line of each sitting is ``{"v": 1, "edges": [...]}``, the seconds between which latencies are counted. The
    others, one a second while something happens:

    - ``t``, seconds since the epoch, and ``s``, seconds since the sitting began;
    - ``scopes``: for each dispatcher the calls ``in_flight`` of ``concurrency`` at most, those ``queued``, what was
      ``limiting`` most of that second, and the ``rate`` in force by dimension, in permits a second;
    - ``calls``, ``hits``, ``tokens``, ``usd``: what the account has counted, in all sittings (of a sweep without a
      budget, in this one);
    - ``workers``, with a shared quota: how many share it, and ``alone``, whether this one keeps to its own part since
      it does not hear of the others;
    - ``throttled`` and ``failed``: attempts that were refused for their rate, or failed otherwise, in this sitting;
    - ``latency``: how many calls were answered since the last line, by the seconds of their last attempt: below the
      first edge, between each two, and above the last.

    Enter it in the engine's loop. ``wall`` tells the seconds since the epoch; ``lines`` take the place of the file.
    """

    def __init__(
        self,
        directory: Path,
        engine: Engine,
        account: Account,
        wall: Callable[[], float] = time.time,
        lines: Lines | None = None,
    ) -> None:
        self._lines = lines or ActivityFile(directory)
        self._engine = engine
        self._account = account
        self._wall = wall
        self._latency = [0] * (len(EDGES) + 1)
        self._throttled = self._failed = 0
        self._limited: dict[Dispatcher, Mapping[str, float]] = {}
        self._counts: Mapping[str, float] = self._totals()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer = self._loop.call_later(SECONDS, self._tick)
        self._engine.events.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._engine.events.remove(self)
        self._look()
        self._lines.close()

    def notify(self, event: Event) -> None:
        if isinstance(event, CallEnded):
            if event.outcome == "completed":
                self._latency[bisect_right(EDGES, event.service)] += 1
        elif isinstance(event, AttemptFailed):
            self._throttled += event.kind in _THROTTLED
            self._failed += event.kind not in _THROTTLED

    def _tick(self) -> None:
        self._look()
        if not self._lines.silent:
            self._timer = self._loop.call_later(SECONDS, self._tick)

    def _look(self) -> None:
        """Write a line if there is anything to say."""
        counts = self._totals()
        working = any(one.in_flight or one.queued for one in self._engine.dispatchers)
        if self._lines.silent or (counts == self._counts and not working):
            return
        self._counts = counts
        scopes = {one.control.scope: self._scope(one) for one in self._engine.dispatchers}
        sharing = self._engine.sharing
        shared = {} if sharing is None else {"workers": sharing.workers, "alone": sharing.degraded is not None}
        times = {"t": round(self._wall(), 3), "s": round(self._loop.time() - self._began, 3)}
        self._lines.write({**times, "scopes": scopes, **counts, **shared, "latency": self._latency})
        self._latency = [0] * len(self._latency)

    def _totals(self) -> dict[str, float]:
        account = self._account
        return {
            "calls": account.calls,
            "hits": account.hits,
            "tokens": account.tokens,
            "usd": account.usd,
            "throttled": self._throttled,
            "failed": self._failed,
        }

    def _scope(self, dispatcher: Dispatcher) -> dict[str, Any]:
        before, now = self._limited.get(dispatcher, {}), dict(dispatcher.ticker.limited)
        self._limited[dispatcher] = now
        lately = {reason: seconds - before.get(reason, 0.0) for reason, seconds in now.items()}
        most = max(lately, key=lambda reason: lately[reason], default="")
        return {
            "in_flight": dispatcher.in_flight,
            "concurrency": dispatcher.slots.limit,
            "queued": dispatcher.queued,
            "limiting": most if lately.get(most) else dispatcher.limiting(),
            "rate": {lane.dimension: lane.rate for lane in dispatcher.control.lanes if lane.rate is not None},
        }


def is_sample(line: Mapping[str, Any]) -> bool:
    """Whether a line that was read is one of the engine's, whole and with what each of them has."""
    scopes = line.get("scopes")
    return (
        isinstance(scopes, dict)
        and are_numbers(line.get("latency"))
        and are_numbers([line.get(name) for name in _COUNTS])
        and all(map(_is_scope, scopes.values()))
    )


def _is_scope(value: object) -> bool:
    return (
        isinstance(value, dict)
        and are_numbers([value.get(name) for name in _NUMBERS_OF_SCOPE])
        and isinstance(value.get("limiting"), str)
        and isinstance(value.get("rate"), dict)
        and are_numbers(list(value["rate"].values()))
    )


def are_numbers(value: object) -> bool:
    """Whether this is a list of numbers alone."""
    return isinstance(value, list) and all(isinstance(item, int | float) for item in value)


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 1, 0))
        return file.read(1) not in (b"", b"\n")
