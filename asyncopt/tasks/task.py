"""What instructions are searched for: examples in three splits, how a prompt is rendered and an answer graded."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

from asyncopt.answers import ANSWERS, KINDS, Answers, Kind, grade, parse
from asyncopt.errors import ConfigError
from asyncopt.templates import compiled

Split: TypeAlias = Literal["train", "validation", "test"]
Position: TypeAlias = Literal["before_Q", "Q_begin", "Q_end", "A_begin"]
Fold: TypeAlias = Literal["train", "validation", "test", "all"]

# OPRO, section 5.1 and appendix B: where the instruction stands in the scorer's prompt, without and with the Q/A frame.
# An empty instruction drops its line. `before_Q` and `A_begin` need the frame: without it they have no place to be.
_INSTRUCTION_LINE = "{% if instruction %}{{ instruction }}\n{% endif %}"
_PLAIN: dict[Position, str] = {
    "Q_begin": _INSTRUCTION_LINE + "{{ input }}",
    "Q_end": "{{ input }}{% if instruction %}\n{{ instruction }}{% endif %}",
}
_FRAMED: dict[Position, str] = {
    "before_Q": _INSTRUCTION_LINE + "Q: {{ input }}\n\nA:",
    "Q_begin": "Q: " + _INSTRUCTION_LINE + "{{ input }}\n\nA:",
    "Q_end": "Q: {{ input }}{% if instruction %}\n{{ instruction }}{% endif %}\n\nA:",
    "A_begin": "Q: {{ input }}\n\nA:{% if instruction %} {{ instruction }}{% endif %}",
}


def position_template(position: Position, *, frame: bool) -> str:
    """The template of an instruction position, with or without the ``Q:``/``A:`` frame (paper, section 5.1)."""
    templates = _FRAMED if frame else _PLAIN
    if position not in templates:
        wanted = ", ".join(templates)
        raise ConfigError(f"the position {position!r} needs the Q/A frame; turn it on, or choose one of {wanted}")
    return templates[position]


def letter_classes(letters: str) -> tuple[str, ...]:
    """The classes of a multiple choice among these options, as DLN's reference code verbalizes them: ``a|A`` first."""
    return tuple(f"{letter.lower()}|{letter}" for letter in letters)


@dataclass(frozen=True, slots=True)
class Example:
    """One item: the question, the right answer, and its number in its source."""

    id: int
    input: str
    target: str


Metric: TypeAlias = Callable[[str, Example], float]  # the answer and its example to a grade from 0 to 1


