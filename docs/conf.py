"""How Sphinx builds these pages: ``sphinx-build -W -n -b html docs build/docs``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from asyncopt import __version__  # noqa: E402 - of this checkout, wherever it is built

project = "asyncopt"
copyright = "the authors of asyncopt; Apache-2.0"  # noqa: A001 - Sphinx's name for it
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "command_reference"]
html_theme = "furo"
html_title = f"asyncopt {release}"
myst_heading_anchors = 3
# A diagram or a shortened line of a file is no program, whatever its block is called.
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the types stand in the source, and half of them are private names that would lead nowhere
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
# Docstrings also name modules and names that have no entry here; every other reference must lead somewhere.
nitpick_ignore = [
    ("py:mod", "asyncopt.metrics"),
    ("py:mod", "asyncopt.optimizers.comparing"),
    ("py:mod", "asyncopt.tasks.sources"),
    ("py:class", "asyncopt.cache.Cache"),
    ("py:func", "signature"),
    ("py:attr", "fault"),
    *(("py:class", name) for name in ("BadRequest", "ConfigError", "Cut", "DataError", "StudyFailed")),
    *(("py:attr", f"Capabilities.{name}") for name in ("extra", "grammar")),
]
