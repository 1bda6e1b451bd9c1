"""A sweep: tasks x settings x seeds as studies side by side, kept in one directory and resumable as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.config import BudgetConfig, Config, check
from asyncopt.directory import JOURNAL, RANDOM, SWEEP, SWEEP_RESULT, differences, read_journal, read_json, take_lock
from asyncopt.directory import MANIFEST as OF_RUN
from asyncopt.directory import RESULT as OF_STUDY
from asyncopt.errors import AsyncoptError, BudgetExhausted, ConfigError, EndpointUnusable, StorageFailed
from asyncopt.files import write_atomically
from asyncopt.limits.budget import Account
from asyncopt.result import Result, result_of
from asyncopt.version import __version__

MANIFEST = SWEEP
RESULT = SWEEP_RESULT
LONGEST_NAME = 200  # bytes of a study's folder without its seed: a file system takes 255

# What ends one study and would end every other: there is no use in going on before somebody has looked into it.
_STOPPING = (EndpointUnusable, BudgetExhausted, StorageFailed)
_MOST_DIFFERENCES = 5


@dataclass(frozen=True, slots=True)
class Planned:
    """One study of a sweep: a task under a setting with a seed, and the whole configuration that they come to."""

    task: str
    setting: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """Its folder in the sweep's directory."""
        return study_name(self.task, self.setting, self.seed)

    @property
    def subject(self) -> dict[str, Any]:
        """What decides its result, as far as that can be told before any data is read or any model is reached."""
        plain = self.config.to_plain()
        plain["task"].pop("data", None)
        models = {role: _answerer(model) for role, model in plain["models"].items()}
        # Whatever else the configuration holds says where, when and how fast, and where the money ends.
        decides: dict[str, Any] = {name: plain[name] for name in ("task", "optimizer", "seed", "mode")}
        return {**decides, "models": models}


def _answerer(model: Mapping[str, Any]) -> str:
    """Who answers: the same model is another one where it only continues raw text."""
    name, form = str(model["model"]), model.get("format", "chat")
    return name if form == "chat" else f"{name} ({form})"


