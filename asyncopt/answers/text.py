"""Whether a model's text states the target as its answer, word for word.

What counts as stating: the whole text; what follows the last cue; the last line; the first line, unless a later cue
says otherwise; and a sentence that ends with the target (the last one; the first one if it ends with "is" and the
target; the cue's). That the target occurs does not count: "cold is the opposite of hot" speaks about cold without
offering it as the answer, and "hot or cold", "warm, cold" and three words on three lines leave it open.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

from asyncopt.answers.cues import Form, cues, plain, reach, sentence_end

_MARKS = " \t\"'`*_~\u00ab\u00bb\u201e"
_STOPS = _MARKS + ".,;:!?\u2026\u3002"
_PAIRS = ("()", "[]", "{}", "<>", "$$")

_OPEN_CUE = re.compile(r"\b(?:is|are|be)\s?:|:[ \t]*\n|(?<!\#)\#{4}(?!\#)", re.IGNORECASE)
_AHEAD = re.compile(r"\sis\sthe\s(?:(?:correct|right|final|best)\s)?answer(?![^\W_])", re.IGNORECASE)
_AFTER = re.compile(r"[\"'*_`)\]}]{0,3}(?:\Z|[.!?;](?:\s|\Z)|,?\s(?:because|since|as|which|who|where)\b|\s\()")
_JOINED = re.compile(r"(?:[\w-]|\w')\Z")
_DENIED = re.compile(r"(?:\b(?:or|and|nor|not|never|neither|than)|n't|[/&])(?:\s(?:a|an|the))?[\s\"'(*_`]*\Z")
_LISTED = re.compile(
    r"(?!(?:sure|yes|no|ok|okay|well|so|thus|hence|therefore|certainly)\b)(?:[^\s,]+(?:\s[^\s,]+)?,\s?)+[\"'(*_`]?"
)
_COPULA = re.compile(r"(?:\A|\b(?:is|are|was|be|as|called|means)|[:=>])[\s\"'(*_`]*\Z")
_NEAR = 64  # characters before the target that say how it is meant

_BRACKETS = re.compile(r"[()\[\]{}<>\s]+")
_BRACKET_CHARS = "()[]{}<>"
_AMONG_BRACKETS = _BRACKET_CHARS + " \t\n,.;\"'`\\$*"
_ITEM_MARK = re.compile(r"[-*\u2022]|[0-9]{1,3}[.)]")


def right(answer: str, target: str) -> bool:
    """Whether the answer states the target, but for case, white space, quotes, and punctuation around it.

    A target of brackets is compared bracket by bracket, one of several words also as a list with commas or line breaks.
    """
    stated, wanted = _read(plain(answer).strip()), plain(target).strip()
    if wanted and _BRACKETS.fullmatch(wanted):
        return any(_closing(part) == "".join(wanted.split()) for part in _parts(stated))
    bare = _bare(wanted)
    if not bare:
        return stated.text == wanted != ""
    # A part that is much longer than the target cannot be equal to it, and normalising it may take quadratic time.
    limit = 16 * len(wanted) + 1024
    if any(len(part) <= limit and _equal(part, wanted, bare) for part in _parts(stated)):
        return True
    if stated.lists:
        return False
    return any(_opens(opening[:limit], bare) for opening in _openings(stated)) or any(
        _ends(sentence[-limit:], bare, copula) for sentence, copula in _sentences(stated)
    )


class _Stated(NamedTuple):
    """A text, what follows its last cue (or empty), and the cue's form, which is "open" for a mere colon."""

    text: str
    rest: str = ""
    form: Form | Literal["open", ""] = ""

    @property
    def first_counts(self) -> bool:
        """Whether the text's beginning may be the answer: a real cue further on overrules it."""
        return self.form in ("", "open")

    @property
    def lists(self) -> bool:
        """Whether it is a list, one thing a line: then it is the answer as a whole, and none of its lines is."""
        lines = [line for line in self.text.split("\n") if line.strip()]
        short = all(len(line.split()) <= 3 and ":" not in line.rstrip()[:-1] for line in lines)
        return self.first_counts and len(lines) > 2 and short


