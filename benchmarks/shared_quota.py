"""One quota for several processes: how much of it they use together, and that they never break it.

Processes with an engine each ask the simulated API over sockets, which grants the rate and has a small bucket. Each has
its own part of the questions; their answers go into one SQLite file. `seconds` is from the word to begin until the last
process is done, and `over` how much more that is than calls / rate: at most 3 % in the first row, 10 % where something
dies in the middle. `most above` is by the server's ledger the most requests that any interval got above rate times its
length, refused ones included; it has to stay within the server's bucket. `asked` is how many requests the server saw:
what is in flight when a process is killed is asked again. `alone` is how many processes kept to their own part of the
rate for a while. A killed process is replaced, after one second, by another one with the same questions.

    python benchmarks/shared_quota.py                       # 2,000 calls at 20 a second, 100 s a row
    python benchmarks/shared_quota.py --only broker --calls 1000
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import fleet
from common import parser, server, table, write_json
from fleet import Job, Worker

LATENCY = "lognormal:0.2:0.4"
BURST_SECONDS, QUICK_BURST_SECONDS = 0.25, 0.5  # of the rate, which the server lets through at once
GONE_SECONDS = 1.0  # for which what dies is away
HEALTHY, DISTURBED = 0.03, 0.10


@dataclass(frozen=True)
class Figures:
    """What one row gave: seconds, their share over calls / rate, and the server's ledger."""

    seconds: float
    over: float
    asked: int
    refused: int
    lost: int
    most_above: float
    alone: int
    cpu_us_per_call: float


class Group:
    """The processes of one row, and the place where they share the quota."""

    def __init__(self, place: str, redis: fleet.Redis | None, started: list[Worker]) -> None:
        self.place = place
        self.redis = redis
        self.workers = started

    def replace(self, number: int) -> None:
        """Kill a process, and start another one with its questions a second later."""
        self.workers[number].kill()
        time.sleep(GONE_SECONDS)
        self.workers[number] = Worker(self.workers[number].job)
        self.workers[number].begin()


def _nothing(group: Group) -> None:
    """All stay healthy."""


def _kill_first(group: Group) -> None:
    group.replace(0)


def _kill_last(group: Group) -> None:
    group.replace(-1)


def _restart(group: Group) -> None:
    assert group.redis is not None
    group.redis.stop()
    time.sleep(GONE_SECONDS)
    group.redis.start()


def _flush(group: Group) -> None:
    assert group.redis is not None
    group.redis.command("FLUSHALL")


@dataclass(frozen=True)
class Case:
    """A row: where the quota is shared, and what happens when half of the time has passed."""

    name: str
    place: str
    happens: Callable[[Group], None]
    allowed: float


CASES = [
    Case("redis: healthy", "redis", _nothing, HEALTHY),
    Case("redis: a process is killed", "redis", _kill_last, DISTURBED),
    Case("redis: the server is away for a second", "redis", _restart, DISTURBED),
    Case("redis: FLUSHALL", "redis", _flush, DISTURBED),
    Case("broker: healthy", "broker", _nothing, HEALTHY),
    Case("broker: a process is killed", "broker", _kill_last, DISTURBED),
    Case("broker: the process that serves is killed", "broker", _kill_first, DISTURBED),
]


def most_above(times: Sequence[float], rate: float) -> float:
    """The most that any interval has above the rate times its length."""
    most = lowest = 0.0
    for number, at in enumerate(sorted(times)):
        lowest = min(lowest, number - rate * at)
        most = max(most, number + 1 - rate * at - lowest)
    return most


