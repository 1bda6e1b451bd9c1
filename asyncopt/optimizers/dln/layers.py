"""The forward pass: how one or two layers answer an example, in training as in validation and test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from asyncopt import codec
from asyncopt.engine import Model
from asyncopt.errors import CallFailed, ConfigError, EndpointUnusable, MissingCapability
from asyncopt.evaluation import Item, Program, unanswered
from asyncopt.optimizers.dln.asking import withdraw
from asyncopt.optimizers.dln.likelihoods import Accuracy, ClassLogProbs, OutputEstimator
from asyncopt.optimizers.dln.proposals import read_hidden
from asyncopt.optimizers.dln.roles import Case, Templates
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Completion, Generate, Priority, Sampling

_OPTIONS = "Options:"


def pair_of(hidden: str, output: str) -> str:
    """The candidate of a network with two layers: the prompts π0 and π1 as one text."""
    return codec.dumps({"hidden": hidden, "output": output}).decode()


def prompts_of(candidate: str) -> tuple[str, str]:
    """π0 and π1 of a candidate; raises :class:`ConfigError` for a text that is no pair."""
    try:
        pair = codec.loads(candidate.encode("utf-8", "replace"))
        hidden, output = pair["hidden"], pair["output"]
    except (codec.CodecError, TypeError, KeyError):
        hidden = output = None
    if not isinstance(hidden, str) or not isinstance(output, str):
        shown = codec.printable(candidate, 80)
        raise ConfigError(f'a candidate of two layers is written {{"hidden": ..., "output": ...}}; this is {shown}')
    return hidden, output


@dataclass(frozen=True, slots=True)
class Passed:
    """One example after a forward pass: the output layer's input r, its answer ŷ, the loss, and the forward h, if any.

    ``target`` is y in the words of the layer: where there are classes, the prototype of the target's. ``blind`` says
    that no class was among the first tokens of the answer, so that it is no more than the first class there is.
    """

    example: Example
    input: str
    output: str
    target: str
    loss: float
    hidden: str = ""
    blind: bool = False

    @property
    def case(self) -> Case:
        """The example as the output layer met it, for proposals."""
        return Case(self.input, self.output, self.target, self.loss)


class Layers(Program, Protocol):
    """A program whose calls can be taken apart again."""

    @property
    def output(self) -> OutputLayer:
        """The layer that answers."""
        ...

    def passed(self, task: Task, example: Example, completions: Sequence[Completion]) -> Passed:
        """What the calls of one example came to."""
        ...


@dataclass(frozen=True)
class OutputLayer:
    """The layer that answers: the most probable class where classes are compared, else a greedy answer."""

    task: Task
    templates: Templates
    estimator: OutputEstimator
    tokens: int

    def context(self, prompt: str, text: str) -> str:
        """F(x, π)."""
        return self.templates.forward(prompt, text)

    def request(self, prompt: str, text: str) -> Generate:
        """The call for the layer's answer."""
        context = self.context(prompt, text)
        if isinstance(self.estimator, ClassLogProbs):
            return self.estimator.first_token(context)
        return Accuracy(self.task, self.tokens, self.templates.stop("forward")).greedy(context)

    def answer(self, completion: Completion) -> str:
        """ŷ in the call's answer."""
        if isinstance(self.estimator, ClassLogProbs):
            return self.estimator.answer(completion)
        return completion.text

    def target(self, example: Example) -> str:
        """y in the words of the layer."""
        if isinstance(self.estimator, ClassLogProbs):
            return self.estimator.prototype(self.task.class_of(example.target))
        return example.target

    def passed(self, example: Example, text: str, completion: Completion, hidden: str = "") -> Passed:
        """The example after this layer, which had ``text`` for its input."""
        answer = self.answer(completion)
        loss = 1.0 - self.task.grade(answer, example)
        blind = isinstance(self.estimator, ClassLogProbs) and not self.estimator.shown(completion)
        return Passed(example, text, answer, self.target(example), loss, hidden, blind)


@dataclass(frozen=True)
class OneLayer:
    """DLN-1: the candidate is the prompt of the only layer."""

    output: OutputLayer

    def first(self, task: Task, candidate: str, example: Example) -> Generate:
        return self.output.request(candidate, example.input)

    def after(self, task: Task, candidate: str, example: Example, completions: Sequence[Completion]) -> Generate | None:
        return None

    def answer(self, task: Task, completions: Sequence[Completion]) -> str:
        return self.output.answer(completions[-1])

    def passed(self, task: Task, example: Example, completions: Sequence[Completion]) -> Passed:
        return self.output.passed(example, example.input, completions[-1])


