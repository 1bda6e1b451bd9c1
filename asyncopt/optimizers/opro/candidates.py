"""From a model's answer to an instruction that may be scored, or to none (reference code, with its edges rounded)."""

from __future__ import annotations

import re

from asyncopt.codec import clean
from asyncopt.optimizers.opro.formats import MARKS
from asyncopt.tasks.task import Task

LONGEST = 500  # characters; the reference drops longer instructions
_REFERENCE_MARK = "INS"

_LABEL = re.compile(r"^(?:new |rewritten )?(?:instruction|variation|in other words|output)\s*:\s*", re.IGNORECASE)


def usable(text: str, task: Task) -> str | None:
    """The text as a candidate, or None where it is empty, too long, forbidden by the task or part of the format."""
    text = polished(text)
    marked = any(mark in text for mark in MARKS)
    return None if not text or marked or _refused(text, task) else text


def usable_faithfully(text: str, task: Task) -> str | None:
    """As the reference decides: what is empty may be scored, and what has the letters ``INS`` in it may not."""
    text = clean(text).strip().replace("**", "")
    text = _capitalised(text)
    return None if _REFERENCE_MARK in text or _refused(text, task) else text


def first_line(answer: str) -> str:
    """The first line with anything on it, without a label and quotation marks."""
    lines = (line.strip() for line in answer.splitlines())
    return _LABEL.sub("", next((line for line in lines if line), "")).strip(" \"'“”[]")


def polished(text: str) -> str:
    """The text without bold marks, control characters and outer blanks, its first letter a capital (reference code)."""
    text = "".join(char for char in clean(text).replace("**", "") if char.isprintable()).strip()
    return _capitalised(text)


def _refused(text: str, task: Task) -> bool:
    return len(text) > LONGEST or (task.forbid is not None and task.forbid.search(text) is not None)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:] if len(text) > 1 else text
