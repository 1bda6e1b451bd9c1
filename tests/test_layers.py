"""Imports go down only, and never in a circle; read from the source, so that a lazy import counts too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "asyncopt"

LAYERS: dict[str, int] = {
    "values": 0, "events": 0, "errors": 0, "codec": 0, "identity": 0, "templates": 0, "loops": 0, "version": 0,
    "files": 0, "notebook": 0, "download": 1,
    "limits": 1, "redislink": 1, "shared": 1, "endpoints": 1, "cache": 1, "tasks": 1, "answers": 1, "stats": 1, "racing": 1, "published": 1, "metrics": 1, "prices": 1,
    "calls": 2, "callqueue": 2, "control": 2, "hedging": 2, "ticker": 2, "dispatch": 2, "engine": 2,
    "bulk": 2, "underway": 2, "model": 2, "pool": 2, "pump": 2, "workers": 2, "verdicts": 2, "lookups": 2, "flights": 2,
    "evaluation": 3, "outcomes": 3, "baselines": 3, "optimizers": 3,
    "assess": 4, "batches": 4, "journal": 4, "directory": 4, "result": 4, "chronicle": 4, "scoring": 4, "study": 4, "config": 4, "modelconfig": 4,
    "sweep": 4, "proxy": 4, "sweepfile": 4, "repetitions": 4, "contest": 4, "configs": 4,
    "records": 4, "activity": 4, "ctl": 4, "view": 4, "pages": 4, "telemetry": 4, "forecast": 4,
    "local": 5, "cluster": 5,
    "cli": 6, "__main__": 6,
}  # fmt: skip
FRONT = "__init__"  # the package's front re-exports; nothing inside imports it
USERS_OF_TESTING = ("cli.serve", "cli.simulate", "cli.compare_optimizers")  # `asyncopt simulate`, `compare --simulated`


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__") or FRONT] = path
    return found


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "asyncopt")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they go"
            if node.module is not None and node.module.split(".")[0] == "asyncopt":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def targets(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports."""
    found = set()
    for name in imports(path):
        parts = name.split(".")[1:]
        while parts and ".".join(parts) not in known:
            parts.pop()
        found.add(".".join(parts) or FRONT)
    return found


def room(module: str) -> str:
    return module.split(".")[0]


MODULES = modules()
GRAPH = {module: targets(path, MODULES) for module, path in MODULES.items()}


def test_every_room_has_a_layer() -> None:
    assert {room(module) for module in MODULES} - {FRONT, "testing"} == set(LAYERS)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {FRONT}))
def test_imports_go_down(module: str) -> None:
    for target in GRAPH[module]:
        assert target != FRONT, f"{module} imports the package's front"
        if room(target) == "testing":
            assert room(module) == "testing" or module in USERS_OF_TESTING
        elif room(module) != "testing":
            assert LAYERS[room(target)] <= LAYERS[room(module)], f"{module} imports {target}, which is above it"


def test_there_is_no_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(GRAPH[module] - {FRONT, module}):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(set(MODULES) - {FRONT}):
        visit(module, ())


def test_only_the_edge_talks_to_the_network() -> None:
    allowed = ("endpoints.http", "download", "local.server", "testing", "view", "proxy.server")
    for module, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        if "import aiohttp" in text or "from aiohttp" in text:
            assert module.startswith(allowed), f"{module} imports aiohttp"


def test_files_and_functions_stay_small() -> None:
    for module, path in MODULES.items():
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 400, f"{module} is too long"
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno <= 60, f"{module}.{node.name} is too long"
