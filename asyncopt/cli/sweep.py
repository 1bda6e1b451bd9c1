"""``asyncopt sweep``: every study checked before the first call, then all of them on one engine and one cache."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from asyncopt import codec, configs
from asyncopt.cli.contest_text import contests_lines
from asyncopt.cli.display_choice import ShownAs
from asyncopt.cli.dry_run import dry_run as tell
from asyncopt.cli.models import check_batched, check_model
from asyncopt.cli.run import new_directory
from asyncopt.cli.settings import settle
from asyncopt.cli.signals import Stop, run_in_loop
from asyncopt.cli.sitting import Sitting
from asyncopt.cli.summary import LONGEST_PATH
from asyncopt.cli.sweep_table import table_lines
from asyncopt.cli.workers.crewed import CrewedSitting
from asyncopt.cli.workers.how_many import workers_for
from asyncopt.cli.workers.worker import models_of, whole_task
from asyncopt.config import BudgetConfig, Config, check, parse_budget
from asyncopt.errors import AsyncoptError, BudgetExhausted, ConfigError
from asyncopt.limits.budget import UNLIMITED, Account
from asyncopt.local import is_local
from asyncopt.optimizers.base import AnyTask
from asyncopt.records.contest import contests_in
from asyncopt.repetitions import ended_json, summary_json
from asyncopt.shared.at import absolute_address, checked_address
from asyncopt.sweep import Ended, Planned, Sweep, SweepDirectory, charge_earlier, read_ended, read_sweep
from asyncopt.sweepfile import cells, has_tasks, read_sweep_file
from asyncopt.telemetry.named import maker_of

_NOT_TO_SET = {"seed": "--seeds", "task.name": "--tasks"}


# -- what was asked for ------------------------------------------------------------------------------------------------


def sweep_path(name: str) -> Path | None:
    """The file of a sweep: that of a ready configuration, or a TOML file that has tasks; else None."""
    ready = configs.find(name)
    if ready is not None:
        return ready
    return Path(name) if name.endswith(".toml") and has_tasks(Path(name)) else None


def planned_sweep(
    name: str,
    flags: Mapping[str, Any],
    *,
    base_url: str | None = None,
    settings: Sequence[str] = (),
    tasks: str | None = None,
    seeds: str | None = None,
    studies: int | None = None,
    budget: str | None = None,
) -> Sweep:
    """The sweep of this name or file with the command line on top of it, every study's settings checked."""
    path = Path(name) if name.endswith(".toml") else configs.path_of(name)
    for setting in settings:
        flag = _NOT_TO_SET.get(setting.partition("=")[0].strip())
        if flag is not None:
            raise ConfigError(f"--set {setting} would be the same for every study; give {flag} instead")
    file = read_sweep_file(path)
    chosen = cells(file, path, _names(tasks), seeds_in(seeds))
    planned = []
    stated = {name: value for name, value in flags.items() if value is not None}
    for cell in chosen:
        source = f"{path}, {cell.task} with {cell.setting}"
        config = settle(cell.task, {**cell.tables, **stated}, base_url, None, list(settings), source)
        planned.append(Planned(cell.task, cell.setting, cell.seed, config))
    return Sweep(file.name, tuple(planned), file.studies if studies is None else studies, budget_of(budget))


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"--tasks got {text!r}; wanted names such as gsm8k,bbh/navigate")
    return names


