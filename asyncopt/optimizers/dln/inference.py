"""What the inference of both networks is made of: proposals, tables of scores, and the choice among candidates.

numpy is imported at the top: whoever is on the path of ``import asyncopt`` imports this lazily.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from asyncopt.engine import Model
from asyncopt.optimizers.base import Search
from asyncopt.optimizers.dln import formulae
from asyncopt.optimizers.dln.asking import NAN, Proposer, Rows, Table
from asyncopt.optimizers.dln.formulae import Mask
from asyncopt.optimizers.dln.formulae import Table as Numbers
from asyncopt.optimizers.dln.layers import OutputLayer
from asyncopt.optimizers.dln.options import Training
from asyncopt.optimizers.dln.proposals import prompt_requests
from asyncopt.optimizers.dln.roles import Case
from asyncopt.tasks.task import Example
from asyncopt.values import Completion, Request

Choice: TypeAlias = tuple[str, dict[str, Any]]  # a layer's prompt, and how it was chosen


@dataclass(frozen=True)
class Ask:
    """What the steps of a search ask the two models, whichever layer it is for."""

    search: Search
    options: Training
    scorer: Model
    proposer: Proposer

    def proposals(
        self, group: asyncio.TaskGroup, step: int, purpose: str, bases: Sequence[str], cases: Sequence[Case]
    ) -> list[asyncio.Task[str | None]]:
        """N - 1 proposals on their way: each from its own order of the batch, from the bases in turn."""
        requests = prompt_requests(
            self.proposer.templates,
            bases,
            cases,
            self.options.prompt_samples - 1,
            partial(self.search.rng, step, f"{purpose}: batch"),
            half=self.options.held_out_ranking,
        )
        return [
            group.create_task(self.proposer.prompt(step, purpose, index, request))
            for index, request in enumerate(requests)
        ]

    def output_table(self, layer: OutputLayer, inputs: Sequence[tuple[Example, str]]) -> Table[float]:
        """log p(y | F(r, π)) of candidate prompts for these examples and inputs r, one a place."""

        def request(candidate: str, place: int) -> Request:
            example, text = inputs[place]
            return layer.estimator.request(layer.context(candidate, text), example)

        def read(completion: Completion, place: int) -> float:
            return layer.estimator.value(completion, inputs[place][0])

        return Table(self.scorer, len(inputs), request, read, NAN)

    def choice(self, step: int, purpose: str, prompts: Sequence[str], rewards: Numbers, **parts: Numbers) -> Choice:
        """The prompt of the largest reward; all rewards, and what that one's is made of, for the report."""
        best = formulae.best_candidate(rewards)
        plain = [_plain(reward) for reward in rewards]
        self.search.trace("choice", {"step": step, "purpose": purpose, "prompts": prompts, "rewards": plain})
        return prompts[best], {
            "chosen": best,
            "rewards": plain,
            **{name: _plain(of[best]) for name, of in parts.items()},
        }


def _plain(number: float) -> float | None:
    """The number for JSON, which has no infinite ones."""
    return float(number) if math.isfinite(number) else None


async def all_rows(rows: Rows, candidates: Iterable[str]) -> list[list[float]]:
    """The candidates' scores, in their order."""
    return [await rows.row(candidate) for candidate in candidates]


def comparable(table: Numbers) -> tuple[Mask, Mask]:
    """The examples (B,) and the candidates (P,) of a table (P, B, K) that can be compared; NaN is what is missing.

    An example on which the current prompt, the first, has no score is left out for all of them; a candidate that lacks
    one of the others is out of the choice: a failed call is no score of 0, and none of 1 either.
    """
    missing = np.asarray(np.isnan(table).any(axis=2))
    examples: Mask = np.logical_not(missing[0])
    return examples, np.logical_not(np.asarray(missing[:, examples].any(axis=1)))
