"""``asyncopt export``: the tables of a run as JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.cli.reading import read_run
from asyncopt.errors import ConfigError
from asyncopt.records import COLUMNS, Row

FORMATS = ("jsonl", "csv", "parquet")


def export_run(directory: Path, what: str, form: str | None, out: Path | None) -> None:
    """Write a table of the run to a file, or to standard output."""
    form = form or _form_of(out)
    if form not in FORMATS:
        raise ConfigError(f"the format is {codec.printable(form, 40)!r}; wanted one of {', '.join(FORMATS)}")
    rows = read_run(directory).table(what)
    if form == "parquet":
        _write_parquet(rows, COLUMNS[what], out)
        return
    lines = json_lines(rows) if form == "jsonl" else csv_lines(rows, COLUMNS[what])
    if out is not None:
        _into(out, lines)
    elif sys.stdout.isatty():
        for line in lines:  # as it can be read; exact where a program reads it
            print(codec.printable(line.decode(), len(line)))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(lines)


def _form_of(out: Path | None) -> str:
    return "jsonl" if out is None else out.suffix.removeprefix(".").lower() or "jsonl"


def _into(out: Path, lines: Iterable[bytes]) -> None:
    try:
        with out.open("wb") as file:
            file.writelines(lines)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); name another file with -o") from None


def json_lines(rows: Iterable[Row]) -> Iterator[bytes]:
    """The rows as lines of JSON."""
    for row in rows:
        yield codec.dumps(row) + b"\n"


def csv_lines(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[bytes]:
    """The rows as lines of CSV in UTF-8, under a line of names; None is an empty cell, a list a cell of JSON."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for row in rows:
        yield _taken(buffer)
        writer.writerow([_cell(row[name]) for name in columns])
    yield _taken(buffer)


def _taken(buffer: io.StringIO) -> bytes:
    line = buffer.getvalue().encode()
    buffer.seek(0)
    buffer.truncate()
    return line


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return codec.csv_cell(codec.dumps(value).decode())
    return codec.csv_cell(value) if isinstance(value, str) else value


def _write_parquet(rows: Iterable[Row], columns: Sequence[str], out: Path | None) -> None:
    if out is None:
        raise ConfigError("Parquet is no text; name the file to write it to with -o")
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError("Parquet needs pyarrow; pip install 'asyncopt[parquet]'") from None
    plain = [_arrow_row(row) for row in rows]
    table = pyarrow.Table.from_pydict({name: [row[name] for row in plain] for name in columns})
    try:
        parquet.write_table(table, out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); name another file with -o") from None


def _arrow_row(row: Row) -> Row:
    """The row without lone surrogates, and with lists as texts of JSON, since not all have items of one type."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return codec.clean(value)
        return codec.dumps(value).decode() if isinstance(value, list | dict) else value

    return {name: plain(value) for name, value in row.items()}
