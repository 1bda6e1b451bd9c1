"""Grading as the reference code of Deep Language Networks does it: its golden cases, and that no text is too much."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncopt.answers import KINDS, grade, parse
from asyncopt.errors import ConfigError
from asyncopt.tasks import Example, Task


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("(A) 05/30", "a"),
        ("The answer is (C)", "the"),
        ("Option (B)", "b"),
        ("option", "option"),
        ("  Yes, you do.", "yes"),
        ("- No", "no"),
        ("42", ""),
        ("7 apples", "apples"),
        ("3rd option", "rd"),
        ("B2B", "b"),
        ("_no_", "_no_"),
        ("ÄRGER", "ärger"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_the_first_word_is_the_answer(answer: str, word: str) -> None:
    assert parse("text", answer, answers="dln_compat") == word


@pytest.mark.parametrize(
    ("kind", "answer", "target", "score"),
    [
        ("choice", "(A) 05/30/2021", "(A)", 1.0),
        ("choice", "Option (A)", "(A)", 1.0),
        ("choice", "The answer is (A)", "(A)", 0.0),
        ("boolean", "yes.", "Yes", 1.0),
        ("boolean", "Not at all", "No", 0.0),
        ("text", "Subjective", "subjective", 1.0),
        ("text", "very subjective", "subjective", 0.0),
        ("text", "41", "42", 1.0),  # both are empty: a slip of the reference
    ],
)
def test_texts_are_right_if_their_words_are_equal(kind: str, answer: str, target: str, score: float) -> None:
    assert grade(kind, answer, target, answers="dln_compat") == score  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "target", "score"),
    [
        ("So 3 and 4 make 7 apples.", "7", 1.0),
        ("So 3 and 4 make 7 apples.", "3", 1.0),  # present is enough
        ("It costs $1,234.00", "1234", 1.0),
        ("It costs $1234.50", "1234", 0.0),
        ("01234", "1,234", 1.0),
        ("12340", "1234", 0.0),
        ("12 34", "1234", 0.0),
        ("test_1234", "1234", 0.0),
        ("x=7.", "7", 1.0),
        ("1.5a", "1", 1.0),
        ("1.5a", "1.5", 0.0),
        ("a.5", "0.5", 1.0),
        ("-5", "5", 1.0),
        ("-5", "-5", 0.0),  # the answer's signs are not looked at
        ("", "7", 0.0),
        ("seven", "7", 0.0),
        ("7", "seven", 0.0),
    ],
)
def test_a_number_is_right_if_it_is_present(answer: str, target: str, score: float) -> None:
    assert grade("number", answer, target, answers="dln_compat") == score


def test_a_number_is_parsed_as_all_that_would_count() -> None:
    assert parse("number", "3 times $1,400.50 is -4201.5", answers="dln_compat") == "3 1400.50 4201.5"


@given(st.text(alphabet="0123456789.,-_ a٣\n", max_size=40))
@example("1.5a")
@example("1.2.3")
@example(".5")
@example("a.5.b")
def test_numbers_are_those_of_the_references_pattern(text: str) -> None:
    # The pattern of NumberPresenceLoss, which takes quadratic time where it fails.
    assert parse("number", text, answers="dln_compat").split() == re.findall(r"\b\d*\.?\d+\b", text.replace(",", ""))


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_text_raises_and_a_grade_is_a_bit(answer: str, target: str) -> None:
    for kind in KINDS:
        assert grade(kind, answer, target, answers="dln_compat") in (0.0, 1.0)


def test_megabytes_of_digits_and_of_signs_are_graded() -> None:
    assert grade("number", "1" * 1_000_000 + "x", "1", answers="dln_compat") == 0.0
    assert grade("text", "! " * 1_000_000 + "yes", "yes", answers="dln_compat") == 1.0


def test_a_task_grades_by_the_rules_it_names_and_strictly_by_default() -> None:
    task = Task("t", "choice", (Example(0, "q", "(C)"),), ())
    assert task.grade("The answer is (C)", task.train[0]) == 1.0
    assert Task("t", "choice", task.train, (), answers="dln_compat").grade("The answer is (C)", task.train[0]) == 0.0
    with pytest.raises(ConfigError, match="must be one of strict, opro_compat, dln_compat"):
        Task("t", "choice", task.train, (), answers="dln")  # type: ignore[arg-type]
