"""Racing: calls saved and candidates stopped wrongly, over simulated studies; and what a quorum's score is off by.

A study climbs a hill: 25 steps of 8 candidates on n examples, each step against the best score so far, the error of 5 %
divided by 200 candidates. An answer is right if a uniform number lies below the candidate's true accuracy; for half of
the (candidate, example) pairs the number is the example's own, so that what is hard for one is hard for others
(as in asyncopt/testing/answers.py). True accuracies, kept within [0.05, 0.95], are normal with the stated spread
`around` the incumbent's true accuracy, one spread `below` it, or about 0.6 throughout (`fixed`). Of the nulls, `equal`
has the incumbent's true accuracy, and `tied` exactly the incumbent's score on other examples: there each stop is wrong.

A stop is wrong if the score on all n examples would have reached the floor. Regret is the best true accuracy tried less
that of the candidate chosen. `not looked at` is the share of examples behind the stops; of those a few were in flight
by then, and `calls saved` takes off the most that can be, AHEAD a candidate. The last table measures what they are,
with the real `evaluate` in virtual time; the rest is vectorised, with a test that it decides as `asyncopt.racing` does.

    python benchmarks/racing.py --studies 2000
"""

from __future__ import annotations

import asyncio
import importlib
import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from common import parser, table, write_json

from asyncopt import Completion, Engine, Example, Quota, Task, evaluate
from asyncopt.endpoints.protocol import Answer
from asyncopt.evaluation import AHEAD
from asyncopt.racing import SHARES, STAKES, Floor, alpha_of
from asyncopt.stats import wilson_interval
from asyncopt.testing import run_virtual
from asyncopt.testing.chance import fraction, normal
from asyncopt.values import Capabilities, Request

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Random: TypeAlias = np.random.Generator

STEPS, SAMPLES, START = 25, 8, 0.6
ERROR = 0.05
ALPHA = alpha_of(ERROR, STEPS * SAMPLES)
CHUNK = 125  # studies at a time, so that the arrays stay in the processor's cache
LATENCY_SIGMA = 1.0


def stopping_times(scores: Numbers, floors: Numbers, alpha: float) -> Numbers:
    """After how many examples each row's candidate is stopped, n if it is not: :class:`asyncopt.racing.Bet`, in rows.

    ``scores`` and ``floors`` are (rows, n), in the order in which they are looked at; their sums must be exact in
    floating point, as those of zeros and ones are. The operations and their order are those of ``Bet``.
    """
    rows, n = scores.shape
    stops, alive = np.full(rows, n), np.arange(rows)
    known = floors.sum(axis=1, dtype=float)
    missing = known.copy()
    wealth = np.ones((len(SHARES) * len(STAKES), rows))
    for t, left in enumerate(range(n, 1, -1)):
        score, floor = scores[alive, t].astype(float), floors[alive, t].astype(float)
        needed, mean = missing / left, known / left
        total = np.zeros(len(alive))
        for i, share in enumerate(SHARES):
            most = np.maximum(1 - needed + share * mean, 1 / n)
            loss = ((score - needed) - share * (floor - mean)) / most
            for j, stake in enumerate(STAKES, i * len(STAKES)):
                wealth[j] *= 1 - stake * loss
                total += wealth[j]
        known -= floor
        missing -= score
        out = (missing > left - 1 + 1e-9) | (total / len(wealth) * alpha >= 1)
        if out.any():
            stops[alive[out]] = t + 1
            stays = ~out
            alive, known, missing, wealth = alive[stays], known[stays], missing[stays], wealth[:, stays]
    return stops


@dataclass(frozen=True)
class Setting:
    """One row of the first table."""

    kind: str
    n: int
    spread: float = 0.0

    def accuracies(self, incumbent: Numbers, z: Numbers) -> Numbers:
        """The candidates' true accuracies, (studies, SAMPLES), given those of the incumbents."""
        centre = incumbent[:, None] - (self.spread if self.kind == "below" else 0.0)
        if self.kind == "fixed":
            centre = np.full_like(centre, START)
        accuracies: Numbers = np.clip(centre + self.spread * z, 0.05, 0.95)
        return accuracies


SETTINGS = (
    *(Setting("around", n, spread) for n in (50, 200, 500) for spread in (0.05, 0.1, 0.15)),
    *(Setting("below", 200, spread) for spread in (0.05, 0.1, 0.15)),
    Setting("fixed", 200, 0.1),
    *(Setting(kind, n) for kind in ("equal", "tied") for n in (50, 200)),
)