@dataclass(frozen=True)
class Task:
    """A set of examples for which instructions are searched, and the rules by which a model's answer is graded.

    ``template`` is Jinja with the variables ``instruction`` and ``input``; where it is empty it is the paper's, by
    ``position`` and ``frame``. ``answers`` names the rules of grading: ``strict``, or the reference's, which its
    published scores rest on. With a ``final_answer_cue`` the scorer is called twice, as the paper does with pre-trained
    models: its first answer and the cue are appended to the prompt. ``fingerprint`` is a sha256 over the data, so that
    a resumed study can refuse changed data. ``forbid`` matches text that a candidate may not contain (digits for GSM8K;
    OPRO, section 5.1, reference code).

    ``classes`` are the answers that there are, where they are few: for each its verbalizers, the texts that may stand
    for it, as ``yes|Yes`` (Deep Language Networks). ``hidden_initial`` is where the search for the prompt of a hidden
    layer starts, as ``initial`` is for the layer that answers. ``system`` is a system message before every prompt of
    the scorer, where it is not empty.

    A ``metric`` is a function of your own that takes the place of the rules of grading: it gets the answer, which is
    whatever a model wrote, and the example, and returns a grade from 0 to 1. It runs in a thread, some at once, for at
    most ``metric_seconds`` a time (:mod:`asyncopt.metrics`). An answer for which it raises, hangs or returns anything
    else has the outcome ``metric_error`` and no score.
    """

    name: str
    kind: Kind
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    description: str = ""
    template: str = ""
    initial: tuple[str, ...] = ("",)
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    fingerprint: str = ""
    forbid: re.Pattern[str] | None = None
    position: Position = "Q_begin"
    frame: bool = False
    answers: Answers = "strict"
    final_answer_cue: str = ""
    temperature: float = 0.0
    classes: tuple[str, ...] = ()
    hidden_initial: str = ""
    metric: Metric | None = None
    metric_seconds: float = 30.0
    system: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"the task's kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        if self.answers not in ANSWERS:
            raise ConfigError(f"the task's answers are {self.answers!r}; they must be one of {', '.join(ANSWERS)}")
        if not self.fold("all") or not self.initial:
            missing = "initial instruction" if not self.initial else "examples"
            raise ConfigError(f"the task {self.name!r} has no {missing}; give at least one")
        for name, examples in (("training", self.train), ("validation", self.validation), ("test", self.test)):
            if len({example.id for example in examples}) < len(examples):
                raise ConfigError(f"two {name} examples of {self.name!r} have one id; number them apart")
        if self.metric is not None:
            _check_metric(self.name, self.metric)
        if not 0 < self.metric_seconds < math.inf:
            raise ConfigError(f"the task's metric_seconds are {self.metric_seconds}; they must be a number above 0")
        if not self.template:
            object.__setattr__(self, "template", position_template(self.position, frame=self.frame))
        for example in self.fold("all") if self.classes else ():
            self.class_of(example.target)

    @cached_property
    def _render(self) -> Callable[..., str]:
        return compiled(self.template)

    def render(self, instruction: str, text: str) -> str:
        """The scorer's prompt for this instruction and this input."""
        return self._render(instruction=instruction, input=text)

    def grade(self, answer: str, example: Example, prompt: str = "") -> float:
        """1.0 if the answer is right, else 0.0. The reference's rules look into the scorer's whole prompt.

        By the rules of grading; a task with a metric is graded by :mod:`asyncopt.metrics`, and not here.
        """
        if self.metric is not None:
            raise ConfigError(f"{self.name} has a metric of its own, by which this optimizer cannot grade; use another")
        return float(
            grade(
                self.kind,
                answer,
                example.target,
                answers=self.answers,
                prompt=prompt or example.input,
                after_cue=bool(self.final_answer_cue),
                classes=self.classes,
            )
        )

    def parse(self, answer: str) -> str:
        """What the rules of grading take for the answer in a text; empty where there is none."""
        return parse(
            self.kind, answer, answers=self.answers, after_cue=bool(self.final_answer_cue), classes=self.classes
        )

    @cached_property
    def _class_of(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for index, verbalizers in enumerate(self.classes):
            for verbalizer in map(_bare, verbalizers.split("|")):
                if not verbalizer:
                    raise ConfigError(
                        f"the class {verbalizers!r} of {self.name} has an empty text; write it as one|One"
                    )
                if found.setdefault(verbalizer, index) != index:
                    raise ConfigError(f"{verbalizer!r} is in two classes of {self.name}; leave it in one of them")
        return found

    def class_of(self, target: str) -> int:
        """The index of the class that has the target among its verbalizers, whatever their case and brackets.

        Raises :class:`ConfigError` where there is none, which the task itself rules out for its examples' targets.
        """
        index = self._class_of.get(_bare(target))
        if index is None:
            classes = ", ".join(self.classes) or "none"
            raise ConfigError(
                f"the target {target!r} is in no class of {self.name}, which are {classes}; add it to one"
            )
        return index

    def fold(self, fold: Fold) -> tuple[Example, ...]:
        """The examples of a split, or of all three."""
        if fold == "all":
            return (*self.train, *self.validation, *self.test)
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return splits[fold]

    def limited(self, limit: int | None) -> Task:
        """The same task with at most ``limit`` examples in each split."""
        if limit is None:
            return self
        if limit < 1:
            raise ConfigError(f"the limit is {limit}; it must be at least 1 example")
        return replace(self, train=self.train[:limit], validation=self.validation[:limit], test=self.test[:limit])


def _check_metric(task: str, metric: object) -> None:
    """Raise :class:`ConfigError` for what would fail on every answer, after each was paid for."""
    if not callable(metric):
        raise ConfigError(f"the metric of {task!r} is a {type(metric).__name__}; it must be a function")
    if inspect.iscoroutinefunction(metric) or inspect.iscoroutinefunction(metric.__call__):
        raise ConfigError(f"the metric of {task!r} is an async function; write it with def, it has a thread of its own")
    with suppress(ValueError):  # some functions of C say nothing of their arguments
        try:
            inspect.signature(metric).bind("", None)
        except TypeError:
            raise ConfigError(f"the metric of {task!r} must take two arguments, the answer and its example") from None


def _bare(text: str) -> str:
    return text.strip().strip("()").casefold()
