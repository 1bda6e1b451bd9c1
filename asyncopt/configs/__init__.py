"""The paper's experiments as sweeps that are ready to be run: ``asyncopt sweep NAME``."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from asyncopt.errors import ConfigError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of all ready configurations, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def find(name: str) -> Path | None:
    """The file of the ready configuration of this name, or None."""
    return _FOLDER / f"{name}.toml" if name in names() else None


def path_of(name: str) -> Path:
    """The file of the ready configuration of this name; raises :class:`ConfigError` for one that there is not."""
    path = find(name)
    if path is None:
        near = get_close_matches(name, names(), n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"there is no ready configuration {name!r}; {meant}`asyncopt sweep --list` lists them")
    return path
