"""The arithmetic of deep language networks: tables of log-probabilities in, weights, rewards and choices out.

Pure functions on float arrays whose axes carry these letters: B examples of the batch (the paper's i), K sampled hidden
texts of an example (j), P candidate prompts (k), C classes (c). The symbols are those of Sordoni et al., "Joint Prompt
Optimization of Stacked LLMs using Variational Inference" (NeurIPS 2023): pi_0 is the prompt of the hidden layer and
pi_1 that of the output layer, h a hidden text, r = F_r(h, x) the input that the output layer gets. As in the reference
code, and unlike the paper's Algorithm 2, the log-probability of a hidden text is its mean per token.

A log-probability may be ``-inf``; none of these functions makes a NaN of it. Tables whose shapes disagree are refused
with a ValueError. numpy is imported at the top: whoever is on the path of ``import asyncopt`` imports this lazily.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from asyncopt.errors import ConfigError
from asyncopt.optimizers.dln.options import UNIFORM_FROM

Table: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]


def candidates(current: str, memory: Iterable[str], new: Iterable[str]) -> list[str]:
    """The prompts to choose from, each once: the current one first, then the memory's, then the new proposals.

    With M prompts in memory and N - 1 proposals that is N + M at most. The reference code adds its memory a second time
    and scores N + 2M; as the first of equals wins, its choice is the same.
    """
    return list(dict.fromkeys([current, *memory, *new]))


def best_candidate(rewards: Table) -> int:
    """The index of the largest of P rewards; the first of equals wins, so the current prompt wins its ties.

    A NaN is refused: the largest of such rewards would be the NaN itself, whatever it stands for.
    """
    _sizes(rewards=(rewards, "P"))
    if np.isnan(rewards).any():
        raise ValueError(f"the rewards {rewards.tolist()} are not all numbers; no candidate can be chosen")
    return int(np.argmax(rewards))


def prompt_score(logprob: Table) -> Table:
    """The score of each prompt of a single layer (DLN-1), shape (P,): ``mean_i log p(y_i | F(x_i, pi_k))``.

    ``logprob`` has the shape (P, B). In accuracy mode it holds 1 where the answer is right and 0 elsewhere.
    """
    _sizes(logprob=(logprob, "PB"))
    return _mean(logprob)


def posterior_weights(
    output_logprob: Table,
    *,
    prior: Table | None = None,
    mutual_information: Table | None = None,
    proposal_logprob: Table | None = None,
    temperature: float = 1.0,
    hidden_argmax: bool = False,
) -> Table:
    """The weights w_ij of the hidden texts h_ij in the approximate posterior q(h), shape (B, K); a row sums to 1.

    The softmax over j of the logits divided by ``temperature`` (1 / alpha in the paper). Tables of shape (B, K) make up
    the logits, where None leaves a term out:

    - ``output_logprob``: log p(y_i | F_r(h_ij, x_i), pi_1); in accuracy mode 1 for a right answer, 0 for a wrong one;
    - plus ``prior``: mean log p(h_ij | F(x_i, pi_0)), there by default in the reference code;
    - minus ``mutual_information``: log p(y_i | F(h_ij, pi_1)), the answer from the hidden text without the input;
    - minus ``proposal_logprob``: mean log q(h_ij), which corrects for where the samples came from.

    Uniform with one sample, or from the temperature ``UNIFORM_FROM`` on; the tables are then not looked at. A row of
    nothing but ``-inf`` prefers no sample and is uniform too. With ``hidden_argmax`` all weight is on h*.
    """
    if not temperature > 0:
        raise ConfigError(
            f"posterior_temperature is {temperature!r}; it must be above 0. Use hidden_argmax to keep the best alone"
        )
    samples = _sizes(output_logprob=(output_logprob, "BK"))["K"]
    if samples == 1 or temperature >= UNIFORM_FROM:
        weights = np.full(output_logprob.shape, 1 / samples)
    else:
        logits = _logits(output_logprob, prior, mutual_information, proposal_logprob)
        weights = np.exp(_log_softmax(logits / temperature))
    return np.eye(samples)[best_hidden(weights)] if hidden_argmax else weights


def _logits(output: Table, prior: Table | None, mutual_information: Table | None, proposal: Table | None) -> Table:
    logits = output
    terms = {"prior": (prior, 1), "mutual_information": (mutual_information, -1), "proposal_logprob": (proposal, -1)}
    with np.errstate(invalid="ignore"):  # what cannot be added is refused below
        for name, (term, sign) in terms.items():
            if term is not None:
                _sizes(output_logprob=(output, "BK"), **{name: (term, "BK")})
                logits = logits + sign * term
    if not (logits < np.inf).all():
        raise ValueError("a posterior logit is infinite or no number; the log-probabilities must be numbers or -inf")
    # Where every sample is impossible none is preferred.
    return np.where(np.isneginf(logits.max(axis=1, keepdims=True)), 0.0, logits)


def best_hidden(weights: Table) -> NDArray[np.intp]:
    """The index of h*_i, each example's hidden text of the largest weight, shape (B,); the first of equals wins."""
    _sizes(weights=(weights, "BK"))
    return np.asarray(np.argmax(weights, axis=1))


def elbo_output(logprob: Table, weights: Table) -> Table:
    """The bound of each candidate output prompt, ELBO2, shape (P,).

    ``mean_i sum_j w_ij log p(y_i | F_r(h_ij, x_i), pi_1k)`` from ``logprob`` (P, B, K) and ``weights`` (B, K). What has
    no weight is not looked at.
    """
    return _expectation(logprob, weights)


