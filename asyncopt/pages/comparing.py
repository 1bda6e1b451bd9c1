"""Several runs beside each other, as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asyncopt.records import Run
from asyncopt.records.compare import compare


def comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """How the best candidates of several runs differ from the first run's, on the held-out examples of both.

    ``first``: its name; ``paired``: ``name``, ``n``, ``left_out`` (examples that only one has a score for),
    ``difference``, ``low``, ``high`` (95 %), ``only_first``, ``only_this`` (examples that one of the two alone got
    right), ``p``, ``p_holm`` (adjusted for how many runs are paired), ``verdict``; ``notes``: why others are not
    paired, and what else stands against comparing.
    """
    compared = compare(runs)
    notes = list(compared.notes)
    if len({(run.task, run.fingerprint) for run in runs}) > 1:
        notes.insert(0, "These runs are not of one task with one split: compare the gains of each, not their scores.")
    names = dict(zip((str(run.directory) for run in runs), names_of(runs), strict=True))
    values = ("n", "left_out", "difference", "low", "high", "only_first", "only_this", "p", "p_holm", "verdict")
    paired = [
        {"name": names[one.directory], **{name: getattr(one, name) for name in values}} for one in compared.paired
    ]
    return {"first": names[str(runs[0].directory)], "paired": paired, "notes": notes}


def names_of(runs: Sequence[Run]) -> list[str]:
    """The names that several runs go by on one page: with their folders' before them where the same come twice."""
    paths = list(dict.fromkeys(run.directory.resolve() for run in runs))
    most = max((len(path.parts) for path in paths), default=1)
    for depth in range(1, most + 1):
        names = {path: "/".join(path.parts[-depth:]) for path in paths}
        if len(set(names.values())) == len(paths):
            break
    return [names[run.directory.resolve()] for run in runs]


def name_of(directory: Path) -> str:
    """The name that a run goes by on a page: its directory's."""
    return directory.resolve().name
