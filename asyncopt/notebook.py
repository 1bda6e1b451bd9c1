"""How values are shown in notebooks: as HTML in which every text is text, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from asyncopt.codec import printable

_LONGEST = 500  # characters of a cell


def html_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values with a title; texts are escaped, put on one line, and cut to 500 characters."""
    body = "".join(
        f'<tr><th style="text-align:left">{_cell(name)}</th><td style="text-align:left">{_cell(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption>{_cell(title)}</caption>{body}</table>"


def _cell(text: str) -> str:
    return escape(printable(text, _LONGEST))
