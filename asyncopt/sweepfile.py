"""``SWEEP.toml``: which tasks, settings and seeds a sweep has, and the tables of the study that each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from asyncopt.config import Config, merged, read_toml
from asyncopt.errors import ConfigError

ONLY_SETTING = "default"  # of a sweep that has no [settings]

_OF_THE_WHOLE = {"cache": "cache", "use_cache": "cache", "observers": "engine"}  # of which all studies have one


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


_Task = Annotated[dict[str, Any], BeforeValidator(_named)]
_Seed = Annotated[int, Field(ge=0, le=2**53)]


class SweepFile(BaseModel):
    """A sweep as its file states it; ``tasks`` are names, or tables like ``[task]`` of a run's configuration.

    The tables of a study are ``base``, its task's and its setting's laid over each other, later ones on top.
    ``studies`` run at once. ``summary`` is one line for a list of sweeps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    name: str = Field(min_length=1)
    summary: str = ""
    tasks: tuple[_Task, ...] = Field(min_length=1)
    seeds: tuple[_Seed, ...] = Field(default=(0,), min_length=1)
    studies: int = Field(default=8, ge=1)
    base: dict[str, Any] = {}
    settings: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Cell:
    """One study as the file states it, before the command line and the models' own defaults are laid around it."""

    task: str
    setting: str
    seed: int
    tables: Mapping[str, Any]


def has_tasks(path: Path) -> bool:
    """Whether this TOML file is of a sweep; that of a single run has ``[task]`` instead."""
    return "tasks" in read_toml(path)


def read_sweep_file(path: Path) -> SweepFile:
    """The sweep in a TOML file; raises :class:`ConfigError` with every mistake and what was meant."""
    tables = {"name": path.stem, **read_toml(path)}
    if "task" in tables and "tasks" not in tables:
        raise ConfigError(f"{path} is the configuration of one run; start it with `asyncopt run`, or list its tasks")
    for key in tables:
        if key not in SweepFile.model_fields:
            raise ConfigError(f"{path}: unknown key {key}; {_meant(key)}")
    try:
        file = SweepFile.model_validate(tables)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        lines = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems]
        raise ConfigError(f"{path}: " + "; ".join(lines)) from None
    _check_parts(path, file)
    return file


def _meant(key: str) -> str:
    if key in Config.model_fields:
        return f"what holds for every study stands below base: base.{key}"
    known = sorted(SweepFile.model_fields)
    near = get_close_matches(key, known, n=1, cutoff=0.0)
    return f"did you mean {near[0]}? (known here: {', '.join(known)})"


def _check_parts(path: Path, file: SweepFile) -> None:
    for number, task in enumerate(file.tasks):
        if not isinstance(task.get("name"), str) or not task["name"]:
            raise ConfigError(f"{path}: tasks.{number} has no name; give it one, such as gsm8k")
        if task["name"].endswith(".toml"):
            raise ConfigError(f"{path}: tasks.{number} is a configuration ({task['name']}); wanted a task's name")
    names = [task["name"] for task in file.tasks]
    for what, values in (("tasks", names), ("seeds", file.seeds)):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            advice = "; variants of one task are settings" if what == "tasks" else ""
            raise ConfigError(f"{path}: {what} has {', '.join(map(str, twice))} more than once{advice}")
    for where, tables in {
        "base": file.base,
        **{f"settings.{name}": one for name, one in file.settings.items()},
    }.items():
        _check_tables(path, where, tables)


def _check_tables(path: Path, where: str, tables: Mapping[str, Any]) -> None:
    task = tables.get("task")
    if isinstance(task, Mapping) and "name" in task:
        raise ConfigError(f"{path}: {where}.task.name would be the task of every study; list it in tasks instead")
    if "seed" in tables:
        raise ConfigError(f"{path}: {where}.seed would be the seed of every study; list it in seeds instead")
    for key, shared in _OF_THE_WHOLE.items():
        if where != "base" and key in tables:
            raise ConfigError(f"{path}: {where}.{key} cannot be; all studies share one {shared}: set base.{key}")


def cells(
    file: SweepFile, path: Path, tasks: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> list[Cell]:
    """The studies, task by task, setting by setting, seed by seed.

    ``tasks`` and ``seeds`` take the place of the file's; a task that the file has keeps its table. They are not checked
    here: what the file leaves out, such as a model's name beside its quota, may be on the command line.
    """
    tables = {task["name"]: task for task in file.tasks}
    wanted = [tables.get(name, {"name": name}) for name in (tables if tasks is None else tasks)]
    settings = file.settings or {ONLY_SETTING: {}}
    found = []
    for task in wanted:
        for setting, changes in settings.items():
            for seed in file.seeds if seeds is None else seeds:
                together = merged([file.base, {"task": task}, changes, {"seed": seed}])
                found.append(Cell(task["name"], setting, seed, _beside(path.parent, together, task["name"] in tables)))
    return found


def _beside(folder: Path, tables: Mapping[str, Any], name_in_file: bool) -> dict[str, Any]:
    """The tables; paths in a file mean places beside the file."""
    task = tables["task"]
    own = name_in_file and task["name"].endswith(".jsonl")
    paths = {"data": task.get("data"), "name": task["name"] if own else None}
    return merged([tables, {"task": {key: str(folder / path) for key, path in paths.items() if isinstance(path, str)}}])
