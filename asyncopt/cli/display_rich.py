"""A panel on the terminal that is drawn anew four times a second: bars, and under them what is going on.

Everything is written as plain text without control characters: rich would take a candidate's brackets for markup, and
passes the orders for a terminal on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from asyncopt import codec
from asyncopt.cli.display import Display, best_text, score_text, usd_text
from asyncopt.cli.status import Figures
from asyncopt.events import Event, StepFinished
from asyncopt.study import Study

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

SECONDS = 0.25
BAR_WIDTH = 32
_LONGEST = 400
_ECHO = 3  # columns left free, since the ^C of an interrupt would wrap there, and the panel be drawn a line too low
_LABELS = {"train": "scoring", "validation": "validating", "test": "measuring"}

Bar: TypeAlias = tuple[str, int, int, str]
"""What is done, how much of it, of how much, and a remark."""


class RichDisplay(Display):
    """The panel of a run, and above it the lines that stay."""

    interval = SECONDS

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None
        self._title = ""

    def launch(self, study: Study, place: Path) -> None:
        self._title = f"{study.task.name} · {study.optimizer.name} · {place}"
        super().launch(study, place)

    @contextmanager
    def open(self) -> Iterator[None]:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        with Live(console=console, auto_refresh=False, transient=True) as self._live:
            try:
                yield
            finally:
                self._live = None

    def line(self, text: str) -> None:
        if self._live is None:
            super().line(text)
        else:
            self._live.console.print(codec.printable(text, _LONGEST))

    def work(self, what: str, done: int, of: int, facts: Sequence[str]) -> None:
        self._draw([(what, done, of, "")], [("", " · ".join(facts))])

    def show(self, figures: Figures) -> None:
        bars, facts = _bars(figures), _facts(figures, list(dict.fromkeys(self.limiting().values())))
        self._draw(bars, [("run", self._title), *facts])

    def notify(self, event: Event) -> None:
        known = self.status.best
        super().notify(event)
        if isinstance(event, StepFinished) and event.best != known:
            score = "" if event.best_score is None else f" {score_text(event.best_score)}"
            self.line(f"step {event.step + 1}: best{score}: {event.best}")

    def _draw(self, bars: Sequence[Bar], facts: Sequence[tuple[str, str]]) -> None:
        if self._live is not None:
            from rich.constrain import Constrain

            width = max(self._live.console.width - _ECHO, 1)
            self._live.update(Constrain(panel(bars, facts), width), refresh=True)


def panel(bars: Sequence[Bar], facts: Sequence[tuple[str, str]]) -> Table:
    """The bars, one a line, and under them the facts with their names."""
    from rich.table import Table

    rows = Table.grid(padding=(0, 1), expand=True)
    rows.add_column(no_wrap=True, width=10)
    rows.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    for what, done, of, remark in bars:
        rows.add_row(_text(what, "bold"), _bar(done, of, remark))
    for name, text in facts:
        rows.add_row(_text(name, "dim"), _text(text))
    return rows


def _bar(done: int, of: int, remark: str) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    line = Table.grid(padding=(0, 1))
    line.add_column(width=BAR_WIDTH)
    line.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(
        total=max(of, 1),
        completed=min(done, of),
        width=BAR_WIDTH,
        style="color(240)",
        complete_style="color(39)",
        finished_style="color(35)",
    )
    line.add_row(bar, _text(f"{done}/{of} {remark}"))
    return line


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(codec.printable(text, _LONGEST), style=style, no_wrap=True, overflow="ellipsis")


def _bars(figures: Figures) -> list[Bar]:
    """The steps of the run, and what has ended of the work that is known now."""
    left = "" if figures.eta is None else f"· about {_duration(figures.eta)} left"
    known = figures.scored + figures.in_flight + figures.queued
    return [
        ("steps", figures.step, figures.steps, left),
        (_LABELS.get(figures.fold, "scoring"), figures.scored, known, "examples and proposals"),
    ]


def _facts(figures: Figures, limiting: Sequence[str]) -> list[tuple[str, str]]:
    asked = figures.calls + figures.cache_hits
    share = f" · {100 * figures.cache_hits / asked:.0f} % from the cache" if asked else ""
    by = f" · limited by {' and '.join(limiting)}" if limiting else ""
    return [
        ("best", _best(figures)),
        ("speed", f"{figures.calls_per_second:.1f} calls/s · {figures.tokens_per_second:.0f} tokens/s"),
        ("now", f"{figures.in_flight}/{figures.concurrency} in flight · {figures.queued} queued{by}"),
        ("spent", f"{figures.calls:,} calls · {figures.tokens:,} tokens · {usd_text(figures)}{share}"),
        (
            "trouble",
            f"{figures.throttled} 429s · {figures.failed_attempts} other failures · {figures.retries} retries",
        ),
    ]


def _best(figures: Figures) -> str:
    if figures.best_score is None:
        return "scoring the starting points"
    start = "" if figures.initial_score is None else f", start {score_text(figures.initial_score)}"
    return f"{best_text(figures)}{start} · {figures.best}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )
