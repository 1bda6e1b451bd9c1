"""Published data sets by the names of ``asyncopt data get``: their files and their licences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from asyncopt.errors import ConfigError
from asyncopt.tasks import aqua, bbh, gsm8k, mmlu, multiarith, sentences
from asyncopt.tasks.sources import PublishedFile


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set: its licence (None where its authors state none), where its files lie, and the files."""

    name: str
    licence: str | None
    layout: str
    files: tuple[PublishedFile, ...]


DATASETS = (
    DataSet("gsm8k", "MIT", "gsm8k/{train,test}.jsonl", (gsm8k.TRAIN, gsm8k.TEST)),
    DataSet("bbh", "MIT", "bbh/<task>.json", tuple(bbh.file_of(stem) for stem in bbh.STEMS)),
    DataSet("aqua", "Apache-2.0", "aqua/test.json", (aqua.FILE,)),
    DataSet(
        "mmlu", "MIT", "mmlu/<subject>_test.csv", tuple(file for stem in mmlu.SUBJECTS for file in mmlu.files_of(stem))
    ),
    DataSet("multiarith", None, "multiarith/MultiArith.json", (multiarith.FILE,)),
    # The licence is the collection's; the texts in it come from others, who have terms of their own.
    DataSet(
        "ordered-prompt",
        "MIT",
        "ordered-prompt/<task>/*.jsonl",
        tuple(file for stem in sentences.ORDERED_PROMPT for file in sentences.files_of(stem)),
    ),
)


def files_named(names: Iterable[str]) -> list[PublishedFile]:
    """The files of data sets and of single tasks, each once; ``all`` is everything.

    Raises :class:`ConfigError` for an unknown name.
    """
    known = _known()
    files: dict[str, PublishedFile] = {}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            sets = ", ".join(one.name for one in DATASETS)
            raise ConfigError(
                f"there are no data named {name!r}; {meant}wanted all, {sets}, bbh/<task>, mmlu/<subject> or dln/<task>"
            )
        files |= {file.path: file for file in known[name]}
    return list(files.values())


def tasks_in(folder: Path) -> list[str]:
    """The names of the published tasks whose files are all in the folder; whether they are right, loading tells."""
    names = [name for name in _known() if name not in ("all", "bbh", "mmlu", "ordered-prompt")]
    return [name for name in names if all((folder / file.path).is_file() for file in files_named([name]))]


def _known() -> dict[str, tuple[PublishedFile, ...]]:
    known = {"all": tuple(file for one in DATASETS for file in one.files)}
    known |= {one.name: one.files for one in DATASETS}
    known |= {f"bbh/{stem}": (bbh.file_of(stem),) for stem in bbh.STEMS}
    known |= {f"mmlu/{stem}": mmlu.files_of(stem) for stem in mmlu.STEMS}
    return known | {f"dln/{stem}": sentences.files_of(stem) for stem in sentences.ORDERED_PROMPT}
