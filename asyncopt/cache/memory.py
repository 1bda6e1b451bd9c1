"""The protocol of a cache, the simplest one, and how a completion is written into it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from asyncopt import codec
from asyncopt.values import Completion, Finish, TokenLogprob, Usage

RECENT = 20_000  # completions kept in memory in front of a persistent cache


class Cache(Protocol):
    """Bytes by content key. A put is durable after :meth:`flush`; nothing here raises for what a disk does.

    A cache that may fail has an attribute ``degraded``: why nothing is stored any more, or None. One that other
    processes write to may have ``away``: whether it cannot be reached just now, but may be in a moment.
    """

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that are there."""
        ...

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value; it may be written later."""
        ...

    async def flush(self) -> None:
        """Return when everything that was put is durable."""
        ...

    async def aclose(self) -> None:
        """Flush, and let go of what the cache holds open."""
        ...


class MemoryCache:
    """A cache that lasts as long as its object."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return {key: self._values[key] for key in keys if key in self._values}

    def put(self, key: bytes, value: bytes) -> None:
        self._values.setdefault(key, value)

    async def flush(self) -> None:
        return

    async def aclose(self) -> None:
        return


class Recent:
    """The completions used last, by key, without decoding."""

    __slots__ = ("_entries", "_limit")

    def __init__(self, limit: int = RECENT) -> None:
        self._entries: OrderedDict[bytes, Completion] = OrderedDict()
        self._limit = limit

    def get(self, key: bytes) -> Completion | None:
        completion = self._entries.get(key)
        if completion is not None:
            self._entries.move_to_end(key)
        return completion

    def put(self, key: bytes, completion: Completion) -> None:
        self._entries[key] = completion
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)


def pack(completion: Completion) -> bytes:
    """The completion as JSON."""
    usage = completion.usage
    return codec.dumps(
        {
            "text": completion.text,
            "finish": completion.finish.value,
            "usage": [usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.estimated],
            "served": completion.served_model,
            "logprobs": [[item.token, item.logprob, item.top] for item in completion.token_logprobs],
        }
    )


def unpack(value: bytes) -> Completion | None:
    """The completion in the JSON, or None where it is something else: a miss, never a wrong answer."""
    try:
        record = codec.loads(value)
        logprobs = tuple(
            TokenLogprob(token, logprob, tuple((other, chance) for other, chance in top))
            for token, logprob, top in record["logprobs"]
        )
        usage = Usage(*record["usage"])
        return Completion(record["text"], Finish(record["finish"]), usage, logprobs, record["served"])
    except (codec.CodecError, KeyError, TypeError, ValueError):
        return None
