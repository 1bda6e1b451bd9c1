"""What a person, or a program, sees of a run: a live panel on a terminal, plain lines elsewhere, JSON lines on request.

Progress goes to standard error and the result to standard output, so that a pipe gets the result alone. Model text is
shown on one line, without control characters and never as markup.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from asyncopt import codec
from asyncopt.cli.status import Figures, Status, launch_line
from asyncopt.cli.summary import Attribution, summary_lines
from asyncopt.engine import Engine
from asyncopt.events import CandidateScored, Event, LimitChanged, Note, StepFinished, StepValidated
from asyncopt.result import Result
from asyncopt.study import Study

PLAIN_SECONDS = 10.0
LONG_PAUSE = 5.0  # seconds: shorter ones are the ordinary work of a rate limit; an outage pauses for as long at least


class ServesLocally(Protocol):
    """The embedded model's server, as far as it is shown."""

    def cpu_seconds(self) -> float | None: ...


class Display:
    """Plain lines on standard error; the other displays are this one with other lines."""

    interval = PLAIN_SECONDS

    def __init__(self) -> None:
        self.status = Status()
        self.servers: list[Any] = []
        self.unscored = 0  # examples of the result's instructions that ended without a score
        self._engine: Engine | None = None

    def notify(self, event: Event) -> None:
        self.status.see(event)
        if isinstance(event, StepFinished):
            self.show(self.status.look())
        elif isinstance(event, StepValidated):
            self.validated(event)
        elif isinstance(event, Note):
            self.line(event.text)
        elif isinstance(event, LimitChanged) and event.what == "gate" and (event.value or 0.0) >= LONG_PAUSE:
            self.line(f"{event.scope}: nothing is sent for {event.value:.0f} s ({event.reason})")

    def validated(self, event: StepValidated) -> None:
        after = "the start" if event.step < 0 else f"step {event.step + 1}"
        score = "unknown" if event.score is None else f"{100 * event.score:.1f} %"
        self.line(f"{event.candidates} candidates of {after} validated; the best validation score is {score}")

    def line(self, text: str) -> None:
        """One line of text for people."""
        print(codec.printable(text, 400), file=sys.stderr, flush=True)

    def show(self, figures: Figures) -> None:
        self.line(figures_line(figures, self.limiting()))

    def work(self, what: str, done: int, of: int, facts: Sequence[str]) -> None:
        """How far work that is no study's has come."""
        self.line(" · ".join([f"{done}/{of} {what}", *facts]))

    @contextmanager
    def open(self) -> Iterator[None]:
        """Show progress until the block is left."""
        yield

    def limiting(self) -> dict[str, str]:
        """Why not more calls are in flight now, by the scope of each dispatcher that has something to do."""
        dispatchers = () if self._engine is None else self._engine.dispatchers
        working = (dispatcher for dispatcher in dispatchers if dispatcher.in_flight or dispatcher.queued)
        return {dispatcher.control.scope: dispatcher.limiting() for dispatcher in working}

    def attributions(self) -> list[Attribution]:
        """What each dispatcher has done so far, and why not more."""
        return [] if self._engine is None else [Attribution.of(one) for one in self._engine.dispatchers]

    def launch(self, study: Study, place: Path) -> None:
        self.line(f"{study.task.name} with {study.optimizer.name}, {study.optimizer.steps} steps; kept in {place}")

    @asynccontextmanager
    async def showing(self, study: Study, engine: Engine, place: Path) -> AsyncIterator[None]:
        """Show the study's progress until the block is left."""
        self._engine = engine
        self.status.watch(study, engine)
        self.launch(study, place)
        with self.open():
            ticking = asyncio.get_running_loop().create_task(self._tick())
            try:
                yield
            finally:
                ticking.cancel()
                with suppress(asyncio.CancelledError):
                    await ticking

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            self.show(self.status.look())

    def result(self, result: Result, baseline: Result | None, place: Path) -> None:
        for line in summary_lines(result, baseline, place, self.local_cpu_seconds(), self.attributions()):
            print(line)

    def local_cpu_seconds(self) -> float | None:
        """CPU seconds of the embedded model's servers so far; None where there are none or nothing is known."""
        seconds = [server.cpu_seconds() for server in self.servers]
        known = [value for value in seconds if value is not None]
        return sum(known) if known else None


