"""Whether a process that runs for a day stays as it is: its memory, descriptors, tasks, threads and objects.

For each class of fault plan a fresh process makes calls through an engine, for so many virtual hours against a server
in its own loop, and for so many real minutes over sockets against a server in another process. Clients ask one question
after another, at a modest rate; some questions come again, some calls are cancelled. Over sockets there is a cache, and
the memory in front of it is full before the first sample: it may hold so many answers for as long as the process lives.

The rule: the span is cut into samples; the median of the last quarter of them is held against that of the second
quarter (the first one warms up), and may be larger by 2 MiB and 2 % for the resident set, by 500 and 1 % for the
objects that the garbage collector tracks, and by 2 and 10 % for descriptors, tasks and threads. Where one is larger
than that, the exit code is 1. Spans below an hour and a minute only show that the script works, and are not judged.

    python benchmarks/soak.py                               # 24 virtual hours and 10 real minutes of each class
    python benchmarks/soak.py --hours 2 --minutes 0 --plans "mixed,rate limits"
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from common import parser, server, table, write_json
from memory import resident

from asyncopt import Completion, Engine, Generate, Model, Quota, Sampling, SqliteCache
from asyncopt.cache.memory import RECENT, pack
from asyncopt.errors import AsyncoptError
from asyncopt.identity import RequestKeys
from asyncopt.loops import loop_factory
from asyncopt.testing.clock import run_virtual
from asyncopt.testing.faults import FaultPlan
from asyncopt.testing.latency import parse_latency
from asyncopt.testing.simulated import SimulatedAPI

PLANS = {
    "none": "seed=1,rate=0",
    "rate limits": "seed=1,rate=0.1,kinds=429+429-after+429-ms+429-date+ramp+error-200",
    "5xx and resets": "seed=1,rate=0.2,kinds=500+502+503+504+529+html+reset+reset-body",
    "malformed": "seed=1,rate=0.2,kinds=malformed+truncated+no-choices+null-content+no-usage+absurd-usage+length-empty",
    "slow and hanging": "seed=1,rate=0.1,kinds=slow+hang",
    "mixed": "seed=1,rate=0.2,kinds=429+429-after+500+503-after+reset+reset-body+malformed+refused+slow+hang",
}
CLIENTS = 20
SAMPLES = 48
REPEATED = 0.2  # the share of questions that were asked before
CANCELLED = 0.05
PATIENCE = 60.0  # seconds for an attempt
LATENCY = "lognormal:0.5:0.5"
VIRTUAL_PAUSE = 8.0  # seconds between a client's questions, on average: over 2 calls a second in all
REAL_PAUSE = 0.1
JUDGED_HOURS, JUDGED_MINUTES = 1.0, 1.0

TOLERANCES = {
    "rss": (2 * 2**20, 0.02),
    "objects": (500, 0.01),
    "descriptors": (2, 0.1),
    "tasks": (2, 0.1),
    "threads": (2, 0.1),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment; ``rss`` in bytes, ``calls`` those that have ended."""

    calls: int
    rss: int
    objects: int
    descriptors: int
    tasks: int
    threads: int


Samples: TypeAlias = list[dict[str, int]]


def question(number: int) -> Generate:
    return Generate.of(f"What is {number} plus {number}? " * 8, Sampling(max_tokens=64))


class Soak:
    """Clients that ask for so many seconds, and the samples taken meanwhile."""

    def __init__(self, model: Model, seconds: float, pause: float, forget: Callable[[], None]) -> None:
        self._model = model
        self._pause = pause
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._step = seconds / SAMPLES
        self._end = self._loop.time() + seconds
        self._rng = random.Random(0)
        self._asked = self._calls = 0
        self.samples: list[Sample] = []

    async def run(self) -> None:
        clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
        for _ in range(SAMPLES):
            await asyncio.sleep(self._step)
            self._forget()
            self.samples.append(self._sample())
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)

    async def _client(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._pause))
            future = self._model.submit(self._question())
            if self._rng.random() < CANCELLED:
                self._loop.call_later(self._rng.random(), future.cancel)
            try:
                await asyncio.wait([future])
            finally:
                future.cancel()
            if not future.cancelled() and isinstance(error := future.exception(), Exception):
                assert isinstance(error, AsyncoptError), error
            self._calls += 1

    def _question(self) -> Generate:
        number = self._asked
        if number and self._rng.random() < REPEATED:
            number = self._rng.randrange(max(0, number - 1000), number)
        else:
            self._asked += 1
        return question(number)

    def _sample(self) -> Sample:
        rss = resident()
        descriptors = len(os.listdir("/dev/fd"))
        tasks = len(asyncio.all_tasks())
        return Sample(self._calls, rss, len(gc.get_objects()), descriptors, tasks, threading.active_count())


