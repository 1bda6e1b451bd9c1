"""Runs beside published results, as tables of text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from asyncopt import codec
from asyncopt.cli.against import Comparison, Run, problem
from asyncopt.cli.columns import aligned
from asyncopt.published import PAPERS, Metric, Row
from asyncopt.result import Result, Scored
from asyncopt.stats import mean_sd

_REMINDER = (
    "In percent; the gain is of the held-out score over the initial instruction's. The paper's models are others than "
    "these: compare gains, not levels."
)

End: TypeAlias = Literal["best", "initial"]

_ENDS: tuple[End, ...] = ("best", "initial")
_FOLDS = ("train", "test", "overall")
_HEAD = ("", "scorer", "proposer", "position", "instruction")
_WIDTH = 48  # of an instruction


def against_lines(comparisons: Sequence[Comparison], paper: str) -> list[str]:
    """The runs beside the paper's results: each problem in detail, or one line for each of several tasks."""
    graded = [one for one in comparisons if not _unscored(one)]
    lines = [f"beside {PAPERS[paper]}"]
    for one in comparisons:
        if _unscored(one):
            lines += ["", *_objective_lines(one, named=len(comparisons) > 1)]
    if len(graded) == 1:
        lines += ["", graded[0].task, *_instruction_lines(graded[0])]
    elif graded:
        lines += ["", *_task_lines(graded)]
    return [*lines, "", _REMINDER] if graded else lines


def _unscored(comparison: Comparison) -> bool:
    """Whether this is a problem that no model scores."""
    return comparison.runs[0].result.optimum_loss is not None


# -- instructions ------------------------------------------------------------------------------------------------------


@dataclass
class _Setting:
    """What the paper found in one setting, by fold in percent."""

    row: Row
    scores: dict[str, float] = field(default_factory=dict)
    sources: dict[str, None] = field(default_factory=dict)


def _settings(rows: Iterable[Row]) -> list[_Setting]:
    """The paper's numbers put together where they were measured on the same; of a training curve each point is one."""
    found: dict[tuple[object, ...], _Setting] = {}
    for row in rows:
        curve = row.fold == "train" and row.step is not None
        text = row.instruction if row.optimizer is None or curve else None
        key = (row.scorer, row.optimizer, row.position, row.start, text, row.step if curve else None)
        setting = found.setdefault(key, _Setting(row))
        assert row.fold is not None and row.value is not None  # noqa: PT018
        setting.scores[row.fold] = row.value
        setting.sources[row.source] = None
    return list(found.values())


def _gain(setting: _Setting, settings: Iterable[_Setting]) -> float | None:
    """How far the found instruction is above the one that its search began with, on the held-out examples."""
    row = setting.row
    for other in (one for one in settings if one.row.optimizer is None and row.optimizer is not None):
        # An empty instruction makes one prompt wherever it stands, and the paper measured it at one position only.
        placed = row.start == "" or other.row.position == row.position
        if placed and (other.row.scorer, other.row.instruction) == (row.scorer, row.start):
            return _less(setting.scores.get("test"), other.scores.get("test"))
    return None


def _instruction_lines(comparison: Comparison) -> list[str]:
    table = [[*_HEAD, *_FOLDS, "gain"], *_own_cells(comparison)]
    settings = _settings(comparison.rows)
    for setting in settings:
        row = setting.row
        scores = [_percent(setting.scores.get(fold)) for fold in _FOLDS]
        who = [row.scorer or "", row.optimizer or "-", row.position or ""]
        gain = _signed(_gain(setting, settings))
        table.append([", ".join(setting.sources), *who, _described(row), *scores, gain])
    return aligned(table, left=range(len(_HEAD)))


def _described(row: Row) -> str:
    step = f"step {row.step}: " if row.step else ""
    if row.instruction is not None:
        return step + _text(row.instruction)
    return step + (f"found from {_text(row.start)}" if row.start is not None else "found")


def _own_cells(comparison: Comparison) -> list[list[str]]:
    runs = comparison.runs
    who = [runs[0].models.get("scorer", "-"), runs[0].models.get("proposer", "-"), runs[0].position or "own"]
    title = "this run" if len(runs) == 1 else f"mean of {len(runs)} runs"
    cells = []
    for which in _ENDS:
        scored = _scored(runs[0].result, which)
        text = which if len(runs) > 1 or scored is None else f"{which}: {_text(scored.candidate)}"
        scores = [_percent(_mean(_score(run.result, which, fold) for run in runs)) for fold in _FOLDS]
        gain = _signed(_mean(_run_gain(run) for run in runs)) if which == "best" else ""
        cells.append([title, *(codec.printable(name, 30) for name in who), text, *scores, gain])
    return cells


def _scored(result: Result, which: End) -> Scored | None:
    return result.best if which == "best" else result.initial


def _score(result: Result, which: End, fold: str) -> float | None:
    """In percent; overall is over all examples that were scored, in training or held out, as in the paper."""
    scored = _scored(result, which)
    if scored is None:
        return None
    folds = {"train": [scored.train], "test": [scored.held_out], "overall": [scored.train, scored.held_out]}
    parts = [part for part in folds[fold] if part is not None]
    if len(parts) < len(folds[fold]):
        return None
    return 100 * sum(part.correct for part in parts) / sum(part.n for part in parts)


