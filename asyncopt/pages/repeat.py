"""The command that makes a run again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from asyncopt import codec
from asyncopt.config import check
from asyncopt.errors import ConfigError
from asyncopt.records import Run

_BARE = re.compile(r"(?!(true|false|inf|nan)$)[A-Za-z/~][A-Za-z0-9_./:~-]*")  # what TOML takes for nothing else
_NOT_SAID = ("trace", "use_cache", "cache")  # they decide nothing


def command(run: Run) -> str | None:
    """A command line that repeats the run with everything that decides its result; None for one of a program.

    Settings that are what they would be anyway are left out. Keys are in no manifest, and so in no command. A fork is
    forked again from its parent: under its own settings alone its first steps would be others.
    """
    task = run.config.get("task")
    if not isinstance(task, Mapping) or "name" not in task:
        return None
    parent = _table(run.manifest.get("parent")).get("path")
    # A fork has its parent's settings where nothing is said, and not the usual ones.
    usual = {} if parent else dict(_flat(_usual(run.config)))
    said = [(key, value) for key, value in _flat(run.config) if key not in _NOT_SAID and usual.get(key) != value]
    settings = [f"{key}={_plain(value)}" for key, value in said if key != "task.name"]
    begin = ["resume", str(parent), "--fork", "NEW-DIRECTORY"] if parent else ["run", str(task["name"])]
    words = ["asyncopt", *begin, *(word for setting in settings for word in ("--set", setting))]
    return " ".join(shlex.quote(codec.clean(word)) for word in words)


def _usual(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with nothing stated but which task, optimizer and models there are.

    Empty for the embedded model, whose settings have other defaults than everybody's.
    """
    models = {role: {"model": one["model"]} for role, one in config.get("models", {}).items()}
    if any(one["model"] == "local" or str(one["model"]).endswith(".gguf") for one in models.values()):
        return {}
    name = config.get("optimizer", {}).get("name", "opro")
    with suppress(ConfigError):
        plain = {"task": {"name": config["task"]["name"]}, "optimizer": {"name": name}, "models": models}
        usual = check(plain, "the manifest").to_plain()
        # These must be said for the command to name the same ones.
        usual["optimizer"].pop("name", None)
        for one in usual["models"].values():
            one.pop("model", None)
        return usual
    return {}


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and _BARE.fullmatch(value) else codec.dumps(value).decode()
