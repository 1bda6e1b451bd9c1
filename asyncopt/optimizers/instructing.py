"""What optimizers of instructions share: what they want before any call, and one sample of the proposer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isfinite

from asyncopt.engine import Model
from asyncopt.errors import ConfigError
from asyncopt.optimizers.asking import Answers, Proposed, Reading, asked
from asyncopt.optimizers.base import AnyTask, Search, Seen
from asyncopt.optimizers.opro.domain import Ask
from asyncopt.optimizers.overlap import Overlap, Proposal
from asyncopt.tasks.task import Task
from asyncopt.values import Sampling


def check_options(optimizer: Overlap, name: str, temperature: float, least: Mapping[str, int]) -> None:
    """Raise :class:`ConfigError` for a temperature that is none, and for counts below the ``least`` by their names."""
    optimizer.check_overlap()
    for option, lowest in least.items():
        value = getattr(optimizer, option)
        if value < lowest:
            raise ConfigError(f"{name}'s {option} is {value}; it must be at least {lowest}")
    if not (isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"{name}'s temperature is {temperature}; it must be a number of at least 0")


def require_instructions(
    optimizer: Overlap, name: str, task: AnyTask, scorer: Model | None, proposer: Model | None
) -> Task:
    """The task, if instructions can be searched for in it with these models; else raises :class:`ConfigError`."""
    if not isinstance(task, Task):
        raise ConfigError(f"{name} searches for instructions, and {task.name} has none; use another optimizer")
    if proposer is None:
        raise ConfigError(f"{name} asks a model for instructions; name one with --proposer, or pass proposer=")
    if scorer is None:
        raise ConfigError(f"{task.name} is scored by a model; name one with --scorer, or pass scorer=")
    optimizer.check_examples(task)
    return task


async def sampled(
    search: Search,
    answers: Answers,
    sample: Proposed,
    ask: Ask,
    sampling: Sampling,
    read: Callable[[str], Reading],
    seen: Seen,
) -> Proposal | None:
    """What is read out of the proposer's answer, and the sample's source; None where there is nothing of use.

    The grammar goes with the request where the proposer's server takes one.
    """
    if search.require_proposer().supports.grammar:
        sampling = replace(sampling, grammar=ask.grammar)
    answer = await asked(search, ask.prompt, sampling, sample.step, sample.index)
    if answer is None:
        return None
    reading = read(answer)
    answers.take(sample, ask.prompt, answer, reading, seen)
    return None if reading.text is None else (reading.text, sample.source)