def _run_gain(run: Run) -> float | None:
    return _less(_score(run.result, "best", "test"), _score(run.result, "initial", "test"))


def _task_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """One line a group of runs, beside the paper's nearest setting, and the means over the lines with both gains."""
    table = [["", "runs", "initial", "best", "gain", "paper's nearest setting", "initial", "best", "gain"]]
    gains: list[tuple[float, float]] = []
    for one in comparisons:
        initial, best = (_mean(_score(run.result, which, "test") for run in one.runs) for which in reversed(_ENDS))
        gain = _mean(_run_gain(run) for run in one.runs)
        label, found, published = _nearest(one)
        own = [str(len(one.runs)), _percent(initial), _percent(best), _signed(gain)]
        theirs = [label, _percent(_less(found, published)), _percent(found), _signed(published)]
        table.append([codec.printable(one.group, 60), *own, *theirs])
        if gain is not None and published is not None:
            gains.append((gain, published))
    means = [_signed(_mean(side)) for side in zip(*gains, strict=True)] or ["-", "-"]
    table.append([f"mean of {len(gains)}", "", "", "", means[0], "", "", "", means[1]])
    return aligned(table, left=(0, 5))


def _nearest(comparison: Comparison) -> tuple[str, float | None, float | None]:
    """The paper's nearest setting that found an instruction: its name, and score and gain on held-out examples."""
    settings = _settings(comparison.rows)
    for setting in settings:
        row = setting.row
        if row.optimizer is not None and "test" in setting.scores:
            return f"{row.scorer}, {row.optimizer}, {row.position}", setting.scores["test"], _gain(setting, settings)
    return "-", None, None


# -- pairs and tours ---------------------------------------------------------------------------------------------------


def _objective_lines(comparison: Comparison, *, named: bool) -> list[str]:
    """A line for the runs, one for random proposals, and one for each of the paper's models and heuristics.

    ``named`` has the runs go by their group, since several groups may be on one problem.
    """
    metrics: tuple[Metric, ...] = ("gap", "steps") if comparison.task == "tsp" else ("steps", "unique_pairs")
    published: dict[str, dict[str, Row]] = {}
    for row in comparison.rows:
        published.setdefault(row.optimizer or "", {})[row.metric] = row
    names = {"gap": "gap %", "steps": "steps to the optimum", "unique_pairs": "unique pairs"}
    table = [[problem(comparison.runs[0]), *(names[metric] for metric in metrics)]]
    results = [run.result for run in comparison.runs]
    count = f"{len(results)} runs" if len(results) > 1 else "1 run" if named else "this run"
    title = f"{codec.printable(comparison.group, 60)}, {count}" if named else count
    table.append([title, *(_cell(_measured(results, metric)) for metric in metrics)])
    random = [run.random for run in comparison.runs if run.random is not None]
    if random:
        table.append(["as many random proposals", *(_cell(_measured(random, metric)) for metric in metrics)])
    for heuristic in results[0].baselines or {}:
        gaps = [_heuristic_gap(result, heuristic) for result in results]
        table.append([f"{_spaced(heuristic)}, same instances", _cell(_row(comparison.task, "gap", gaps)), ""])
    for optimizer, by_metric in published.items():
        table.append([f"paper: {_spaced(optimizer)}", *(_cell(by_metric.get(metric)) for metric in metrics)])
    spread = "standard error" if comparison.task == "tsp" else "sd"
    return [*aligned(table, left=(0,)), f"mean ± {spread}; in brackets the runs that came to the optimum, of all"]


def _measured(results: Sequence[Result], metric: Metric) -> Row:
    """What the runs give, in the form of the paper's rows."""
    solved = [result for result in results if result.solved]
    if metric == "steps":
        return _row(results[0].task, metric, [result.steps for result in solved], len(solved), len(results))
    values = [getattr(result, metric) for result in results]
    return _row(results[0].task, metric, [value for value in values if value is not None])


def _row(
    task: str, metric: Metric, values: Sequence[float], successes: int | None = None, runs: int | None = None
) -> Row:
    mean, sd = mean_sd(values) if values else (None, None)
    row = Row(source="", task=task, metric=metric, value=mean, successes=successes, runs=runs)
    if sd is None:
        return row
    return replace(row, standard_error=sd / math.sqrt(len(values))) if task == "tsp" else replace(row, sd=sd)


def _heuristic_gap(result: Result, heuristic: str) -> float:
    assert result.baselines is not None and result.optimum_loss is not None  # noqa: PT018
    return 100 * (result.baselines[heuristic] / result.optimum_loss - 1)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    spread = row.sd if row.sd is not None else row.standard_error
    value = "-" if row.value is None else f"{row.value:.1f}" + ("" if spread is None else f" ± {spread:.1f}")
    return value + ("" if row.successes is None else f" ({row.successes} of {row.runs})")


# -- cells -------------------------------------------------------------------------------------------------------------


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that there are."""
    known = [value for value in values if value is not None]
    return mean_sd(known)[0] if known else None


def _less(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _text(instruction: str | None) -> str:
    return codec.printable(instruction or "", _WIDTH) or "(empty)"
