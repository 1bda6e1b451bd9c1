"""DLN-2 in the order of its reference code, to hold the project's own order against.

Every set of requests goes out in batches of 20, and each batch is awaited; no phase begins before the one before it has
ended: the output layer's prompts are chosen before those of the hidden layer are proposed, and validation stops
everything else. Candidates have the memory twice (N + 2M); scores are remembered by their requests, but twins within
one set are asked for twice. Batches, proposals and hidden texts are those that `DLN2` draws for the same seed, so both
choose the same prompts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from asyncopt import Completion, Generate, Model, Task
from asyncopt.optimizers import DLN2, History, Search
from asyncopt.optimizers.dln import formulae
from asyncopt.optimizers.dln.asking import Proposer
from asyncopt.optimizers.dln.layers import Passed, TwoLayers, pair_of, prompts_of
from asyncopt.optimizers.dln.likelihoods import ClassLogProbs, text_request
from asyncopt.optimizers.dln.loop import START, accuracy_of, batch_of
from asyncopt.optimizers.dln.proposals import hidden_requests, prompt_requests, read_hidden, read_prompt
from asyncopt.optimizers.dln.roles import Case
from asyncopt.optimizers.dln.state import Progress
from asyncopt.tasks.task import Example
from asyncopt.values import Likelihood, LogProb, Request

BATCH = 20
CHUNK = 20  # examples that are validated at a time

Texts: TypeAlias = list[list[str]]  # the K hidden texts of every example


def searching(task: Task, model: Model, seed: int) -> Search:
    """What an iteration needs of a search, outside of a study: seeds and models, but no history and no journal."""
    nowhere: Any = None
    return Search(
        task=task,
        history=History(maximize=True),
        seed=seed,
        score=nowhere,
        begin_step=nowhere,
        commit=nowhere,
        finish_step=nowhere,
        validate=nowhere,
        finish_validation=nowhere,
        validations={},
        proposer=model,
        scorer=model,
    )


@dataclass
class Barriers:
    """Asks for sets of requests, ``size`` at a time (None: a whole set), and waits for all of them before the next.

    With ``together`` the sets of one phase go out as one. ``sent`` counts the requests by the set's name.
    """

    model: Model
    size: int | None = BATCH
    together: bool = False
    sent: Counter[str] = field(default_factory=Counter)
    _answers: dict[Request, Completion] = field(default_factory=dict)

    async def phase(self, **sets: Sequence[Request]) -> list[list[Completion]]:
        """The answers to each set, in its order."""
        missing = {name: [one for one in requests if not self._known(one)] for name, requests in sets.items()}
        self.sent.update({name: len(requests) for name, requests in missing.items()})
        flat = [request for requests in missing.values() for request in requests]
        for requests in [flat] if self.together else missing.values():
            size = self.size or max(len(requests), 1)
            for begin in range(0, len(requests), size):
                await self._batch(requests[begin : begin + size])
        return [[self._answers[request] for request in requests] for requests in sets.values()]

    async def _batch(self, requests: Sequence[Request]) -> None:
        answers = await asyncio.gather(*(self.model.submit(request) for request in requests))
        self._answers |= zip(requests, answers, strict=True)

    def _known(self, request: Request) -> bool:
        """Whether it is a score that the scorer has in its memory; generations are made anew."""
        scores = isinstance(request, Likelihood) or request.top_logprobs > 0
        return scores and request in self._answers


class Reference:
    """DLN-2 with these options: with classes, a trust region and the prior, and both layers trained in one round."""

    def __init__(self, task: Task, options: DLN2, barriers: Barriers, seed: int) -> None:
        model = barriers.model
        self._task, self._options, self._ask = task, options, barriers
        self._search = searching(task, model, seed)
        self._templates = options.texts()
        self._proposer = Proposer(
            self._search, model, self._templates, options.backward_temperature, options.proposal_tokens
        )
        self._layers: TwoLayers = options.program(task)
        estimator = self._layers.output.estimator
        assert isinstance(estimator, ClassLogProbs)
        self._estimator = estimator

    async def run(self, initial: str) -> list[str]:
        """All prompts that it had, each once, in their order."""
        options, passes = self._options, list[Passed]()
        progress, had = Progress.beginning(initial), [initial]
        for step in range(START, options.steps):
            if step > START:
                candidate = await self.improve(step, progress.current, passes, progress.remembered)
                progress = progress.improved(step, candidate, {})
                had.append(candidate)
            if step in (START, options.steps - 1) or (step + 1) % options.validate_every == 0:
                score = await self._validated(progress.current)
                progress = replace(progress, pending=((step, progress.current),))
                progress = progress.judged(score, memory=options.memory, tolerance=options.tolerance)
            passes = await self.forward(progress.current, self.batch(step + 1))
        return list(dict.fromkeys(had))

    def batch(self, step: int) -> list[Example]:
        """The examples of an iteration."""
        return batch_of(self._task, self._options, self._search.rng(step, "batch"))

    async def forward(self, candidate: str, examples: Sequence[Example]) -> list[Passed]:
        """The forward pass: the hidden texts of all examples, then the answers to all of them."""
        layers, task = self._layers, self._task
        (hidden,) = await self._ask.phase(h=[layers.first(task, candidate, example) for example in examples])
        after = [layers.after(task, candidate, one, [text]) for one, text in zip(examples, hidden, strict=True)]
        (answers,) = await self._ask.phase(y=[request for request in after if request is not None])
        return [layers.passed(task, *calls) for calls in zip(examples, zip(hidden, answers, strict=True), strict=True)]

    async def _validated(self, candidate: str) -> float | None:
        examples = self._task.validation
        passes = []
        for begin in range(0, len(examples), CHUNK):
            passes += await self.forward(candidate, examples[begin : begin + CHUNK])
        return accuracy_of(passes)

    async def improve(self, step: int, candidate: str, passes: Sequence[Passed], memory: Sequence[str]) -> str:
        """The prompts that an iteration chooses."""
        if accuracy_of(passes) == 1.0:
            return candidate
        pairs = [prompts_of(text) for text in (candidate, *memory)]
        drawn = await self._drawn(step, pairs[0], passes)
        weights = await self._weights(pairs[0], passes, drawn)
        output = await self._output_prompt(step, [output for _, output in pairs], passes, drawn, weights)
        hidden = await self._hidden_prompt(step, [hidden for hidden, _ in pairs], passes, drawn, weights)
        return pair_of(hidden, output)

    # -- the phases ----------------------------------------------------------------------------------------------------

    async def _drawn(self, step: int, prompts: tuple[str, str], passes: Sequence[Passed]) -> Texts:
        """K samples of q(h) for every example."""
        stop = self._templates.stop("hidden")
        asked = hidden_requests(
            self._templates,
            self._options.posteriors,
            [Case(self._layers.hidden_input(one.example), one.hidden, one.target, one.loss) for one in passes],
            prompts,
            self._options.hidden_samples,
            lambda place, sample: self._search.rng(step, f"posterior of example {place}", sample),
        )
        calls = [
            Generate.of(one.text, self._proposer.sampling(step, f"hidden {one.example}", one.sample, stop))
            for one in asked
        ]
        (samples,) = await self._ask.phase(q=calls)
        drawn: Texts = [[] for _ in passes]
        for one, sample in zip(asked, samples, strict=True):
            drawn[one.example].append(read_hidden(sample.text, stop) or passes[one.example].hidden)
        return drawn

    async def _weights(self, prompts: tuple[str, str], passes: Sequence[Passed], drawn: Texts) -> formulae.Table:
        """w (B, K)."""
        pairs = [(one, text) for one, texts in zip(passes, drawn, strict=True) for text in texts]
        outputs, priors = await self._ask.phase(
            posterior=[self._scored(prompts[1], one, text) for one, text in pairs],
            prior=[text_request(self._layers.hidden_context(prompts[0], one.example), text) for one, text in pairs],
        )
        shape = (len(passes), -1)
        return formulae.posterior_weights(
            np.array(self._values(outputs, [one for one, _ in pairs])).reshape(shape),
            prior=np.array(self._means(priors)).reshape(shape),
            temperature=self._options.posterior_temperature,
        )

    async def _output_prompt(
        self, step: int, bases: list[str], passes: Sequence[Passed], drawn: Texts, weights: formulae.Table
    ) -> str:
        """π1 by ELBO2 less the trust region."""
        prompts = await self._candidates(step, "output prompt", bases, [one.case for one in passes])
        triples = [
            (one, text, prompt)
            for one, texts in zip(passes, drawn, strict=True)
            for text in texts
            for prompt in prompts
        ]
        layer = self._layers.output
        scores, shares = await self._ask.phase(
            elbo_2=[self._scored(prompt, one, text) for one, text, prompt in triples],
            kl=[layer.request(prompt, one.input) for one in passes for prompt in prompts],
        )
        table = np.array(self._values(scores, [one for one, *_ in triples])).reshape(len(passes), -1, len(prompts))
        classes = np.array([self._estimator.logprobs(completion) for completion in shares])
        classes = classes.reshape(len(passes), len(prompts), -1).transpose(1, 0, 2)
        elbo = formulae.elbo_output(table.transpose(2, 0, 1), weights)
        kl = formulae.kl_divergence(classes[0], classes)
        return prompts[formulae.best_candidate(formulae.output_reward(elbo, kl, self._options.trust_factor))]

    async def _hidden_prompt(
        self, step: int, bases: list[str], passes: Sequence[Passed], drawn: Texts, weights: formulae.Table
    ) -> str:
        """π0 by ELBO1 with the exploration reward."""
        best = [texts[place] for texts, place in zip(drawn, formulae.best_hidden(weights), strict=True)]
        cases = [
            Case(self._layers.hidden_input(one.example), one.hidden, target, one.loss)
            for one, target in zip(passes, best, strict=True)
        ]
        prompts = await self._candidates(step, "hidden prompt 0", bases, cases)
        contexts = [
            (self._layers.hidden_context(prompt, one.example), text)
            for one, texts in zip(passes, drawn, strict=True)
            for text in (one.hidden, *texts)
            for prompt in prompts
        ]
        (scores,) = await self._ask.phase(elbo_1=[text_request(context, text) for context, text in contexts])
        table = np.array(self._means(scores)).reshape(len(passes), -1, len(prompts)).transpose(2, 0, 1)
        options = self._options
        penalty = formulae.logp_penalty_at(step, options.steps, options.logp_penalty, options.decay_logp_penalty)
        explored = formulae.exploration(table[:, :, 0], np.array([one.loss > 0 for one in passes]), penalty)
        return prompts[
            formulae.best_candidate(formulae.hidden_reward(formulae.elbo_hidden(table[:, :, 1:], weights), explored))
        ]

    async def _candidates(self, step: int, purpose: str, bases: list[str], cases: Sequence[Case]) -> list[str]:
        """The current prompt, the memory, N - 1 proposals, and the memory again."""
        stop = self._templates.stop("proposal")
        draw = partial(self._search.rng, step, f"{purpose}: batch")
        options = self._options
        asked = prompt_requests(
            self._templates, bases, cases, options.prompt_samples - 1, draw, half=options.held_out_ranking
        )
        calls = [
            Generate.of(one.prompt(self._templates), self._proposer.sampling(step, purpose, index, stop))
            for index, one in enumerate(asked)
        ]
        (answers,) = await self._ask.phase(**{f"{purpose.partition(' ')[0]} proposals": calls})
        new = [read_prompt(answer.text, stop) for answer in answers]
        return [*bases, *(text for text in new if text is not None), *bases[1:]]

    def _scored(self, prompt: str, one: Passed, text: str) -> Generate:
        """The call for log p(y | F_r(h, x), π1)."""
        return self._layers.output.request(prompt, self._layers.output_input(one.example, text))

    def _values(self, completions: Sequence[Completion], passes: Sequence[Passed]) -> list[float]:
        pairs = zip(completions, passes, strict=True)
        return [self._estimator.value(completion, one.example) for completion, one in pairs]

    def _means(self, completions: Sequence[Completion]) -> list[float]:
        return [LogProb.of(completion).mean(self._options.burn_in) for completion in completions]
