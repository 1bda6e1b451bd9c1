"""Grading as OPRO's reference code does it, for scores that are to be compared with published ones.

Source: ``evaluate_single_instruction`` and ``_get_accuracy`` in ``opro/evaluation/eval_utils.py`` of
google-deepmind/opro. Of its flags, ``treat_as_number`` and ``treat_as_bool`` are the kinds number and boolean, multiple
choice is the kind choice, and a target that merely occurs in the answer counts for every kind but number
(``treat_include_as_correct``). Its first look into ``\\boxed{}``, for GPT models on the test fold only, is left out: it
would grade the two folds of one run by different rules.
"""

from __future__ import annotations

import re
from string import ascii_lowercase, ascii_uppercase

from asyncopt.answers.opro_metrics import MEANINGS, meaning, normalized, without_punctuation
from asyncopt.answers.strict import Kind, first_line

_BRACKETED = frozenset(f"({letter})" for letter in ascii_lowercase)
_OPTION = re.compile(r"\([A-Z]\)|A:")
_SYMBOL = re.compile(r"\(([A-Z])\)")
_KEPT = frozenset("!?.")


def parse(kind: Kind, answer: str, *, after_cue: bool) -> str:
    """The answer that is compared with the target, in lower case; empty where nothing was found.

    ``after_cue`` says that the text continues a cue such as "So the final answer is": its first line is read, where a
    first answer is read as a whole and the first line of the result kept.
    """
    return normalized(kind, first_line(answer)) if after_cue else first_line(normalized(kind, answer))


def right(kind: Kind, answer: str, target: str, *, prompt: str, after_cue: bool) -> bool:
    """Whether the reference counts the answer as right. No text raises.

    ``prompt`` is the scorer's first prompt as a whole, in which the options of a multiple-choice question are looked
    for. Where the target's option is not in it the reference fails, and here only its letter counts.
    """
    predicted, wanted = parse(kind, answer, after_cue=after_cue), target.lower()
    if kind == "choice" and prompt:
        letter = wanted[1] if wanted in _BRACKETED else wanted
        if len(letter) != 1 or letter not in ascii_lowercase:
            return False  # three items of BBH have a target without a letter, and nobody ever gets them right
        if _says_option(predicted, letter, prompt):
            return True
    # Brackets are punctuation too, and so is the minus sign: "(b)" equals "b", and "-5" equals "5".
    if without_punctuation(predicted) == without_punctuation(wanted):
        return True
    if wanted in MEANINGS and meaning(predicted).strip() == MEANINGS[wanted]:
        return True
    # "invalid" holds "valid", and nearly every sentence holds the bare letter that AQuA and MMLU have as their target.
    return kind != "number" and wanted in predicted


def _says_option(predicted: str, letter: str, prompt: str) -> bool:
    """Whether the prediction is the text of the letter's option, or holds it and no other option's."""
    options = [part.strip().lower().partition("\n")[0] for part in _OPTION.split(prompt)[1:]]
    index = ascii_lowercase.index(letter)
    if index >= len(options):
        return False
    own = options[index]
    # Options are found by position, whatever letter stands before them, and end with the first letter that is missing.
    symbols = set(_SYMBOL.findall(prompt))
    last = next((place for place, symbol in enumerate(ascii_uppercase) if symbol not in symbols), len(ascii_uppercase))
    others = [option for place, option in enumerate(options[:last]) if place != index]
    # Meant for letters, but "no", "hi" and the empty text are pieces of the alphabet as well.
    if predicted in ascii_lowercase:
        predicted = f"({predicted})"
    if predicted in _BRACKETED:
        predicted = predicted[1]
    # The reference spells out the three kept marks in capitals, so that a prediction with one of them equals nothing.
    if predicted == own or (_KEPT.isdisjoint(predicted) and without_punctuation(predicted) == own):
        return True
    rest = predicted if any(own in other for other in others) else predicted.replace(own, "")
    return own in predicted and all(other not in rest for other in others)
