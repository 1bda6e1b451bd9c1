"""What slow calls cost an OPRO run, and what gets it back: barriers, lag, quorum, hedging, racing; and the rivals.

One run has fixed N, K and steps, so a fixed number of calls, and the same candidates as the paper's order. Latency is
log-normal with a 1 % tail that takes ten times as long. The arms run on a virtual clock against the simulated API in
their own loop: exact, and the latencies of a seed are the same for every arm, in the order in which calls arrive.
Features on: priorities, single flight, the retry loop, deadlines, a request meter set too high to wait (without a rate
the engine would begin with a few calls); no cache, no journal. So the cap on calls in flight is the only limit.

`work` is the time in which the calls of the barrier arm would fit into the cap without a gap; no order of them beats
the slowest call either, and the larger of the two is the bound. `attained` is an arm's speed-up over barriers as a
share of the attainable one (barrier time over bound). `own work` is the same with the arm's own calls in place of the
barrier arm's: an arm that stops candidates or meets more twins has fewer; `calls/s` compares what was done.

With `--real` the server is a process of its own, and beside the engine run the rivals that are installed, each alone,
with the same cap and, in a round, the same latencies: promptolution's OPRO with the same N, K and steps, so with as
many calls; DSPy's COPRO and GEPA with about as many. Every arm has one call before its clock starts.

    python benchmarks/stragglers.py --sigma 1.0 --cap 256
    python benchmarks/stragglers.py --real --sigma 1.0
"""

from __future__ import annotations

import asyncio
import os
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from statistics import median
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import orjson
import rivals
from common import parser, pin, server, spread, table, write_json
from paper import paper_order, task_of
from rival_studies import STUDIES, Size

from asyncopt import OPRO, Engine, Model, Quota, Study, Task
from asyncopt.loops import loop_factory
from asyncopt.testing import AnswerModel, LogNormal, SimulatedAPI, items_of, run_virtual

TAIL_SHARE, TAIL_FACTOR = 0.01, 10.0
LAGS = (4, 8, 16, 32, 64, 128)
RIVAL = "promptolution, OPRO"
UNLIMITED = 1e9  # requests a minute


@dataclass(frozen=True)
class Arm:
    """A way to run the search; ``options`` are OPRO's, None stands for the paper's order."""

    name: str
    options: Mapping[str, Any] | None = field(default_factory=dict)
    hedge: float = 0.0


BARRIERS = Arm("barriers", None)
ARMS = (
    BARRIERS,
    Arm("lag 0 (default)"),
    *(Arm(f"lag {lag}", {"lag": lag}) for lag in LAGS),
    Arm("quorum 0.9", {"quorum": 0.9}),
    Arm("hedging 2 %", hedge=0.02),
    Arm("racing 0.05", {"racing": 0.05}),
    Arm("lag 64, quorum 0.9", {"lag": 64, "quorum": 0.9}),
    Arm("lag 64, hedging 2 %", {"lag": 64}, hedge=0.02),
)
REAL = (BARRIERS, Arm("lag 0 (default)"), Arm("lag 8", {"lag": 8}), Arm("lag 32", {"lag": 32}))


@dataclass(frozen=True)
class Figures:
    """What one run took. Times in seconds; ``mean`` and ``peak`` count the calls in flight at the server."""

    seconds: float
    calls: int
    mean: float
    peak: int
    work: float
    slowest: float

    @property
    def bound(self) -> float:
        return max(self.work, self.slowest)

    @property
    def rate(self) -> float:
        return self.calls / self.seconds


def figures_of(spans: Sequence[tuple[float, float]], seconds: float, cap: int) -> Figures:
    """The figures of a run from the arrivals and ends in its server's ledger."""
    lengths = [end - begin for begin, end in spans]
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    level = peak = 0
    for _, change in edges:
        level += change
        peak = max(peak, level)
    return Figures(seconds, len(spans), sum(lengths) / seconds, peak, sum(lengths) / cap, max(lengths))


