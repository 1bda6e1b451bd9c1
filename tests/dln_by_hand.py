"""The training of language networks written down step by step and call by call, to hold the real one against.

One call after another on the toy model, plain Python sums, validation before everything else, as in the reference's
order; only the texts of the requests and the random choices are taken from the package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

from dln_toy import toy_model

from asyncopt import Example, Task
from asyncopt.optimizers import DLN1, DLN2
from asyncopt.optimizers.base import derived_seed
from asyncopt.optimizers.dln.loop import batch_of
from asyncopt.optimizers.dln.proposals import hidden_requests, prompt_requests
from asyncopt.optimizers.dln.roles import Case
from asyncopt.values import Completion, Generate, Likelihood, Request, Sampling

GREEDY = Sampling(temperature=0.0, max_tokens=1)


class ByHand:
    """``losses``, ``prompts`` and the like are lists over the batch; ``states`` says after every step what was chosen."""

    def __init__(self, task: Task, options: DLN1 | DLN2, seed: int) -> None:
        self.task, self.options, self.seed = task, options, seed
        self.texts = options.texts()
        self.states: list[dict[str, Any]] = []

    # -- calls ---------------------------------------------------------------------------------------------------------

    def ask(self, request: Request) -> Completion:
        answer = toy_model(request)
        assert isinstance(answer, Completion)
        return answer

    def rng(self, step: int, purpose: str, index: int = 0) -> Random:
        return Random(derived_seed(self.seed, step, purpose, index))

    def sample(self, text: str, step: int, purpose: str, index: int, **options: Any) -> Completion:
        number = derived_seed(self.seed, step, purpose, index)
        sampling = Sampling(temperature=0.7, max_tokens=512, seed=number, draw=number)
        return self.ask(Generate.of(text, sampling, **options))

    def yes(self, prompt: str, text: str) -> float:
        """P("yes") over the two classes: every spelling that is not shown counts the smallest probability."""
        context = self.texts.forward(prompt, text)
        completion = self.ask(Generate.of(f"{context}\n", GREEDY, top_logprobs=20))
        shown = {token: math.exp(value) for token, value in completion.token_logprobs[0].top}
        least = min(shown.values())
        yes = least + sum(shown.get(word, least) for word in ("yes", "Yes", " yes", " Yes"))
        no = least + sum(shown.get(word, least) for word in ("no", "No", " no", " No"))
        return yes / (yes + no)

    def output(self, prompt: str, text: str, example: Example) -> float:
        """log p(y | r)."""
        yes = self.yes(prompt, text)
        return math.log(yes if example.target == "yes" else 1 - yes)

    def mean(self, context: str, text: str) -> float:
        tokens = [one.logprob for one in self.ask(Likelihood.of(f"{context}\n", text)).token_logprobs]
        kept = tokens[math.floor(self.options.burn_in * len(tokens)) :]
        return sum(kept) / (len(kept) + 1e-5)

    # -- the loop of section 2.3 ---------------------------------------------------------------------------------------

    def answer(self, candidate: Any, example: Example) -> tuple[str, str, str]:
        """The hidden text, the output layer's input, its answer."""
        raise NotImplementedError

    def infer(self, step: int, candidate: Any, memory: list[Any], batch: list[Example]) -> Any:
        raise NotImplementedError

    def validate(self, candidate: Any) -> float:
        right = [self.answer(candidate, example)[2] == example.target for example in self.task.validation]
        return sum(right) / len(right)

    def train(self, candidate: Any) -> None:
        best, best_score, patience, memory = candidate, 0.0, 0, []
        pending: list[tuple[int, Any]] = []
        steps, options = self.options.steps, self.options
        for step in range(steps + 1):
            made = step - 1
            if made in (-1, steps - 1) or step % options.validate_every == 0:
                pending.append((made, candidate))
            while pending and pending[0][0] + 1 + options.lag <= step:
                _, judged = pending.pop(0)
                score = self.validate(judged)
                if score > best_score:
                    best, best_score, patience = judged, score, 0
                    memory = sorted([*memory, (judged, score)], key=lambda one: -one[1])[: options.memory]
                else:
                    patience += 1
                if options.tolerance is not None and patience >= options.tolerance:
                    candidate, patience = best, 0
            if step == steps:
                break
            batch = batch_of(self.task, options, self.rng(step, "batch"))
            remembered = [one for one, _ in memory]
            candidate = self.infer(step, candidate, remembered, batch)
            self.states.append({"step": step, "current": candidate, "best": best, "memory": memory})

    def proposed(self, step: int, purpose: str, bases: Sequence[str], cases: list[Case]) -> list[str]:
        requests = prompt_requests(
            self.texts,
            bases,
            cases,
            self.options.prompt_samples - 1,
            lambda index: self.rng(step, f"{purpose}: batch", index),
            half=self.options.held_out_ranking,
        )
        return [
            self.sample(str(request.prompt(self.texts)), step, purpose, index).text
            for index, request in enumerate(requests)
        ]


