"""Five tasks of Deep Language Networks that give a sentence its label, from two collections of data.

``ordered-prompt/<task>/{train,dev_subsample,test}.jsonl`` are the files of yaolu/Ordered-Prompt (Subj, Trec and Mpqa).
``leopard/<task>_eval.json`` are those of iesl/leopard (Disaster and Airline), whose authors state no licence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asyncopt import codec
from asyncopt.errors import DataError
from asyncopt.tasks.sources import PublishedFile, default_folder, parse_line
from asyncopt.tasks.splits import Dealt
from asyncopt.tasks.task import Example

SPLIT_SEED = 42
TRAIN, TEST = 1000, 250
VALIDATION_OF_LEOPARD = 250

_LABELS: Mapping[str, Mapping[str, str]] = {
    "subj": {"0": "subjective", "1": "objective"},
    "trec": {"0": "description", "1": "entity", "2": "expression", "3": "human", "4": "location", "5": "number"},
    "mpqa": {"0": "negative", "1": "positive"},
    "disaster": {"Not Relevant": "no", "Relevant": "yes"},
    "airline": {"positive": "positive", "negative": "negative", "neutral": "neutral"},
}
_QUESTIONS: Mapping[str, str] = {
    "disaster": "Is this message about a disaster?",
    "airline": "How does this message speak of the airline?",
}
# Bytes of each published file.
_SIZES: Mapping[str, Mapping[str, int]] = {
    "subj": {"train": 1_293_880, "dev_subsample": 42_544, "test": 327_363},
    "trec": {"train": 446_651, "dev_subsample": 17_183, "test": 33_527},
    "mpqa": {"train": 427_049, "dev_subsample": 12_711, "test": 100_574},
}
_ORDERED_PROMPT = "https://raw.githubusercontent.com/yaolu/Ordered-Prompt/main/data"
_LEOPARD = "https://raw.githubusercontent.com/iesl/leopard/master/data/json"
ORDERED_PROMPT = tuple(_SIZES)


def labels_of(stem: str) -> tuple[str, ...]:
    """The labels as the model sees them, in the order of the options."""
    return tuple(_LABELS[stem].values())


def files_of(stem: str) -> tuple[PublishedFile, ...]:
    """The published files of Subj, Trec or Mpqa: train, validation and test."""
    return tuple(
        PublishedFile(
            f"dln/{stem}", f"ordered-prompt/{stem}/{part}.jsonl", f"{_ORDERED_PROMPT}/{stem}/{part}.jsonl", size=size
        )
        for part, size in _SIZES[stem].items()
    )


def deal(stem: str, data: Path | None) -> Dealt:
    """The examples in the reference's splits, drawn with 42; raises :class:`DataError`."""
    return _ordered_prompt(stem, data) if stem in _SIZES else _leopard(stem, data)


def _ordered_prompt(stem: str, data: Path | None) -> Dealt:
    files = files_of(stem)
    train, validation, test = (_lines(stem, file, file.read(data)) for file in files)
    # One generator draws both, and the validation file is taken as it is.
    drawn_train, drawn_test = _drawn([(train, TRAIN, files[0]), (test, TEST, files[2])])
    return Dealt(drawn_train, tuple(validation), drawn_test)


def _leopard(stem: str, data: Path | None) -> Dealt:
    file = PublishedFile(f"dln/{stem}", f"leopard/{stem}_eval.json", f"{_LEOPARD}/{stem}/{stem}_eval.json")
    path = (default_folder() if data is None else data) / file.path
    if not path.is_file():
        raise DataError(
            f"there is no file {path}; it is not fetched, because its authors state no licence: get it yourself, and "
            f"name the DIR with DIR/{file.path} (--data DIR, or ASYNCOPT_DATA in the environment); {file.home}"
        )
    end = TRAIN + VALIDATION_OF_LEOPARD
    (drawn,) = _drawn([(_list(stem, file, file.read(data)), end + TEST, file)])
    return Dealt(drawn[:TRAIN], drawn[TRAIN:end], drawn[end:])


def _drawn(wanted: Sequence[tuple[Sequence[Example], int, PublishedFile]]) -> list[tuple[Example, ...]]:
    from numpy.random import RandomState  # `import asyncopt` stays light

    generator = RandomState(SPLIT_SEED)
    drawn = []
    for examples, count, file in wanted:
        if len(examples) < count:
            raise DataError(f"{file.path} has {len(examples)} items; wanted at least {count}; {file.home}")
        drawn.append(tuple(examples[index] for index in generator.choice(len(examples), count, replace=False)))
    return drawn


def _lines(stem: str, file: PublishedFile, content: bytes) -> list[Example]:
    rows = [parse_line(line, f"{file.path}, line {number}") for number, line in enumerate(content.splitlines(), 1)]
    return [
        _example(stem, number, row, "sentence", f"{file.path}, line {number + 1}") for number, row in enumerate(rows)
    ]


def _list(stem: str, file: PublishedFile, content: bytes) -> list[Example]:
    try:
        rows = codec.loads(content)
    except codec.CodecError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file.path} is no JSON list of objects with sentence1 and label; {file.home}")
    return [_example(stem, number, row, "sentence1", f"{file.path}, item {number}") for number, row in enumerate(rows)]


def _example(stem: str, number: int, row: Mapping[str, object], field: str, place: str) -> Example:
    sentence, label = row.get(field), str(row.get("label"))
    labels = _LABELS[stem]
    if not isinstance(sentence, str) or label not in labels:
        raise DataError(f"{place}: wanted an object with {field}, a text, and label, one of {', '.join(labels)}")
    question = [_QUESTIONS[stem]] if stem in _QUESTIONS else []
    options = [f"- {shown}" for shown in labels.values()]
    return Example(number, "\n".join([*question, sentence, "Options:", *options]), labels[label])
