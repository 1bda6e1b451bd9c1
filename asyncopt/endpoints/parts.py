"""Readers of the parts that the wire formats have in common; what cannot be believed is left out, nothing raises."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from asyncopt import codec

DEEPEST = 100  # levels of a body; an answer has a dozen
_NESTED = (dict, list)
_TOKENS_BELIEVED = 100_000_000  # a server that counts more is not counting tokens


def json_of(data: bytes) -> Any:
    """The JSON value in the bytes, or None where there is none, or one that is nested deeper than :data:`DEEPEST`."""
    try:
        value = codec.loads(data)
    except codec.CodecError:
        return None
    # Few brackets cannot be deep, and most answers have few: counting them is all that a call pays for this.
    deep = data.count(b"[") + data.count(b"{") > DEEPEST and isinstance(value, _NESTED) and _is_deep(value)
    return None if deep else value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [part for item in level for part in _inside(item) if isinstance(part, _NESTED)]
        if not level:
            return False
    return True


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts of which those of type "text" are joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def instead_of_text(content: Any) -> str:
    """What the parts of a content without text are, empty where there are none or one is a text."""
    parts = content if isinstance(content, list) else []
    kinds = [part.get("type") for part in parts if isinstance(part, dict)]
    return "" if "text" in kinds else codec.printable(", ".join(kind for kind in kinds if isinstance(kind, str)), 50)


def count_of(value: Any) -> int | None:
    """A number of tokens, or None for anything else."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _TOKENS_BELIEVED
    return value if good else None


def float_of(value: Any) -> float | None:
    """A finite number, or None for anything else; JSON has whole numbers that no float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def name_of(value: Any) -> str:
    """The served model's name, empty where the server gives none."""
    return value if isinstance(value, str) else ""
