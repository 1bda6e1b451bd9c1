"""The linear regression demo: golden values of the reference, and how a pair is read from a model's text."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.errors import ConfigError
from asyncopt.tasks import LinearRegression
from asyncopt.tasks.linear_regression import format_pair, parse_pair

# OPRO, table 2: the true pairs; five repetitions each.
PAPER_PAIRS = [(15, 14), (17, 17), (16, 10), (3, 5), (25, 23), (2, 30), (36, -1)]
STARTS = [
    [(10, 13), (15, 10), (16, 14), (17, 18), (18, 15)],
    [(10, 18), (16, 19), (18, 14), (19, 12), (19, 16)],
    [(12, 13), (14, 12), (16, 15), (17, 14), (20, 12)],
]


def test_losses_of_the_true_pair_are_the_references() -> None:
    losses = [LinearRegression(repetition=repetition).optimum_loss for repetition in range(3)]
    assert losses == pytest.approx([47.038, 55.125, 54.166], abs=5e-4)


@pytest.mark.parametrize("repetition", range(3))
@pytest.mark.parametrize("pair", [(15, 14), (36, -1)])
def test_starting_points_are_the_references_for_every_true_pair(repetition: int, pair: tuple[int, int]) -> None:
    assert LinearRegression(*pair, repetition=repetition).start() == STARTS[repetition]


@pytest.mark.parametrize("pair", PAPER_PAIRS)
@pytest.mark.parametrize("repetition", range(5))
def test_the_true_pair_is_the_only_best_integer_pair(pair: tuple[int, int], repetition: int) -> None:
    task = LinearRegression(*pair, repetition=repetition)
    w, b = pair
    others = [
        task.loss(w + dw, b + db) for dw, db in itertools.product(range(-3, 4), range(-60, 61)) if (dw, db) != (0, 0)
    ]
    assert min(others) > task.optimum_loss


def test_loss_is_the_sum_of_squared_residuals() -> None:
    task = LinearRegression(2, 3)
    assert [x for x, _ in task.data] == list(range(1, 51))
    assert task.loss(0, 0) == pytest.approx(sum(y**2 for _, y in task.data))
    noise = [y - 2 * x - 3 for x, y in task.data]
    assert task.loss(2, 4) == pytest.approx(sum((residual - 1) ** 2 for residual in noise))


def test_a_loss_too_large_for_a_double_is_infinite() -> None:
    assert LinearRegression().loss(1e308, -1e308) == math.inf


def test_fingerprint_tells_the_data_apart() -> None:
    tasks = [LinearRegression(), LinearRegression(repetition=1), LinearRegression(b_true=15), LinearRegression()]
    first, second, third, again = (task.fingerprint for task in tasks)
    assert first == again
    assert len({first, second, third}) == 3
    assert LinearRegression().name == "linear-regression"


@pytest.mark.parametrize(
    "options",
    [{"w_true": 1.5}, {"b_true": "14"}, {"w_true": True}, {"repetition": -1}, {"repetition": 2**32}, {"w_true": 10**9}],
)
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(
        ConfigError, match=f"{next(iter(options))} of linear-regression is .*; it must be an integer from"
    ):
        LinearRegression(**options)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("[15, 14]", (15, 14)),
        ("so the pair is [w=15, b=14].", (15, 14)),
        ("[1, 2] is worse than\n[ 3.5 , -4e1 ]", (3.5, -40)),
        ("[15, 14]\nwhere [w, b] are numerical", (15, 14)),
        ("[15, 14] [b]", (15, 14)),
        ("[w = 15, 14]", (15, 14)),
        ("[1, 2] then [w=3, b=4", (1, 2)),
        ("[1,\n2] [3, 4] [5,", (3, 4)),
        # The last group decides, also where it cannot be read: as in the reference.
        ("[1, 2] and [3]", None),
        ("[1, 2] and [3, 4, 5]", None),
        ("[1, 2] and []", None),
        ("[1, 2] and [x, y]", None),
        ("[[15, 14]]", None),
        ("[w=15, b=fourteen]", None),
        ("[nan, 1]", None),
        ("[1, inf]", None),
        ("15, 14", None),
        ("[w, b]", None),
        ("", None),
    ],
)
def test_pairs_are_read_as_in_the_reference(text: str, pair: tuple[float, float] | None) -> None:
    assert parse_pair(text) == pair


@given(st.integers(-(10**6), 10**6), st.floats(allow_nan=False, allow_infinity=False))
def test_a_formatted_pair_reads_back(w: int, b: float) -> None:
    assert parse_pair(format_pair(w, b)) == (w, b)


def test_whole_numbers_are_written_without_a_point() -> None:
    assert format_pair(15, 14.0) == "[15, 14]"
    assert format_pair(-1.5, 0) == "[-1.5, 0]"


@given(st.text(alphabet="[]wb=,.-0123456789e \nnaif٣"))
def test_no_text_raises(text: str) -> None:
    pair = parse_pair(text)
    assert pair is None or all(map(math.isfinite, pair))


@pytest.mark.parametrize("piece", ["[", "]", "[]", "[1,", "[1, 2]\n", "[b] ", "[" + "9" * 5000])
def test_a_hostile_megabyte_is_read(piece: str) -> None:
    # Quadratic time would run into the suite's time limit.
    assert parse_pair(piece * (1_000_000 // len(piece))) == ((1, 2) if piece == "[1, 2]\n" else None)
