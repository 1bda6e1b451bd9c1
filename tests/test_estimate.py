"""Tokens that a call will take, before it is sent, corrected by what the server counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt import Generate, Sampling
from asyncopt.limits.estimate import BYTES_PER_TOKEN, TOKENS_PER_MESSAGE, UNSTATED_OUTPUT, TokenEstimate, size_of
from asyncopt.values import Message, Usage

TEXT = Generate.of("a" * 400, Sampling(max_tokens=50))


def test_a_prompt_counts_by_its_bytes_and_an_answer_by_its_limit() -> None:
    assert TokenEstimate().of(TEXT) == (400 / BYTES_PER_TOKEN + TOKENS_PER_MESSAGE, 50.0)
    assert size_of(Generate.of("äö€")) == 7
    assert (
        TokenEstimate().of(Generate((Message("system", "ab"), Message("user", "cd"))))[0] == 1 + 2 * TOKENS_PER_MESSAGE
    )


def test_the_ratio_follows_what_the_server_counts() -> None:
    estimate = TokenEstimate()
    for _ in range(40):
        estimate.learn(TEXT, Usage(200 + int(TOKENS_PER_MESSAGE), 10))
    assert estimate.ratio == pytest.approx(2.0, rel=1e-6)
    assert estimate.of(TEXT)[0] == pytest.approx(204)


def test_one_odd_count_does_not_throw_the_ratio_over() -> None:
    estimate = TokenEstimate()
    for _ in range(100):
        estimate.learn(TEXT, Usage(104, 10))
    estimate.learn(TEXT, Usage(100_000_000, 10))
    assert estimate.of(TEXT)[0] < 150


def test_an_answer_without_a_limit_is_expected_to_be_twice_the_mean_once_some_are_known() -> None:
    estimate, free = TokenEstimate(), Generate.of("q")
    for known in range(32):
        assert estimate.of(free)[1] == UNSTATED_OUTPUT, known
        estimate.learn(free, Usage(5, 30))
    assert estimate.of(free)[1] == pytest.approx(60)


def test_our_own_counts_teach_nothing() -> None:
    estimate = TokenEstimate()
    usage = estimate.counted(TEXT, "täxt")
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (104, 2, True)
    estimate.learn(TEXT, Usage(5000, 5, estimated=True))
    estimate.learn(TEXT, Usage(0, 5))
    assert estimate.ratio == BYTES_PER_TOKEN


@given(st.lists(st.tuples(st.text(max_size=50), st.integers(0, 10**8), st.integers(0, 10**8)), max_size=80))
def test_whatever_a_server_counts_the_estimate_stays_a_number_above_nothing(counts: list[tuple[str, int, int]]) -> None:
    estimate = TokenEstimate()
    for text, sent, received in counts:
        estimate.learn(Generate.of(text), Usage(sent, received))
        assert 0.5 <= estimate.ratio <= 16
        expected = estimate.of(Generate.of(text))
        assert expected[0] >= TOKENS_PER_MESSAGE
        assert 1 <= expected[1] <= 2e8
