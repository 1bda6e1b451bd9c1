"""Seven tasks that give a sentence its label; scored by the first word of the answer that is a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from asyncopt import codec
from asyncopt.errors import DataError
from asyncopt.tasks.evoprompt.files import content_of, lines_of, pool, seed_option
from asyncopt.tasks.options import text_option
from asyncopt.tasks.sources import default_folder, read_capped
from asyncopt.tasks.splits import Dealt, dealt_task
from asyncopt.tasks.task import Example, Task

SEEDS = (5, 10, 15)  # of the reference's three draws, each in a folder of its own
OWN = ("split_seed", "test_file")

_MAX_TOKENS = 32  # a label, and some words before it
_TEMPLATE = "{% if instruction %}{{ instruction }}\n\n{% endif %}Input: {{ input }}\nOutput:"
_SENTIMENT = ("negative", "positive")
_LABELS: Mapping[str, tuple[str, ...]] = {
    "sst2": _SENTIMENT,
    "cr": _SENTIMENT,
    "mr": _SENTIMENT,
    "sst-5": ("terrible", "bad", "okay", "good", "great"),
    "agnews": ("world", "sports", "business", "tech"),
    "trec": ("description", "entity", "expression", "human", "location", "number"),
    "subj": ("subjective", "objective"),
}
_OF: Mapping[str, str] = {
    "sst2": "sentences about films (SST-2)",
    "cr": "sentences about products (CR)",
    "mr": "sentences about films (MR)",
    "sst-5": "sentences about films in five degrees (SST-5)",
    "agnews": "the topics of news (AG's News)",
    "trec": "what questions ask for (TREC)",
    "subj": "subjective or objective sentences (Subj)",
}
_WITH_TEST = ("agnews", "mr", "sst-5")  # whose test files are in the repository
STEMS = tuple(_LABELS)


def summary_of(stem: str) -> str:
    """One line about a task for people."""
    test = "500 test items" if stem in _WITH_TEST else "the test in a file of yours (test_file)"
    return f"{_OF[stem]}, of EvoPrompt; 200 items to score on, {test}"


def load(stem: str, data: Path | None, options: Mapping[str, object]) -> Task:
    """The task with 200 examples to score on, those of ``split_seed`` (5, 10 or 15), and the test beside them.

    ``test_file`` is another test file in the same form, by its path below the data folder; a task without one has no
    test.
    """
    name = f"evoprompt/{stem}"
    folder = f"data/cls/{stem}"
    place = f"{folder}/seed{seed_option(name, options, SEEDS[0], SEEDS)}"
    labels = _LABELS[stem]
    return dealt_task(
        name,
        Dealt(
            _examples(content_of(f"{place}/dev.txt", data), f"{place}/dev.txt", labels),
            (),
            _test(stem, place, data, options),
        ),
        options,
        own=OWN,
        kind="text",
        description=f"Label {_OF[stem]} as {', '.join(labels[:-1])} or {labels[-1]}.",
        template=_TEMPLATE,
        initial=pool([f"{folder}/prompts.txt", f"{folder}/prompts_auto.txt"], data, options),
        max_tokens=_MAX_TOKENS,
        classes=labels,
        answers="evoprompt_compat",
    )


def _test(stem: str, place: str, data: Path | None, options: Mapping[str, object]) -> tuple[Example, ...]:
    labels = _LABELS[stem]
    if "test_file" in options:
        path = (default_folder() if data is None else data) / text_option(f"evoprompt/{stem}", options, "test_file", "")
        if not path.is_file():
            raise DataError(
                f"there is no file {path}; the option test_file names one with a sentence, a tab and a class index a "
                "line, by its path below the data folder"
            )
        return _examples(read_capped(path), str(path), labels)
    if stem not in _WITH_TEST:
        return ()
    return _examples(content_of(f"{place}/test.txt", data), f"{place}/test.txt", labels)


def _examples(content: bytes, path: str, labels: tuple[str, ...]) -> tuple[Example, ...]:
    examples = tuple(_rows(content, path, labels))
    if not examples:
        raise DataError(f"{path} has no examples; wanted a sentence, a tab and a class index a line")
    return examples


def _rows(content: bytes, path: str, labels: tuple[str, ...]) -> Iterator[Example]:
    indices = [str(index) for index in range(len(labels))]
    for number, line in enumerate(lines_of(content, path)):
        if not line:
            continue
        sentence, _, index = line.rpartition("\t")
        if not sentence.strip() or index not in indices:
            raise DataError(
                f"{path}, line {number + 1}: {codec.printable(line, 60)!r} is no example; wanted a sentence, a tab and "
                f"a class index from 0 to {indices[-1]} ({', '.join(labels)})"
            )
        yield Example(number, sentence.strip(), labels[int(index)])
