"""Text templates of task authors and of the package. Candidates and data rows are only ever values in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files

from asyncopt.errors import ConfigError


@lru_cache(maxsize=64)
def compiled(template: str) -> Callable[..., str]:
    """The render function of a Jinja template; raises :class:`ConfigError` for one that is no template.

    Sandboxed, although templates come from the user: a task copied from elsewhere should not run code. A ``{{`` in a
    value stays a ``{{``.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    try:
        return environment.from_string(template).render
    except TemplateError as error:
        raise ConfigError(f"the template cannot be read: {error}") from None


def packaged(package: str, name: str) -> Callable[..., str]:
    """The render function of a template file beside the code of ``package``."""
    return compiled(files(package).joinpath(name).read_text(encoding="utf-8").rstrip("\n"))
