"""Log-probabilities of a task's classes from the most probable first tokens of an answer.

A class is written as its verbalizers, the spellings that stand for it, with ``|`` between: ``yes|Yes``. The first is
its prototype, the text that is graded. numpy is imported at the top: whoever is on the path of ``import asyncopt``
imports this lazily.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asyncopt.errors import ConfigError

Aggregate: TypeAlias = Literal["sum", "max"]


def class_logprobs(
    top: Iterable[tuple[str, float]], classes: Sequence[str], aggregate: Aggregate = "sum"
) -> NDArray[np.float64]:
    """The log-probability of each class, shape (C,), normalised over the classes (reference code).

    ``top`` are the most probable first tokens with their log-probabilities. The mass of a class is ``m`` plus the sum,
    or the largest, of the probabilities of its verbalizers, each with and without a space before it; one that is not
    in ``top`` counts ``m``, the smallest probability there. So a class that the server does not show is improbable and
    never impossible. ``np.exp`` of the result is the distribution that the trust region compares.
    """
    if not classes:
        raise ConfigError("class log-probabilities need classes, and this task has none; score it by accuracy instead")
    shown = _shown(top)
    floor = min(shown.values(), default=0.0)  # where nothing is shown, any floor cancels (the reference's is 1e-6)
    total = np.logaddexp.reduce if aggregate == "sum" else np.max
    masses = np.array(
        [
            np.logaddexp(floor, total([shown.get(spelling, floor) for spelling in spellings(verbalizers)]))
            for verbalizers in classes
        ]
    )
    return np.asarray(masses - np.logaddexp.reduce(masses))


def _shown(top: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The log-probability of every shown text; tokens that read the same add up, impossible ones are left out."""
    shown: dict[str, float] = {}
    for text, logprob in top:
        if not logprob < math.inf:
            raise ValueError(f"the token {text!r} has the log-probability {logprob!r}; it must be a number")
        if logprob > -math.inf:
            shown[text] = float(np.logaddexp(shown[text], logprob)) if text in shown else logprob
    return shown


def spellings(verbalizers: str) -> tuple[str, ...]:
    """How a class can appear as a first token: each of its verbalizers without and with a space before it, once."""
    plain = verbalizers.split("|")
    return tuple(dict.fromkeys([*plain, *(f" {verbalizer}" for verbalizer in plain)]))


def prototype(verbalizers: str) -> str:
    """The text that stands for a class: its first verbalizer."""
    return verbalizers.split("|")[0]


def predicted_class(logprobs: NDArray[np.float64]) -> int:
    """The index of the most probable class from the log-probabilities (C,); the first of equals wins."""
    return int(np.argmax(logprobs))


def prediction(logprobs: NDArray[np.float64], classes: Sequence[str]) -> str:
    """The answer that a layer gives: the prototype of the most probable class."""
    return prototype(classes[predicted_class(logprobs)])
