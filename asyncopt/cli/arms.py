"""From what was typed to a comparison of optimizers: its arms on equal scoring calls, seed by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from asyncopt import configs
from asyncopt.cli.settings import settle
from asyncopt.config import Config, parse_setting, read_toml
from asyncopt.errors import ConfigError
from asyncopt.optimizers import Optimizer, RandomSearch
from asyncopt.optimizers.overlap import Overlap
from asyncopt.sweep import Planned, Sweep
from asyncopt.sweepfile import Cell, SweepFile, cells, has_tasks, read_sweep_file
from asyncopt.tasks.task import Task

USUAL_CANDIDATES = 50  # what the calls of a search are for, where nobody states their number
PROPOSALS_A_CANDIDATE = (
    8  # where more than that are repetitions or unusable, the steps end the search and not the calls
)
AGAIN = " (A/A)"
_LENGTHS = ("steps", "generations", "rounds")  # what optimizers call the number of their steps
_WIDTHS = ("samples_per_step", "popsize", "samples")  # and that of the proposals in each
_TYPED = Path("the command line")  # in place of a file's path
_NOT_TO_SET = {
    "seed": "--seeds",
    "task.name": "the task itself",
    "optimizer.name": "--optimizers",
    "optimizer.scoring_calls": "--scoring-calls",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of a comparison; ``flags`` are settings by their dotted names."""

    what: str
    optimizers: str | None = None
    scoring_calls: int | None = None
    seeds: Sequence[int] | None = None
    aa: bool = False
    flags: Mapping[str, Any] | None = None
    settings: Sequence[str] = ()
    base_url: str | None = None


def planned_contest(asked: Asked) -> tuple[Sweep, list[str]]:
    """The comparison as a sweep whose settings are the arms, and what has to be said of its settings.

    Its studies come seed by seed, and within a seed task by task, so that all arms of a seed run side by side.
    """
    for setting in asked.settings:
        flag = _NOT_TO_SET.get(setting.partition("=")[0].strip())
        if flag is not None:
            raise ConfigError(f"--set {setting} would be the same for every optimizer; give {flag} instead")
    file, path = _file(asked)
    if len(file.settings) < 2:
        one = next(iter(file.settings), "none")
        raise ConfigError(f"there is nothing to compare: wanted two optimizers or more, and got {one}")
    return _Planning(asked, file, path).sweep()


def _file(asked: Asked) -> tuple[SweepFile, Path]:
    """The comparison as a sweep's file would state it, whatever it is stated in."""
    what, names = asked.what, _names(asked.optimizers)
    path = configs.find(what) or Path(what)
    if configs.find(what) is not None or (what.endswith(".toml") and has_tasks(path)):
        file = read_sweep_file(path)
        if names and file.settings:
            raise ConfigError(f"the arms of {what} are its settings; leave --optimizers out, or the settings")
        return (file.model_copy(update={"settings": _settings(names, {})}) if names else file), path
    if not names:
        raise ConfigError(f"which optimizers on {what}? name them, such as --optimizers opro,evoprompt-ga,ape")
    tables = read_toml(path) if what.endswith(".toml") else {"task": {"name": what}}
    stated, task = tables.pop("optimizer", {}), tables.pop("task", None)
    tables.pop("seed", None)
    if not isinstance(task, dict) or not isinstance(task.get("name"), str):
        raise ConfigError(f'{what} names no task; it needs a [task] with a name, such as name = "gsm8k"')
    settings = _settings(names, stated if isinstance(stated, dict) else {})
    name = f"compare-{Path(what).stem if what.endswith('.toml') else what}"
    file = SweepFile(name=name, tasks=(task,), seeds=(0, 1, 2), base=tables, settings=settings)
    return file, path if what.endswith(".toml") else _TYPED


def _names(text: str | None) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"--optimizers has {twice[0]} more than once; --aa runs the first one under other seeds, too")
    return names


