"""Client CPU a call: `Model.submit` against a tuned bare aiohttp loop and the usual clients, in the same run.

The server is the bare responder in another process on another core, so that the client is what is measured. The rows
alternate round by round; compare ratios, not times. Features on in the engine's rows: content keys, single flight,
priorities, the retry loop, deadlines, account, an observer for every event; `paced` adds a request and a token meter
(set too high to wait), `cache` a SQLite cache that is written, `hit` answers from memory.

The rivals that are installed run in processes of their own, warmed up, driven by as many worker tasks as calls are in
flight, with retries off and time-outs that never fire, on the same loop and garbage collector settings. They do less:
no keys, no single flight, no priorities, no account, no pacing. They are slow, so they make fewer calls a round, and
only at the first concurrency: the default transport of openai fails with 1,024 in flight.

    python benchmarks/overhead.py --calls 5000 --rounds 7 --concurrency 256 1024
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import orjson
import rivals
from common import parser, pin, server, spread, table, write_json

from asyncopt import Engine, Generate, Model, Quota, Sampling
from asyncopt.events import Event
from asyncopt.loops import loop_factory

TEXT = "Solve the following problem and end with the answer. A farmer has seventeen sheep and buys some more. " * 3
UNLIMITED = 1e9


class Count:
    """An observer, so that events are built and delivered."""

    events = 0

    def notify(self, event: Event) -> None:
        self.events += 1


async def bare(url: str, calls: int, concurrency: int) -> float:
    """CPU seconds of the leanest loop that does the same: workers, prepared session, bytes in, bytes out."""
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer x"}
    numbers = iter(range(calls + concurrency))
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:

        async def worker(budget: int | None) -> None:
            for done, number in enumerate(numbers, 1):
                body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": f"{TEXT}{number}"}]})
                async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                    answer = orjson.loads(await response.read())
                assert answer["choices"][0]["message"]["content"]
                assert answer["usage"]["completion_tokens"] >= 0
                if done == budget:
                    return

        await asyncio.gather(*(worker(1) for _ in range(concurrency)))  # open the connections first
        began = time.process_time()
        await asyncio.gather(*(worker(None) for _ in range(concurrency)))
        return time.process_time() - began


async def submitted(model: Model, calls: int, concurrency: int, prefix: str) -> float:
    """CPU seconds of as many submissions, all at once: the engine keeps its own number in flight."""
    warm = [model.submit(Generate.of(f"{TEXT}{prefix} warm {n}")) for n in range(concurrency)]
    await asyncio.gather(*warm)
    requests = range(calls)
    began = time.process_time()
    await asyncio.gather(*(model.submit(Generate.of(f"{TEXT}{prefix}{n}", Sampling())) for n in requests))
    return time.process_time() - began


async def engine_row(url: str, calls: int, concurrency: int, kind: str) -> float:
    """CPU seconds of the engine with what the row's name says."""
    paced = kind == "paced"
    quota = Quota(UNLIMITED if paced else None, UNLIMITED if paced else None, concurrency)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "answers.sqlite" if kind in ("cache", "hit") else None
        async with Engine(cache=cache, observers=[Count()]) as engine:
            model = engine.model("m", base_url=url, api_key="x", quota=quota)
            seconds = await submitted(model, calls, concurrency, "a")
            if kind == "hit":
                seconds = await submitted(model, calls, concurrency, "a")
            return seconds


ROWS: dict[str, Callable[[str, int, int], Awaitable[float]]] = {
    "aiohttp, tuned": lambda url, calls, c: bare(f"{url}/chat/completions", calls, c),
    "asyncopt": lambda url, calls, c: engine_row(url, calls, c, "plain"),
    "asyncopt, paced": lambda url, calls, c: engine_row(url, calls, c, "paced"),
    "asyncopt, cache": lambda url, calls, c: engine_row(url, calls, c, "cache"),
    "asyncopt, hit in memory": lambda url, calls, c: engine_row(url, calls, c, "hit"),
}


def measure(
    url: str, chosen: Namespace, concurrency: int, others: Mapping[str, rivals.Caller]
) -> dict[str, list[float]]:
    """Microseconds of client CPU a call, by row, one value a round."""
    figures: dict[str, list[float]] = {name: [] for name in (*ROWS, *others)}
    for _ in range(chosen.rounds):
        for name, row in ROWS.items():
            gc.collect()
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                seconds = runner.run(_awaited(row, url, chosen.calls, concurrency))
            figures[name].append(1e6 * seconds / chosen.calls)
        for name, call in others.items():
            figures[name].append(1e6 * call(TEXT, chosen.rival_calls) / chosen.rival_calls)
    return figures


async def _awaited(row: Callable[[str, int, int], Awaitable[float]], url: str, calls: int, concurrency: int) -> float:
    return await row(url, calls, concurrency)


def report(figures: Mapping[str, list[float]]) -> None:
    """Print the rows with their ratios, round by round, to the bare loop and to the engine with the cache off."""
    rows = []
    for name, values in figures.items():
        slower = [value / other for value, other in zip(values, figures["aiohttp, tuned"], strict=True)]
        per_second = [value / own for value, own in zip(values, figures["asyncopt"], strict=True)]
        rows.append([name, spread(values), f"{statistics.median(slower):.2f}", f"{statistics.median(per_second):.2f}x"])
    table(
        ["client", "CPU µs a call: median (range)", "ratio to aiohttp", "asyncopt's calls per CPU second over it"], rows
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--calls", type=int, default=5000)
    options.add_argument("--rival-calls", type=int, default=500)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--concurrency", type=int, nargs="+", default=[256, 1024])
    options.add_argument("--quick", action="store_true", help="one short round at 64, to see that it works")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.calls, chosen.rival_calls, chosen.rounds, chosen.concurrency = 500, 100, 1, [64]
    pin(os.getpid(), last=False)
    gc.set_threshold(*rivals.GC_THRESHOLD)  # an application's choice, and the same for every row
    figures = {}
    with server("asyncopt.testing.bare", "--port", "0") as url:
        for concurrency in chosen.concurrency:
            with ExitStack() as stack:
                first = concurrency == chosen.concurrency[0]
                others = rivals.callers(stack, url, concurrency) if first else {}
                found = figures[str(concurrency)] = measure(url, chosen, concurrency, others)
            calls = f"{chosen.calls} calls" + (f" ({chosen.rival_calls} of a rival)" if others else "")
            print(f"\n{concurrency} in flight, {calls}, {chosen.rounds} rounds")
            report(found)
    settings = {"calls": chosen.calls, "rival_calls": chosen.rival_calls, "rounds": chosen.rounds}
    write_json(chosen.json, "overhead", settings, figures)


if __name__ == "__main__":
    main()
