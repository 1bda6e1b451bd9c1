"""The ten tasks of Deep Language Networks: nine of the paper, and GSM8K as in its reference code.

Splits are those of the reference's last commit, whatever the seed of a study; the paper has the same tests, and trains
on at most 400 items. They are drawn with 42; only what ``train_size`` cuts is drawn with the study's seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from asyncopt.answers import Kind
from asyncopt.tasks import bigbench, gsm8k, sentences
from asyncopt.tasks.options import wrong_option
from asyncopt.tasks.splits import SPLITS, Dealt, dealt_task
from asyncopt.tasks.task import Example, Task, letter_classes

if TYPE_CHECKING:
    from numpy.random import RandomState

SPLIT_SEED = 42
SIZES = tuple(f"{split}_size" for split in SPLITS)

_HIDDEN = "Break the problem down into steps that are easier:"


@dataclass(frozen=True, slots=True)
class _Wording:
    """How a task is put to a model: its first prompts, and the verbalizers of its classes."""

    kind: Kind
    summary: str
    initial: str
    classes: tuple[str, ...] = ()
    hidden_initial: str = ""


_OF_BBH = "of BIG-bench, with BIG-Bench Hard for the test (or a part of that for all three)"
_OF_ORDERED = "of Ordered-Prompt; 1,000, 256 and 250 items"
_OF_LEOPARD = "of Leopard; 1,000, 250 and 250 items; not fetched, as its authors state no licence"
_TASKS: Mapping[str, _Wording] = {
    "hyperbaton": _Wording(
        "choice",
        f"the order of adjectives, {_OF_BBH}",
        "Choose the option in which the adjectives stand in the right order.",
        letter_classes("AB"),
    ),
    "navigate": _Wording(
        "boolean",
        f"whether a walk ends where it began, {_OF_BBH}",
        "Say whether a walk by these instructions ends where it began.",
        ("yes|Yes", "no|No"),
        _HIDDEN,
    ),
    "date": _Wording(
        "choice", f"dates from context, {_OF_BBH}", "Work out the date that is asked for.", letter_classes("ABCDEF")
    ),
    "logic7": _Wording(
        "choice",
        f"the order of seven objects, {_OF_BBH}",
        "Seven objects have a fixed order; choose the option that follows from what is said about it.",
        letter_classes("ABCDEFG"),
    ),
    "subj": _Wording(
        "text",
        f"subjective or objective sentences, {_OF_ORDERED}",
        "Say whether this sentence of a text about a film is subjective or objective.",
        sentences.labels_of("subj"),
        _HIDDEN,
    ),
    "trec": _Wording(
        "text",
        f"what a question asks for, {_OF_ORDERED}",
        "Say what the question asks for: a description, entity, expression, human, location or number.",
        sentences.labels_of("trec"),
    ),
    "mpqa": _Wording(
        "text",
        f"negative or positive phrases, {_OF_ORDERED}",
        "Say whether the phrase is negative or positive.",
        sentences.labels_of("mpqa"),
    ),
    "disaster": _Wording(
        "boolean",
        f"messages about disasters, {_OF_LEOPARD}",
        "Say whether the message is about a disaster.",
        sentences.labels_of("disaster"),
    ),
    "airline": _Wording(
        "text",
        f"messages about airlines, {_OF_LEOPARD}",
        "Say whether the message speaks of the airline in a positive, negative or neutral way.",
        tuple(f"{label}|{label.capitalize()}" for label in sentences.labels_of("airline")),
    ),
    "gsm8k": _Wording(
        "number",
        "grade-school mathematics; half of the training file to train, half to validate, and 1,319 test items",
        "Solve the problem and end with its answer as a number.",
    ),
}
STEMS = tuple(_TASKS)


def summary_of(stem: str) -> str:
    """One line about a task for people."""
    return _TASKS[stem].summary


def load(stem: str, data: Path | None, seed: int, options: Mapping[str, object]) -> Task:
    """The task with the reference's splits; its description says which these are.

    Options beside the common ones are ``train_size``, ``validation_size`` and ``test_size``: so many examples of a
    split, class by class in turn and with repeats, as the reference cuts its splits. Raises :class:`DataError` for data
    that are missing or cannot be read.
    """
    sizes = {name: _size(stem, name, options[name]) for name in SIZES if name in options}
    dealt, split = _dealt(stem, data)
    wording = _TASKS[stem]
    return dealt_task(
        f"dln/{stem}",
        _cut(dealt, sizes, seed),
        options,
        own=SIZES,
        kind=wording.kind,
        description=f"The task {stem} of Deep Language Networks: {split}.",
        initial=(wording.initial,),
        hidden_initial=wording.hidden_initial,
        classes=wording.classes,
    )


def balanced(examples: Sequence[Example], size: int, generator: RandomState) -> tuple[Example, ...]:
    """``size`` examples, one of each class in turn, each drawn from all of its class, so that some may come twice.

    Classes are told apart by their targets and come in a random order. These are the reference's draws. The examples
    are numbered anew, since scores are kept by number and a repeat has one of its own.
    """
    of_class: dict[str, list[Example]] = {}
    for example in examples:
        of_class.setdefault(example.target, []).append(example)
    pools = list(of_class.values())
    order = generator.choice(len(pools), len(pools), replace=False)
    pools_in_turn = (pools[order[turn % len(pools)]] for turn in range(size))
    drawn = (pool[int(generator.choice(len(pool), 1)[0])] for pool in pools_in_turn)
    return tuple(replace(example, id=number) for number, example in enumerate(drawn))


def _dealt(stem: str, data: Path | None) -> tuple[Dealt, str]:
    """The examples in their splits, and in words what the splits are."""
    if stem in bigbench.STEMS:
        return bigbench.deal(stem, data)
    if stem == "gsm8k":
        return _gsm8k(data), "the training file in two halves, and the test file"
    return sentences.deal(stem, data), "the reference's draw"


def _gsm8k(data: Path | None) -> Dealt:
    from numpy.random import default_rng  # `import asyncopt` stays light

    whole = gsm8k.load(data, {"train_ratio": 1})
    # As Hugging Face's data sets shuffle, which the reference uses; the test is shuffled there too, to no effect.
    order = default_rng(SPLIT_SEED).permutation(len(whole.train))
    shuffled = [whole.train[index] for index in order]
    half = len(shuffled) // 2
    return Dealt(tuple(shuffled[:half]), tuple(shuffled[half:]), whole.test)


def _cut(dealt: Dealt, sizes: Mapping[str, int], seed: int) -> Dealt:
    from numpy.random import RandomState  # `import asyncopt` stays light

    seeds = (seed % 2**32, SPLIT_SEED, SPLIT_SEED)
    return Dealt(
        *(
            balanced(examples, sizes[name], RandomState(drawn_with)) if name in sizes else examples
            for name, examples, drawn_with in zip(SIZES, dealt, seeds, strict=True)
        )
    )


def _size(stem: str, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong_option(f"dln/{stem}", name, value, "an integer of at least 1")
    return value
