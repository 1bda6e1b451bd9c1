"""What candidate hidden prompts are scored by: how probable they make hidden texts, or where texts of theirs lead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from asyncopt.optimizers.base import derived_seed
from asyncopt.optimizers.dln.asking import NAN, Table, all_completed, drawn
from asyncopt.optimizers.dln.inference import Ask
from asyncopt.optimizers.dln.layers import Passed, TwoLayers
from asyncopt.optimizers.dln.likelihoods import text_request
from asyncopt.optimizers.dln.options import TwoLayerOptions
from asyncopt.values import Completion, LogProb, Request, Sampling

_SAMPLED_AT = 1.0  # the temperature at which a sample comes from p(h | F(x, π0)) itself


def hidden_table(
    ask: Ask, options: TwoLayerOptions, layers: TwoLayers, texts: Sequence[tuple[Passed, str]]
) -> Table[float]:
    """L = mean log p(h | F(x, π0)) of candidate prompts for these examples and hidden texts, one a place."""

    def request(candidate: str, place: int) -> Request:
        one, text = texts[place]
        return text_request(layers.hidden_context(candidate, one.example), text)

    def read(completion: Completion, _place: int) -> float:
        return LogProb.of(completion).mean(options.burn_in)

    # Where the input stands first, requests of one example share their beginning, whatever the candidate.
    return Table(ask.scorer, len(texts), request, read, NAN, by_place=options.hidden_form == "steps")


class Agreement:
    """Candidates by hidden texts of their own: mean over K samples of log p(y | F_r(h, x), π1), not the paper's.

    A place is an example. Every example of a candidate is a chain: its samples, then the answers that they lead to.
    """

    def __init__(
        self,
        ask: Ask,
        options: TwoLayerOptions,
        layers: TwoLayers,
        step: int,
        output: str,
        passes: Sequence[Passed],
        group: asyncio.TaskGroup,
    ) -> None:
        self._ask, self._options, self._layers = ask, options, layers
        self._step = step
        self._output = output
        self._passes = passes
        self._group = group
        self._chains: dict[str, list[asyncio.Task[float]]] = {}

    def add(self, candidates: Iterable[str]) -> None:
        for candidate in candidates:
            if candidate not in self._chains:
                chains = [self._chain(candidate, place, one) for place, one in enumerate(self._passes)]
                self._chains[candidate] = [self._group.create_task(chain) for chain in chains]

    async def row(self, candidate: str) -> list[float]:
        return [await chain for chain in self._chains[candidate]]

    def close(self) -> None:
        for chains in self._chains.values():
            for chain in chains:
                chain.cancel()

    async def _chain(self, candidate: str, place: int, one: Passed) -> float:
        layer, stop = self._layers.output, self._layers.output.templates.stop("hidden")
        requests = [
            self._layers.hidden_request(candidate, one.example, self._sampling(place, sample, stop))
            for sample in range(self._options.hidden_samples)
        ]
        hidden = await all_completed([self._ask.scorer.submit(request) for request in requests])
        inputs = [
            self._layers.output_input(one.example, self._layers.hidden_of(completion))
            for completion in hidden
            if completion is not None
        ]
        answered = [layer.estimator.request(layer.context(self._output, text), one.example) for text in inputs]
        done = await all_completed([self._ask.scorer.submit(request) for request in answered])
        values = [layer.estimator.value(completion, one.example) for completion in done if completion is not None]
        return sum(values) / len(values) if values else NAN

    def _sampling(self, place: int, sample: int, stop: tuple[str, ...]) -> Sampling:
        plain = Sampling(temperature=_SAMPLED_AT, max_tokens=self._options.hidden_tokens, stop=stop)
        number = derived_seed(self._ask.search.seed, self._step, f"agreement {place}", sample)
        return drawn(self._ask.scorer, plain, number)
