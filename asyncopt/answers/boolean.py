"""Whether a model's text says yes or no, in whichever of the three pairs of words."""

from __future__ import annotations

import re

from asyncopt.answers.cues import cues, plain, reach

_YES, _NO = ("yes", "true", "valid", "1"), ("no", "false", "invalid", "0")
_END = r"(?!'|[^\W_]|-[^\W_])"
_START = r"(?<![^\W_])(?<![^\W_]-)"
_NEGATED = (
    r"(?P<negated>(?:\b(?:not|never|cannot|no\slonger)|n't)\s(?:(?:be|been|a|an|the|at\sall|quite|\w{1,20}ly)\s){0,3})?"
)
_WORD = rf"{_START}(?:(?P<yes>yes|true|valid)|(?P<no>no|false|invalid)){_END}"

_LEAD = re.compile(
    r"""(?: [\s:=*_~"'`(\[{\#>|\\$-]++ | (?:that|it|is|this|the|clearly|definitely|simply|therefore)(?![^\W_]) )*+""",
    re.IGNORECASE | re.VERBOSE,
)
_DIRECT = re.compile(rf"{_NEGATED}{_WORD}(?!\s?(?:or|/)\s?(?:yes|no|true|false|valid|invalid){_END})", re.IGNORECASE)
_DIGIT = re.compile(r"(?:(?P<yes>1)|(?P<no>0))(?=[.)}\]$*\s]{0,8}\Z|[.)}\]$*]{0,4}\n)")
_OR = r"\s?(?:or|/)\s?"
# "True or false?" says neither. "No" says no only as a word of its own ("no one" and "no reason" do not).
_SAID = re.compile(
    rf"""
      {_START}(?:yes{_OR}no|true{_OR}false|valid{_OR}invalid|no{_OR}yes|false{_OR}true|invalid{_OR}valid){_END}
    | {_START}(?:neither\s\w{{1,20}}\snor\s\w{{1,20}}|yes\sand\sno|no\sand\syes){_END}
    | {_NEGATED}{_START}
      (?: (?P<yes>yes|true|valid)
        | (?P<no>no(?=[*_"')}}\]]{{0,4}}\s{{0,4}}(?:[.,;:!\n\u2014-]|\Z))|false|invalid) ) {_END}
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CLAUSE = re.compile(
    rf"""
    (?:\A|[\n.!?:;,>]|\b(?:so|thus|hence|therefore)\b) [\s*_"'(\[{{$]{{0,8}} {_WORD}
    (?=[*_"')\]}}$]{{0,4}}\s{{0,4}}(?:[.,;:!\n\u2014-]|\Z))
    """,
    re.IGNORECASE | re.VERBOSE,
)


def right(answer: str, target: str) -> bool:
    """Whether the answer says what the target does: yes, true, valid or 1, or one of their opposites."""
    wanted = _of_word(target.strip().strip(".").casefold())
    return wanted is not None and said(answer) == wanted


def said(answer: str) -> bool | None:
    """What a text says; None if it says neither.

    What follows the last cue wins; then the last such word that is a clause of its own ("No, you do not."); then the
    last one anywhere.
    """
    text = plain(answer)
    digit = _direct(_DIGIT, text, 0, len(text))
    if digit:
        return _meaning(digit)
    end = len(text)
    for cue in cues(text):
        stop = reach(text, cue, end)
        found = _direct(_DIRECT, text, cue.end, end) or _direct(_DIGIT, text, cue.end, end)
        found = found or _last(_CLAUSE, text, cue.end, stop) or _last(_SAID, text, cue.end, stop)
        if found:
            return _meaning(found)
        end = cue.start
    found = _last(_CLAUSE, text, 0, len(text)) or _last(_SAID, text, 0, len(text))
    return _meaning(found) if found else None


def _direct(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    lead = _LEAD.match(text, start, end)
    return pattern.match(text, lead.end() if lead else start, end)


def _last(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text, start, end):
        if match["yes"] or match["no"]:
            found = match
    return found


def _meaning(match: re.Match[str]) -> bool:
    negated = match.groupdict().get("negated") is not None
    return (match["yes"] is not None) != negated


def _of_word(word: str) -> bool | None:
    return True if word in _YES else False if word in _NO else None
