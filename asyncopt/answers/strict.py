"""Strict grading: whole words, the last answer given counts, case does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from typing import Literal, TypeAlias, get_args

from asyncopt.answers import boolean, choice, number, text
from asyncopt.answers.cues import cues, plain, reach

Kind: TypeAlias = Literal["number", "choice", "boolean", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_RIGHT: Mapping[Kind, Callable[[str, str], bool]] = {
    "number": number.right,
    "choice": choice.right,
    "boolean": boolean.right,
    "text": text.right,
}
_SAID = {True: "yes", False: "no", None: ""}
_DIGITS = Context(prec=28)


def right(kind: Kind, answer: str, target: str, *, after_cue: bool) -> bool:
    """Whether the answer is right. An answer that states nothing is wrong; no text raises."""
    return _RIGHT[kind](_announced(answer) if after_cue else answer, target)


def parse(kind: Kind, answer: str, *, after_cue: bool) -> str:
    """The stated answer: a decimal number, a letter as ``(B)``, yes or no, or a text; empty where there is none.

    A number without a finite decimal form is rounded to 28 digits. A text is what follows the last cue, else all of it.
    """
    answer = _announced(answer) if after_cue else answer
    if kind == "number":
        return _number(answer)
    if kind == "choice":
        letter = choice.chosen(answer)
        return letter and f"({letter})"
    return _SAID[boolean.said(answer)] if kind == "boolean" else _text(answer)


def first_line(answer: str) -> str:
    """What answers a cue at the end of the prompt: the first line, less colons before it, up to a next ``Q:``.

    The rule of OPRO's reference code for second calls (``eval_utils.py``); a base model goes on with anything.
    """
    return answer.strip(":").strip().partition("\n")[0].partition("Q:")[0]


def _announced(answer: str) -> str:
    # The cue stands in the prompt. Without it "42 apples, 7 more than 35" would be taken for an answer of 35.
    line = first_line(answer)
    return line and f"The answer is {line}"


def _number(answer: str) -> str:
    worth = number.stated(answer)
    if worth is None:
        return ""
    if worth.denominator == 1:
        return str(worth.numerator)
    return f"{_DIGITS.divide(Decimal(worth.numerator), Decimal(worth.denominator)).normalize(_DIGITS):f}"


def _text(answer: str) -> str:
    answer = plain(answer).strip()
    for cue in cues(answer):
        rest = answer[cue.end : reach(answer, cue, len(answer))].strip()
        if rest and cue.form != "hashes":
            return rest
    return answer
