"""The prompts that a run will send, as far as they are known before it: for counting their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Literal, TypeAlias

from asyncopt.limits.estimate import TokenEstimate
from asyncopt.optimizers import APE, DLN1, DLN2, OPRO
from asyncopt.optimizers.base import AnyTask, Optimizer, Seen
from asyncopt.optimizers.dln.layers import TwoLayers, pair_of
from asyncopt.optimizers.dln.likelihoods import output_estimator, text_request
from asyncopt.optimizers.dln.proposals import hidden_requests, prompt_requests
from asyncopt.optimizers.dln.roles import Case
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.opro.domain import Ask, Style
from asyncopt.optimizers.opro.optimizer import domain_of
from asyncopt.optimizers.overlap import START
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Completion, Generate, Prompt, Request, Sampling

TYPICAL = "x" * 160  # 40 tokens: the instructions that OPRO's paper found have 10 to 60

# What a call is for: an answer, the hidden text before it, the likelihood of a hidden text or of a target, a sample of
# the posterior, a new prompt for the layer that answers, or for the hidden one.
Sort: TypeAlias = Literal["answer", "hidden", "weighed", "target", "posterior", "proposal", "hidden proposal"]


def as_opro(optimizer: Optimizer) -> OPRO | None:
    """The optimizer where it is OPRO, or one that asks in its way; else None."""
    if isinstance(optimizer, APE):
        return optimizer.as_opro
    return optimizer if isinstance(optimizer, OPRO) else None


def first_candidate(task: Task, optimizer: Optimizer) -> str:
    """What the search starts from."""
    if isinstance(optimizer, DLN2):
        return pair_of(optimizer.first_hidden(task), optimizer.first_output(task))
    return optimizer.first_output(task) if isinstance(optimizer, DLN1) else task.initial[0]


def meta_prompt(task: AnyTask, opro: OPRO, style: Style, *, shown: int, rng: Random, text: str | None = None) -> Ask:
    """A request for a proposal that shows so many scored solutions: the initial one alone, or as long as ``text``."""
    texts = [text or task.initial[0]] * shown if isinstance(task, Task) else [task.random(rng) for _ in range(shown)]
    losses = [0.5 if isinstance(task, Task) else task.loss_of(one) for one in texts]
    entries = [Entry(one, loss, START, 0, 1) for one, loss in zip(texts, losses, strict=True)]
    seen = Seen(0, History(maximize=isinstance(task, Task), entries=entries))
    # Other criteria show no exemplar until something has gone wrong.
    domain = domain_of(task, opro.styles, replace(opro, exemplar_choice="random"), 0)
    return domain.ask(style, entries, seen, rng)


def network_requests(
    task: Task, optimizer: DLN1 | DLN2, answered: Sequence[tuple[Example, Sequence[Completion]]], count: int
) -> list[tuple[Generate, bool]]:
    """Requests of a first iteration on these answered examples, and which of them are for prompts.

    DLN-2 asks for hidden texts too, in every other request here.
    """
    layers, templates = optimizer.program(task), optimizer.texts()
    passes = [layers.passed(task, example, done) for example, done in answered]
    cases = [one.case for one in passes[: optimizer.batch_size]]
    if not cases:
        return []
    asked = prompt_requests(
        templates, [optimizer.first_output(task)], cases, count, Random, half=optimizer.held_out_ranking
    )
    found: list[tuple[Prompt, bool, tuple[str, ...]]] = [
        (one.prompt(templates), True, templates.stop("proposal")) for one in asked
    ]
    if isinstance(optimizer, DLN2):
        hidden = hidden_requests(
            templates,
            optimizer.posteriors,
            [Case(one.example.input, one.hidden, one.target, one.loss) for one in passes],
            (optimizer.first_hidden(task), optimizer.first_output(task)),
            1,
            lambda place, sample: Random(f"{place}:{sample}"),
        )
        found[1::2] = [(one.text, False, templates.stop("hidden")) for one in hidden[: count // 2]]
    return [
        (
            Generate.of(
                prompt,
                Sampling(temperature=optimizer.backward_temperature, max_tokens=optimizer.proposal_tokens, stop=stop),
            ),
            wanted,
        )
        for prompt, wanted, stop in found[:count]
    ]


def likelihoods(
    task: Task, optimizer: Optimizer, example: Example, done: Sequence[Completion]
) -> list[tuple[Request, Sort]]:
    """The likelihoods that a network's run asks for of an example which the initial prompts answered so."""
    if not isinstance(optimizer, DLN1 | DLN2) or optimizer.output_scoring != "logprobs":
        return []
    program, found = optimizer.program(task), list[tuple[Request, Sort]]()
    two = program if isinstance(program, TwoLayers) else None
    hidden = two.hidden_of(done[0]) if two is not None and done else ""
    if not task.classes:
        text = example.input if two is None else two.output_input(example, hidden)
        context = program.output.context(optimizer.first_output(task), text)
        found.append((output_estimator(task, optimizer).request(context, example), "target"))
    if two is not None and isinstance(optimizer, DLN2) and optimizer.hidden_scoring == "logprobs":
        context = two.hidden_context(optimizer.first_hidden(task), example)
        found.append((text_request(context, hidden), "weighed"))
    return found


def mean_tokens(task: Task, optimizer: Optimizer, candidate: str, examples: Sequence[Example]) -> float:
    """Estimated tokens of the first call for one of these examples, in the mean; 0.0 where there are none."""
    program = optimizer.program(task)
    return sum(tokens_of(program.first(task, candidate, one)) for one in examples) / max(len(examples), 1)


def tokens_of(request: Request) -> float:
    """Estimated tokens of a prompt."""
    return TokenEstimate().of(request)[0]
