"""Reading a run directory: of a run that goes on or has ended, of this version or an older one. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from asyncopt import codec
from asyncopt.directory import HOLDER, JOURNAL, MANIFEST, RANDOM, SWEEP, TRACE, read_json
from asyncopt.errors import ConfigError
from asyncopt.journal import Record, good_records
from asyncopt.records.replayed import Replayed
from asyncopt.records.run import Run, State
from asyncopt.records.trace import Trace
from asyncopt.result import Result, result_of

_LOCK = "run.lock"  # as `asyncopt.directory.lock` has it
_LOCKS = Path("/proc/locks")  # on Linux; a line is: 1: FLOCK ADVISORY WRITE <process> <device>:<device>:<inode> 0 EOF


def load_run(path: str | Path) -> Run:
    """The run in this directory; raises :class:`~asyncopt.errors.ConfigError` if it is not one of a run.

    A torn last line of the journal is left out. Of a damaged journal the records before the damage are read, and
    ``problems`` says so.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    subject = manifest["subject"]
    problems: list[str] = []
    running = is_running(directory)  # before the journal: a run that ends in between is then seen to have ended
    records = _records(directory / JOURNAL, problems)
    # An instruction has a template that it goes into; what no model scores has losses.
    options, trace = subject["optimizer"], Trace(directory / TRACE)
    # Where a view of the history is shown, the journal tells it.
    parents = {} if "history_size" in options else trace.parents()
    replayed = Replayed(maximize="template" in subject["task"], options=options, parents=parents)
    for record in records:
        replayed.take(record)
    result = _result(records, problems)
    state: State = "finished" if result is not None else "running" if running else "stopped"
    return Run(
        directory=directory,
        manifest=manifest,
        config=_table(manifest, "config"),
        task=str(subject["task"].get("name", "")),
        optimizer=str(options.get("name", "")),
        seed=int(subject.get("seed", 0)),
        models={role: str(model.get("name", "")) for role, model in _table(subject, "models").items()},
        state=state,
        maximize=replayed.maximize,
        planned=_planned(options),
        steps=replayed.steps,
        candidates=replayed.candidates,
        validations=replayed.validations,
        result=result,
        random=_random(directory / RANDOM),
        spent=replayed.spent,
        lost=replayed.lost,
        problems=problems,
        best=replayed.best(None if result is None or result.best is None else result.best.candidate),
        trace=trace,
    )


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of the run in this directory; raises :class:`~asyncopt.errors.ConfigError` for what is none."""
    if (directory / SWEEP).exists():
        runs = sorted(path.parent.name for path in directory.glob(f"*/{MANIFEST}"))
        which = f"name one of its runs, such as {directory / runs[0]}" if runs else "none of its runs has begun"
        raise ConfigError(f"{directory} is the directory of a sweep; {which}")
    manifest = read_json(directory / MANIFEST)
    subject = manifest.get("subject")
    if not isinstance(subject, dict) or not all(isinstance(subject.get(name), dict) for name in ("task", "optimizer")):
        raise ConfigError(
            f"{directory / MANIFEST} does not state a task and an optimizer; is {directory} the directory of a run?"
        )
    models = _table(subject, "models").values()
    if not isinstance(subject.get("seed", 0), int) or not all(isinstance(model, dict) for model in models):
        raise ConfigError(f"{directory / MANIFEST} has a seed or models that no run has; restore it from a copy")
    return manifest


def _table(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _planned(options: Mapping[str, Any]) -> int | None:
    """How many steps the optimizer makes at most, under the name that it has for them."""
    if isinstance(steps := options.get("steps", options.get("iterations")), int):
        return steps
    if isinstance(rounds := options.get("rounds"), int):
        return 1 + rounds  # of APE: inductions first
    populations, popsize = options.get("generations"), options.get("popsize")
    if not isinstance(populations, int) or not isinstance(popsize, int):
        return None
    # Of EvoPrompt: paraphrases first; one child a step where there is no order of whole generations.
    return (1 + populations) * (1 if options.get("order") == "best_at_generation_start" else popsize)


def _records(path: Path, problems: list[str]) -> list[Record]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []  # the manifest is written first
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({error.strerror})")
        return []
    records, good = good_records(content)
    if content.find(b"\n", good) >= 0:  # a whole line; half of one at the end is a write that is not done
        problems.append(
            f"{path.name} is damaged: record {len(records)} at byte {good} cannot be read, and what follows is left out"
        )
    return records


def _result(records: Sequence[Record], problems: list[str]) -> Result | None:
    ended = [record.data for record in records if record.kind == "finished"]
    try:
        return result_of(ended[-1]) if ended else None
    except (TypeError, KeyError):
        problems.append("the result is of another version of asyncopt, and cannot be read")
        return None


def _random(path: Path) -> Result | None:
    with suppress(OSError, codec.CodecError, TypeError, KeyError):
        return result_of(codec.loads(path.read_bytes()))
    return None


# -- who runs it -------------------------------------------------------------------------------------------------------


def is_running(directory: Path) -> bool:
    """Whether a process of this machine holds the lock of this run directory.

    Linux says so without the lock being touched. Elsewhere it is tried for an instant.
    """
    path = directory / _LOCK
    try:
        inode = path.stat().st_ino
        locks = _LOCKS.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return path.exists() and _taken(path)
    except OSError:
        return False
    holder = _holder(directory)
    lines = (line.split() for line in locks.splitlines())
    return any(fields[4] == holder and fields[5].endswith(f":{inode}") for fields in lines if len(fields) == 8)


def _holder(directory: Path) -> str:
    """The number of the process that took the lock last."""
    with suppress(OSError, IndexError):
        return (directory / HOLDER).read_text(encoding="utf-8", errors="replace").split()[1]
    return ""


def _taken(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return not os.access(path, os.W_OK)
    lock.release()
    return False
