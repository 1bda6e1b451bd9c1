"""EvoPrompt held against plain loops over lists; its budget, its orders, and that chance is in the seed alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
from evoprompt_toy import EXAMPLES, POOL, TASK, Reference, Toy, answer_to, child, run, score, shown_in
from fakes import FakeEndpoint, run_virtual

from asyncopt import ConfigError, Engine, Example, Study, Task
from asyncopt.config import check
from asyncopt.optimizers import EvoPromptDE, EvoPromptGA
from asyncopt.optimizers.base import derived_seed
from asyncopt.optimizers.evoprompt import InitialMode, Order
from asyncopt.optimizers.evoprompt.pool import SENTENCES
from asyncopt.optimizers.evoprompt.population import Family, family
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.testing import AnswerModel, SimulatedAPI, items_of
from asyncopt.values import Completion, Generate

GA = EvoPromptGA(popsize=6, generations=3, pool=POOL)
DE = EvoPromptDE(popsize=6, generations=3, pool=POOL)
ORDERS = ("best_at_generation_start", "serial_best", "steady_state")


def family_of(study: Study) -> Family:
    optimizer: Any = study.optimizer
    return family(study.history.ranked(), optimizer, Random(derived_seed(study.seed, -1, "founders")))[1]


def population_of(study: Study) -> list[str]:
    known, optimizer = family_of(study), study.optimizer
    if isinstance(optimizer, EvoPromptDE):
        return [known.line(number).candidate for number in range(optimizer.popsize)]
    assert isinstance(optimizer, EvoPromptGA)
    living = known.fittest if optimizer.update == "topk" else known.youngest
    return [entry.candidate for entry in living(optimizer.popsize)]


# -- against the plain loops -------------------------------------------------------------------------------------------


VARIANTS = [
    *(replace(GA, initial_mode=mode) for mode in get_args(InitialMode)),
    replace(GA, selection="random"),
    replace(GA, selection="tour"),
    replace(GA, update="std"),
    replace(GA, pool=POOL[:3]),
    *(replace(DE, initial_mode=mode) for mode in get_args(InitialMode)),
    replace(DE, donor_random=True),
    replace(DE, template="v2"),
    replace(DE, template="v3"),
    replace(DE, pool=POOL[:3]),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("optimizer", VARIANTS)
def test_requests_and_populations_are_those_of_the_plain_loops(
    optimizer: EvoPromptGA | EvoPromptDE, order: Order
) -> None:
    if order == "steady_state" and getattr(optimizer, "update", None) == "std":
        return  # refused: there are no generations whose children could replace another
    optimizer = replace(optimizer, order=order)
    reference = Reference(optimizer, 7)
    endpoint = Toy()
    study, _ = run(optimizer, endpoint, seed=7)
    assert Counter(endpoint.asked) == Counter(reference.asked)
    assert population_of(study) == reference.populations[-1]


def test_the_plain_loops_meet_ties_repeats_and_the_difference_between_the_orders() -> None:
    """Else the comparison above would show less than it says."""
    parallel, serial = Reference(DE, 7), Reference(replace(DE, order="serial_best"), 7)
    steady = Reference(replace(DE, order="steady_state"), 7)
    assert len({tuple(one.asked) for one in (parallel, serial, steady)}) == 3
    repeated = [Reference(replace(GA, order=order), 7) for order in ORDERS[:2]]
    assert len(set(repeated[0].populations[-1])) == 6
    assert len({child(*shown) for shown in repeated[1].asked[3:]}) < len(repeated[1].asked[3:])
    assert len({score(text) for text in parallel.populations[-1]}) < 6
    assert parallel.populations[0] != parallel.populations[-1]


# -- the budget --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [EvoPromptGA(), EvoPromptDE()])
def test_a_run_takes_as_many_calls_as_the_paper_s(optimizer: EvoPromptGA | EvoPromptDE) -> None:
    n, examples = 20, tuple(Example(number, f"question {number}", f"a{number}") for number in range(25))
    task = Task("toy", "text", train=examples[:n], test=examples[n:], initial=("Solve it.",))
    api = SimulatedAPI(answers=AnswerModel(3, items_of([task])))

    async def inside() -> Study:
        async with Engine() as engine:
            model = engine.model("m", endpoint=api.endpoint())
            study = Study(task=task, optimizer=optimizer, scorer=model, proposer=model)
            await study.run()
            return study

    study = run_virtual(inside)
    pool, test = 1 + len(SENTENCES), 2 * 5
    assert len(SENTENCES) == 20
    assert Counter(entry.source for entry in study.history.entries)["paraphrase"] == 5
    assert len(api.ledger.entries) == 10 * 10 * (1 + n) + pool * n + 5 * (1 + n) + test
    assert study.optimizer.steps == 11


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("optimizer", [GA, DE])
def test_scoring_calls_end_the_search(optimizer: EvoPromptGA | EvoPromptDE, order: Order) -> None:
    optimizer = replace(optimizer, order=order, scoring_calls=250, lag=3 if order == "steady_state" else 0)
    endpoint = Toy()
    study, _ = run(replace(optimizer, generations=100), endpoint)
    questions = [prompt for prompt in endpoint.prompts if shown_in(prompt) is None]
    trained = [prompt for prompt in questions if int(prompt.rpartition("q")[2]) < 10]
    assert study.history.unique == 25
    assert len(trained) == 250


# -- orders ------------------------------------------------------------------------------------------------------------


def rising(request: Generate, number: int) -> Any:
    """Every child is better than all before it, until all are perfect."""
    prompt = request.prompt[-1].content
    shown = shown_in(prompt)
    if shown is None:
        instruction, question = prompt.rsplit("\nq", 1)
        good = int(instruction.split()[-1].rstrip(".")) if instruction[-2].isdigit() else 0
        return Completion(f"a{question}" if int(question) < good else "wrong")
    best = max(int(text.split()[-1].rstrip(".")) for text in shown)
    return Completion(f"<prompt>Level {best + 1}.</prompt>")


def levels(order: Order) -> list[list[int]]:
    """Of each generation, the levels of the third prompts that its requests show."""
    endpoint = FakeEndpoint(rising)
    pool = ("Seed 1.", "Other 1.", "Some 1.", "Any 1.")
    optimizer = EvoPromptDE(popsize=4, generations=2, pool=pool, initial_mode="topk", order=order)
    run(optimizer, endpoint, task=replace(TASK, initial=("Begin 1.",)))
    asked = [shown for prompt in endpoint.prompts if (shown := shown_in(prompt)) is not None]
    thirds = [int(shown[2].split()[-1].rstrip(".")) for shown in asked]
    return [thirds[:4], thirds[4:]]


def test_a_serial_child_sees_what_its_elder_siblings_found_and_a_parallel_one_what_was_there_before() -> None:
    assert levels("best_at_generation_start") == [[1, 1, 1, 1], [2, 2, 2, 2]]
    assert levels("serial_best") == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_in_serial_order_a_repeated_child_joins_again_and_is_not_scored_again() -> None:
    endpoint = Toy()
    study, _ = run(replace(GA, order="serial_best"), endpoint)
    entries = study.history.entries
    assert len(entries) > study.history.unique
    questions = [prompt for prompt in endpoint.prompts if shown_in(prompt) is None]
    assert len(questions) == len(set(questions))
    parallel, _ = run(GA)
    assert len(parallel.history.entries) == parallel.history.unique


@pytest.mark.parametrize("order", ORDERS[:2])
@pytest.mark.parametrize("optimizer", [GA, DE])
def test_the_seed_decides_everything_and_neither_latency_nor_faults(
    optimizer: EvoPromptGA | EvoPromptDE, order: Order
) -> None:
    optimizer = replace(optimizer, order=order, generations=2)

    def history(endpoint: Toy, concurrency: int, seed: int = 0) -> Any:
        return run(optimizer, endpoint, concurrency=concurrency, seed=seed)[0].history.entries

    first = history(Toy(), 64)
    assert history(Toy(1, 0.1), 3) == first
    assert history(Toy(2, 0.05), 1) == first
    assert history(Toy(), 64, seed=1) != first


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("optimizer", [GA, DE])
def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(
    optimizer: EvoPromptGA | EvoPromptDE, order: Order, tmp_path: Path
) -> None:
    optimizer = replace(optimizer, order=order, generations=2)
    whole, result = run(optimizer)
    assert result is not None
    for number, share in enumerate((0.2, 0.5, 0.8)):
        assert run(optimizer, Toy(1), directory=tmp_path / f"{number}", until=share * result.seconds)[1] is None
        again, ended = run(optimizer, Toy(2), directory=tmp_path / f"{number}")
        assert ended is not None
        assert again.history.entries == whole.history.entries


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_where_paraphrases_are_of_no_use_the_next_of_the_pool_take_their_places() -> None:
    def mute(request: Generate, number: int) -> Completion:
        prompt = request.prompt[-1].content
        shown = shown_in(prompt)
        return Completion(" " if shown is not None and len(shown) == 1 else answer_to(prompt))

    study, _ = run(GA, FakeEndpoint(mute))
    starts = sorted(study.history.starting_points().entries, key=lambda one: (-(one.score or 0), one.step, one.index))
    assert list(family_of(study).first) == starts[:6]


def test_an_empty_prompt_is_scored_and_is_no_parent() -> None:
    endpoint = Toy()
    study, _ = run(replace(GA, pool=("One.", "Two.", "Three.")), endpoint, task=replace(TASK, initial=("",)))
    assert study.history.entry("") is not None
    assert endpoint.asked
    assert all(all(shown) for shown in endpoint.asked)


def test_a_proposer_that_says_nothing_usable_ends_with_the_best_of_the_pool() -> None:
    def mute(request: Generate, number: int) -> Completion:
        prompt = request.prompt[-1].content
        return Completion("" if shown_in(prompt) is not None else answer_to(prompt))

    study, result = run(DE, FakeEndpoint(mute))
    assert result is not None
    assert study.history.unique == 1 + len(POOL)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        (EvoPromptGA, {"popsize": 1}, "evoprompt-ga's popsize is 1; it must be at least 2"),
        (EvoPromptDE, {"popsize": 3}, "evoprompt-de's popsize is 3; it must be at least 4"),
        (EvoPromptGA, {"generations": -1}, "generations is -1"),
        (EvoPromptGA, {"top_p": 0.0}, "top_p is 0.0"),
        (EvoPromptGA, {"temperature": float("nan")}, "temperature is nan"),
        (EvoPromptGA, {"max_tokens": 0}, "max_tokens is 0"),
        (EvoPromptGA, {"selection": "wheel"}, "selection is 'wheel'; it must be one of roulette, random, tour"),
        (EvoPromptGA, {"initial_mode": "best"}, "it must be one of para_topk, para_bottomk"),
        (EvoPromptDE, {"template": "v4"}, "one of v1, v2, v3"),
        (EvoPromptDE, {"order": "parallel"}, "one of best_at_generation_start, serial_best, steady_state"),
        (EvoPromptGA, {"update": "std", "order": "steady_state"}, "drop one"),
        (EvoPromptDE, {"order": "serial_best", "lag": 2}, "leave lag out, or choose steady_state"),
        (EvoPromptDE, {"faithful": True, "racing": 0.1}, "which the reference lacks"),
        (EvoPromptDE, {"faithful": True, "order": "steady_state"}, "which the reference lacks"),
    ],
)
def test_settings_that_mean_nothing_are_refused(kind: Any, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(**wrong)


def test_models_prompts_and_calls_are_asked_for_before_anything_runs() -> None:
    async def inside() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint())
            blank = replace(TASK, initial=("",))
            few = replace(GA, scoring_calls=139)
            for optimizer, task, scorer, proposer, said in [
                (GA, LinearRegression(), None, model, "has none"),
                (GA, TASK, model, None, "--proposer"),
                (GA, TASK, None, model, "--scorer"),
                (replace(DE, pool=()), blank, model, model, "no prompt with words"),
                (few, TASK, model, model, "the 13 starting points and one candidate take 140"),
                (GA, Task("untrained", "text", (), EXAMPLES), model, model, "no training examples"),
            ]:
                with pytest.raises(ConfigError, match=said):
                    optimizer.check(task, scorer, proposer)
            replace(DE, pool=()).check(TASK, model, model)

    run_virtual(inside)


def built(mode: str = "parallel", **options: Any) -> Any:
    tables = {"task": {"name": "toy"}, "optimizer": options, "mode": mode}
    return check(tables).build_optimizer(TASK)


def test_both_are_built_from_a_configuration() -> None:
    assert built(name="evoprompt-ga") == EvoPromptGA()
    options = {"template": "v3", "pool": [], "order": "steady_state", "lag": 4}
    assert built(name="evoprompt-de", **options) == EvoPromptDE(template="v3", pool=(), order="steady_state", lag=4)
    faithful = built("faithful", name="evoprompt-de")
    assert (faithful.faithful, faithful.order, faithful.steps) == (True, "serial_best", 110)
    with pytest.raises(ConfigError, match="did you mean generations"):
        built(name="evoprompt-ga", generation=3)
    with pytest.raises(ConfigError, match="no option selection; it has lag"):
        built(name="evoprompt-de", selection="tour")
    with pytest.raises(ConfigError, match="pool: Input should be a valid list"):
        built(name="evoprompt-de", pool="one")
    with pytest.raises(
        ConfigError, match="no option steps; it counts generations: give --set optimizer.generations=N; it has"
    ):
        built(name="evoprompt-ga", steps=3)
    with pytest.raises(ConfigError, match="template"):
        built(name="evoprompt-de", template="v9")
