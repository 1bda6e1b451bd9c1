"""The tasks of EvoPrompt (Guo et al., 2024): labels of sentences, simplification, summaries, and BIG-Bench Hard.

Their data are read from disk only, in the layout of beeevita/EvoPrompt; each task begins with that repository's pool of
instructions, all of which are starting points.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asyncopt.tasks import bbh
from asyncopt.tasks.evoprompt import classification, generation, reasoning
from asyncopt.tasks.task import Task

STEMS = (*classification.STEMS, *generation.STEMS, *bbh.STEMS)


def summary_of(stem: str) -> str:
    """One line about a task for people."""
    if stem in classification.STEMS:
        return classification.summary_of(stem)
    return generation.summary_of(stem) if stem in generation.STEMS else reasoning.summary_of(stem)


def load(stem: str, data: Path | None, options: Mapping[str, object]) -> Task:
    """The task with the reference's draw of scoring examples, graded as in the reference.

    Raises :class:`DataError` for data that are missing or cannot be read, and :class:`ConfigError` for an option that
    cannot be meant, or a metric whose library is not installed.
    """
    if stem in classification.STEMS:
        return classification.load(stem, data, options)
    if stem in generation.STEMS:
        return generation.load(stem, data, options)
    return reasoning.load(stem, data, options)
