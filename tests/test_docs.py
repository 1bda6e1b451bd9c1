"""Every block of the documentation does what it says: it is run, read by what it is for, or says why it is not.

Blocks of a page are run in order in a fresh directory: Python ones share a namespace, console and bash ones a shell's
environment. Where they ask a server, ``http://127.0.0.1:8000/v1``, that is the simulated API on another port, which
knows the examples that the pages write into their files.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from asyncopt.config import check
from asyncopt.files import cache_folder
from asyncopt.testing import AnswerModel, Constant, Item, SimulatedAPI
from asyncopt.testing.process import known_items
from tests.blocks import ALL, DATA, PAGES, ROOT, Block, blocks_of, commands_of, pattern, words_of

ADDRESS = "http://127.0.0.1:8000/v1"
RUN = ("python", "console", "bash")
SECONDS = 120


def items() -> dict[str, Item]:
    """The bundled tasks' examples, and those of every JSONL file that a page writes."""
    known = known_items(None)
    for block in ALL:
        if block.marker == "file" and block.said.endswith(".jsonl"):
            for row in map(json.loads, block.text.splitlines()):
                target = str(row["target"])
                kind = "number" if target.isdigit() else "text"
                known[f"{block.said}: {row['input']}"] = Item(row["input"], target, kind)
    return known


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The base URL of a simulated API in a thread of its own, as the blocks run loops of their own."""
    ready: list[str] = []
    started, ended = threading.Event(), asyncio.Event()

    async def main() -> None:
        api = SimulatedAPI(latency=Constant(0.001), answers=AnswerModel(0, items()))
        async with api.serve() as url:
            ready.append(url)
            loop.append(asyncio.get_running_loop())
            started.set()
            await ended.wait()

    loop: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert started.wait(SECONDS)
    yield ready[0]
    loop[0].call_soon_threadsafe(ended.set)
    thread.join(SECONDS)


class Reader:
    """Somebody who follows a page in a fresh directory."""

    def __init__(self, directory: Path, server: str, cache: Path | None = None) -> None:
        self.directory = directory
        self.server = server
        self.names: dict[str, Any] = {"__name__": "page"}
        self.printed = ""
        kept = {name: value for name, value in os.environ.items() if not name.endswith(("_KEY", "_TOKEN"))}
        here = str(Path(sys.executable).parent)
        own = {"PATH": f"{here}{os.pathsep}{kept.get('PATH', '')}", "COLUMNS": "120", "NO_COLOR": "1"}
        self.environment = {**kept, **own, "ASYNCOPT_CACHE_DIR": str(cache or directory / ".cache")}

    def follow(self, block: Block) -> None:
        text = block.text.replace(ADDRESS, self.server)
        if block.marker == "file":
            self.directory.joinpath(block.said).write_text(text, encoding="utf-8")
        elif block.marker == "prints":
            assert pattern(block.text).fullmatch(self.printed), f"{block.place} shows otherwise:\n{self.printed}"
        elif block.language == "python":
            # The lines of the page in tracebacks.
            code = compile("\n" * block.line + text, str(block.page), "exec", dont_inherit=True)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, self.names)  # noqa: S102 - our own documentation
            self.printed = out.getvalue()
        elif block.language in ("console", "bash"):
            for command in commands_of(block):
                self._command(block, command.text.replace(ADDRESS, self.server), command.shown)

    def _command(self, block: Block, command: str, shown: str | None) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        said = done.stdout.replace(self.server, ADDRESS)
        assert done.returncode == 0, f"{block.place}: {command}\n{said}\n{done.stderr}"
        assert shown is None or pattern(shown).fullmatch(said), f"{block.place}: {command} prints otherwise:\n{said}"


def runs(block: Block) -> bool:
    return block.marker in ("", "file", "prints")


@pytest.mark.real
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_in_order(
    page: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    reader = Reader(tmp_path, server)
    for block in blocks_of(page):
        if runs(block):
            reader.follow(block)


@pytest.mark.real
@pytest.mark.local
def test_the_blocks_for_the_embedded_model_run(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    for number, block in enumerate(block for block in ALL if block.marker == "local"):
        directory = tmp_path / str(number)
        directory.mkdir()
        Reader(directory, ADDRESS, cache_folder()).follow(block)


def test_every_block_is_run_or_read_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = [block for block in ALL if block.marker == "not run"]
    silent = [block.place for block in skipped if not block.said]
    unknown = [
        f"{block.place} ({block.language or 'no language'})"
        for block in ALL
        if not block.marker and block.language not in (*RUN, *DATA, "toml")
    ]
    run = [block for block in ALL if runs(block) and block.language in RUN]
    with capsys.disabled():
        print(f"\n{len(ALL)} blocks in the documentation: {len(run)} are run, {len(skipped)} say why they are not")
    assert not silent, "say why, as in <!-- not run: it needs a key -->"
    assert not unknown, "give them a language that is run, or say before them why they are not: <!-- not run: ... -->"


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "toml"], ids=lambda block: block.place)
def test_every_configuration_can_be_read(block: Block) -> None:
    tables = tomllib.loads(block.text)
    if "tasks" in tables:
        from asyncopt.sweepfile import SweepFile

        SweepFile.model_validate({"name": "a sweep", **tables})
        return
    if "project" in tables or "build-system" in tables:
        return
    check({"task": {"name": "antonym"}, **tables})


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "json"], ids=lambda block: block.place)
def test_every_line_of_json_is_json(block: Block) -> None:
    for line in block.text.splitlines():
        json.loads(line)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words that are left."""
    from asyncopt.cli.app import app

    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and re.fullmatch("[a-z]+", words[0]):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_option_that_is_written_exists(page: Path) -> None:
    for block in blocks_of(page):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = words_of(line)
            if not words:
                continue
            command, rest = command_of(words)
            known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
            given = {word.partition("=")[0] for word in rest if re.match("--?[a-z]", word)}
            assert given <= known, f"{block.place}: asyncopt {' '.join(words)}: no option {sorted(given - known)}"


def test_only_extras_that_exist_are_to_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for extras in re.findall(r"(?:asyncopt|['\" ]\.)\[([a-z,]+)\]", text):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), f"{page.name}: {extras}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_shown_output_is_compared_but_for_what_is_left_out() -> None:
    assert pattern("a ... c\n...").fullmatch("a  b\nc\nand more\n")
    assert not pattern("a ... c").fullmatch("a b d")
    assert not pattern("a").fullmatch("a and more")
    shown = Block(ROOT / "README.md", 1, "console", "$ one \\\n  two\nout\n$ three\n")
    assert [(one.text, one.shown) for one in commands_of(shown)] == [("one \\\n  two", "out"), ("three", None)]
    assert words_of("asyncopt ctl DIR pause|resume  the same  # not this") == ["ctl", "DIR", "pause", "resume"]
