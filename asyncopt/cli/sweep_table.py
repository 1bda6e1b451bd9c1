"""A sweep's results as a table: a row for each task and setting, the mean over tasks below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from asyncopt import codec
from asyncopt.repetitions import Group, Total, figures_of, groups_of, totals_of
from asyncopt.stats import Spread
from asyncopt.sweep import Ended

_Column: TypeAlias = tuple[str, Callable[[Group], str]]

_SHARES = ("train", "validation", "held_out", "overall", "gain")
_WITH_INTERVAL = ("held_out", "gain")


def ended_line(ended: Ended) -> str:
    """One line on a study that has ended."""
    if ended.error is not None:
        return f"{ended.planned.name}: failed: {ended.error}"
    figures = figures_of(ended)
    parts = [f"{name.replace('_', ' ')} {_percent(figures[name])}" for name in _SHARES if name in figures]
    if "solved" in figures:
        parts.append(
            "found the optimum" if figures["solved"] else f"did not find the optimum, loss {figures['loss']:.3f}"
        )
    if figures.get("unscored"):
        parts.append(f"{figures['unscored']:.0f} examples have no score")
    counts = f"{figures['steps']:.0f} steps, {figures['calls']:.0f} calls, {figures['cache_hits']:.0f} cache hits"
    return f"{ended.planned.name}: {', '.join(parts)}; {counts}"


def table_lines(ended: Sequence[Ended]) -> list[str]:
    """The mean and the standard deviation over seeds of every group, with 95 % intervals where there are two or more.

    Groups of tasks that a model scores, of linear regression and of tours have columns of their own.
    """
    groups = groups_of(ended)
    lines: list[str] = []
    for columns, chosen in (
        (_score_columns(groups), [group for group in groups if "solved" not in group.figures]),
        (_PAIR_COLUMNS, [group for group in groups if "solved" in group.figures and "gap" not in group.figures]),
        (_TOUR_COLUMNS, [group for group in groups if "gap" in group.figures]),
    ):
        if chosen:
            lines += [
                "",
                *_aligned([["task", "setting", "n", *(title for title, _ in columns)], *_rows(chosen, columns)]),
            ]
    kept = [group for group in groups if group.top_k]
    totals = totals_of(groups)
    lines += ["", *_aligned(_top_k_rows(kept))] if kept else []
    return lines + (["", *_aligned(_total_rows(totals))] if totals else [])


def _rows(groups: Sequence[Group], columns: Sequence[_Column]) -> list[list[str]]:
    return [
        [
            codec.printable(group.task, 60),
            codec.printable(group.setting, 40),
            f"{group.n}" + (f" ({group.failed} failed)" if group.failed else ""),
            *(cell(group) for _, cell in columns),
        ]
        for group in groups
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# -- columns -----------------------------------------------------------------------------------------------------------


def _score_columns(groups: Sequence[Group]) -> list[_Column]:
    present = [name for name in _SHARES if any(name in group.figures for group in groups)]
    return [(name.replace("_", " "), _share_cell(name)) for name in present]


def _share_cell(name: str) -> Callable[[Group], str]:
    least = -1.0 if name == "gain" else 0.0

    def cell(group: Group) -> str:
        spread = group.figures.get(name)
        if spread is not None and spread.low is not None and spread.high is not None:
            # Student's interval of a few seeds knows nothing of the ends that a share has.
            spread = replace(spread, low=max(spread.low, least), high=min(spread.high, 1.0))
        return _spread(spread, 100, 1, interval=name in _WITH_INTERVAL)

    return cell


def _mean(name: str, digits: int = 1) -> Callable[[Group], str]:
    return lambda group: _spread(group.figures.get(name), 1, digits, interval=False)


def _found(name: str) -> Callable[[Group], str]:
    def cell(group: Group) -> str:
        solved = group.figures.get(name)
        return "-" if solved is None else f"{solved.mean * solved.n:.0f} of {solved.n}"

    return cell


_PAIR_COLUMNS: list[_Column] = [
    ("found", _found("solved")),
    ("steps", _mean("steps")),
    ("unique pairs", _mean("unique")),
    ("random: found", _found("random_solved")),
    ("steps", _mean("random_steps")),
    ("unique pairs", _mean("random_unique")),
]
_TOUR_COLUMNS: list[_Column] = [
    ("gap %", _mean("gap")),
    ("found", _found("solved")),
    ("steps when found", _mean("steps_solved")),
    ("nearest neighbour %", _mean("nearest_neighbour")),
    ("farthest insertion %", _mean("farthest_insertion")),
    ("random: gap %", _mean("random_gap")),
    ("found", _found("random_solved")),
]


def _spread(spread: Spread | None, scale: float, digits: int, *, interval: bool) -> str:
    if spread is None:
        return "-"
    text = f"{scale * spread.mean:.{digits}f}"
    if spread.sd is not None:
        text += f" ± {scale * spread.sd:.{digits}f}"
    if interval and spread.low is not None and spread.high is not None:
        text += f" ({scale * spread.low:.{digits}f} to {scale * spread.high:.{digits}f})"
    return text


def _top_k_rows(groups: Sequence[Group]) -> list[list[str]]:
    most = max(len(group.top_k) for group in groups)
    head = ["held out, the best seed by validation", "setting", *(f"of {k}" for k in range(1, most + 1))]
    rows = []
    for group in groups:
        cells = [f"{100 * mean:.1f} ± {100 * sd:.1f}" for mean, sd in group.top_k]
        filled = [*cells, *["-"] * (most - len(cells))]
        rows.append([codec.printable(group.task, 60), codec.printable(group.setting, 40), *filled])
    return [head, *rows]


def _total_rows(totals: Sequence[Total]) -> list[list[str]]:
    names = [name for name in _SHARES if any(name in total.means for total in totals)]
    head = ["mean over tasks", "setting", "tasks", *(name.replace("_", " ") for name in names)]
    rows = [["", codec.printable(total.setting, 40), f"{total.tasks}", *_means(total.means, names)] for total in totals]
    return [head, *rows]


def _means(means: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [_percent(means[name]) if name in means else "-" for name in names]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
