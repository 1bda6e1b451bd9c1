"""Tasks by name: published benchmarks, bundled word lists, a user's own data, and the paper's two demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from asyncopt.errors import ConfigError
from asyncopt.tasks.linear_regression import LARGEST_REPETITION, LinearRegression
from asyncopt.tasks.objective import Objective
from asyncopt.tasks.task import Example, Task
from asyncopt.tasks.tsp import TSP

__all__ = ["TSP", "Example", "LinearRegression", "Objective", "Task", "TaskInfo", "catalogue", "load"]

_NO_OPTIONS: Mapping[str, object] = MappingProxyType({})
_LINEAR_REGRESSION = "linear-regression"
_TSP = "tsp"
OBJECTIVES = (_LINEAR_REGRESSION, _TSP)  # problems that no model scores


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task that has a name, and whether its data must be fetched first."""

    name: str
    summary: str
    needs_data: bool


def catalogue() -> list[TaskInfo]:
    """All tasks that have names; beside them, a path ending in ``.jsonl`` is a task too.

    Those of Deep Language Networks go by their last word as well: ``navigate`` is ``dln/navigate``.
    """
    from asyncopt.tasks import aqua, bbh, dln, evoprompt, gsm8k, mmlu, multiarith, procedural

    return [
        *(TaskInfo(name, summary, needs_data=False) for name, summary in procedural.SUMMARIES.items()),
        TaskInfo(_LINEAR_REGRESSION, "find (w, b) of a noisy line; no model scores it", needs_data=False),
        TaskInfo(_TSP, "find the shortest round trip through points; no model scores it", needs_data=False),
        TaskInfo("gsm8k", gsm8k.SUMMARY, needs_data=True),
        *(TaskInfo(f"bbh/{stem}", bbh.summary_of(stem), needs_data=True) for stem in bbh.STEMS),
        TaskInfo("aqua", aqua.SUMMARY, needs_data=True),
        TaskInfo("multiarith", multiarith.SUMMARY, needs_data=True),
        *(TaskInfo(f"mmlu/{stem}", mmlu.summary_of(stem), needs_data=True) for stem in mmlu.STEMS),
        *(TaskInfo(f"dln/{stem}", dln.summary_of(stem), needs_data=True) for stem in dln.STEMS),
        *(TaskInfo(f"evoprompt/{stem}", evoprompt.summary_of(stem), needs_data=True) for stem in evoprompt.STEMS),
    ]


def load(
    name: str, *, data: Path | None = None, seed: int = 0, options: Mapping[str, object] = _NO_OPTIONS
) -> Task | Objective:
    """The task of this name, with the options of its table in the configuration.

    ``data`` is the folder with published files (:mod:`asyncopt.tasks.sources` has its layout), by default the one that
    ``asyncopt data get`` fills; nothing is ever downloaded here. ``seed`` deals the examples of bundled words and own
    data to their splits, and is the repetition of problems that are scored by a function; published tasks have the
    reference's split for every seed (those of Deep Language Networks, where a ``train_size`` cuts it, that of the
    seed). Raises :class:`ConfigError` for an unknown name or option and :class:`DataError`
    for data that cannot be used.
    """
    from asyncopt.tasks import jsonl, procedural

    if name.endswith(".jsonl"):
        return jsonl.load(Path(name), seed, options)
    if name in procedural.SUMMARIES:
        return procedural.load(name, seed, options)
    if name == _LINEAR_REGRESSION:
        return _linear_regression(seed, options)
    if name == _TSP:
        return _tsp(seed, options)
    task = _published(name, data, seed, options)
    if task is None:
        raise _unknown(name)
    return task


def _published(name: str, data: Path | None, seed: int, options: Mapping[str, object]) -> Task | None:
    from asyncopt.tasks import aqua, bbh, dln, evoprompt, gsm8k, mmlu, multiarith

    family, _, stem = name.partition("/")
    if name == "gsm8k":
        return gsm8k.load(data, options)
    if name == "aqua":
        return aqua.load(data, options)
    if name == "multiarith":
        return multiarith.load(data, options)
    if family == "bbh" and stem in bbh.STEMS:
        return bbh.load(stem, data, options)
    if family == "mmlu" and stem in mmlu.STEMS:
        return mmlu.load(stem, data, options)
    if family == "evoprompt" and stem in evoprompt.STEMS:
        return evoprompt.load(stem, data, options)
    # A plain name is enough where no other task has it: gsm8k, found above, is OPRO's.
    plain = stem if family == "dln" else name
    return dln.load(plain, data, seed, options) if plain in dln.STEMS else None


def _linear_regression(seed: int, options: Mapping[str, object]) -> LinearRegression:
    from asyncopt.tasks.options import check_names

    check_names(_LINEAR_REGRESSION, options, ("w_true", "b_true", "repetition"))
    repetition = seed % (LARGEST_REPETITION + 1)
    return LinearRegression(**{"repetition": repetition, **options})  # type: ignore[arg-type]  # it checks its values itself


def _tsp(seed: int, options: Mapping[str, object]) -> TSP:
    from asyncopt.tasks.options import check_names

    check_names(_TSP, options, ("nodes", "instance", "starts"))
    task = TSP(**{"instance": seed, **options})  # type: ignore[arg-type]  # it checks its values itself
    _ = task.optimum  # seconds of computing that no event loop should wait for
    return task


def _unknown(name: str) -> ConfigError:
    names = [info.name for info in catalogue()]
    # Without its folder a task of a collection is still meant by name.
    by_stem = {known.rpartition("/")[2]: known for known in names}
    near = get_close_matches(name, names, n=1) or [by_stem[stem] for stem in get_close_matches(name, by_stem, n=1)]
    meant = f"; did you mean {near[0]}?" if near else ";"
    return ConfigError(
        f"there is no task {name!r}{meant} `asyncopt tasks ls` lists them, and a path ending in .jsonl is one"
    )
