"""The README's example runs as it stands there, against the simulated API."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path

import pytest

from asyncopt.config import check
from asyncopt.testing import Constant, SimulatedAPI

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.real
def test_the_embedding_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = blocks("python")
    body = next(node for node in ast.parse(example).body if isinstance(node, ast.AsyncFunctionDef)).body
    assert body[-1].end_lineno is not None
    assert body[-1].end_lineno - body[0].lineno + 1 <= 15
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, str(README), "exec"), names)  # noqa: S102 - our own README

    async def main() -> None:
        api = SimulatedAPI(latency=Constant(0.001))
        async with api.serve() as url:
            await names["improve"](url, "any-key")  # type: ignore[operator]

    asyncio.run(main())
    printed = capsys.readouterr().out
    assert "Measured(" in printed
    assert (tmp_path / "answers.sqlite").exists()


def test_the_configuration_in_the_readme_is_one() -> None:
    import tomllib

    (text,) = blocks("toml")
    assert check(tomllib.loads(text)).task.name == "gsm8k"


def test_both_commands_are_there_and_the_continuous_integration_finds_the_second() -> None:
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("asyncopt run antonym")
    assert commands[1].endswith("-m pytest -n 2")