class OneByHand(ByHand):
    def answer(self, candidate: str, example: Example) -> tuple[str, str, str]:
        return "", example.input, "yes" if self.yes(candidate, example.input) >= 0.5 else "no"

    def infer(self, step: int, candidate: str, memory: list[str], batch: list[Example]) -> str:
        answers = [self.answer(candidate, example)[2] for example in batch]
        cases = [
            Case(example.input, answer, example.target, float(answer != example.target))
            for example, answer in zip(batch, answers, strict=True)
        ]
        prompts = [candidate, *memory, *self.proposed(step, "prompt", [candidate, *memory], cases)]
        scores = [sum(self.output(prompt, one.input, one) for one in batch) / len(batch) for prompt in prompts]
        return prompts[scores.index(max(scores))]


class TwoByHand(ByHand):
    """``found`` has the numbers of every step in which something was inferred."""

    options: DLN2

    def __init__(self, task: Task, options: DLN2, seed: int) -> None:
        super().__init__(task, options, seed)
        self.found: list[dict[str, Any]] = []

    def hidden_input(self, example: Example) -> str:
        return example.input.split("Options:")[0].strip() if self.options.strip_options else example.input

    def residual(self, example: Example, hidden: str) -> str:
        return self.texts.residual(example.input, hidden) if self.options.residual else hidden

    def answer(self, candidate: tuple[str, str], example: Example) -> tuple[str, str, str]:
        context = self.texts.hidden(candidate[0], self.hidden_input(example))
        hidden = self.ask(Generate.of(context, Sampling(temperature=0.0, max_tokens=256))).text
        text = self.residual(example, hidden)
        return hidden, text, "yes" if self.yes(candidate[1], text) >= 0.5 else "no"

    def infer(
        self, step: int, candidate: tuple[str, str], memory: list[tuple[str, str]], batch: list[Example]
    ) -> tuple[str, str]:
        passed = [self.answer(candidate, example) for example in batch]
        losses = [float(answer != one.target) for one, (_, _, answer) in zip(batch, passed, strict=True)]
        if not any(losses):
            return candidate
        h1, r1 = [hidden for hidden, _, _ in passed], [text for _, text, _ in passed]
        samples, q = self.posterior(step, candidate, batch, h1, losses)
        weights = [self.weights(candidate, one, texts, row) for one, texts, row in zip(batch, samples, q, strict=True)]
        best = [row.index(max(row)) for row in weights]
        stars = [texts[index] for texts, index in zip(samples, best, strict=True)]
        if self.options.hidden_argmax:
            samples, weights = [[star] for star in stars], [[1.0] for _ in stars]
        hidden, output = candidate
        numbers: dict[str, Any] = {"weights": weights, "samples": samples}
        if self.options.train_output:
            cases = [Case(r, p[2], one.target, loss) for r, p, one, loss in zip(r1, passed, batch, losses, strict=True)]
            bases = [output, *(p2 for _, p2 in memory)]
            output, numbers["output"] = self.output_prompt(step, bases, cases, batch, r1, samples, weights)
        if self.options.train_hidden:
            for number in range(self.options.hidden_steps):
                cases = [
                    Case(self.hidden_input(one), h, star, loss)
                    for one, h, star, loss in zip(batch, h1, stars, losses, strict=True)
                ]
                bases = [hidden, *(p1 for p1, _ in memory)]
                drawn = self.proposed(step, f"hidden prompt {number}", bases, cases)
                prompts = list(dict.fromkeys([*bases, *drawn]))
                rewards = [self.hidden_score(step, p, batch, h1, losses, samples, weights) for p in prompts]
                hidden, numbers["hidden"] = prompts[rewards.index(max(rewards))], rewards
        self.found.append({"step": step, **numbers})
        return hidden, output

    def posterior(
        self, step: int, candidate: tuple[str, str], batch: list[Example], h1: list[str], losses: list[float]
    ) -> tuple[list[list[str]], list[list[float]]]:
        cases = [
            Case(self.hidden_input(one), h, one.target, loss) for one, h, loss in zip(batch, h1, losses, strict=True)
        ]
        many = self.options.hidden_samples
        requests = hidden_requests(
            self.texts,
            self.options.posteriors,
            cases,
            candidate,
            many,
            lambda i, j: self.rng(step, f"posterior of example {i}", j),
        )
        texts = [[h] * many for h in h1]
        logprobs = [[0.0] * many for _ in h1]
        for request in requests:
            i, j = request.example, request.sample
            if self.options.rewrite_wrong_only and not losses[i]:
                continue
            wanted = 1 if self.options.correct_weighting else 0
            completion = self.sample(request.text, step, f"hidden {i}", j, top_logprobs=wanted)
            texts[i][j] = completion.text
            tokens = [one.logprob for one in completion.token_logprobs]
            logprobs[i][j] = sum(tokens) / (len(tokens) + 1e-5)
        return texts, logprobs

    def weights(self, candidate: tuple[str, str], one: Example, texts: list[str], q: list[float]) -> list[float]:
        options, logits = self.options, []
        if len(texts) == 1 or options.posterior_temperature >= 100:
            return [1 / len(texts)] * len(texts)
        for text, proposal in zip(texts, q, strict=True):
            logit = self.output(candidate[1], self.residual(one, text), one)
            if options.include_prior:
                logit += self.mean(self.texts.hidden(candidate[0], self.hidden_input(one)), text)
            if options.mutual_information:
                logit -= self.mean(self.texts.forward(candidate[1], text), one.target)
            if options.correct_weighting:
                logit -= proposal
            logits.append(math.exp(logit / options.posterior_temperature))
        return [value / sum(logits) for value in logits]

    def output_prompt(
        self,
        step: int,
        bases: list[str],
        cases: list[Case],
        batch: list[Example],
        r1: list[str],
        samples: list[list[str]],
        weights: list[list[float]],
    ) -> tuple[str, list[float]]:
        rewards, prompts = [], list(dict.fromkeys([*bases, *self.proposed(step, "output prompt", bases, cases)]))
        for prompt in prompts:
            reward = 0.0
            for one, r, texts, row in zip(batch, r1, samples, weights, strict=True):
                for text, weight in zip(texts, row, strict=True):
                    reward += weight * self.output(prompt, self.residual(one, text), one)
                now, then = self.yes(bases[0], r), self.yes(prompt, r)
                kl = now * math.log(now / then) + (1 - now) * math.log((1 - now) / (1 - then))
                reward -= self.options.trust_factor * kl
            rewards.append(reward / len(batch))
        return prompts[rewards.index(max(rewards))], rewards

    def hidden_score(
        self,
        step: int,
        prompt: str,
        batch: list[Example],
        h1: list[str],
        losses: list[float],
        samples: list[list[str]],
        weights: list[list[float]],
    ) -> float:
        options, reward = self.options, 0.0
        decay = 1 - step / options.steps if options.decay_logp_penalty else 1.0
        for one, h, loss, texts, row in zip(batch, h1, losses, samples, weights, strict=True):
            context = self.texts.hidden(prompt, self.hidden_input(one))
            values = [self.mean(context, text) for text in texts]
            if options.nce:
                total = sum(math.exp(value) for value in values)
                values = [math.log(math.exp(value) / total) for value in values]
            reward += sum(weight * value for weight, value in zip(row, values, strict=True))
            if loss:
                reward -= options.logp_penalty * decay * self.mean(context, h)
        return reward / len(batch)
