"""GSM8K: grade-school mathematics in words; the paper's main benchmark (OPRO, section 5.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from asyncopt import codec
from asyncopt.tasks.sources import PublishedFile
from asyncopt.tasks.splits import OPTIONS, Splits, dealt_task
from asyncopt.tasks.task import Example, Task

SUMMARY = "grade-school mathematics; 261 training and 1,319 test items"
TRAIN_RATIO = 0.035  # of 7,473: 261 items

_HOME = (
    "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c"
    "/grade_school_math/data"
)
TRAIN = PublishedFile(
    "gsm8k",
    "gsm8k/train.jsonl",
    f"{_HOME}/train.jsonl",
    "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
)
TEST = PublishedFile(
    "gsm8k",
    "gsm8k/test.jsonl",
    f"{_HOME}/test.jsonl",
    "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
)


def load(data: Path | None, options: Mapping[str, object]) -> Task:
    """The task with the reference's 3.5 % of the training file, and all of the test file.

    Ratios are of the training file. ``validation_ratio`` takes more of it; what is then left of it is not used.
    """
    splits = Splits.of("gsm8k", options, train=TRAIN_RATIO)
    items = _examples(TRAIN.read(data))
    train, validation, _ = ([items[index] for index in indices] for indices in splits.indices(len(items)))
    return dealt_task(
        "gsm8k",
        splits.cut(train, validation, _examples(TEST.read(data))),
        options,
        own=[name for name in OPTIONS if name != "test_ratio"],  # the other file is the test; a slice may be taken
        kind="number",
        description="Solve a mathematical problem told in words; the answer is a number.",
        initial=("Let's solve the problem.",),
        max_tokens=1024,
        # As in the reference: an instruction with a number in it tends to give away an exemplar's answer.
        forbid=re.compile(r"\d"),
    )


def _examples(content: bytes) -> tuple[Example, ...]:
    rows = [codec.loads(line) for line in content.splitlines()]
    return tuple(Example(number, row["question"], _target(row["answer"])) for number, row in enumerate(rows))


def _target(solution: str) -> str:
    return solution.rpartition("####")[2].strip().replace(",", "")
