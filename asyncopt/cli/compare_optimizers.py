"""``asyncopt compare TASK --optimizers ...``: optimizers beside each other on one task and equal scoring calls."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.cli.arms import Asked, planned_contest
from asyncopt.cli.compare import compare_runs
from asyncopt.cli.contest_text import contests_lines
from asyncopt.cli.display_choice import shown_as
from asyncopt.cli.dry_run import dry_run as tell
from asyncopt.cli.sweep import budget_of, loaded, seeds_in, start_sweep, twins
from asyncopt.errors import ConfigError
from asyncopt.sweep import Sweep

USUAL_LATENCY = "0.05"  # that of `asyncopt simulate`
_OF_SERVERS = ("latency", "rps", "tps", "concurrency", "faults")
_OF_MODELS = ("directory", "budget", "base_url", "observe", "shared", "wait", "workers", "dry_run", "display")
_OF_OPTIMIZERS = (
    *("optimizers", "scoring_calls", "seeds", "aa", "simulated", *_OF_SERVERS, *_OF_MODELS),
    *("scorer", "proposer", "limit", "data", "settings", "no_cache", "mode"),
)


def compare_what(options: Mapping[str, Any]) -> None:
    """Do what ``asyncopt compare`` was asked for: runs in directories, or optimizers on a task."""
    what: Sequence[str] = options["what"]
    if _are_directories(what, options["optimizers"]):
        _refuse(options, _OF_OPTIMIZERS, "is for a comparison of optimizers; of directories there is nothing to choose")
        compare_runs([Path(name) for name in what], json=options["json"])
        return
    asked = _asked(options)
    if options["simulated"]:
        _refuse(options, _OF_MODELS, "is for a comparison that asks models; with --simulated nothing is kept or spent")
        server = {name: options[name] for name in _OF_SERVERS}
        _simulate(asked, {**server, "latency": server["latency"] or USUAL_LATENCY}, json=options["json"])
    else:
        _refuse(options, _OF_SERVERS, "describes a simulated API; add --simulated")
        _compare(asked, options)


def _are_directories(what: Sequence[str], optimizers: str | None) -> bool:
    """Whether these are the directories of runs; a task with optimizers may have the name of some folder."""
    others = [name for name in what if not Path(name).is_dir()]
    if optimizers is None and not others:
        return True
    if len(what) > 1:
        found = (
            f"{others[0]} is no directory" if others else f"--optimizers is about one task, and here are {len(what)}"
        )
        raise ConfigError(f"{found}; compare takes directories of runs, or one task with --optimizers")
    return False


def _refuse(options: Mapping[str, Any], names: Sequence[str], why: str) -> None:
    for name in names:
        if options[name] not in (None, False, []):
            raise ConfigError(f"--{name.replace('_', '-')} {why}")


def _asked(options: Mapping[str, Any]) -> Asked:
    flags = {
        "models.scorer.model": options["scorer"],
        "models.proposer.model": options["proposer"],
        "task.limit": options["limit"],
        "task.data": options["data"],
        "use_cache": False if options["no_cache"] else None,
        "mode": options["mode"],
        "observers": options["observe"] or None,
        "shared": options["shared"],
    }
    return Asked(
        what=options["what"][0],
        optimizers=options["optimizers"],
        scoring_calls=options["scoring_calls"],
        seeds=seeds_in(options["seeds"]),
        aa=options["aa"],
        flags=flags,
        settings=options["settings"] or (),
        base_url=options["base_url"],
    )


def _compare(asked: Asked, options: Mapping[str, Any]) -> None:
    """Run the comparison to its end and print it; its directory is that of a sweep, and resumed as one."""
    shown = shown_as(options["display"], json=options["json"])
    sweep, remarks = planned_contest(asked)
    _remark(sweep, remarks)
    sweep = replace(sweep, budget=budget_of(options["budget"]))
    if options["dry_run"]:
        tell([one.config for one in sweep.planned], sweep.budget.model_dump(), sweep.at_once, json=shown == "json")
    else:
        start_sweep(sweep, options["directory"], shown, wait=options["wait"], workers=options["workers"])


def _simulate(asked: Asked, server: Mapping[str, Any], *, json: bool) -> None:
    """Run the comparison against simulated servers in virtual time, and print it with the true regrets."""
    from asyncopt.testing.contest import simulate_contest
    from asyncopt.testing.process import server_parameters

    sweep, remarks = planned_contest(asked)
    _remark(sweep, remarks)
    found = simulate_contest(sweep, loaded(sweep), server_parameters(server))
    if json:
        for one in found:
            sys.stdout.write(codec.json_line({"event": "contest", **one.to_json()}))
    else:
        print("\n".join(contests_lines(found)))
    if any(arm.failures for one in found for arm in one.contest.arms):
        sys.exit(1)


def _remark(sweep: Sweep, remarks: Sequence[str]) -> None:
    for line in [*remarks, *twins(sweep)]:
        print(f"asyncopt: {codec.printable(line, 400)}", file=sys.stderr)
