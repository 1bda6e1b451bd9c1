"""``asyncopt simulate --study``: what a study would take and find, told before it is paid for."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from asyncopt import codec
from asyncopt.cli.settings import settle
from asyncopt.cli.summary import attribution_lines
from asyncopt.cli.sweep import sweep_path
from asyncopt.config import Config
from asyncopt.errors import ConfigError
from asyncopt.testing.process import server_parameters
from asyncopt.testing.servers import Use
from asyncopt.testing.study import Simulated, Tried, simulate

_OF_SERVERS = {"port": "--port", "key": "--key"}
_ABOUT_THE_STUDY = ("study", "settings", "repeat", "json", "seed", "data")
_COUNTED = ("seconds", "calls", "refused", "hedges", "cache_hits", "tokens", "candidates", "stopped", "regret")


def simulate_study(options: Mapping[str, Any]) -> None:
    """Simulate the study that the options of ``asyncopt simulate`` name, and print what it came to."""
    for name, flag in _OF_SERVERS.items():
        if options.get(name):
            raise ConfigError(f"{flag} is for a server, and --study starts none; leave {flag} out")
    if sweep_path(options["study"]) is not None:
        raise ConfigError(f"{options['study']} is a sweep, and --study takes one study; name a task or a CONFIG.toml")
    flags = {"seed": options["seed"], "task.data": options["data"]}
    config = settle(options["study"], flags, None, None, options["settings"] or [])
    others = (*_OF_SERVERS, *_ABOUT_THE_STUDY)
    server = server_parameters({name: value for name, value in options.items() if name not in others})
    seeds = range(config.seed, config.seed + (options["repeat"] or 1))
    runs = [simulate(config.model_copy(update={"seed": seed}), server) for seed in seeds]
    if options["json"]:
        sys.stdout.write(codec.json_line(_as_json(config, options, runs)))
        return
    for line in _run_lines(config, runs[0]) if len(runs) == 1 else _spread_lines(config, runs):
        print(line)


def _as_json(config: Config, options: Mapping[str, Any], runs: Sequence[Simulated]) -> dict[str, Any]:
    spreads = _spreads(runs)
    return {
        "event": "simulated",
        "config": config.to_plain(),
        "latency": options["latency"],
        "median": {name: median(values) for name, values in spreads.items()},
        "range": {name: [min(values), max(values)] for name, values in spreads.items()},
        "runs": [asdict(run) for run in runs],
    }


def _spreads(runs: Sequence[Simulated]) -> dict[str, list[float]]:
    """The figures of all runs by their names; a server's carry its scope."""
    rows = [_figures(run) for run in runs]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _figures(run: Simulated) -> dict[str, float]:
    figures = {name: float(getattr(run, name)) for name in _COUNTED}
    figures |= {name: getattr(run, name).worth for name in ("initial", "chosen", "best")}
    for use in run.uses:
        scope = use.attribution.scope
        figures |= {f"in flight, {scope}": use.mean_in_flight, f"utilisation, {scope}": use.utilisation}
        figures |= {f"quota of {dimension}, {scope}": share for dimension, share in use.quota.items()}
    return figures


# -- lines for people --------------------------------------------------------------------------------------------------


def _title(config: Config, run: Simulated, seeds: str) -> str:
    optimizer = config.optimizer
    options = [f"lag {getattr(optimizer, 'lag', 0)}"]
    named = {name: getattr(optimizer, name, None) for name in ("quorum", "racing")}
    options += [f"{name} {value:g}" for name, value in named.items() if value is not None]
    return f"{run.task} with {run.optimizer}, {run.steps} steps, {', '.join(options)}, {seeds}: simulated"


def _run_lines(config: Config, run: Simulated) -> list[str]:
    usd = "" if not run.usd else f", ${run.usd:.4f}"
    stopped = f", {run.stopped} stopped early" if run.stopped else ""
    lines = [
        _title(config, run, f"seed {run.seed}"),
        "",
        f"ends after {run.seconds:.1f} s with {run.calls} calls, {run.cache_hits} cache hits, {run.tokens} tokens{usd}",
    ]
    for use in run.uses:
        lines += _use_lines(use, alone=len(run.uses) == 1)
    lines += ["", f"candidates tried: {run.candidates}{stopped}; true {run.measure}:"]
    lines += [_tried_line(title, getattr(run, title), run) for title in ("initial", "chosen", "best")]
    regret = f"{100 * run.regret:.1f} points" if run.measure == "accuracy" else f"{run.regret:.3f}"
    lines.append(f"regret   {regret}")
    return lines


def _use_lines(use: Use, *, alone: bool) -> list[str]:
    name = "" if alone else f"{codec.printable(use.attribution.scope, 60)}: "
    parts = [f"{use.mean_in_flight:.1f} in flight on average, {use.most_in_flight} at most"]
    parts.append(f"{100 * use.utilisation:.0f} % of the places")
    parts += [f"{100 * share:.0f} % of the {dimension.replace('_', ' ')}" for dimension, share in use.quota.items()]
    return [name + ", ".join(parts), *(name + line for line in attribution_lines([use.attribution]))]


def _tried_line(title: str, tried: Tried, run: Simulated) -> str:
    step = "start" if tried.step < 0 else f"step {tried.step + 1}"
    return f"{title:8} {_worth(tried.worth, run)}  [{step}]  {codec.printable(tried.candidate, 160) or '(empty)'}"


def _worth(worth: float, run: Simulated) -> str:
    return f"{100 * worth:5.1f} %" if run.measure == "accuracy" else f"{worth:.3f}"


def _spread_lines(config: Config, runs: Sequence[Simulated]) -> list[str]:
    seeds = f"seeds {runs[0].seed} to {runs[-1].seed}"
    rows = [
        f"{name:32} {median(values):12.6g}   {min(values):.6g} to {max(values):.6g}"
        for name, values in _spreads(runs).items()
    ]
    return [_title(config, runs[0], seeds), "", f"{'':32} {'median':>12}   range", *rows]
