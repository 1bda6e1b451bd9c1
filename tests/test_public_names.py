"""What users rely on: names, signatures, and what an import costs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import asyncopt

NAMES = [
    "OPRO", "Assessment", "AsyncoptError", "Budget", "BudgetExhausted", "Cache", "CallFailed", "Completion", "ConfigError", "Engine",
    "Evaluation", "Example", "Fault", "Floor", "Generate", "MemoryCache", "Message", "Model", "Price", "Priority", "Quota",
    "RandomSearch", "Result", "Sampling", "SqliteCache", "Study", "Task", "Usage", "__version__", "evaluate",
    "evaluate_instructions", "load_run",
]  # fmt: skip
HEAVY = [
    "scipy",
    "rich",
    "typer",
    "matplotlib",
    "jinja2",
    "numpy",
    "pydantic",
    "redis",
    "opentelemetry",
    "xllamacpp",
    "gguf",
]


def test_the_front_exports_these_names_and_no_others() -> None:
    assert sorted(asyncopt.__all__) == sorted(NAMES)
    assert all(hasattr(asyncopt, name) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_says_what_it_is(name: str) -> None:
    assert (inspect.getdoc(getattr(asyncopt, name)) or "").strip()


def test_the_signatures_that_others_build_on() -> None:
    assert list(inspect.signature(asyncopt.Quota).parameters)[:3] == [
        "requests_per_minute",
        "tokens_per_minute",
        "concurrency",
    ]
    assert {"base_url", "api_key", "quota"} <= set(inspect.signature(asyncopt.Engine.model).parameters)
    assert {"task", "optimizer", "scorer", "proposer", "budget", "directory"} <= set(
        inspect.signature(asyncopt.Study).parameters
    )
    assert list(inspect.signature(asyncopt.Budget).parameters) == ["calls", "tokens", "usd", "seconds"]


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {module.split(".")[0] for module in done.stdout.split()}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("from asyncopt import *") & set(HEAVY)


def test_the_front_imports_what_its_type_checker_reads() -> None:
    tree = ast.parse(Path(asyncopt.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    read = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert read == asyncopt._MODULE_OF
    assert set(dir(asyncopt)) >= set(NAMES)
    with pytest.raises(AttributeError, match="no attribute 'Optimiser'"):
        asyncopt.Optimiser  # noqa: B018  # the access is what is tested


def test_the_command_line_loads_only_what_it_shows() -> None:
    loaded = loaded_by("import asyncopt.cli.app, asyncopt.cli.signals, asyncopt.cli.keys")
    assert not loaded & ({*HEAVY, "aiohttp", "anyio", "sqlite3"} - {"typer", "rich"})


def test_the_package_changes_nothing_global() -> None:
    code = (
        "import asyncio, gc, logging, signal\n"
        "look = lambda: (type(asyncio.get_event_loop_policy()), gc.get_threshold(), logging.getLogger().handlers,"
        " logging.getLogger().level, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))\n"
        "before = look()\nimport asyncopt, asyncopt.cli.app, asyncopt.cli.run\nassert look() == before"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