def measure(case: Case, chosen: Namespace) -> Figures:
    """One row, against a server of its own."""
    burst = chosen.burst
    simulate = ("asyncopt", "simulate", "--latency", LATENCY, "--rps", str(chosen.rate), "--burst", str(burst))
    with ExitStack() as stack:
        url = stack.enter_context(server(*simulate))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(fleet.redis()) if case.place == "redis" else None
        shared = f"unix:{folder / 'quota'}" if redis is None else redis.url
        bounds = [chosen.calls * n // chosen.processes for n in range(chosen.processes + 1)]
        jobs = [
            Job(url, first, last, chosen.rate, chosen.concurrency, shared, str(folder / "answers.sqlite"))
            for first, last in pairwise(bounds)
        ]
        started = stack.enter_context(fleet.workers(jobs))
        began = time.monotonic()
        for worker in started:
            worker.begin()
        time.sleep(chosen.calls / chosen.rate / 2)
        case.happens(Group(shared, redis, started))
        reports = [worker.report() for worker in started]
        seconds = time.monotonic() - began
        return _judged(chosen, seconds, reports, fleet.ledger(url))


def _judged(chosen: Namespace, seconds: float, reports: Sequence[fleet.Report], seen: dict[str, object]) -> Figures:
    entries = seen["entries"]
    assert isinstance(entries, list)
    return Figures(
        seconds=seconds,
        over=seconds * chosen.rate / chosen.calls - 1,
        asked=len(entries),
        refused=sum(entry["status"] == 429 for entry in entries),
        lost=sum(report.lost for report in reports),
        most_above=most_above([entry["arrived"] for entry in entries], chosen.rate),
        alone=sum(any("cannot be kept" in note for note in report.notes) for report in reports),
        cpu_us_per_call=1e6 * sum(report.cpu for report in reports) / chosen.calls,
    )


def row(case: Case, figures: Figures) -> list[str]:
    """One line of the table."""
    return [
        case.name,
        f"{figures.seconds:.1f}",
        f"{100 * figures.over:.1f} %",
        str(figures.asked),
        str(figures.refused),
        str(figures.lost),
        f"{figures.most_above:.1f}",
        str(figures.alone),
        f"{figures.cpu_us_per_call:.0f}",
    ]


def wrong(case: Case, figures: Figures, burst: float, *, timed: bool) -> list[str]:
    """What is not as it has to be."""
    found = []
    if figures.lost:
        found.append(f"{figures.lost} calls were lost")
    if figures.most_above > burst or figures.refused:
        found.append(f"the quota was broken: {figures.most_above:.1f} at once, {figures.refused} refused")
    if timed and figures.over > case.allowed:
        found.append(f"it took {100 * figures.over:.1f} % longer, and {100 * case.allowed:.0f} % are allowed")
    return [f"{case.name}: {text}" for text in found]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--processes", type=int, default=4)
    options.add_argument("--calls", type=int, default=2000)
    options.add_argument("--rate", type=float, default=20.0, help="requests a second, of all processes together")
    options.add_argument("--concurrency", type=int, default=400, help="calls in flight, of all processes together")
    options.add_argument("--jobs", type=int, default=2, help="rows at a time")
    options.add_argument("--only", default="", help="rows whose name has this in it")
    options.add_argument("--quick", action="store_true", help="400 calls at 100 a second; the time is not judged")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.calls, chosen.rate = 400, 100.0
    # A short run at a high rate meets more requests in the same delay of a busy machine.
    chosen.burst = chosen.rate * (QUICK_BURST_SECONDS if chosen.quick else BURST_SECONDS)
    cases = [case for case in CASES if chosen.only in case.name]
    if not fleet.has_redis():
        cases = [case for case in cases if case.place != "redis"]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        found = dict(zip(cases, pool.map(lambda case: measure(case, chosen), cases), strict=True))
    heads = [
        "shared by: what happens",
        "seconds",
        "over",
        "asked",
        "refused",
        "lost",
        "most above",
        "alone",
        "CPU µs/call",
    ]
    print(f"{chosen.processes} processes, {chosen.calls} calls, {chosen.rate:g} a second")
    table(heads, [row(case, figures) for case, figures in found.items()])
    settings = {name: getattr(chosen, name) for name in ("processes", "calls", "rate", "concurrency")}
    write_json(chosen.json, "shared_quota", settings, {case.name: asdict(figures) for case, figures in found.items()})
    complaints = [
        text for case, one in found.items() for text in wrong(case, one, chosen.burst, timed=not chosen.quick)
    ]
    if complaints:
        raise SystemExit("\n".join(complaints))


if __name__ == "__main__":
    main()
