"""OPRO's reference rules for answers: each result below was produced by the reference code itself, and is repeated.

Beside them stand the strict rules, so that one can see what the reference's slips cost.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.answers import ANSWERS, KINDS, Answers, Kind, grade, parse
from asyncopt.errors import ConfigError

# kind, answer, what the reference takes for the answer, what the strict rules do
GOLDEN: list[tuple[Kind, str, str, str]] = [
    ("number", "The answer is 42.", "42", "42"),
    ("number", "Total = 3 * 14 = 42 dollars", "42", "42"),
    ("number", "#### 1,234", "1234", "1234"),
    ("number", "It costs 42kg", "42", "42"),
    ("number", "She has 12 apples and 30 pears, so 42 fruits", "42", "42"),
    ("number", "The answer is 42 apples, which is 7 more than 35.", "42", "42"),
    ("number", "the answer: $1,234.50", "1234", "1234.5"),
    ("number", "forty two", "2", "42"),
    ("number", "3/4", "4", "0.75"),
    ("number", "about 16.5", "16", "16.5"),
    ("number", "2.5", "2", "2.5"),
    ("number", "Answer: 42", "", "42"),
    ("number", "Final Answer: 42", "", "42"),
    ("number", "**Answer:** 42", "**", "42"),
    ("boolean", "The answer is Yes.", "yes", "yes"),
    ("boolean", "1", "true", "yes"),
    ("boolean", "0", "false", "no"),
    ("boolean", "No, you do not return.", "no you do not return", "no"),
    ("choice", "The answer is (B).", "(b)", "(B)"),
    ("choice", "B", "b", "(B)"),
    ("choice", "I think (A) is wrong, so (B)", "i think (a) is wrong, so (b)", "(B)"),
]
QUIRKS: list[tuple[Kind, str, str, str]] = [
    # What announces an answer is looked for in the original case, and then used on the lower-cased text.
    ("number", "The final answer: 42", "42", "42"),
    ("number", "FINAL ANSWER: 42. So the answer is clear", "", "42"),
    ("number", "The answer is 40. Wait, the answer is 42", "42", "42"),
    ("number", "42 is the answer, not 35", "42", "35"),
    ("number", "Step-by-Step Answer: 42 and 35", "42", "42"),
    ("number", "逐步解答：42 and 35", "42", "35"),
    # A next question in any of 11 languages, and in any word that ends with its mark, ends the answer.
    ("number", "It is 42. Frage: 35", "42", "35"),
    ("number", "42. FAQ: 35", "42", "35"),
    ("number", "Q: 35? It is 42", "", "42"),
    # The tokens of a number: split at single spaces, digits for words within words, no sums.
    ("number", "The answer is about  42", "", "42"),
    ("number", "sixteen", "6", "16"),
    ("number", "seventy", "7", "70"),
    ("number", "no money, 5 often", "10", "5"),
    ("number", "42 % of 50", "50", "50"),
    ("number", "823-yard", "823", "823"),
    ("number", "1-2", "2", "2"),
    ("number", "30.\n12/7", "30", "1.714285714285714285714285714"),
    ("number", "$1.234.50", "50", "1.234"),
    ("number", "5:30", "5", "30"),
    ("number", "42'.", "42", "42"),
    ("number", "42 this is the solution: 12 + 30 = 35", "42", "35"),
    # Whatever Python reads as a float is one.
    ("number", "3.5", "4", "3.5"),
    ("number", "-0.4", "-0", "-0.4"),
    ("number", "1_000", "1000", "1"),
    ("number", "١٢", "12", "12"),
    ("number", "²", "²", ""),
    ("number", "1e999", "inf", ""),
    ("number", "-inf", "", ""),
    ("number", "nan", "", ""),
    # One kind of letter in brackets, and the first brackets, whatever stands in them.
    ("choice", "(B) or (b)", "(b)", ""),
    ("choice", "(see above) so (B)", "(see above)", "(B)"),
    ("choice", "((B)", "((b)", "(B)"),
    ("choice", "(no\n(B)", "(b)", "(B)"),
    ("number", "(see 35) so (b), 42", "35", "42"),
    # The first sentence, and the first line of what is left.
    ("choice", "3.5 apples", "3", ""),
    ("text", "Dr. Cold", "dr", "Dr. Cold"),
    ("text", "cold\nwarm", "cold", "cold\nwarm"),
    ("text", "Answer: cold", "answer: cold", "cold"),
    ("text", ": cold", "cold", ": cold"),
    # A digit stands for a word in booleans, and the sentence's own digit before one found as a number.
    ("boolean", "True!", "true", "yes"),
    ("boolean", "one", "true", ""),
    ("boolean", "1.5", "true", ""),
    ("boolean", "0.9", "false", ""),
    ("boolean", "yes. Or 0", "yes", "yes"),
    ("boolean", "It is not valid. Really", "it is not valid really", "no"),
]


@pytest.mark.parametrize(("kind", "answer", "compat", "strict"), GOLDEN + QUIRKS)
def test_what_is_taken_for_the_answer(kind: Kind, answer: str, compat: str, strict: str) -> None:
    assert parse(kind, answer, answers="opro_compat") == compat
    assert parse(kind, answer) == strict


@pytest.mark.parametrize(
    ("kind", "answer", "compat", "strict"),
    [
        ("number", ": 42\n\nQ: What is 35?", "42", "42"),
        ("number", " 42. Q: 35", "42", "42"),
        ("number", "42 apples, 7 more than 35", "35", "42"),  # the reference does not know that it was announced
        ("boolean", " yes.\nQ: Is it no?", "yes", "yes"),
        ("choice", " (B).\n(A)", "(b)", "(B)"),
        ("text", " cold.\nwarm", "cold", "cold"),
        ("text", ":\n\n", "", ""),
    ],
)
def test_an_answer_behind_a_second_cue_is_its_first_line(kind: Kind, answer: str, compat: str, strict: str) -> None:
    assert parse(kind, answer, answers="opro_compat", after_cue=True) == compat
    assert parse(kind, answer, after_cue=True) == strict


def test_a_strict_number_is_written_out_in_decimals() -> None:
    assert parse("number", "The answer is 2/3.") == "0.6666666666666666666666666667"
    assert parse("number", "-1.50") == "-1.5"
    assert parse("number", "2.5e30") == "25" + "0" * 29
    assert parse("number", "1e-7") == "0.0000001"


OPTIONS = "When is it?\nOptions:\n(A) east\n(B) northeast\n(C) no\n(D) it's hot"

# kind, answer, target, prompt, the reference's accuracy, the strict one
GRADED: list[tuple[Kind, str, str, str, float, float]] = [
    ("number", "Answer: 42", "42", "", 0.0, 1.0),
    ("number", "forty two", "42", "", 0.0, 1.0),
    ("number", "forty two", "2", "", 1.0, 0.0),
    ("number", "#### 1,234", "1,234", "", 1.0, 1.0),
    # Without punctuation the two are equal; rounding was before.
    ("number", "-5", "5", "", 1.0, 0.0),
    ("number", "3.4", "3", "", 1.0, 0.0),
    ("text", "", "] )", "", 1.0, 0.0),
    ("text", "nothing", "] )", "", 0.0, 0.0),
    # Included is right, unless it is a number.
    ("boolean", "invalid", "valid", "", 1.0, 0.0),
    ("boolean", "I do not know", "no", "", 1.0, 0.0),
    ("number", "The answer is 142", "42", "", 0.0, 0.0),
    ("choice", "I think (A) is wrong, so (B)", "(B)", "", 1.0, 1.0),
    ("choice", "I think (A) is wrong, so (B)", "(A)", "", 1.0, 0.0),
    ("choice", "eats", "A", OPTIONS, 1.0, 0.0),
    ("choice", "eats", "(A)", OPTIONS, 0.0, 0.0),
    ("choice", "(B)", "A", OPTIONS, 0.0, 0.0),
    # True and false, and the digits for them, are as good as the target's pair of words; the other words are not.
    ("boolean", "true", "Yes", "", 1.0, 1.0),
    ("boolean", "1", "valid", "", 1.0, 1.0),
    ("boolean", "0", "no", "", 1.0, 1.0),
    ("boolean", "0", "yes", "", 0.0, 0.0),
    ("boolean", "yes", "true", "", 0.0, 1.0),
    ("boolean", "valid", "yes", "", 0.0, 1.0),
    # The text of an option.
    ("choice", "East", "(A)", OPTIONS, 1.0, 0.0),
    ("choice", "East", "(A)", "", 0.0, 0.0),
    ("choice", "'east'", "A", OPTIONS, 1.0, 0.0),
    ("choice", "northeast", "(B)", OPTIONS, 1.0, 0.0),
    ("choice", "northeast", "(A)", OPTIONS, 0.0, 0.0),
    ("choice", "east and northeast", "(B)", OPTIONS, 0.0, 0.0),
    ("choice", "either east or west", "(A)", OPTIONS, 1.0, 0.0),
    ("choice", "east, not it's hot", "(A)", OPTIONS, 0.0, 0.0),
    ("choice", "its hot", "(D)", OPTIONS, 0.0, 0.0),
    ("choice", "it's hot", "(D)", OPTIONS, 1.0, 0.0),
    ("choice", "no", "(C)", OPTIONS, 1.0, 0.0),
    ("choice", "nothing", "(C)", OPTIONS, 1.0, 0.0),
    # An instruction that names letters, or options out of order, moves the options.
    ("choice", "east", "(A)", f"Say (A) or (B).\n{OPTIONS}", 0.0, 0.0),
    ("choice", "or", "(A)", f"Say (A) or (B).\n{OPTIONS}", 1.0, 0.0),
    ("choice", "cold", "(B)", "(B) hot (A) cold", 1.0, 0.0),
    ("choice", "hot", "(B)", "(B) hot (A) cold", 0.0, 0.0),
    ("choice", "east west", "(B)", "A: hm\n(A) east (C) west", 1.0, 0.0),
    # A target without a letter is never right where there are options.
    ("choice", "no letter", "no letter", OPTIONS, 0.0, 1.0),
    ("choice", "no letter", "no letter", "", 1.0, 1.0),
]


@pytest.mark.parametrize(("kind", "answer", "target", "prompt", "compat", "strict"), GRADED)
def test_what_is_right(kind: Kind, answer: str, target: str, prompt: str, compat: float, strict: float) -> None:
    assert grade(kind, answer, target, answers="opro_compat", prompt=prompt) == compat
    assert grade(kind, answer, target, prompt=prompt) == strict


def test_where_the_reference_fails_for_want_of_an_option_the_letter_counts() -> None:
    for prompt in ("Which one?", OPTIONS):
        assert grade("choice", "The answer is (Z).", "(Z)", answers="opro_compat", prompt=prompt) == 1.0
        assert grade("choice", "The answer is (A).", "(Z)", answers="opro_compat", prompt=prompt) == 0.0


def test_second_answers_are_graded_as_they_are_parsed() -> None:
    assert grade("number", "42 apples, 7 more than 35", "42", after_cue=True) == 1.0
    assert grade("number", "42 apples, 7 more than 35", "42") == 0.0
    assert grade("number", "42\nQ: 35", "42", answers="opro_compat", after_cue=True) == 1.0
    assert grade("text", ": ] )\nmore", "] )", after_cue=True) == 1.0
    assert grade("text", "cold. Q: What is warm?", "warm", after_cue=True) == 0.0


def test_unknown_rules_and_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="rules for answers are 'lenient'; they must be one of strict, opro_compat"):
        grade("text", "a", "a", answers="lenient")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="kind of answer is 'numeral'; it must be one of number, choice"):
        parse("numeral", "1", answers="opro_compat")  # type: ignore[arg-type]


# Each makes one search of the reference, or one cut of ours, do as much work as it can.
HOSTILE = [
    "(", "((a", "(\n", "(a)", "(a)(b)", "[", ".", "'", "-", "=", " ", "\n", "a", "a ", "9", "9 ", "9\n", "3/", "$", "q:",
    "answer is ", "is: ", "#### ", " is the answer", "one", "(A) east ", "A:", "\ud800", "٣", "²", "İ", "Σ", "é",
]  # fmt: skip


def _is_read(kind: Kind, answer: str, after_cue: bool = False) -> bool:
    parsed = parse(kind, answer, answers="opro_compat", after_cue=after_cue)
    return parsed == parsed.lower() and "\n" not in parsed


# None may raise, and anything of more than linear time would run into the suite's time limit.
@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("kind", ["number", "boolean"])
def test_a_hostile_megabyte_is_read(kind: Kind, piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    for answer in (text, f"(a){text}", f"{text}\n(a)", f"{text}5"):
        assert _is_read(kind, answer)


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_megabyte_is_graded(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    for answer, target, prompt in [(text, "(B)", OPTIONS), ("east", "(B)", text), ("east", text, OPTIONS)]:
        assert grade("choice", answer, target, answers="opro_compat", prompt=prompt) in (0.0, 1.0)
    assert grade("text", text, text, answers="opro_compat", prompt=OPTIONS) in (0.0, 1.0)


TEXTS = st.text() | st.lists(
    st.sampled_from([*HOSTILE, "(A)", "yes", "no", "0", "1e999", "nan", "inf", "_", "forty ", "this is the solution:"])
).map("".join)


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("kind", KINDS)
@given(answer=TEXTS, target=TEXTS | st.sampled_from(["(A)", "b", "yes"]), prompt=TEXTS, after_cue=st.booleans())
def test_no_text_raises(answers: Answers, kind: Kind, answer: str, target: str, prompt: str, after_cue: bool) -> None:
    right = grade(kind, answer, target, answers=answers, prompt=prompt, after_cue=after_cue)
    assert right in (0.0, 1.0)
    assert isinstance(parse(kind, answer, answers=answers, after_cue=after_cue), str)
    assert _is_read(kind, answer, after_cue)
