"""The runs below a folder, each with a name that is no path, read again when its files have changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

from asyncopt import codec
from asyncopt.activity import ACTIVITY
from asyncopt.ctl import ADDRESS
from asyncopt.directory import JOURNAL, MANIFEST, RESULT, sweep_of
from asyncopt.errors import ConfigError
from asyncopt.pages import document
from asyncopt.pages.asked import Asked
from asyncopt.records import Run, load_run
from asyncopt.records.read import is_running, read_manifest

MOST_RUNS = 5000
_DEPTH = 3  # runs, the studies of sweeps, and those of sweeps in a folder of their own
_KEPT_OPEN = 8  # runs whose documents are kept in memory


@dataclass(frozen=True, slots=True)
class Place:
    """A run's directory and the path that people know it by, below the folder that is shown."""

    id: str
    name: str
    directory: Path


class Shown:
    """One run as it was last read: its document's top-level values as JSON. One thread at a time may use it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.parts: dict[str, bytes] = {}
        self.run: Run | None = None
        self._asked: Asked | None = None
        self._seen: tuple[Any, ...] | None = None

    def refresh(self) -> bool:
        """Read the run again if anything of it has changed; whether its document has.

        Raises :class:`ConfigError` where it is no run any more.
        """
        seen = self._look()
        if seen == self._seen:
            return False
        run = load_run(self.place.directory)
        if self.run is not None:
            run = replace(run, trace=self.run.trace)  # which knows the places of what it has read
        parts = {name: codec.dumps(value) for name, value in document(run).items()}
        # Values that are the same stay the same objects: who follows sends what is another object now.
        known = self.parts
        self.parts = {name: known[name] if known.get(name) == part else part for name, part in parts.items()}
        self.run, self._seen = run, seen
        return True

    def _look(self) -> tuple[Any, ...]:
        """What of the files tells that they have changed, without reading them."""
        directory = self.place.directory
        found: list[Any] = [is_running(directory)]
        files = [directory / name for name in (MANIFEST, JOURNAL, ACTIVITY, RESULT)]
        sweep = sweep_of(directory)
        for path in files if sweep is None else (*files, sweep / ACTIVITY):
            with suppress(OSError):
                state = path.stat()
                found += [path, state.st_size, state.st_mtime_ns]
        return tuple(found)

    def answers(self, candidate: str) -> list[dict[str, Any]]:
        """How the examples ended with the candidate of this name, ``STEP.INDEX``; raises :class:`KeyError` for none."""
        assert self.run is not None
        for one in self.run.candidates:
            if f"{one.step}.{one.index}" == candidate:
                self._asked = self._asked or Asked(self.run)
                return self._asked.rows(one.candidate, self.run.answers(one.candidate))
        raise KeyError(candidate)

    def controlled_by(self) -> Path:
        """The directory whose process runs this one: its own, or that of its sweep."""
        directory = self.place.directory
        sweep = None if (directory / ADDRESS).exists() else sweep_of(directory)
        return directory if sweep is None else sweep


class Runs:
    """What is below ``folder``: one run, a sweep, or a folder of these. Methods read files: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shown: dict[str, Shown] = {}
        self._lock = Lock()

    def listing(self) -> list[dict[str, Any]]:
        """A row a run, the newest first."""
        rows = [row for place in self._places() if (row := _row(place)) is not None]
        return sorted(rows, key=lambda row: row["started"], reverse=True)

    def find(self, id_: str) -> Shown:
        """The run with this id, as it was last read; raises :class:`KeyError` for none."""
        with self._lock:
            shown = self._shown.pop(id_, None)
            if shown is None:
                found = [place for place in self._places() if place.id == id_]
                if not found:
                    raise KeyError(id_)
                shown = Shown(found[0])
            self._shown[id_] = shown  # last again: the first are those that nobody has asked for lately
            while len(self._shown) > _KEPT_OPEN:
                del self._shown[next(iter(self._shown))]
            return shown

    def _places(self) -> Iterator[Place]:
        for count, directory in enumerate(_runs_below(self.folder, _DEPTH)):
            if count >= MOST_RUNS:
                return
            name = directory.relative_to(self.folder).as_posix() if directory != self.folder else directory.name
            yield Place(blake2b(os.fsencode(directory), digest_size=8).hexdigest(), codec.clean(name), directory)


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / MANIFEST).is_file():
        yield folder
        return
    if depth == 0:
        return
    with suppress(OSError):
        below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
        for path in below:
            yield from _runs_below(Path(path), depth - 1)


def _row(place: Place) -> dict[str, Any] | None:
    directory = place.directory
    try:
        subject = read_manifest(directory)["subject"]
        started = (directory / MANIFEST).stat().st_mtime
    except (ConfigError, OSError):
        return None
    state = "finished" if (directory / RESULT).is_file() else "running" if is_running(directory) else "stopped"
    return {
        "id": place.id,
        "name": place.name,
        "task": str(subject["task"].get("name", "")),
        "optimizer": str(subject["optimizer"].get("name", "")),
        "state": state,
        "started": started,
    }