@dataclass
class Arm:
    """Where studies stand: the incumbent's true accuracy and its answers, and the best true accuracy tried."""

    accuracy: Numbers
    right: Numbers
    tried: Numbers

    @classmethod
    def begin(cls, luck: Numbers) -> Arm:
        start = np.full(len(luck), START)
        return cls(start, luck < START, start.copy())

    def step(self, accuracies: Numbers, right: Numbers, eligible: Numbers) -> None:
        """Take the best of the eligible candidates where it beats the incumbent, the first of equals."""
        rows = np.arange(len(right))
        score = np.where(eligible, right.sum(axis=2), -1)
        winner = score.argmax(axis=1)
        better = score[rows, winner] > self.right.sum(axis=1)
        self.accuracy = np.where(better, accuracies[rows, winner], self.accuracy)
        self.right = np.where(better[:, None], right[rows, winner], self.right)
        self.tried = np.maximum(self.tried, accuracies.max(axis=1))


@dataclass
class Tally:
    """What studies of one setting came to, one value a study."""

    examples: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    wrong: list[bool] = field(default_factory=list)
    better: list[bool] = field(default_factory=list)
    regret: list[float] = field(default_factory=list)
    regret_plain: list[float] = field(default_factory=list)

    def figures(self, n: int) -> dict[str, Any]:
        """The row's figures: counts and means over studies."""
        studies = len(self.wrong)
        whole = studies * STEPS * SAMPLES * n
        return {
            "studies": studies,
            "wrong": sum(self.wrong),
            "better": sum(self.better) / studies,
            "unseen": 1 - sum(self.examples) / whole,
            "saved": 1 - sum(self.calls) / whole,
            "regret": sum(self.regret) / studies,
            "regret_plain": sum(self.regret_plain) / studies,
        }


def climb(setting: Setting, studies: int, rng: Random, tally: Tally) -> None:
    """Run the studies with and without racing, on the same luck and the same proposals."""
    shape = (studies, SAMPLES, setting.n)
    of_example = rng.random((studies, setting.n), dtype=np.float32)
    racing, plain = Arm.begin(of_example), Arm.begin(of_example)
    examples, calls = np.zeros(studies, int), np.zeros(studies, int)
    wrong, better = np.zeros(studies, bool), np.zeros(studies, bool)
    apart = np.zeros(studies, bool)  # where racing has led elsewhere
    for _ in range(STEPS):
        z = rng.standard_normal((studies, SAMPLES))
        shared = rng.integers(0, 2, shape, dtype=np.uint8).astype(bool)
        luck = np.where(shared, of_example[:, None, :], rng.random(shape, dtype=np.float32))
        accuracies = setting.accuracies(racing.accuracy, z)
        right = luck < accuracies[:, :, None]
        if setting.kind == "tied":
            right = rng.permuted(np.repeat(racing.right[:, None, :], SAMPLES, axis=1), axis=2)
        stops = race(right, racing.right, rng)
        stopped = stops < setting.n
        reached = right.sum(axis=2) >= racing.right.sum(axis=1)[:, None]
        examples += stops.sum(axis=1)
        calls += np.minimum(stops + AHEAD, setting.n).sum(axis=1)
        wrong |= (stopped & reached).any(axis=1)
        better |= (stopped & (accuracies > racing.accuracy[:, None])).any(axis=1)
        if apart.any():  # elsewhere the two are the same by construction
            accuracies_plain = setting.accuracies(plain.accuracy, z)
            right_plain = np.where(apart[:, None, None], luck < accuracies_plain[:, :, None], right)
        else:
            accuracies_plain, right_plain = accuracies, right
        plain.step(accuracies_plain, right_plain, np.ones_like(stopped))
        racing.step(accuracies, right, ~stopped)
        apart |= (racing.right != plain.right).any(axis=1) | (racing.accuracy != plain.accuracy)
    tally.examples += examples.tolist()
    tally.calls += calls.tolist()
    tally.wrong += wrong.tolist()
    tally.better += better.tolist()
    tally.regret += (racing.tried - racing.accuracy).tolist()
    tally.regret_plain += (plain.tried - plain.accuracy).tolist()


def race(right: Numbers, floor: Numbers, rng: Random) -> Numbers:
    """The stopping times, (studies, SAMPLES), each candidate in a random order of its own."""
    studies, samples, n = right.shape
    pairs = (right + 2 * floor[:, None, :].astype(np.uint8)).reshape(studies * samples, n)
    pairs = rng.permuted(pairs, axis=1)
    return stopping_times(pairs & 1, pairs >> 1, ALPHA).reshape(studies, samples)


