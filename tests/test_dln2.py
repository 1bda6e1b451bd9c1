"""DLN-2: the inference of both layers against the one by hand, its order and its calls, and what stands in for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dln_by_hand import TwoByHand
from dln_toy import AMPLE, CHAT_ONLY, FREE, FULL, TASK, Toy, ask_of, decisions, kind_of, run, states, text_of, toy_model
from fakes import run_virtual

from asyncopt import Engine, MemoryCache, Quota, evaluate
from asyncopt.directory import read_journal
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import ConfigError, MissingCapability
from asyncopt.journal import Journal
from asyncopt.optimizers import DLN2
from asyncopt.optimizers.dln.dln2 import TwoLayerNetwork
from asyncopt.optimizers.dln.layers import forward, pair_of, prompts_of
from asyncopt.optimizers.dln.loop import batch_of
from asyncopt.values import Capabilities, Fault, FaultKind, Likelihood, Request

OPTIMIZER = DLN2(steps=3, prompt_samples=4, batch_size=8)
LABELS = Capabilities(top_logprobs=20)
WITH_OPTIONS = replace(
    TASK, train=tuple(replace(one, input=f"{one.input}\nOptions:\n- yes\n- no") for one in TASK.train)
)

# -- the whole training against the one by hand --------------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {},
    {"memory": 2, "tolerance": 1, "trust_factor": 2.0, "logp_penalty": 1.0, "validate_every": 1},
    {"trust_factor": 0.5, "posterior_temperature": 0.5, "held_out_ranking": True, "balanced": True},
    {"include_prior": False, "posteriors": ("label", "prior"), "proposal": "sections"},
    {"correct_weighting": True, "mutual_information": True, "posteriors": ("edit",)},
    {"hidden_argmax": True, "logp_penalty": 2.0, "decay_logp_penalty": False},
    {"nce": True, "hidden_steps": 3, "memory": 1, "validate_every": 1},
    {"rewrite_wrong_only": True, "hidden_form": "analysis", "posteriors": ("edit", "label", "prior")},
    {"hidden_samples": 1},
    {"posterior_temperature": 100.0, "hidden_samples": 5},
    {"train_output": False, "initial_output": "Answer with yes or no."},
    {"train_hidden": False, "initial_hidden": "Think.", "trust_factor": 1.0},
    {"residual": False, "strip_options": True},
    {"tolerance": 0, "memory": 2, "validate_every": 1, "lag": 1, "trust_factor": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_training_is_that_of_the_reference_in_its_sequential_order(tmp_path: Path, options: dict[str, Any]) -> None:
    optimizer = replace(OPTIMIZER, **options)
    task = WITH_OPTIONS if optimizer.strip_options else TASK
    by_hand = TwoByHand(task, optimizer, 0)
    by_hand.train((optimizer.first_hidden(task), optimizer.first_output(task)))
    run(Toy(seed=1), optimizer, task=task, directory=tmp_path / "run")
    found = states(tmp_path / "run")[1:]
    assert [prompts_of(state["current"]) for state in found] == [one["current"] for one in by_hand.states]
    numbers = {one["step"]: one for one in by_hand.found}
    assert numbers
    for state in found:
        expected, report = numbers.get(state["step"], {}), state["report"]
        for layer in ("hidden", "output"):
            assert report[layer].get("rewards", []) == pytest.approx(expected.get(layer, []), abs=1e-12)
    # The wrong examples come first, as many as are shown.
    last = found[-1]["report"]["examples"]
    assert all(sum(one["weights"]) == pytest.approx(1.0) for one in last)
    shown = [(one["samples"], one["weights"]) for one in last]
    all_of_them = list(zip(by_hand.found[-1]["samples"], by_hand.found[-1]["weights"], strict=True))
    assert all(any(a == samples and b == pytest.approx(weights) for a, b in all_of_them) for samples, weights in shown)


def test_layers_that_are_not_trained_keep_their_prompts() -> None:
    def prompts(**options: Any) -> list[tuple[str, str]]:
        optimizer = replace(OPTIMIZER, initial_hidden="Think.", initial_output="Say yes or no.", **options)
        return [prompts_of(entry.candidate) for entry in run(Toy(), optimizer).study.history.entries]

    assert {output for _, output in prompts(train_output=False)} == {"Say yes or no."}
    assert {hidden for hidden, _ in prompts(train_hidden=False)} == {"Think."}
    assert len(set(prompts(train_output=False))) > 1
    assert len(set(prompts(train_hidden=False))) > 1


def test_a_batch_without_an_error_changes_nothing_and_asks_for_nothing() -> None:
    task = replace(TASK, train=tuple(replace(one, target="yes") for one in TASK.train))

    def sure(request: Request) -> Answer:
        answer = toy_model(request)
        if kind_of(request) != "classes":
            return answer
        assert not isinstance(answer, Fault)
        return replace(answer, token_logprobs=(replace(answer.token_logprobs[0], top=(("yes", -0.1), ("no", -3.0))),))

    endpoint = Toy(sure)
    run(endpoint, OPTIMIZER, task=task)
    assert endpoint.count("proposal") == endpoint.count("posterior") == endpoint.count("likelihood") == 0


# -- order, calls and time -------------------------------------------------------------------------------------------------------


def test_an_iteration_takes_six_round_trips() -> None:
    def seconds(steps: int) -> float:
        options = {"trust_factor": 1.0, "logp_penalty": 1.0, "memory": 2, "validate_every": 1}
        return run(Toy(seconds=1.0), replace(OPTIMIZER, steps=steps, **options)).seconds

    # q, weights, proposals, scores, and the two layers of the next forward pass; validation is beside that.
    # Before them the first forward pass, at the end the test of one or two candidates.
    times = [seconds(steps) for steps in (1, 2, 3, 5)]
    assert [(time - 2 - 6 * steps) in (2, 4) for time, steps in zip(times, (1, 2, 3, 5), strict=True)] == [True] * 4


def test_one_iteration_makes_the_references_calls_without_its_duplicates(tmp_path: Path) -> None:
    """B = 20, N = 20, K = 5, M = 5 and a trust region: the reference makes 7,220 forward and 138 backward calls."""
    batch, prompts, samples, memory = 20, 20, 5, 5
    optimizer = DLN2(
        batch_size=batch, prompt_samples=prompts, hidden_samples=samples, memory=memory, trust_factor=1.0
    )  # fmt: skip
    iteration = calls_of_one_iteration(optimizer)
    candidates = prompts + memory  # the current one, N - 1 proposals, M of the memory
    hidden, answers = batch, batch
    weights, prior = batch * samples, batch * samples
    output = (candidates - 1) * batch * samples  # the current prompt's are those of the weights
    trust = (candidates - 1) * batch  # the current prompt's are those of the forward pass
    hidden_prompts = candidates * batch * (samples + 1) - batch * samples  # h1 and the samples, less the prior's
    assert (hidden, answers, weights, prior) == (20, 20, 100, 100)
    assert (output, trust, hidden_prompts) == (2400, 480, 2900)
    assert iteration == {
        "hidden": hidden,
        "classes": answers + weights + output + trust,
        "likelihood": prior + hidden_prompts,
        "posterior": 100,
        "proposal": 19 + 19,
    }
    ours = sum(iteration.values()) - 138
    assert ours == 6020
    # What the reference makes beyond that are the prompts of its memory, which it scores a second time.
    assert ours + memory * (batch * samples + batch + batch * (samples + 1)) == 7220


def calls_of_one_iteration(optimizer: DLN2) -> Counter[str]:
    """The calls of a forward pass and the inference on it, with M prompts in memory that are not the current one."""
    endpoint = Toy()
    memory = [pair_of(f"Way {number}", f"Say {number}.") for number in range(optimizer.memory)]

    async def main() -> None:
        async with Engine(cache=MemoryCache()) as engine:
            model = engine.model("m", endpoint=endpoint, quota=AMPLE)
            network = TwoLayerNetwork(ask_of(model, optimizer), optimizer, optimizer.program(TASK))
            batch = TASK.train[: optimizer.batch_size]
            passes = await forward(model, network.layers, TASK, pair_of("", "Say it."), batch)
            await network.improve(0, pair_of("", "Say it."), passes, memory)

    run_virtual(main)
    return Counter(map(kind_of, endpoint.requests))


def test_neither_latencies_nor_faults_nor_concurrency_change_a_run(tmp_path: Path) -> None:
    optimizer = replace(OPTIMIZER, memory=2, tolerance=1, trust_factor=1.0, validate_every=1)
    for number, (seed, faults, concurrency) in enumerate([(1, 0.05, 1), (2, 0.05, 16), (3, 0.0, 256)]):
        directory = tmp_path / str(number)
        run(Toy(seed=seed, faults=faults), optimizer, quota=Quota(concurrency=concurrency), directory=directory)
        assert decisions(directory) == decisions(tmp_path / "0")


def test_a_run_that_was_killed_after_any_record_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    optimizer = replace(OPTIMIZER, memory=2, tolerance=0, validate_every=1, lag=1)
    run(Toy(seed=1), optimizer, directory=tmp_path / "whole")
    records = read_journal(tmp_path / "whole")
    for length in range(len(records) - 1):
        other = tmp_path / str(length)
        other.mkdir()
        (other / "manifest.json").write_bytes((tmp_path / "whole" / "manifest.json").read_bytes())
        journal = Journal(other / "journal.jsonl")
        for record in records[:length]:
            journal.append(record.kind, record.data)
        journal.close()
        run(Toy(seed=length), optimizer, directory=other)
        assert decisions(other) == decisions(tmp_path / "whole")


def test_requests_that_share_a_beginning_stand_together() -> None:
    def runs(texts: Sequence[str]) -> int:
        return 1 + sum(a != b for a, b in pairwise(texts))

    endpoint = Toy(seconds=1.0)
    run(endpoint, replace(OPTIMIZER, steps=1, prompt_samples=5))
    # The output layer's prompt stands first, the hidden layer's input does.
    together = list(zip(endpoint.requests, endpoint.started, strict=True))
    last = max(time for one, time in together if kind_of(one) == "likelihood")
    inputs = [text_of(one).split("\n")[0] for one, time in together if kind_of(one) == "likelihood" and time == last]
    assert runs(inputs) <= 2 * 8  # the current prompt, and the proposals, which came at once
    scoring = [text_of(one) for one, time in together if kind_of(one) == "classes" and text_of(one)[:3] == "Try"]
    candidates = [text.split("\n")[0] for text in scoring]
    assert runs(candidates[: 4 * 8 * 3]) == 4


# -- q(h) ------------------------------------------------------------------------------------------------------------------------


def test_only_wrong_examples_are_rewritten_where_that_is_wanted() -> None:
    endpoint = Toy()
    by_hand = TwoByHand(TASK, replace(OPTIMIZER, steps=1, rewrite_wrong_only=True), 0)
    by_hand.train(("", "Say it."))
    run(endpoint, replace(OPTIMIZER, steps=1, rewrite_wrong_only=True))
    drawn = sum(len(set(samples)) > 1 for samples in by_hand.found[0]["samples"])
    assert 0 < drawn < 8
    assert endpoint.count("posterior") == 3 * drawn


def test_with_hidden_argmax_only_the_best_hidden_text_is_scored() -> None:
    def scored(**options: Any) -> int:
        endpoint = Toy()
        run(endpoint, replace(OPTIMIZER, steps=1, train_hidden=False, **options), cache=MemoryCache())
        return sum(text_of(one).startswith("Try") and "\nq" in text_of(one) for one in endpoint.requests)

    few, many = scored(hidden_argmax=True), scored()
    assert few < many
    assert few >= 3 * 8


def test_a_hidden_text_that_is_lost_is_replaced_by_the_forward_one(tmp_path: Path) -> None:
    def lossy(request: Request) -> Answer:
        return Fault(FaultKind.REFUSED, "planned") if kind_of(request) == "posterior" else toy_model(request)

    run(Toy(lossy), OPTIMIZER, directory=tmp_path / "run")
    for state in states(tmp_path / "run")[1:]:
        for one in state["report"].get("examples", ()):
            assert one["samples"] == [one["hidden"]] * 3
            assert one["weights"] == pytest.approx([1 / 3] * 3)


def test_an_example_that_cannot_be_weighed_takes_no_part(tmp_path: Path) -> None:
    def squeamish(request: Request) -> Answer:
        refused = isinstance(request, Likelihood) and text_of(request).startswith("q4?")
        return Fault(FaultKind.REFUSED, "planned") if refused else toy_model(request)

    optimizer = replace(OPTIMIZER, batch_size=30, steps=1, prompt_samples=1)
    run(Toy(squeamish), optimizer, directory=tmp_path / "run")
    report = states(tmp_path / "run")[1]["report"]
    by_hand, candidate = TwoByHand(TASK, optimizer, 0), ("", "Say it.")
    batch = batch_of(TASK, optimizer, by_hand.rng(0, "batch"))
    passed = [by_hand.answer(candidate, one) for one in batch]
    hidden, inputs = [one[0] for one in passed], [one[1] for one in passed]
    losses = [float(answer != one.target) for one, (_, _, answer) in zip(batch, passed, strict=True)]
    samples, q = by_hand.posterior(0, candidate, batch, hidden, losses)
    weights = [by_hand.weights(candidate, one, texts, row) for one, texts, row in zip(batch, samples, q, strict=True)]
    for table in (hidden, inputs, losses, samples, weights):
        del table[[one.id for one in batch].index(4)]  # type: ignore[attr-defined]
    batch = [one for one in batch if one.id != 4]
    _, output = by_hand.output_prompt(0, ["Say it."], [], batch, inputs, samples, weights)
    assert report["output"]["rewards"] == pytest.approx(output, abs=1e-12)
    score = by_hand.hidden_score(0, "", batch, hidden, losses, samples, weights)
    assert report["hidden"]["rewards"] == pytest.approx([score], abs=1e-12)


# -- models that cannot do everything ----------------------------------------------------------------------------------------------


def test_without_log_probabilities_of_given_texts_the_exact_estimator_is_refused_and_the_others_are_named() -> None:
    endpoint = Toy(supports=LABELS)
    with pytest.raises(MissingCapability) as caught:
        run(endpoint, OPTIMIZER)
    assert endpoint.requests == []
    words = ["DLN-2 rests on", 'hidden_scoring to "sampled"', '"none" with train_hidden off', "neither is the paper's"]
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("output_scoring", ["logprobs", "accuracy"])
def test_sampled_hidden_texts_stand_in_and_are_called_that(tmp_path: Path, output_scoring: Any) -> None:
    endpoint = Toy(supports=LABELS if output_scoring == "logprobs" else CHAT_ONLY)
    optimizer = replace(OPTIMIZER, hidden_scoring="sampled", output_scoring=output_scoring)
    run(endpoint, optimizer, directory=tmp_path / "run")
    assert endpoint.count("likelihood") == 0
    last = states(tmp_path / "run")[-1]
    assert last["estimators"]["hidden"] == "agreement of sampled hidden texts (not the paper's estimator)"
    assert len(last["report"]["hidden"]["rewards"]) == 4
    assert len({prompts_of(state["current"])[0] for state in states(tmp_path / "run")}) > 1


def test_agreement_is_the_mean_over_samples_of_the_answers_they_lead_to(tmp_path: Path) -> None:
    optimizer = replace(OPTIMIZER, hidden_scoring="sampled", steps=1, train_output=False, prompt_samples=1)
    endpoint = Toy(supports=LABELS)
    run(endpoint, optimizer, directory=tmp_path / "run")
    drawn = [one for one in endpoint.requests if kind_of(one) == "posterior" and one.sampling.temperature == 1.0]  # type: ignore[union-attr]
    by_hand = TwoByHand(TASK, optimizer, 0)
    inputs = {one.input: one for one in TASK.train}
    total = 0.0
    for request in drawn:
        example = inputs[text_of(request).split("\n")[0]]
        answer = toy_model(request)
        assert not isinstance(answer, Fault)
        total += by_hand.output("Say it.", by_hand.residual(example, answer.text), example)
    assert len(drawn) == 8 * 3
    rewards = states(tmp_path / "run")[1]["report"]["hidden"]["rewards"]
    assert rewards == pytest.approx([total / len(drawn)], abs=1e-12)


def test_without_any_scoring_of_hidden_texts_the_output_layer_alone_is_trained(tmp_path: Path) -> None:
    endpoint = Toy(supports=LABELS)
    optimizer = replace(OPTIMIZER, hidden_scoring="none", train_hidden=False)
    run(endpoint, optimizer, directory=tmp_path / "run")
    assert endpoint.count("likelihood") == 0
    assert "not the paper's" in states(tmp_path / "run")[0]["estimators"]["hidden"]


def test_a_backward_model_needs_no_log_probabilities_unless_its_samples_are_reweighted() -> None:
    async def main() -> None:
        async with Engine() as engine:
            forward = engine.model("f", endpoint=Toy(), quota=AMPLE)
            backward = engine.model("b", endpoint=Toy(supports=CHAT_ONLY), quota=AMPLE)
            OPTIMIZER.check(TASK, forward, backward)
            with pytest.raises(MissingCapability, match="correct_weighting"):
                replace(OPTIMIZER, correct_weighting=True).check(TASK, forward, backward)

    run_virtual(main)


@pytest.mark.parametrize(
    ("options", "supports", "word"),
    [
        ({"trust_factor": 1.0}, FULL, "trust_factor"),
        ({"mutual_information": True, "hidden_scoring": "sampled", "output_scoring": "accuracy"}, LABELS, "mutual"),
    ],
)
def test_what_has_no_meaning_without_classes_or_log_probabilities_is_refused(
    options: dict[str, Any], supports: Capabilities, word: str
) -> None:
    endpoint = Toy(supports=supports)
    with pytest.raises(ConfigError, match=word):
        run(endpoint, replace(OPTIMIZER, **options), task=FREE)
    assert endpoint.requests == []


def test_targets_without_classes_are_trained_on_without_a_trust_region(tmp_path: Path) -> None:
    run(Toy(), OPTIMIZER, task=FREE, directory=tmp_path / "run")
    rewards = [state["report"]["output"]["rewards"] for state in states(tmp_path / "run")[1:]]
    assert all(reward is not None for row in rewards for reward in row)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_samples": 0},
        {"posterior_temperature": 0.0},
        {"trust_factor": -1.0},
        {"posteriors": ()},
        {"posteriors": ("prior", "poems")},
        {"hidden_scoring": "guessed"},
        {"hidden_scoring": "none"},
        {"train_hidden": False, "train_output": False},
        {"hidden_scoring": "sampled", "nce": True},
        {"hidden_scoring": "sampled", "logp_penalty": 1.0},
        {"output_scoring": "accuracy", "trust_factor": 1.0},
        {"output_scoring": "accuracy", "correct_weighting": True},
        {"hidden_form": "verse"},
        {"templates": {"hidden": "{{ prompt }}"}},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"dln"):
        DLN2(**options)


# -- candidates --------------------------------------------------------------------------------------------------------------------


def test_a_candidate_is_a_pair_as_json_whatever_the_prompts_are() -> None:
    for hidden, output in (("", ""), ('{"hidden": 1}', "{{ input }}"), ("a\nb", "Ä \ud800")):
        text = pair_of(hidden, output)
        assert text.startswith('{"hidden":')
        assert prompts_of(text) == (hidden, output.replace("\ud800", "\ufffd"))
    for text in ("", "Say it.", "[]", '{"hidden": 1, "output": "b"}', '{"hidden": "a"}', '"hidden output"'):
        with pytest.raises(ConfigError, match="two layers"):
            prompts_of(text)


def test_the_two_layers_answer_an_example_in_two_calls_and_see_what_they_should() -> None:
    endpoint = Toy()
    task = replace(WITH_OPTIONS, test=WITH_OPTIONS.train[:2])
    program = replace(OPTIMIZER, strip_options=True).program(task)

    async def main() -> float | None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=AMPLE)
            candidate = pair_of("Think {{ hard }}.", "Say it.")
            return (await evaluate(model, task, candidate, task.test, program=program)).score

    score = run_virtual(main)
    hidden = [text_of(one) for one in endpoint.requests if kind_of(one) == "hidden"]
    output = [text_of(one) for one in endpoint.requests if kind_of(one) == "classes"]
    assert len(hidden) == len(output) == 2
    assert all("Think {{ hard }}." in text and "Options:" not in text for text in hidden)
    assert all("Options:\n- yes" in text and "thought " in text for text in output)
    by_hand = TwoByHand(task, replace(OPTIMIZER, strip_options=True), 0)
    right = [by_hand.answer(("Think {{ hard }}.", "Say it."), one)[2] == one.target for one in task.test]
    assert score == sum(right) / 2