@dataclass(frozen=True)
class TwoLayers:
    """DLN-2: the hidden layer's text h and the input make up the output layer's input r = F_r(h, x).

    With ``strip_options`` the hidden layer does not see the answers to choose from; the output layer does. Without
    ``residual`` it sees nothing but h.
    """

    output: OutputLayer
    hidden_tokens: int
    strip_options: bool = False
    residual: bool = True

    def hidden_input(self, example: Example) -> str:
        """What the hidden layer sees of the example."""
        text = example.input
        return text.partition(_OPTIONS)[0].strip() if self.strip_options else text

    def hidden_context(self, prompt: str, example: Example) -> str:
        """F(x, π0)."""
        return self.output.templates.hidden(prompt, self.hidden_input(example))

    def hidden_request(self, prompt: str, example: Example, sampling: Sampling | None = None) -> Generate:
        """The call for a hidden text; greedy where no sampling is given."""
        greedy = Sampling(temperature=0.0, max_tokens=self.hidden_tokens, stop=self.output.templates.stop("hidden"))
        return Generate.of(self.hidden_context(prompt, example), sampling or greedy)

    def hidden_of(self, completion: Completion) -> str:
        """h in the call's answer; it may be empty."""
        return read_hidden(completion.text, self.output.templates.stop("hidden")) or ""

    def output_input(self, example: Example, hidden: str) -> str:
        """r = F_r(h, x), with the whole input x."""
        return self.output.templates.residual(example.input, hidden) if self.residual else hidden

    def first(self, task: Task, candidate: str, example: Example) -> Generate:
        return self.hidden_request(prompts_of(candidate)[0], example)

    def after(self, task: Task, candidate: str, example: Example, completions: Sequence[Completion]) -> Generate | None:
        if len(completions) > 1:
            return None
        text = self.output_input(example, self.hidden_of(completions[0]))
        return self.output.request(prompts_of(candidate)[1], text)

    def answer(self, task: Task, completions: Sequence[Completion]) -> str:
        return self.output.answer(completions[-1])

    def passed(self, task: Task, example: Example, completions: Sequence[Completion]) -> Passed:
        hidden = self.hidden_of(completions[0])
        return self.output.passed(example, self.output_input(example, hidden), completions[-1], hidden)


async def forward(
    model: Model,
    layers: Layers,
    task: Task,
    candidate: str,
    examples: Sequence[Example],
    on_lost: Callable[[Item], None] = lambda _: None,
) -> list[Passed]:
    """The examples after the candidate's forward pass, without those of which a call failed for good.

    ``on_lost`` is told how each of these ended. Every example goes through its layers on its own: the second call of
    one does not wait for the first of another.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_completions(model, layers, task, candidate, example)) for example in examples]
    answered = []
    for example, ended in zip(examples, (task.result() for task in tasks), strict=True):
        if isinstance(ended, Item):
            on_lost(ended)
        else:
            answered.append((example, ended))
    _require_logprobs(model, layers, [calls[-1] for _, calls in answered])
    return [layers.passed(task, example, calls) for example, calls in answered]


async def _completions(
    model: Model, layers: Layers, task: Task, candidate: str, example: Example
) -> list[Completion] | Item:
    """The completions of all calls of an example; how it ended where one failed for good."""
    completions: list[Completion] = []
    request: Generate | None = layers.first(task, candidate, example)
    while request is not None:
        call = model.submit(request, priority=Priority.PROPOSE)
        try:
            completions.append(await call)
        except EndpointUnusable:
            raise
        except CallFailed as error:
            return unanswered(example, error)
        finally:
            withdraw([call])
        request = layers.after(task, candidate, example, completions)
    return completions


def _require_logprobs(model: Model, layers: Layers, answers: Sequence[Completion]) -> None:
    """Raise where not one answer has the log-probabilities that were asked for: all classes would look the same."""
    asked = isinstance(layers.output.estimator, ClassLogProbs)
    if asked and answers and not any(answer.token_logprobs for answer in answers):
        raise MissingCapability(
            f"{model.name} was asked for the log-probabilities of first tokens and gave none with any answer; "
            'choose another model, or set output_scoring to "accuracy"'
        )
