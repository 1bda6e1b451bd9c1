"""The files of the page: one set for the live page and the report, with no build step before a browser gets them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

STYLES = ("uPlot.min.css", "page.css")
# In this order: plain scripts that share one scope, the last of which starts the page.
SCRIPTS = (
    "uPlot.iife.min.js",
    "dom.js",
    "numbers.js",
    "diff.js",
    "charts.js",
    "score.js",
    "timeline.js",
    "candidates.js",
    "matrix.js",
    "sections.js",
    "compare.js",
    "sources.js",
    "page.js",
)
TEMPLATE = "page.html.j2"


@cache
def asset(name: str) -> str:
    """The text of one of :data:`STYLES` or :data:`SCRIPTS`; for another name it raises :class:`KeyError`.

    Other names never reach a path, so that a server may pass on what it was asked for.
    """
    if name not in (*STYLES, *SCRIPTS, TEMPLATE):
        raise KeyError(name)
    return files("asyncopt.pages").joinpath("assets", name).read_text(encoding="utf-8")


def live_page() -> str:
    """The HTML of the live page, which asks for its assets at ``assets/NAME`` and for its data at ``api/``.

    It needs ``default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:``.
    """
    return render(title="asyncopt")


def render(**values: object) -> str:
    """The page's HTML; every value is escaped but ``style`` and ``script``, which are ours, and ``data``, which must be
    what :func:`~asyncopt.pages.report.embedded` gives.
    """
    from jinja2 import Environment  # a tenth of a second, for those who look at pages alone
    from markupsafe import Markup

    # Inside these elements nothing is unescaped by a browser; this is the one place where anything goes in as it is.
    names = [name for name in ("style", "script", "data") if name in values]
    whole = {name: Markup(str(values[name])) for name in names}  # noqa: S704 - our own files, and JSON without < > &
    template = Environment(autoescape=True).from_string(asset(TEMPLATE))
    return template.render(linked_styles=STYLES, linked_scripts=SCRIPTS, **(values | whole))
