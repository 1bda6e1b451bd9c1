"""From a model's answer to an instruction that may be scored, or to none (reference code, with its edges rounded)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from asyncopt.codec import clean
from asyncopt.optimizers.asking import Reading
from asyncopt.optimizers.opro.formats import MARKS
from asyncopt.tasks.task import Task

LONGEST = 500  # characters; the reference drops longer instructions
_REFERENCE_MARK = "INS"

_LABEL = re.compile(r"^(?:new |rewritten )?(?:instruction|variation|in other words|output)\s*:\s*", re.IGNORECASE)


def usable(text: str, task: Task) -> Reading:
    """The text as a candidate, unless it is empty, too long, forbidden by the task or part of the format."""
    text = polished(text)
    if not text:
        return Reading(None, "empty")
    return _read(text, task, MARKS)


def usable_faithfully(text: str, task: Task) -> Reading:
    """As the reference decides: what is empty may be scored, and what has the letters ``INS`` in it may not."""
    return _read(_capitalised(clean(text).strip().replace("**", "")), task, (_REFERENCE_MARK,))


def first_line(answer: str) -> str:
    """The first line with anything on it, words one blank apart, without a label and quotation marks."""
    lines = (" ".join(line.split()) for line in answer.splitlines())
    return _LABEL.sub("", next((line for line in lines if line), "")).strip(" \"'“”[]")


def polished(text: str) -> str:
    """The text without bold marks, control characters and outer blanks, its first letter a capital (reference code)."""
    text = "".join(char for char in clean(text).replace("**", "") if char.isprintable()).strip()
    return _capitalised(text)


def _read(text: str, task: Task, marks: Iterable[str]) -> Reading:
    if len(text) > LONGEST:
        return Reading(None, "too long")
    if any(mark in text for mark in marks):
        return Reading(None, "with a mark of the format")
    if task.forbid is not None and task.forbid.search(text):
        return Reading(None, "forbidden by the task")
    return Reading(text)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:] if len(text) > 1 else text