def share(hits: int, n: int) -> str:
    low, high = wilson_interval(hits, n)
    return f"{100 * hits / n:.2f} ({100 * low:.2f}-{100 * high:.2f})"


def climbing(studies: int, seed: int) -> list[dict[str, Any]]:
    """The first table."""
    figures = []
    for number, setting in enumerate(SETTINGS):
        tally, rng = Tally(), np.random.default_rng([seed, number])
        count = studies if setting.n <= 200 else max(studies // 4, 1)  # those take long
        for begin in range(0, count, CHUNK):
            climb(setting, min(CHUNK, count - begin), rng, tally)
        figures.append({"kind": setting.kind, "n": setting.n, "spread": setting.spread, **tally.figures(setting.n)})
    print(f"\nracing, studies of {STEPS} x {SAMPLES} candidates, error {ERROR:.0%} a study")
    headers = ["candidates", "n", "spread", "studies", "with a wrong stop, % (95 %)", "a truly better one stopped"]
    rows = []
    for row in figures:
        wrong = share(row["wrong"], row["studies"])
        rows.append([str(row[name]) for name in ("kind", "n", "spread", "studies")])
        rows[-1] += [wrong, *(f"{row[name]:.1%}" for name in ("better", "unseen", "saved"))]
        rows[-1] += [f"{row[name]:.4f}" for name in ("regret", "regret_plain")]
    table([*headers, "not looked at", "calls saved", "regret", "without racing"], rows)
    return figures


def arrival(studies: int, seed: int) -> list[dict[str, Any]]:
    """Candidates with the incumbent's true accuracy, looked at in a drawn order, and in the order of arrival."""
    n, rows = 200, []
    figures: list[dict[str, Any]] = []
    for slow in ("none", "hard examples", "right answers", "wrong answers"):
        rng = np.random.default_rng([seed, 1000])
        wrong = {"drawn order": 0, "order of arrival": 0, "mean of the first": 0}
        for _ in range(studies):
            of_example = rng.random(n)
            floor = of_example < START
            luck = np.where(rng.random((STEPS * SAMPLES, n)) < 0.5, of_example, rng.random((STEPS * SAMPLES, n)))
            right = luck < START
            work = {"none": 0.0 * luck, "hard examples": of_example + 0 * luck, "right answers": 1.0 * right}
            delay = 2 * work.get(slow, 1.0 * ~right) + LATENCY_SIGMA * rng.standard_normal(luck.shape)
            came = np.take_along_axis(right + 2 * floor.astype(np.uint8), delay.argsort(axis=1), axis=1)
            drawn = rng.permuted(came, axis=1)
            reached = right.sum(axis=1) >= floor.sum()
            wrong["drawn order"] += bool((reached & (stopping_times(drawn & 1, drawn >> 1, ALPHA) < n)).any())
            wrong["order of arrival"] += bool((reached & (stopping_times(came & 1, came >> 1, ALPHA) < n)).any())
            wrong["mean of the first"] += bool((reached & below_the_mean(came & 1, float(floor.mean()))).any())
        figures.append({"slow": slow, "studies": studies, **wrong})
        rows.append([slow, *(share(count, studies) for count in wrong.values())])
    print(
        f"\n{studies} studies of candidates no worse than the incumbent, n = {n}: studies with a wrong stop, % (95 %)"
    )
    table(["slow are", *(f"by the {rule}" for rule in wrong)], rows)
    return figures


def below_the_mean(came: Numbers, floor: float) -> Numbers:
    """Whether the mean of what came first lies below the floor's mean by Hoeffding's bound, at any time."""
    seen = np.arange(1, came.shape[1])
    means = came.cumsum(axis=1)[:, :-1] / seen
    hits: Numbers = np.logical_or.reduce(means < floor - np.sqrt(math.log(1 / ALPHA) / (2 * seen)), axis=1)
    return hits


def quorums(pairs: int, seed: int) -> list[dict[str, Any]]:
    """The score on the share of examples that ended first, against the score on all, and rankings that change."""
    n, figures, rows = 200, [], []
    for slowness in (0.0, 1.0, 2.0):
        for quorum in (0.8, 0.9, 0.95):
            rng = np.random.default_rng([seed, 2000])
            first = math.ceil(quorum * n)
            offs, flips, ranked = [], 0, 0
            for _ in range(pairs):
                of_example = rng.random(n)
                accuracies = START + 0.05 * rng.standard_normal((2, 1))
                right = np.where(rng.random((2, n)) < 0.5, of_example, rng.random((2, n))) < accuracies
                delay = slowness * of_example + LATENCY_SIGMA * rng.standard_normal((2, n))
                early = np.take_along_axis(right, delay.argsort(axis=1), axis=1)[:, :first].mean(axis=1)
                full = right.mean(axis=1)
                offs += (early - full).tolist()
                ranked += bool(full[0] != full[1])
                flips += bool((early[0] - early[1]) * (full[0] - full[1]) < 0)
            figures.append(
                {"slowness": slowness, "quorum": quorum, "off": float(np.mean(offs)), "flips": flips / ranked}
            )
            rows.append([f"x{math.exp(slowness):.1f}", f"{quorum:g}", f"{100 * float(np.mean(offs)):+.2f}"])
            rows[-1] += [f"{100 * float(np.std(offs)):.2f}", f"{100 * flips / ranked:.1f}"]
    print(f"\nquorum, n = {n}, {pairs} pairs of candidates, spread 0.05")
    table(["hardest slower by", "quorum", "its score less the full one, points", "sd", "rankings changed %"], rows)
    return figures


class Answering:
    """Answers as the generator does, after log-normal seconds; a prompt is "accuracy of the candidate|example"."""

    identity, account, supports = "racing", "", Capabilities()

    def __init__(self) -> None:
        self.calls = 0

    async def send(self, model: str, request: Request) -> Answer:
        self.calls += 1
        prompt = request.prompt[-1].content
        candidate, example = prompt.split("\n")
        await asyncio.sleep(0.5 * math.exp(LATENCY_SIGMA * normal("latency", prompt)))
        luck = fraction("of", example) if fraction("shared", prompt) < 0.5 else fraction("own", prompt)
        return Completion("yes" if luck < float(candidate.split()[1]) else "no")

    async def aclose(self) -> None:
        """Nothing is open."""


async def step_of(ahead: int | None, number: int, n: int) -> tuple[int, float]:
    """Calls and seconds of one step of the real engine; without ``ahead`` there is no racing."""
    importlib.import_module("asyncopt.evaluation").AHEAD = 8 if ahead is None else ahead  # type: ignore[attr-defined]
    examples = tuple(Example(i, f"example {number}.{i}", "yes") for i in range(n))
    task, answering = Task("windows", "boolean", examples, ()), Answering()
    async with Engine() as engine:
        model = engine.model("m", endpoint=answering, quota=Quota(concurrency=256))
        incumbent = await evaluate(model, task, "the 0.75", examples)
        scores = {item.example: item.score for item in incumbent.items if item.score is not None}
        floor = None if ahead is None else Floor(scores, ALPHA, number)
        candidates = [f"c{k} {0.65 + 0.1 * normal('spread', number, k):.3f}" for k in range(SAMPLES)]
        calls, began = answering.calls, asyncio.get_running_loop().time()
        await asyncio.gather(*(evaluate(model, task, text, examples, floor=floor) for text in candidates))
        return answering.calls - calls, asyncio.get_running_loop().time() - began


def windows(steps: int) -> list[dict[str, Any]]:
    """What the calls in flight at the stop cost, and what a narrow window costs in time."""
    n, figures, rows = 200, [], []
    for ahead in (None, 2, 4, 8, 16, 32):
        found = [run_virtual(lambda ahead=ahead, k=k: step_of(ahead, k, n)) for k in range(steps)]  # type: ignore[misc]
        calls = sum(calls for calls, _ in found) / (steps * SAMPLES * n)
        seconds = sum(seconds for _, seconds in found) / steps
        figures.append({"ahead": ahead, "calls": calls, "seconds": seconds})
        rows.append(["no racing" if ahead is None else str(ahead), f"{100 * calls:.1f}", f"{seconds:.1f}"])
    print(f"\n{steps} steps of {SAMPLES} candidates, about 0.65 with spread 0.1 against 0.75, n = {n}, 256 in flight")
    table(["calls ahead", "calls %", "seconds a step"], rows)
    return figures


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--studies", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    fewer = chosen.studies // 10
    figures = {
        "climbing": climbing(chosen.studies, chosen.seed),
        "arrival": arrival(fewer // 2 or 1, chosen.seed),
        "quorum": quorums(chosen.studies, chosen.seed),
        "windows": windows(fewer // 40 or 1),
    }
    write_json(chosen.json, "racing", {"studies": chosen.studies, "seed": chosen.seed, "error": ERROR}, figures)


if __name__ == "__main__":
    main()
