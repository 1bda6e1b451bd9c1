"""The figures of a report as SVG, PDF and PNG, for papers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from asyncopt.errors import ConfigError
from asyncopt.pages.comparing import names_of
from asyncopt.pages.document import document
from asyncopt.records import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
# Okabe and Ito's, which people of every colour vision can tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8a939c", "#000000")
_STROKES = ("-", ":", "-.")  # of the first runs, of those whose colours come a second time, and so on
_SIZE = (5.5, 3.4)  # inches: a column and a half
_ROW = 0.28  # inches of a run in a figure with a line for each
_LEGEND_ROW = 0.17  # inches
_SHORT = 20  # characters of a label, of which three stand beside each other
_STYLE = {
    "text.parse_math": False,  # names of runs and tasks may hold a $
    "svg.fonttype": "none",
    "svg.hashsalt": "asyncopt",  # the same run gives the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e1e5ea",
    "legend.frameon": False,
}
_DATES: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}

Draw = Callable[["Axes", Sequence[Mapping[str, Any]]], None]


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """The files that were written into ``folder``: scores by step, held-out scores, and calls in flight over time.

    Figures that the runs have no data for are left out. Raises :class:`ConfigError` without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "static figures need matplotlib, which is not installed; pip install 'asyncopt[plots]'"
        ) from None
    documents = [{**document(run), "name": name} for run, name in zip(runs, names_of(runs), strict=True)]
    written = []
    # No pyplot: it would choose a window system, and keep figures.
    with matplotlib.rc_context(_STYLE):
        for name, paint in _figures(documents):
            figure = Figure(figsize=_SIZE, layout="constrained")
            paint(figure.add_subplot(), documents)
            for kind in FORMATS:
                path = folder / f"{name}.{kind}"
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    figure.savefig(path, dpi=200, metadata=_DATES[kind])
                except OSError as error:
                    raise ConfigError(f"{path} cannot be written ({error.strerror}); name another folder") from None
                written.append(path)
    return written


def _figures(documents: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Draw]]:
    if any(one["steps"] for one in documents):
        yield "scores", _scores
    if any(row["test"] for one in documents for row in one["held_out"]):
        yield "held-out", _held_out
    if any(one["activity"]["t"] for one in documents):
        yield "engine", _engine


def _scores(axes: Axes, documents: Sequence[Mapping[str, Any]]) -> None:
    share = all(one["head"]["scored"] == "share" for one in documents)
    factor = 100 if share else 1
    for place, one in enumerate(documents):
        colour = _COLOURS[place % len(_COLOURS)]
        rows = [row for row in one["steps"] if row["best"] is not None]
        steps, best = [row["step"] + 1 for row in rows], [factor * row["best"] for row in rows]
        axes.step(steps, best, where="post", color=colour, linestyle=_stroke(place), label=_label(one))
        if len(documents) == 1:
            tried = [row for row in one["candidates"] if row["score"] is not None]
            places, scores = [row["step"] + 1 for row in tried], [factor * row["score"] for row in tried]
            axes.scatter(places, scores, s=6, color=_COLOURS[5], alpha=0.6, linewidths=0, label="candidates")
            means = [None if row["mean"] is None else factor * row["mean"] for row in rows]
            axes.plot(steps, means, "--", color=_COLOURS[6], linewidth=1, label="mean of the step")
    if not share:
        axes.set_yscale("symlog")
    axes.set(xlabel="step", ylabel="training score (%)" if share else "loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes, _SIZE[1])


def _held_out(axes: Axes, documents: Sequence[Mapping[str, Any]]) -> None:
    named = set()
    for place, one in enumerate(documents):
        for shift, row in enumerate(row for row in one["held_out"] if row["test"]):
            score, low, high = (100 * row["test"][name] for name in ("score", "low", "high"))
            which = row["which"]
            axes.errorbar(
                [score],
                [place + 0.12 - 0.24 * shift],
                xerr=[[max(score - low, 0.0)], [max(high - score, 0.0)]],
                fmt="o",
                color=_COLOURS[0] if which == "best" else _COLOURS[6],
                label=which if which not in named else None,
            )
            named.add(which)
    axes.set_yticks(range(len(documents)), [_label(one) for one in documents])
    axes.set_ylim(len(documents) - 0.5, -0.5)
    axes.set(xlabel="held-out score (%, 95 % interval)")
    _legend(axes, max(_SIZE[1], 1.0 + _ROW * len(documents)))


def _engine(axes: Axes, documents: Sequence[Mapping[str, Any]]) -> None:
    # The studies of a sweep have one engine, which is drawn once.
    engines: list[tuple[str, Mapping[str, Any]]] = []
    for one in documents:
        named = _label({"name": one["activity"]["shared"] or one["name"]}), one["activity"]
        if one["activity"]["t"] and named not in engines:
            engines.append(named)
    for place, (name, activity) in enumerate(engines):
        colour = _COLOURS[place % len(_COLOURS)]
        nothing = float("nan")
        flight, limit = (
            [nothing if value is None else value for value in activity[name]] for name in ("in_flight", "limit")
        )
        axes.plot(activity["t"], flight, color=colour, linestyle=_stroke(place), linewidth=1, label=name)
        limited = "limit of each" if place == len(engines) - 1 else None
        axes.plot(activity["t"], limit, "--", color=colour, linewidth=0.8, label=limited)
    axes.set(xlabel="seconds", ylabel="calls in flight")
    axes.set_ylim(bottom=0)
    _legend(axes, _SIZE[1])


def _stroke(place: int) -> str:
    return _STROKES[place // len(_COLOURS) % len(_STROKES)]


def _legend(axes: Axes, high: float) -> None:
    """Names what is drawn, below it: the figure is ``high`` inches and as many more as the names take."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 3 if max(map(len, labels), default=0) <= _SHORT else 2
    figure = cast("Figure", axes.figure)
    figure.set_figheight(high + _LEGEND_ROW * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small")


def _label(one: Mapping[str, Any]) -> str:
    return str(one["name"])[:40].lstrip("_")  # matplotlib leaves names with a _ before them out of a legend
