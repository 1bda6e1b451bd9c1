"""DLN's formulae against loops written down from the paper and the reference's behaviour, number by number."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from asyncopt.errors import ConfigError
from asyncopt.optimizers.dln.formulae import (
    Table,
    best_candidate,
    best_hidden,
    candidates,
    elbo_hidden,
    elbo_output,
    exploration,
    hidden_reward,
    kl_divergence,
    logp_penalty_at,
    output_reward,
    posterior_weights,
    prompt_score,
)
from asyncopt.values import LogProb

NEVER = -math.inf
SHAPES = [(1, 1, 1), (1, 4, 3), (3, 1, 5), (4, 6, 2), (25, 20, 5), (7, 10, 10)]  # P, B, K


def close(wanted: object) -> object:
    return pytest.approx(wanted, rel=1e-12, abs=1e-12)


def logprobs(seed: int, *shape: int) -> Table:
    """Log-probabilities of a mean token, or of an answer: between -9 and 0."""
    return -np.random.default_rng(seed).exponential(1.5, shape).clip(0, 9)


def weights_of(seed: int, batch: int, samples: int) -> Table:
    return np.random.default_rng(seed).dirichlet(np.full(samples, 0.7), size=batch)


def class_table(seed: int, *shape: int) -> Table:
    """Normalised class log-probabilities along the last axis."""
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1]))


def softmax(logits: Sequence[float]) -> list[float]:
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


# --- what is chosen from, and the choice ---


def test_there_are_n_plus_m_candidates_and_not_n_plus_2m() -> None:
    memory = [f"remembered {index}" for index in range(5)]
    new = [f"proposed {index}" for index in range(19)]
    found = candidates("current", memory, new)
    assert found == ["current", *memory, *new]
    assert len(found) == 20 + 5


@pytest.mark.parametrize(
    ("memory", "new", "wanted"),
    [
        ([], [], ["now"]),
        (["now"], ["now"], ["now"]),
        (["old", "now"], ["new", "old", "new", "now"], ["now", "old", "new"]),
        (["", "old"], [" old"], ["now", "", "old", " old"]),
    ],
)
def test_each_candidate_stands_once_where_it_first_came(memory: list[str], new: list[str], wanted: list[str]) -> None:
    assert candidates("now", memory, new) == wanted


@given(st.lists(st.sampled_from("abcd"), max_size=5), st.lists(st.sampled_from("abcdef"), max_size=6), st.data())
def test_adding_the_memory_twice_changes_no_choice(memory: list[str], new: list[str], data: st.DataObject) -> None:
    ours, reference = candidates("a", memory, new), ["a", *memory, *new, *memory]
    reward = {prompt: data.draw(st.sampled_from([-2.0, -1.0, 0.0])) for prompt in set(reference)}
    chosen = ours[best_candidate(np.array([reward[prompt] for prompt in ours]))]
    assert chosen == reference[int(np.argmax([reward[prompt] for prompt in reference]))]


@pytest.mark.parametrize(
    ("rewards", "wanted"),
    [
        ([-1.0], 0),
        ([-2.0, -1.0, -3.0], 1),
        ([-1.0, -1.0, -1.0], 0),
        ([-2.0, -1.0, -1.0], 1),
        ([NEVER, NEVER], 0),
        ([NEVER, -1e300], 1),
        ([-1.0, math.inf], 1),
    ],
)
def test_the_best_candidate_is_the_first_of_the_largest(rewards: list[float], wanted: int) -> None:
    assert best_candidate(np.array(rewards)) == wanted


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_reward_that_is_no_number_is_refused(place: int) -> None:
    rewards = np.array([-1.0, -2.0, -3.0])
    rewards[place] = math.nan
    with pytest.raises(ValueError, match="not all numbers"):
        best_candidate(rewards)


# --- log-probabilities of texts, and the score of one layer ---


@pytest.mark.parametrize("burn_in", [0.0, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("count", [1, 2, 19, 20, 39, 40, 256])
def test_the_mean_log_probability_drops_the_first_tokens(count: int, burn_in: float) -> None:
    tokens = [float(token) for token in logprobs(count, count)]
    kept = tokens[math.floor(burn_in * count) :]
    wanted = 0.0
    for token in kept:
        wanted += token
    assert LogProb(tuple(tokens)).mean(burn_in) == close(wanted / (len(kept) + 1e-5))


def test_five_per_cent_of_forty_tokens_are_two() -> None:
    assert LogProb((-9.0, -9.0, *[-1.0] * 38)).mean(0.05) == close(-38 / 38.00001)


@pytest.mark.parametrize(("prompts", "batch", "_"), SHAPES)
def test_the_score_of_one_layer_is_the_mean_over_the_batch(prompts: int, batch: int, _: int) -> None:
    table = logprobs(1, prompts, batch)
    wanted = []
    for k in range(prompts):
        total = 0.0
        for i in range(batch):
            total += table[k, i]
        wanted.append(total / batch)
    assert prompt_score(table) == close(wanted)


def test_the_score_in_accuracy_mode_is_the_accuracy() -> None:
    assert prompt_score(np.array([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])).tolist() == [0.75, 0.25]


# --- the posterior ---


def slow_weights(
    output: Table, prior: Table | None, mutual: Table | None, proposal: Table | None, temperature: float
) -> list[list[float]]:
    batch, samples = output.shape
    rows = []
    for i in range(batch):
        logits = []
        for j in range(samples):
            logit = float(output[i, j])
            if prior is not None:
                logit += prior[i, j]
            if mutual is not None:
                logit -= mutual[i, j]
            if proposal is not None:
                logit -= proposal[i, j]
            logits.append(logit / temperature)
        rows.append(softmax(logits))
    return rows


@pytest.mark.parametrize("temperature", [0.25, 0.75, 1.0, 2.0, 99.0])
@pytest.mark.parametrize("terms", range(8))
@pytest.mark.parametrize(("batch", "samples"), [(1, 2), (6, 5), (20, 10)])
def test_posterior_weights_are_the_softmax_of_their_terms(
    batch: int, samples: int, terms: int, temperature: float
) -> None:
    output = logprobs(2, batch, samples)
    prior = logprobs(3, batch, samples) if terms & 1 else None
    mutual = logprobs(4, batch, samples) if terms & 2 else None
    proposal = logprobs(5, batch, samples) if terms & 4 else None
    found = posterior_weights(
        output, prior=prior, mutual_information=mutual, proposal_logprob=proposal, temperature=temperature
    )
    assert found.tolist() == [close(row) for row in slow_weights(output, prior, mutual, proposal, temperature)]
    assert found.sum(axis=1) == close([1.0] * batch)


def test_posterior_weights_of_a_table_made_by_hand() -> None:
    likelihood = np.log([[0.5, 0.25], [0.1, 0.3]])
    prior = np.log([[0.2, 0.4], [0.6, 0.2]])
    assert posterior_weights(likelihood).tolist() == [close([2 / 3, 1 / 3]), close([1 / 4, 3 / 4])]
    assert posterior_weights(likelihood, prior=prior).tolist() == [close([0.5, 0.5])] * 2
    assert posterior_weights(likelihood, mutual_information=prior)[0].tolist() == close([0.8, 0.2])
    assert posterior_weights(likelihood, proposal_logprob=prior)[0].tolist() == close([0.8, 0.2])
    assert posterior_weights(likelihood, temperature=0.5)[0].tolist() == close([0.8, 0.2])


def test_in_accuracy_mode_a_right_sample_weighs_e_times_a_wrong_one() -> None:
    right, wrong = math.e / (2 * math.e + 1), 1 / (2 * math.e + 1)
    found = posterior_weights(np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert found.tolist() == [close([right, wrong, right]), close([1 / 3] * 3)]


@pytest.mark.parametrize(("samples", "temperature"), [(1, 1.0), (1, 1e-3), (4, 100.0), (4, 1e9)])
def test_weights_are_uniform_without_a_look_at_the_tables(samples: int, temperature: float) -> None:
    unasked = np.full((3, samples), math.nan)
    found = posterior_weights(unasked, prior=unasked, temperature=temperature)
    assert found.tolist() == [[1 / samples] * samples] * 3
    assert best_hidden(found).tolist() == [0, 0, 0]


def test_weights_are_not_uniform_just_below_the_limit() -> None:
    assert posterior_weights(np.array([[-9.0, 0.0]]), temperature=99.9)[0, 1] > 0.5


def test_far_apart_and_very_small_probabilities_neither_overflow_nor_vanish() -> None:
    found = posterior_weights(np.array([[-1e5, -1e5 + 1], [-2e4, 0.0]]))
    assert found.tolist() == [close(softmax([0.0, 1.0])), [0.0, 1.0]]


def test_an_impossible_sample_has_no_weight_and_only_impossible_ones_are_equal() -> None:
    found = posterior_weights(np.array([[NEVER, -1.0, -1.0], [NEVER, NEVER, NEVER]]))
    assert found.tolist() == [close([0.0, 0.5, 0.5]), close([1 / 3] * 3)]


@pytest.mark.parametrize(
    "terms",
    [
        {"prior": np.array([[math.nan, 0.0]])},
        {"prior": np.array([[math.inf, 0.0]])},
        {"mutual_information": np.array([[NEVER, 0.0]])},
    ],
)
def test_a_logit_that_is_no_number_is_refused(terms: dict[str, Table]) -> None:
    for output in (np.array([[-1.0, -2.0]]), np.array([[NEVER, -2.0]])):
        with pytest.raises(ValueError, match="posterior logit"):
            posterior_weights(output, **terms)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_divides_by_nothing_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="posterior_temperature is .* above 0.*hidden_argmax"):
        posterior_weights(np.zeros((2, 2)), temperature=temperature)


def test_h_star_is_the_first_of_the_largest_weights() -> None:
    assert best_hidden(np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4], [1.0, 0.0, 0.0]])).tolist() == [1, 0, 0]


@pytest.mark.parametrize(("batch", "samples"), [(1, 1), (6, 5), (20, 10)])
def test_hidden_argmax_puts_all_weight_on_h_star(batch: int, samples: int) -> None:
    output, prior = logprobs(6, batch, samples), logprobs(7, batch, samples)
    found = posterior_weights(output, prior=prior, hidden_argmax=True)
    star = best_hidden(posterior_weights(output, prior=prior))
    for i in range(batch):
        assert found[i].tolist() == [1.0 if j == star[i] else 0.0 for j in range(samples)]


def test_with_hidden_argmax_the_bound_is_that_of_h_star_alone() -> None:
    weights = posterior_weights(logprobs(8, 6, 4), hidden_argmax=True)
    table = logprobs(9, 5, 6, 4)
    alone = np.take_along_axis(table, best_hidden(weights)[None, :, None], axis=2)
    assert elbo_output(table, weights) == close(elbo_output(alone, np.ones((6, 1))))


# --- the bounds ---


def slow_elbo(table: Table, weights: Table) -> list[float]:
    prompts, batch, samples = table.shape
    rewards = []
    for k in range(prompts):
        total = 0.0
        for i in range(batch):
            for j in range(samples):
                total += weights[i, j] * table[k, i, j]
        rewards.append(total / batch)
    return rewards


def slow_nce(table: Table, weights: Table) -> list[float]:
    tables = np.empty_like(table)
    for k, i in np.ndindex(*table.shape[:2]):
        for j, share in enumerate(softmax([float(value) for value in table[k, i]])):
            tables[k, i, j] = math.log(share)
    return slow_elbo(tables, weights)


@pytest.mark.parametrize("bound", [elbo_output, elbo_hidden])
@pytest.mark.parametrize(("prompts", "batch", "samples"), SHAPES)
def test_both_bounds_are_weighted_means(
    prompts: int, batch: int, samples: int, bound: Callable[[Table, Table], Table]
) -> None:
    table, weights = logprobs(10, prompts, batch, samples), weights_of(11, batch, samples)
    found = bound(table, weights)
    assert found.shape == (prompts,)
    assert found == close(slow_elbo(table, weights))


@pytest.mark.parametrize(("prompts", "batch", "samples"), SHAPES)
def test_the_nce_bound_takes_the_softmax_over_the_samples(prompts: int, batch: int, samples: int) -> None:
    table, weights = logprobs(12, prompts, batch, samples), weights_of(13, batch, samples)
    assert elbo_hidden(table, weights, nce=True) == close(slow_nce(table, weights))


def test_a_bound_made_by_hand() -> None:
    weights = np.array([[0.25, 0.75], [1.0, 0.0]])
    table = np.array([[[-4.0, -8.0], [-2.0, -100.0]], [[0.0, -4.0], [-1.0, 0.0]]])
    assert elbo_output(table, weights).tolist() == [-4.5, -2.0]
    assert elbo_hidden(np.log([[[0.2, 0.6], [0.3, 0.1]]]), weights, nce=True) == close(
        [(0.25 * math.log(0.25) + 0.75 * math.log(0.75) + math.log(0.75)) / 2]
    )


def test_nce_of_one_sample_tells_no_prompt_from_another() -> None:
    assert elbo_hidden(logprobs(14, 4, 3, 1), np.ones((3, 1)), nce=True).tolist() == [0.0] * 4


def test_a_bound_is_minus_infinity_where_a_weighed_text_is_impossible_and_nowhere_else() -> None:
    weights = np.array([[0.5, 0.5, 0.0]])
    table = np.array([[[NEVER, -1.0, -1.0]], [[-1.0, -3.0, NEVER]], [[-1.0, -1.0, math.nan]], [[NEVER] * 3]])
    assert elbo_output(table, weights).tolist() == [NEVER, -2.0, -1.0, NEVER]
    assert elbo_hidden(table[[0, 3]], weights, nce=True).tolist() == [NEVER, NEVER]


@pytest.mark.parametrize("bound", [elbo_output, elbo_hidden, lambda t, w: elbo_hidden(t, w, nce=True)])
def test_a_candidate_has_the_same_bound_whatever_stands_beside_it(bound: Callable[[Table, Table], Table]) -> None:
    """To the last bit, or equal prompts would not tie; also where the table was filled in another order of axes."""
    table, weights = logprobs(15, 25, 20, 5), weights_of(16, 20, 5)
    together = bound(table, weights)
    assert [bound(table[[k]], weights)[0] for k in range(25)] == together.tolist()
    for order in (None, (1, 2, 0)):
        filled = np.ascontiguousarray(table.transpose(order)).transpose(np.argsort(order) if order else None)
        assert bound(filled, weights).tolist() == together.tolist()


# --- the trust region ---


@pytest.mark.parametrize("classes", [1, 2, 7])
@pytest.mark.parametrize(("prompts", "batch", "_"), SHAPES)
def test_the_divergence_is_the_mean_over_the_batch(prompts: int, batch: int, classes: int, _: int) -> None:
    current, proposed = class_table(17, batch, classes), class_table(18, prompts, batch, classes)
    wanted = []
    for k in range(prompts):
        total = 0.0
        for i in range(batch):
            for c in range(classes):
                total += math.exp(current[i, c]) * (current[i, c] - proposed[k, i, c])
        wanted.append(total / batch)
    assert kl_divergence(current, proposed) == close(wanted)


@given(st.integers(0, 2**32 - 1))
@example(0)
def test_the_current_prompt_moves_nothing_and_no_other_moves_backwards(seed: int) -> None:
    current = class_table(seed, 5, 3)
    proposed = np.concatenate([current[None], class_table(seed + 1, 4, 5, 3)])
    found = kl_divergence(current, proposed)
    assert found[0] == 0.0
    assert (found[1:] > 0).all()


def test_a_divergence_made_by_hand() -> None:
    current = np.log([[0.5, 0.5], [0.75, 0.25]])
    proposed = np.log([[[0.25, 0.75], [0.75, 0.25]]])
    assert kl_divergence(current, proposed) == close([0.5 * (0.5 * math.log(2) + 0.5 * math.log(2 / 3))])


def test_ruled_out_classes_add_nothing_or_everything() -> None:
    current = np.array([[0.0, NEVER]])
    proposed = np.array([[[math.log(0.5), math.log(0.5)]], [[0.0, NEVER]], [[NEVER, 0.0]]])
    assert kl_divergence(current, proposed).tolist() == [close(math.log(2)), 0.0, math.inf]


def test_one_class_leaves_nothing_to_move() -> None:
    assert kl_divergence(np.zeros((4, 1)), np.zeros((3, 4, 1))).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("trust_factor", [0.25, 1.0, 5.0])
def test_the_output_reward_takes_the_divergence_off(trust_factor: float) -> None:
    elbo, kl = logprobs(19, 6), -logprobs(20, 6)
    assert output_reward(elbo, kl, trust_factor) == close(
        [float(e) - trust_factor * float(d) for e, d in zip(elbo, kl, strict=True)]
    )


def test_a_trust_region_can_keep_the_current_prompt() -> None:
    elbo, kl = np.array([-1.0, -0.5]), np.array([0.0, 0.2])
    assert best_candidate(output_reward(elbo, kl, 1.0)) == 1
    assert best_candidate(output_reward(elbo, kl, 5.0)) == 0


def test_without_trust_no_divergence_is_needed() -> None:
    elbo = np.array([-1.0, -0.5])
    assert output_reward(elbo, None, 0.0).tolist() == [-1.0, -0.5]
    assert output_reward(elbo, np.array([0.0, math.inf]), 0.0).tolist() == [-1.0, -0.5]
    assert output_reward(np.array([NEVER, -1.0]), np.array([math.inf, math.inf]), 1.0).tolist() == [NEVER, NEVER]


def test_a_trust_region_without_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="no classes; set trust_factor to 0"):
        output_reward(np.array([-1.0]), None, 1.0)
    with pytest.raises(ConfigError, match="no classes; set trust_factor to 0"):
        kl_divergence(np.zeros((4, 0)), np.zeros((3, 4, 0)))


# --- the hidden prompt's reward ---


@pytest.mark.parametrize("penalty", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("prompts", "batch", "_"), SHAPES)
def test_exploration_sums_over_the_wrong_and_divides_by_all(prompts: int, batch: int, penalty: float, _: int) -> None:
    table = logprobs(21, prompts, batch)
    wrong = np.random.default_rng(22).random(batch) < 0.4
    wanted = []
    for k in range(prompts):
        total = 0.0
        for i in range(batch):
            if wrong[i]:
                total += table[k, i]
        wanted.append(-penalty / batch * total)
    found = exploration(table, wrong, penalty)
    assert found.shape == (prompts,)
    assert found == close(wanted)


def test_exploration_made_by_hand() -> None:
    table = np.array([[-1.0, -2.0, -4.0, -8.0], [-8.0, -4.0, -2.0, -1.0]])
    assert exploration(table, np.array([True, False, False, True]), 2.0).tolist() == [4.5, 4.5]
    assert exploration(table, np.array([True, True, True, True]), 1.0).tolist() == [3.75, 3.75]
    assert exploration(table, np.array([True, False, False, False]), 1.0).tolist() == [0.25, 2.0]


def test_exploration_is_nothing_where_nothing_was_wrong_or_nothing_is_wanted() -> None:
    unasked = np.full((3, 4), math.nan)
    assert exploration(unasked, np.zeros(4, dtype=bool), 2.0).tolist() == [0.0] * 3
    assert exploration(unasked, np.ones(4, dtype=bool), 0.0).tolist() == [0.0] * 3


def test_exploration_is_the_same_whatever_stands_beside_a_candidate() -> None:
    table, wrong = logprobs(23, 25, 40), np.arange(40) % 3 > 0
    together = exploration(table, wrong, 0.5)
    assert [exploration(table[[k]], wrong, 0.5)[0] for k in range(25)] == together.tolist()


def test_the_hidden_reward_adds_exploration_but_not_to_the_impossible() -> None:
    elbo, explored = np.array([-2.0, -1.0, NEVER, NEVER]), np.array([1.5, 0.0, 3.0, math.inf])
    assert hidden_reward(elbo, explored).tolist() == [-0.5, -1.0, NEVER, NEVER]
    assert elbo.tolist() == [-2.0, -1.0, NEVER, NEVER]


@pytest.mark.parametrize(
    ("step", "decay", "wanted"), [(0, True, 2.0), (5, True, 1.5), (19, True, 0.1), (20, True, 0.0), (19, False, 2.0)]
)
def test_the_penalty_falls_to_nothing_over_the_steps(step: int, decay: bool, wanted: float) -> None:
    assert logp_penalty_at(step, 20, 2.0, decay) == close(wanted)


# --- shapes ---

ROW, SQUARE, CUBE = np.zeros(3), np.zeros((2, 3)), np.zeros((4, 2, 3))


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda: prompt_score(ROW), "logprob has the shape (3,); wanted (P, B) with each at least 1"),
        (lambda: prompt_score(np.zeros((2, 0))), "logprob has the shape (2, 0); wanted (P, B) with each at least 1"),
        (lambda: best_candidate(np.zeros(0)), "rewards has the shape (0,); wanted (P)"),
        (lambda: best_hidden(ROW), "weights has the shape (3,); wanted (B, K)"),
        (lambda: posterior_weights(CUBE), "output_logprob has the shape (4, 2, 3); wanted (B, K)"),
        (
            lambda: posterior_weights(SQUARE, prior=SQUARE.T),
            "prior has the shape (3, 2); wanted (B, K) with B = 2, K = 3",
        ),
        (
            lambda: posterior_weights(SQUARE, proposal_logprob=np.zeros((2, 1))),
            "proposal_logprob has the shape (2, 1); wanted (B, K) with B = 2, K = 3",
        ),
        (
            lambda: elbo_output(CUBE, np.zeros((4, 2))),
            "weights has the shape (4, 2); wanted (B, K) with B = 2, K = 3",
        ),
        (lambda: elbo_hidden(SQUARE, SQUARE), "logprob has the shape (2, 3); wanted (P, B, K)"),
        (
            lambda: kl_divergence(np.zeros((2, 4)), CUBE),
            "proposed has the shape (4, 2, 3); wanted (P, B, C) with B = 2, C = 4",
        ),
        (lambda: output_reward(ROW, np.zeros(1), 1.0), "kl has the shape (1,); wanted (P) with P = 3"),
        (
            lambda: exploration(SQUARE, np.zeros(2, dtype=bool), 1.0),
            "wrong has the shape (2,); wanted (B) with B = 3",
        ),
        (lambda: hidden_reward(ROW, np.zeros(2)), "explored has the shape (2,); wanted (P) with P = 3"),
    ],
)
def test_tables_that_do_not_fit_are_refused(call: Callable[[], object], wanted: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wanted)):
        call()


def test_no_table_is_changed() -> None:
    table, weights, wrong = logprobs(24, 3, 4, 2), weights_of(25, 4, 2), np.array([True, False, True, False])
    kept: list[NDArray[np.generic]] = [table.copy(), weights.copy(), wrong.copy()]
    elbo = elbo_hidden(table, posterior_weights(table[0], prior=weights), nce=True)
    hidden_reward(elbo, exploration(table[:, :, 0], wrong, 1.0))
    kl_divergence(table[0], table)
    for before, after in zip(kept, (table, weights, wrong), strict=True):
        assert before.tolist() == after.tolist()


def test_importing_the_package_of_dln_does_not_import_numpy() -> None:
    code = "import sys, asyncopt.optimizers.dln; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
