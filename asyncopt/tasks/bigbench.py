"""Four tasks of BIG-bench as Deep Language Networks splits them: BIG-Bench Hard tests, and what it left out trains.

``bigbench/<path>/task.json`` of the data folder is BIG-bench's own file (Apache-2.0), which is not fetched: with it the
splits are the paper's. Without it all three are parts of BIG-Bench Hard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncopt import codec
from asyncopt.errors import DataError
from asyncopt.tasks import bbh
from asyncopt.tasks.sources import PublishedFile, default_folder
from asyncopt.tasks.splits import Dealt
from asyncopt.tasks.task import Example

if TYPE_CHECKING:
    from numpy.random import RandomState

SPLIT_SEED = 42
LARGEST_SPLIT = 1000
LARGEST_HYPERBATON_VALIDATION = 300
SHARES_OF_BBH = (75, 75, 100)  # of its 250 items, where they serve for everything

_HOME = "https://raw.githubusercontent.com/google/BIG-bench/main/bigbench/benchmark_tasks"
_OF_BBH: Mapping[str, str] = {
    "hyperbaton": "hyperbaton",
    "navigate": "navigate",
    "date": "date_understanding",
    "logic7": "logical_deduction_seven_objects",
}
STEMS = tuple(_OF_BBH)

# What BIG-Bench Hard put before BIG-bench's questions, by which its items are found again.
_BEFORE: Mapping[str, str] = {
    "navigate": "If you follow these instructions, do you return to the starting point? ",
    "logic7": "The following paragraphs each describe a set of seven objects arranged in a fixed order. "
    "The statements are logically consistent within each paragraph. ",
}
_HYPERBATON = "Which sentence has the correct adjective order:"
_YES_NO = {"True": "Yes", "False": "No"}


class _Item(NamedTuple):
    """A question with its options and the place of the right one among them."""

    id: int
    question: str
    options: tuple[str, ...]
    right: int

    def example(self, *, letters: bool) -> Example:
        marks = [f"({letter})" for letter in ascii_uppercase] if letters else ["-"] * len(self.options)
        lines = [f"{mark} {option}" for mark, option in zip(marks, self.options, strict=False)]
        target = marks[self.right] if letters else self.options[self.right]
        return Example(self.id, "\n".join([self.question, "Options:", *lines]), target)

    def shuffled(self, generator: RandomState) -> _Item:
        """The item with its options in another order, drawn as in the reference."""
        order = [int(place) for place in generator.permutation(len(self.options))]
        return self._replace(options=tuple(self.options[place] for place in order), right=order.index(self.right))


def file_of(stem: str) -> PublishedFile:
    """BIG-bench's file of a task."""
    path = "logical_deduction/seven_objects" if stem == "logic7" else _OF_BBH[stem]
    return PublishedFile(f"bigbench/{path}", f"bigbench/{path}/task.json", f"{_HOME}/{path}/task.json")


def deal(stem: str, data: Path | None) -> tuple[Dealt, str]:
    """The examples in their splits, and in words what the splits are."""
    hard = bbh.load(_OF_BBH[stem], data, {"train_ratio": 1}).train
    file = file_of(stem)
    if not ((default_folder() if data is None else data) / file.path).is_file():
        return _parts_of(hard), (
            f"{'/'.join(map(str, SHARES_OF_BBH))} of the {len(hard)} items of BIG-Bench Hard, which is not the paper's "
            f"split: that needs {file.path} ({file.home})"
        )
    train, validation = _halves(stem, _left_out(stem, _items(stem, file.read(data)), hard))
    words = "BIG-bench without BIG-Bench Hard in two halves, and BIG-Bench Hard"
    return Dealt(train, validation, hard), words + ("; validation has the training items too" if stem == "date" else "")


def _parts_of(hard: Sequence[Example]) -> Dealt:
    from numpy.random import RandomState  # `import asyncopt` stays light

    order = [hard[index] for index in RandomState(SPLIT_SEED).permutation(len(hard))]
    train, validation, _ = SHARES_OF_BBH
    return Dealt(tuple(order[:train]), tuple(order[train : train + validation]), tuple(order[train + validation :]))


def _left_out(stem: str, items: Sequence[_Item], hard: Sequence[Example]) -> list[_Item]:
    """The items that are not in BIG-Bench Hard, which must have all its own from them."""

    def key(text: str) -> str:
        return text.partition("\n")[0] if stem == "date" else text  # its options are in another order there

    known = {key(example.input) for example in hard}
    left = [item for item in items if key(item.example(letters=stem != "navigate").input) not in known]
    if len(items) - len(left) != len(known):
        found = f"{len(items) - len(left)} of the {len(known)} items of BIG-Bench Hard"
        raise DataError(
            f"{file_of(stem).path} has {found}; wanted BIG-bench's file, which has each once; {file_of(stem).home}"
        )
    return left


def _halves(stem: str, items: Sequence[_Item]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Training and validation in the reference's order: one half each, at most 1,000 examples.

    Hyperbaton validates on 300. The dates, which are few, validate on the training examples too, as the reference does;
    what a search then selects by is not held out from it.
    """
    from numpy.random import RandomState  # `import asyncopt` stays light

    generator, order = RandomState(SPLIT_SEED), list(range(len(items)))
    generator.shuffle(order)
    half = len(items) // 2
    train, validation = min(half, LARGEST_SPLIT), min(len(items) - half, LARGEST_SPLIT)
    chosen = [items[index] for index in order[: train + validation]]
    if stem == "navigate":
        examples = [item.example(letters=False) for item in chosen]
    else:
        examples = [item.shuffled(generator).example(letters=True) for item in chosen]
    if stem == "date":
        return tuple(examples[:train]), tuple(examples)
    last = LARGEST_HYPERBATON_VALIDATION if stem == "hyperbaton" else validation
    return tuple(examples[:train]), tuple(examples[train:][:last])


def _items(stem: str, content: bytes) -> list[_Item]:
    try:
        return list(_read(stem, codec.loads(content)["examples"]))
    except (codec.CodecError, LookupError, TypeError, ValueError, AttributeError) as error:
        wanted = "BIG-bench's JSON, with examples of input and target_scores"
        file = file_of(stem)
        raise DataError(f"{file.path} cannot be read ({type(error).__name__}); wanted {wanted}; {file.home}") from None


def _read(stem: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[_Item]:
    for number, row in enumerate(rows):
        scores: Mapping[str, int] = row["target_scores"]
        question, options = _BEFORE.get(stem, "") + row["input"], list(scores)
        if stem == "navigate":
            options = [_YES_NO[option] for option in options]
        elif stem == "logic7":
            options = [option.removesuffix(".") for option in options]
        elif stem == "hyperbaton":  # the options stand in the question, in quotes; their scores are of "a" and "b"
            quoted = row["input"].rpartition(_HYPERBATON)[2].split('"')
            question, options = _HYPERBATON, [quoted[1].strip(), quoted[3].strip()]
        right = [place for place, score in enumerate(scores.values()) if score == 1]
        yield _Item(number, question, tuple(options), right[-1])
