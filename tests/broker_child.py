"""One of several processes that share a quota by a broker: asks so many questions, and says when it serves the others.

It begins when it is told to, by a line on its standard input.

Run as ``python broker_child.py PATH URL RATE COUNT NAME [CACHE]``: those with one name ask the same.
"""

from __future__ import annotations

import asyncio
import sys

from asyncopt import Engine, Quota
from asyncopt.loops import loop_factory
from asyncopt.shared.socket import SocketCoordinator


async def _tell(coordinator: SocketCoordinator) -> None:
    told = None
    while True:
        if coordinator.serves != told:
            told = coordinator.serves
            print("serves" if told else "follows", flush=True)
        await asyncio.sleep(0.01)


async def main(path: str, url: str, rate: float, count: int, name: str, cache: str | None = None) -> None:
    coordinator = SocketCoordinator(path)
    async with Engine(cache=cache, coordinator=coordinator) as engine:
        telling = asyncio.create_task(_tell(coordinator))
        model = engine.model("m", base_url=url, api_key="key-of-all", quota=Quota(requests_per_minute=60 * rate))
        await asyncio.to_thread(sys.stdin.readline)
        answers = await asyncio.gather(*(model.generate(f"{name} {number}") for number in range(count)))
        telling.cancel()
    print("answers", len(answers), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:  # as the command line does
        runner.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:]))
