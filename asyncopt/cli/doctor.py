"""``asyncopt doctor``: what is wrong with this machine's set-up, or with a run's directory, and what to do about it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from asyncopt import codec
from asyncopt.cli.doctor_machine import check_machine
from asyncopt.cli.doctor_run import check_run, repair_run
from asyncopt.errors import ConfigError


def doctor(directory: Path | None, repair: bool, json: bool) -> None:
    """Print a line for each check, of the run in ``directory`` or else of this machine; exits with 1 if one failed.

    With ``repair`` a damaged journal is cut to its good records first, and the damaged file kept beside it. Raises
    :class:`ConfigError` where there is no run, and :class:`RunLocked` for the repair of a run that is going on.
    """
    if directory is None:
        if repair:
            raise ConfigError("there is nothing to repair; name the directory of a run: asyncopt doctor DIR --repair")
        checks = list(check_machine())
    else:
        checks = [*(repair_run(directory) if repair else ()), *check_run(directory)]
    for check in checks:
        if json:
            sys.stdout.write(codec.json_line({"event": "check", **asdict(check)}))
        else:
            print(f"{check.verdict}  {check.name:14} {codec.printable(check.detail, 400)}")
    if any(check.verdict == "fail" for check in checks):
        sys.exit(1)