def seeds_in(text: str | None) -> list[int] | None:
    """The seeds in a text such as ``0,1,2``; None without one."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"--seeds got {text!r}; wanted whole numbers such as 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def begin(
    name: str,
    flags: Mapping[str, Any],
    options: Mapping[str, Any],
    directory: Path | None,
    budget: str | None,
    *,
    dry_run: bool,
    shown: ShownAs,
    wait: bool,
    workers: int | None = None,
) -> None:
    """Run the sweep of this name or file; ``options`` are those of :func:`planned_sweep`."""
    sweep = planned_sweep(name, flags, **options, budget=budget)
    for line in twins(sweep):
        print(f"asyncopt: {codec.printable(line, 400)}", file=sys.stderr)
    if dry_run:
        every = [one.config for one in sweep.planned]
        tell(every, sweep.budget.model_dump(), sweep.at_once, json=shown == "json")
    else:
        start_sweep(sweep, directory, shown, wait=wait, workers=workers)


def twins(sweep: Sweep) -> list[str]:
    """A line for each group of settings between which the command line has left no difference."""
    settings: dict[str, list[Config]] = {}
    for one in sweep.planned:
        settings.setdefault(one.setting, []).append(one.config)
    names = list(settings)
    same = [[other for other in names if settings[other] == settings[name]] for name in names]
    groups = [group for name, group in zip(names, same, strict=True) if len(group) > 1 and group[0] == name]
    return [f"with these options the settings {', '.join(group)} are one and the same" for group in groups]


def start_sweep(
    sweep: Sweep, directory: Path | None, shown: ShownAs, *, wait: bool, workers: int | None = None
) -> None:
    """Run the sweep to its end, by so many ``workers``, and show the table.

    Exits with 1 if a study failed or examples have no score, with 3 if studies used up their budget, and with 130 or
    143 when interrupted.
    """
    count = workers_for(sweep, directory, workers)
    tasks = prepared(sweep)

    def run(place: Path, total: Account) -> list[Ended]:
        kind = Sitting if count == 1 else CrewedSitting
        return run_until_stopped(kind(sweep, tasks, place, total, shown, wait=wait, count=count))

    run_kept(sweep, directory, run)


def prepared(sweep: Sweep) -> dict[str, AnyTask]:
    """The studies' tasks; raises :class:`ConfigError` for whatever cannot be, before there is a directory."""
    for name in sweep.planned[0].config.observers:
        maker_of(name)
    _check_prices(sweep)
    tasks = loaded(sweep)
    for wanted in models_of(sweep):
        check_model(wanted)
    for one in sweep.planned:
        if one.config.batch is not None:
            check_batched(one.config)
    return tasks


def run_kept(sweep: Sweep, directory: Path | None, run: Callable[[Path, Account], list[Ended]]) -> None:
    """Run the sweep in its directory, on the account of all its studies, and exit as its studies ended."""
    total = Account(sweep.budget.build())
    place = directory or new_directory(sweep.name)
    kept = SweepDirectory(place, sweep)
    try:
        if total.budget != UNLIMITED:
            charge_earlier(total, [place / one.name for one in sweep.planned])
        ended = run(place, total)
    finally:
        kept.close()
    _exit_by(ended)


def resume_sweep(
    directory: Path,
    budget: str | None,
    shown: ShownAs,
    *,
    wait: bool,
    shared: str | None = None,
    workers: int | None = None,
) -> None:
    """Go on with the sweep in this directory: finished studies are not run again, interrupted ones go on.

    It has the budget and the quota that it was started with; what ``budget`` and ``shared`` say takes their place.
    """
    sweep = read_sweep(directory) if shared is None else shared_at(read_sweep(directory), shared)
    given = {} if budget is None else budget_of(budget).model_dump(exclude_none=True)
    sweep = replace(sweep, budget=sweep.budget.model_copy(update=given))
    start_sweep(sweep, directory, shown, wait=wait, workers=workers)


def shared_at(sweep: Sweep, address: str) -> Sweep:
    """The same sweep under the quota at this address."""
    shared = {"shared": absolute_address(checked_address(address))}
    planned = [replace(one, config=one.config.model_copy(update=shared)) for one in sweep.planned]
    return replace(sweep, planned=tuple(planned))


