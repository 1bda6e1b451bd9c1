"""How many calls are in flight: by episodes of refusals, or by latency where a server never refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from random import Random

import pytest
from fakes import run_virtual
from hypothesis import given
from hypothesis import strategies as st

from asyncopt import Engine, Generate, Quota
from asyncopt.limits.slots import (
    COOLDOWN_SECONDS,
    CUT,
    FEWEST_SAMPLES,
    HOSTED,
    OPENING,
    SILENT_ANSWERS,
    Slots,
)
from asyncopt.testing import LogNormal, SimulatedAPI
from asyncopt.testing.latency import Latency
from asyncopt.values import Completion, Concurrency


def fill(slots: Slots) -> None:
    while slots.free:
        slots.take()


def answer(slots: Slots, answers: int, *, full: bool = True, seconds: float = 1.0) -> None:
    """So many calls of a loop that keeps the slots full are answered, or of one that has one call at a time."""
    for _ in range(answers):
        fill(slots) if full else slots.take()
        slots.release()
        slots.served(seconds, 0.0)


def hosted() -> Slots:
    slots = Slots(HOSTED)
    slots.spoke()
    return slots


def test_it_doubles_each_round_until_the_first_refusal_then_grows_by_a_twentieth() -> None:
    slots = hosted()
    answer(slots, 20)
    assert slots.limit == 40
    slots.refused(0.0, 0.0, 0.0)
    assert slots.limit == CUT * 40
    slots.served(1.0, 0.0)
    for _ in range(40):
        fill(slots)
        slots.release()
        slots.served(1.0, COOLDOWN_SECONDS)
    assert slots.limit == round(CUT * 40 * 1.05)


def test_one_episode_cuts_once_and_the_next_one_only_after_the_cooldown() -> None:
    slots = Slots(Concurrency(1, 100, 100))
    slots.refused(0.0, 0.0, 0.0)
    slots.refused(COOLDOWN_SECONDS - 0.1, 60.0, 0.0)
    assert slots.limit == 80
    slots.refused(COOLDOWN_SECONDS, 60.0, 0.0)
    assert slots.limit == 64
    slots.refused(2 * COOLDOWN_SECONDS + 10, 0.0, 0.0)  # Retry-After was a minute
    assert slots.limit == 64


def test_a_pace_that_a_meter_keeps_is_not_cut_below_what_it_needs() -> None:
    slots = Slots(Concurrency(1, 100, 100))
    slots.refused(0.0, 0.0, needed=76.0)
    assert slots.limit == 95


def test_it_grows_only_when_it_was_full_and_nothing_failed() -> None:
    slots = hosted()
    answer(slots, 100, full=False)
    assert slots.limit == 20
    slots.failed()
    answer(slots, FEWEST_SAMPLES)
    assert slots.limit == 20


def test_an_unknown_server_is_felt_for_and_opened_as_soon_as_its_rate_is_known() -> None:
    slots = Slots(Concurrency.of(500), careful=True)
    assert slots.limit == OPENING
    answer(slots, 5)
    assert slots.limit == OPENING + 5
    slots.open()
    assert slots.limit == 500
    assert Slots(Concurrency.of(20), careful=True).limit == 20  # a small number is taken at its word


def test_a_limit_of_open_files_is_kept_also_while_it_opens() -> None:
    slots = Slots(Concurrency.of(500), careful=True)
    assert slots.clamp(5)
    answer(slots, 50)
    assert slots.limit == 5
    assert not slots.clamp(5)


def test_a_server_that_refuses_is_never_judged_by_latency() -> None:
    slots = hosted()
    for round_ in range(30):
        answer(slots, 100, seconds=1.0 + round_)
    assert slots.limit == HOSTED.most


# -- latency -----------------------------------------------------------------------------------------------------------


def limits_of(api: SimulatedAPI, concurrency: str, seconds: float, every: float) -> list[int]:
    """The limit, looked at every so often, while 1,000 calls are always wanted."""

    async def main() -> list[int]:
        numbers, limits = count(), []
        over = False

        def submit() -> None:
            model.submit(Generate.of(f"q {next(numbers)}")).add_done_callback(ended)

        def ended(future: asyncio.Future[Completion]) -> None:
            if not over and not future.cancelled() and future.exception() is None:
                submit()

        async with Engine(grace=0.0) as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=Quota(concurrency=concurrency))
            for _ in range(1000):
                submit()
            for _ in range(round(seconds / every)):
                await asyncio.sleep(every)
                limits.append(engine.dispatchers[0].slots.limit)
            over = True
        return limits

    return run_virtual(main)


def served(api: SimulatedAPI, since: float, until: float) -> float:
    inside = [entry for entry in api.ledger.entries if entry.status == 200 and since <= (entry.finished or 0) < until]
    return len(inside) / (until - since)


@pytest.mark.parametrize(
    ("places", "sigma", "share"), [(4, 0.0, 0.85), (16, 0.0, 0.85), (16, 0.4, 0.85), (32, 1.0, 0.8)]
)
def test_it_finds_a_server_with_so_many_places_and_neither_starves_nor_floods_it(
    places: int, sigma: float, share: float
) -> None:
    api = SimulatedAPI(latency=LogNormal(0.25, sigma), concurrency=places, headers="none", keep_prompts=False)
    settling, end = 750 / places, 2000 / places
    limits = limits_of(api, "2-20-1000", end, end / 60)
    settled = limits[20:]
    assert max(settled) <= 6 * places + 8
    mean = 0.25 * 2.718281828 ** (sigma**2 / 2)
    assert served(api, settling, end) >= share * places / mean
    assert sum(settled) / len(settled) <= 3 * places + 8


def test_noise_alone_does_not_cut_it() -> None:
    api = SimulatedAPI(latency=LogNormal(0.5, 1.0), headers="none", keep_prompts=False)
    assert min(limits_of(api, "4-20-100", 120, 2.0)[10:]) >= 50
    assert served(api, 30, 120) >= 0.9 * 100 / (0.5 * 2.718281828**0.5)


class Longer:
    """Answers that take ``factor`` times as long from a number on, with no queue anywhere."""

    def __init__(self, since: int, factor: float) -> None:
        self._usual, self._since, self._factor = LogNormal(0.5, 0.4), since, factor

    def seconds(self, seed: int, number: int) -> float:
        return self._usual.seconds(seed, number) * (1.0 if number < self._since else self._factor)

    def tail(self, seed: int, number: int) -> float:
        return 0.0


class Mixed(Longer):
    """Short answers and long ones, of which there are more from a number on."""

    def seconds(self, seed: int, number: int) -> float:
        share = 0.2 if number < self._since else 0.7
        long = Random(f"{seed}:{number}").random() < share
        return self._usual.seconds(seed, number) * (self._factor if long else 1.0)


@pytest.mark.parametrize("latency", [Longer(5000, 4.0), Mixed(5000, 10.0)])
def test_longer_answers_are_not_taken_for_a_queue(latency: Latency) -> None:
    api = SimulatedAPI(latency=latency, headers="none", keep_prompts=False)
    limits = limits_of(api, "4-20-100", 300, 2.0)
    assert sum(limit < 50 for limit in limits[20:]) <= 4
    assert limits[-1] == 100


steps = st.one_of(
    st.tuples(st.just("served"), st.floats(0, 1e4)),
    st.tuples(st.just("refused"), st.floats(0, 1e4)),
    st.tuples(st.just("failed"), st.just(0.0)),
    st.tuples(st.just("open"), st.just(0.0)),
    st.tuples(st.just("spoke"), st.just(0.0)),
    st.tuples(st.just("many"), st.floats(0, 1e4)),
)


@given(
    st.lists(st.integers(1, 300), min_size=3, max_size=3),
    st.booleans(),
    st.none() | st.integers(1, 300),
    st.lists(steps, max_size=60),
)
def test_the_limit_stays_in_its_range(
    numbers: list[int], careful: bool, most: int | None, plan: list[tuple[str, float]]
) -> None:
    least, start, largest = sorted(numbers)
    slots, now = Slots(Concurrency(least, start, largest), careful=careful), 0.0
    if most is not None:
        slots.clamp(most)
    acts: dict[str, Callable[[float], object]] = {
        "served": lambda value: answer(slots, 1, seconds=value),
        "refused": lambda value: slots.refused(now, value, value),
        "failed": lambda value: slots.failed(),
        "open": lambda value: slots.open(),
        "spoke": lambda value: slots.spoke(),
        "many": lambda value: answer(slots, SILENT_ANSWERS + 300, seconds=value),
    }
    for what, value in plan:
        now += value
        acts[what](value)
        assert 1 <= slots.limit <= min(largest, most or largest)
        assert 0 <= slots.in_use


def test_a_number_that_the_user_has_set_is_not_divided() -> None:
    slots = Slots(Concurrency.of(12))
    slots.divide(3)
    assert slots.limit == 4
    slots.divide(1)
    assert slots.limit == 12
    slots.set(7)
    slots.divide(3)
    assert slots.limit == 7


def test_an_opening_number_is_not_jumped_to_by_a_division() -> None:
    slots = Slots(Concurrency.of(100), careful=True)
    opening = slots.limit
    slots.divide(2)
    assert slots.limit == opening
    for _ in range(200):
        slots.served(1.0, 0.0)
    assert slots.limit == 50
