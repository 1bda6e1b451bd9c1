"""What is seen of a sweep while it goes on: what a run's display shows, for all of its studies together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from asyncopt import codec
from asyncopt.cli.contest_text import contests_lines
from asyncopt.cli.display import LONG_PAUSE
from asyncopt.cli.display_choice import ShownAs, choose_display
from asyncopt.cli.status import RATE_SECONDS
from asyncopt.cli.summary import LONGEST_PATH, Attribution, attribution_lines
from asyncopt.cli.sweep_table import ended_line, table_lines
from asyncopt.engine import Engine
from asyncopt.events import AttemptFailed, CacheDegraded, Event, LimitChanged, Note, Observer
from asyncopt.limits.budget import Account
from asyncopt.records.contest import OfTask
from asyncopt.repetitions import ended_json, summary_json
from asyncopt.sweep import Ended, Sweep


class Told(Observer, Protocol):
    """Who is told what the engine does, and what is for people."""

    def line(self, text: str) -> None: ...


class Work(Protocol):
    """What is under way: calls in flight and queued, and at the end what each dispatcher did."""

    @property
    def in_flight(self) -> int: ...

    @property
    def queued(self) -> int: ...

    @property
    def failed_attempts(self) -> int: ...

    def attributions(self) -> list[Attribution]: ...


class OfEngine:
    """The work of the one engine that all studies share."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.failed_attempts = 0
        engine.events.add(self)

    def notify(self, event: Event) -> None:
        self.failed_attempts += isinstance(event, AttemptFailed)

    @property
    def in_flight(self) -> int:
        return sum(dispatcher.in_flight for dispatcher in self._engine.dispatchers)

    @property
    def queued(self) -> int:
        return sum(dispatcher.queued for dispatcher in self._engine.dispatchers)

    def attributions(self) -> list[Attribution]:
        return [Attribution.of(one) for one in self._engine.dispatchers]


def told_of(event: Event) -> str | None:
    """What is said to people of an event; None for what is not."""
    if isinstance(event, CacheDegraded):
        return f"the cache cannot be used: {event.reason}"
    if isinstance(event, Note):
        return event.text
    if isinstance(event, LimitChanged) and event.what == "gate" and (event.value or 0.0) >= LONG_PAUSE:
        return f"{event.scope}: nothing is sent for {event.value:.0f} s ({event.reason})"
    return None


class SweepDisplay:
    """Shows the work on all studies."""

    def __init__(self, sweep: Sweep, account: Account, shown: ShownAs) -> None:
        self._sweep = sweep
        self._account = account
        self._json = shown == "json"
        self._display = choose_display(shown)
        self._work: Work | None = None
        self._running = self._done = 0
        self._last_time = self._rate = 0.0
        self._first_calls = self._last_calls = account.calls  # those of earlier sittings

    @property
    def _calls(self) -> int:
        """The calls of this sitting."""
        return self._account.calls - self._first_calls

    def notify(self, event: Event) -> None:
        text = told_of(event)
        if text is not None:
            self.line(text)

    def line(self, text: str) -> None:
        """One line of text for people."""
        self._display.line(text)

    def _put(self, value: dict[str, Any]) -> None:
        sys.stdout.write(codec.json_line(value))
        sys.stdout.flush()

    @asynccontextmanager
    async def showing(self, work: Work, place: Path) -> AsyncIterator[None]:
        """Show the progress until the block is left."""
        self._work = work
        self._last_time = asyncio.get_running_loop().time()
        self._launch(place)
        with self._display.open():
            ticking = asyncio.get_running_loop().create_task(self._tick())
            try:
                yield
            finally:
                ticking.cancel()
                with suppress(asyncio.CancelledError):
                    await ticking

    def _launch(self, place: Path) -> None:
        sweep = self._sweep
        if self._json:
            names = [one.name for one in sweep.planned]
            self._put({"event": "launch", "directory": str(place), "name": sweep.name, "studies": names})
        else:
            self.line(f"{sweep.name}: {len(sweep.planned)} studies, {sweep.at_once} at once; kept in {place}")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._display.interval)
            self._show()

    def _show(self) -> None:
        work = self._work
        figures = {
            "done": self._done,
            "running": self._running,
            "studies": len(self._sweep.planned),
            "calls": self._calls,
            "calls_per_second": self._calls_per_second(),
            "in_flight": 0 if work is None else work.in_flight,
            "queued": 0 if work is None else work.queued,
            "failed_attempts": 0 if work is None else work.failed_attempts,
        }
        if self._json:
            self._put({"event": "progress", **figures})
            return
        facts = (
            "{running} running · {calls} calls, {calls_per_second:.1f}/s · {in_flight} in flight · {queued} queued · "
            "{failed_attempts} failed attempts".format(**figures)
        )
        self._display.work("studies done", self._done, len(self._sweep.planned), [facts])

    def _calls_per_second(self) -> float:
        """Those of at least the last second."""
        now, calls = asyncio.get_running_loop().time(), self._account.calls
        if now - self._last_time >= RATE_SECONDS:
            self._rate = (calls - self._last_calls) / (now - self._last_time)
            self._last_time, self._last_calls = now, calls
        return self._rate

    @property
    def done(self) -> int:
        """How many studies have ended."""
        return self._done

    def began(self) -> None:
        """A study has begun."""
        self._running += 1

    def interrupted(self) -> None:
        """A study that had begun has to begin again."""
        self._running -= 1

    def ended(self, ended: Ended) -> None:
        """A study has ended."""
        self._running -= 1
        self._done += 1
        if self._json:
            self._put({"event": "study", **ended_json(ended)})
        else:
            self.line(ended_line(ended))

    def results(self, ended: Sequence[Ended], place: Path, contests: Sequence[OfTask] = ()) -> None:
        """The table of all studies, on standard output; of a comparison of optimizers, its figures instead."""
        attributions = [] if self._work is None else self._work.attributions()
        if self._json:
            done = {"event": "done", "name": self._sweep.name, "directory": str(place), **summary_json(ended)}
            failed = [one.planned.name for one in ended if one.error is not None]
            used = [asdict(one) for one in attributions if one.attempts]
            compared = {"contests": [one.to_json() for one in contests]} if contests else {}
            self._put({**done, **compared, "failed": failed, "calls": self._calls, "attribution": used})
            return
        taken = f"{len(ended)} studies, {self._calls} calls in this sitting"
        table = codec.printable(str(place / "results.csv"), LONGEST_PATH)
        found = ["", *contests_lines(contests)] if contests else table_lines(ended)
        lines = [*found, "", taken, *attribution_lines(attributions), table]
        print("\n".join(lines))


class NotesOf:
    """Passes a study's notes on with its name before them."""

    def __init__(self, name: str, told: Told) -> None:
        self._name = name
        self._told = told

    def notify(self, event: Event) -> None:
        if isinstance(event, Note):
            self._told.line(f"{self._name}: {event.text}")
