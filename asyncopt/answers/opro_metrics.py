"""The answer within a model's text as OPRO's reference code extracts it, oddities included.

Source: ``get_normalized_prediction`` of google-deepmind/opro, ``opro/evaluation/metrics.py``, with ``num_decimals=0``,
as all its experiments have it. The paper's scores rest on these rules, so nothing here may be improved: whoever wants
better ones wants ``strict``. Only the time is ours, linear in the text where the reference's is quadratic.
"""

from __future__ import annotations

import re
import string
from typing import Final

from asyncopt.answers.strict import Kind

# The reference serves the 11 languages of MGSM, whatever the task: "frage:" or "faq:" ends an English answer too.
_NEXT_QUESTION = (
    "প্রশ্ন:",
    "frage:",
    "question:",
    "pregunta:",
    "question :",
    "問題：",
    "задача:",
    "swali:",
    "ప్రశ్న:",
    "โจทย์:",
    "问题：",
    "q:",
)
_STEP_BY_STEP = (
    "ধাপে ধাপে উত্তর: ",
    "schritt-für-schritt-antwort: ",
    "step-by-step answer: ",
    "respuesta paso a paso: ",
    "réponse étape par étape : ",
    "ステップごとの答え：",
    "пошаговое решение: ",
    "jibu la hatua kwa hatua: ",
    "దశలవారీగా సమాధానం: ",
    "คำตอบทีละขั้นตอน: ",
    "逐步解答：",
)
_ANSWER_BEHIND = ("answer is ", "answer: ", "answer is: ")
_ELSE_BEHIND = ("is: ", "are: ")
_ANSWER_AHEAD = (" is the correct answer", " is the right answer", " is the final answer", " is the answer")
_RATIONALE = "this is the solution:"

# fmt: off
# The order decides: "six" is replaced before "sixteen", which becomes "6teen". Part of the record, and so not shared
# with the strict reader of numbers.
_WORDS = (
    ("zero", "0"), ("one", "1"), ("two", "2"), ("three", "3"), ("four", "4"), ("five", "5"), ("six", "6"),
    ("seven", "7"), ("eight", "8"), ("nine", "9"), ("ten", "10"), ("eleven", "11"), ("twelve", "12"),
    ("thirteen", "13"), ("fourteen", "14"), ("fifteen", "15"), ("sixteen", "16"), ("seventeen", "17"),
    ("eighteen", "18"), ("nineteen", "19"), ("twenty", "20"), ("thirty", "30"), ("forty", "40"), ("fifty", "50"),
    ("sixty", "60"), ("seventy", "70"), ("eighty", "80"), ("ninety", "90"),
)
# fmt: on
_UNITS = str.maketrans("", "", "$,%€£")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_OF_DIGIT = {"0": "false", "1": "true"}
MEANINGS: Final = {"false": "false", "no": "false", "invalid": "false", "true": "true", "yes": "true", "valid": "true"}

_LETTER = re.compile(r"\([a-z]\)")
# Both are searched for line by line, and "(?m:^)" keeps a failed line from being tried again at each of its characters.
_FIRST_GROUP = re.compile(r"(?m:^)[^(\n]*+(\([^)\n]*+\))")
_LAST_DIGITS = re.compile(r"(?m:^).*(?<!\d)(\d+)")


def normalized(kind: Kind, text: str) -> str:
    """What the text is taken to answer, in lower case; for a number as a whole one, rounded half to even.

    Empty where nothing is found, which ``Answer: 42`` suffers too: its capital hides the announcement, and its colon
    the number.
    """
    answer, announced = _announced(text)
    # The stops end a sentence; the quotes are those of a byte string that was printed.
    answer = _choice(answer.partition(_RATIONALE)[0].rstrip(".").rstrip("'"))
    if kind == "number":
        return _number(answer, announced)
    if kind == "boolean":
        return _boolean(answer, announced)
    # Whatever continues the sentence is cut off, and with it all behind "e.g." and the decimals of 3.5.
    return answer.partition(".")[0]


def meaning(text: str) -> str:
    """``true`` or ``false`` for the digits 1 and 0; any other text as it is."""
    return _OF_DIGIT.get(text, text)


def without_punctuation(text: str) -> str:
    """The text without the 32 ASCII punctuation characters, wherever they are, and without white space around it."""
    return text.translate(_PUNCTUATION).strip()


def _announced(text: str) -> tuple[str, bool]:
    """The part of the text that may be the answer, and whether anything announced it."""
    part = text.lower().strip()
    # A base model goes on with a question of its own. Each mark is looked for in what the ones before it left.
    for question in _NEXT_QUESTION:
        part = part.partition(question)[0]
    # Looked for in the text as it was written, and used on the lower-cased one: "Answer: 42" alone is no announcement,
    # but an "answer is" anywhere turns "FINAL ANSWER: 42" into one.
    behind = _ANSWER_BEHIND if any(phrase in text for phrase in _ANSWER_BEHIND) else _ELSE_BEHIND
    announced = False
    for phrase in (*_STEP_BY_STEP, "#### ", *behind):
        if phrase in part:
            part, announced = part.rpartition(phrase)[2], True
    for phrase in _ANSWER_AHEAD:
        if phrase in part:
            part, announced = part.partition(phrase)[0], True
    return part.strip(), announced


def _choice(text: str) -> str:
    """The first group in parentheses if exactly one letter stands in them, however often.

    It need not be the letter's: ``(see above) so (b)`` becomes ``(see above)``.
    """
    if len({match[0] for match in _LETTER.finditer(text)}) != 1:
        return text
    group = _FIRST_GROUP.search(text)
    return group[1] if group else text


def _number(text: str, announced: bool) -> str:
    text = text.rpartition("=")[2].translate(_UNITS).partition(":")[0].strip()
    # Within words too ("money" is "m1y"), and never added up ("forty two" is "40 2").
    for word, digits in _WORDS:
        text = text.replace(word, digits)
    # Split at single spaces: of two in a row the empty text between them is a token, and not an alphabetic one.
    tokens = text.split(" ")
    if not announced:
        tokens.reverse()
    token = next((token for token in tokens if not token.isalpha()), tokens[0])
    end = len(token)
    while end and token[end - 1].isalpha():
        end -= 1
    token = token[:end].removesuffix("-")
    try:
        return f"{float(token):.0f}"  # "1_0" is 10, "-0.4" is "-0", and "1e999" is "inf"
    except ValueError:
        # Of the first line that has a digit: 4 of "3/4", 50 of "$1.234.50".
        digits_at_end = _LAST_DIGITS.search(token)
        return digits_at_end[1] if digits_at_end else token


def _boolean(text: str, announced: bool) -> str:
    said = text.partition(".")[0]
    if said not in MEANINGS:
        number = _number(text, announced)
        # The sentence itself comes first; without any of these words or digits all sentences stay.
        said = next((meaning(digit) for digit in (said, number) if digit in _OF_DIGIT), text)
    return without_punctuation(said)
