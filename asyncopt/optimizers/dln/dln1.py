"""One iteration of DLN-1: propose prompts from a batch's errors, score them all on it, take the best (algorithm 1)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asyncopt.optimizers.dln import formulae
from asyncopt.optimizers.dln.asking import arrived
from asyncopt.optimizers.dln.inference import Ask, all_rows, comparable
from asyncopt.optimizers.dln.layers import OneLayer, Passed
from asyncopt.optimizers.dln.loop import Improved, accuracy_of


@dataclass(frozen=True)
class OneLayerNetwork:
    """DLN-1 in one search."""

    ask: Ask
    layers: OneLayer

    async def improve(self, step: int, candidate: str, passes: Sequence[Passed], memory: Sequence[str]) -> Improved:
        accuracy = accuracy_of(passes)
        if self.ask.options.output_scoring == "accuracy" and accuracy == 1.0:
            return Improved(candidate, {"skipped": "no example of the batch was wrong", "elbo": accuracy})
        rows = self.ask.output_table(self.layers.output, [(one.example, one.input) for one in passes])
        try:
            async with asyncio.TaskGroup() as group:
                proposals = self.ask.proposals(
                    group, step, "prompt", [candidate, *memory], [one.case for one in passes]
                )
                new = await arrived([rows], [candidate, *memory], proposals)
                prompts = formulae.candidates(candidate, memory, new)
                table = np.array(await all_rows(rows, prompts))
        finally:
            rows.close()
        examples, usable = comparable(table[:, :, None])
        if not examples.any():
            return Improved(candidate, {"skipped": "the current prompt could not be scored"})
        kept = [prompts[k] for k in np.flatnonzero(usable).tolist()]
        score = formulae.prompt_score(table[usable][:, examples])
        return Improved(*self.ask.choice(step, "prompt", kept, score, elbo=score))