class JsonDisplay(Display):
    """JSON lines on standard output: ``launch``, ``candidate``, ``progress``, ``note``, and ``done`` at the end."""

    def notify(self, event: Event) -> None:
        super().notify(event)
        if isinstance(event, CandidateScored):
            self._put({"event": "candidate", **asdict(event)})

    def validated(self, event: StepValidated) -> None:
        self._put({"event": "validation", **asdict(event)})

    def _put(self, value: dict[str, Any]) -> None:
        sys.stdout.write(codec.json_line(value))
        sys.stdout.flush()

    def line(self, text: str) -> None:
        self._put({"event": "note", "text": text})

    def show(self, figures: Figures) -> None:
        self._put({"event": "progress", **asdict(figures), "limiting": self.limiting()})

    def launch(self, study: Study, place: Path) -> None:
        self._put(launch_line(study, place))

    def result(self, result: Result, baseline: Result | None, place: Path) -> None:
        done: dict[str, Any] = {"event": "done", **result.to_json(), "directory": str(place)}
        if baseline is not None:
            done["random"] = baseline.to_json()
        done["attribution"] = [asdict(one) for one in self.attributions() if one.attempts]
        if self.servers:
            done["local_cpu_seconds"] = self.local_cpu_seconds()
        self._put(done)


class NoDisplay(Display):
    """Nothing while the run goes on; its result all the same, on standard output."""

    def line(self, text: str) -> None:
        """Nobody wants to know."""

    def show(self, figures: Figures) -> None:
        """Nobody wants to know."""


def figures_line(figures: Figures, limiting: Mapping[str, str]) -> str:
    """The figures on one line, with what keeps more calls from being in flight."""
    parts = [f"step {figures.step}/{figures.steps}"]
    if figures.best_score is not None:
        start = "" if figures.initial_score is None else f" (start {score_text(figures.initial_score)})"
        parts.append(f"best {best_text(figures)}{start}")
    reasons = " and ".join(dict.fromkeys(limiting.values()))
    parts += [
        f"{figures.calls} calls, {figures.calls_per_second:.1f}/s, {figures.tokens_per_second:.0f} tokens/s",
        f"{figures.in_flight}/{figures.concurrency} in flight" + (f", limited by {reasons}" if reasons else ""),
        f"{figures.queued} queued",
        f"{figures.throttled} 429s",
        f"{figures.cache_hits} cache hits",
    ]
    if figures.failed_attempts:
        parts.append(f"{figures.failed_attempts} failed attempts")
    if figures.usd:
        parts.append(usd_text(figures))
    if figures.eta is not None:
        parts.append(f"ETA {figures.eta:.0f} s")
    return " · ".join(parts)


def score_text(score: float, low: float | None = None, high: float | None = None) -> str:
    """The score in three digits, and its interval if it has one."""
    # Three digits would hide what a step gained on a tour of length 1199.
    text = f"{score:.3g}" if abs(score) < 1000 else f"{score:.0f}"
    return text if low is None or high is None else f"{text} ({low:.3g} to {high:.3g})"


def best_text(figures: Figures) -> str:
    """The best score with its interval, and its examples where they are only a part of all."""
    text = score_text(figures.best_score or 0.0, figures.low, figures.high)
    return text if figures.best_only is None else f"{text} on {figures.best_only} examples only"


def usd_text(figures: Figures) -> str:
    """The dollars spent, and those left of a budget."""
    return f"${figures.usd:.4f}" + ("" if figures.usd_left is None else f", ${figures.usd_left:.4f} left")
