"""One iteration of DLN-2: variational inference of the hidden texts, then both prompts side by side (algorithm 2).

With h and ŷ of the forward pass there, four round trips follow one another: hidden texts are drawn from q; their
posterior weights are found; hidden prompts are proposed from the best of them; these are scored. Output prompts are
proposed and scored beside that. An example's weights are asked for when its own hidden texts are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncopt.optimizers.dln import formulae
from asyncopt.optimizers.dln.asking import Asked, Rows, Table, arrived
from asyncopt.optimizers.dln.formulae import Table as Numbers
from asyncopt.optimizers.dln.hidden_prompts import Agreement, hidden_table
from asyncopt.optimizers.dln.inference import Ask, Choice, all_rows, comparable
from asyncopt.optimizers.dln.layers import Passed, TwoLayers, pair_of, prompts_of
from asyncopt.optimizers.dln.likelihoods import ClassLogProbs
from asyncopt.optimizers.dln.loop import Improved, accuracy_of
from asyncopt.optimizers.dln.options import TwoLayerOptions
from asyncopt.optimizers.dln.posterior import Drawn, Posterior, Sampler
from asyncopt.optimizers.dln.roles import Case
from asyncopt.values import Completion

_SHOWN = 3  # examples whose hidden texts and weights stand in the state


@dataclass(frozen=True)
class TwoLayerNetwork:
    """DLN-2 in one search."""

    ask: Ask
    options: TwoLayerOptions
    layers: TwoLayers

    async def improve(self, step: int, candidate: str, passes: Sequence[Passed], memory: Sequence[str]) -> Improved:
        if accuracy_of(passes) == 1.0:
            return Improved(candidate, {"skipped": "no example of the batch was wrong"})
        pairs = [prompts_of(text) for text in (candidate, *memory)]
        sampler = Sampler(self.ask, self.options, self.layers, step, pairs[0], passes)
        iteration = _Iteration(self, sampler, [hidden for hidden, _ in pairs], [output for _, output in pairs])
        return await iteration.run()


class _Iteration:
    """``hidden`` and ``output`` are the prompts of the layers: the current one first, then those in memory."""

    def __init__(self, network: TwoLayerNetwork, sampler: Sampler, hidden: list[str], output: list[str]) -> None:
        self._ask, self._options, self._layers = network.ask, network.options, network.layers
        self._sampler = sampler
        self._step, self._passes = sampler.step, sampler.passes
        self._hidden = hidden
        self._output = output

    async def run(self) -> Improved:
        options, branches = self._options, {}
        async with asyncio.TaskGroup() as group:
            drawing = [group.create_task(draw) for draw in self._sampler.draws()]
            weighing = [group.create_task(self._sampler.weigh(place, task)) for place, task in enumerate(drawing)]
            posterior = group.create_task(self._sampler.posterior(drawing, weighing))
            if options.train_output:
                branches["output"] = group.create_task(self._output_prompt(group, drawing, posterior))
            if options.train_hidden:
                branches["hidden"] = group.create_task(self._hidden_prompt(group, posterior))
        unchanged: dict[str, Choice] = {"hidden": (self._hidden[0], {}), "output": (self._output[0], {})}
        layers = {**unchanged, **{layer: task.result() for layer, task in branches.items()}}
        elbos: list[float | None] = [layers[layer][1].get("elbo") for layer in branches]
        elbo = None if None in elbos else sum(value for value in elbos if value is not None)
        reports = {layer: report for layer, (_, report) in layers.items()}
        examples = _shown(self._passes, posterior.result())
        return Improved(
            pair_of(layers["hidden"][0], layers["output"][0]), {"elbo": elbo, **reports, "examples": examples}
        )

    # -- the output layer ----------------------------------------------------------------------------------------------

    async def _output_prompt(
        self, group: asyncio.TaskGroup, drawing: Sequence[asyncio.Task[Drawn]], posterior: asyncio.Task[Posterior]
    ) -> Choice:
        """π1 of the largest reward: ELBO2 less what the trust region takes."""
        cases = [one.case for one in self._passes]
        proposals = self._ask.proposals(group, self._step, "output prompt", self._output, cases)
        early = not self._options.hidden_argmax  # else only h* has any weight, and it has to be found first
        hidden = [(await task).hidden for task in drawing] if early else (await posterior).hidden
        texts = [(one, text) for one, samples in zip(self._passes, hidden, strict=True) for text in samples]
        inputs = [(one.example, self._layers.output_input(one.example, text)) for one, text in texts]
        likelihoods = self._ask.output_table(self._layers.output, inputs)
        distributions = self._distributions()
        tables: list[Asked] = [likelihoods] if distributions is None else [likelihoods, distributions]
        try:
            new = await arrived(tables, self._output, proposals)
            prompts = formulae.candidates(self._output[0], self._output[1:], new)
            scores = np.array(await all_rows(likelihoods, prompts)).reshape(len(prompts), len(cases), -1)
            shares = None if distributions is None else np.array([await distributions.row(text) for text in prompts])
            return self._best_output(prompts, scores, shares, await posterior)
        finally:
            for table in tables:
                table.close()

    def _distributions(self) -> Table[Numbers] | None:
        """Class log-probabilities at the forward pass's inputs r; None where no trust region needs them."""
        layer, passes = self._layers.output, self._passes
        estimator = layer.estimator
        if not self._options.trust_factor or not isinstance(estimator, ClassLogProbs):
            return None

        def read(completion: Completion, _place: int) -> Numbers:
            return estimator.logprobs(completion)

        missing = np.full(len(layer.task.classes), np.nan)
        return Table(
            self._ask.scorer,
            len(passes),
            lambda candidate, place: layer.request(candidate, passes[place].input),
            read,
            missing,
        )

    def _best_output(
        self, prompts: Sequence[str], scores: Numbers, shares: Numbers | None, posterior: Posterior
    ) -> Choice:
        """From log p(y | r, π1) in ``scores`` (P, B, K) and class log-probabilities in ``shares`` (P, B, C)."""
        parts = scores if shares is None else np.concatenate([scores, shares], axis=2)
        examples, usable = comparable(parts)
        examples &= posterior.counts
        if not examples.any():
            return prompts[0], {"skipped": "the current prompt could not be scored"}
        elbo = formulae.elbo_output(scores[usable][:, examples], posterior.weights[examples])
        kl = None if shares is None else formulae.kl_divergence(shares[0, examples], shares[usable][:, examples])
        reward = formulae.output_reward(elbo, kl, self._options.trust_factor)
        kept = [prompts[k] for k in np.flatnonzero(usable).tolist()]
        return self._ask.choice(
            self._step, "output prompt", kept, reward, elbo=elbo, **({} if kl is None else {"kl": kl})
        )

    # -- the hidden layer ----------------------------------------------------------------------------------------------

    async def _hidden_prompt(self, group: asyncio.TaskGroup, inference: asyncio.Task[Posterior]) -> Choice:
        """π0 after all rounds: that of the largest ELBO1 with the exploration reward, or of the best agreement."""
        posterior = await inference
        current, report = self._hidden[0], {"skipped": "no example of the batch could be weighed"}
        places = np.flatnonzero(posterior.counts).tolist()
        for number in range(self._options.hidden_steps if places else 0):
            current, report = await self._hidden_round(group, number, current, posterior, places)
        return current, report

    async def _hidden_round(
        self, group: asyncio.TaskGroup, number: int, current: str, posterior: Posterior, places: Sequence[int]
    ) -> Choice:
        passes = [self._passes[place] for place in places]
        # The layer's output was h, and should have been h*; whether that was right is the whole network's loss.
        cases = [
            Case(self._layers.hidden_input(one.example), one.hidden, posterior.best[place], one.loss)
            for place, one in zip(places, passes, strict=True)
        ]
        bases = [current, *self._hidden[1:]]
        proposals = self._ask.proposals(group, self._step, f"hidden prompt {number}", bases, cases)
        rows = self._hidden_rows(group, posterior, places)
        try:
            new = await arrived([rows], bases, proposals)
            prompts = formulae.candidates(current, bases[1:], new)
            table = np.array(await all_rows(rows, prompts)).reshape(len(prompts), len(passes), -1)
        finally:
            rows.close()
        examples, usable = comparable(table)
        if not examples.any():
            return current, {"skipped": "the current prompt could not be scored"}
        wrong = np.array([one.loss > 0 for one in passes])[examples]
        reward, parts = self._hidden_reward(table[usable][:, examples], posterior.weights[places][examples], wrong)
        kept = [prompts[k] for k in np.flatnonzero(usable).tolist()]
        return self._ask.choice(self._step, f"hidden prompt {number}", kept, reward, **parts)

    def _hidden_rows(self, group: asyncio.TaskGroup, posterior: Posterior, places: Sequence[int]) -> Rows:
        """By place of an example the forward h and its samples, or the one number of an agreement."""
        passes = [self._passes[place] for place in places]
        if self._options.hidden_scoring == "sampled":
            step, output = self._step, self._output[0]
            return Agreement(self._ask, self._options, self._layers, step, output, passes, group)
        texts = [(self._passes[i], text) for i in places for text in (self._passes[i].hidden, *posterior.hidden[i])]
        return hidden_table(self._ask, self._options, self._layers, texts)

    def _hidden_reward(
        self, table: Numbers, weights: Numbers, wrong: formulae.Mask
    ) -> tuple[Numbers, dict[str, Numbers]]:
        """The rewards, and their parts, from L (P, B, 1 + K), the forward h first, or from agreements (P, B, 1)."""
        options = self._options
        if options.hidden_scoring == "sampled":
            return formulae.prompt_score(table[:, :, 0]), {}
        penalty = formulae.logp_penalty_at(self._step, options.steps, options.logp_penalty, options.decay_logp_penalty)
        elbo = formulae.elbo_hidden(table[:, :, 1:], weights, nce=options.nce)
        explored = formulae.exploration(table[:, :, 0], wrong, penalty)
        return formulae.hidden_reward(elbo, explored), {"elbo": elbo, "exploration": explored}


def _shown(passes: Sequence[Passed], posterior: Posterior) -> list[dict[str, Any]]:
    """A few examples with their hidden texts and weights, for whoever reads the run; the wrong ones first."""
    order = sorted(range(len(passes)), key=lambda place: (-passes[place].loss, place))[:_SHOWN]
    return [
        {
            "example": passes[place].example.id,
            "target": passes[place].target,
            "output": passes[place].output,
            "loss": passes[place].loss,
            "hidden": passes[place].hidden,
            "samples": posterior.hidden[place],
            "weights": posterior.weights[place].tolist(),
        }
        for place in order
    ]
