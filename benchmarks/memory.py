"""What a request weighs: bytes for each that is queued and for each that is in flight, and the whole process.

Every figure comes from a fresh process, as the growth of its resident set; prompts of 300 characters, each another one,
count as part of the request. `queued` is `Model.submit` in front of an endpoint that never answers, with up to 256 in
flight; `in flight` goes over real sockets to the simulated API in another process, which answers when all have come.
Features on: content keys, single flight, priorities, deadlines, account, for those in flight a request meter set too
high to wait; no cache, no observer.

    python benchmarks/memory.py --queued 100000 --in-flight 4000
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import orjson
from common import parser, server, table, write_json

from asyncopt import Completion, Engine, Generate, Model, Quota
from asyncopt.endpoints.protocol import Answer
from asyncopt.loops import loop_factory
from asyncopt.values import Capabilities, Request

STARTED = 256  # in flight while the others queue
SPARE_FILES = 256
UNLIMITED = 1e9  # requests a minute: with a stated rate the engine does not begin with a few calls
PROMPT = "Solve the following problem and end with the answer. A farmer has many sheep and buys some more. "
LENGTH = 300


def prompt(number: int) -> str:
    return f"{number} {PROMPT * 4}"[:LENGTH]


def resident() -> int:
    """Bytes of this process in memory; where /proc is missing, the most that it ever had."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def allow_files(wanted: int) -> int:
    """Raise the limit on open files, for the processes that are started from here too; returns what is allowed."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(soft, allowed)


class Silent:
    """An endpoint that never answers."""

    identity = "silent"
    account = ""
    supports = Capabilities()

    async def send(self, model: str, request: Request) -> Answer:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Nothing is open."""


def submit(model: Model, count: int) -> list[asyncio.Future[Completion]]:
    return [model.submit(Generate.of(prompt(number))) for number in range(count)]


async def queued(count: int) -> dict[str, int]:
    """The resident set before and after so many submissions, and after all of them were cancelled."""
    async with Engine(grace=0.0) as engine:
        model = engine.model("m", endpoint=Silent(), quota=Quota(concurrency=STARTED))
        before = resident()
        futures = submit(model, count)
        await asyncio.sleep(0)
        after = resident()
        assert engine.dispatchers[0].queued >= count - STARTED
        for future in futures:
            future.cancel()
        left = engine.dispatchers[0].queued
    return {"before": before, "after": after, "left": left}


async def in_flight(count: int, latency: float, url: str) -> dict[str, int]:
    """The resident set before, and when all are in flight; ``left`` counts those that were not answered in the end."""
    async with Engine() as engine:
        model = engine.model("m", base_url=url, api_key="x", quota=Quota(UNLIMITED, concurrency=count))
        before = resident()
        futures = submit(model, count)
        await asyncio.sleep(0.75 * latency)
        after = resident()
        assert engine.dispatchers[0].in_flight == count
        answers = await asyncio.gather(*futures, return_exceptions=True)
    left = sum(not isinstance(answer, Completion) for answer in answers)
    return {"before": before, "after": after, "left": left}


def child(*arguments: str) -> dict[str, int]:
    """The figures of a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def serve_child(kind: str, count: str, latency: str = "0", url: str = "") -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        work = queued(int(count)) if kind == "queued" else in_flight(int(count), float(latency), url)
        print(json.dumps(runner.run(work)))


def against_server(count: int, latency: float) -> dict[str, int]:
    """The figures of calls in flight; raises if the server did not see all of them at once."""
    with server("asyncopt", "simulate", "--latency", str(latency)) as url:
        found = child("in flight", str(count), str(latency), url)
        with urlopen(f"http://{urlsplit(url).netloc}/ledger") as response:
            seen = orjson.loads(response.read())["max_in_flight"]
    if seen != count:
        raise SystemExit(f"the server saw {seen} of {count} calls in flight; raise --latency on a slow machine")
    return found


def row(name: str, count: int, runs: list[dict[str, int]]) -> list[str]:
    """One line of the table; MB are millions of bytes."""
    each = [(run["after"] - run["before"]) / count / 1024 for run in runs]
    whole = [run["after"] / 1e6 for run in runs]
    grown = [(run["after"] - run["before"]) / 1e6 for run in runs]
    left = max(run["left"] for run in runs)
    return [name, str(count), *(f"{statistics.median(part):.1f}" for part in (each, grown, whole)), str(left)]


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        serve_child(*sys.argv[2:])
        return
    options = parser(__doc__)
    options.add_argument("--queued", type=int, default=100_000)
    options.add_argument("--in-flight", type=int, default=4000)
    options.add_argument("--latency", type=float, default=10.0, help="seconds, in which all calls must have come")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--quick", action="store_true", help="a tenth of it, once, to see that it works")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.queued, chosen.in_flight, chosen.latency, chosen.rounds = 10_000, 400, 3.0, 1
    allowed = allow_files(chosen.in_flight + SPARE_FILES)
    if allowed < chosen.in_flight + SPARE_FILES:
        chosen.in_flight = allowed - SPARE_FILES
        print(f"the limit of open files allows {chosen.in_flight} calls in flight")
    weighing = {
        "queued": (chosen.queued, [child("queued", str(chosen.queued)) for _ in range(chosen.rounds)]),
        "in flight": (
            chosen.in_flight,
            [against_server(chosen.in_flight, chosen.latency) for _ in range(chosen.rounds)],
        ),
    }
    heads = ["requests", "number", "KiB each", "MB in all", "MB of the process", "left over"]
    table(heads, [row(name, count, runs) for name, (count, runs) in weighing.items()])
    settings = {"rounds": chosen.rounds, "prompt": LENGTH}
    write_json(chosen.json, "memory", settings, weighing)


if __name__ == "__main__":
    main()