@dataclass(frozen=True, slots=True)
class Sweep:
    """All studies of a sweep, each in a folder of its own, ``at_once`` of them running at a time.

    ``budget`` is for all of them together; what a study's configuration states is for that study alone. Where the
    settings are optimizers that are compared, ``contest`` has them in their order, each with the one that it repeats
    under other seeds, if it does; it is None for any other sweep.
    """

    name: str
    planned: tuple[Planned, ...]
    at_once: int
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    contest: Mapping[str, str | None] | None = None

    def __post_init__(self) -> None:
        names: dict[str, Planned] = {}
        for one in self.planned:
            other = names.setdefault(one.name.lower(), one)  # some file systems do not tell cases apart
            if other is not one:
                raise ConfigError(
                    f"two studies of the sweep would be kept in {one.name}: {other.task} with {other.setting}, and "
                    f"{one.task} with {one.setting}; rename one of them"
                )
        if self.at_once < 1:
            raise ConfigError(f"{self.at_once} studies at once; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a study of a sweep ended: with a result, and random search beside it where there is such, or an error."""

    planned: Planned
    result: Result | None = None
    random: Result | None = None
    error: AsyncoptError | None = None


def study_name(task: str, setting: str, seed: int) -> str:
    """The name of a study's folder: ``<task>-<setting>-s<seed>``, letters, digits, ``.``, ``_`` and ``-`` alone."""
    stem = Path(task).stem if task.endswith(".jsonl") else task
    return f"{codec.file_name(f'{stem}-{setting}', LONGEST_NAME)}-s{seed}"


# -- the directory -----------------------------------------------------------------------------------------------------


class SweepDirectory:
    """A sweep's directory, locked for this process while it is open, with one run directory below it for each study.

    Its manifest is everything that decides the results; a directory of another sweep is refused with the difference.
    """

    def __init__(self, path: Path, sweep: Sweep) -> None:
        self.path = path
        self._lock = take_lock(path, Path(MANIFEST).stem)
        try:
            self._agree(sweep)
        except BaseException:
            self._lock.release()
            raise

    def _agree(self, sweep: Sweep) -> None:
        subject = codec.loads(codec.dumps({one.name: one.subject for one in sweep.planned}))
        if (self.path / OF_RUN).exists():
            raise ConfigError(f"{self.path} holds a single run; use another directory for a sweep")
        if (self.path / MANIFEST).exists():
            lines = _differences(read_json(self.path / MANIFEST).get("subject"), subject)
            if lines:
                more = f"; and {len(lines) - _MOST_DIFFERENCES} more" if len(lines) > _MOST_DIFFERENCES else ""
                shown = "; ".join(lines[:_MOST_DIFFERENCES]) + more
                raise ConfigError(f"{self.path} holds another sweep ({shown}); use another directory")
        studies = [
            {"task": one.task, "setting": one.setting, "seed": one.seed, "config": one.config.to_plain()}
            for one in sweep.planned
        ]
        # Written anew at each sitting: what does not decide the results, such as quotas, may have changed.
        manifest = {"name": sweep.name, "at_once": sweep.at_once, "subject": subject, "studies": studies}
        manifest["budget"] = sweep.budget.model_dump(exclude_none=True)
        if sweep.contest is not None:
            # As pairs: a JSON object may come back in another order from whatever has rewritten it.
            manifest["contest"] = list(sweep.contest.items())
        self.write(MANIFEST, codec.dumps({"v": 1, "asyncopt": __version__, **manifest}))

    def write(self, name: str, content: bytes) -> None:
        """Keep a file of the whole sweep."""
        keep(self.path, name, content)

    def close(self) -> None:
        self._lock.release()


def keep(directory: Path, name: str, content: bytes) -> None:
    """Keep a file of the whole sweep in its directory; raises :class:`StorageFailed` if the disk does not take it."""
    try:
        write_atomically(directory / name, content)
    except OSError as error:
        raise StorageFailed.at(directory / name, error) from None


def _differences(found: Any, subject: Mapping[str, Any]) -> list[str]:
    """What differs between the studies that a directory holds and those that are wanted."""
    kept = found if isinstance(found, dict) else {}
    new = [f"{name} is not in it" for name in subject if name not in kept]
    gone = [f"{name} is in it alone" for name in kept if name not in subject]
    common = [name for name in subject if name in kept]
    changed = differences({name: kept[name] for name in common}, {name: subject[name] for name in common})
    return [*new, *gone, *changed]


def read_sweep(directory: Path) -> Sweep:
    """The sweep in this directory, as it was last started."""
    path = directory / MANIFEST
    manifest = read_json(path)
    try:
        planned = tuple(
            Planned(row["task"], row["setting"], row["seed"], check(row["config"], str(path)))
            for row in manifest["studies"]
        )
        budget, pairs = BudgetConfig(**manifest["budget"]), manifest.get("contest")
        contest = None if pairs is None else {str(name): repeated for name, repeated in pairs}
        return Sweep(str(manifest["name"]), planned, manifest["at_once"], budget, contest)
    except (KeyError, TypeError, ValueError):  # pydantic's are ValueErrors
        raise ConfigError(f"{path} is damaged; restore it from a copy, or start the sweep anew elsewhere") from None


def read_ended(directory: Path, sweep: Sweep) -> list[Ended]:
    """The studies of this sweep that have a result by now, with random search beside them."""
    try:
        done = [one for one in sweep.planned if (directory / one.name / OF_STUDY).exists()]
        return [
            Ended(one, result_of(read_json(directory / one.name / OF_STUDY)), read_random(directory / one.name))
            for one in done
        ]
    except (KeyError, TypeError):
        raise ConfigError(f"a result in {directory} is damaged; remove it and resume the sweep") from None


def read_random(directory: Path) -> Result | None:
    """Random search beside the run in this directory, where there is one."""
    path = directory / RANDOM
    return result_of(read_json(path)) if path.exists() else None


def is_sweep(directory: Path) -> bool:
    """Whether a sweep is kept in this directory."""
    return (directory / MANIFEST).is_file()


def is_contest(directory: Path) -> bool:
    """Whether a comparison of optimizers is kept in this directory."""
    return is_sweep(directory) and read_json(directory / MANIFEST).get("contest") is not None


def charge_earlier(account: Account, directories: Iterable[Path]) -> None:
    """Put on the account what the studies in these directories have spent in earlier sittings."""
    for directory in directories:
        spent = [record.data["account"] for record in _records(directory) if "account" in record.data]
        if spent:
            for name in ("calls", "input_tokens", "output_tokens", "usd"):
                setattr(account, name, getattr(account, name) + spent[-1][name])


def _records(directory: Path) -> Sequence[Any]:
    return read_journal(directory) if (directory / JOURNAL).exists() else ()


# -- running -----------------------------------------------------------------------------------------------------------


async def run_studies(
    planned: Sequence[Planned],
    run: Callable[[Planned], Awaitable[Ended]],
    at_once: int,
    seen: Callable[[Ended], None],
) -> list[Ended]:
    """How each of the studies ended, in their order; ``at_once`` of them run at a time, and ``seen`` is told of each.

    A study that fails does not hurt the others. What would stop every one of them stops the sweep and is raised: a
    refused key or model, a used up quota, and a used up budget unless it is the study's own.
    """
    ended: dict[int, Ended] = {}
    waiting = iter(enumerate(planned))

    async def work() -> None:
        for number, one in waiting:
            try:
                ended[number] = await run(one)
            except AsyncoptError as error:
                if stops(error, one):
                    raise
                ended[number] = Ended(one, error=error)
            seen(ended[number])

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(planned))):
                group.create_task(work())
    except BaseExceptionGroup as failures:
        stopping, others = failures.split(AsyncoptError)
        if stopping is None or others is not None:
            raise
        raise stopping.exceptions[0] from None
    return [ended[number] for number in range(len(planned))]


def stops(error: AsyncoptError, one: Planned) -> bool:
    """Whether what ended this study would end every other."""
    own = isinstance(error, BudgetExhausted) and bool(one.config.budget.model_fields_set)
    return isinstance(error, _STOPPING) and not own