def show_sweep(directory: Path, *, json: bool) -> None:
    """Print the table of the studies that have a result by now; the sweep may be going on meanwhile."""
    sweep = read_sweep(directory)
    ended = read_ended(directory, sweep)
    contests = contests_in(directory, sweep, ended)
    if json:
        value = {"name": sweep.name, **summary_json(ended), "studies": [ended_json(one) for one in ended]}
        value |= {"contests": [one.to_json() for one in contests]} if contests else {}
        sys.stdout.write(codec.json_line(value))
        return
    print(f"{codec.printable(sweep.name, 60)}: {len(ended)} of {len(sweep.planned)} studies have ended")
    print("\n".join(contests_lines(contests) if contests else table_lines(ended)))


def list_sweeps(*, json: bool) -> None:
    """Print the ready configurations."""
    for name in configs.names():
        summary = read_sweep_file(configs.path_of(name)).summary
        if json:
            sys.stdout.write(codec.json_line({"name": name, "summary": summary}))
        else:
            print(f"{name:42} {summary}")


# -- checked before the first call -------------------------------------------------------------------------------------


def budget_of(text: str | None) -> BudgetConfig:
    """The budget in a text such as ``calls=2000,usd=1.5``; without one, no limit."""
    if text is None:
        return BudgetConfig()
    return check({"task": {"name": "any"}, "budget": parse_budget(text)}, "--budget").budget


def _check_prices(sweep: Sweep) -> None:
    for wanted in models_of(sweep) if sweep.budget.usd is not None else ():
        if wanted.price is None and not is_local(wanted.model):
            raise ConfigError(
                f"the budget is in dollars and {wanted.model} has no price; state it, such as "
                "--set models.scorer.usd_per_million_input_tokens=0.15, the same of output, and of models.proposer"
            )


def loaded(sweep: Sweep) -> dict[str, AnyTask]:
    """The task of every study; equal tables with one seed are loaded once."""
    known: dict[bytes, AnyTask] = {}
    tasks: dict[str, AnyTask] = {}
    for one in sweep.planned:
        config = one.config
        key = codec.dumps([config.task.model_dump(mode="json"), config.seed, config.mode])
        if key not in known:
            known[key] = whole_task(config)
        tasks[one.name] = known[key]
        config.build_optimizer(known[key])
    first = sweep.planned[0].config
    for one in sweep.planned:
        if (one.config.cache, one.config.use_cache) != (first.cache, first.use_cache):
            raise ConfigError(f"{one.name} has another cache than {sweep.planned[0].name}; a sweep has one")
        if one.config.shared != first.shared:
            raise ConfigError(f"{one.name} has another shared quota than {sweep.planned[0].name}; a sweep has one")
    return tasks


# -- the end -----------------------------------------------------------------------------------------------------------


def run_until_stopped(sitting: Sitting) -> list[Ended]:
    """How the studies ended; where the sweep did not come to its end, say how to go on."""
    hint = f"asyncopt: go on with: asyncopt resume {shlex.quote(codec.printable(str(sitting.place), LONGEST_PATH))}"
    stop = Stop()
    try:
        stopped = run_in_loop(partial(sitting.run, stop), stop)
    except AsyncoptError as error:
        if not isinstance(error, ConfigError):  # those come before the first call
            print(hint, file=sys.stderr)
        raise
    if stopped is not None:
        print(f"asyncopt: stopped\n{hint}", file=sys.stderr)
        sys.exit(128 + stopped)
    return sitting.ended


def _exit_by(ended: Sequence[Ended]) -> None:
    failed = [one for one in ended if one.error is not None]
    unscored = sum(one.result.unscored for one in ended if one.result is not None)
    if failed:
        print(
            f"asyncopt: {len(failed)} of {len(ended)} studies failed; resume the sweep to try them again",
            file=sys.stderr,
        )
        sys.exit(3 if any(isinstance(one.error, BudgetExhausted) for one in failed) else 1)
    if unscored:
        print(f"asyncopt: {unscored} examples of the instructions compared have no score", file=sys.stderr)
        sys.exit(1)
