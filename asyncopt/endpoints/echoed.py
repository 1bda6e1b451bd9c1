"""Log-probabilities of a text that was sent, out of a reply that has them for prompt and continuation together.

Where the continuation begins is found by the texts of the tokens: ``text_offset`` is no help, since vLLM counts the
marker of the text's beginning in it. From the end backwards the tokens must spell the continuation to the letter; only
where a character is torn into tokens that no text can show must they spell the prompt from its beginning instead. A
token that spans the two is refused, where DLN's reference code counts it to the prompt and so leaves some of the
continuation out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from asyncopt.endpoints.openai import token_logprob, usage_of
from asyncopt.endpoints.parts import float_of, name_of
from asyncopt.endpoints.protocol import Answer, Reply
from asyncopt.endpoints.ratelimits import rate_limits
from asyncopt.values import Completion, Fault, FaultKind, TokenLogprob

# How servers write a token that is part of a character: Python's, OpenAI's and SentencePiece's ways.
_TORN = ("\N{REPLACEMENT CHARACTER}", "bytes:\\x", "<0x")

_FIRST = "the first token of a text has no log-probability; put something before the continuation"
_SPANNED = (
    "no token begins where the continuation does, one may span prompt and continuation; a line break between them "
    "belongs to the prompt's end, a space to the continuation's beginning"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a reply; the first one of a text has no log-probability."""

    text: str
    logprob: float | None
    top: tuple[tuple[str, float], ...] = ()


def scored(reply: Reply, body: dict[str, Any], pieces: Sequence[Piece], context: str, continuation: str) -> Answer:
    """The completion with the continuation's log-probabilities, or the fault that says why there are none.

    The number of tokens is checked first, always: a server that ignores an echo silently, as llama.cpp does, has
    log-probabilities of what it has generated, and they would look like an answer.
    """
    usage, limits = usage_of(body.get("usage")), rate_limits(reply.headers)
    sent = usage.input_tokens
    if len(pieces) < max(sent, 1):
        detail = (
            f"log-probabilities of {len(pieces)} tokens came for a text of {sent or 'some'}: this server does not give "
            "those of its prompt, and llama.cpp does not say so; use a server that does, or another estimator"
        )
        return Fault(FaultKind.FATAL_CONFIG, detail, usage=usage, limits=limits)
    pieces = pieces[:sent] if sent else pieces  # what was generated stands behind
    start = _start_of(pieces, context, continuation)
    if start is None:
        return Fault(FaultKind.BAD_REQUEST, _SPANNED, usage=usage, limits=limits)
    found = tuple(TokenLogprob(piece.text, piece.logprob) for piece in pieces[start:] if piece.logprob is not None)
    if len(found) < len(pieces) - start:
        return Fault(FaultKind.BAD_REQUEST, _FIRST, usage=usage, limits=limits)
    return Completion("", usage=usage, token_logprobs=found, served_model=name_of(body.get("model")), limits=limits)


def _start_of(pieces: Sequence[Piece], context: str, continuation: str) -> int | None:
    """The index of the continuation's first token."""
    start, left = len(pieces), len(continuation)
    while start and left and continuation.endswith(pieces[start - 1].text, 0, left):
        start -= 1
        left -= len(pieces[start].text)
    if not left:
        torn = not continuation[0].isascii()  # perhaps: then its last token shows the whole, and those before nothing
        while torn and start and not pieces[start - 1].text and pieces[start - 1].logprob is not None:
            start -= 1
        return start
    start = _end_of(pieces, context)
    torn = any(mark in piece.text for piece in pieces[start:] for mark in _TORN)
    return start if torn else None


def _end_of(pieces: Sequence[Piece], context: str) -> int:
    """The number of tokens that spell the context, or of all if they do not; a marker of the beginning is none."""
    marked = bool(pieces) and pieces[0].logprob is None and not context.startswith(pieces[0].text)
    at = 0
    for index, piece in enumerate(pieces):
        if at == len(context):
            return index
        if index or not marked:
            if not context.startswith(piece.text, at):
                break
            at += len(piece.text)
    return len(pieces)


def pieces_of(choice: dict[str, Any] | None) -> list[Piece]:
    """The tokens in ``logprobs`` of a choice, in OpenAI's shape or in llama.cpp's, a chat's; [] if unreadable."""
    logprobs = choice.get("logprobs") if choice is not None else None
    if not isinstance(logprobs, dict):
        return []
    if isinstance(logprobs.get("content"), list):
        return _whole([_chat_piece(entry) for entry in logprobs["content"]])
    texts, values, tops = (logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(texts, list) or not isinstance(values, list) or len(texts) != len(values):
        return []
    if not isinstance(tops, list) or len(tops) != len(texts):
        tops = [None] * len(texts)
    return _whole([_piece(*entry) for entry in zip(texts, values, tops, strict=True)])


def _chat_piece(entry: Any) -> Piece | None:
    token = token_logprob(entry)
    if token is not None:
        return Piece(token.token, token.logprob, token.top)
    return _piece(entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else None


def _piece(text: Any, logprob: Any, top: Any = None) -> Piece | None:
    value = float_of(logprob)
    if not isinstance(text, str) or (value is None and logprob is not None):
        return None
    others = top.items() if isinstance(top, dict) else ()
    chances = [(other, float_of(chance)) for other, chance in others]
    return Piece(text, value, tuple((other, chance) for other, chance in chances if chance is not None))


def prompt_pieces_of(choice: dict[str, Any] | None) -> list[Piece]:
    """The tokens in vLLM's ``prompt_logprobs`` of a choice; [] where they cannot be read."""
    entries = choice.get("prompt_logprobs") if choice is not None else None
    return _whole([_prompt_piece(entry) for entry in entries]) if isinstance(entries, list) else []


def _prompt_piece(entry: Any) -> Piece | None:
    """The token that was sent: beside it stands at most the most probable one, if that is another."""
    if entry is None:
        return Piece("", None)
    if not isinstance(entry, dict):
        return None
    tokens = [(float_of(token.get("logprob")), token) for token in entry.values() if isinstance(token, dict)]
    known = [(value, token) for value, token in tokens if value is not None]
    if not known or len(known) != len(entry):
        return None
    value, token = min(known, key=itemgetter(0))
    return _piece(token.get("decoded_token"), value)


def _whole(pieces: Sequence[Piece | None]) -> list[Piece]:
    found = [piece for piece in pieces if piece is not None]
    return found if len(found) == len(pieces) else []  # half a list would be read as a whole one
