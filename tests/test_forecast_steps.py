"""Forecasts of searches with a limit of scoring calls, and of those that make instructions of instructions."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat
from statistics import fmean

import numpy as np
import pytest
from test_forecast import SERVED, TASK, pilot_of, server

from asyncopt import OPRO, ConfigError
from asyncopt.forecast import NO_PILOT, forecast
from asyncopt.forecast.asking import Shown, asking_of
from asyncopt.forecast.belief import Belief, believe
from asyncopt.forecast.clock import Clock, Kind
from asyncopt.forecast.course import Kinds
from asyncopt.forecast.steps import StepModel
from asyncopt.optimizers import Optimizer, Paraphrase, Reflective
from asyncopt.optimizers.evoprompt import EvoPromptDE, EvoPromptGA, Order


def sure(**changes: object) -> Belief:
    """A world without twins, repeats and useless answers, in which nothing grows."""
    found = believe(NO_PILOT, np.random.default_rng(0), scored_at_most=16, proposed_at_most=64)
    usual: dict[str, object] = {"distinct": 1 << 30, "repeated": 0.0, "unusable": 0.0, "growth": 0.0}
    return replace(found, **{**usual, **changes})  # type: ignore[arg-type]


def test_the_scoring_calls_end_a_course_before_its_steps_do() -> None:
    """20 examples: the start and 9 candidates in 200 calls, of which the third step has one, and is validated."""
    optimizer = OPRO(steps=50, samples_per_step=4, scoring_calls=219, validate_every=40)
    course = StepModel(TASK, optimizer, cached=0).draw(sure())
    assert [len(step) for step in course.samples] == [4, 4, 1]
    assert sum(course.start) + sum(sample.scored for step in course.samples for sample in step) == 200
    assert course.spent.proposer.calls == 9
    assert [calls > 0 for calls in course.validated] == [True, True, False, True]


def test_repeated_proposals_take_none_of_the_scoring_calls() -> None:
    optimizer = OPRO(steps=50, samples_per_step=4, scoring_calls=200)
    course = StepModel(TASK, optimizer, cached=0).draw(sure(distinct=1))
    assert sum(sample.scored for step in course.samples for sample in step) == 9 * 20
    assert course.spent.proposer.calls == sum(map(len, course.samples)) > 20


def test_with_few_scoring_calls_left_a_step_waits_for_those_before_it() -> None:
    """As in the search: with a lag of 6 steps overlap, until what is left is less than a step and all under way."""
    ends = []
    for limit in (None, 20 * 8, 20 * 400):
        optimizer = OPRO(steps=2, samples_per_step=4, lag=6, scoring_calls=limit)
        course = StepModel(TASK, optimizer, cached=0).draw(sure())
        clock = Clock([one := server(10_000)])
        kind = Kind(one, (), repeat(1.0))
        course.play(clock, Kinds(kind, replace(kind, proposes=True)), 2, lambda: None)
        clock.run()
        ends.append(clock.now)
    assert ends == [3.0, 5.0, 3.0]


def test_a_limit_that_covers_no_candidate_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match="scoring_calls is 39"):
        forecast(TASK, OPRO(steps=2, scoring_calls=39), SERVED)
    with pytest.raises(ConfigError, match="the 21 starting points"):
        forecast(TASK, EvoPromptGA(scoring_calls=100), SERVED)


ORDERS: tuple[Order, ...] = ("best_at_generation_start", "serial_best", "steady_state")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", [EvoPromptGA, EvoPromptDE])
def test_evolution_takes_the_calls_of_the_papers_arithmetic(
    kind: type[EvoPromptGA] | type[EvoPromptDE], order: Order
) -> None:
    """The pool, half a population of paraphrases, and generations x members children, each asked for and scored."""
    pool = tuple(f"Try {number}." for number in range(7))
    optimizer = kind(popsize=6, generations=4, pool=pool, order=order)
    course = StepModel(TASK, optimizer, cached=5).draw(sure())
    assert course.spent.proposer.calls == 3 + 4 * 6
    scored = (1 + 7) * 20 - 5 + (3 + 4 * 6) * 20
    assert course.spent.scorer.calls == scored + sum(course.tests())


def test_without_a_pool_the_population_is_made_of_paraphrases() -> None:
    course = StepModel(TASK, EvoPromptGA(popsize=6, generations=1, pool=()), cached=0).draw(sure())
    assert [sum(sample.asked for sample in step) for step in course.samples] == [5, 6]


def test_serial_children_wait_for_each_other_and_those_of_a_generation_do_not() -> None:
    """A round trip for the start; with two paraphrases and two generations of four, two for each wait."""
    ends = {}
    for order in ("best_at_generation_start", "serial_best"):
        optimizer = EvoPromptGA(popsize=4, generations=2, order=order)
        course = StepModel(TASK, optimizer, cached=0).draw(sure())
        clock = Clock([one := server(10_000)])
        kind = Kind(one, (), repeat(1.0))
        course.play(clock, Kinds(kind, replace(kind, proposes=True)), course.steps, lambda: None)
        clock.run()
        ends[order] = clock.now
    assert ends == {"best_at_generation_start": 1 + 3 * 2, "serial_best": 1 + (2 + 8) * 2}


def test_a_converged_population_asks_again_for_what_it_has() -> None:
    course = StepModel(TASK, EvoPromptGA(popsize=4, generations=20, pool=()), cached=0).draw(sure(distinct=1))
    new = [sum(sample.scored > 0 for sample in step) for step in course.samples]
    assert sum(new) <= 4
    assert course.spent.proposer.calls == 3 + 20 * 4  # three paraphrases of the one start


@pytest.mark.parametrize("keeps", [True, False])
def test_a_reflection_takes_more_answers_where_none_are_kept(keeps: bool) -> None:
    optimizer = Reflective(steps=3, samples_per_step=2, examples=4)
    course = StepModel(TASK, optimizer, cached=0, keeps=keeps).draw(sure())
    assert course.spent.proposer.calls == 6
    again = 0 if keeps else 6 * 4
    assert course.spent.scorer.calls == (1 + 6) * 20 + again + sum(course.tests())


@pytest.mark.parametrize(
    "optimizer",
    [EvoPromptGA(), EvoPromptDE(), EvoPromptDE(template="v2"), Paraphrase(), Reflective()],
    ids=["genetic", "differential", "without the best", "paraphrase", "reflective"],
)
def test_a_pilot_asks_as_the_optimizer_does_and_reads_what_comes(optimizer: Optimizer) -> None:
    pilot, _, _ = pilot_of(TASK, optimizer)
    assert len(pilot.texts) == 8
    assert sum(text is not None for text in pilot.texts) >= 7
    asking = asking_of(TASK, optimizer)
    assert asking is not None
    # The prompts are counted as they are sent, but for the length of the instructions in them.
    texts = optimizer.starts(TASK) if isinstance(optimizer, EvoPromptGA | EvoPromptDE) else TASK.initial
    shown = Shown(1_000_000, 1, fmean(len(text) for text in texts) / 4, 40.0)
    assert asking.tokens(shown) == pytest.approx(fmean(pilot.proposals.estimated), rel=0.15)
