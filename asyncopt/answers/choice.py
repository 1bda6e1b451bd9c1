"""Which lettered option a model's text chooses."""

from __future__ import annotations

import re

from asyncopt.answers import text as texts
from asyncopt.answers.cues import Cue, cues, plain, reach

_TARGET = re.compile(r"\s*[(\[]?([A-Za-z])[)\]]?[.:]?\s*")

# A and I are words too: bare, they are letters only where no word follows that they could belong to.
_GOES_ON = r"(?!'|[^\W_])"
_BARE = rf"(?:[B-HJ-Z]{_GOES_ON}|[AI]{_GOES_ON}(?!\s[^\W\d_]))"
_ANY_CASE = rf"(?i:[B-HJ-Z]{_GOES_ON}|[AI]{_GOES_ON}(?!\s(?!(?:because|since|as|is|for|and|or|which)\b)[^\W\d_]))"
_BRACKETED = r"(?<![^\W_])[(\[]\s?(?P<bracketed>[A-Za-z])\s?[)\]]"

_LEAD = re.compile(
    r"""
    (?: [\s:=*_~"'`{\#>|\\$-]++
      | (?:the|option|choice|letter|answer|is|clearly|definitely|therefore|probably|simply|most|likely)(?![^\W_]) )*+
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DIRECT = re.compile(rf"{_BRACKETED}|\(?(?P<bare>{_ANY_CASE})")
# "(A) or (B)" and "both (A) and (B)" choose nothing; "(B), and (A) is wrong" does.
_AND_ANOTHER = re.compile(
    r"[)\]]?\s?(?:or|and|/|&)\s?(?:option\s)?[(\[]?[A-Z](?![^\W_])[)\]]?+(?!\s(?:is|was|are|isn't|can))", re.IGNORECASE
)
_ONE_AND = re.compile(r"(?<![^\W_])[A-Za-z](?:[)\]]?,?\s?(?:or|and|/|&)\s?(?:option\s)?|[)\]],?\s?)\Z")

_STATED = re.compile(
    rf"""
    (?P<denied>
        (?i: \b(?:not|nor|neither|than|instead\sof|eliminate|exclude|except)\s (?:the\s)? (?:(?:option|choice)\s)? ) )?
    (?: {_BRACKETED}
      | (?<![^\W_])(?<![(.']) (?P<half>[A-Za-z])\)
      | (?i:\b(?:option|choice|letter|answer)\s) (?P<named>{_ANY_CASE})
      | (?i:\b(?:so|therefore|thus|hence|is|be|with|choose|pick|select),?\s) ["'*]? (?P<concluded>{_BARE})
      | ^[ \t\#*>"'-]{{0,8}} (?P<leading>[A-Z])[.:,][ \t]
      | (?<![^\W_])(?<![(.']) (?P<final>[A-HJ-Z])(?=[.!"'*]{{0,3}}[ \t]{{0,4}}$) )
    (?P<rejected>
        \s (?: (?:is|are|was|would\sbe|can\sbe)\s (?:not|wrong|incorrect|false|invalid|impossible|ruled|excluded)
            | isn't | can't | cannot | doesn't ) (?![^\W_]) )?
    """,
    re.MULTILINE | re.VERBOSE,
)
_DECLARED = re.compile(
    rf"""
      ^[\W_]{{0,8}} (?P<alone>[A-Za-z]) [\W_]{{0,8}}$
    | (?:{_BRACKETED} | (?<![^\W_])(?P<bare>[A-Z])(?![^\W_])) [^.\n()\[\]]{{0,60}}?
      \sis\s(?:the\s)?(?:(?:correct|right|best|final)\s)?(?:answer|option|choice)(?![^\W_])
    """,
    re.MULTILINE | re.VERBOSE,
)
_CONFIRMED = re.compile(rf"(?:{_BRACKETED}|(?<![^\W_])(?P<bare>[A-Z]))\sis\s(?:correct|right|true)(?![^\W_])")


def right(answer: str, target: str) -> bool:
    """Whether the answer chooses the target's letter; a target without a letter is compared as text."""
    wanted = _TARGET.fullmatch(target)
    if wanted is None:
        return texts.right(answer, target)
    return chosen(answer) == wanted[1].upper()


def chosen(answer: str) -> str:
    """The letter that a text chooses, in upper case; empty where it chooses none, or hedges.

    What follows the last cue wins, or stands alone on a later line; else it is the last letter stated and not denied.
    """
    text = plain(answer)
    declared = _last(_DECLARED, text, 0, len(text))
    end = len(text)
    for cue in cues(text):
        if declared and declared.start() > cue.start:
            break
        found = _direct(text, cue, end)
        if found:
            return "" if _AND_ANOTHER.match(text, found.end(), end) else _letter(found)
        found = _last(_STATED, text, cue.end, reach(text, cue, end))
        if found:
            return _only(text, found)
        end = cue.start
    found = declared or _last(_CONFIRMED, text, 0, len(text))
    if found:
        return _letter(found)
    found = _last(_STATED, text, 0, len(text))
    return _only(text, found) if found else ""


def _direct(text: str, cue: Cue, end: int) -> re.Match[str] | None:
    lead = _LEAD.match(text, cue.end, end)
    return _DIRECT.match(text, lead.end() if lead else cue.end, end)


def _last(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text, start, end):
        if pattern is not _STATED or not (match["denied"] or match["rejected"]):
            found = match
    return found


def _only(text: str, match: re.Match[str]) -> str:
    before = text[max(0, match.start() - 20) : match.start()]
    return "" if _ONE_AND.search(before) else _letter(match)


def _letter(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group and len(group) == 1).upper()
