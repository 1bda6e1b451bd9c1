"""Where a model's text announces its answer: "the answer is", "Answer:", a boxed formula, a tag, four hash signs.

Every pattern here and beside it takes time linear in the text: repeats are bounded, possessive, or end where they fail.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Literal, NamedTuple, TypeAlias

Form: TypeAlias = Literal["label", "verb", "boxed", "hashes"]


class Cue(NamedTuple):
    """An announcement from ``start`` to ``end``; the answer stands behind it.

    A label opens a text of any length, a verb ("is") the rest of a sentence, a box (or a tag) what it encloses, and
    hash signs, which may as well begin a heading, only what directly follows.
    """

    form: Form
    start: int
    end: int


_HALF = 100_000

_SAME = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        **dict.fromkeys("\u200b\u2060\ufeff", None),
        "\uff1a": ":",
        "\uff0f": "/",
    }
)
_BOLD = re.compile(r"\*\*|__")
_STYLED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit)\s?\{")

_CUE = re.compile(
    r"""
      (?P<label>
          (?<![^\W_]) answer (?:\s\([^()\n]{0,40}\))? [*_`"')]{0,3} \s{0,4} [:=\u2192]
        | (?<![^\W_]) answer \s{1,4} is \s{0,2} :
        | ^[ \t#*_>]{0,8} (?:(?:the|my|final|correct)\s){0,3} answer [ \t*_]{0,4} $
      )
    | (?P<verb>
          (?<![^\W_]) answer (?:\s(?:to|for|of)(?:\s[\w'-]++,?){1,8}?)?
          \s{1,4} (?:is|equals|(?:would|should|must|will)\sbe) (?![^\W_]) (?!\s{1,4}(?:not|helpful|useful)(?![^\W_]))
      )
    | (?P<boxed> \\(?:boxed|fbox)\s?\{ | <answer> )
    | (?P<hashes> (?<!\#)\#{4}(?!\#) )
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_SOLID = re.compile(r"\S")
_SENTENCE_END = re.compile(r"[.!?](?=\s|\Z)|\n")


def plain(text: str) -> str:
    """The text with one form of dash, quote and line end, and without bold marks and LaTeX's text styles.

    Of a text longer than 200,000 characters, which no model writes to be read, the middle is left out: grading happens
    between two network events and must not hold them up.
    """
    if len(text) > 2 * _HALF:
        text = f"{text[:_HALF]}\n{text[-_HALF:]}"
    if not text.isascii():
        text = text.translate(_SAME)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _STYLED.sub("{", _BOLD.sub(" ", text))


def cues(text: str) -> list[Cue]:
    """The cues of a plain text, the last one first; only its last 64, so that a text full of them costs little."""
    last = deque(_CUE.finditer(text), maxlen=64)
    return [Cue(match.lastgroup, match.start(), match.end()) for match in reversed(last)]  # type: ignore[arg-type]


def sentence_end(text: str, start: int, end: int) -> int:
    """Where the sentence or line that begins at ``start`` ends, white space before it aside; at most ``end``."""
    first = _SOLID.search(text, start, end)
    found = _SENTENCE_END.search(text, first.start(), end) if first else None
    return found.start() if found else end


def reach(text: str, cue: Cue, end: int) -> int:
    """Where the text that a cue announces ends: a label's at ``end``, others' with the sentence or the closing mark."""
    if cue.form == "label":
        return end
    if cue.form != "boxed":
        return sentence_end(text, cue.end, end)
    newline = text.find("\n", cue.end, end)
    line_end = end if newline < 0 or text[cue.end - 1] == ">" else newline
    closing = text.rfind("</" if text[cue.end - 1] == ">" else "}", cue.end, line_end)
    return line_end if closing < 0 else closing
