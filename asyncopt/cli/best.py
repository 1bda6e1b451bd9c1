"""``asyncopt best``: the best candidate of a run, and nothing else."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from asyncopt import codec
from asyncopt.cli.reading import read_run
from asyncopt.errors import StudyFailed
from asyncopt.records import Candidate, Run


def show_best(directory: Path, *, json: bool) -> None:
    """Print the best candidate's text alone, as it is; on a terminal without what could move its cursor."""
    run = read_run(directory)
    if run.best is None:
        raise StudyFailed(
            f"nothing in {directory} has a score yet; `asyncopt show {shlex.quote(str(directory))}` says what there is"
        )
    if json:
        sys.stdout.write(codec.json_line(_plain(run, run.best)))
    elif sys.stdout.isatty():
        print("\n".join(codec.printable(line, len(line)) for line in run.best.candidate.split("\n")))
    else:
        # Bytes, so that no locale and no line ending of the system changes the text.
        sys.stdout.flush()
        sys.stdout.buffer.write(codec.clean(run.best.candidate).encode() + b"\n")


def _plain(run: Run, best: Candidate) -> dict[str, object]:
    """The best candidate with its scores; of a run that has ended, the result's words for them."""
    found = None if run.result is None else run.result.best
    known = {"train": None, "validation": None, "held_out": None} if found is None else asdict(found)
    shares = {name: known[name] for name in ("train", "validation", "held_out")}
    return {
        "candidate": best.candidate,
        "score": best.score,
        "step": best.step,
        "source": best.source,
        "state": run.state,
        **shares,
    }