def _read(text: str) -> _Stated:
    end = len(text)
    for cue in cues(text):
        rest = text[cue.end : reach(text, cue, end) if cue.form == "boxed" else end].strip()
        if rest and cue.form != "hashes":
            return _Stated(text, rest, cue.form)
        end = cue.start
    last = _last(_OPEN_CUE, text)
    return _Stated(text, text[last.end() :].strip(), "open") if last else _Stated(text)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _parts(stated: _Stated) -> Iterator[str]:
    """What may be the answer as a whole."""
    text, rest, _ = stated
    yield text
    if rest:
        yield rest
        yield rest.partition("\n\n")[0]
    if stated.lists:
        return
    if rest:
        yield rest.partition("\n")[0]
        yield rest[: sentence_end(rest, 0, len(rest))]
    yield text.rpartition("\n")[2]
    if stated.first_counts:
        yield text.partition("\n")[0]


def _openings(stated: _Stated) -> Iterator[str]:
    """What may begin with the answer and go on to explain it."""
    if stated.rest:
        yield stated.rest
    if stated.first_counts:
        yield stated.text


def _sentences(stated: _Stated) -> Iterator[tuple[str, bool]]:
    """What may end with the answer, and whether a word such as "is" must stand before it."""
    text, rest, form = stated
    ahead = _last(_AHEAD, text)
    if ahead:
        yield text[: ahead.start()], False
    if stated.first_counts:
        yield text, False
        yield text[: sentence_end(text, 0, len(text))], True
    if form == "label":
        yield rest, True
    if rest:
        yield rest.partition("\n")[0], False
        yield rest[: sentence_end(rest, 0, len(rest))], False


def _bare(text: str) -> str:
    """The text without case, surplus white space, and quotes, marks, brackets and stops around it."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    text = " ".join(folded.split())
    for _ in range(8):
        inner = text.lstrip(_MARKS).rstrip(_STOPS)
        if len(inner) > 1 and inner[0] + inner[-1] in _PAIRS:
            inner = inner[1:-1]
        if inner == text:
            break
        text = inner
    return text


def _equal(part: str, wanted: str, bare: str) -> bool:
    if _bare(part) == bare:
        return True
    items = _items(wanted)
    if len(items) < 2:
        return False
    stated = _items(part)
    return stated == items or [item for item in stated if item != "and"] == items


def _items(text: str) -> list[str]:
    words = (word for word in re.split(r"[\s,;]+", text) if not _ITEM_MARK.fullmatch(word))
    return [item for word in words if (item := _bare(word.strip("()[]{}")))]


def _opens(opening: str, bare: str) -> bool:
    head = " ".join(unicodedata.normalize("NFC", opening).casefold().split()).lstrip(_MARKS)
    return head.startswith(bare) and _AFTER.match(head, len(bare)) is not None


def _ends(sentence: str, bare: str, copula: bool) -> bool:
    tail = _bare(sentence)
    if not tail.endswith(bare):
        return False
    before = tail[: -len(bare)]
    near = before[-_NEAR:]
    if _JOINED.search(near) or _DENIED.search(near) or _LISTED.fullmatch(before):
        return False
    # Before a target of many words, another word may be one more item of a wrong list: there, too, "is" or a colon.
    return _COPULA.search(near) is not None if copula or bare.count(" ") > 1 else True


def _closing(part: str) -> str:
    """The brackets that a text ends with; none where they touch a word, as those of a tag do."""
    start = len(part.rstrip(_AMONG_BRACKETS))
    if part[start - 1 : start].isalnum() and part[start : start + 1] in _BRACKET_CHARS:
        return ""
    return "".join(char for char in part[start:] if char in _BRACKET_CHARS)
