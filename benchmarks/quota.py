"""How much of a quota is used, and how many calls are refused: the engine against the simulated API, two processes.

Every row offers more work than the quota lets through. The share is what the server answered between the first and the
last second of the run, over what its quota would have let through in that time; `refused` counts 429s a hundred calls.
In this first form the quota is known to the client; learned and unknown quotas come with the adaptive controller.

    python benchmarks/quota.py --seconds 20
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict, dataclass
from itertools import count
from urllib.parse import urlsplit
from urllib.request import urlopen

import orjson
from common import parser, pin, server, table, write_json

from asyncopt import Completion, Engine, Generate, Quota, Sampling
from asyncopt.loops import loop_factory

WARM_UP = 1.0
QUEUED = 2000


@dataclass(frozen=True)
class Scenario:
    """A server's quota, and what the client is told of it. Tokens are what the server charges: estimate at arrival."""

    name: str
    serve: tuple[str, ...]
    quota: Quota
    per_second: float
    tokens: bool = False
    max_tokens: int = 1


def scenarios(rate: float) -> list[Scenario]:
    """Request buckets of a tenth of a second and of two seconds, and a token bucket, lenient and strict."""
    latency = ("--latency", "lognormal:0.2:0.4")
    small = (*latency, "--rps", str(rate), "--burst", str(rate / 10 + 2))
    large = (*latency, "--rps", str(rate), "--burst", str(2 * rate))
    tokens = (*latency, "--tps", str(100 * rate), "--token-burst", str(20 * rate))
    requests = Quota(requests_per_minute=60 * rate, concurrency=512)
    return [
        Scenario("requests, bucket 0.1 s", small, requests, rate),
        Scenario("requests, bucket 0.1 s, refused count", (*small, "--refused-count"), requests, rate),
        Scenario("requests, bucket 2 s", large, requests, rate),
        Scenario(
            "tokens, bucket 0.2 s", tokens, Quota(tokens_per_minute=6000 * rate, concurrency=512), 100 * rate, True
        ),
    ]


@dataclass(frozen=True)
class Figures:
    """What one run gave; the share is in percent."""

    share: float
    refused_per_100: float
    lost: int
    calls_per_second: float
    cpu_us_per_call: float


async def load(url: str, scenario: Scenario, seconds: float) -> tuple[int, float]:
    """Keep the queue full for so many seconds; returns lost calls and CPU seconds."""
    lost, over = 0, False
    numbers = count()
    pending: set[asyncio.Future[Completion]] = set()
    began = time.process_time()
    async with Engine(grace=0.0) as engine:
        model = engine.model("m", base_url=url, quota=scenario.quota)

        def submit() -> None:
            number = next(numbers)
            text = f"question {number} " + "word " * (number * 7919 % 60)
            future = model.submit(Generate.of(text, Sampling(max_tokens=scenario.max_tokens)))
            pending.add(future)
            future.add_done_callback(ended)

        def ended(future: asyncio.Future[Completion]) -> None:
            nonlocal lost
            pending.discard(future)
            if not future.cancelled():
                lost += future.exception() is not None
                if not over:
                    submit()

        for _ in range(QUEUED):
            submit()
        await asyncio.sleep(seconds)
        over = True
        for future in list(pending):
            future.cancel()
    return lost, time.process_time() - began


def measure(scenario: Scenario, seconds: float) -> Figures:
    """Run one scenario against a fresh server and read its ledger."""
    with server("asyncopt", "simulate", *scenario.serve) as url, asyncio.Runner(loop_factory=loop_factory()) as runner:
        lost, cpu = runner.run(load(url, scenario, seconds))
        address = urlsplit(url)
        with urlopen(f"http://{address.netloc}/ledger") as response:
            entries = orjson.loads(response.read())["entries"]
    answered = [entry for entry in entries if entry["status"] != 429]
    first = answered[0]["arrived"]
    inside = [entry for entry in answered if WARM_UP <= entry["arrived"] - first < seconds - WARM_UP]
    amount = sum(entry["charged"] if scenario.tokens else 1 for entry in inside)
    span = seconds - 2 * WARM_UP
    refused = len(entries) - len(answered)
    return Figures(
        share=100 * amount / (scenario.per_second * span),
        refused_per_100=100 * refused / len(entries),
        lost=lost,
        calls_per_second=len(answered) / seconds,
        cpu_us_per_call=1e6 * cpu / len(entries),
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=20.0)
    options.add_argument("--rate", type=float, default=100.0, help="requests a second")
    chosen = options.parse_args()
    pin(os.getpid(), last=False)
    rows, figures = [], {}
    for scenario in scenarios(chosen.rate):
        found = measure(scenario, chosen.seconds)
        figures[scenario.name] = asdict(found)
        rows.append(
            [
                scenario.name,
                f"{found.share:.1f} %",
                f"{found.refused_per_100:.2f}",
                str(found.lost),
                f"{found.calls_per_second:.0f}",
                f"{found.cpu_us_per_call:.0f}",
            ]
        )
    table(["server's quota, known to the client", "share used", "refused/100", "lost", "calls/s", "CPU µs/call"], rows)
    write_json(chosen.json, "quota", {"seconds": chosen.seconds, "rate": chosen.rate}, figures)


if __name__ == "__main__":
    main()
