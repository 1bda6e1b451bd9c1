"""What the model is asked, in words of our own with the roles of the paper's templates, and what its answer says."""

from __future__ import annotations

from dataclasses import dataclass

from asyncopt.optimizers.asking import Reading
from asyncopt.optimizers.evoprompt.options import Template
from asyncopt.optimizers.opro.candidates import usable
from asyncopt.tasks.task import Task
from asyncopt.templates import packaged

_PROMPTS = "asyncopt.optimizers.evoprompt.prompts"
OPENING, CLOSING = "<prompt>", "</prompt>"


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt for the model that asks for a child of the ``parents``; ``source`` says how it is made."""

    prompt: str
    source: str
    parents: tuple[str, ...]


def paraphrase(base: str) -> Request:
    """A request for other words."""
    return Request(packaged(_PROMPTS, "paraphrase.j2")(prompt=base), "paraphrase", (base,))


def crossover(first: str, second: str) -> Request:
    """The two steps of the genetic algorithm (EvoPrompt, figure 1)."""
    prompt = packaged(_PROMPTS, "crossover.j2")(first=first, second=second)
    return Request(prompt, "crossover", _each_once(first, second))


def differential(basic: str, first: str, second: str, third: str, template: Template) -> Request:
    """The steps of differential evolution (EvoPrompt, figure 2); ``v2`` and ``v3`` are the paper's ablations.

    ``v2`` does without the ``third`` prompt, and ``v3`` mutates the ``first`` two as a whole.
    """
    shown = {"basic": basic, "first": first, "second": second} | ({} if template == "v2" else {"third": third})
    prompt = packaged(_PROMPTS, f"differential_{template}.j2")(**shown)
    return Request(prompt, "differential", _each_once(*shown.values()))


def _each_once(*parents: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(parents))


def final_prompt(answer: str) -> str:
    """The text after the last ``<prompt>`` up to the next ``</prompt>``, as in the reference code.

    Where no ``</prompt>`` follows, all that does. Without a ``<prompt>`` the whole answer, without double quotes around
    it. Words are one blank apart.
    """
    _, opening, tail = answer.rpartition(OPENING)
    text = " ".join((tail.partition(CLOSING)[0] if opening else tail).split())
    return text if opening else text.removeprefix('"').removesuffix('"')


def read(answer: str, task: Task) -> Reading:
    """The child in an answer, or why there is none that may be scored; a tag that is left in it is no child's."""
    text = final_prompt(answer)
    if CLOSING in text:
        return Reading(None, "with a mark of the format")
    return usable(text, task)
