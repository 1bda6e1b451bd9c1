"""A run, or all runs of a sweep, beside the published results for the same problem."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from asyncopt import codec
from asyncopt.directory import MANIFEST, read_journal, read_json
from asyncopt.errors import ConfigError, JournalDamaged
from asyncopt.published import PAPERS, Row, rows
from asyncopt.result import Result, result_of
from asyncopt.sweep import MANIFEST as SWEEP
from asyncopt.sweep import read_random
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.tasks.task import Position, position_template

_PAIRS = {"w_true": LinearRegression.w_true, "b_true": LinearRegression.b_true}


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended, and what the rows of a paper are chosen by. Runs of one ``group`` differ in their seeds.

    ``random`` is random search with as many proposals, beside a problem that no model scores.
    """

    group: str
    result: Result
    models: Mapping[str, str]
    position: str | None = None
    options: Mapping[str, Any] | None = None
    random: Result | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs that differ in their seeds, and the paper's rows for the same problem, the nearest settings first."""

    runs: tuple[Run, ...]
    rows: tuple[Row, ...]

    @property
    def group(self) -> str:
        return self.runs[0].group

    @property
    def task(self) -> str:
        return self.runs[0].result.task


# -- runs --------------------------------------------------------------------------------------------------------------


def runs_in(directory: Path) -> tuple[list[Run], int]:
    """The runs in the directory of a run or of a sweep, and how many of a sweep's have not ended, or not begun.

    Raises :class:`ConfigError` if none has ended.
    """
    sweep = (directory / SWEEP).exists()
    folders = sorted(path.parent for path in directory.glob(f"*/{MANIFEST}")) if sweep else [directory]
    found = [_run(folder, folder.name.rpartition("-s")[0] if sweep else folder.name) for folder in folders]
    runs = [run for run in found if run is not None]
    if not runs:
        raise ConfigError(
            f"nothing in {directory} has ended; `asyncopt resume {shlex.quote(str(directory))}` goes on with it"
        )
    planned = len(read_json(directory / SWEEP).get("studies", found)) if sweep else 1
    return runs, planned - len(runs)


def _run(directory: Path, group: str) -> Run | None:
    manifest = read_json(directory / MANIFEST)
    ended = [record.data for record in read_journal(directory) if record.kind == "finished"]
    if not ended:
        return None
    try:
        task = manifest["subject"]["task"]
        models = {role: str(model["name"]) for role, model in manifest["subject"]["models"].items()}
        options = {**manifest.get("config", {}).get("task", {}), **task.get("options", {})}
        result, random = result_of(ended[-1]), read_random(directory)
        return Run(group, result, models, _position(task.get("template")), options, random)
    except (KeyError, TypeError, AttributeError):
        raise JournalDamaged(f"{directory / MANIFEST} is damaged; restore it from a copy") from None


def _position(template: str | None) -> str | None:
    """Where the template puts the instruction, if it is one of the paper's."""
    for position in get_args(Position):
        for frame in (True, False):
            with suppress(ConfigError):  # not every position does without the frame
                if template == position_template(position, frame=frame):
                    return str(position)
    return None


# -- what belongs together ---------------------------------------------------------------------------------------------


def compare(runs: Iterable[Run], paper: str) -> list[Comparison]:
    """The groups of runs with the paper's rows for them; raises :class:`ConfigError` if it has none for any of them."""
    published = rows(paper)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    found = [Comparison(tuple(group), _rows_for(group[0], published)) for group in groups.values()]
    if not any(comparison.rows for comparison in found):
        wanted = ", ".join(sorted({problem(comparison.runs[0]) for comparison in found}))
        raise ConfigError(f"{paper} has no results for {wanted}; it has {_contents(published)}")
    return found


def _rows_for(run: Run, published: Iterable[Row]) -> tuple[Row, ...]:
    of_task = [row for row in published if row.task == run.result.task]
    chosen = [row for row in of_task if all(getattr(row, name) == value for name, value in _setting(run).items())]
    # Stable: found instructions before those that people wrote, and in the paper's order.
    return tuple(sorted(chosen, key=lambda row: (row.position != run.position, row.optimizer is None)))


def _setting(run: Run) -> dict[str, Any]:
    """What, beside its name, makes the problem that of a row."""
    if run.result.task == "linear-regression":
        return {name: (run.options or {}).get(name, usual) for name, usual in _PAIRS.items()}
    if run.result.task == "tsp" and run.result.best is not None:
        return {"nodes": run.result.best.candidate.count(",") + 1}
    return {}


def problem(run: Run) -> str:
    """The name of what was to be solved, with what else makes it that of a row."""
    setting = ", ".join(f"{name} = {value}" for name, value in _setting(run).items())
    return codec.printable(run.result.task, 80) + (f" with {setting}" if setting else "")


def _contents(published: Sequence[Row]) -> str:
    tasks = list(dict.fromkeys(row.task for row in published))
    pairs = dict.fromkeys(f"({row.w_true}, {row.b_true})" for row in published if row.w_true is not None)
    nodes = dict.fromkeys(str(row.nodes) for row in published if row.nodes is not None)
    details = {"linear-regression": f" with {', '.join(pairs)}", "tsp": f" with {', '.join(nodes)} nodes"}
    return ", ".join(task + details.get(task, "") for task in tasks)


def plain(comparisons: Sequence[Comparison], paper: str) -> dict[str, Any]:
    """The comparisons as JSON can hold them."""

    def published(row: Row) -> dict[str, Any]:
        return {name: value for name, value in asdict(row).items() if value is not None or name == "value"}

    parts = [
        {
            "group": one.group,
            "task": one.task,
            "runs": [_plain_run(run) for run in one.runs],
            "published": [published(row) for row in one.rows],
        }
        for one in comparisons
    ]
    return {"paper": paper, "title": PAPERS[paper], "comparisons": parts}


def _plain_run(run: Run) -> dict[str, Any]:
    random = {} if run.random is None else {"random": run.random.to_json()}
    return {"position": run.position, "result": run.result.to_json(), **random}
