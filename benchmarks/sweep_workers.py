"""What `asyncopt sweep --workers` costs: the same sweep by one process and by several, and whether its results differ.

Two bundled tasks and some seeds against the simulated API in another process, with the cache in SQLite, as a user would
start them. CPU is that of the command and of all that it has started, from the first import to the last file; the
simulated API's own is not in it, though it takes the same cores. `calls` are by the server's ledger. `results` is a
digest of what the studies found, without seconds and without who of them paid for a question that two have asked.
Results and calls have to be the same in every row of workers, or the exit code is 1. `apart` are commands of one
worker, each with its part of the seeds, a cache of its own and nothing to do with the others: what busy cores alone
make dearer, and what a command takes to start.

    python benchmarks/sweep_workers.py --workers 1 2 4 --rounds 3
    python benchmarks/sweep_workers.py --with=--ray=local --workers 2 --rounds 1        # with the extra `ray`
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import fleet
from common import parser, server, spread, table, write_json

CONCURRENCY = 256
LATENCY = "lognormal:0.05:0.4"
SWEEP = """
tasks = ["antonym", "capital"]
seeds = {seeds}
[base.task]
limit = {limit}
[base.optimizer]
steps = {steps}
[base.models.scorer]
model = "m"
base_url = "{url}"
concurrency = {concurrency}
"""
# What a result says of when it came, and of who paid for what.
_VOLATILE = {"seconds", "calls", "cache_hits", "input_tokens", "output_tokens", "tokens", "usd", "search", "test"}


@dataclass(frozen=True)
class Figures:
    """One sweep; ``largest_mb`` is the peak of its largest process."""

    calls: int
    cpu: float  # seconds
    seconds: float
    largest_mb: float
    results: str


def measure(chosen: Namespace, more: list[str], parts: int = 1) -> Figures:
    """One sweep with these options, or so many with a part of the seeds each at once, against a server of its own."""
    with ExitStack() as stack:
        url = stack.enter_context(server("asyncopt", "simulate", "--latency", LATENCY))
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(parts)]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        started = [
            _start(folder, chosen, list(range(chosen.seeds))[part::parts], CONCURRENCY // parts, url, more)
            for part, folder in enumerate(folders)
        ]
        for process in started:
            _, errors = process.communicate()
            if process.returncode:
                raise SystemExit(f"the sweep ended with {process.returncode}: {errors}")
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        calls = fleet.ledger(url)["requests"]
        read = (json.loads((folder / "kept" / "sweep-result.json").read_bytes()) for folder in folders)
        found = sorted(json.dumps(stable(one), sort_keys=True) for part in read for one in part["studies"])
    return Figures(
        calls=calls,
        cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        seconds=seconds,
        largest_mb=after.ru_maxrss / 1000,
        results=blake2b("".join(found).encode(), digest_size=4).hexdigest(),
    )


def _start(
    folder: Path, chosen: Namespace, seeds: list[int], concurrency: int, url: str, more: list[str]
) -> subprocess.Popen[str]:
    text = SWEEP.format(seeds=seeds, limit=chosen.limit, steps=chosen.steps, url=url, concurrency=concurrency)
    (folder / "sweep.toml").write_text(text, encoding="utf-8")
    environment = {**os.environ, "ASYNCOPT_CACHE_DIR": str(folder / "cache"), "OPENAI_API_KEY": "x"}
    words = [sys.executable, "-m", "asyncopt", "sweep", "sweep.toml", "--directory", "kept", "--json", *more]
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def stable(value: Any) -> Any:
    """A result without what may differ between two runs that found the same."""
    if isinstance(value, dict):
        return {name: stable(part) for name, part in value.items() if name not in _VOLATILE}
    return [stable(part) for part in value] if isinstance(value, list) else value


def row(name: str, runs: list[Figures], ones: list[Figures]) -> list[str]:
    """One line of the table; the ratio is to the first row, round by round."""
    each = [1e6 * run.cpu / run.calls for run in runs]
    first = [1e6 * run.cpu / run.calls for run in ones]
    ratio = statistics.median(one / other for one, other in zip(each, first, strict=True))
    return [
        name,
        str(runs[0].calls),
        spread([run.cpu for run in runs]),
        f"{statistics.median(each):.0f}",
        f"{ratio:.2f}",
        f"{statistics.median(run.seconds for run in runs):.1f}",
        f"{max(run.largest_mb for run in runs):.0f}",
        runs[0].results,
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options.add_argument("--seeds", type=int, default=4, help="of each of the two tasks")
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--limit", type=int, default=50, help="examples of a task")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument(
        "--with", dest="more", action="append", default=[], help="another option for all but one worker"
    )
    options.add_argument("--quick", action="store_true", help="a small sweep, once, to see that it works")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.seeds, chosen.steps, chosen.limit, chosen.rounds = 2, 2, 10, 1
    found: dict[str, list[Figures]] = {}
    apart: dict[str, list[Figures]] = {}
    for _ in range(chosen.rounds):
        for number in chosen.workers:
            more = ["--workers", str(number), *(chosen.more if number > 1 else [])]
            found.setdefault(" ".join(more), []).append(measure(chosen, more))
        for number in chosen.workers:
            if 1 < number <= chosen.seeds:
                apart.setdefault(f"{number} apart", []).append(measure(chosen, ["--workers", "1"], number))
    heads = ["sweep", "calls", "CPU s", "CPU µs/call", "ratio", "seconds", "MB, largest", "results"]
    first = next(iter(found.values()))
    table(heads, [row(name, runs, first) for name, runs in (found | apart).items()])
    settings = {name: getattr(chosen, name) for name in ("seeds", "steps", "limit", "rounds")}
    figures = {name: [asdict(run) for run in runs] for name, runs in (found | apart).items()}
    write_json(chosen.json, "sweep_workers", settings, figures)
    everything = [run for runs in found.values() for run in runs]
    if len({(run.results, run.calls) for run in everything}) > 1:
        raise SystemExit("the results differ, or the number of calls")


if __name__ == "__main__":
    main()
