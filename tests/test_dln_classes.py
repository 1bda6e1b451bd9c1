"""Class log-probabilities from the first token's alternatives, against the formula in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.errors import ConfigError
from asyncopt.optimizers.dln.classes import (
    Aggregate,
    class_logprobs,
    predicted_class,
    prediction,
    prototype,
    spellings,
)

YES_NO = ("yes|Yes", "no|No")
AGGREGATES: list[Aggregate] = ["sum", "max"]


def top(**probabilities: float) -> list[tuple[str, float]]:
    """Tokens by probability; an underscore in a name stands for a space."""
    return [(name.replace("_", " "), math.log(probability)) for name, probability in probabilities.items()]


def slow(shown: Sequence[tuple[str, float]], classes: Sequence[str], aggregate: str) -> list[float]:
    """The formula in probabilities: the floor, then the verbalizers with and without a space, then the norm."""
    table = dict(shown)
    floor = 1e-6
    if table:
        floor = 1.0
        for logprob in table.values():
            floor = min(floor, math.exp(logprob))
    masses = []
    for verbalizers in classes:
        texts = set()
        for verbalizer in verbalizers.split("|"):
            texts |= {verbalizer, " " + verbalizer}
        found = [math.exp(table[text]) if text in table else floor for text in sorted(texts)]
        mass = floor
        if aggregate == "sum":
            for probability in found:
                mass += probability
        else:
            mass += max(found)
        masses.append(mass)
    return [math.log(mass / sum(masses)) for mass in masses]


TOKENS = ["yes", " yes", "Yes", " Yes", "no", " no", "No", "a", " a", "b", "maybe", "", " "]
TOPS = st.dictionaries(st.sampled_from(TOKENS), st.floats(-30, 0), max_size=8).map(lambda found: list(found.items()))
CLASSES = st.sampled_from([YES_NO, ("yes",), ("a", "b", "c"), ("a|A|yes", "b", "no|No|NO|nope")])


@given(TOPS, CLASSES, st.sampled_from(AGGREGATES))
def test_class_log_probabilities_are_the_formula(
    shown: list[tuple[str, float]], classes: tuple[str, ...], aggregate: Aggregate
) -> None:
    found = class_logprobs(shown, classes, aggregate)
    assert found.shape == (len(classes),)
    assert found.tolist() == pytest.approx(slow(shown, classes, aggregate), rel=1e-12, abs=1e-12)
    assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-12)


def test_a_sum_and_a_largest_made_by_hand() -> None:
    # The floor is 0.05; "yes": 0.4, " yes": 0.05 (absent), "Yes": 0.2, " Yes": 0.05; "no": 4 absent but " No", 0.1.
    shown = top(yes=0.4, Yes=0.2, _No=0.1, maybe=0.05)
    assert np.exp(class_logprobs(shown, YES_NO)) == pytest.approx([0.75 / 1.05, 0.3 / 1.05], abs=1e-12)
    assert np.exp(class_logprobs(shown, YES_NO, "max")) == pytest.approx([0.45 / 0.6, 0.15 / 0.6], abs=1e-12)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_the_space_before_a_token_does_not_matter(aggregate: Aggregate) -> None:
    plain = class_logprobs(top(yes=0.6, no=0.3, x=0.01), YES_NO, aggregate)
    spaced = class_logprobs(top(_yes=0.6, _no=0.3, x=0.01), YES_NO, aggregate)
    assert plain == pytest.approx(spaced, rel=1e-12)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("shown", [[], top(perhaps=0.9, maybe=0.1)])
def test_classes_that_are_not_shown_are_equal(shown: list[tuple[str, float]], aggregate: Aggregate) -> None:
    assert np.exp(class_logprobs(shown, ("a", "b", "c", "d"), aggregate)) == pytest.approx([0.25] * 4, abs=1e-12)


def test_a_sum_counts_the_floor_once_for_every_absent_spelling() -> None:
    assert np.exp(class_logprobs([], ("a", "b|B|bee"))) == pytest.approx([3 / 10, 7 / 10], abs=1e-12)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_spelling_counts_once(aggregate: Aggregate) -> None:
    shown = top(a=0.5, b=0.25)
    once, twice = class_logprobs(shown, ("a", "b"), aggregate), class_logprobs(shown, ("a|a", "b"), aggregate)
    assert once.tolist() == twice.tolist()


def test_one_class_is_certain() -> None:
    assert class_logprobs(top(no=0.9), ("yes",)).tolist() == [0.0]


def test_very_small_probabilities_stay_numbers() -> None:
    found = class_logprobs([("yes", -2000.0), ("no", -9999.0)], ("yes", "no"))
    assert found.tolist() == pytest.approx([0.0, -7999.0 + math.log(3)])


def test_an_impossible_token_counts_as_not_shown() -> None:
    shown = top(yes=0.5, maybe=0.25)
    with_it = class_logprobs([*shown, ("no", -math.inf)], YES_NO)
    assert with_it.tolist() == class_logprobs(shown, YES_NO).tolist()
    assert np.isfinite(with_it).all()


def test_tokens_that_read_the_same_add_up() -> None:
    split = [*top(yes=0.3, no=0.2, x=0.1), *top(yes=0.1)]
    assert class_logprobs(split, YES_NO) == pytest.approx(class_logprobs(top(yes=0.4, no=0.2, x=0.1), YES_NO))


@pytest.mark.parametrize("logprob", [math.nan, math.inf])
def test_a_log_probability_that_is_no_number_is_refused(logprob: float) -> None:
    with pytest.raises(ValueError, match="the token 'no' has the log-probability"):
        class_logprobs([("yes", -1.0), ("no", logprob)], YES_NO)


def test_a_task_without_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="this task has none; score it by accuracy"):
        class_logprobs(top(yes=0.5), ())


def test_the_prediction_is_the_first_verbalizer_of_the_most_probable_class() -> None:
    assert prediction(class_logprobs(top(_Yes=0.6, no=0.3), YES_NO), YES_NO) == "yes"
    assert prediction(class_logprobs(top(_Yes=0.2, No=0.6), YES_NO), YES_NO) == "no"
    assert prediction(class_logprobs([], YES_NO), YES_NO) == "yes"


def test_the_first_of_equal_classes_is_predicted() -> None:
    assert predicted_class(np.log([0.2, 0.4, 0.4])) == 1


def test_the_spellings_of_a_class() -> None:
    assert spellings("yes|Yes") == ("yes", "Yes", " yes", " Yes")
    assert spellings("a| a") == ("a", " a", "  a")
    assert prototype("description|desc") == "description"
