"""Which display a command has: what ``--display`` and ``--json`` say, and what the terminal can show."""

from __future__ import annotations

import os
import sys
from typing import Literal, TypeAlias, get_args

from asyncopt import codec
from asyncopt.cli.display import Display, JsonDisplay, NoDisplay
from asyncopt.cli.display_rich import RichDisplay
from asyncopt.errors import ConfigError

_FIXED = ("dumb", "unknown")  # values of TERM where no cursor moves, so that rich would show nothing of a panel

ShownAs: TypeAlias = Literal["rich", "plain", "json", "none"]


def shown_as(display: str | None, *, json: bool = False) -> ShownAs:
    """What ``--display`` and ``--json`` ask for; by default, and instead of a panel, what standard error can show."""
    ways: dict[str, ShownAs] = {way: way for way in get_args(ShownAs)}
    if display is not None and display not in ways:
        raise ConfigError(f"--display is {codec.printable(display, 40)!r}; it must be one of {', '.join(ways)}")
    if json and display not in (None, "json"):
        raise ConfigError(f"--json is --display json, and --display {display} was given as well; leave one of them out")
    if json:
        return "json"
    way = "rich" if display is None else ways[display]
    movable = sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in _FIXED
    return "plain" if way == "rich" and not movable else way


def choose_display(shown: ShownAs) -> Display:
    """The display of this name."""
    displays: dict[ShownAs, type[Display]] = {
        "rich": RichDisplay,
        "plain": Display,
        "json": JsonDisplay,
        "none": NoDisplay,
    }
    return displays[shown]()
