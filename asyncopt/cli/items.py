"""The files of an evaluation: every item as CSV for spreadsheets and as JSON lines for programs, and a summary."""

from __future__ import annotations

import csv
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.assess import Assessment, Row
from asyncopt.errors import AsyncoptError, ConfigError
from asyncopt.files import write_atomically

CSV, JSONL, SUMMARY = "items.csv", "items.jsonl", "summary.json"

_COLUMNS = [field.name for field in fields(Row)]


def make_folder(folder: Path) -> None:
    """Make the folder, so that one that cannot be written is told of before anything is paid for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be made ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--out {folder} cannot be written; name another folder")


def write_files(folder: Path, assessment: Assessment) -> None:
    """Write the items and the summary; what an earlier evaluation left there is replaced."""
    try:
        with (folder / CSV).open("w", encoding="utf-8", newline="") as table, (folder / JSONL).open("wb") as lines:
            writer = csv.writer(table)  # RFC 4180: commas, CRLF, doubled quotes
            writer.writerow(_COLUMNS)
            for row in assessment.rows():
                values = asdict(row)
                lines.write(codec.dumps(values) + b"\n")
                writer.writerow([_cell(value) for value in values.values()])
        write_atomically(folder / SUMMARY, codec.dumps(assessment.to_json()))
    except OSError as error:
        raise AsyncoptError(
            f"{folder} cannot be written ({error.strerror}); evaluate again with another --out"
        ) from None


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return codec.csv_cell(value)
    return "" if value is None else f"{value:g}"
