"""AQuA: algebra in words with five options, on which the paper tests instructions found on GSM8K (Table 6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asyncopt import codec
from asyncopt.tasks.sources import REFERENCE, PublishedFile
from asyncopt.tasks.splits import Splits, dealt_task
from asyncopt.tasks.task import Example, Task, letter_classes

SUMMARY = "algebra in words, multiple choice; 254 items, all for the test unless train_ratio is set"
FILE = PublishedFile(
    "aqua",
    "aqua/test.json",
    f"{REFERENCE}/AQuA-data/AQuA.json",  # the same bytes as test.json of google-deepmind/AQuA
    "de41581881ef95c5588c44ddc701c77fd480839241dd422a0d181262af24520c",
)

_QUESTION = "Which of (A), (B), (C), (D) and (E) is the answer?"


def load(data: Path | None, options: Mapping[str, object]) -> Task:
    """The task with all items for the test, as in the reference's evaluation.

    To search on it, set ``train_ratio``: 0.2 gives it the shares of BIG-Bench Hard.
    """
    splits = Splits.of("aqua", options)
    rows = [codec.loads(line) for line in FILE.read(data).splitlines()]
    examples = [Example(number, _question(row), row["correct"]) for number, row in enumerate(rows)]
    return dealt_task(
        "aqua",
        splits.deal(examples),
        options,
        kind="choice",
        description="Solve an algebraic problem told in words by choosing one of five options.",
        classes=letter_classes("ABCDE"),
    )


def _question(row: Mapping[str, object]) -> str:
    options = row["options"]
    assert isinstance(options, list)
    # As published, an option is "A)5".
    return "\n".join([str(row["question"]), *(f"({option}" for option in options), _QUESTION])
