"""The simulated model's probabilities of tokens: of the answers to known questions, and plausible ones of all else.

Tokens are words with the space before them, signs, and letters in brackets. The first token of an answer to a known
question has the probability of that answer (:meth:`AnswerModel.chances`), so a better instruction makes the right
answer likelier by exactly its true accuracy. Every other token's probability is a function of the seed and of all text
before it. Whether a text is written by the model, forced on it or only given to be scored makes no difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate, islice

from asyncopt.testing.answers import AnswerModel
from asyncopt.testing.chance import digest_of, fraction
from asyncopt.testing.proposals import VOCABULARY
from asyncopt.testing.wire import BadRequest
from asyncopt.values import TokenLogprob

_TOKEN = re.compile(r" ?\([A-Z]\)| ?[^\W_]+| ?[^\w\s]+|_+|\s")
_FILLERS = tuple(dict.fromkeys((*VOCABULARY, *map(str, range(100)), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")))
_IS_FILLER = frozenset(_FILLERS)
_ON_ANSWERS = 0.97  # what the wrong answers share of all that the right one leaves; the rest is for other words
_RATIO = 0.9  # of a word's probability to that of the one before it
_SCALE = 4.0  # tokens that nothing is known of have a log-probability between -4 and 0
_ALONG = 0.9  # the probability of the tokens that complete an answer once it has begun
_UNLISTED = 1e-6  # of a token that begins no answer
_MOST_NAMED = 1 << 16


def tokens_of(text: str) -> list[str]:
    """The text cut into tokens; joined they are the text."""
    return _TOKEN.findall(text)


def id_of(token: str) -> int:
    """The token's identifier, the same in every server."""
    return int(digest_of(token, 4), 16) >> 1


class TokenModel:
    """Which tokens come after what, by the seed and the hidden accuracies of an :class:`AnswerModel`."""

    def __init__(self, answers: AnswerModel) -> None:
        self._answers = answers
        self._named: dict[int, str] = {}

    def ids(self, text: str) -> list[int]:
        """The identifiers of the text's tokens, by which :meth:`text_of` then knows them."""
        tokens = tokens_of(text)
        for token in tokens:
            if len(self._named) >= _MOST_NAMED:
                self._named.pop(next(iter(self._named)))
            self._named[id_of(token)] = token
        return [id_of(token) for token in tokens]

    def text_of(self, number: int) -> str:
        """The token with this identifier; raises :class:`BadRequest` if :meth:`ids` has not named it."""
        if number not in self._named:
            raise BadRequest(f"There is no token with the identifier {number}.")
        return self._named[number]

    def scored(
        self, context: str, tokens: Sequence[str], top: int = 0, *, written: bool = False
    ) -> tuple[TokenLogprob, ...]:
        """These tokens after the context, each with its log-probability and the ``top`` likeliest in its place.

        What the model has ``written`` itself after a known question is an answer to it, however far it got.
        """
        begins, ends, chances = self._answer_in(context, tokens, written=written)
        before = blake2b(context.encode("utf-8", "surrogatepass"), digest_size=8)
        found = []
        for number, token in enumerate(tokens):
            if number == begins:
                found.append(_beginning(token, chances, top))
            else:
                luck = fraction(self._answers.seed, "token", before.hexdigest(), token)
                chance = _ALONG if begins < number < ends else math.exp(-_SCALE * luck)
                found.append(TokenLogprob(token, math.log(chance), _best({token: chance}, 1 - chance, top)))
            before.update(token.encode("utf-8", "surrogatepass"))
        return tuple(found)

    def _answer_in(self, context: str, tokens: Sequence[str], *, written: bool) -> tuple[int, int, dict[str, float]]:
        """From where to where the tokens are an answer to a known question, with the probabilities of all answers.

        What is not ``written`` by the model is one if its end reads like one. No token has the index -1.
        """
        text, count = "".join(tokens), len(tokens)
        if written and (chances := self._answers.chances(context)):
            begins = next((number for number, token in enumerate(tokens) if token.strip()), -1)
            return begins, count if text.strip() in chances else -1, chances
        labels = self._answers.chances(context + text)
        longest = max(map(len, labels), default=-1) + 1
        for number, offset in enumerate(accumulate(map(len, tokens[:-1]), initial=0)):
            rest = text[offset:] if len(text) - offset <= longest else ""
            if rest.strip() in labels and tokens[number].strip():
                chances = self._answers.chances(context + text[:offset])
                return (number, count, chances) if chances else (-1, -1, {})
        return -1, -1, {}


def _beginning(token: str, chances: Mapping[str, float], top: int) -> TokenLogprob:
    """The first token of an answer: the right answer's chance is kept in full, the wrong ones leave some to words."""
    right = next(iter(chances))
    listed: dict[str, float] = {}
    for answer, chance in chances.items():
        first = next(iter(tokens_of(answer.strip())), "")
        listed[first] = listed.get(first, 0.0) + (chance if answer == right else chance * _ON_ANSWERS)
    rest = (1 - chances[right]) * (1 - _ON_ANSWERS)
    chance = listed.get(token) or listed.get(token.lstrip(" ")) or _UNLISTED  # a space before it does not matter
    return TokenLogprob(token, math.log(chance), _best(listed, rest, top))


def _best(listed: Mapping[str, float], rest: float, top: int) -> tuple[tuple[str, float], ...]:
    """The ``top`` likeliest tokens and their log-probabilities, where the usual words share the ``rest``."""
    if not top:
        return ()
    count = len(_FILLERS) - sum(word in _IS_FILLER for word in listed)
    share = rest * (1 - _RATIO) / (1 - _RATIO**count)
    words = islice((word for word in _FILLERS if word not in listed), top)
    both = [*listed.items(), *((word, share * _RATIO**rank) for rank, word in enumerate(words))]
    best = sorted(both, key=lambda pair: (-pair[1], pair[0]))[:top]
    return tuple((word, math.log(chance)) for word, chance in best)
