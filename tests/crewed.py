"""What the tests of sweeps by several processes share: a small sweep, and what of its results is the same every time."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

FILE = """
tasks = ["antonym", "capital"]
seeds = [0, 1]
studies = 4
[base.task]
limit = 8
[base.optimizer]
steps = 2
[settings.last.optimizer]
history_order = "ascending"
[settings.first.optimizer]
history_order = "descending"
"""
# Who paid for an answer that several studies want, and how long a study took, is another thing every time.
SPENDING = ("calls", "cache_hits", "tokens", "input_tokens", "output_tokens", "usd", "seconds", "search", "test")


def findings(place: Path) -> tuple[bytes, bytes]:
    """The sweep's two files byte for byte, without what was spent."""
    result = json.loads((place / "sweep-result.json").read_bytes())
    return json.dumps(_without_spending(result)).encode(), _table(place)


def _without_spending(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_spending(part) for name, part in value.items() if name not in SPENDING}
    return [_without_spending(part) for part in value] if isinstance(value, list) else value


def _table(place: Path) -> bytes:
    rows = list(csv.reader(io.StringIO((place / "results.csv").read_text(encoding="utf-8"), newline="")))
    kept = [number for number, name in enumerate(rows[0]) if name not in SPENDING]
    return "\n".join(",".join(row[number] for number in kept) for row in rows).encode()
