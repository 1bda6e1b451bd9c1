"""``trace.jsonl``: every meta-prompt and every graded answer of a run, found by candidate without holding them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.tasks.task import Fold

_PROPOSAL, _PARENTS = b'{"kind":"proposal"', b'"parents":['
FOLD_OF: dict[str, Fold] = {"evaluation": "train", "validation": "validation", "test": "test"}  # by kind of line


@dataclass(frozen=True, slots=True)
class Answer:
    """How one example of a fold ended; ``score`` is None unless ``outcome`` is ``scored``.

    ``example`` is its number in its source. ``answer`` is the text that was graded, ``parsed`` what was read from it;
    where it took two calls, ``first_answer`` is the text of the first.
    """

    fold: Fold
    example: int
    outcome: str
    score: float | None
    answer: str
    parsed: str
    first_answer: str = ""


class Trace:
    """The trace of a run, which may be growing: only the places of its lines are held in memory.

    Lines that cannot be read are passed over, as if they had never been written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, list[int]] = {}
        self._examples: dict[Fold, list[int]] = {}
        self._end = 0

    def answers(self, candidate: str) -> list[Answer]:
        """How every example ended with this candidate, by fold and number; of two lines for one, the later counts."""
        self._look()
        found: dict[tuple[Fold, int], Answer] = {}
        for row in self._at(self._places.get(candidate, ())):
            found |= {(one.fold, one.example): one for one in answers_in(row)}
        return sorted(found.values(), key=lambda one: (list(FOLD_OF.values()).index(one.fold), one.example))

    def examples(self, fold: Fold) -> list[int]:
        """The numbers of the fold's examples in their order, as far as they were ever asked together."""
        self._look()
        return self._examples.get(fold, [])

    def parents(self) -> dict[tuple[int, int, str], tuple[str, ...]]:
        """What each candidate was made from, by its step, its place in it and its text, where the optimizer says so."""
        found = {}
        with suppress(OSError), self.path.open("rb") as file:
            for line in file:
                # Most lines are answers of a scorer, and many: they are not worth reading here.
                if line.startswith(_PROPOSAL) and _PARENTS in line and line.endswith(b"\n"):
                    row = _row(line)
                    with suppress(KeyError, TypeError):
                        found[row["step"], row["index"], row["candidate"]] = tuple(map(str, row["parents"]))
        return found

    def rows(self) -> Iterator[dict[str, Any]]:
        """All lines that can be read, as they were written."""
        for _, row in self._read(0):
            yield row

    def _look(self) -> None:
        """Note the places of the lines that were written since the last look."""
        for end, row in self._read(self._end):
            answers = answers_in(row)
            if answers and isinstance(row.get("candidate"), str):
                self._places.setdefault(row["candidate"], []).append(self._end)
                if len(answers) > len(self._examples.get(answers[0].fold, ())):
                    self._examples[answers[0].fold] = [answer.example for answer in answers]
            self._end = end

    def _read(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The whole lines from this place on, each with the place of its end; of a damaged one, an empty row."""
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # it is being written
                start += len(line)
                yield start, _row(line)

    def _at(self, places: list[int] | tuple[()]) -> Iterator[dict[str, Any]]:
        with suppress(OSError), self.path.open("rb") as file:
            for place in places:
                file.seek(place)
                yield _row(file.readline())


def _row(line: bytes) -> dict[str, Any]:
    with suppress(codec.CodecError):
        value = codec.loads(line)
        return value if isinstance(value, dict) else {}
    return {}


def answers_in(row: Mapping[str, Any]) -> list[Answer]:
    """The answers in a line of the trace; none where it is of another kind, or not as a trace has them."""
    fold = FOLD_OF.get(str(row.get("kind")))
    if fold is None:
        return []
    try:
        return [_answer(fold, item) for item in row["items"]]
    except (KeyError, TypeError):
        return []


def _answer(fold: Fold, item: Mapping[str, Any]) -> Answer:
    if not isinstance(item["example"], int) or not isinstance(item["outcome"], str):
        raise TypeError("no answer of a trace")
    parsed = item["parsed"]
    return Answer(
        fold,
        item["example"],
        item["outcome"],
        item["score"],
        item["answer"],
        "" if parsed is None else str(parsed),
        item.get("first_answer", ""),
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in the whole lines of a file; what is damaged is passed over, and a missing file is empty."""
    with suppress(OSError):
        return [row for line in path.read_bytes().split(b"\n")[:-1] if (row := _row(line))]
    return []
