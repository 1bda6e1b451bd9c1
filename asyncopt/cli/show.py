"""``asyncopt show`` and ``asyncopt tasks ls``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.cli.show_network import network_lines
from asyncopt.cli.summary import summary_lines
from asyncopt.directory import MANIFEST, read_journal, read_json
from asyncopt.errors import JournalDamaged
from asyncopt.journal import Record
from asyncopt.outcomes import problems_text
from asyncopt.result import result_of
from asyncopt.sweep import read_random
from asyncopt.tasks import catalogue


def show_run(directory: Path, *, json: bool) -> None:
    """Print the run's steps and, if it has ended, its result; a run may be going on meanwhile."""
    manifest = read_json(directory / MANIFEST)
    records = read_journal(directory)
    if json:
        value = {"manifest": manifest, "records": [{"kind": record.kind, **record.data} for record in records]}
        if (random := read_random(directory)) is not None:
            value["random"] = random.to_json()
        sys.stdout.write(codec.json_line(value))
        return
    print(_title(manifest, directory))
    for record in records:
        _show_record(record, directory)


def show_against(directory: Path, paper: str, *, json: bool) -> None:
    """Print the run, or the sweep, in this directory beside the results of a paper."""
    from asyncopt.cli.against import compare, plain, runs_in
    from asyncopt.cli.against_text import against_lines

    runs, missing = runs_in(directory)
    comparisons = compare(runs, paper)
    if json:
        sys.stdout.write(codec.json_line({**plain(comparisons, paper), "left_out": missing}))
        return
    for line in against_lines(comparisons, paper):
        print(line)
    if missing:
        print(f"{missing} of {len(runs) + missing} studies have not ended and are left out")


def _title(manifest: dict[str, Any], directory: Path) -> str:
    try:
        subject = manifest["subject"]
        models = ", ".join(f"{role} {model['name']}" for role, model in subject["models"].items())
        what = f"{subject['task']['name']} with {subject['optimizer']['name']}, seed {subject['seed']}, {models}"
        return codec.printable(what, 400)
    except (KeyError, TypeError, AttributeError):
        raise JournalDamaged(f"{directory / MANIFEST} is damaged; restore it from a copy") from None


def _show_record(record: Record, directory: Path) -> None:
    if record.kind in ("step", "entry"):
        for row in record.data["entries"]:
            _show_row(row)
        if "report" in record.data.get("state", {}):  # of language networks
            for line in network_lines(record.data["state"]):
                print(line)
    elif record.kind == "validated":
        for row in record.data["candidates"]:
            _show_validated(row)
    elif record.kind == "finished":
        result = result_of(record.data)
        for line in summary_lines(result, read_random(directory), directory, None):
            print(line)


def _show_row(row: dict[str, Any]) -> None:
    score = "-" if row["score"] is None else f"{row['score']:.4g}"
    name = "start" if row["step"] < 0 else str(row["step"] + 1)
    print(f"{name:>5} {score:>8}  {row['source']:12} {codec.printable(row['candidate'], 160)}{_remark(row)}")


def _show_validated(row: dict[str, Any]) -> None:
    score = "-" if row["score"] is None else f"{row['score']:.4g}"
    print(f"      {score:>8}  validation   {codec.printable(row['candidate'], 160)}{_missing(row)}")


def _remark(row: dict[str, Any]) -> str:
    if row.get("stopped") is not None:
        return f" (stopped after {row['stopped']} examples)"
    if row.get("provisional"):
        return f" (so far, on {row['examples']} examples)"
    return _missing(row)


def _missing(row: dict[str, Any]) -> str:
    if row["complete"]:
        return ""
    problems = problems_text(row.get("problems", {}))
    return f" (partial, on {row['examples']} examples{': ' + problems if problems else ''})"


def list_tasks(*, json: bool) -> None:
    """Print the tasks that have names."""
    for info in catalogue():
        if json:
            sys.stdout.write(codec.json_line(asdict(info)))
        else:
            print(f"{info.name:52} {info.summary}{' (needs --data)' if info.needs_data else ''}")
