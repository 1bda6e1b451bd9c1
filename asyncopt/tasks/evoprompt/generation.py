"""Simplification of sentences (ASSET), scored by SARI, and summaries of dialogues (SAMSum), scored by ROUGE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from asyncopt.errors import DataError
from asyncopt.tasks.evoprompt import metrics
from asyncopt.tasks.evoprompt.files import content_of, lines_of, pool, seed_option
from asyncopt.tasks.splits import Dealt, dealt_task
from asyncopt.tasks.task import Example, Metric, Task

TRAIN = 100  # of the development file, drawn at random
OWN = ("split_seed",)

_SEED = 5  # the first of the reference's three
_MAX_TOKENS = 256
_TEMPLATE = "{% if instruction %}{{ instruction }}\n\n{% endif %}Input:\n{{ input }}\n\nOutput:"


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where a task's parallel files lie, and by what its answers are scored."""

    summary: str
    description: str
    folder: str
    dev: str
    test: str
    source: str
    targets: tuple[str, ...]
    metric: Callable[[], Metric]


_TASKS: Mapping[str, _Kind] = {
    "asset": _Kind(
        "simpler sentences (ASSET), of EvoPrompt; SARI on 100 of 2,000 items, 359 test items",
        "Write a sentence in simpler words that mean the same.",
        "data/sim/asset",
        "dev/asset.valid",
        "test/asset.test",
        "src",
        tuple(f"simp.{number}" for number in range(10)),
        metrics.simplification,
    ),
    "samsum": _Kind(
        "summaries of dialogues (SAMSum), of EvoPrompt; ROUGE on 100 of 818 items, 819 test items",
        "Write a short summary of a dialogue.",
        "data/sum/sam",
        "valid",
        "test",
        "src",
        ("tgt",),
        metrics.summary,
    ),
}
STEMS = tuple(_TASKS)


def summary_of(stem: str) -> str:
    """One line about a task for people."""
    return _TASKS[stem].summary


def load(stem: str, data: Path | None, options: Mapping[str, object]) -> Task:
    """The task with the reference's draw of 100 scoring examples, by ``split_seed``, and the whole test file.

    The target of an example is its references, one a line. Raises :class:`ConfigError` where the metric's library is
    not installed.
    """
    name, kind = f"evoprompt/{stem}", _TASKS[stem]
    seed = seed_option(name, options, _SEED)
    metric = kind.metric()
    dev, test = _parallel(kind, kind.dev, data), _parallel(kind, kind.test, data)
    if len(dev) < TRAIN:
        raise DataError(f"{kind.folder}/{kind.dev}.{kind.source} has {len(dev)} items; wanted at least {TRAIN}")
    drawn = Random(seed).sample(range(len(dev)), TRAIN)
    return dealt_task(
        name,
        Dealt(tuple(dev[index] for index in drawn), (), tuple(test)),
        options,
        own=OWN,
        kind="text",
        description=kind.description,
        template=_TEMPLATE,
        initial=pool([f"{kind.folder}/prompts.txt", f"{kind.folder}/prompts_auto.txt"], data, options),
        max_tokens=_MAX_TOKENS,
        metric=metric,
    )


def _parallel(kind: _Kind, stem: str, data: Path | None) -> list[Example]:
    """The lines of a source file with those of its target files, of which an example may lack some."""
    paths = [f"{kind.folder}/{stem}.{end}" for end in (kind.source, *kind.targets)]
    sources, *targets = [lines_of(content_of(path, data), path) for path in paths]
    for path, lines in zip(paths[1:], targets, strict=True):
        if len(lines) != len(sources):
            raise DataError(f"{path} has {len(lines)} lines and {paths[0]} has {len(sources)}; wanted as many")
    return [
        Example(number, source, _references(references, f"{paths[0]}, line {number + 1}"))
        for number, (source, references) in enumerate(zip(sources, zip(*targets, strict=True), strict=True))
    ]


def _references(lines: Sequence[str], place: str) -> str:
    references = [line for line in lines if line]
    if not references:
        raise DataError(f"{place}: it has no reference, and so no answer could be scored; take the line out")
    return "\n".join(references)
