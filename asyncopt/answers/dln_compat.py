"""Grading as the reference code of Deep Language Networks does it, for scores that are to be compared with its own.

Source: ``dln/postprocessing.py`` and ``dln/loss.py`` of microsoft/deep-language-networks. Numbers are graded by its
number-presence loss, all other kinds by its exact match of post-processed texts.
"""

from __future__ import annotations

import re

from asyncopt.answers.strict import Kind

_NO_LETTERS = re.compile(r"[\W\d]+")
# A number as the reference matches one, between word boundaries and without a sign, here in linear time.
_NUMBER = re.compile(r"\b(?:\d*+\.\d++|\d++)\b")


def parse(kind: Kind, answer: str) -> str:
    """What is compared with the target: one word in lower case, or for a number all that occur in the text.

    Empty where nothing is found.
    """
    return " ".join(_numbers(answer)) if kind == "number" else word(answer)


def right(kind: Kind, answer: str, target: str) -> bool:
    """Whether the reference counts the answer as right. No text raises."""
    return _present(answer, target) if kind == "number" else word(answer) == word(target)


def word(text: str) -> str:
    """The first word in lower case, or the second where the first is "option"; digits are no part of a word.

    So ``Option (A)`` and ``(A) 05/30`` are ``a``, but ``The answer is (C)`` is ``the``, and ``42`` is empty: two
    numbers are always equal, which is why they have a rule of their own.
    """
    words = _NO_LETTERS.sub(" ", text).lower().split()
    if not words:
        return ""
    return words[1] if words[0] == "option" and len(words) > 1 else words[0]


def _present(answer: str, target: str) -> bool:
    """Whether any number of the answer equals the target, commas aside.

    A slip of the reference is kept: the answer's signs are not looked at, and so no negative target is ever matched.
    """
    try:
        wanted = float(target.replace(",", ""))
    except ValueError:
        return False
    return any(float(number) == wanted for number in _numbers(answer))


def _numbers(text: str) -> list[str]:
    return [match[0] for match in _NUMBER.finditer(text.replace(",", ""))]
