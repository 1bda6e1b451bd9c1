"""What a person, or a program, sees of a run: a live panel on a terminal, plain lines elsewhere, JSON lines on request.

Progress goes to standard error and the result to standard output, so that a pipe gets the result alone. Model text is
shown on one line, without control characters and never as markup.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
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
RICH_SECONDS = 0.25
BAR_WIDTH = 40
LONG_PAUSE = 5.0  # seconds: shorter ones are the ordinary work of a rate limit; an outage pauses for as long at least


class ServesLocally(Protocol):
    """The embedded model's server, as far as it is shown."""

    def cpu_seconds(self) -> float | None: ...


class Display:
    """Plain lines on standard error; the other displays are this one with other lines."""

    def __init__(self) -> None:
        self.status = Status()
        self.servers: list[Any] = []
        self.unscored = 0  # examples of the result's instructions that ended without a score
        self._engine: Engine | None = None
        self._interval = PLAIN_SECONDS

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
        ticking = asyncio.get_running_loop().create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking
            self.ended()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self.show(self.status.look())

    def ended(self) -> None:
        """The last progress was shown."""

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
        sys.stdout.write(codec.dumps(value).decode() + "\n")
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


class RichDisplay(Display):
    """A panel on the terminal that is drawn anew four times a second."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live

        self._interval = RICH_SECONDS
        console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._on = False

    def launch(self, study: Study, place: Path) -> None:
        super().launch(study, place)
        self._live.start()
        self._on = True

    def line(self, text: str) -> None:
        if self._on:
            self._live.console.print(codec.printable(text, 400))
        else:
            super().line(text)

    def show(self, figures: Figures) -> None:
        if self._on:
            self._live.update(self._panel(figures), refresh=True)

    def notify(self, event: Event) -> None:
        known = self.status.best
        super().notify(event)
        if isinstance(event, StepFinished) and event.best != known:
            score = "" if event.best_score is None else f" {_figure(event.best_score)}"
            self.line(f"step {event.step + 1}: best{score}: {event.best}")

    def _panel(self, figures: Figures) -> Any:
        from rich.text import Text

        done = BAR_WIDTH * figures.step // max(figures.steps, 1)
        best = codec.printable(figures.best, 150) if figures.best else "scoring the starting points"
        bar = "━" * done + "─" * (BAR_WIDTH - done)
        return Text("\n".join((figures_line(figures, self.limiting()), bar, best)), no_wrap=True, overflow="ellipsis")

    def ended(self) -> None:
        self._on = False
        self._live.stop()


def choose_display(*, json: bool) -> Display:
    """The display for what standard error is."""
    if json:
        return JsonDisplay()
    return RichDisplay() if sys.stderr.isatty() else Display()


def figures_line(figures: Figures, limiting: Mapping[str, str]) -> str:
    """The figures on one line, with what keeps more calls from being in flight."""
    parts = [f"step {figures.step}/{figures.steps}"]
    if figures.best_score is not None:
        start = "" if figures.initial_score is None else f" (start {_figure(figures.initial_score)})"
        parts.append(f"best {_figure(figures.best_score)}{start}")
    reasons = " and ".join(dict.fromkeys(limiting.values()))
    parts += [
        f"{figures.calls} calls, {figures.calls_per_second:.1f}/s",
        f"{figures.in_flight}/{figures.concurrency} in flight" + (f", limited by {reasons}" if reasons else ""),
        f"{figures.queued} queued",
        f"{figures.throttled} 429s",
        f"{figures.cache_hits} cache hits",
    ]
    if figures.failed_attempts:
        parts.append(f"{figures.failed_attempts} failed attempts")
    if figures.usd:
        parts.append(f"${figures.usd:.4f}")
    if figures.eta is not None:
        parts.append(f"ETA {figures.eta:.0f} s")
    return " · ".join(parts)


def _figure(score: float) -> str:
    # Three digits would hide what a step gained on a tour of length 1199.
    return f"{score:.3g}" if abs(score) < 1000 else f"{score:.0f}"
