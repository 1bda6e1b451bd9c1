"""``asyncopt ctl``: a run or sweep that goes on is asked how it does, paused, resumed, stopped, or set otherwise."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.ctl import ACTIONS, ask, check_request
from asyncopt.errors import ConfigError

_SAID = ("state", "endpoints", "pid", "best", "workers", "degraded")  # in lines of their own


def control(directory: Path, action: str, setting: str | None, *, json: bool) -> None:
    """Send one request to the run in ``directory`` and print the state it is in then.

    ``setting`` is such as ``concurrency=8`` for the action ``set``, else None.
    """
    answer = asyncio.run(ask(directory, request_of(action, setting)))
    if json:
        sys.stdout.write(codec.json_line(answer))
        return
    print("\n".join(lines_of(answer)))


def request_of(action: str, setting: str | None) -> dict[str, Any]:
    """The request in these words of the command line."""
    if action not in ACTIONS:
        raise ConfigError(f"ctl got {codec.printable(action, 40)!r}; wanted one of {', '.join(ACTIONS)}")
    if action != "set":
        if setting is not None:
            raise ConfigError(f"ctl {action} takes nothing else; got {codec.printable(setting, 40)!r}")
        return {"do": action}
    name, _, number = (setting or "").partition("=")
    # More digits than any limit has: neither Python nor JSON takes them for a number.
    if name.strip() != "concurrency" or not (number.isascii() and number.isdigit() and len(number) < 10):
        raise ConfigError(f"ctl set got {codec.printable(setting or '', 40)!r}; wanted such as concurrency=8")
    request = {"do": "set", "concurrency": int(number)}
    check_request(request)
    return request


def lines_of(answer: Mapping[str, Any]) -> list[str]:
    """The state of a run, for people."""
    figures = {name: value for name, value in answer.items() if name not in _SAID}
    shown = " · ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in figures.items())
    lines = [f"{answer.get('state')} (process {answer.get('pid')})", shown]
    if answer.get("workers") is not None:
        lines.append(_of_workers(answer["workers"], answer.get("degraded")))
    if answer.get("best"):
        lines.append(f"best: {answer['best']}")
    for one in answer.get("endpoints", ()):
        lines.append(
            f"{one['scope']}: {one['in_flight']}/{one['concurrency']} in flight, {one['queued']} queued, "
            f"limited by {one['limiting']}"
        )
    return [codec.printable(line, 400) for line in lines]


def _of_workers(workers: int, degraded: str | None) -> str:
    if degraded is None:
        return f"the quota is shared by {workers}"
    return f"the shared quota is lost ({degraded}): this process keeps to one part of {workers}"


def _figure(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
