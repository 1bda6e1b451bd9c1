"""Forecasts: their parts against what is known exactly, and the intervals against simulated studies."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from fakes import run_virtual

from asyncopt import OPRO, Engine, Example, MemoryCache, Quota, Task
from asyncopt.forecast import NO_PILOT, Listener, Pilot, Served, forecast, noise_of, run_pilot
from asyncopt.forecast.belief import believe
from asyncopt.forecast.clock import Clock, Kind, Server
from asyncopt.forecast.course import Kinds
from asyncopt.forecast.iterations import Iteration, Network
from asyncopt.forecast.lengths import Lengths, shapes_of
from asyncopt.forecast.networks import NetworkModel
from asyncopt.forecast.pilot import Answered
from asyncopt.forecast.prompts import first_candidate, tokens_of
from asyncopt.forecast.steps import StepModel
from asyncopt.limits.slots import Slots
from asyncopt.optimizers import DLN1, DLN2, Optimizer
from asyncopt.optimizers.dln.proposals import PromptRequest
from asyncopt.optimizers.dln.roles import Case
from asyncopt.stats import Z95
from asyncopt.testing import AnswerModel, SimulatedAPI, items_of
from asyncopt.testing.abilities import Abilities
from asyncopt.testing.faults import FaultPlan
from asyncopt.testing.latency import Constant, LogNormal
from asyncopt.values import Concurrency, Generate, Price

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import plan as benchmark

EXAMPLES = [Example(place, f"What is {place} plus 7?", str(place + 7)) for place in range(60)]
TASK = Task(
    "sums",
    "number",
    tuple(EXAMPLES[:20]),
    tuple(EXAMPLES[20:40]),
    tuple(EXAMPLES[40:]),
    initial=("Add.",),
    max_tokens=64,
)
SERVED = {role: Served("m", "m", Quota(concurrency=16), Price(1.0, 4.0)) for role in ("scorer", "proposer")}


def pilot_of(task: Task, optimizer: Optimizer, *, calls: int = 40, **server: object) -> tuple[Pilot, SimulatedAPI, int]:
    """A pilot against a simulated API, the API, and what the account of the engine's models came to afterwards."""
    api = SimulatedAPI(seed=1, latency=Constant(0.5), answers=AnswerModel(1, items_of([task])), **server)  # type: ignore[arg-type]

    async def main() -> tuple[Pilot, int]:
        listener = Listener()
        async with Engine(cache=MemoryCache(), observers=[listener], grace=0.0) as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=Quota(concurrency=16))
            models = {"scorer": model, "proposer": model}
            pilot = await run_pilot(task, optimizer, engine, models, listener, calls=calls)
            hits = model.account.hits
            first = first_candidate(task, optimizer)
            scored = [model.submit(optimizer.program(task).first(task, first, one)) for one in task.train]
            for future in scored:
                await future
            return pilot, model.account.hits - hits

    pilot, hits = run_virtual(main)
    return pilot, api, hits


# -- the pilot ---------------------------------------------------------------------------------------------------------


def test_a_pilot_makes_the_calls_it_was_given_and_the_run_finds_its_answers_in_the_cache() -> None:
    pilot, api, hits = pilot_of(TASK, OPRO(steps=2))
    assert pilot.calls == 40
    assert len(pilot.scoring.seconds) == 32
    assert len(pilot.proposals.seconds) == len(pilot.texts) == 8
    assert set(pilot.scoring.seconds) == {0.5}
    assert hits == pilot.cached == 16
    assert api.ledger.count() == 40 + len(TASK.train) - 16
    assert [len(row) for row in pilot.scores] == [2] * 16


def test_a_pilot_hears_what_the_server_says_of_its_quota() -> None:
    pilot, _, _ = pilot_of(TASK, OPRO(steps=2), requests_per_second=20.0)
    assert pilot.rates["m"]["requests"] == pytest.approx(0.95 * 20)


