"""The fenced blocks of the documentation, and how each of them is held to what it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

DATA = ("text", "json", "diff", "mermaid")  # nothing that could be run
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`]*)$")
_MARKER = re.compile(r"^<!-- (?P<name>not run|local|file|prints)(?:: (?P<said>.*\S))? -->$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it begins, its language and text, and the comment before it that says how it is held.

    ``not run`` says why it is not; ``local`` is run where the embedded model is; ``file`` is written to the file that it
    names; ``prints`` is what the Python block before it printed.
    """

    page: Path
    line: int
    language: str
    text: str
    marker: str = ""
    said: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page in order, without Sphinx's directives."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    before = ""
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence is None:
            before = line.strip() or before
            continue
        text = []
        for _, inner in lines:
            if inner.strip() == fence["fence"]:
                break
            text.append(inner.removeprefix(fence["indent"]))
        words = fence["info"].split()
        language = words[0] if words else ""
        marker = _MARKER.match(before)
        before = ""
        if not language.startswith("{"):
            name, said = (marker["name"], marker["said"] or "") if marker else ("", "")
            yield Block(page, number, language, "\n".join(text) + "\n", name, said)


ALL = [block for page in PAGES for block in blocks_of(page)]


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block, and what it is shown to print (None: nothing is shown)."""

    text: str
    shown: str | None


def commands_of(block: Block) -> list[Command]:
    """The commands of a ``console`` block, each after ``$``, or the whole of a ``bash`` block as one."""
    if block.language != "console":
        return [Command(block.text, None)]
    found: list[tuple[str, list[str]]] = []
    going_on = False
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif not found:
            raise ValueError(f"{block.place}: a console block begins with a command after $")
        elif going_on:
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        else:
            found[-1][1].append(line)
        going_on = line.endswith("\\") and not found[-1][1]
    return [Command(text, "\n".join(output) if output else None) for text, output in found]


def pattern(shown: str) -> re.Pattern[str]:
    """What the output must match: ``...`` stands for anything, runs of blanks for each other."""
    parts = [r"\s+".join(map(re.escape, part.split())) for part in shown.split("...")]
    return re.compile(r"\s*" + r"[\s\S]*?".join(rf"\s*{part}\s*" for part in parts) + r"\s*")


def words_of(line: str) -> list[str]:
    """The words of an ``asyncopt`` command in a line, as far as they are one; empty where there is none."""
    line = line.removeprefix("$ ")
    if not line.startswith("asyncopt "):
        return []
    line = re.split(r"\s{2,}|\s#|\s[>|&]", line)[0].replace("|", " ").replace("[", " ").replace("]", " ")
    try:
        return shlex.split(line)[1:]
    except ValueError:
        return line.split()[1:]
