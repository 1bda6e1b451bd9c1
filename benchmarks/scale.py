"""What calls cost when several processes make them: CPU, memory, connections, and what Redis does for them.

`engines`: 1, 2 and 4 processes with an engine each against the bare responder, every one with as many calls and as many
in flight, all at once. `alone` each with a meter of its own; `broker` and `redis` with one rate of all, too high to
wait; `redis, cache` with the answers in Redis, too, and every question claimed before it is asked. CPU is that of the
processes, not of the servers; `ratio` is to one process in the same round and row. `broker` is what the first process,
which serves the others, uses more than they do. With more processes than cores the calls a second say little.

`rates`: two processes at a rate that is kept. The coordinator is asked for 20 ms worth of permits at a time by each
process, so that its work goes with the processes and not with the calls.

Redis is one process and one thread: `server` is its CPU. `commands` are those that were sent and those that scripts
give, `bytes` what it has read and written.

    python benchmarks/scale.py --rounds 5
"""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import fleet
from common import parser, server, spread, table, write_json
from fleet import Job, Report

PLENTY = 40_000.0  # requests a second: more than this machine makes
WARM = 64
OWN = ("info", "ping", "quit", "command", "client", "hello")  # of this script, and of connections that are opened


@dataclass(frozen=True)
class Place:
    """Where quota and cache are: none, the broker or Redis."""

    name: str
    shared: str | None = None
    cached: bool = False

    @property
    def in_redis(self) -> bool:
        return self.shared == "redis"


PLACES = [Place("alone"), Place("broker", "broker"), Place("redis", "redis"), Place("redis, cache", "redis", True)]


@dataclass(frozen=True)
class Figures:
    """One run: µs of CPU and MB are means over its processes, what Redis did is for 1,000 calls."""

    cpu: float  # µs a call
    calls_per_second: float
    resident_mb: float
    broker: float = 0.0  # µs a call
    server: float = 0.0  # ms of Redis' CPU
    scripts: float = 0.0
    commands: float = 0.0
    kilobytes: float = 0.0
    stored: float = 0.0  # bytes of Redis' memory, for one call
    connections: float = 0.0  # a process
    script_us: float = 0.0  # of Redis' CPU, for one script


