"""How many tokens a call will take, before it is sent: bytes by a ratio that the answers' usage corrects.

A tokenizer for each model would be exact and is not worth its weight: what is reserved too much comes back when the
answer states its usage, and the ratio of a model's own texts is known to some percent after a few answers.
"""

from __future__ import annotations

import math

from asyncopt.values import Likelihood, Request, Usage

BYTES_PER_TOKEN = 4.0
TOKENS_PER_MESSAGE = 4.0  # what a chat template puts around one
UNSTATED_OUTPUT = 512.0  # expected of an answer whose length is not limited, until some are known
_OF_LIKELIHOOD = 1.0  # an answer in which nothing is generated; some servers refuse to generate nothing
_FIRST = 32  # answers that each count fully; later ones count as one in so many
_LEAST_RATIO, _MOST_RATIO = 0.5, 16.0
_HEADROOM = 2.0  # answers vary: twice their mean is reserved


class TokenEstimate:
    """Tokens of one model's calls. ``ratio`` is bytes a token, over prompts of this model so far."""

    __slots__ = ("_answers", "_output", "_prompts", "ratio")

    def __init__(self) -> None:
        self.ratio = BYTES_PER_TOKEN
        self._answers = self._prompts = 0
        self._output = 0.0

    def of(self, request: Request) -> tuple[float, float]:
        """Expected tokens of the prompt, and tokens to set aside for the answer."""
        if isinstance(request, Likelihood):
            return self._input(request), _OF_LIKELIHOOD
        limit = request.sampling.max_tokens
        return self._input(request), self._unstated() if limit is None else float(limit)

    def _input(self, request: Request) -> float:
        return size_of(request) / self.ratio + TOKENS_PER_MESSAGE * len(request.prompt)

    def _unstated(self) -> float:
        return UNSTATED_OUTPUT if self._answers < _FIRST else max(_HEADROOM * self._output, 1.0)

    def counted(self, request: Request, text: str) -> Usage:
        """Our own count of a finished call, where the server gives none."""
        received = len(text.encode("utf-8", "replace")) / self.ratio
        return Usage(math.ceil(self._input(request)), math.ceil(received), estimated=True)

    def learn(self, request: Request, usage: Usage) -> None:
        """Correct the ratio, and the length of answers, by what a server counted."""
        if usage.estimated or usage.input_tokens <= 0:
            return
        self._prompts += 1
        tokens = usage.input_tokens
        if isinstance(request, Likelihood):
            tokens = usage.total_tokens  # whether a continuation counts as sent or as received is the server's affair
        else:
            self._answers += 1
            self._output += (usage.output_tokens - self._output) / min(self._answers, _FIRST)
        contents = tokens - TOKENS_PER_MESSAGE * len(request.prompt)
        if contents > 0:
            weight = 1 / min(self._prompts, _FIRST)
            ratio = min(max(size_of(request) / contents, _LEAST_RATIO), _MOST_RATIO)
            # Means of tokens a byte, not of bytes a token: it is tokens that are reserved.
            self.ratio = 1 / ((1 - weight) / self.ratio + weight / ratio)


def size_of(request: Request) -> int:
    """Bytes of the prompt's contents, and of the continuation if there is one."""
    texts = [message.content for message in request.prompt]
    if isinstance(request, Likelihood):
        texts.append(request.continuation)
    size = 0
    for text in texts:
        size += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return size
