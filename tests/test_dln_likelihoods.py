"""The three estimators: what each asks for, what an answer is worth, and which of them a model can serve."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from dln_toy import AMPLE, CHAT_ONLY, FREE, FULL, TASK, Toy, ask_of
from fakes import run_virtual

from asyncopt import Engine, Example
from asyncopt.errors import ConfigError, MissingCapability
from asyncopt.optimizers import DLN1
from asyncopt.optimizers.dln.asking import Table
from asyncopt.optimizers.dln.inference import Choice, comparable
from asyncopt.optimizers.dln.likelihoods import (
    Accuracy,
    ClassLogProbs,
    Exact,
    OutputEstimator,
    check_output,
    output_estimator,
    text_request,
)
from asyncopt.values import Capabilities, Completion, Generate, Likelihood, Request, Sampling, TokenLogprob

YES, NO = Example(1, "is it?", "yes"), Example(2, "is it?", "no")
np = pytest.importorskip("numpy")


def first_token(**shown: float) -> Completion:
    top = tuple((text.replace("_", " "), math.log(share)) for text, share in shown.items())
    return Completion("x", token_logprobs=(TokenLogprob("x", top[0][1], top),))


def continuation(*logprobs: float) -> Completion:
    return Completion("", token_logprobs=tuple(TokenLogprob("t", value) for value in logprobs))


def test_the_estimator_follows_from_the_options_and_from_the_classes() -> None:
    def kind(task: Any, **options: Any) -> type[OutputEstimator]:
        return type(output_estimator(task, DLN1(**options)))

    assert kind(TASK) is ClassLogProbs
    assert kind(FREE) is Exact
    assert kind(TASK, output_scoring="accuracy") is kind(FREE, output_scoring="accuracy") is Accuracy
    names = [output_estimator(task, DLN1()).name for task in (TASK, FREE)]
    names.append(output_estimator(TASK, DLN1(output_scoring="accuracy")).name)
    assert len(set(names)) == 3
    assert ["not the paper's" in name for name in names] == [False, False, True]


def test_classes_are_read_from_the_first_token_after_a_line_break() -> None:
    classes = ClassLogProbs(TASK, 7)
    request = classes.request("Say it.\n\nq?\n\nAnswer:", YES)
    assert request == Generate.of("Say it.\n\nq?\n\nAnswer:\n", Sampling(temperature=0.0, max_tokens=1), top_logprobs=7)
    # Masses 0.1 + (0.4 + 0.1 + 0.2 + 0.1) and 0.1 + (0.1 + 0.1 + 0.1 + 0.3): what is not shown counts 0.1.
    completion = first_token(yes=0.4, _yes=0.2, _No=0.3, maybe=0.1)
    assert classes.value(completion, YES) == pytest.approx(math.log(0.9 / 1.6), abs=1e-12)
    assert classes.value(completion, NO) == pytest.approx(math.log(0.7 / 1.6), abs=1e-12)
    assert classes.answer(completion) == "yes"
    assert classes.answer(first_token(no=0.6, yes=0.1)) == "no"


def test_an_answer_without_a_first_token_favours_no_class() -> None:
    classes = ClassLogProbs(TASK, 20)
    assert classes.logprobs(Completion("")) == pytest.approx([math.log(0.5)] * 2)


def test_a_text_is_worth_the_mean_of_its_tokens_after_the_burn_in() -> None:
    exact = Exact(0.05)
    assert exact.request("a context", replace(YES, target="forty two")) == Likelihood.of("a context\n", "forty two")
    assert exact.value(continuation(-1.0, -2.0), YES) == pytest.approx(-3 / (2 + 1e-5), abs=1e-12)
    forty = continuation(-100.0, -100.0, *[-1.0] * 38)  # the first two of forty do not count
    assert exact.value(forty, YES) == pytest.approx(-38 / (38 + 1e-5), abs=1e-12)


def test_an_empty_text_is_scored_as_the_line_break_that_would_end_it() -> None:
    assert text_request("thoughts:", "") == Likelihood.of("thoughts:\n", "\n")


def test_accuracy_is_of_the_greedy_answer_and_the_forward_pass_asks_the_same() -> None:
    optimizer = DLN1(output_scoring="accuracy", forward_tokens=9)
    accuracy = output_estimator(TASK, optimizer)
    layer = optimizer.program(TASK).output
    request = accuracy.request(layer.context("Say it.", YES.input), YES)
    assert isinstance(request, Generate)
    assert (request.sampling.temperature, request.sampling.max_tokens, request.top_logprobs) == (0.0, 9, 0)
    assert request == layer.request("Say it.", YES.input)
    assert [accuracy.value(Completion(text), YES) for text in ("yes", "no", "")] == [1.0, 0.0, 0.0]


def test_the_forward_pass_by_classes_asks_what_the_scoring_asks() -> None:
    layer = DLN1().program(TASK).output
    assert layer.request("Say it.", YES.input) == layer.estimator.request(layer.context("Say it.", YES.input), YES)


@pytest.mark.parametrize(
    ("task", "options", "supports", "refused"),
    [
        (TASK, {}, FULL, None),
        (TASK, {}, Capabilities(top_logprobs=20), None),
        (TASK, {"top_logprobs": 5}, Capabilities(top_logprobs=5), None),
        (TASK, {}, Capabilities(top_logprobs=5), "set top_logprobs to 5 or less"),
        (TASK, {}, Capabilities(prompt_logprobs=True), "gives none; set output_scoring"),
        (FREE, {}, Capabilities(prompt_logprobs=True), None),
        (FREE, {}, Capabilities(top_logprobs=20), "no log-probabilities of given texts"),
        (TASK, {"output_scoring": "accuracy"}, CHAT_ONLY, None),
        (FREE, {"output_scoring": "accuracy"}, CHAT_ONLY, None),
    ],
)
def test_a_model_that_cannot_serve_the_estimator_is_refused(
    task: Any, options: dict[str, Any], supports: Capabilities, refused: str | None
) -> None:
    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=Toy(supports=supports), quota=AMPLE)
            if refused is None:
                check_output(task, DLN1(**options), model)
            else:
                with pytest.raises(MissingCapability, match=refused):
                    check_output(task, DLN1(**options), model)

    run_virtual(main)


def test_the_answer_of_every_class_must_be_graded_as_right() -> None:
    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=Toy(), quota=AMPLE)
            check_output(replace(TASK, classes=("Yes|yes", "no")), DLN1(), model)
            with pytest.raises(ConfigError, match="'maybe|no'"):
                check_output(replace(TASK, classes=("yes", "maybe|no")), DLN1(), model)

    run_virtual(main)


# -- tables --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_place", [False, True])
def test_a_table_asks_for_what_shares_a_beginning_together_and_for_each_candidate_once(by_place: bool) -> None:
    endpoint = Toy(lambda request: Completion(request.prompt[-1].content))

    def request(candidate: str, place: int) -> Request:
        return Generate.of(f"{candidate}{place}")

    async def main() -> list[list[str]]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=AMPLE)
            table = Table(
                model, 3, request, lambda completion, place: f"{completion.text}@{place}", "-", by_place=by_place
            )
            table.add(["a", "b", "a"])
            table.add(["b", "c"])
            return [await table.row(candidate) for candidate in ("c", "a", "b")]

    rows = run_virtual(main)
    assert rows == [[f"{candidate}{place}@{place}" for place in range(3)] for candidate in "cab"]
    asked = [one.prompt[-1].content for one in endpoint.requests]
    first = ["a0", "b0", "a1", "b1", "a2", "b2"] if by_place else ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert asked == [*first, "c0", "c1", "c2"]


def test_what_a_table_lacks_is_left_out_of_the_comparison() -> None:
    nan = float("nan")
    table = np.array(
        [
            [[0.0, 1.0], [nan, 1.0], [2.0, 3.0]],  # the current prompt: its second example has no score
            [[0.0, 1.0], [nan, nan], [2.0, 3.0]],
            [[0.0, 1.0], [5.0, 5.0], [2.0, nan]],  # lacks one that the others have
            [[0.0, -np.inf], [5.0, 5.0], [2.0, 3.0]],  # impossible is not missing
        ]
    )
    examples, candidates = comparable(table)
    assert examples.tolist() == [True, False, True]
    assert candidates.tolist() == [True, True, False, True]


def test_the_largest_reward_is_chosen_and_infinite_ones_are_no_json_numbers() -> None:
    async def main() -> Choice:
        async with Engine() as engine:
            rewards = np.array([-2.0, -1.0, -np.inf, -1.0])
            ask = ask_of(engine.model("m", endpoint=Toy(), quota=AMPLE), DLN1())
            return ask.choice(0, "prompt", ["a", "b", "c", "d"], rewards, elbo=rewards + 0.5)

    best, report = run_virtual(main)
    assert best == "b"
    assert report == {"chosen": 1, "rewards": [-2.0, -1.0, None, -1.0], "elbo": -0.5}
