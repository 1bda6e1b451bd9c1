"""Grading: what counts as the stated answer, by kind; and that no text, however hostile, makes it raise or crawl."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.answers import Kind, grade
from asyncopt.answers.strict import KINDS
from asyncopt.errors import ConfigError

RIGHT: list[tuple[Kind, str, list[str]]] = [
    (
        "number",
        "42",
        [
            "42",
            "42.",
            "42.0",
            "It costs 42kg",
            "42 %",
            "She has 12 apples and 30 pears, so 42 fruits",
            "Total = 3 * 14 = 42 dollars",
            "The answer is 42 apples, which is 7 more than 35.",
            "The answer is 3 * 14 = 42.",
            "So the answer is 12+30=42 apples, not 35",
            "The answer is 40. Wait, the answer is 42.",
            "The answer is not 35 but 42",
            "Answer: She has 12 apples. She buys 30. So 42.",
            "ANSWER: 42\nBecause 12 + 30.",
            "**Answer:** 42, not 35",
            "**Final Answer**\n\n42 apples and no 35",
            "Final Answer (in dollars): 42\n35 was wrong",
            "#### 42",
            "#### Step 3\nso 42",
            "#### 3. Last step\nso it is 42",
            r"\boxed{42} out of 50",
            r"$\boxed{\text{42}}$ (35)",
            "<answer>42</answer> and not 35",
            '{"answer": 42, "steps": 3}',
            "forty two",
            "Forty-Two.",
            "The answer is forty-two, which is 7 more than 35.",
            "First, 12 + 30. So the total is forty-two.",
            "Let me think...42",
            "the area is 42 cm^2",
            "the area is 42 cm2",
            "4.2e1",
            "4.2 × 10^1",
            "40-42",
            "84/2",
            "４２",
            "٤٢",
        ],
    ),
    (
        "number",
        "-5",
        ["-5", "−5", "x=-5", "The answer is minus 5.", "negative five", "-$5", "$-5", "#### -5", "7 - 12 = -5"],
    ),
    ("number", "5", ["3-5", "3–5", "10 minus 5", "five", "a 5% raise", "+5", "CO2 costs 5"]),
    ("number", "1234.50", ["$1,234.50", "1234.5", "1234.5 dollars"]),
    ("number", "1,234", ["1234", "1\u202f234", "1,234.00", "one thousand two hundred and thirty-four", "1{,}234"]),
    ("number", "0.5", ["1/2", "½", r"\frac{1}{2}", ".5", "50e-2", "5 / 10"]),
    ("number", "2.5", ["2 1/2 cups", "2½", r"2\frac{1}{2}"]),
    ("number", "-0.5", [r"-\frac{1}{2}", "-1/2"]),
    ("number", "5000000", ["5 million", "five million", "5e6"]),
    ("number", "24", ["two dozen", "2 dozen eggs"]),
    (
        "choice",
        "(B)",
        [
            "(B)",
            "B",
            "b",
            "B)",
            "B.",
            "**B**",
            "(b)",
            "[B]",
            "option B",
            "B. 12/13/2020",
            "The answer is (B) 12/13/2020.",
            "Answer: B",
            "The answer is: b",
            "I think (A) is wrong, so (B)",
            "I think (A) is wrong, so B",
            "The correct option is (B), not (A).",
            "(B) is correct because (A) is incorrect",
            "(B) is the correct answer, since (A) and (C) fail",
            "The answer is option B because A is wrong",
            "The answer is not (A) but (B)",
            "Therefore, the answer is B, not A.",
            "B\n\nBecause (A) is the day before.",
            r"\boxed{\text{B}}",
            "### Answer\n**B**",
            "Answer: the correct date is (B) 12/13/2020, not (A)",
            "I'd go with B because it fits",
            "The answer is (B) and (A) is wrong.",
            "(A) and (C) are wrong. So (B).",
            "B, because A is too small",
        ],
    ),
    ("choice", "A", ["A", "(a)", "The answer is A.", "The answer is A because it fits", "a"]),
    ("choice", "b", ["(B)"]),
    ("choice", "Monsters, Inc", ["The answer is Monsters, Inc.", "Monsters, Inc"]),
    (
        "boolean",
        "yes",
        [
            "Yes",
            "yes.",
            "**Yes**",
            "True",
            "1",
            "The answer is Yes.",
            "Answer: 1",
            "The argument is valid.",
            "It is not invalid.",
            "Yes, because no one objected, and the claim is false",
            "Is it plausible? Yes",
            "Yes - the premises hold",
            "No wait. Yes.",
            "The answer is that the argument is valid.",
            r"\boxed{\text{Yes}}",
        ],
    ),
    (
        "boolean",
        "False",
        [
            "No, you do not return to the starting point.",
            "no",
            "0",
            "invalid",
            "not true",
            "The statement isn't true.",
            "It isn’t valid",
            "It's not deductively valid.",
            "True or False? False",
            "not ( True ) and ( True ) = False and True = False",
        ],
    ),
    (
        "text",
        "cold",
        [
            "cold",
            "Cold.",
            '"cold"',
            "**cold**",
            'The opposite of "hot" is "cold".',
            "The opposite of hot is cold. It is a temperature.",
            "The opposite is: cold",
            "The answer is cold.",
            "The answer is cold, because hot is hot",
            "Answer:\n\ncold",
            "cold is the answer",
            "cold\n\nExplanation: it is no longer hot",
            "cold\n\nInput: big\nOutput: small",
            "Output: cold",
            "Let me think.\ncold",
            "1. cold",
            r"\boxed{\text{cold}}",
            "<answer>\ncold\n</answer>",
            "hot → cold",
            "Sure, cold",
            "Cold (the opposite of hot)",
            '{"answer": "cold"}',
        ],
    ),
    ("text", "caf\u00e9", ["cafe\u0301", "CAFÉ"]),
    ("text", "C++", ["The answer is C++."]),
    ("text", "Washington, D.C.", ["The answer is Washington, D.C.", "Washington, D.C"]),
    ("text", "Addis Ababa", ["The capital of Ethiopia is Addis Ababa.", "addis  ababa"]),
    ("text", "] ) }", ["] ) }", "])}", "`] ) }`.", "The answer is ] ) }.", "So the rest is: ] ) }", r"\boxed{] ) }}"]),
    (
        "text",
        "apple bird cat",
        [
            "apple bird cat",
            "apple, bird, cat",
            "apple, bird, and cat",
            "apple\nbird\ncat",
            "1. apple\n2. bird\n3. cat",
            "Here they are:\n\n- apple\n- bird\n- cat\n\nLet me know if you need more!",
            "Sorted: apple bird cat",
            "The sorted list is: apple, bird, cat.",
            "['apple', 'bird', 'cat']",
            "The answer is apple bird cat.",
        ],
    ),
]

WRONG: list[tuple[Kind, str, list[str]]] = [
    ("number", "16", ["16.5", "It is 16.5", "160", "x16", "", "sixteen point five 3", "1.6", "-16"]),
    ("number", "42", ["The answer is 35, which is 7 less than 42.", "no number", "nan", "inf", "42/0", "4 2", "cm42"]),
    ("number", "1", ["No one knows", "The answer is one of the options", "nothing"]),
    ("number", "nan", ["nan", "NaN"]),
    ("number", "3", ["3-5", "1/3", "0.333333333333333333333"]),
    (
        "choice",
        "(B)",
        [
            "(A)",
            "A",
            "C",
            "",
            "Both",
            "baboon",
            "f(b)",
            "The answer is (A). (B) is tempting.",
            "not (B)",
            "Both (A) and (B)",
            "so A or B",
            "Neither (A) nor (B)",
        ],
    ),
    (
        "choice",
        "A",
        ["A man walked", "The answer is a man", "I am a man", "The answer is (A) or (B)", "Answer: A man came"],
    ),
    ("choice", "Monsters, Inc", ["(A)", "B"]),
    (
        "boolean",
        "yes",
        [
            "No",
            "nothing",
            "know",
            "",
            "invalid",
            "not valid",
            "isn't true",
            "Yes or no?",
            "10",
            "yesterday",
            "Yes and no.",
            "It is no longer valid",
            "neither false nor true",
        ],
    ),
    ("boolean", "no", ["nothing", "know", "no one knows", "valid", "not false", "Answer: Yes/No"]),
    ("boolean", "maybe", ["maybe", "yes", "no"]),
    (
        "text",
        "cold",
        [
            "",
            "hot",
            "scold",
            "ice-cold",
            "colder",
            "cold weather",
            "not cold",
            "it isn't cold",
            "hot or cold",
            "hot, cold, warm, big",
            "cold, warm",
            "cold\nwarm\nmild",
            "warm\nmild\ncold",
            "1. warm\n2. mild\n3. cold",
            "The answer is cold, warm, big",
            "cold is the opposite of hot",
            "The answer is not cold.",
            "Answer: hot\nExplanation: the opposite of cold",
            "cold\nActually, the answer is warm.",
        ],
    ),
    ("text", "warm", ["hot, cold, warm", "cold, warm"]),
    ("text", "caf\u00e9", ["cafe"]),
    ("text", "C++", ["C"]),
    ("text", "", ["", "anything"]),
    ("text", "] ) }", ["] )", "] ) } )", "( ] ) }", "] } )", "", "none"]),
    ("text", ">", ["<answer>] )</answer>"]),
    (
        "text",
        "apple bird cat",
        ["apple cat bird", "zebra apple bird cat", "apple bird", "apple bird cat dog", "applebirdcat"],
    ),
]

# Each was chosen to make one pattern or one loop do as much work as it can.
HOSTILE = [
    "1 ",
    "9",
    "1,111",
    "1e",
    "1 1/1 ",
    "a1",
    "one ",
    "the one ",
    "the answer is ",
    "the answer is 1 + ",
    "answer:",
    "answer to ",
    "#### ",
    "\\boxed{",
    "\\frac{1}{",
    "(A) ",
    "not (A) ",
    "B ",
    "B is the ",
    "yes. ",
    "not aly aly aly ",
    "a",
    " ",
    "\n",
    "[",
    ")",
    "-\n",
    "**",
    '"',
    "cold, ",
    ":\n",
    "\u0301\u0327",
    "\ud800",
    "²",
    "١",
]
TARGETS: list[tuple[Kind, str]] = [
    ("number", "5"),
    ("choice", "(B)"),
    ("choice", "no letter"),
    ("boolean", "yes"),
    ("text", "cold"),
    ("text", "] )"),
    ("text", "a b c"),
]


def _cases(table: list[tuple[Kind, str, list[str]]]) -> list[tuple[Kind, str, str]]:
    return [(kind, target, answer) for kind, target, answers in table for answer in answers]


@pytest.mark.parametrize(("kind", "target", "answer"), _cases(RIGHT))
def test_right_answers(kind: Kind, target: str, answer: str) -> None:
    assert grade(kind, answer, target)


@pytest.mark.parametrize(("kind", "target", "answer"), _cases(WRONG))
def test_wrong_answers(kind: Kind, target: str, answer: str) -> None:
    assert not grade(kind, answer, target)


@pytest.mark.parametrize("kind", KINDS)
@given(answer=st.text(), target=st.text())
def test_no_text_raises(kind: Kind, answer: str, target: str) -> None:
    assert grade(kind, answer, target) in (True, False)


@pytest.mark.parametrize("kind", KINDS)
@given(
    answer=st.lists(
        st.sampled_from([*HOSTILE, "answer is", "yes", "no", "0", "/", ".", "-", "^", "}", "10^", "million"])
    ),
    target=st.sampled_from(["0", "A", "yes", "cold", "1/0", "]"]),
)
def test_no_mixture_of_what_the_patterns_look_for_raises(kind: Kind, answer: list[str], target: str) -> None:
    assert grade(kind, "".join(answer), target) in (True, False)


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=999), st.integers(-(10**9), 10**9))
def test_numbers_are_compared_exactly(fraction: object, integer: int) -> None:
    assert grade("number", f"The answer is {fraction}.", str(fraction))
    assert grade("number", f"{integer:,}.000", str(integer))
    assert not grade("number", f"{integer}.0000000000000000000000001", str(integer))


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize(("kind", "target"), TARGETS)
def test_a_hostile_megabyte_is_graded(kind: Kind, target: str, piece: str) -> None:
    # It must not raise, and a pattern with more than linear time would run into the suite's time limit.
    assert grade(kind, piece * (1_000_000 // len(piece)), target) in (True, False)


@pytest.mark.parametrize("number", ["9" * 1_000_000, "1e999999999", "1e-999999999", "2 × 10^99999", "1/" + "0" * 5000])
def test_numbers_too_large_to_read_equal_nothing(number: str) -> None:
    assert not grade("number", number, number)
    assert not grade("number", f"7, no, {number}", "7")


def test_the_answer_is_found_at_either_end_of_a_very_long_text() -> None:
    noise = "so it goes on and on, " * 50_000
    assert grade("number", f"The answer is 42. {noise}", "42")
    assert grade("choice", f"{noise} The answer is (B).", "(B)")


def test_unknown_modes_and_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="rules for answers are 'lenient'; they must be one of strict, opro_compat"):
        grade("text", "a", "a", answers="lenient")  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match="kind of answer is 'numeral'; it must be one of number, choice, boolean, text"
    ):
        grade("numeral", "1", "1")  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", ["(A)(B)(C)(D)", "(A), (B)", "(A) (B) (C) (D)"])
def test_listing_the_options_chooses_none(answer: str) -> None:
    assert not any(grade("choice", answer, letter) for letter in "ABCD")
