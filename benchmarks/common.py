"""What the scripts share: a server in a process of its own, pinned cores, medians, a table and a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """The base URL of a server started as ``python -m ...``, on the last core where there are several."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        pin(process.pid, last=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server {' '.join(arguments)} did not start")
        yield json.loads(line)["url"]
    finally:
        process.terminate()
        process.communicate()


def pin(pid: int, *, last: bool) -> None:
    """Keep a process on the first or the last core, so that client and server do not share one."""
    with suppress(AttributeError, OSError):  # not on every platform
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(pid, {cores[-1] if last else cores[0]})


def spread(values: Sequence[float]) -> str:
    """The median with its range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns."""
    widths = [max(len(str(row[i])) for row in [headers, *rows]) for i in range(len(headers))]
    for row in [headers, ["-" * width for width in widths], *rows]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options that every script has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--json", type=Path, default=None, help="also write the figures here")
    return options


def write_json(path: Path | None, name: str, settings: dict[str, Any], figures: Any) -> None:
    """Write the figures with what is needed to read them later."""
    if path is None:
        return
    machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    value = {"v": 1, "benchmark": name, "machine": machine, "settings": settings, "figures": figures}
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
