"""Numbers in a model's text: which of them is the answer, and what it is worth, exactly."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from asyncopt.answers.cues import Cue, cues, plain, reach, sentence_end

_LONGEST = 1000  # characters of one number; a longer one equals nothing, since reading it takes quadratic time
_LARGEST_EXPONENT = 400
_WINDOW = 2 * _LONGEST

# fmt: off
_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]
# fmt: on
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORTH = {word: value for value, word in enumerate(_SMALL)} | {word: 10 * tens for tens, word in enumerate(_TENS, 2)}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

# Digits that belong to a word ("H2O", "cm2"), an exponent ("m^2") or a longer decimal ("1.2.3") are no number.
_NUMBER = re.compile(
    r"""
    (?<![a-z0-9_^]) (?<![0-9]\.) (?<!\^[{-])
    (?P<whole> (?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9]) | [0-9]++) (?:\.[0-9]++)? | (?<!\.)\.[0-9]++ )
    (?: e(?P<exponent>[+-]?[0-9]++)
      | \s?(?:\u00d7|x|\*|\u00b7|\\times|\\cdot)\s?10\s?\^\s?\{?(?P<power>[+-]?[0-9]++)
      | \s?/\s?(?P<below>[0-9]++)(?![./]?[0-9])
      | [ ](?P<above>[0-9]{1,4})/(?P<under>[0-9]{1,4})(?![./]?[0-9]) )?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_WORD = rf"(?:{'|'.join([*_WORTH, *_SCALES])})(?![^\W_])"
_SPELLED = re.compile(
    rf"(?<![^\W_])(?=[a-z])(?:an?\s(?=[a-z]))?{_WORD}(?:(?:-|,?\s(?:and\s)?){_WORD})*+", re.IGNORECASE
)
_PRONOUN = re.compile(r"\b(?:no|any|some|every|each|which|this|that|the|another)\s\Z", re.IGNORECASE)

_CURRENCY = "$\u20ac\u00a3\u00a5\u20b9"
_MINUS = re.compile(
    rf"(?:(?<![a-z0-9_)\]}}%^-])-(?:[{_CURRENCY}]\s?)?|\bnegative\s|(?:is|was|be|equals|[=:]|\A)\s?minus\s)\Z",
    re.IGNORECASE,
)
_SCALE = re.compile(rf"[ -]?({'|'.join(_SCALES)})(?![a-z])", re.IGNORECASE)
_LEAD = re.compile(
    rf"""
    (?: [\s:=*_~"'(\[{{\#>|\\+\u2248{_CURRENCY}-]++
      | (?:approximately|about|around|roughly|exactly|only|just|simply|therefore|thus|indeed|equal\sto|a\stotal\sof
          |minus|negative|usd)(?![a-z])
      | [a-z](?=\s?=) )*+
    """,
    re.IGNORECASE | re.VERBOSE,
)
_OPERATOR = re.compile(
    rf"[a-z%\s){_CURRENCY}]{{0,40}}?(?:[-+*/\u00d7\u00f7\u00b7]|\\times|\\cdot|\sx)\s?[({_CURRENCY}]{{0,2}}[0-9]",
    re.IGNORECASE,
)
_HEADING = re.compile(r"[.):]\s{0,3}[a-z]", re.IGNORECASE)

_THIN_SPACE = re.compile(r"(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_FRACTION = re.compile(r"([0-9]?)\\[dt]?frac\s?\{\s?(-?[0-9.,]{1,40})\s?\}\s?\{\s?([0-9.,]{1,40})\s?\}")


def right(answer: str, target: str) -> bool:
    """Whether the answer's number equals the target's."""
    wanted = stated(target)
    return wanted is not None and stated(answer) == wanted


def stated(text: str) -> Fraction | None:
    """The number that a text states as its answer; None without one.

    What follows the last cue wins, else it is the last number. Units, currencies and the percent sign are ignored.
    """
    text = _readable(text)
    found = _after_cue(text) or _last_of_all(text)
    return _worth(text, found) if found else None


def _readable(text: str) -> str:
    text = plain(text)
    if not text.isascii():
        text = text.translate({ord(char): _ascii(char) for char in set(text) if char.isnumeric()})
        text = _THIN_SPACE.sub(",", text)
    # A digit before a fraction makes it a mixed number, a sign does not.
    return _FRACTION.sub(lambda match: f"{match[1] and match[1] + ' '}{match[2]}/{match[3]}", text.replace("{,}", ","))


def _ascii(char: str) -> str:
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    above, slash, below = unicodedata.normalize("NFKC", char).partition("\u2044")
    return f" {above}/{below}" if slash else char


def _after_cue(text: str) -> re.Match[str] | None:
    end = len(text)
    for cue in cues(text):
        found = _direct(text, cue, end)
        if found is None and cue.form != "hashes":
            found = _last(text, cue.end, reach(text, cue, end))
        if found:
            return found
        end = cue.start
    return None


def _direct(text: str, cue: Cue, end: int) -> re.Match[str] | None:
    start = _after_lead(text, cue.end, end)
    found = _NUMBER.match(text, start, end)
    if found is None:
        spelled = _SPELLED.match(text, start, end)
        return None if spelled is None or _is_pronoun(text, spelled) else spelled
    if cue.form == "hashes" and _HEADING.match(text, found.end(), end):
        return None
    if _OPERATOR.match(text, found.end(), end):
        # "The answer is 3 * 14 = 42": what is stated is the result.
        equals = text.rfind("=", found.end(), sentence_end(text, found.end(), end))
        result = _NUMBER.match(text, _after_lead(text, equals + 1, end), end) if equals >= 0 else None
        return result or found
    return found


def _after_lead(text: str, start: int, end: int) -> int:
    lead = _LEAD.match(text, start, end)
    return lead.end() if lead else start


def _last(text: str, start: int, stop: int) -> re.Match[str] | None:
    # Backwards, window by window, so that a text of a million numbers costs no more than its last one.
    end = max(text.rfind(digit, start, stop) for digit in "0123456789") + 1
    while end > start:
        window = max(start, end - _WINDOW)
        found = None
        for match in _NUMBER.finditer(text, window, min(stop, end + _WINDOW)):
            if match.start() >= end:
                break
            found = match
        if found:
            return found
        end = window
    return None


def _last_of_all(text: str) -> re.Match[str] | None:
    # Spelled-out numbers count where no digits are: in the whole text or, but for the small ones that prose is full of
    # ("the two of them"), in the sentences behind the last digits.
    digits = _last(text, 0, len(text))
    start = sentence_end(text, digits.end(), len(text)) if digits else 0
    spelled = None
    for match in _SPELLED.finditer(text, start):
        if not (digits and match[0].lower() in _SMALL) and not _is_pronoun(text, match):
            spelled = match
    return spelled or digits


def _is_pronoun(text: str, spelled: re.Match[str]) -> bool:
    if spelled[0].lower() != "one":
        return False
    follows = text.startswith((" of ", " that ", " who ", " which "), spelled.end())
    return follows or _PRONOUN.search(text[max(0, spelled.start() - 9) : spelled.start()]) is not None


def _worth(text: str, number: re.Match[str]) -> Fraction | None:
    if len(number[0]) > _LONGEST:
        return None
    worth = _worth_of_words(number[0]) if number.re is _SPELLED else _worth_of_digits(number)
    scale = _SCALE.match(text, number.end())
    if worth is not None and scale:
        worth *= _SCALES[scale[1].lower()]
    negative = _MINUS.search(text[max(0, number.start() - 14) : number.start()])
    return -worth if worth is not None and negative else worth


def _worth_of_digits(number: re.Match[str]) -> Fraction | None:
    whole = Fraction(number["whole"].replace(",", ""))
    exponent = number["exponent"] or number["power"]
    if exponent:
        small = len(exponent) <= 4 and abs(int(exponent)) <= _LARGEST_EXPONENT
        return whole * Fraction(10) ** int(exponent) if small else None
    if number["under"]:
        return whole + Fraction(int(number["above"]), int(number["under"])) if int(number["under"]) else None
    if number["below"]:
        return whole / int(number["below"]) if int(number["below"]) else None
    return whole


def _worth_of_words(words: str) -> Fraction:
    total = group = 0
    for word in re.findall(r"[a-z]+", words.lower()):
        worth = _WORTH.get(word)
        if worth is not None:
            # "twenty five" goes on; "five five" and "twenty twelve" begin another number, and the last one counts.
            if group % (10 if 0 < worth < 10 else 100):
                total = group = 0
            group += worth
        elif word in ("hundred", "dozen"):
            group = max(group, 1) * _SCALES[word]
        elif word in _SCALES:
            total, group = total + max(group, 1) * _SCALES[word], 0
    return Fraction(total + group)
