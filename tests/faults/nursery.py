"""Forks a process for each command line that stands on standard input: what a start costs is then paid once.

A line in is JSON with ``arguments``, ``variables`` of the environment, and ``errors``, the file for standard error. Two
lines come back: the process's number, and how it ended, as subprocess would say it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

import asyncopt.cli.app
import asyncopt.cli.run
import asyncopt.cli.signals  # noqa: F401 - these three are what is slow to import
from asyncopt.cli import main


def be(order: dict[str, object]) -> None:
    """Become the child of this order; never returns."""
    sys.argv = ["asyncopt", *order["arguments"]]
    os.environ.clear()
    os.environ.update(order["variables"])
    for name, number in ((os.devnull, 0), (os.devnull, 1), (order["errors"], 2)):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), number)
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def tend() -> None:
    """Fork for every order, and say how it ended."""
    for line in sys.stdin:
        number = os.fork()
        if number == 0:
            be(json.loads(line))
        print(number, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), flush=True)


if __name__ == "__main__":
    tend()
