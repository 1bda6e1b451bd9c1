"""The directive ``commands``: what every command of ``asyncopt`` says of itself, as sections of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below this one that does something, with its words."""
    for word, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{name} {word}") if hasattr(child, "commands") else [(f"{name} {word}", child)]


def said(name: str, command: Any) -> str:
    """The text that ``--help`` prints, as wide as the page's column."""
    context = command.make_context(name, [], resilient_parsing=True, terminal_width=90, max_content_width=90)
    return str(command.get_help(context))


class Commands(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        from asyncopt.cli.app import app

        sections: list[nodes.Node] = []
        for name, command in commands(typer.main.get_command(app), "asyncopt"):
            section = nodes.section(ids=[nodes.make_id(name)], names=[name])
            text = said(name, command)
            section += [nodes.title(text=name), nodes.literal_block(text, text, language="text")]
            sections.append(section)
        return sections


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
