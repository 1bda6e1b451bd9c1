"""``asyncopt report``: runs as one HTML file, or as figures for papers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.cli.contest_text import contests_lines
from asyncopt.cli.reading import read_run
from asyncopt.cli.summary import LONGEST_PATH
from asyncopt.directory import MANIFEST
from asyncopt.errors import ConfigError
from asyncopt.files import write_atomically
from asyncopt.pages import comparison, document, report_html
from asyncopt.pages.asked import Asked
from asyncopt.pages.comparing import names_of
from asyncopt.records import Run
from asyncopt.records.contest import OfTask, contests_in
from asyncopt.sweep import is_contest, is_sweep, read_ended, read_sweep

MOST_ANSWERS = 4000  # in a report, over all of its runs; the live page has them all
LONGEST_ANSWER = 4000  # characters


def write_report(directories: Sequence[Path], out: Path | None, against: str | None, static: Path | None) -> None:
    """Write the report on the runs, and the sweeps' runs, in these directories, and say where it is."""
    runs = [read_run(directory) for directory in _runs_in(directories)]
    beside = None if against is None else {"lines": _against(directories, against)}
    if static is not None:
        from asyncopt.pages.static import draw

        for path in draw(runs, static):
            print(codec.printable(str(path), LONGEST_PATH))
        if out is None:
            return
    path = out or _default(directories)
    if path.is_dir():
        raise ConfigError(f"{path} is a directory; name a file with -o")
    documents = [
        {**_with_answers(run, MOST_ANSWERS // len(runs)), "name": name}
        for run, name in zip(runs, names_of(runs), strict=True)
    ]
    contests = [one for directory in directories if is_contest(directory) for one in _contests(directory)]
    optimizers = {"lines": contests_lines(contests)} if contests else None
    html = report_html(documents, comparison(runs) if len(runs) > 1 else None, beside, optimizers)
    try:
        write_atomically(path, html.encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); name another file with -o") from None
    print(codec.printable(str(path), LONGEST_PATH))


def _runs_in(directories: Sequence[Path]) -> Iterator[Path]:
    if not directories:
        raise ConfigError("there is nothing to report on; name the directories of runs or sweeps")
    for directory in directories:
        if not is_sweep(directory):
            yield directory
            continue
        found = sorted(path.parent for path in directory.glob(f"*/{MANIFEST}"))
        if not found:
            raise ConfigError(f"none of the runs of the sweep in {directory} has begun")
        yield from found


def _contests(directory: Path) -> list[OfTask]:
    """The comparison of optimizers in this directory, task by task."""
    sweep = read_sweep(directory)
    return contests_in(directory, sweep, read_ended(directory, sweep))


def _default(directories: Sequence[Path]) -> Path:
    """Beside the only run; of several, in this folder."""
    return directories[0] / "report.html" if len(directories) == 1 else Path("report.html")


def _against(directories: Sequence[Path], paper: str) -> list[str]:
    from asyncopt.cli.against import compare, runs_in
    from asyncopt.cli.against_text import against_lines

    ended = [run for directory in directories for run in runs_in(directory)[0]]
    return against_lines(compare(ended, paper), paper)


def _with_answers(run: Run, most: int) -> dict[str, Any]:
    """The document of a run with the answers of its best candidates, as far as the matrix shows them."""
    shown = document(run)
    asked = Asked(run)
    left = most
    for place in shown["matrix"]["rows"]:
        text = next(
            one.candidate
            for one in run.candidates
            if (one.step, one.index) == (shown["candidates"][place]["step"], shown["candidates"][place]["index"])
        )
        answers = [answer for answer in run.answers(text) if answer.fold == "train"]
        if len(answers) > left:
            break
        left -= len(answers)
        shown["answers"][str(place)] = [_cut(row) for row in asked.rows(text, answers)]
    return shown


def _cut(row: dict[str, Any]) -> dict[str, Any]:
    """The row with texts that a report can carry."""
    return {name: _short(value) if isinstance(value, str) else value for name, value in row.items()}


def _short(text: str) -> str:
    if len(text) <= LONGEST_ANSWER:
        return text
    return f"{text[:LONGEST_ANSWER]}… ({len(text):,} characters)"
