"""Texts on their way out: JSON, terminals, CSV and file names. Model text never makes any of this raise.

All JSON of the project is orjson's, with a way round what that refuses: it rejects lone surrogates both ways (a server
may send ``"\\ud800"``; a candidate may hold one), NaN, a byte order mark and deep nesting. The slow path below repairs
the first and reports the rest as :class:`CodecError`.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import orjson

Json = Any  # a JSON value; every reader checks what it takes out of it

_FORMULA = frozenset("=+-@＝＋－＠")
_BREAK = frozenset("\t\r\n")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_BEYOND_ASCII = re.compile(r"[^ -~]+")
# Names that Windows keeps for devices, whatever stands behind their first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


class CodecError(ValueError):
    """The bytes are not JSON."""


def clean(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def printable(text: str, limit: int = 200) -> str:
    """The text on one line without control, bidirectional or zero-width characters, cut to ``limit`` characters.

    For terminals, logs and error messages: model text and server text must not move the cursor or hide anything.
    """
    kept = "".join(char if char.isprintable() else " " for char in text[: 4 * limit])
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def csv_cell(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula: with an apostrophe before it where one might.

    Models and data sets write these cells, and ``=HYPERLINK(...)`` would be run by whoever opens the file. Numbers such
    as -5 stay as they are.
    """
    text = clean(text)
    seen = next((char for char in text if char.isprintable() and not char.isspace()), "")
    risky = seen in _FORMULA or text[:1] in _BREAK
    return f"'{text}" if risky and not _NUMBER.fullmatch(text) else text


def file_name(text: str, longest: int = 100) -> str:
    """The text as one name of a file: letters, digits, ``.``, ``_`` and ``-``, from 1 to ``longest`` bytes of UTF-8.

    Every other character becomes ``-``. It is no hidden name, no way up and no device of Windows.
    """
    plain = "".join(char if char.isalnum() or char in "._-" else "-" for char in clean(text[:longest]))
    plain = f"_{plain}" if _DEVICE.match(plain) else plain
    return plain.encode()[:longest].decode("utf-8", "ignore").strip(".") or "-"


def dumps(value: Json) -> bytes:
    """JSON bytes of the value; lone surrogates become U+FFFD."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        return orjson.dumps(_cleaned(value), option=orjson.OPT_SERIALIZE_NUMPY)


def json_line(value: Json) -> str:
    """The value as a line of JSON in ASCII: no terminal takes it for orders, and every encoding of a stream has it."""
    line = dumps(value).decode()
    return _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], line) + "\n"


def _cleaned(value: Json) -> Json:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return value


def loads(data: bytes) -> Json:
    """The JSON value in the bytes; raises :class:`CodecError` and nothing else."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _loads_slowly(data)


def _refuse_constant(name: str) -> NoReturn:
    raise CodecError(f"{name} is not JSON")


def _loads_slowly(data: bytes) -> Json:
    try:
        text = data.decode("utf-8-sig", "replace")
        return _cleaned(json.loads(text, parse_constant=_refuse_constant))
    except CodecError:
        raise
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not JSON: {type(error).__name__}") from None
