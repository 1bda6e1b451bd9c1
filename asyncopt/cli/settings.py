"""From what was typed to a checked configuration: defaults, what the models bring, the file, the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asyncopt.cli.keys import refuse_keys
from asyncopt.config import Config, check, merged, parse_budget, parse_setting, read_toml
from asyncopt.directory import MANIFEST, read_json, task_stated
from asyncopt.errors import ConfigError
from asyncopt.local import is_local
from asyncopt.redislink import is_redis
from asyncopt.shared.at import absolute_address
from asyncopt.tasks import OBJECTIVES

# A model of 135M parameters copies or drifts when it is shown scored texts, but it can paraphrase: so the embedded
# model mixes the paper's meta-prompt with rewrites and induction, in small steps that end in minutes on two cores.
LOCAL_DEFAULTS: dict[str, Any] = {
    "optimizer": {
        "steps": 10,
        "samples_per_step": 5,
        "styles": [*["rewrite"] * 10, "meta-prompt", "induction"],
        "temperature": 0.8,
        "max_tokens": 64,
    }
}
LOCAL_OTHERS: dict[str, dict[str, Any]] = {
    "ape": {},
    "paraphrase": {"optimizer": {"samples_per_step": 5, "kept": 3, "temperature": 0.8, "max_tokens": 64}},
    "evoprompt-ga": {"optimizer": {"popsize": 4, "generations": 5, "temperature": 0.8, "max_tokens": 96}},
    "evoprompt-de": {"optimizer": {"popsize": 4, "generations": 5, "temperature": 0.8, "max_tokens": 96}},
    "reflective": {"optimizer": {"steps": 10, "samples_per_step": 4, "temperature": 0.8, "max_tokens": 96}},
    "dln1": {
        "optimizer": {"steps": 6, "batch_size": 12, "prompt_samples": 6, "proposal": "rewrite", "proposal_tokens": 64}
    },
    "dln2": {
        "optimizer": {
            "steps": 4,
            "batch_size": 8,
            "prompt_samples": 4,
            "proposal": "rewrite",
            "hidden_samples": 3,
            "proposal_tokens": 64,
            "hidden_tokens": 32,
        }
    },
}
LOCAL_OBJECTIVE_DEFAULTS: dict[str, Any] = {"optimizer": {"steps": 30, "max_tokens": 64}}


def settle(
    task: str,
    flags: Mapping[str, Any],
    base_url: str | None,
    budget: str | None,
    settings: list[str],
    source: str = "the command line",
) -> Config:
    """The configuration of ``asyncopt run``; raises :class:`ConfigError` for everything that cannot be meant.

    ``source`` is what a mistake is blamed on, unless ``task`` is a file.
    """
    layers: list[Mapping[str, Any]] = []
    if task.endswith(".toml"):
        path = Path(task)
        layers.append(_relative_to(path.parent, read_toml(path)))
    else:
        layers.append({"task": {"name": task}})
    layers += [_nested(name, value) for name, value in flags.items() if value is not None]
    if budget is not None:
        layers.append({"budget": parse_budget(budget)})
    layers += [parse_setting(setting) for setting in settings]
    tables = _absolute(_with_models(merged(layers), base_url))
    return _checked(tables, task if task.endswith(".toml") else source)


def settle_resumed(
    directory: Path,
    budget: str | None,
    *,
    steps: int | None = None,
    settings: Sequence[str] = (),
    shared: str | None = None,
) -> Config:
    """The configuration that a run was started with, under another budget or quota if one is given.

    With ``steps`` or ``settings`` it is that of another run, which may begin with the steps of this one.
    """
    manifest = read_json(directory / MANIFEST)
    saved = manifest.get("config")
    if not isinstance(saved, dict) or not saved:
        raise ConfigError(f"{directory} was not started from the command line; resume it with the same Study")
    layers = [saved] if budget is None else [saved, {"budget": parse_budget(budget)}]
    layers += [{"shared": absolute_address(shared)}] if shared is not None else []
    layers += [_nested("optimizer.steps", steps)] if steps is not None else []
    layers += [parse_setting(setting) for setting in settings]
    if _text(saved, "task", "name") == "linear-regression" and "options" not in task_stated(manifest.get("subject")):
        # An older version, to which the seed was not the repetition: that was 0 where it was not stated.
        layers.insert(0, {"task": {"repetition": 0}})
    return _checked(merged(layers), str(directory / MANIFEST))


def _checked(tables: Mapping[str, Any], source: str) -> Config:
    refuse_keys(repr(tables), f"{source} has")
    return check(tables, source)


def _relative_to(folder: Path, tables: dict[str, Any]) -> dict[str, Any]:
    """Paths in a file mean places beside the file."""
    task = tables.get("task")
    if isinstance(task, dict):
        if isinstance(task.get("data"), str):
            task["data"] = str(folder / task["data"])
        if isinstance(task.get("name"), str) and task["name"].endswith(".jsonl"):
            task["name"] = str(folder / task["name"])
    return tables


def _absolute(tables: dict[str, Any]) -> dict[str, Any]:
    """Paths as they are from anywhere, since a run may be resumed from another folder."""
    name, data, cache = tables.get("task", {}), _text(tables, "task", "data"), tables.get("cache")
    layers: list[Mapping[str, Any]] = [tables]
    if isinstance(name, Mapping) and str(name.get("name")).endswith(".jsonl"):
        layers.append({"task": {"name": os.path.abspath(str(name["name"]))}})
    if data is not None:
        layers.append({"task": {"data": os.path.abspath(data)}})
    if isinstance(cache, str) and not is_redis(cache):
        layers.append({"cache": os.path.abspath(cache)})
    shared = _text(tables, "shared")
    if shared is not None:
        layers.append({"shared": absolute_address(shared)})
    return merged(layers)


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def _with_models(tables: dict[str, Any], base_url: str | None) -> dict[str, Any]:
    """The tables with both models named as far as the task needs them, and below everything what they bring."""
    objective = _text(tables, "task", "name") in OBJECTIVES
    if _text(tables, "models", "proposer", "model") == "random":
        others = {role: table for role, table in tables["models"].items() if role != "proposer"}
        tables = merged([tables, {"optimizer": {"name": "random"}}]) | {"models": others}
    wanted = [] if objective else ["scorer"]
    if _text(tables, "optimizer", "name") != "random":
        wanted.append("proposer")
    models = _models(tables.get("models"), wanted, base_url)
    brought: dict[str, Any] = {}
    proposer = _text(models, "proposer", "model")
    if proposer is not None and is_local(proposer):
        usual = LOCAL_OBJECTIVE_DEFAULTS if objective else LOCAL_DEFAULTS
        brought = LOCAL_OTHERS.get(_text(tables, "optimizer", "name") or "", usual)
        if _text(tables, "mode") == "faithful":  # to the paper, whatever this model is good at
            brought = {}
    data = os.environ.get("ASYNCOPT_DATA")
    environment = {"task": {"data": data}} if data else {}
    return merged([environment, brought, tables]) | ({"models": models} if models else {})


def _models(stated: Any, wanted: list[str], base_url: str | None) -> dict[str, Any]:
    """The tables of the wanted models; one that is not stated is the other, or else the default."""
    if stated is not None and not isinstance(stated, Mapping):
        raise ConfigError("models is not a table; wanted [models.scorer] and [models.proposer]")
    tables = dict(stated or {})
    named = [tables[role] for role in ("scorer", "proposer") if _text(tables, role, "model")]
    for role in wanted:
        table = tables.get(role, {})
        if isinstance(table, Mapping) and "model" not in table:
            tables[role] = {**(named[0] if named else {"model": _default_model(base_url)}), **table}
    kept = {role: table for role, table in tables.items() if role in wanted or role not in ("scorer", "proposer")}
    return {role: _at(table, base_url) for role, table in kept.items()}


def _at(table: Any, base_url: str | None) -> Any:
    """The model's table with the base URL of the command line, or for ``openai/`` models of the environment."""
    if not isinstance(table, Mapping) or is_local(str(table.get("model"))):
        return table
    placed = "base_url" in table or "endpoints" in table
    if base_url is None and not placed and str(table.get("model")).startswith("openai/"):
        base_url = os.environ.get("OPENAI_BASE_URL") or None
    return table if base_url is None else {**table, "base_url": base_url}


def _text(tables: Mapping[str, Any], *path: str) -> str | None:
    value: Any = tables
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else None


def _default_model(base_url: str | None) -> str:
    if base_url is None:
        return "local"
    raise ConfigError("--base-url names a server but no model; say which one with --scorer NAME")
