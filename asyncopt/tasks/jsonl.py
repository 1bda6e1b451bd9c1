"""A user's own examples: one JSON object a line, with an input and a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import TypeAlias

from asyncopt import codec
from asyncopt.answers import Kind, grade
from asyncopt.answers.strict import KINDS
from asyncopt.errors import ConfigError, DataError
from asyncopt.tasks.options import text_option, with_options
from asyncopt.tasks.sources import fingerprint, parse_line, read_capped
from asyncopt.tasks.splits import OPTIONS, RATIOS, SPLITS, Splits
from asyncopt.tasks.task import Example, Split, Task

LONGEST_LINE = 1 << 20  # bytes
TRAIN_RATIO, VALIDATION_RATIO = 0.5, 0.2  # the rest is for the test

_FIELDS = (("input", "question"), ("target", "answer"))
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_Row: TypeAlias = tuple[Example, Split | None]


def load(path: Path, seed: int, options: Mapping[str, object]) -> Task:
    """The task in the file, named after it.

    A line has ``input`` and ``target`` (or ``question`` and ``answer``), texts or numbers, and either every line has a
    ``split`` (train, validation or test) or none: then the seed deals half of the examples to training, a fifth to
    validation and the rest to the test, or what the options of splits say. Options beside these and the common ones:
    ``kind`` (text, number, choice or boolean) and ``description``. Raises :class:`DataError` naming the line that
    cannot be used, and what is wrong with it.
    """
    name = path.stem
    kind = _kind(name, options)
    splits = Splits.of(name, options, train=TRAIN_RATIO, validation=VALIDATION_RATIO, seed=seed)
    rows = _rows(path, kind)
    found = _stated(rows, path, options) if rows[0][1] else _dealt(rows, splits, path)
    train, validation, test = splits.cut(*(found[split] for split in SPLITS))
    task = Task(
        name=name,
        kind=kind,
        train=train,
        validation=validation,
        test=test,
        description=text_option(name, options, "description", ""),
        fingerprint=fingerprint(train, validation, test),
    )
    return with_options(task, options, own=("kind", "description", *OPTIONS))


def _kind(name: str, options: Mapping[str, object]) -> Kind:
    value = options.get("kind", "text")
    for kind in KINDS:
        if value == kind:
            return kind
    raise ConfigError(f"the option kind of {name} is {value!r}; it must be one of {', '.join(KINDS)}")


def _rows(path: Path, kind: Kind) -> list[_Row]:
    if not _is_file(path):
        raise DataError(
            f"there is no file {codec.printable(str(path))}; give the path of a file with one JSON object a line"
        )
    rows: list[_Row] = []
    for number, line in enumerate(read_capped(path).removeprefix(_BYTE_ORDER_MARK).split(b"\n"), 1):
        if line.strip():
            place = f"{path}, line {number}"
            row = _row(line, len(rows), place, kind)
            if rows and (row[1] is None) != (rows[0][1] is None):
                raise DataError(
                    f"{place}: some lines have a split and some have none; give it to all of them or to none"
                )
            rows.append(row)
    if not rows:
        raise DataError(f"{path} has no examples; wanted one JSON object a line, with input and target")
    return rows


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _row(line: bytes, number: int, place: str, kind: Kind) -> _Row:
    if len(line) > LONGEST_LINE:
        raise DataError(f"{place}: the line has {len(line)} bytes; it may have at most {LONGEST_LINE}")
    value = parse_line(line, place)
    text, target = (_text(value, names, place) for names in _FIELDS)
    if not target.strip():
        raise DataError(f"{place}: the target is empty, and so no answer could be right")
    if not grade(kind, target, target):
        raise DataError(
            f"{place}: the target {codec.printable(target, 60)!r} is no {kind}; change it, or the option kind"
        )
    return Example(number, text, target), _split(value, place)


def _text(value: Mapping[str, object], names: tuple[str, str], place: str) -> str:
    name = next((name for name in names if name in value), None)
    if name is None:
        raise DataError(f"{place}: there is no field {names[0]!r} (or {names[1]!r})")
    found = value[name]
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, int | float | str):
        return str(found)
    raise DataError(f"{place}: the field {name!r} is neither a text nor a number")


def _split(value: Mapping[str, object], place: str) -> Split | None:
    if "split" not in value:
        return None
    for split in SPLITS:
        if value["split"] == split:
            return split
    found = codec.printable(str(value["split"]), 60)
    raise DataError(f"{place}: the split is {found!r}; it must be one of {', '.join(SPLITS)}")


def _stated(rows: list[_Row], path: Path, options: Mapping[str, object]) -> dict[Split, list[Example]]:
    drawn = next((name for name in (*RATIOS, "split_seed") if name in options), None)
    if drawn is not None:
        raise ConfigError(f"the lines of {path} state their splits; remove the option {drawn}, or their field split")
    splits: dict[Split, list[Example]] = {split: [example for example, of in rows if of == split] for split in SPLITS}
    seen = {example.input for example in splits["train"]}
    twice = next((example for split in SPLITS[1:] for example in splits[split] if example.input in seen), None)
    if twice is not None:
        text = codec.printable(twice.input, 60)
        raise DataError(f"{path}: the input {text!r} is in the training split and in another; keep it in one of them")
    return splits


def _dealt(rows: list[_Row], splits: Splits, path: Path) -> dict[Split, list[Example]]:
    """The examples dealt to the splits by their input, so that one that stands there twice is never in two of them."""
    inputs = list(dict.fromkeys(example.input for example, _ in rows))
    if len(inputs) < 2 and splits.train > 0:
        raise DataError(f"{path} has 1 example; a study needs at least two, one of them for the test")
    Random(f"{splits.seed}:jsonl:split").shuffle(inputs)
    train, validation, test = splits.sizes(len(inputs))
    place = {text: number for number, text in enumerate(inputs)}
    dealt: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    for example, _ in sorted(rows, key=lambda row: place[row[0].input]):
        number = place[example.input]
        if number < train + validation + test:
            dealt["train" if number < train else "validation" if number < train + validation else "test"].append(
                example
            )
    return dealt
