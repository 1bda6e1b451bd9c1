"""MultiArith: 600 arithmetic problems in two steps, on which the paper tests instructions found on GSM8K (Table 6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asyncopt import codec
from asyncopt.errors import DataError
from asyncopt.tasks.sources import REFERENCE, PublishedFile
from asyncopt.tasks.splits import Splits, dealt_task
from asyncopt.tasks.task import Example, Task

SUMMARY = "arithmetic problems in two steps; 600 items, all for the test unless train_ratio is set"
FILE = PublishedFile(
    "multiarith", "multiarith/MultiArith.json", f"{REFERENCE}/MultiArith-data/MultiArith.json", size=254_011
)


def load(data: Path | None, options: Mapping[str, object]) -> Task:
    """The task with all items for the test, as in the reference's evaluation.

    To search on it, set ``train_ratio``: 0.2 gives it the shares of BIG-Bench Hard.
    """
    splits = Splits.of("multiarith", options)
    return dealt_task(
        "multiarith",
        splits.deal(_examples(FILE.read(data))),
        options,
        kind="number",
        description="Solve a mathematical problem told in words; the answer is a number.",
    )


def _examples(content: bytes) -> list[Example]:
    try:
        rows = codec.loads(content)
        return [
            Example(number, row["sQuestion"].strip(), str(int(row["lSolutions"][0]))) for number, row in enumerate(rows)
        ]
    except (codec.CodecError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        wanted = "a JSON list of objects with sQuestion and lSolutions"
        raise DataError(f"{FILE.path} cannot be read ({type(error).__name__}); wanted {wanted}; {FILE.home}") from None