def kl_divergence(current: Table, proposed: Table) -> Table:
    """How far each candidate output prompt moves the class distributions from the current prompt's, shape (P,), nats.

    ``mean_i sum_c P_cur(c) [log P_cur(c) - log P_k(c)]`` at the forward hidden texts, from class log-probabilities:
    ``current`` (B, C) and ``proposed`` (P, B, C). A class that the current prompt rules out adds nothing.
    """
    if current.shape[-1:] in ((), (0,)):
        raise ConfigError(_NO_CLASSES)
    _sizes(current=(current, "BC"), proposed=(proposed, "PBC"))
    probability = np.exp(current)
    ruled_in = np.broadcast_to(probability > 0, proposed.shape)
    ratio = np.subtract(current, proposed, out=np.zeros_like(proposed), where=ruled_in)
    return _mean((probability * ratio).sum(axis=2))


_NO_CLASSES = (
    "a trust_factor compares distributions over classes, and this task has no classes; "
    "set trust_factor to 0 or give the task its classes"
)


def output_reward(elbo: Table, kl: Table | None, trust_factor: float) -> Table:
    """What the output prompt is chosen by, shape (P,): ``ELBO2 - trust_factor * KL``, both of shape (P,).

    ``kl`` is None for a task without classes, and may be None where the factor is 0. Without classes the reference code
    takes the logarithm of negative numbers, and then never changes the prompt.
    """
    if trust_factor == 0:
        return elbo
    if kl is None:
        raise ConfigError(_NO_CLASSES)
    _sizes(elbo=(elbo, "P"), kl=(kl, "P"))
    return elbo - trust_factor * kl


def elbo_hidden(logprob: Table, weights: Table, *, nce: bool = False) -> Table:
    """The bound of each candidate hidden prompt, ELBO1, shape (P,).

    ``mean_i sum_j w_ij L_ijk`` with ``L_ijk = mean log p(h_ij | F(x_i, pi_0k))``, from ``logprob`` (P, B, K) and
    ``weights`` (B, K). What has no weight is not looked at, except with ``nce``, where the log-softmax over j takes the
    place of L_ijk: the prompt then is to tell the good hidden texts of an example from its poor ones.
    """
    return _expectation(_log_softmax(logprob) if nce else logprob, weights)


def exploration(forward_logprob: Table, wrong: Mask, logp_penalty: float) -> Table:
    """What each candidate hidden prompt gets for making the wrong thoughts of the forward pass unlikely, shape (P,).

    ``-(lambda / B) * sum_{i wrong} L_i0k`` from ``forward_logprob`` (P, B), the mean log-probabilities of the forward
    hidden texts, with ``wrong`` (B,) where the network's answer was; lambda is ``logp_penalty``. The log-probabilities
    of examples that were right are not looked at, and none is where lambda is 0.
    """
    sizes = _sizes(forward_logprob=(forward_logprob, "PB"), wrong=(wrong, "B"))
    if logp_penalty == 0:
        return np.zeros(sizes["P"])
    # In C order, so that a candidate's sum is the same whatever candidates stand beside it.
    thoughts = np.ascontiguousarray(forward_logprob[:, wrong])
    return np.asarray(-logp_penalty * thoughts.sum(axis=1) / sizes["B"])


def hidden_reward(elbo: Table, explored: Table) -> Table:
    """What the hidden prompt is chosen by, shape (P,): ``ELBO1`` plus :func:`exploration`, both of shape (P,).

    A prompt that cannot give the good hidden texts at all stays at ``-inf``, however unlikely it makes the wrong ones.
    """
    _sizes(elbo=(elbo, "P"), explored=(explored, "P"))
    return np.add(elbo, explored, out=elbo.copy(), where=~np.isneginf(elbo))


def logp_penalty_at(step: int, steps: int, logp_penalty: float, decay: bool) -> float:
    """The lambda of an iteration, counted from 0: the penalty, or with ``decay`` ``penalty * (1 - step / steps)``."""
    return logp_penalty * (1 - step / steps) if decay else logp_penalty


def _expectation(logprob: Table, weights: Table) -> Table:
    """``mean_i sum_j w_ij L_ijk``, shape (P,); 0 times anything is 0, as what has no weight may not have been asked."""
    _sizes(logprob=(logprob, "PBK"), weights=(weights, "BK"))
    weighted = np.multiply(weights, logprob, out=np.zeros(logprob.shape), where=weights > 0)
    return _mean(weighted.sum(axis=2))


def _log_softmax(logits: Table) -> Table:
    """The logarithm of the softmax over the last axis; ``-inf`` throughout where all of it is ``-inf``."""
    shifted = logits - _or_zero(logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted - _or_zero(np.logaddexp.reduce(shifted, axis=-1, keepdims=True)))


def _or_zero(table: Table) -> Table:
    """The table with 0 for ``-inf``, which can be taken off another ``-inf``."""
    return np.where(np.isneginf(table), 0.0, table)


def _mean(table: Table) -> Table:
    """The mean over the last axis, in the batch's order: a candidate's does not depend on what stands beside it."""
    return np.asarray(table.mean(axis=-1))


def _sizes(**tables: tuple[NDArray[np.generic], str]) -> dict[str, int]:
    """The size of every axis by its letter; a ValueError where the tables do not agree or there is nothing in one."""
    sizes: dict[str, int] = {}
    for name, (table, axes) in tables.items():
        found = dict(zip(axes, table.shape, strict=False))
        agrees = all(size == sizes.get(axis, size) for axis, size in found.items())
        if table.ndim != len(axes) or table.size == 0 or not agrees:
            known = ", ".join(f"{axis} = {sizes[axis]}" for axis in axes if axis in sizes) or "each at least 1"
            raise ValueError(f"{name} has the shape {table.shape}; wanted ({', '.join(axes)}) with {known}")
        sizes |= found
    return sizes
