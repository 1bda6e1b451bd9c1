"""Readers of the parts that the wire formats have in common; what cannot be believed is left out, nothing raises."""

from __future__ import annotations

import math
from typing import Any

from asyncopt import codec

_TOKENS_BELIEVED = 100_000_000  # a server that counts more is not counting tokens


def json_of(data: bytes) -> Any:
    """The JSON value in the bytes, or None where there is none."""
    try:
        return codec.loads(data)
    except codec.CodecError:
        return None


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts of which those of type "text" are joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    return ""


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
