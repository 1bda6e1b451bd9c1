"""A process that asks many questions through a shared cache; what it printed is in JSON at the end."""

from __future__ import annotations

import asyncio
import json
import sys

from asyncopt import Completion, Engine, Quota
from asyncopt.events import CacheDegraded, Event, Note
from asyncopt.shared.at import coordinator_at


class Notes:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def notify(self, event: Event) -> None:
        if isinstance(event, Note | CacheDegraded):
            self.texts.append(getattr(event, "text", "") or getattr(event, "reason", ""))


async def main(url: str, redis: str, count: str, rate: str, tag: str) -> None:
    """Ask ``count`` questions; those with one ``tag`` are the same. ``rate`` in requests a second, or 0 for none."""
    notes = Notes()
    async with Engine(cache=redis, coordinator=coordinator_at(redis), observers=[notes]) as engine:
        quota = Quota(60 * float(rate) or None, concurrency=64)
        model = engine.model("m", base_url=url, api_key="x", quota=quota)
        print("begins", flush=True)
        asked = [model.generate(f"{tag} question {number}") for number in range(int(count))]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    texts = [answer.text for answer in answers if isinstance(answer, Completion)]
    failed = sorted({repr(answer) for answer in answers if not isinstance(answer, Completion)})
    print(json.dumps({"texts": texts, "failed": failed, "notes": notes.texts}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
