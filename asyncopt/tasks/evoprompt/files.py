"""Files of beeevita/EvoPrompt on disk: where they may lie, what to do where they do not, their lines and pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asyncopt.errors import DataError
from asyncopt.tasks.options import wrong_option
from asyncopt.tasks.sources import PublishedFile, default_folder

COMMIT = "94caff3"

_HOME = f"https://github.com/beeevita/EvoPrompt/blob/{COMMIT}"
_ROOTS = ("evoprompt/", "")  # a checkout in the data folder, or the data folder itself
# Remarks on licences, by the beginning of a path.
_TERMS: Mapping[str, str] = {
    "data/cls/": "its code is under MIT, and the sentences are of corpora that have terms of their own",
    "data/sim/": "ASSET is for non-commercial use (CC BY-NC 4.0, says its home)",
    "data/sum/": "SAMSum is for non-commercial use without changes (CC BY-NC-ND 4.0, says its home)",
    "BBH/": "it is under MIT",
}


def content_of(path: str, data: Path | None) -> bytes:
    """The bytes of a file by its path in the repository; raises :class:`DataError` that says what is missing.

    No sums of these files are known, so what was read first is recorded, and another file is refused from then on.
    """
    folder = default_folder() if data is None else data
    for root in _ROOTS:
        if (folder / root / path).is_file():
            return PublishedFile("evoprompt", root + path, f"{_HOME}/{path}").read(data)
    terms = next(remark for start, remark in _TERMS.items() if path.startswith(start))
    raise DataError(
        f"there is no file {folder / path}; it is not fetched: get beeevita/EvoPrompt at commit {COMMIT} yourself "
        f"({terms}), and name the checkout, or a DIR with it as DIR/evoprompt (--data DIR, or ASYNCOPT_DATA in the "
        f"environment); the file's public home is {_HOME}/{path}"
    )


def lines_of(content: bytes, path: str) -> list[str]:
    """The lines of a text file without what ends them; raises :class:`DataError` for what is no UTF-8."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: byte {error.start + 1} is no UTF-8; save the file as UTF-8") from None
    # By line feeds alone: sentences have other characters at which Python would break a line.
    lines = [line.rstrip() for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def pool(paths: Sequence[str], data: Path | None, options: Mapping[str, object]) -> tuple[str, ...]:
    """The instructions of these files, each once; not read where the option ``initial`` states others."""
    if "initial" in options:
        return ("",)
    lines = [line.strip() for path in paths for line in lines_of(content_of(path, data), path)]
    instructions = tuple(dict.fromkeys(line for line in lines if line))
    if not instructions:
        raise DataError(f"{' and '.join(paths)} have no instruction; wanted one a line, or the option initial")
    return instructions


def seed_option(task: str, options: Mapping[str, object], usual: int, among: Sequence[int] = ()) -> int:
    """The seed of the reference's draw of examples that the options name, or else the usual one."""
    seed = options.get("split_seed", usual)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 or (among and seed not in among):
        wanted = f"one of {', '.join(map(str, among))}" if among else "an integer of at least 0"
        raise wrong_option(task, "split_seed", seed, wanted)
    return seed
