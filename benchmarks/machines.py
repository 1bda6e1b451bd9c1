"""What 1, 10 and 100 machines carry, from what was measured on one: arithmetic, by what `docs/scale.md` says.

Reads what `scale.py --json` and `sweep_workers.py --json` have written. One worker on each core, which is busy for
`--busy` of the time, as the Redis server's core may be. What a call costs is that of whole studies (`sweep`), with the
Redis cache on top where it is shared, or of calls alone (`calls`), as behind a proxy. A machine has as many connections
to one address as there are ports. The permits of a quota are granted 20 ms' worth at a time, whoever asks: 50 times a
second for requests and as often for tokens, and every worker gives two signs of life a second. The smallest bound is
the one that holds; a provider's own quota is none of these, and mostly smaller than all.

    python benchmarks/machines.py scale.json sweep.json --cores 16 --latency 2
"""

from __future__ import annotations

import json
import statistics
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import parser, table

GRANTS = 2 * 50.0  # a second: requests and tokens
SIGNS = 2.0  # of life a second, of every worker
IN_FLIGHT_KIB = 18.0  # benchmarks/memory.py
PORTS = 28_232  # 32768 to 60999, which Linux gives out


@dataclass(frozen=True)
class Costs:
    """What was measured: µs of a core, MB and bytes."""

    call: float  # µs, the engine alone with a shared quota
    cached: float  # µs more, with answers in Redis
    study: float  # µs, a whole study's call
    worker_mb: float
    script: float  # µs of Redis' core, one script
    question: float  # µs of Redis' core, one question claimed, looked up and stored
    answer: float  # bytes of Redis' memory


@dataclass(frozen=True)
class Load:
    """So many workers at the rate that they carry, and which bound that is."""

    workers: int
    calls: float  # a second
    bound: str
    in_flight: float
    memory_gb: float  # of one machine
    redis: float  # share of its core


def costs_of(scale: dict[str, Any], sweep: dict[str, Any]) -> Costs:
    """The medians in the two files, of two processes."""
    engines, rates = scale["figures"]["engines"], scale["figures"]["rates"]

    def middle(runs: list[dict[str, float]], name: str) -> float:
        return statistics.median(run[name] for run in runs)

    # At a low rate Redis does little but grant: there a script is seen alone, with all that surrounds it.
    slow = next(runs for name, runs in rates.items() if name.startswith("redis, ") and "cache" not in name)
    sweeps = next(runs for name, runs in sweep["figures"].items() if name != "--workers 1")
    return Costs(
        call=middle(engines["redis, 2"], "cpu"),
        cached=middle(engines["redis, cache, 2"], "cpu") - middle(engines["redis, 2"], "cpu"),
        study=statistics.median(1e6 * run["cpu"] / run["calls"] for run in sweeps),
        worker_mb=middle(engines["redis, cache, 2"], "resident_mb"),
        script=1000 * middle(slow, "server") / middle(slow, "scripts"),
        question=middle(engines["redis, cache, 2"], "server") - middle(engines["redis, 2"], "server"),
        answer=middle(engines["redis, cache, 2"], "stored"),
    )


def carried(costs: Costs, chosen: Namespace, machines: int, per_call: float, *, cached: bool) -> Load:
    """What so many machines carry when a call costs a worker ``per_call`` µs."""
    workers = machines * chosen.cores
    fixed = (GRANTS + SIGNS * workers) * costs.script
    left = 1e6 * chosen.busy - fixed
    bounds = {
        "processors": 1e6 * chosen.busy * workers / per_call,
        "connections": machines * PORTS / chosen.latency,
    }
    if cached:
        bounds["Redis"] = left / costs.question
    bound = min(bounds, key=lambda name: bounds[name])
    calls = max(bounds[bound], 0.0)
    in_flight = calls * chosen.latency
    return Load(
        workers=workers,
        calls=calls,
        bound=bound,
        in_flight=in_flight,
        memory_gb=chosen.cores * costs.worker_mb / 1000 + in_flight / machines * IN_FLIGHT_KIB * 1024 / 1e9,
        redis=1e-6 * (fixed + (calls * costs.question if cached else 0.0)),
    )


def rows(costs: Costs, chosen: Namespace) -> list[list[str]]:
    """The lines of the table."""
    kinds = {
        "sweep, quota shared": (costs.study, False),
        "sweep, quota and cache shared": (costs.study + costs.cached, True),
        "calls, quota shared": (costs.call, False),
        "calls, quota and cache shared": (costs.call + costs.cached, True),
    }
    found = []
    for name, (per_call, cached) in kinds.items():
        for machines in chosen.machines:
            load = carried(costs, chosen, machines, per_call, cached=cached)
            found.append(
                [
                    name,
                    str(machines),
                    str(load.workers),
                    f"{load.calls:,.0f}",
                    load.bound,
                    f"{load.in_flight:,.0f}",
                    f"{load.memory_gb:.1f}",
                    f"{100 * load.redis:.0f} %",
                ]
            )
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("scale", type=Path, help="what scale.py --json has written")
    options.add_argument("sweep", type=Path, help="what sweep_workers.py --json has written")
    options.add_argument("--machines", type=int, nargs="+", default=[1, 10, 100])
    options.add_argument("--cores", type=int, default=16, help="of a machine")
    options.add_argument("--latency", type=float, default=2.0, help="seconds of a call")
    options.add_argument("--busy", type=float, default=0.7, help="share of a core that is used")
    chosen = options.parse_args()
    costs = costs_of(json.loads(chosen.scale.read_bytes()), json.loads(chosen.sweep.read_bytes()))
    names = {
        "call": "µs a call, quota shared",
        "cached": "µs more with the cache in Redis",
        "study": "µs a call of a whole sweep",
        "worker_mb": "MB a worker",
        "script": "µs of Redis a script",
        "question": "µs of Redis a question",
        "answer": "bytes of Redis an answer",
    }
    table(["measured", ""], [[text, f"{getattr(costs, name):.0f}"] for name, text in names.items()])
    print(f"\n{chosen.cores} cores a machine, {100 * chosen.busy:.0f} % busy; a call takes {chosen.latency:g} s")
    heads = ["work", "machines", "workers", "calls/s", "bound by", "in flight", "GB a machine", "Redis' core"]
    table(heads, rows(costs, chosen))


if __name__ == "__main__":
    main()
