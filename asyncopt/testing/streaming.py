"""When the pieces of a streamed answer come, and what is in them."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from asyncopt.endpoints.protocol import Reply
from asyncopt.testing.wire import BYTES_PER_TOKEN, Shape, Written

Write: TypeAlias = "Callable[[Reply, bytes], Awaitable[None]]"
"""Takes the next bytes of a streamed answer; the reply has its status and headers."""

_WORD = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that come so many seconds after the request, and the tokens of the answer that are then written."""

    after: float
    data: bytes
    tokens: int


def schedule(shape: Shape, written: Written, first: float, last: float) -> tuple[Piece, ...]:
    """The answer word by word, or token by token, evenly spaced from ``first`` on, and its ending at ``last``."""
    tokens = written.tokens
    words = [token.token for token in tokens] or _WORD.findall(written.text) or [""]
    pieces, size = [], 0
    for index, word in enumerate(words):
        size += len(word.encode("utf-8", "replace"))
        data = shape.piece(written, word, tokens[index : index + 1])
        pieces.append(Piece(first + (last - first) * index / len(words), data, math.ceil(size / BYTES_PER_TOKEN)))
    begin = pieces[0]
    pieces[0] = Piece(begin.after, shape.opening(written) + begin.data, begin.tokens)
    return (*pieces, Piece(last, shape.ending(written), written.output_tokens))
