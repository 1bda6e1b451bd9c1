"""``asyncopt plan``: what a run or a sweep will take, and what its scores can show, before a cent is spent on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from asyncopt import codec
from asyncopt.cli.expected import engine_of, expected, lines_of, run_pilots
from asyncopt.cli.settings import settle
from asyncopt.cli.signals import Stop, run_in_loop
from asyncopt.cli.sweep import planned_sweep, sweep_path
from asyncopt.config import Config
from asyncopt.errors import ConfigError
from asyncopt.forecast import Listener, Pilot

PILOT = 40
_FEWEST = 4


def plan(
    name: str,
    flags: Mapping[str, Any],
    *,
    base_url: str | None = None,
    budget: str | None = None,
    settings: Sequence[str] = (),
    pilot: int = PILOT,
    json: bool = False,
) -> None:
    """Print what the run or sweep of this name or file will take; ``flags`` are those of ``asyncopt run``.

    ``pilot`` calls on the initial prompt are made for each task, 0 for none; their answers are in the cache then.
    """
    if pilot < 0 or 0 < pilot < _FEWEST:
        raise ConfigError(f"--pilot is {pilot}; it must be 0 for no calls, or at least {_FEWEST}, such as {PILOT}")
    configs, limits, at_once = _asked(name, dict(flags), base_url, budget, settings)
    pilots = _pilots(configs, pilot) if pilot else {}
    found = expected(configs, pilots, at_once)
    calls, failed = sum(one.calls for one in pilots.values()), sum(one.failed for one in pilots.values())
    throttled, retried = sum(one.throttled for one in pilots.values()), sum(one.retried for one in pilots.values())
    if json:
        value = {
            "event": "plan",
            "studies": len(configs),
            **found.to_json(limits),
            "pilot_calls": calls,
            "pilot_failed": failed,
            "pilot_throttled": throttled,
            "pilot_retried": retried,
        }
        sys.stdout.write(codec.json_line(value))
        return
    if calls:
        print(f"{calls} pilot calls were made" + ("; their answers are cached" if configs[0].use_cache else ""))
    elif pilot and not failed:
        print("the pilot's answers were all in the cache: latencies are typical values, so the time is uncertain")
    if failed:
        print(f"{failed} pilot calls had no answer: look at the model and what it is asked before you run this")
    if throttled or retried:
        attempts = sum(one.attempts for one in pilots.values())
        print(
            f"of the {attempts} attempts they took {throttled} met a rate limit (429) and {retried} failed otherwise;"
        )
        print("these were made again, as the run will do: its calls and time allow for it")
    print("\n".join(lines_of(found, limits, pilot=bool(pilot))))


def _asked(
    name: str, flags: dict[str, Any], base_url: str | None, budget: str | None, settings: Sequence[str]
) -> tuple[list[Config], Mapping[str, float | None], int]:
    """The configurations, the limits of their budget, and how many of them run at once."""
    if sweep_path(name) is None:
        config = settle(name, flags, base_url, budget, list(settings))
        return [config], config.budget.model_dump(), 1
    seed = flags.pop("seed", None)
    seeds = None if seed is None else str(seed)
    sweep = planned_sweep(name, flags, base_url=base_url, settings=settings, seeds=seeds, budget=budget)
    return [one.config for one in sweep.planned], sweep.budget.model_dump(), sweep.at_once


def _pilots(configs: Sequence[Config], calls: int) -> dict[str, Pilot]:
    listener, stop = Listener(), Stop()
    found: dict[str, Pilot] = {}

    async def main() -> None:
        engine = engine_of(configs[0], listener)
        stop.watch(engine)
        async with engine:
            found.update(await run_pilots(configs, calls, engine, listener))

    stopped = run_in_loop(main, stop)
    if stopped is not None:
        sys.exit(128 + stopped)
    return found
