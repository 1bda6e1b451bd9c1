"""The approximate posterior q(h) of one iteration: hidden texts of every example, and what each of them weighs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncopt.optimizers.dln import formulae
from asyncopt.optimizers.dln.asking import NAN, all_completed
from asyncopt.optimizers.dln.formulae import Mask
from asyncopt.optimizers.dln.formulae import Table as Numbers
from asyncopt.optimizers.dln.inference import Ask
from asyncopt.optimizers.dln.layers import Passed, TwoLayers
from asyncopt.optimizers.dln.likelihoods import text_request
from asyncopt.optimizers.dln.options import TwoLayerOptions
from asyncopt.optimizers.dln.proposals import HiddenRequest, hidden_requests, read_hidden
from asyncopt.optimizers.dln.roles import Case
from asyncopt.values import Completion, Generate, LogProb, Priority, Request

Terms = dict[str, list[float]]  # the terms of the posterior's logits by name, each of an example's K hidden texts


@dataclass(frozen=True)
class Posterior:
    """Hidden texts h_ij (B, K) with their weights w_ij (B, K); the best of each example, h*; and which examples count.

    Those do not count of which a call failed for good; their weights mean nothing.
    """

    hidden: list[list[str]]
    weights: Numbers
    best: list[str]
    counts: Mask


@dataclass(frozen=True)
class Drawn:
    """The K hidden texts of one example, and mean log q(h) of each where that was asked for."""

    hidden: list[str]
    logprob: list[float]


@dataclass(frozen=True)
class Sampler:
    """Draws and weighs the hidden texts of one iteration; ``prompts`` are π0 and π1."""

    ask: Ask
    options: TwoLayerOptions
    layers: TwoLayers
    step: int
    prompts: tuple[str, str]
    passes: Sequence[Passed]

    def draws(self) -> list[Coroutine[Any, Any, Drawn]]:
        """For every example the coroutine of its hidden texts."""
        requests = hidden_requests(
            self.layers.output.templates,
            self.options.posteriors,
            [self.case(one) for one in self.passes],
            self.prompts,
            self.options.hidden_samples,
            lambda place, sample: self.ask.search.rng(self.step, f"posterior of example {place}", sample),
            wrong_only=self.options.rewrite_wrong_only,
        )
        by_place: list[list[HiddenRequest]] = [[] for _ in self.passes]
        for request in requests:
            by_place[request.example].append(request)
        return [self._draw(one, asked) for one, asked in zip(self.passes, by_place, strict=True)]

    def case(self, one: Passed) -> Case:
        """The example as the hidden layer met it, with y for its target."""
        return Case(self.layers.hidden_input(one.example), one.hidden, one.target, one.loss)

    async def _draw(self, one: Passed, requests: Sequence[HiddenRequest]) -> Drawn:
        """K texts; the forward one stands in where a sample was lost or is empty, and where none was asked for."""
        proposer, stop = self.ask.proposer, self.layers.output.templates.stop("hidden")
        wanted = 1 if self.options.correct_weighting else 0
        calls = []
        for request in requests:
            sampling = proposer.sampling(self.step, f"hidden {request.example}", request.sample, stop)
            generate = Generate.of(request.text, sampling, top_logprobs=wanted)
            calls.append(proposer.model.submit(generate, priority=Priority.PROPOSE))
        done = await all_completed(calls)
        texts = [None if completion is None else read_hidden(completion.text, stop) for completion in done]
        hidden = [text or one.hidden for text in texts] or [one.hidden] * self.options.hidden_samples
        return Drawn(hidden, [_mean(completion) for completion in done] or [0.0] * len(hidden))

    async def weigh(self, place: int, drawing: asyncio.Task[Drawn]) -> Terms:
        """The terms of an example's logits, asked for when its hidden texts are there."""
        drawn = await drawing
        if not self.options.weighs:
            return {}
        one, estimator = self.passes[place], self.layers.output.estimator
        requests: dict[str, list[Request]] = {"output": [], "prior": [], "mutual_information": []}
        for text in drawn.hidden:
            context = self.layers.output.context(self.prompts[1], self.layers.output_input(one.example, text))
            requests["output"].append(estimator.request(context, one.example))
            if self.options.has_prior:
                requests["prior"].append(text_request(self.layers.hidden_context(self.prompts[0], one.example), text))
            if self.options.mutual_information:
                alone = self.layers.output.context(self.prompts[1], text)
                requests["mutual_information"].append(text_request(alone, one.target))
        terms = await self._terms(one, requests)
        return {**terms, "proposal": drawn.logprob} if self.options.correct_weighting else terms

    async def _terms(self, one: Passed, requests: dict[str, list[Request]]) -> Terms:
        estimator, burn_in = self.layers.output.estimator, self.options.burn_in

        def read(name: str, completion: Completion | None) -> float:
            if completion is None:
                return NAN
            exact = name != "output"
            return LogProb.of(completion).mean(burn_in) if exact else estimator.value(completion, one.example)

        flat = [(name, request) for name, asked in requests.items() for request in asked]
        # They unlock the proposals of hidden prompts, so they go before the scoring of output prompts.
        calls = [self.ask.scorer.submit(request, priority=Priority.PROPOSE) for _, request in flat]
        terms: Terms = {}
        for (name, _), completion in zip(flat, await all_completed(calls), strict=True):
            terms.setdefault(name, []).append(read(name, completion))
        return terms

    async def posterior(
        self, drawing: Sequence[asyncio.Task[Drawn]], weighing: Sequence[asyncio.Task[Terms]]
    ) -> Posterior:
        """The weights of all examples, when the terms of all are known."""
        hidden = [(await task).hidden for task in drawing]
        terms = [await task for task in weighing]
        tables = {name: np.array([one[name] for one in terms]) for name in terms[0]}
        lacking = [np.isnan(table).any(axis=1) for table in tables.values()]
        counts = ~np.any(lacking, axis=0) if lacking else np.ones(len(terms), dtype=bool)
        numbers = {name: np.where(np.isnan(table), 0.0, table) for name, table in tables.items()}
        weights = formulae.posterior_weights(
            numbers.get("output", np.zeros((len(terms), self.options.hidden_samples))),
            prior=numbers.get("prior"),
            mutual_information=numbers.get("mutual_information"),
            proposal_logprob=numbers.get("proposal"),
            temperature=self.options.posterior_temperature,
            hidden_argmax=self.options.hidden_argmax,
        )
        best = [texts[index] for texts, index in zip(hidden, formulae.best_hidden(weights), strict=True)]
        if self.options.hidden_argmax:  # what has no weight need not be scored
            return Posterior([[text] for text in best], np.ones((len(best), 1)), best, counts)
        return Posterior(hidden, weights, best, counts)


def _mean(completion: Completion | None) -> float:
    return 0.0 if completion is None else LogProb.of(completion).mean()
