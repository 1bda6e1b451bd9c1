"""Processes that ask the same questions through one cache: how many calls reach the server.

Every process asks all questions, in the same order and at the same time, of the simulated API over sockets. With the
quota and the cache shared, a question is claimed before it is asked; whoever comes second waits for the answer. `asked`
is the server's ledger, `twice` what it saw of questions that it had seen before. In the rows with `killed` one process
is a little ahead of the others, and gets SIGKILL when a third of the questions are answered: what it was asking then is
asked again, and what it had not written yet. The exit code is 1 if that is more than twice its calls in flight, if any
question is asked twice in another row, or if the processes have other answers.

    python benchmarks/shared_cache.py                       # two processes, 10,000 questions
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import fleet
from common import parser, server, table, write_json
from fleet import Job

LATENCY = "lognormal:0.2:0.4"
POLL = 0.05


@dataclass(frozen=True)
class Figures:
    """What one row gave; ``same`` is whether all processes have the same answers."""

    asked: int
    twice: int
    in_flight: int  # of the killed process, at most
    same: bool
    lost: int
    seconds: float
    cpu_us_per_question: float
    redis_ms_per_1000: float


def measure(chosen: Namespace, place: str, *, shared: bool, killed: bool) -> Figures:
    """All processes with the same questions."""
    with ExitStack() as stack:
        url = stack.enter_context(server("asyncopt", "simulate", "--latency", LATENCY))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(fleet.redis()) if place == "redis" else None
        at = f"unix:{folder / 'quota'}" if redis is None else redis.url
        cache = str(folder / "answers.sqlite") if redis is None else redis.url
        job = Job(url, 0, chosen.questions, None, chosen.concurrency, at if shared else None, cache if shared else None)
        started = stack.enter_context(fleet.workers([job] * chosen.processes))
        before = 0.0 if redis is None else redis.cpu()
        began = time.perf_counter()
        started[0].begin()
        if killed:
            _wait_for(url, 1)  # it has claimed what it asks
        for worker in started[1:]:
            worker.begin()
        if killed:
            _wait_for(url, chosen.questions // 3)
            started.pop(0).kill()
        reports = [worker.report() for worker in started]
        seconds = time.perf_counter() - began
        used = 0.0 if redis is None else redis.cpu() - before
        entries = fleet.ledger(url)["entries"]
    prompts = Counter(entry["prompt"] for entry in entries)
    return Figures(
        asked=len(entries),
        twice=len(entries) - len(prompts),
        in_flight=chosen.concurrency // chosen.processes if killed else 0,
        same=len({report.digest for report in reports}) == 1,
        lost=sum(report.lost for report in reports),
        seconds=seconds,
        cpu_us_per_question=1e6 * sum(report.cpu for report in reports) / (chosen.questions * len(reports)),
        redis_ms_per_1000=1e6 * used / chosen.questions,
    )


def _wait_for(url: str, answered: int) -> None:
    while fleet.ledger(url, since=answered)["answered"] < answered:
        time.sleep(POLL)


def row(name: str, figures: Figures) -> list[str]:
    """One line of the table."""
    return [
        name,
        str(figures.asked),
        str(figures.twice),
        "yes" if figures.same else "NO",
        str(figures.lost),
        f"{figures.seconds:.1f}",
        f"{figures.cpu_us_per_question:.0f}",
        f"{figures.redis_ms_per_1000:.0f}",
    ]


def wrong(name: str, figures: Figures, questions: int) -> list[str]:
    """What is not as it has to be."""
    found = []
    if not figures.same or figures.lost:
        found.append(f"{name}: the processes have other answers, or lost {figures.lost}")
    if figures.asked < questions or figures.twice > 2 * figures.in_flight:
        found.append(f"{name}: {figures.asked} calls, {figures.twice} of them for the second time")
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--questions", type=int, default=10_000)
    options.add_argument("--concurrency", type=int, default=256, help="calls in flight, of all processes together")
    options.add_argument("--quick", action="store_true", help="500 questions, to see that it works")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.questions = 500
    places = ["redis", "broker"] if fleet.has_redis() else ["broker"]
    found = {"nothing is shared": measure(chosen, "broker", shared=False, killed=False)}
    for place in places:
        name = "redis" if place == "redis" else "broker and SQLite"
        found[name] = measure(chosen, place, shared=True, killed=False)
        found[f"{name}: one is killed"] = measure(chosen, place, shared=True, killed=True)
    print(f"{chosen.processes} processes, {chosen.questions} questions")
    heads = ["shared by", "asked", "twice", "same answers", "lost", "seconds", "CPU µs/question", "Redis ms/1,000"]
    table(heads, [row(name, figures) for name, figures in found.items()])
    settings = {name: getattr(chosen, name) for name in ("processes", "questions", "concurrency")}
    write_json(chosen.json, "shared_cache", settings, {name: asdict(figures) for name, figures in found.items()})
    shared = {name: figures for name, figures in found.items() if name != "nothing is shared"}
    complaints = [text for name, figures in shared.items() for text in wrong(name, figures, chosen.questions)]
    if complaints:
        raise SystemExit("\n".join(complaints))


if __name__ == "__main__":
    main()
