"""Estimators of log p(y | F(x, π)) and of log p(h | F(x, π)): what is asked for, and what the answer is worth.

Three of them, named in the state and in reports: exact log-probabilities of a given text (1), log-probabilities of
classes from the first token of an answer (2), and right answers in place of log-probabilities (3), which is not the
paper's. A context is followed by a line break before what is scored, as in the reference code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from asyncopt.engine import Model
from asyncopt.errors import ConfigError, MissingCapability
from asyncopt.optimizers.dln.options import Training
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Completion, Generate, Likelihood, LogProb, Request, Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOT_THE_PAPERS = "(not the paper's estimator)"
EXACT = "exact log-probabilities of the text"
CLASSES = "class log-probabilities of the first token"
ACCURACY = f"accuracy {NOT_THE_PAPERS}"
AGREEMENT = f"agreement of sampled hidden texts {NOT_THE_PAPERS}"
UNSCORED = f"none: hidden prompts are not scored, and q has no prior term {NOT_THE_PAPERS}"


class OutputEstimator(Protocol):
    """How an output layer's log p(y | F(x, π)) is found."""

    @property
    def name(self) -> str: ...

    def request(self, context: str, example: Example) -> Request:
        """The call that tells it, where the context is F(x, π)."""
        ...

    def value(self, completion: Completion, example: Example) -> float:
        """What the call's answer says: natural logarithm, or 0 and 1 for accuracy."""
        ...


@dataclass(frozen=True)
class Exact:
    """Estimator 1: the mean log-probability per token of the target itself, after the burn-in."""

    burn_in: float
    name: str = EXACT

    def request(self, context: str, example: Example) -> Request:
        return text_request(context, example.target)

    def value(self, completion: Completion, example: Example) -> float:
        return LogProb.of(completion).mean(self.burn_in)


@dataclass(frozen=True)
class ClassLogProbs:
    """Estimator 2: the log-probability of the target's class, normalised over the task's classes."""

    task: Task
    top: int
    name: str = CLASSES

    def request(self, context: str, example: Example) -> Generate:
        return self.first_token(context)

    def first_token(self, context: str) -> Generate:
        """The call for the first token that follows the context; greedy, so that it is also the forward pass's."""
        return Generate.of(f"{context}\n", Sampling(temperature=0.0, max_tokens=1), top_logprobs=self.top)

    def value(self, completion: Completion, example: Example) -> float:
        return float(self.logprobs(completion)[self.task.class_of(example.target)])

    def logprobs(self, completion: Completion) -> NDArray[np.float64]:
        """The log-probabilities of all classes, shape (C,)."""
        from asyncopt.optimizers.dln.classes import class_logprobs

        first = completion.token_logprobs[0].top if completion.token_logprobs else ()
        return class_logprobs(first, self.task.classes)

    def shown(self, completion: Completion) -> bool:
        """Whether any class is among the first tokens; where none is, all are equally probable."""
        from asyncopt.optimizers.dln.classes import spellings

        words = {word for verbalizers in self.task.classes for word in spellings(verbalizers)}
        return any(text in words for one in completion.token_logprobs[:1] for text, _ in one.top)

    def answer(self, completion: Completion) -> str:
        """The prototype of the most probable class."""
        from asyncopt.optimizers.dln.classes import prediction

        return prediction(self.logprobs(completion), self.task.classes)

    def prototype(self, index: int) -> str:
        """The text that stands for a class: the first of its verbalizers."""
        from asyncopt.optimizers.dln.classes import prototype

        return prototype(self.task.classes[index])


@dataclass(frozen=True)
class Accuracy:
    """Estimator 3: 1 where the greedy answer is right and 0 where it is not.

    Answers may be as long as the forward pass's (the reference cuts these at 10 tokens), so the two share their calls.
    """

    task: Task
    tokens: int
    stop: tuple[str, ...]
    name: str = ACCURACY

    def request(self, context: str, example: Example) -> Generate:
        return self.greedy(context)

    def greedy(self, context: str) -> Generate:
        """The call for a whole answer at temperature 0."""
        return Generate.of(context, Sampling(temperature=0.0, max_tokens=self.tokens, stop=self.stop))

    def value(self, completion: Completion, example: Example) -> float:
        return self.task.grade(completion.text, example)


def text_request(context: str, text: str) -> Likelihood:
    """The call for the log-probability of a text; of an empty one, for that of the line break that would end it."""
    return Likelihood.of(f"{context}\n", text or "\n")


def output_estimator(task: Task, options: Training) -> OutputEstimator:
    """The estimator of the output layer for this task, which :func:`check_output` finds possible or not."""
    if options.output_scoring == "accuracy":
        return Accuracy(task, options.forward_tokens, options.texts().stop("forward"))
    return ClassLogProbs(task, options.top_logprobs) if task.classes else Exact(options.burn_in)


def check_output(task: Task, options: Training, scorer: Model) -> None:
    """Raise where the forward model cannot give what the output layer's estimator asks for, or the classes are odd."""
    other = f'set output_scoring to "accuracy" {NOT_THE_PAPERS}'
    if options.output_scoring == "accuracy":
        return
    if not task.classes:
        require_prompt_logprobs(scorer, f"{task.name} has no classes, so its targets' own log-probabilities", other)
        return
    most = scorer.supports.top_logprobs
    if most < options.top_logprobs:
        fewer = f"set top_logprobs to {most} or less, or " if most else ""
        raise MissingCapability(
            f"dln reads class log-probabilities from {options.top_logprobs} first tokens, and {scorer.name} gives "
            f"{most or 'none'}; {fewer}{other}"
        )
    _check_prototypes(task, ClassLogProbs(task, options.top_logprobs))


def _check_prototypes(task: Task, classes: ClassLogProbs) -> None:
    """Raise where the answer that stands for a class would not be graded as right."""
    for index, example in {task.class_of(example.target): example for example in task.fold("all")}.items():
        answer = classes.prototype(index)
        if not math.isclose(task.grade(answer, example), 1.0):
            raise ConfigError(
                f"the class {task.classes[index]!r} of {task.name} is answered with {answer!r}, which its grading "
                f"does not take for {example.target!r}; put a verbalizer first that is graded as right"
            )


def require_prompt_logprobs(scorer: Model, what: str, other: str) -> None:
    """Raise :class:`MissingCapability` where the model cannot say how probable a given text is."""
    if not scorer.supports.prompt_logprobs:
        raise MissingCapability(
            f"{what} would be asked for, and {scorer.name} gives no log-probabilities of given texts (completions with "
            f"echo or prompt_logprobs, or the embedded model, do); choose such a model, or {other}"
        )
