"""How many processes of this machine a sweep is run by."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from asyncopt.cli.workers.worker import models_of
from asyncopt.config import ModelConfig
from asyncopt.directory import RESULT
from asyncopt.errors import ConfigError
from asyncopt.limits.slots import HOSTED
from asyncopt.local import is_local
from asyncopt.sweep import Sweep
from asyncopt.values import Concurrency

CALLS_A_SECOND = 2000.0  # that a process makes with some of a core left for all else
_QUICKEST_SECONDS = 0.1  # an answer of a real model; what is in flight at most bounds the calls a second


def workers_for(sweep: Sweep, directory: Path | None, asked: int | None) -> int:
    """How many processes are to run the sweep: as many as were asked for, but no more than studies that run at once.

    Where nobody says, as many as help: up to one a core, where the quotas allow so many calls that one could not make
    them. Raises :class:`ConfigError` where several cannot be.
    """
    left = [one for one in sweep.planned if directory is None or not (directory / one.name / RESULT).exists()]
    if asked is None:
        alone = sweep.planned[0].config.observers or not _supported()
        return 1 if alone else max(1, min(_cores(), len(left), sweep.at_once, _useful(sweep)))
    if asked > 1 and sweep.planned[0].config.observers:
        raise ConfigError("observers hear what one process does; leave them out, or take --workers 1")
    if asked > 1 and not _supported():
        raise ConfigError("several workers need Unix sockets, which this system does not have; take --workers 1")
    return min(asked, len(sweep.planned), sweep.at_once)


def _supported() -> bool:
    return hasattr(socket, "AF_UNIX") and os.name == "posix"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _useful(sweep: Sweep) -> int:
    """One process for every so many calls a second that all models together may get."""
    models = models_of(sweep)
    if any(is_local(wanted.model) for wanted in models):
        return 1  # the model has the cores
    return int(sum(map(_calls_a_second, models)) // CALLS_A_SECOND) + 1


def _calls_a_second(wanted: ModelConfig) -> float:
    quota = wanted.quota
    most = Concurrency.of(quota.concurrency).most if quota.concurrency is not None else HOSTED.most
    bounds = [most / _QUICKEST_SECONDS]
    if quota.requests_per_minute is not None:
        bounds.append(quota.requests_per_minute / 60)
    return min(bounds)