async def search(model: Model, task: Task, arm: Arm, steps: int, samples: int, seed: int) -> None:
    """One search from its first call to its last."""
    if arm.options is None:
        await paper_order(model, task, steps, samples, seed, lambda _: None)
        return
    optimizer = OPRO(steps=steps, samples_per_step=samples, **arm.options)
    await Study(task=task, optimizer=optimizer, scorer=model, proposer=model, seed=seed).run()


# -- on a virtual clock --------------------------------------------------------------------------------------------


def simulated(arm: Arm, chosen: Namespace, sigma: float, cap: int, seed: int) -> Figures:
    """One run against the simulated API in the same loop."""
    task = task_of(chosen.examples)
    api = SimulatedAPI(
        seed=seed,
        latency=LogNormal(chosen.median, sigma, TAIL_SHARE, TAIL_FACTOR),
        answers=AnswerModel(seed, items_of([task])),
        keep_prompts=False,
    )

    async def main() -> float:
        async with Engine(grace=0.0) as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=Quota(UNLIMITED, concurrency=cap), hedge=arm.hedge)
            await search(model, task, arm, chosen.steps, chosen.samples, seed)
            return asyncio.get_running_loop().time()

    seconds = run_virtual(main)
    spans = [(entry.arrived, entry.finished) for entry in api.ledger.entries if entry.finished is not None]
    return figures_of(spans, seconds, cap)


def compare(chosen: Namespace, sigma: float, cap: int) -> dict[str, Any]:
    """Run all arms over all seeds, and print their table."""
    seeds = range(chosen.seeds)
    with ProcessPoolExecutor() as pool:  # virtual seconds do not mind who else is on the machine
        waiting = {arm.name: [pool.submit(simulated, arm, chosen, sigma, cap, seed) for seed in seeds] for arm in ARMS}
        runs = {name: [future.result() for future in futures] for name, futures in waiting.items()}
    base = runs[BARRIERS.name]
    bounds = f"work {spread([run.work for run in base])} s, slowest call {spread([run.slowest for run in base])} s"
    print(f"\nsigma {sigma}, cap {cap}: {bounds}")
    heads = ["arm", "s: median (range)", "faster", "calls/s", "attained", "own work", "calls", "mean in flight", "peak"]
    table(heads, [_row(name, found, base) for name, found in runs.items()])
    return {name: [asdict(run) for run in found] for name, found in runs.items()}


def _row(name: str, found: Sequence[Figures], base: Sequence[Figures]) -> list[str]:
    """One line of the table: medians over the seeds, the ratios seed by seed."""
    pairs = list(zip(found, base, strict=True))
    return [
        name,
        spread([run.seconds for run in found]),
        f"{median(old.seconds / new.seconds for new, old in pairs):.2f}x",
        f"{median(new.rate / old.rate for new, old in pairs):.2f}x",
        f"{median(100 * old.bound / new.seconds for new, old in pairs):.0f} %",
        f"{median(100 * run.work / run.seconds for run in found):.0f} %",
        f"{median(run.calls for run in found):.0f}",
        f"{median(run.mean for run in found):.0f}",
        f"{median(run.peak for run in found):.0f}",
    ]


# -- against a server in another process ---------------------------------------------------------------------------


def ours(arm: Arm, chosen: Namespace, cap: int, url: str) -> float:
    """Seconds of one run of the engine against a server."""

    async def main() -> float:
        async with Engine(grace=0.0) as engine:
            model = engine.model(
                "m", base_url=url, api_key="x", quota=Quota(UNLIMITED, concurrency=cap), hedge=arm.hedge
            )
            await model.generate("warm up")
            began = time.perf_counter()
            await search(model, task_of(chosen.examples), arm, chosen.steps, chosen.samples, 0)
            return time.perf_counter() - began

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main())


