"""What users rely on: names, signatures, and what an import costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

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
    assert not loaded_by("import asyncopt") & set(HEAVY)


def test_the_command_line_loads_only_what_it_shows() -> None:
    assert not loaded_by("import asyncopt.cli.app") & (set(HEAVY) - {"typer", "rich"})


def test_the_package_changes_nothing_global() -> None:
    code = (
        "import asyncio, gc, logging, signal\n"
        "look = lambda: (type(asyncio.get_event_loop_policy()), gc.get_threshold(), logging.getLogger().handlers,"
        " logging.getLogger().level, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))\n"
        "before = look()\nimport asyncopt, asyncopt.cli.app, asyncopt.cli.run\nassert look() == before"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