def _settings(names: Sequence[str], stated: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A setting for each optimizer; what a configuration states of its own one is for that one alone."""
    own = stated.get("name", "opro")
    return {name: {"optimizer": {**(stated if name == own else {}), "name": name}} for name in names}


class _Planning:
    """Settles every arm: which settings it takes, and under which limits it runs."""

    def __init__(self, asked: Asked, file: SweepFile, path: Path) -> None:
        self._asked = asked
        self._file = file
        self._path = path
        self._seeds = tuple(dict.fromkeys(asked.seeds or file.seeds))
        self._own = [one for one in asked.settings if one.strip().startswith("optimizer.")]
        self._shared = [one for one in asked.settings if one not in self._own]
        self._taken: dict[str, set[str]] = {one: set() for one in self._own}  # the arms that have this option

    def sweep(self) -> tuple[Sweep, list[str]]:
        """The sweep, and a line for each setting that some arms do not have."""
        arms = list(self._file.settings)
        again = {f"{arms[0]}{AGAIN}": arms[0]} if self._asked.aa else {}
        found = {(cell.task, cell.setting, cell.seed): cell for cell in self._cells()}
        tasks = list(dict.fromkeys(task for task, _, _ in found))
        limits = {task: self._limits([found[task, arm, self._seeds[0]] for arm in arms]) for task in tasks}
        planned = []
        for number, seed in enumerate(self._seeds):
            for task in tasks:
                rows = [(arm, arm, seed) for arm in arms]
                rows += [(name, arm, self._later(number)) for name, arm in again.items()]
                for name, arm, drawn in rows:
                    config = self._settled(found[task, arm, drawn], limits[task][arm])
                    planned.append(Planned(task, name, drawn, config))
        contest: dict[str, str | None] = {**dict.fromkeys(arms), **again}
        sweep = Sweep(self._file.name, tuple(planned), len(contest), contest=contest)
        return sweep, self._remarks(arms)

    def _later(self, number: int) -> int:
        """The seed of an A/A run: after all others."""
        return max(self._seeds) + 1 + number

    def _cells(self) -> list[Cell]:
        seeds = [*self._seeds, *(self._later(number) for number in range(len(self._seeds)))]
        return cells(self._file, self._path, seeds=seeds)

    def _settled(self, cell: Cell, more: Mapping[str, Any]) -> Config:
        """The cell's configuration with those of the settings that its optimizer has."""
        asked = self._asked
        own = [one for one in self._own if cell.setting in self._taken[one]]
        stated = {name: value for name, value in (asked.flags or {}).items() if value is not None}
        flags = {**cell.tables, **stated, "trace": True, **more}
        source = str(self._path) if self._path == _TYPED else f"{self._path}, {cell.task} with {cell.setting}"
        return settle(cell.task, flags, asked.base_url, None, [*self._shared, *own], source)

    # -- equal scoring calls -------------------------------------------------------------------------------------------

    def _limits(self, of_task: Sequence[Cell]) -> dict[str, dict[str, Any]]:
        """What bounds each arm on one task: the same scoring calls, and steps enough that they end the search."""
        built = {cell.setting: self._built(cell) for cell in of_task}
        calls = self._calls(built)
        found: dict[str, dict[str, Any]] = {}
        for cell in of_task:
            task, optimizer = built[cell.setting]
            assert is_dataclass(optimizer)
            names = {one.name for one in fields(optimizer)}
            length, width = (next(name for name in known if name in names) for known in (_LENGTHS, _WIDTHS))
            proposals = PROPOSALS_A_CANDIDATE * -(-calls // max(len(task.train), 1))
            most = max(getattr(optimizer, length), -(-proposals // getattr(optimizer, width)))
            found[cell.setting] = {"optimizer.scoring_calls": calls, f"optimizer.{length}": most}
            config = self._settled(cell, found[cell.setting])
            bounded = config.build_optimizer(task)
            assert isinstance(bounded, Overlap)
            bounded.check_examples(task)
        return found

    def _built(self, cell: Cell) -> tuple[Task, Optimizer]:
        """The cell's task and optimizer; raises :class:`ConfigError` where scoring calls do not bound it."""
        config = self._settled(cell, {})
        task = config.load_task()
        if not isinstance(task, Task) or not task.test:
            raise ConfigError(
                f"optimizers are compared on held-out examples, and {cell.task} has none; name a task that has some, "
                "or lower its train_ratio or validation_ratio"
            )
        optimizer = config.build_optimizer(task)
        if not isinstance(optimizer, Overlap) or isinstance(optimizer, RandomSearch):
            raise ConfigError(
                f"{cell.setting} cannot be held to a number of scoring calls, so that nothing would be equal; leave "
                f"{optimizer.name} out, or run it alone and compare the directories: asyncopt compare DIR DIR"
            )
        options = {one.name for one in fields(optimizer)}
        for setting in self._own:
            if next(iter(parse_setting(setting)["optimizer"])) in options:
                self._taken[setting].add(cell.setting)
        return task, self._settled(cell, {}).build_optimizer(task)

    def _calls(self, built: Mapping[str, tuple[Task, Optimizer]]) -> int:
        if self._asked.scoring_calls is not None:
            return self._asked.scoring_calls
        stated = {arm: getattr(optimizer, "scoring_calls", None) for arm, (_, optimizer) in built.items()}
        different = set(stated.values())
        if len(different) > 1:
            each = ", ".join(f"{arm} {calls or 'none'}" for arm, calls in stated.items())
            raise ConfigError(f"the settings state different scoring_calls ({each}); give --scoring-calls for all")
        task, _ = next(iter(built.values()))
        return different.pop() or USUAL_CANDIDATES * max(len(task.train), 1)

    def _remarks(self, arms: Sequence[str]) -> list[str]:
        remarks = []
        for setting, taken in self._taken.items():
            without = [arm for arm in arms if arm not in taken]
            if not taken:
                name = next(iter(parse_setting(setting)["optimizer"]))
                raise ConfigError(f"--set {setting}: none of {', '.join(arms)} has an option {name}")
            if without:
                named = ", ".join(arm for arm in arms if arm in taken)
                remarks.append(f"--set {setting} is for {named}; there is no such option of {', '.join(without)}")
        return remarks
