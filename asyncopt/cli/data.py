"""``asyncopt data get`` and ``asyncopt data ls``: published data sets, fetched and looked for."""

from __future__ import annotations

import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from asyncopt import codec
from asyncopt.cli.signals import run_in_loop
from asyncopt.download import download
from asyncopt.tasks.datasets import DATASETS, DataSet, files_named
from asyncopt.tasks.sources import PublishedFile, default_folder


def get_data(names: list[str], data: Path | None, mirror: str | None) -> None:
    """Fetch what is not there yet; exits with 130 or 143 when interrupted."""
    files, folder = files_named(names), _folder(data)
    _say_terms(files)
    fetched: list[PublishedFile] = []

    async def main() -> None:
        fetched.extend(await download(files, folder, partial(print, file=sys.stderr), mirror=mirror))

    stopped = run_in_loop(main)
    if stopped is not None:
        sys.exit(128 + stopped)
    print(f"{folder}: {len(fetched)} files fetched, {len(files) - len(fetched)} were there")


def list_data(data: Path | None, *, json: bool) -> None:
    """Print which published files are in the data folder."""
    folder = _folder(data)
    if not json:
        print(folder)
    for one in DATASETS:
        found = {file.path: file.presence(folder) for file in one.files}
        if not json:
            print(f"  {one.name:15}{_state(Counter(found.values())):28}{one.layout:30}{_terms(one)}")
            continue
        for path, presence in found.items():
            row = {"name": one.name, "path": path, "presence": presence, "licence": one.licence}
            sys.stdout.write(codec.json_line(row))


def _folder(data: Path | None) -> Path:
    stated = os.environ.get("ASYNCOPT_DATA")
    return data or (Path(stated) if stated else default_folder())


def _state(found: Counter[str]) -> str:
    if len(found) == 1 and "another file" not in found:
        return next(iter(found))
    parts = [f"{found[presence]} {presence}" for presence in ("there", "missing") if found[presence]]
    return ", ".join(parts + ([f"{found['another file']} not as published"] if found["another file"] else []))


def _terms(one: DataSet) -> str:
    return one.licence or "no licence stated"


def _say_terms(files: list[PublishedFile]) -> None:
    for one in DATASETS:
        if one.licence is None and set(one.files) & set(files):
            print(
                f"{one.name}: its authors state no licence; whether you may use it is for you to decide",
                file=sys.stderr,
            )
