"""Small tasks on the package's own word lists, which need no download: opposites of words and capitals of countries."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from random import Random

from asyncopt.tasks.options import with_options
from asyncopt.tasks.sources import fingerprint
from asyncopt.tasks.task import Example, Task

SUMMARIES = {
    "antonym": "the opposite of an English word; bundled",
    "capital": "the capital of a country; bundled",
}
TRAIN, VALIDATION, LARGEST_TEST = 40, 40, 100
MAX_TOKENS = 16

_TEMPLATE = "{% if instruction %}{{ instruction }}\n\n{% endif %}Input: {{ input }}\nOutput:"
_DESCRIPTIONS = {
    "antonym": "Each input is an English word and each output a word whose meaning is opposed to it.",
    "capital": "Each input is a country and each output a city of it.",
}
# Mediocre on purpose: they state the task, and leave room above them.
_INITIAL = {
    "antonym": ("Give a word with the opposite meaning. Answer with one word.",),
    "capital": ("Write the capital of the country.",),
}


def load(name: str, seed: int, options: Mapping[str, object]) -> Task:
    """The task with its words dealt by the seed: 40 for training, 40 for validation, up to 100 for the test."""
    examples = _examples(name)
    Random(f"{seed}:{name}:split").shuffle(examples)
    train = tuple(examples[:TRAIN])
    validation = tuple(examples[TRAIN : TRAIN + VALIDATION])
    test = tuple(examples[TRAIN + VALIDATION :][:LARGEST_TEST])
    task = Task(
        name=name,
        kind="text",
        train=train,
        validation=validation,
        test=test,
        description=_DESCRIPTIONS[name],
        template=_TEMPLATE,
        initial=_INITIAL[name],
        max_tokens=MAX_TOKENS,
        fingerprint=fingerprint(train, validation, test),
    )
    return with_options(task, options)


def _examples(name: str) -> list[Example]:
    lines = files("asyncopt.tasks").joinpath("words", f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [Example(number, *line.split("\t")) for number, line in enumerate(lines)]
