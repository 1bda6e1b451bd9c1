"""Answers the requests of batches as the simulated API answers them alone, beside its quotas and its faults."""

from __future__ import annotations

from collections.abc import Callable

from asyncopt.codec import Json
from asyncopt.testing.ledger import Ledger
from asyncopt.testing.wire import BadRequest, Shape
from asyncopt.testing.work import Worker


class Clerk:
    """The model behind batches; ``ledger`` has a line for every request that was worked on."""

    def __init__(self, worker: Worker, shape: Callable[[str], Shape], *, keep_prompts: bool) -> None:
        self.ledger = Ledger(keep_prompts=keep_prompts)
        self._worker = worker
        self._shape = shape

    def answer(self, body: bytes, url: str, owner: str, now: float) -> tuple[int, Json]:
        """The status and the body of the response to one request."""
        shape = self._shape(url)
        entry = self.ledger.open(now, owner or None)
        try:
            request = self._worker.abilities.understood(shape.parse(body, None))
            answer, _ = self._worker.writer.write(entry.number, request)
        except BadRequest as error:
            self.ledger.close(entry, now, 400)
            return 400, shape.error(400, str(error))
        self.ledger.describe(entry, request.model, request.prompt)
        entry.input_tokens, entry.output_tokens, entry.answer = answer.input_tokens, answer.output_tokens, answer.text
        self.ledger.close(entry, now, 200)
        return 200, shape.whole(answer)