def test_a_pilot_tells_what_it_lost() -> None:
    limited, api, _ = pilot_of(TASK, OPRO(steps=2), requests_per_second=2.0, headers="none")
    assert limited.calls == 40
    assert limited.throttled == sum(entry.status == 429 for entry in api.ledger.entries[: limited.attempts]) > 0
    assert (limited.attempts, limited.retried) == (40 + limited.throttled, 0)
    assert 1.0 < limited.granted["m"]["requests"] <= 2.5
    failing, _, _ = pilot_of(TASK, OPRO(steps=2), faults=FaultPlan(seed=1, rate=0.2, kinds=("500",)))
    assert (failing.calls, failing.throttled, failing.attempts) == (40, 0, 40 + failing.retried)
    assert failing.retried > 0 < failing.paused


TROUBLES = {
    "refused without a word of the rate": {"requests_per_second": 3.0, "headers": "none"},
    "less than what was stated": {"requests_per_second": 3.0},
    "failures": {"faults": FaultPlan(seed=1, rate=0.2, kinds=("500", "reset"))},
    "refused for good": {"faults": FaultPlan(seed=1, rate=0.1, kinds=("refused",))},
    "slow": {"faults": FaultPlan(seed=1, rate=0.1, kinds=("slow",))},
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_run_against_a_server_in_trouble_comes_out_within_the_intervals(trouble: str) -> None:
    stated = Quota(requests_per_minute=1200) if "stated" in trouble else Quota()
    answers = AnswerModel(1, items_of([TASK]))
    optimizer = OPRO(steps=4, samples_per_step=4, max_tokens=64)
    outcomes = [
        benchmark.outcome_of(
            benchmark.Drawn(seed, TASK, optimizer, stated, LogNormal(0.5, 0.3, 0.0, 1.0), TROUBLES[trouble], answers)
        )
        for seed in range(3)
    ]
    for quantity in benchmark.QUANTITIES:
        assert sum(one.held(quantity) for one in outcomes) >= 2, [
            (one.intervals[quantity], one.real[quantity]) for one in outcomes
        ]


def test_a_pilot_of_a_network_asks_its_own_questions() -> None:
    pilot, _, _ = pilot_of(TASK, DLN1(steps=2, output_scoring="accuracy"))
    assert len(pilot.proposals.sent) == 8
    assert all(text for text in pilot.texts)


def test_a_pilot_of_two_layers_keeps_its_sorts_of_calls_apart() -> None:
    abilities = Abilities(top_logprobs=100, prompt_logprobs="llamacpp", silent_echo=True)
    pilot, _, hits = pilot_of(TASK, DLN2(steps=2), abilities=abilities)
    assert pilot.calls == 40
    assert hits == pilot.cached == 7
    scored = {"hidden": 14, "answer": 14, "weighed": 2, "target": 2}
    assert Counter(pilot.scoring.sorts) == scored
    assert Counter(pilot.proposals.sorts) == {"proposal": 4, "posterior": 4}
    assert min(pilot.proposals.only("proposal").sent) > 5 * max(pilot.proposals.only("posterior").sent)
    found = believe(pilot, np.random.default_rng(0), scored_at_most=20, proposed_at_most=512).lengths
    assert set(found) == {*scored, "proposal", "posterior"}


def test_few_calls_weigh_nothing() -> None:
    abilities = Abilities(top_logprobs=100, prompt_logprobs="llamacpp", silent_echo=True)
    pilot, _, _ = pilot_of(TASK, DLN2(steps=2), calls=10, abilities=abilities)
    assert set(pilot.scoring.sorts) == {"hidden", "answer"}


# -- the clock ---------------------------------------------------------------------------------------------------------


def server(places: int, *rates: float) -> Server:
    return Server(Slots(Concurrency.of(places)), rates)


@pytest.mark.parametrize(("calls", "places", "seconds"), [(8, 8, 1.0), (9, 8, 2.0), (24, 8, 3.0), (5, 1, 5.0)])
def test_equal_calls_go_through_the_places_in_rounds(calls: int, places: int, seconds: float) -> None:
    one = server(places)
    clock = Clock([one])
    ends: list[float] = []
    clock.ask(Kind(one, (), repeat(1.0)), calls, lambda: ends.append(clock.now))
    clock.run()
    assert ends == [seconds]


def test_a_pace_holds_whatever_the_places() -> None:
    one = server(32, 10.0, 100.0)  # calls, and tokens of which each takes 20: five calls a second
    clock = Clock([one])
    clock.ask(Kind(one, (1.0, 20.0), repeat(0.1)), 51, lambda: None)
    clock.run()
    assert clock.now == pytest.approx(50 / 5 + 0.1, abs=0.2)
    assert max(clock.limited, key=lambda name: clock.limited[name]) == "quota"


def test_what_is_waited_for_alone_is_the_tail() -> None:
    one = server(4)
    clock = Clock([one])
    clock.ask(Kind(one, (), iter([1.0, 1.0, 1.0, 10.0])), 4, lambda: None)
    clock.run()
    assert clock.limited == {"tail": 10.0}


def test_calls_that_follow_go_first() -> None:
    one = server(1)
    clock = Clock([one])
    kind = Kind(one, (), repeat(1.0))
    batch = clock.ask(kind, 2, lambda: None, links=1)
    first: list[float] = []
    batch.marks[1] = lambda: first.append(clock.now)
    clock.run()
    assert (first, clock.now) == ([2.0], 4.0)


# -- calls -------------------------------------------------------------------------------------------------------------


def test_without_twins_a_course_has_the_calls_of_the_papers_loop() -> None:
    optimizer = OPRO(steps=5, samples_per_step=3, validate_every=1)
    sure = replace(
        believe(NO_PILOT, np.random.default_rng(0), scored_at_most=16, proposed_at_most=64),
        distinct=1 << 30,
        repeated=0.0,
        unusable=0.0,
    )
    course = StepModel(TASK, optimizer, cached=7).draw(sure)
    assert course.spent.proposer.calls == 15
    scored = (1 + 15) * 20 - 7 + (1 + 15) * 20  # in training, less what is cached, and in validation
    assert course.spent.scorer.calls == scored + sum(course.tests())
    assert sum(course.tests()) in (20, 40)


def test_the_shape_of_a_request_gives_its_length() -> None:
    optimizer = DLN2(steps=2, batch_size=20)
    shapes, program, texts = shapes_of(TASK, optimizer), optimizer.program(TASK), optimizer.texts()
    instruction, hidden = "y" * 80, "z" * 200
    inputs = {one.id: program.output_input(one, hidden) for one in TASK.train}
    answers = [tokens_of(Generate.of(program.output.context(instruction, text))) for text in inputs.values()]
    assert fmean(answers) == pytest.approx(shapes.plain["answer"].bare + 20 + 50)
    assert shapes.plain["answer"].hidden == 1
    cases = tuple(Case(inputs[one.id], one.target, one.target, 1.0) for one in TASK.train)
    asked = tokens_of(Generate.of(PromptRequest(instruction, "", cases).prompt(texts)))
    assert asked == pytest.approx(shapes.wrong["proposal"].bare + 20 + 20 * 50)
    hiddens = tuple(Case(one.input, hidden, hidden, 1.0) for one in TASK.train)
    asked = tokens_of(Generate.of(PromptRequest(instruction, "", hiddens).prompt(texts)))
    assert asked == pytest.approx(shapes.wrong["hidden proposal"].bare + 20 + 2 * 20 * 50)


def test_what_a_server_counts_as_sent_is_not_counted_as_received() -> None:
    optimizer, shapes = DLN1(steps=2), shapes_of(TASK, DLN1(steps=2))
    both = set()
    for seed in range(20):
        belief = believe(NO_PILOT, np.random.default_rng(seed), scored_at_most=20, proposed_at_most=512)
        lengths = Lengths(shapes, optimizer, replace(belief, scoring_ratio=1.0), classes=False)
        both.add((lengths.sent("target", 10.0) - lengths.sent("answer", 10.0) > 0.1, lengths.received("target")))
    assert both == {(True, 1.0), (False, 1.0)}


def test_a_network_goes_forward_after_its_last_iteration_too() -> None:
    optimizer = DLN1(steps=3, batch_size=8, memory=2)
    belief = believe(NO_PILOT, np.random.default_rng(0), scored_at_most=20, proposed_at_most=512)
    course = NetworkModel(TASK, optimizer, cached=0, keeps=False).draw(belief)
    assert [one.forward for one in course.iterations] == [8] * 4
    # The initial prompts are the only ones in memory in the first iteration, and are the current ones as well.
    first = course.iterations[1].stages
    assert sum(stage.scored for stage in first) <= (sum(stage.proposed for stage in first) + 1) * 8


def test_an_iteration_of_two_layers_takes_six_round_trips_whatever_its_size() -> None:
    """As the optimizer's own: hidden texts, weights, proposals, their scores, and two layers forward."""
    optimizer = DLN2(steps=1, batch_size=10, prompt_samples=6)
    belief = believe(NO_PILOT, np.random.default_rng(0), scored_at_most=20, proposed_at_most=512)
    sure = replace(belief, accuracy=0.0, distinct=1 << 30, repeated=0.0, unusable=0.0)
    course = NetworkModel(TASK, optimizer, cached=0, keeps=False).draw(sure)
    course.iterations[1].validated = 0
    clock, ends = Clock([one := server(10_000)]), []
    kind = Kind(one, (), repeat(1.0))
    course.play(clock, Kinds(kind, replace(kind, proposes=True)), 1, lambda: ends.append(clock.now))
    clock.run()
    assert ends == [2.0, 8.0]


def test_an_example_goes_on_without_waiting_for_the_others() -> None:
    """One place is slow: the layers of the other examples, and what is weighed of them, do not wait for it."""
    iteration = Iteration(forward=4)
    draws = [iteration.add(proposed=1) for _ in range(4)]
    weights = [iteration.add(draw, scored=1, first=True) for draw in draws]
    iteration.add(*weights)
    course = Network([Iteration(), iteration], waits=False, links=1)
    clock = Clock([one := server(100)])
    drawing = Kind(one, (), iter([10.0, 1.0, 1.0, 1.0]), proposes=True)
    scoring = Kind(one, (), iter([9.0, 9.0, 9.0, 1.0] + [3.0] * 3 + [1.0] * 5))
    course.play(clock, Kinds(scoring, drawing), 1, lambda: None)
    clock.run()
    assert clock.now == 11.0 + 4.0


def test_one_distinct_proposal_leaves_one_candidate_a_step() -> None:
    sure = replace(
        believe(NO_PILOT, np.random.default_rng(0), scored_at_most=16, proposed_at_most=64),
        distinct=1,
        repeated=0.0,
        unusable=0.0,
    )
    course = StepModel(TASK, OPRO(steps=4, samples_per_step=8), cached=0).draw(sure)
    assert [sum(sample.scored > 0 for sample in step) for step in course.samples] == [1] * 4


def test_twins_in_the_pilot_are_believed() -> None:
    def distinct(texts: tuple[str, ...]) -> float:
        pilot = replace(NO_PILOT, texts=texts)
        draws = np.random.default_rng(0)
        found = [believe(pilot, draws, scored_at_most=16, proposed_at_most=64).distinct for _ in range(200)]
        return float(np.median(found))

    assert distinct(("same",) * 8) == 1
    assert 2 <= distinct(("a", "b", "c", "a", "a", "b", "c", "b")) <= 4
    assert distinct(tuple("abcdefgh")) > 100


def test_a_slow_call_in_the_pilot_makes_the_tail_longer() -> None:
    def longest(*seconds: float) -> float:
        pilot = replace(NO_PILOT, scoring=Answered(seconds=(1.0, 1.1, 0.9, 1.05) * 8 + seconds))
        draws = np.random.default_rng(0)
        worlds = [believe(pilot, draws, scored_at_most=16, proposed_at_most=64) for _ in range(100)]
        return float(np.median([np.quantile(world.scoring_seconds, 0.99) for world in worlds]))

    assert longest() < 2.0
    assert longest(9.0) > 4.0


# -- noise -------------------------------------------------------------------------------------------------------------


def test_the_smallest_gain_has_the_power_that_is_said() -> None:
    """Drawn again and again, a gain of that size is found in 80 of 100 by McNemar's normal form."""
    task = replace(TASK, test=tuple(replace(EXAMPLES[0], id=place) for place in range(200)))
    noise = noise_of(task, NO_PILOT)
    rng = np.random.default_rng(0)
    n, gain, differing = noise.n, noise.paired, noise.differing
    won = rng.random((20_000, n)) < differing
    better = rng.random((20_000, n)) < (differing + gain) / (2 * differing)
    wins, losses = (won & better).sum(axis=1), (won & ~better).sum(axis=1)
    power = float(np.mean(np.abs(wins - losses) / np.sqrt(np.maximum(wins + losses, 1)) > Z95))
    assert power == pytest.approx(0.8, abs=0.02)
    assert noise.standard_error == pytest.approx(math.sqrt(0.25 / 200))
    assert noise.paired < noise.unpaired


def test_answers_that_change_make_the_noise_floor() -> None:
    steady = noise_of(TASK, replace(NO_PILOT, scores=((1.0, 1.0), (0.0, 0.0)) * 8))
    shaky = noise_of(TASK, replace(NO_PILOT, scores=((1.0, 0.0), (0.0, 1.0)) * 8))
    assert steady.repeat == 0.0
    assert shaky.repeat == pytest.approx(math.sqrt(1 / 20))  # every example flips: the difference has variance 1 / n
    assert shaky.paired > steady.paired


# -- all of it ---------------------------------------------------------------------------------------------------------


def test_without_a_pilot_the_intervals_are_wide_and_hold_the_pilots() -> None:
    """On questions of a usual length, whatever the seed; where a question has ten words, all hangs on what was seen."""
    asked = tuple(
        replace(one, input=f"{one.input} {'Take your time and think of every digit. ' * 10}") for one in EXAMPLES
    )
    task = replace(TASK, train=asked[:20], validation=asked[20:40], test=asked[40:])
    optimizer = OPRO(steps=4, max_tokens=64)
    pilot, _, _ = pilot_of(task, optimizer)
    for seed in range(3):
        blind, seen = (forecast(task, optimizer, SERVED, one, seed=seed) for one in (NO_PILOT, pilot))
        assert blind.usd is not None
        assert seen.usd is not None
        assert blind.seconds.high / blind.seconds.low > 1.5 * seen.seconds.high / seen.seconds.low
        assert blind.usd.low < seen.usd.low < seen.usd.high < blind.usd.high
    assert forecast(task, optimizer, SERVED, pilot, seed=2) == seen  # the same each time


def test_a_low_quota_is_what_binds() -> None:
    pilot, _, _ = pilot_of(TASK, OPRO(steps=4))
    slow = {role: replace(one, quota=Quota(requests_per_minute=60, concurrency=16)) for role, one in SERVED.items()}
    assert forecast(TASK, OPRO(steps=4), slow, pilot).bound == "quota"
    assert forecast(TASK, OPRO(steps=4), SERVED, pilot).bound != "quota"


def test_without_a_price_there_are_no_dollars() -> None:
    free = {**SERVED, "proposer": replace(SERVED["proposer"], price=None)}
    assert forecast(TASK, OPRO(steps=1), free, NO_PILOT).usd is None


def test_a_seeded_sample_of_studies_comes_out_within_the_intervals() -> None:
    """benchmarks/plan.py has 300 of them; of 24 at 87 % fewer than 17 would be within once in a hundred."""
    outcomes = [benchmark.outcome(seed) for seed in range(24)]
    for quantity in benchmark.QUANTITIES:
        assert sum(one.held(quantity) for one in outcomes) >= 17, quantity
        assert benchmark.width(outcomes, quantity) < 2.0, quantity
