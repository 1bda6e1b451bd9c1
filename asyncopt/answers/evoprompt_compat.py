"""Grading as the reference code of EvoPrompt does it, for scores that are to be compared with its own.

Source: ``utils.py`` and ``BBH/utils.py`` of beeevita/EvoPrompt. A text with classes is graded by the first word that
names one; everything else by what follows the last "answer is", letter by letter.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from asyncopt.answers.strict import Kind

_CUE = "answer is "
_LETTER = re.compile(r"\(([A-Z])\)")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def parse(kind: Kind, answer: str, classes: Sequence[str] = ()) -> str:
    """What is compared with the target: a label in lower case, an option's letter, or a text.

    Empty where no label is found. An answer without "answer is" is compared as a whole.
    """
    if kind == "text" and classes:
        return first_label(answer, classes)
    _, cue, stated = answer.rpartition(_CUE)
    if not cue:
        return answer
    stated = stated.strip()
    return _letter(stated) if kind == "choice" else stated.removesuffix(".")


def right(kind: Kind, answer: str, target: str, classes: Sequence[str] = ()) -> bool:
    """Whether the reference counts the answer as right. No text raises."""
    if kind == "text" and classes:
        return first_label(answer, classes) == first_label(target, classes) != ""
    return parse(kind, answer) == (_letter(target) if kind == "choice" else target)


def first_label(text: str, classes: Sequence[str]) -> str:
    """The first word that is a verbalizer of a class, as that class's first one in lower case; else empty.

    Words are what white space parts, without their punctuation, whatever their case.
    """
    labels = {word.lower(): one.partition("|")[0].lower() for one in classes for word in one.split("|")}
    words = text.lower().translate(_NO_PUNCTUATION).split()
    return next((labels[word] for word in words if word in labels), "")


def _letter(text: str) -> str:
    """Of the letters in brackets the first in the alphabet, wherever it stands: a slip of the reference; else all."""
    return min(_LETTER.findall(text), default=text)
