"""A run as a plain value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from asyncopt.activity import ACTIVITY, are_numbers, is_sample
from asyncopt.directory import sweep_of
from asyncopt.errors import ConfigError
from asyncopt.notebook import html_table
from asyncopt.optimizers.base import Validated
from asyncopt.records.frames import frame_of
from asyncopt.records.tables import COLUMNS, Row, activity_rows, call_rows, candidate_rows, evaluation_rows
from asyncopt.records.trace import Answer, Trace, read_lines
from asyncopt.records.values import Candidate, Spent, Step
from asyncopt.result import Result

State: TypeAlias = Literal["running", "finished", "stopped"]


@dataclass(frozen=True)
class Run:
    """A run directory as it was when it was read; nothing here writes to it.

    ``candidates`` are all that were decided, in the order in which they joined the history; ``validations`` by step.
    ``maximize`` is False where scores are losses. ``steps`` are the finished ones of ``planned``. ``random`` is random
    search with as many proposals, beside a problem that no model scores. ``lost`` counts proposals whose calls failed.
    ``problems`` says what of the directory could not be read.
    """

    directory: Path
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    task: str
    optimizer: str
    seed: int
    models: Mapping[str, str]
    state: State
    maximize: bool
    planned: int | None
    steps: Sequence[Step]
    candidates: Sequence[Candidate]
    validations: Mapping[int, Sequence[Validated]]
    result: Result | None
    random: Result | None
    spent: Sequence[Spent]
    lost: int
    problems: Sequence[str]
    best: Candidate | None
    trace: Trace

    @property
    def fingerprint(self) -> str:
        """A name for the task's data and how they were split; of a problem that no model scores, for the problem."""
        return str(self.manifest["subject"]["task"].get("fingerprint", ""))

    @property
    def engine_of(self) -> Path:
        """The directory that has the ``activity.jsonl``: this one, or its sweep's, since a sweep has one engine."""
        sweep = None if (self.directory / ACTIVITY).exists() else sweep_of(self.directory)
        return self.directory if sweep is None else sweep

    @cached_property
    def activity(self) -> list[dict[str, Any]]:
        """The lines of ``activity.jsonl``, oldest first, as :class:`~asyncopt.activity.Activity` has them.

        Of a study of a sweep they are the sweep's, and of all its studies together.
        """
        return [line for line in self._activity if is_sample(line)]

    @cached_property
    def latency_edges(self) -> list[float]:
        """The seconds between which the ``latency`` of :attr:`activity` was counted; empty where there are none."""
        edges: list[list[float]] = [line["edges"] for line in self._activity if are_numbers(line.get("edges"))]
        return edges[-1] if edges else []

    @cached_property
    def _activity(self) -> list[dict[str, Any]]:
        path = self.engine_of.absolute() / ACTIVITY
        with suppress(OSError):
            state = path.stat()
            return _lines(path, state.st_size, state.st_mtime_ns)
        return []

    def answers(self, candidate: str) -> list[Answer]:
        """How every example ended with this candidate, by fold and number; empty where the run was not traced."""
        return self.trace.answers(candidate)

    def table(self, name: str) -> Iterator[Row]:
        """The rows of a table: candidates, evaluations, calls or activity (``docs/runs.md`` has their columns)."""
        if name == "candidates":
            return candidate_rows(self.candidates, self.validations)
        if name == "evaluations":
            return evaluation_rows(self.candidates, self.validations, self.trace)
        if name == "calls":
            return call_rows(self.trace)
        if name == "activity":
            return activity_rows(self.activity)
        raise ConfigError(f"a run has no table {name!r}; it has {', '.join(COLUMNS)}")

    def frame(self, name: str = "candidates") -> Any:
        """The rows of :meth:`table` as a data frame of pandas, or of polars where only that is installed."""
        rows = list(self.table(name))
        return frame_of(rows, COLUMNS[name])

    def _repr_html_(self) -> str:
        best = self.best
        score = "none" if best is None or best.score is None else f"{best.score:.4g}"
        rows = [
            ("task", self.task),
            ("optimizer", f"{self.optimizer}, seed {self.seed}"),
            ("models", ", ".join(f"{role} {name}" for role, name in self.models.items()) or "none"),
            ("state", f"{self.state}, {len(self.steps)} steps decided, {len(self.candidates)} candidates"),
            ("best in training" if self.maximize else "lowest loss", score),
            ("best", "" if best is None else best.candidate),
            *(("problem", problem) for problem in self.problems),
        ]
        return html_table(str(self.directory), rows)


@lru_cache(maxsize=1)  # the studies of a sweep have one file, which has tens of megabytes in the end
def _lines(path: Path, _size: int, _changed: int) -> list[dict[str, Any]]:
    """The lines of a file in the state that its size and the time of its last change tell."""
    return read_lines(path)
