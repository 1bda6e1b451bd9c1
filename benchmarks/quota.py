"""How much of a quota is used, and how many calls are refused: the engine against the simulated API.

Every row offers more work than the quota lets through. `share` is what the server let through in the steady part of
the run over what its quota would have let through: known and announced quotas from the first second on, quotas that
nobody states from the sixtieth, sliding windows from their second period. `refused` counts 429s a hundred calls over
the whole run; `followed` is how long after a halving five seconds begin in which 85 % of the new quota is used and
under 3 % of calls are refused. Client and server are two processes that talk over sockets; some rows run at the same
time, since 100 calls a second take a hundredth of a core. `--virtual` runs the same in one loop on a virtual clock:
exact, and over in seconds.

Features on: meters, learning from headers and refusals, adaptive concurrency (where no number is given), retries; no
cache, no observers. Tokens are charged as estimated at arrival, and never given back.

    python benchmarks/quota.py [--virtual] [--only unknown]
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from multiprocessing import get_context
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import orjson
from common import parser, server, table, write_json

from asyncopt import Completion, Engine, Generate, Model, Quota, Sampling
from asyncopt.endpoints.protocol import Endpoint
from asyncopt.loops import loop_factory
from asyncopt.testing import run_virtual
from asyncopt.testing.process import simulated_api

RATE = 100.0
TOKEN_RATE = 10_000.0
QUEUED = 1000
WINDOW = 5.0
Request = tuple[float, bool, float]  # when it came, whether it was let through, and what it was charged


@dataclass(frozen=True)
class Scenario:
    """A server by the options of `asyncopt simulate`, and what the client is told of its quota."""

    name: str
    serve: dict[str, Any]
    quota: Quota
    seconds: float
    steady: float = 1.0
    per_second: float = RATE
    tokens: bool = False
    max_tokens: int = 1
    change: tuple[float, float] | None = None

    def expected(self, since: float, until: float) -> float:
        """What the quota lets through between two moments."""
        if self.change is None or until <= self.change[0]:
            return self.per_second * (until - since)
        at, factor = self.change
        return self.per_second * (max(at - since, 0.0) + factor * (until - max(at, since)))


@dataclass(frozen=True)
class Figures:
    """What one run gave; the share is in percent."""

    share: float
    refused: int
    refused_per_100: float
    lost: int
    followed: float | None
    concurrency: int
    cpu_us_per_call: float


def scenarios(seconds: float, learning: float) -> list[Scenario]:
    """All rows; `learning` seconds where the client has to find the quota out."""
    small = {"latency": "lognormal:0.2:0.4", "rps": RATE, "burst": RATE / 10 + 2}
    large = {**small, "burst": 2 * RATE}
    window = {"latency": "lognormal:0.2:0.4", "rps": RATE, "window": 10.0}
    tokens = {"latency": "lognormal:0.2:0.4", "tps": TOKEN_RATE, "token_burst": TOKEN_RATE / 5}
    silent = {"headers": "none"}
    stated = Quota(60 * RATE, concurrency=512)
    stated_tokens = Quota(None, 60 * TOKEN_RATE, 512)
    nothing = Quota()
    strict = {"refused_count": True}
    stranger = {"stranger": 0.3}
    half, third = (seconds / 2, 0.5), (2 * learning / 3, 0.5)

    def changed(change: tuple[float, float], **more: Any) -> dict[str, Any]:
        return {"change": f"{change[0]:g}:{change[1]:g}", **more}

    asked = partial(Scenario, tokens=True, per_second=TOKEN_RATE)
    late = min(60.0, 0.5 * learning)
    return [
        Scenario("known: requests, bucket 0.1 s", small, stated, seconds),
        Scenario("known: requests, bucket 0.1 s, refused count", {**small, **strict}, stated, seconds),
        Scenario("known: requests, bucket 2 s", large, stated, 2 * seconds),
        Scenario("known: requests, bucket 2 s, refused count", {**large, **strict}, stated, 2 * seconds),
        Scenario("known: requests, window of 10 s", window, stated, 2 * seconds, steady=10.0),
        asked("known: tokens, bucket 0.2 s", tokens, stated_tokens, seconds),
        asked("known: tokens, never used up", tokens, stated_tokens, seconds, max_tokens=100),
        Scenario("known: requests, a stranger takes 30 %", {**large, **stranger}, stated, seconds, 5.0, 0.7 * RATE),
        Scenario("headers: requests, bucket 0.1 s", small, nothing, seconds),
        Scenario("headers: requests, bucket 2 s, refused count", {**large, **strict}, nothing, 2 * seconds),
        Scenario("headers: requests, window of 10 s", window, nothing, 2 * seconds, steady=10.0),
        asked("headers: tokens, bucket 0.2 s", tokens, nothing, seconds, max_tokens=100, steady=5.0),
        Scenario("headers: halved", {**small, **changed(half)}, nothing, seconds, change=half),
        Scenario("headers: a stranger takes 30 %", {**large, **stranger}, nothing, seconds, 5.0, 0.7 * RATE),
        Scenario("unknown: requests, bucket 0.1 s", {**small, **silent}, nothing, learning, late),
        Scenario("unknown: bucket 0.1 s, refused count", {**small, **silent, **strict}, nothing, learning, late),
        Scenario("unknown: requests, bucket 2 s", {**large, **silent}, nothing, learning, late),
        Scenario("unknown: bucket 2 s, refused count", {**large, **silent, **strict}, nothing, learning, late),
        Scenario("unknown, no Retry-After", {**small, **silent, "retry_after": False}, nothing, learning, late),
        Scenario("unknown: requests, window of 10 s", {**window, **silent}, nothing, learning, late),
        asked("unknown: tokens, bucket 0.2 s", {**tokens, **silent}, nothing, learning, late, max_tokens=100),
        Scenario(
            "unknown: a stranger takes 30 %", {**small, **silent, **stranger}, nothing, learning, late, 0.7 * RATE
        ),
        Scenario(
            "unknown: halved without a word",
            {**small, **silent, **changed(third, silent_change=True)},
            nothing,
            learning,
            late,
            change=third,
        ),
    ]


async def load(model: Model, seconds: float, max_tokens: int) -> int:
    """Keep the queue full for so many seconds; returns how many calls were lost."""
    lost, over = 0, False
    numbers = count()
    pending: set[asyncio.Future[Completion]] = set()

    def submit() -> None:
        number = next(numbers)
        text = f"question {number} " + "word " * (number * 7919 % 60)
        future = model.submit(Generate.of(text, Sampling(max_tokens=max_tokens)))
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
    return lost


async def run(scenario: Scenario, *, url: str | None = None, endpoint: Endpoint | None = None) -> tuple[int, int]:
    """Lost calls, and the concurrency at the end."""
    async with Engine(grace=0.0) as engine:
        model = engine.model("m", base_url=url, endpoint=endpoint, quota=scenario.quota)
        lost = await load(model, scenario.seconds, scenario.max_tokens)
        return lost, engine.dispatchers[0].slots.limit


def over_sockets(scenario: Scenario) -> Figures:
    """One scenario against a fresh server process."""
    with (
        server("asyncopt", "simulate", *flags(scenario.serve)) as url,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        began = time.process_time()
        lost, concurrency = runner.run(run(scenario, url=url))
        seconds = time.process_time() - began
        with urlopen(f"http://{urlsplit(url).netloc}/ledger") as response:
            entries = orjson.loads(response.read())["entries"]
    requests = [(entry["arrived"], entry["status"] != 429, entry["charged"]) for entry in entries]
    return judged(scenario, requests, lost, concurrency, seconds)


def in_virtual_time(scenario: Scenario) -> Figures:
    """One scenario in one loop whose time jumps."""

    async def main() -> tuple[int, int, list[Request]]:
        api = simulated_api(scenario.serve)
        lost, concurrency = await run(scenario, endpoint=api.endpoint())
        return lost, concurrency, [(e.arrived, e.status != 429, float(e.charged)) for e in api.ledger.entries]

    began = time.process_time()
    lost, concurrency, requests = run_virtual(main)
    return judged(scenario, requests, lost, concurrency, time.process_time() - began)


def flags(options: dict[str, Any]) -> list[str]:
    """The options as `asyncopt simulate` takes them."""
    words = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is False:
            words.append("--no-" + flag[2:])
        else:
            words += [flag] if value is True else [flag, str(value)]
    return words


def judged(scenario: Scenario, requests: Sequence[Request], lost: int, concurrency: int, cpu: float) -> Figures:
    """The figures that the server's ledger gives."""
    first = requests[0][0]
    since, until = first + scenario.steady, first + scenario.seconds - 1.0
    granted = _granted(requests, since, until, tokens=scenario.tokens)
    refused = sum(not let for _, let, _ in requests)
    return Figures(
        share=100 * granted / scenario.expected(since, until),
        refused=refused,
        refused_per_100=100 * refused / len(requests),
        lost=lost,
        followed=None if scenario.change is None else _followed(scenario, requests, until),
        concurrency=concurrency,
        cpu_us_per_call=1e6 * cpu / len(requests),
    )