def run(url: str, place: Place, processes: int, calls: int, in_flight: int, rate: float) -> Figures:
    """So many processes with so many calls each, and ``in_flight`` of them at once."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(fleet.redis()) if place.in_redis else None
        shared = redis.url if redis is not None else f"unix:{folder / 'quota'}" if place.shared else None
        cache = redis.url if redis is not None and place.cached else None
        # What is not shared is not divided either.
        of_all = processes if shared else 1
        jobs = [
            Job(url, n * calls, (n + 1) * calls, rate, in_flight * of_all, shared, cache, WARM)
            for n in range(processes)
        ]
        started = stack.enter_context(fleet.workers(jobs))
        before = {} if redis is None else redis.info()
        for worker in started:
            worker.begin()
        reports = [worker.report() for worker in started]
        if any(report.lost for report in reports):
            raise SystemExit(f"calls were lost: {reports}")
        after = {} if redis is None else redis.info()
    done = _of_redis(before, after, processes, calls * processes) if before else {}
    return Figures(
        cpu=1e6 * statistics.mean(report.cpu for report in reports) / calls,
        calls_per_second=calls * processes / max(report.seconds for report in reports),
        resident_mb=statistics.mean(report.rss for report in reports) / 1e6,
        broker=_more_of_first(reports, calls) if place.shared == "broker" else 0.0,
        **done,
    )


def _more_of_first(reports: Sequence[Report], calls: int) -> float:
    if len(reports) < 2:
        return 0.0
    others = statistics.mean(report.cpu for report in reports[1:])
    return 1e6 * (reports[0].cpu - others) / (calls * len(reports))


def _of_redis(before: dict[str, str], after: dict[str, str], processes: int, calls: int) -> dict[str, float]:
    def grown(name: str) -> float:
        return float(after[name]) - float(before[name])

    earlier, later = fleet.commands(before), fleet.commands(after)
    given = {name: count - earlier.get(name, (0, 0.0))[0] for name, (count, _) in later.items()}
    scripts = sum(given.get(name, 0) for name in ("evalsha", "eval", "fcall"))
    seconds = sum(
        later[name][1] - earlier.get(name, (0, 0.0))[1] for name in ("evalsha", "eval", "fcall") if name in later
    )
    ours = sum(count for name, count in given.items() if name.split("|")[0] not in OWN)
    traffic = grown("total_net_input_bytes") + grown("total_net_output_bytes")
    return {
        "server": 1e6 * (grown("used_cpu_user") + grown("used_cpu_sys")) / calls,
        "scripts": 1000 * scripts / calls,
        "commands": 1000 * ours / calls,
        "kilobytes": traffic / calls,
        "stored": grown("used_memory") / calls,
        "connections": (float(before["connected_clients"]) - 1) / processes,
        "script_us": 1e6 * seconds / scripts if scripts else 0.0,
    }


def engines(url: str, chosen: Namespace, places: Sequence[Place]) -> dict[str, list[Figures]]:
    """All rows of the first table, one after another in every round."""
    found: dict[str, list[Figures]] = {}
    for _ in range(chosen.rounds):
        for place in places:
            for processes in chosen.processes:
                figures = run(url, place, processes, chosen.calls, chosen.in_flight, PLENTY)
                found.setdefault(f"{place.name}, {processes}", []).append(figures)
    return found


def rates(url: str, chosen: Namespace, places: Sequence[Place]) -> dict[str, list[Figures]]:
    """All rows of the second table, once."""
    found = {}
    for place in places:
        for rate in chosen.rates:
            calls = round(rate * chosen.seconds / 2)
            found[f"{place.name}, {rate:g} a second"] = [run(url, place, 2, calls, chosen.in_flight, rate)]
    return found


def report(found: dict[str, list[Figures]]) -> None:
    """Print medians over the rounds, and the range of the CPU."""
    heads = ["processes", "CPU µs/call", "ratio", "calls/s", "MB each", "broker µs", "server ms", "scripts", "commands"]
    rows = []
    for name, runs in found.items():
        ones = found.get(f"{name.rpartition(', ')[0]}, 1", runs)
        ratios = [one.cpu / single.cpu for one, single in zip(runs, ones, strict=False)]
        middle = {field.name: statistics.median(getattr(one, field.name) for one in runs) for field in fields(Figures)}
        rows.append(
            [
                name,
                spread([one.cpu for one in runs]),
                f"{statistics.median(ratios):.2f}",
                f"{middle['calls_per_second']:.0f}",
                f"{middle['resident_mb']:.0f}",
                *(f"{middle[key]:.1f}" for key in ("broker", "server", "scripts", "commands")),
                f"{middle['kilobytes']:.0f}",
                f"{middle['connections']:.0f}",
                f"{middle['script_us']:.0f}",
            ]
        )
    table([*heads, "kB", "connections", "µs/script"], rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    options.add_argument("--calls", type=int, default=8000, help="of each process in a round")
    options.add_argument("--in-flight", type=int, default=256, help="of each process")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--rates", type=float, nargs="+", default=[100.0, 1000.0, 4000.0])
    options.add_argument("--seconds", type=float, default=20.0, help="at each rate")
    options.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.processes, chosen.calls, chosen.in_flight, chosen.rounds = [1, 2], 500, 64, 1
        chosen.rates, chosen.seconds = [500.0], 1.0
    places = PLACES if fleet.has_redis() else [place for place in PLACES if not place.in_redis]
    with server("asyncopt.testing.bare") as url:
        found = {"engines": engines(url, chosen, places)}
        print(f"{chosen.calls} calls a process, {chosen.in_flight} in flight each, {chosen.rounds} rounds")
        report(found["engines"])
        found["rates"] = rates(url, chosen, [place for place in places if place.shared])
        print(f"\ntwo processes at a rate that is kept, {chosen.seconds:g} s")
        report(found["rates"])
    settings = {name: getattr(chosen, name) for name in ("calls", "in_flight", "rounds", "seconds")}
    figures = {
        part: {name: [asdict(one) for one in runs] for name, runs in rows.items()} for part, rows in found.items()
    }
    write_json(chosen.json, "scale", settings, figures)


if __name__ == "__main__":
    main()
