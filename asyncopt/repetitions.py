"""What repetitions come to: each study's figures, their mean and spread over the seeds, and the mean over tasks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from asyncopt import codec
from asyncopt.result import Measured, Result, Scored
from asyncopt.stats import Spread, top_k
from asyncopt.sweep import Ended

_OVER_TASKS = ("train", "validation", "held_out", "overall", "gain")
_COLUMNS = (
    *("train", "validation", "held_out", "overall", "gain"),
    *("steps", "solved", "unique", "loss", "gap", "nearest_neighbour", "farthest_insertion"),
    *("random_steps", "random_solved", "random_unique", "random_loss", "random_gap"),
    *("calls", "cache_hits", "tokens", "usd", "seconds", "unscored"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """The studies of one task under one setting: how many ended and how many failed, and the spread of each figure.

    ``steps_solved`` are the steps of those studies that found the optimum, as in the paper's table 3. ``top_k`` is the
    mean and the standard deviation of the held-out score if the best of 1, 2, ... seeds by validation were kept.
    """

    task: str
    setting: str
    n: int
    failed: int
    figures: Mapping[str, Spread]
    top_k: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Total:
    """The means of a setting's groups, averaged over so many tasks, each of the same weight."""

    setting: str
    tasks: int
    means: Mapping[str, float]


def figures_of(ended: Ended) -> dict[str, float]:
    """The figures of one study that has a result: shares in [0, 1], gaps in percent of the optimum.

    ``gain`` is the held-out score of the best instruction minus that of the initial one; ``overall`` is the best one's
    share of right answers on all examples together. ``random_...`` is random search with as many proposals.
    """
    result = ended.result
    if result is None:
        return {}
    spent = {name: getattr(result, name) for name in ("calls", "cache_hits", "tokens", "usd", "seconds", "unscored")}
    scores = _scores(result) if result.optimum_loss is None else _losses(result, "")
    beside = {} if ended.random is None else _losses(ended.random, "random_")
    found = {"steps": result.steps, **scores, **beside, **spent}
    return {name: float(found[name]) for name in _COLUMNS if found.get(name) is not None}


def _scores(result: Result) -> dict[str, float | None]:
    best = result.best
    parts = [] if best is None else [part for part in (best.train, best.validation, best.held_out) if part is not None]
    every = Measured.of(sum(part.correct for part in parts), sum(part.n for part in parts))
    first, last = _held_out(result.initial), _held_out(best)
    return {
        "train": _share(None if best is None else best.train),
        "validation": _share(None if best is None else best.validation),
        "held_out": last,
        "overall": _share(every),
        "gain": None if first is None or last is None else last - first,
    }


def _held_out(scored: Scored | None) -> float | None:
    return _share(None if scored is None else scored.held_out)


def _share(measured: Measured | None) -> float | None:
    return None if measured is None else measured.score


def _losses(result: Result, prefix: str) -> dict[str, float | None]:
    best, optimum = result.best, result.optimum_loss
    found: dict[str, float | None] = {
        "steps": result.steps,
        "solved": result.solved,
        "unique": result.unique_pairs if result.unique_tours is None else result.unique_tours,
        "loss": None if best is None else best.loss,
        "gap": result.gap,
    }
    if optimum and not prefix:
        found |= {name: 100 * (length / optimum - 1) for name, length in (result.baselines or {}).items()}
    return {f"{prefix}{name}": value for name, value in found.items()}


def groups_of(ended: Iterable[Ended]) -> list[Group]:
    """The studies grouped by task and setting, in the order in which these first come."""
    cells: dict[tuple[str, str], list[Ended]] = {}
    for one in ended:
        cells.setdefault((one.planned.task, one.planned.setting), []).append(one)
    return [_group(task, setting, rows) for (task, setting), rows in cells.items()]


def _group(task: str, setting: str, rows: Sequence[Ended]) -> Group:
    done = [figures_of(row) for row in rows if row.result is not None]
    columns = {name: [figures[name] for figures in done if name in figures] for name in _COLUMNS}
    for prefix in ("", "random_"):
        solved = [figures[f"{prefix}steps"] for figures in done if figures.get(f"{prefix}solved")]
        columns[f"{prefix}steps_solved"] = solved
    spreads = {name: Spread.of(values) for name, values in columns.items() if values}
    return Group(task, setting, len(done), len(rows) - len(done), spreads, _top_k(done))


def _top_k(done: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
    both = [figures for figures in done if "validation" in figures and "held_out" in figures]
    validation = [figures["validation"] for figures in both]
    held_out = [figures["held_out"] for figures in both]
    return [top_k(validation, held_out, k) for k in range(1, len(both) + 1)] if len(both) > 1 else []


def totals_of(groups: Sequence[Group]) -> list[Total]:
    """The mean over tasks for each setting, where there are several tasks with scores."""
    totals = []
    for setting in dict.fromkeys(group.setting for group in groups):
        of_setting = [group.figures for group in groups if group.setting == setting and group.n]
        columns = {name: [figures[name].mean for figures in of_setting if name in figures] for name in _OVER_TASKS}
        whole = {name: fmean(values) for name, values in columns.items() if values and len(values) == len(of_setting)}
        if len(of_setting) > 1 and whole:
            totals.append(Total(setting, len(of_setting), whole))
    return totals


# -- as data -----------------------------------------------------------------------------------------------------------


def ended_json(ended: Ended) -> dict[str, Any]:
    """One study of a sweep as a plain value: its result, or why it has none."""
    planned = ended.planned
    plain: dict[str, Any] = {"task": planned.task, "setting": planned.setting, "seed": planned.seed}
    plain["directory"] = planned.name
    if ended.error is not None:
        plain["error"] = str(ended.error)
    if ended.result is not None:
        plain["result"] = ended.result.to_json()
    if ended.random is not None:
        plain["random"] = ended.random.to_json()
    return plain


def summary_json(ended: Sequence[Ended]) -> dict[str, Any]:
    """The groups and the totals as plain values."""
    groups = groups_of(ended)
    return {
        "groups": [asdict(group) for group in groups],
        "totals": [asdict(total) for total in totals_of(groups)],
    }


def results_csv(ended: Iterable[Ended]) -> bytes:
    """One row for each study with all its figures, as CSV; a figure that does not apply is empty."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["task", "setting", "seed", "directory", *_COLUMNS, "error"])
    for one in ended:
        figures = figures_of(one)
        error = "" if one.error is None else codec.csv_cell(codec.printable(str(one.error), 400))
        task, setting, name = map(codec.csv_cell, (one.planned.task, one.planned.setting, one.planned.name))
        place = (task, setting, one.planned.seed, name)
        rows.writerow([*place, *(figures.get(name, "") for name in _COLUMNS), error])
    return text.getvalue().encode()
