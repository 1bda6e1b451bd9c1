"""Options of a task's table in the configuration: which there are, and what they change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from asyncopt.answers import ANSWERS
from asyncopt.errors import ConfigError
from asyncopt.tasks.task import Position, Task, position_template
from asyncopt.templates import compiled

COMMON = (
    "template",
    "initial",
    "max_tokens",
    "position",
    "frame",
    "temperature",
    "answers",
    "final_answer_cue",
    "classes",
)

Choice = TypeVar("Choice")

_MARKS = ("@instruction@", "@input@")


def check_names(task: str, options: Mapping[str, object], known: Iterable[str]) -> None:
    """Raise :class:`ConfigError` for an option that the task does not have; the message names the nearest one."""
    known = tuple(known)
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{task} has no option {name!r}; {meant}it has {', '.join(known)}")


def with_options(task: Task, options: Mapping[str, object], own: Iterable[str] = ()) -> Task:
    """The task with its common options applied; ``own`` are options that its loader has dealt with.

    ``template`` is Jinja with ``instruction`` and ``input``, and ``position`` and ``frame`` name one of the paper's
    instead. ``initial`` is one starting instruction or several. ``temperature`` and ``max_tokens`` are the scorer's.
    ``classes`` are two texts or more, each with the verbalizers of one class as ``yes|Yes``, or none.
    """
    check_names(task.name, options, (*COMMON, *own))
    changes: dict[str, Any] = _template(task.name, options)
    if "initial" in options:
        changes["initial"] = _initial(task.name, options["initial"])
    if "max_tokens" in options:
        changes["max_tokens"] = _max_tokens(task.name, options["max_tokens"])
    if "temperature" in options:
        changes["temperature"] = _temperature(task.name, options["temperature"])
    if "answers" in options:
        changes["answers"] = _one_of(task.name, "answers", options["answers"], ANSWERS)
    if "final_answer_cue" in options:
        changes["final_answer_cue"] = text_option(task.name, options, "final_answer_cue", "")
    if "classes" in options:
        changes["classes"] = _classes(task.name, options["classes"])
    return replace(task, **changes) if changes else task


def text_option(task: str, options: Mapping[str, object], name: str, default: str) -> str:
    """The text of an option, or the default; raises :class:`ConfigError` for another value than a text."""
    value = options.get(name, default)
    if not isinstance(value, str):
        raise wrong_option(task, name, value, "a text")
    return value


def _template(task: str, options: Mapping[str, object]) -> dict[str, Any]:
    if "template" in options:
        if "position" in options or "frame" in options:
            raise ConfigError(f"{task} has both a template and a position or frame; give one of them")
        template = text_option(task, options, "template", "")
        _check_template(task, template)
        return {"template": template}
    if "position" not in options and "frame" not in options:
        return {}
    position = _one_of(task, "position", options.get("position", "Q_begin"), get_args(Position))
    frame = options.get("frame", False)
    if not isinstance(frame, bool):
        raise wrong_option(task, "frame", frame, "true or false")
    return {"template": position_template(position, frame=frame), "position": position, "frame": frame}


def _check_template(task: str, template: str) -> None:
    render = compiled(template)
    try:
        prompt = render(instruction=_MARKS[0], input=_MARKS[1])
    except Exception as error:  # a template can raise anything; better before the first call than at it
        raise ConfigError(f"the template of {task} cannot be rendered: {error}; it has instruction and input") from None
    for mark in _MARKS:
        if mark not in prompt:
            raise ConfigError(f"the template of {task} never shows {{{{ {mark.strip('@')} }}}}; it needs both of them")


def _initial(task: str, value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise wrong_option(task, "initial", value, "a text or a list of texts")
    return texts


def _classes(task: str, value: object) -> tuple[str, ...]:
    texts = tuple(value) if isinstance(value, list | tuple) else ("",)
    if len(texts) == 1 or not all(isinstance(text, str) for text in texts):
        raise wrong_option(
            task, "classes", value, "a list of two texts or more, such as ['yes|Yes', 'no|No'], or of none"
        )
    return texts


def _one_of(task: str, name: str, value: object, choices: Sequence[Choice]) -> Choice:
    for choice in choices:
        if value == choice:
            return choice
    raise wrong_option(task, name, value, f"one of {', '.join(map(str, choices))}")


def _temperature(task: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise wrong_option(task, "temperature", value, "a number of at least 0")
    return float(value)


def _max_tokens(task: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong_option(task, "max_tokens", value, "an integer of at least 1")
    return value


def wrong_option(task: str, name: str, value: object, wanted: str) -> ConfigError:
    """The error for an option's value, which says what was found and what was wanted."""
    return ConfigError(f"the option {name} of {task} is {value!r}; it must be {wanted}")
