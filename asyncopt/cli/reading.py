"""Runs as commands read them: what cannot be read of one is said, whatever is printed of the rest."""

from __future__ import annotations

import sys
from pathlib import Path

from asyncopt import codec
from asyncopt.records import Run, load_run

_LONGEST = 400  # characters of a line


def read_run(directory: Path) -> Run:
    """The run in this directory; a line on standard error says each of its problems."""
    run = load_run(directory)
    for problem in run.problems:
        print(codec.printable(f"asyncopt: {directory}: {problem}", _LONGEST), file=sys.stderr)
    return run
