"""Text templates of task authors and of the package. Candidates and data rows are only ever values in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from asyncopt.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.sandbox import SandboxedEnvironment

LONGEST = 1 << 24  # characters of what one template with a loop may come to

_LINEAR = ("trim", "lower", "upper", "capitalize", "title", "length", "default", "first", "last", "tojson")
# What a prompt is put together with. Neither calls nor arithmetic, so that what comes out grows with what goes in, and
# the time does too: {{ "a" * 300000000 }} passes Jinja's own sandbox, and {% for %} in {% for %} may never end.
_ALLOWED = (
    *("Template", "TemplateData", "Output", "Name", "Const", "List", "Tuple", "Getattr", "Getitem", "Slice", "Concat"),
    *("If", "CondExpr", "Compare", "Operand", "And", "Or", "Not", "Neg", "Test", "For", "Filter"),
)


@lru_cache(maxsize=64)
def compiled(template: str) -> Callable[..., str]:
    """The render function of a task author's template; raises :class:`ConfigError` for one that is not to be used.

    A subset of Jinja, in its sandbox: variables with their attributes and slices, ``if``, ``for`` without a second one
    inside, comparisons, ``~`` and some filters. Templates come from the user, and still a task copied from elsewhere
    must not run code, nor take all memory or all time. A ``{{`` in a value stays a ``{{``.
    """
    from jinja2 import TemplateError, nodes

    environment = _environment()
    try:
        tree = environment.parse(template)
        for node in _below(tree):
            _check(node)
        made = environment.from_string(template)
    except TemplateError as error:
        raise ConfigError(f"the template cannot be read: {error}") from None
    except RecursionError:
        raise ConfigError("the template cannot be read: it is nested too deeply; take some brackets out") from None
    return _bounded(made.generate) if tree.find(nodes.For) else made.render


def packaged(package: str, name: str) -> Callable[..., str]:
    """The render function of a template file beside the code of ``package``."""
    return _packaged(files(package).joinpath(name).read_text(encoding="utf-8").rstrip("\n"))


@lru_cache(maxsize=64)
def _packaged(template: str) -> Callable[..., str]:
    return _environment().from_string(template).render


def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # No autoescape: prompts are text, and what is in them goes out as it is.
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)


def _below(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _below(child)


def _check(node: nodes.Node) -> None:
    from jinja2 import nodes

    found = type(node).__name__
    if found not in _ALLOWED:
        raise _refused(node, f"{found} of Jinja")
    if isinstance(node, nodes.Filter) and node.name not in _LINEAR:
        raise _refused(node, f"the filter {node.name}")
    if isinstance(node, nodes.For) and (node.recursive or node.find(nodes.For)):
        raise _refused(node, "a loop inside a loop")
    key = node.arg.value if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) else None
    name = node.attr if isinstance(node, nodes.Getattr) else node.name if isinstance(node, nodes.Name) else key
    if isinstance(name, str) and name.startswith("_"):
        raise _refused(node, f"the name {name}")


def _refused(node: nodes.Node, found: str) -> ConfigError:
    wanted = f"wanted variables, if, for, comparisons, ~ and the filters {', '.join(_LINEAR)}"
    return ConfigError(f"the template has {found} in line {node.lineno}, which prompts do without; {wanted}")


def _bounded(generate: Callable[..., Iterator[str]]) -> Callable[..., str]:
    """A render function that stops where a loop over one long value shows another in each of its turns."""

    def render(**values: object) -> str:
        parts, length = [], 0
        for part in generate(**values):
            length += len(part)
            if length > LONGEST:
                raise ConfigError(f"a template came to more than {LONGEST} characters; show long values outside loops")
            parts.append(part)
        return "".join(parts)

    return render