def _granted(requests: Sequence[Request], since: float, until: float, *, tokens: bool) -> float:
    return sum((charged if tokens else 1.0) for at, let, charged in requests if let and since <= at < until)


def _followed(scenario: Scenario, requests: Sequence[Request], until: float) -> float:
    assert scenario.change is not None
    at = scenario.change[0]
    begin = at
    while begin + WINDOW <= until:
        inside = [let for moment, let, _ in requests if begin <= moment < begin + WINDOW]
        enough = sum(inside) >= 0.85 * scenario.expected(begin, begin + WINDOW)
        if enough and inside.count(False) < 0.03 * len(inside):
            return begin - at
        begin += 0.5
    return float("inf")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=42.0, help="of a run whose quota is known or announced")
    options.add_argument("--learning", type=float, default=150.0, help="of a run whose quota nobody states")
    options.add_argument("--jobs", type=int, default=4, help="rows at a time")
    options.add_argument("--virtual", action="store_true", help="one loop, a virtual clock")
    options.add_argument("--only", default="", help="rows whose name has this in it")
    chosen = options.parse_args()
    rows = [row for row in scenarios(chosen.seconds, chosen.learning) if chosen.only in row.name]
    measure = in_virtual_time if chosen.virtual else over_sockets
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(measure, rows))
    lines = [
        [
            row.name,
            f"{figures.share:.1f} %",
            str(figures.refused),
            f"{figures.refused_per_100:.2f}",
            str(figures.lost),
            "" if figures.followed is None else f"{figures.followed:.1f} s",
            f"{figures.cpu_us_per_call:.0f}",
        ]
        for row, figures in zip(rows, found, strict=True)
    ]
    cpu = "CPU µs/call" + (", server's too" if chosen.virtual else "")
    table(["the client knows: the server has", "share", "refused", "per 100", "lost", "followed in", cpu], lines)
    settings = {"seconds": chosen.seconds, "learning": chosen.learning, "virtual": chosen.virtual, "rate": RATE}
    figures_by_row = {row.name: asdict(figures) for row, figures in zip(rows, found, strict=True)}
    write_json(chosen.json, "quota", settings, figures_by_row)


if __name__ == "__main__":
    main()
