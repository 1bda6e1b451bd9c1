"""A report: runs, or a comparison of runs, as one HTML file that asks for nothing from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from asyncopt import codec
from asyncopt.pages.assets import SCRIPTS, STYLES, asset, render

# Inside a script element only these end it, or are line breaks to old parsers; JSON has another spelling for each.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ESCAPED = str.maketrans(_ESCAPES)


def report_html(
    documents: Sequence[Mapping[str, Any]],
    comparison: Mapping[str, Any] | None = None,
    against: Mapping[str, Any] | None = None,
    contests: Mapping[str, Any] | None = None,
) -> str:
    """The HTML of a report on these :func:`~asyncopt.pages.document.document` values, the first of them shown first.

    ``comparison`` is of :func:`~asyncopt.pages.comparing.comparison`; ``against`` has ``lines`` of a table of published
    results, and ``contests`` those of comparisons of optimizers. Its policy lets nothing be loaded, and runs our script
    alone: by its hash.
    """
    style, script = ("\n".join(asset(name) for name in names) for names in (STYLES, SCRIPTS))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    data = {"documents": documents, "comparison": comparison, "against": against, "contests": contests}
    names = [str(one["head"]["task"]) for one in documents]
    title = f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else "".join(names)
    return render(title=codec.clean(title), csp=policy, style=style, script=script, data=embedded(data))


def embedded(value: Any) -> str:
    """The value as JSON that can stand in a script element; lone surrogates become U+FFFD."""
    return codec.dumps(value).decode().translate(_ESCAPED)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"