def against_server(run: Callable[[str], float], chosen: Namespace, sigma: float, cap: int, seed: int) -> Figures:
    """One arm against a server of its own, alone; the call before its clock started is not counted."""
    latency = f"lognormal:{chosen.median}:{sigma}:{TAIL_SHARE}:{TAIL_FACTOR}"
    with server("asyncopt", "simulate", "--latency", latency, "--seed", str(seed)) as url:
        seconds = run(url)
        with urlopen(f"http://{urlsplit(url).netloc}/ledger") as response:
            entries = orjson.loads(response.read())["entries"]
    spans = [(entry["arrived"], entry["finished"]) for entry in entries[1:] if entry["finished"] is not None]
    return figures_of(spans, seconds, cap)


def real(chosen: Namespace, sigma: float, cap: int) -> dict[str, Any]:
    """Run the engine and the rivals round by round, and print their table."""
    size = Size(chosen.examples, chosen.samples, chosen.steps, cap)
    arms: dict[str, Callable[[str], float]] = {f"asyncopt, {arm.name}": partial(ours, arm, chosen, cap) for arm in REAL}
    for name, (module, _) in STUDIES.items():
        if rivals.installed(name, module):
            arms[name] = partial(rivals.study, name, size)
    arms = {name: run for name, run in arms.items() if any(part in name for part in chosen.only)}
    runs: dict[str, list[Figures]] = {name: [] for name in arms}
    for seed in range(chosen.rounds):
        for name, run in arms.items():
            runs[name].append(against_server(run, chosen, sigma, cap, seed))
    print(f"\nreal sockets, sigma {sigma}, cap {cap}, median {chosen.median} s, {chosen.steps} steps")
    heads = ["arm", "s: median (range)", "calls", "calls/s", "mean in flight", "peak", f"than {RIVAL}"]
    table(heads, [_real_row(name, found, runs.get(RIVAL)) for name, found in runs.items()])
    return {name: [asdict(run) for run in found] for name, found in runs.items()}


def _real_row(name: str, found: Sequence[Figures], rival: Sequence[Figures] | None) -> list[str]:
    """One line of the table; its last cell is how much faster this arm is than the rival with as many calls."""
    faster = [other.seconds / run.seconds for other, run in zip(rival or (), found, strict=bool(rival))]
    return [
        name,
        spread([run.seconds for run in found]),
        f"{median(run.calls for run in found):.0f}",
        f"{median(run.rate for run in found):.1f}",
        f"{median(run.mean for run in found):.1f}",
        f"{median(run.peak for run in found):.0f}",
        f"{median(faster):.2f}x" if faster else "",
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--examples", type=int, default=50, help="N")
    options.add_argument("--samples", type=int, default=8, help="K")
    options.add_argument("--steps", type=int, default=None, help="default: 200, the paper's; 6 with --real")
    options.add_argument("--median", type=float, default=None, help="seconds; default: 0.5, or 0.2 with --real")
    options.add_argument("--sigma", type=float, nargs="+", default=[0.4, 1.0])
    options.add_argument("--cap", type=int, nargs="+", default=None, help="default: 32 and 256, or 32 with --real")
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--rounds", type=int, default=7, help="of --real")
    options.add_argument("--real", action="store_true", help="over sockets, and the rivals")
    options.add_argument("--only", nargs="+", default=[""], help="of --real: arms whose name has one of these in it")
    options.add_argument("--quick", action="store_true", help="two small steps of one seed, to see that it works")
    chosen = options.parse_args()
    chosen.steps = chosen.steps or (2 if chosen.quick else 6 if chosen.real else 200)
    chosen.median = chosen.median or (0.2 if chosen.real else 0.5)
    chosen.cap = chosen.cap or ([32] if chosen.real else [32, 256])
    if chosen.quick:
        chosen.examples, chosen.median, chosen.seeds, chosen.rounds, chosen.sigma = 20, 0.05, 1, 1, [1.0]
    if chosen.real:
        pin(os.getpid(), last=False)
    figures = {}
    for sigma, cap in product(chosen.sigma, chosen.cap):
        figures[f"sigma {sigma}, cap {cap}"] = (real if chosen.real else compare)(chosen, sigma, cap)
    names = ("examples", "samples", "steps", "median", "seeds", "rounds", "real")
    write_json(chosen.json, "stragglers", {name: getattr(chosen, name) for name in names}, figures)


if __name__ == "__main__":
    main()