def virtual(plan: str, hours: float) -> list[Sample]:
    """The samples of so many hours on the virtual clock."""

    async def main() -> list[Sample]:
        latency = parse_latency(LATENCY)
        api = SimulatedAPI(seed=1, latency=latency, faults=FaultPlan.parse(plan), keep_prompts=False)
        async with Engine() as engine:
            model = engine.model("m", endpoint=api.endpoint(), timeout=PATIENCE)
            # The ledger keeps every request on purpose; here it would be the only thing that grows.
            soak = Soak(model, hours * 3600, VIRTUAL_PAUSE, api.ledger.entries.clear)
            await soak.run()
        return soak.samples

    return run_virtual(main)


def real(minutes: float, url: str) -> list[Sample]:
    """The samples of so many minutes over sockets."""

    async def main(folder: str) -> list[Sample]:
        cache = SqliteCache(Path(folder) / "answers.sqlite")
        async with Engine(cache=cache) as engine:
            model = engine.model("m", base_url=url, quota=Quota(concurrency=CLIENTS), timeout=min(PATIENCE, 5.0))
            await fill_front(model, cache)
            soak = Soak(model, minutes * 60, REAL_PAUSE, lambda: None)
            await soak.run()
        return soak.samples

    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main(folder))


async def fill_front(model: Model, cache: SqliteCache) -> None:
    """Put as many answers into the cache as its front in memory holds, and ask for each of them once."""
    keys = RequestKeys(model.identity, "m")
    questions = [question(-number) for number in range(1, RECENT + 1)]
    for one in questions:
        cache.put(keys.of(one), pack(Completion("The answer is 42. " * 4)))
    await asyncio.gather(*map(model.submit, questions))
    assert not model.account.calls


def child(kind: str, plan: str, amount: float) -> Samples:
    """The samples of a fresh process."""
    command = [sys.executable, __file__, "--child", kind, plan, str(amount)]
    with ExitStack() as stack:
        if kind == "real":
            command.append(stack.enter_context(server("asyncopt", "simulate", "--latency", "0.05", "--faults", plan)))
        found: Samples = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def serve_child(kind: str, plan: str, amount: str, url: str = "") -> None:
    samples = virtual(plan, float(amount)) if kind == "virtual" else real(float(amount), url)
    print(json.dumps([asdict(sample) for sample in samples]))


def grown(samples: Samples) -> list[str]:
    """The names of what is not flat, by the rule above."""
    quarter = len(samples) // 4
    names = []
    for name, (amount, share) in TOLERANCES.items():
        early = statistics.median(sample[name] for sample in samples[quarter : 2 * quarter])
        late = statistics.median(sample[name] for sample in samples[-quarter:])
        if late > early * (1 + share) + amount:
            names.append(name)
    return names


def row(kind: str, name: str, samples: Samples, bad: list[str], seconds: float) -> list[str]:
    """One line of the table: each figure at the start, after the warm-up, and at the end."""
    moments = samples[0], samples[len(samples) // 4], samples[-1]
    figures = [" ".join(f"{moment['rss'] / 2**20:.1f}" for moment in moments)]
    figures += [" ".join(str(moment[key]) for moment in moments) for key in list(TOLERANCES)[1:]]
    return [kind, name, str(samples[-1]["calls"]), *figures, ", ".join(bad) or "none", f"{seconds:.0f}"]


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        serve_child(*sys.argv[2:])
        return
    options = parser(__doc__)
    options.add_argument("--hours", type=float, default=24.0, help="virtual hours of each class; 0 for none")
    options.add_argument("--minutes", type=float, default=10.0, help="real minutes of each class; 0 for none")
    options.add_argument("--plans", default=",".join(PLANS), help="the classes, by their names")
    options.add_argument("--quick", action="store_true", help="some seconds of it, to see that it works")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.hours, chosen.minutes, chosen.plans = 0.2, 0.05, "mixed"
    spans = [("virtual", chosen.hours, JUDGED_HOURS), ("real", chosen.minutes, JUDGED_MINUTES)]
    rows, figures, failed = [], {}, False
    for name in chosen.plans.split(","):
        for kind, amount, least in spans:
            if amount <= 0:
                continue
            begun = time.monotonic()
            samples = child(kind, PLANS[name], amount)
            bad = grown(samples) if amount >= least else []
            failed = failed or bool(bad)
            rows.append(row(kind, name, samples, bad, time.monotonic() - begun))
            figures[f"{kind}: {name}"] = samples
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heads = ["clock", "faults", "calls", "MiB", "objects", "descriptors", "tasks", "threads", "not flat", "s"]
    table(heads, rows)
    write_json(chosen.json, "soak", {"hours": chosen.hours, "minutes": chosen.minutes}, figures)
    sys.exit(failed)


if __name__ == "__main__":
    main()
