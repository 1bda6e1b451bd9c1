"""MMLU: multiple choice in 57 subjects, which the reference code searches on by category (its test files only)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from asyncopt.errors import DataError
from asyncopt.tasks.sources import REFERENCE, PublishedFile
from asyncopt.tasks.splits import Splits, dealt_task
from asyncopt.tasks.task import Example, Task, letter_classes

TRAIN_RATIO, VALIDATION_RATIO = 0.8, 0.2  # so nothing is left for the test

_QUESTION = "Which of (A), (B), (C) and (D) is the answer?"
_LETTERS = "ABCD"
# Bytes of each published file, by category and subject.
_SIZES: Mapping[str, Mapping[str, int]] = {
    "stem": {
        "abstract_algebra": 17358,
        "astronomy": 42999,
        "college_biology": 45351,
        "college_chemistry": 22314,
        "college_computer_science": 40401,
        "college_mathematics": 22429,
        "college_physics": 27811,
        "computer_security": 24840,
        "conceptual_physics": 34992,
        "electrical_engineering": 21595,
        "elementary_mathematics": 61602,
        "high_school_biology": 102424,
        "high_school_chemistry": 53918,
        "high_school_computer_science": 42281,
        "high_school_mathematics": 48584,
        "high_school_physics": 56252,
        "high_school_statistics": 105978,
        "machine_learning": 31698,
    },
    "humanities": {
        "formal_logic": 46929,
        "high_school_european_history": 266888,
        "high_school_us_history": 292834,
        "high_school_world_history": 373770,
        "international_law": 50691,
        "jurisprudence": 31375,
        "logical_fallacies": 46290,
        "moral_disputes": 99902,
        "moral_scenarios": 361484,
        "philosophy": 72820,
        "prehistory": 82193,
        "professional_law": 1867637,
        "world_religions": 21156,
    },
    "social_sciences": {
        "econometrics": 44039,
        "high_school_geography": 37386,
        "high_school_government_and_politics": 61553,
        "high_school_macroeconomics": 108402,
        "high_school_microeconomics": 70131,
        "high_school_psychology": 146542,
        "human_sexuality": 29052,
        "professional_psychology": 212333,
        "public_relations": 26236,
        "security_studies": 199745,
        "sociology": 61540,
        "us_foreign_policy": 26047,
    },
    "other": {
        "anatomy": 29844,
        "business_ethics": 31394,
        "clinical_knowledge": 56562,
        "college_medicine": 78334,
        "global_facts": 16191,
        "human_aging": 40617,
        "management": 17457,
        "marketing": 57435,
        "medical_genetics": 18520,
        "miscellaneous": 129221,
        "nutrition": 85926,
        "professional_accounting": 118484,
        "professional_medicine": 211585,
        "virology": 34689,
    },
}
CATEGORIES = tuple(_SIZES)
_CATEGORY = {subject: category for category, sizes in _SIZES.items() for subject in sizes}
SUBJECTS = tuple(sorted(_CATEGORY))
STEMS = (*CATEGORIES, *SUBJECTS)


def summary_of(stem: str) -> str:
    """One line about a task for people."""
    if stem in _SIZES:
        return f"{len(_SIZES[stem])} subjects of MMLU, {_words(stem)}, together; multiple choice"
    return f"{_words(stem)}, of MMLU; multiple choice"


def files_of(stem: str) -> tuple[PublishedFile, ...]:
    """The published files of a subject, or of all subjects of a category."""
    return tuple(_file(subject) for subject in _subjects(stem))


def load(stem: str, data: Path | None, options: Mapping[str, object]) -> Task:
    """A subject, or the subjects of a category one after another by name.

    As in the reference, four fifths of the test files are for training and a fifth for validation; ``test_ratio`` with
    lower ones of the other two leaves something for the test.
    """
    splits = Splits.of(f"mmlu/{stem}", options, train=TRAIN_RATIO, validation=VALIDATION_RATIO)
    rows = [row for file in files_of(stem) for row in _rows(file, file.read(data))]
    return dealt_task(
        f"mmlu/{stem}",
        splits.deal([Example(number, text, target) for number, (text, target) in enumerate(rows)]),
        options,
        kind="choice",
        description=f"Answer a question about {_words(stem)} by choosing one of four options.",
        classes=letter_classes(_LETTERS),
    )


def _subjects(stem: str) -> tuple[str, ...]:
    return tuple(_SIZES.get(stem, (stem,)))


def _file(subject: str) -> PublishedFile:
    name = f"{subject}_test.csv"
    size = _SIZES[_CATEGORY[subject]][subject]
    return PublishedFile(f"mmlu/{subject}", f"mmlu/{name}", f"{REFERENCE}/MMLU-data/test/{name}", size=size)


def _words(stem: str) -> str:
    return {"stem": "STEM", "other": "other fields"}.get(stem, stem.replace("_", " "))


def _rows(file: PublishedFile, content: bytes) -> Iterator[tuple[str, str]]:
    """Questions with their options, and the letters of the right ones."""
    try:
        for number, row in enumerate(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True), 1):
            if row:
                yield _example(row, f"{file.path}, row {number}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file.path} is no CSV file in UTF-8 ({error}); {file.home}") from None


def _example(row: list[str], place: str) -> tuple[str, str]:
    if len(row) != len(_LETTERS) + 2 or row[-1] not in _LETTERS or not row[-1]:
        raise DataError(f"{place}: wanted a question, four options and the letter of the right one, without a header")
    options = [f"({letter}) {option}" for letter, option in zip(_LETTERS, row[1:-1], strict=True)]
    return "\n".join([row[0], *options, _QUESTION]), row[-1]
