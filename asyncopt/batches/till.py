"""What requests in batches cost: set aside when they are submitted, settled by the usage in their answers, halved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from asyncopt.bulk import Bulk
from asyncopt.endpoints.protocol import Answer
from asyncopt.events import CallEnded
from asyncopt.values import Completion, Fault, Generate, Usage

SHARE = 0.5  # of the usual price; what all providers ask who have batches of this format
_NO_USAGE = Usage()


class Till:
    """Counts the requests of batches on a model's account, each once, and in the process that has its answer."""

    def __init__(self, bulk: Bulk) -> None:
        self._bulk = bulk
        self._aside: dict[bytes, tuple[float, float]] = {}

    def expected(self, requests: Iterable[Generate]) -> tuple[float, float]:
        """Tokens and dollars that these may take together."""
        each = [self._bulk.expected(request) for request in requests]
        return sum(tokens for tokens, _ in each), SHARE * sum(usd for _, usd in each)

    def set_aside(self, keys: Iterable[bytes], wanted: Mapping[bytes, Generate]) -> None:
        """Count these calls, and what they may take; of a request that nobody knows any more, nothing."""
        for key in keys:
            request = wanted.get(key)
            if key not in self._aside:
                self._aside[key] = self.expected(() if request is None else (request,))
                self._bulk.account.reserve(*self._aside[key])

    def put_back(self, key: bytes) -> None:
        """The request was not worked on, or another process will have its answer."""
        self._bulk.account.put_back(*self._aside.pop(key))

    def put_all_back(self) -> None:
        """Leave the account as if nothing were on its way."""
        for key in list(self._aside):
            self.put_back(key)

    def pay(self, key: bytes, answer: Answer | None, request: Generate | None, seconds: float) -> Answer | None:
        """The answer with its usage, our own count where the server gives none; and the call is paid."""
        bulk = self._bulk
        if isinstance(answer, Completion) and answer.usage.estimated and request is not None:
            usage = bulk.estimate.counted(request, answer.text)
            answer = Completion(answer.text, answer.finish, usage, answer.token_logprobs, answer.served_model)
        usage = _NO_USAGE if answer is None else answer.usage or _NO_USAGE
        paid = 0.0 if bulk.price is None else SHARE * bulk.price.of(usage)
        bulk.account.settle(*self._aside.pop(key), usage, paid)
        if bulk.events and answer is not None:
            bulk.events.emit(self._ended(answer, request, seconds, usage, paid))
        return answer

    def _ended(self, answer: Answer, request: Generate | None, seconds: float, usage: Usage, paid: float) -> CallEnded:
        endpoint = self._bulk.endpoint
        return CallEnded(
            self._bulk.served,
            answer.kind.value if isinstance(answer, Fault) else "completed",
            1,
            0.0,
            seconds,
            usage.input_tokens,
            usage.output_tokens,
            getattr(endpoint, "address", endpoint.identity),
            paid,
            request,
            answer if isinstance(answer, Completion) else None,
        )
