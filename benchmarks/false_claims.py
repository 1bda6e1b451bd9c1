"""How often equal optimizers are called different, and how often different ones are found: verdicts by simulation.

`rules` compares ways to judge a table of seeds x held-out items, 2 arms. A grade is 1 if a normal number of the item,
one of the (optimizer, item) pair with sd `items`, one of the run with sd `seeds`, and one of its own add up to more
than a threshold, so that the mean score is the one stated. Columns are the share of tables where the two are called
different: by `asyncopt.stats.crossed_difference` (`ours`), one Student interval with Satterthwaite's degrees of
freedom, the same with seeds - 1 of them, Student over the seeds, Student over the items, and the unpaired z-test of
two shares. A higher mean is called better in all of them but ties. `power` is where the second is better by 3.5
standard errors.

`contests` runs the whole of `asyncopt.contest.contest` on such tables: any pair of 2 or 5 equal arms called better or
worse, by Holm. `studies` is end to end: OPRO under two names with other seeds on the simulated API in virtual time, a
new hidden truth each time; from one seed there is no verdict on optimizers, and the z-test shows why. `eval` scores
instructions of the same words in another order, which are worth the same.

    python benchmarks/false_claims.py --jobs 2
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import permutations, product
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from common import parser, table, write_json

from asyncopt import OPRO, Engine, Example, Model, Quota, Study, Task, evaluate
from asyncopt.assess import evaluate_instructions
from asyncopt.contest import Arm, ArmRun, Contest, contest
from asyncopt.result import Measured
from asyncopt.stats import wilson_interval
from asyncopt.testing import AnswerModel, Constant, SimulatedAPI, items_of, run_virtual

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Random: TypeAlias = np.random.Generator

LEVEL = 0.05
PARTS = ("rules", "contests", "studies", "eval")
LARGEST = 4_000_000  # grades at a time
RULES = ("ours", "Satterthwaite", "seeds - 1", "over seeds", "over items", "z-test")
Z = NormalDist()


def grades(
    rng: Random, shape: tuple[int, int, int, int], spread: tuple[float, float], score: float, gain: float
) -> Numbers:
    """Grades of (tables, arms, seeds, items), the last arm better by ``gain`` latent units."""
    tables, arms, seeds, items = shape
    of_seed, of_item = spread
    scale = (2 + of_seed**2 + of_item**2) ** 0.5
    latent = rng.standard_normal((tables, 1, 1, items), dtype=np.float32)
    latent = latent + np.float32(of_item) * rng.standard_normal((tables, arms, 1, items), dtype=np.float32)
    latent = latent + np.float32(of_seed) * rng.standard_normal((tables, arms, seeds, 1), dtype=np.float32)
    latent += rng.standard_normal(shape, dtype=np.float32)
    latent[:, -1] += gain
    right: Numbers = latent > -scale * Z.inv_cdf(score)
    return right


def called(right: Numbers) -> dict[str, Numbers]:
    """Which of the tables of two arms (tables, 2, seeds, items) each rule calls different; two seeds at least."""
    from scipy.stats import t

    first, second = right[:, 0].astype(float), right[:, 1].astype(float)
    table_ = second - first
    _, k, n = table_.shape
    rows, columns, mean = table_.mean(axis=2), table_.mean(axis=1), table_.mean(axis=(1, 2))
    seeds = n * ((rows - mean[:, None]) ** 2).sum(axis=1) / (k - 1)
    items = k * ((columns - mean[:, None]) ** 2).sum(axis=1) / (n - 1)
    rest = ((table_ - rows[:, :, None] - columns[:, None, :] + mean[:, None, None]) ** 2).sum(axis=(1, 2))
    rest /= (k - 1) * (n - 1)
    joined = np.maximum(seeds + items - rest, np.maximum(seeds, items))
    with np.errstate(all="ignore"):
        df = joined**2 / (seeds**2 / (k - 1) + items**2 / (n - 1) + rest**2 / ((k - 1) * (n - 1)))
    quantile = partial(t.ppf, 0.975)
    of_seeds, of_items = quantile(k - 1) ** 2 * seeds, quantile(n - 1) ** 2 * items
    of_rest = quantile((k - 1) * (n - 1)) ** 2 * rest
    pooled = (first.mean(axis=(1, 2)) + second.mean(axis=(1, 2))) / 2
    squares = {
        "ours": np.maximum(of_seeds + of_items - of_rest, np.maximum(of_seeds, of_items)),
        "Satterthwaite": quantile(np.nan_to_num(df, nan=1.0)) ** 2 * joined,
        "seeds - 1": quantile(k - 1) ** 2 * joined,
        "over seeds": of_seeds,
        "over items": of_items,
        "z-test": Z.inv_cdf(0.975) ** 2 * 2 * pooled * (1 - pooled),
    }
    return {rule: mean**2 > square / (k * n) + 1e-12 for rule, square in squares.items()}


def rules(comparisons: int, seed: int) -> list[dict[str, Any]]:
    """The first table."""
    figures = []
    scenes = product((2, 3, 5, 10), (20, 100, 400), ((0.0, 0.0), (0.2, 0.0), (0.0, 0.8), (0.2, 0.4), (0.4, 0.8)))
    for number, (k, n, spread) in enumerate(scenes):
        for score, power in ((0.5, False), (0.05, False), (0.97, False), (0.5, True)):
            rng = np.random.default_rng([seed, number, int(100 * score), power])
            error = (2 * spread[0] ** 2 / k + 2 * spread[1] ** 2 / n + 4 / (k * n)) ** 0.5
            counts, left = dict.fromkeys(RULES, 0), comparisons
            while left:
                some = min(left, max(LARGEST // (2 * k * n), 1))
                right = grades(rng, (some, 2, k, n), spread, score, 3.5 * error if power else 0.0)
                for rule, hits in called(right).items():
                    counts[rule] += int(hits.sum())
                left -= some
            about = {"seeds": k, "items": n, "sd_seeds": spread[0], "sd_items": spread[1], "score": score}
            figures.append({**about, "power": power, "comparisons": comparisons, "called": counts})
    for power in (False, True):
        _show_rules([row for row in figures if row["power"] is power], "power" if power else "false claims")
    return figures


def _show_rules(figures: Sequence[dict[str, Any]], title: str) -> None:
    """By number of seeds, the mean and the largest share over the scenes."""
    print(f"\n{title}, % of {figures[0]['comparisons']} tables: mean over the scenes (least to most)")
    rows = []
    for k in sorted({row["seeds"] for row in figures}):
        cells = []
        for rule in RULES:
            shares = [100 * row["called"][rule] / row["comparisons"] for row in figures if row["seeds"] == k]
            cells.append(f"{sum(shares) / len(shares):.1f} ({min(shares):.1f}-{max(shares):.1f})")
        rows.append([str(k), *cells])
    table(["seeds", *RULES], rows)


# -- whole contests ----------------------------------------------------------------------------------------------------


def claims(found: Contest, n: int) -> dict[str, bool]:
    """Whether any pair is called different: by the verdict, by a higher mean, and by an unpaired z-test of n grades."""
    return {
        "verdict": any(pair.verdict in ("better", "worse") for pair in found.pairs),
        "better": any(pair.verdict == "better" for pair in found.pairs),
        "higher mean": any(pair.difference for pair in found.pairs),
        "z-test": any(_z_test(found, pair.first, pair.second, n) for pair in found.pairs),
    }


def _z_test(found: Contest, first: str, second: str, n: int) -> bool:
    """The two shares of all grades, as if these were independent."""
    one, two = (arm.held_out for arm in found.arms if arm.name in (first, second))
    assert one is not None and two is not None  # noqa: PT018
    pooled = (one.mean + two.mean) / 2
    return bool(abs(one.mean - two.mean) > Z.inv_cdf(0.975) * (2 * pooled * (1 - pooled) / n) ** 0.5)


def arm_of(name: str, right: Numbers, held_out: Numbers) -> Arm:
    """The arm whose runs got these grades, (seeds, items), on the items that each holds out."""
    scores = [
        {int(item): float(row[item]) for item in np.flatnonzero(held)}
        for row, held in zip(right, held_out, strict=True)
    ]
    runs = [
        ArmRun(seed, held_out=Measured.of(sum(row.values()), len(row)), scores=row) for seed, row in enumerate(scores)
    ]
    return Arm(name, runs)


def one_contest(about: tuple[int, int], number: int) -> dict[str, bool]:
    """A contest of equal arms, its scene drawn by its number."""
    arms, seed = about
    rng = np.random.default_rng([seed, 10, arms, number])
    k, n = int(rng.choice((1, 2, 3, 5, 10))), int(rng.choice((20, 50, 100, 200, 500)))
    # One seed is about two prompts: what divides those of one seed is no luck.
    spread = (0.0, 0.0) if k == 1 else (float(rng.choice((0.0, 0.1, 0.2, 0.4))), float(rng.choice((0.0, 0.4, 0.8))))
    score = float(rng.choice((0.05, 0.3, 0.5, 0.8, 0.97)))
    (right,) = grades(rng, (1, arms, k, n), spread, score, 0.0)
    # Splits that depend on the seed hold out a share of the items each, the same for all arms.
    held_out = rng.permuted(np.tile(np.arange(n) < n * rng.choice((0.5, 0.8, 1.0)), (k, 1)), axis=1)
    found = contest([arm_of(f"arm {place}", rows, held_out) for place, rows in enumerate(right)])
    return claims(found, int(held_out.sum()))


# -- end to end --------------------------------------------------------------------------------------------------------


def sums(train: int, test: int) -> Task:
    examples = [Example(i, f"{i} + {i * i}", str(i + i * i)) for i in range(train + test)]
    return Task("sums", "number", tuple(examples[:train]), tuple(examples[train:]), initial=("Solve the problem.",))


def one_comparison(about: tuple[int, int, int], number: int) -> dict[str, bool]:
    """The same optimizer under two names, with other seeds; the truth is new with every number."""
    seeds, steps, items = about
    task = sums(12, items)
    api = SimulatedAPI(latency=Constant(0.1), answers=AnswerModel(number, items_of([task])), keep_prompts=False)

    async def main() -> Contest:
        async with Engine(grace=0.0) as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=Quota(concurrency=64))
            runs = [await searched(model, task, steps, 1000 * number + place) for place in range(2 * seeds)]
        return contest([Arm("one", runs[:seeds]), Arm("two", runs[seeds:])])

    return claims(run_virtual(main), seeds * items)


async def searched(model: Model, task: Task, steps: int, seed: int) -> ArmRun:
    study = Study(task=task, optimizer=OPRO(steps=steps, samples_per_step=4), scorer=model, proposer=model, seed=seed)
    result = await study.run()
    assert result.best is not None
    done = await evaluate(model, task, result.best.candidate, task.test)
    scores = {item.example: item.score for item in done.items if item.score is not None}
    return ArmRun(seed, train=result.best.train, held_out=result.best.held_out, scores=scores)


def one_eval(about: tuple[int, int], number: int) -> dict[str, bool]:
    """Instructions of one true accuracy, each held against the first."""
    many, items = about
    task = sums(1, items)
    api = SimulatedAPI(latency=Constant(0.1), answers=AnswerModel(number, items_of([task])), keep_prompts=False)
    words = ("add", "both", "numbers", f"w{chr(97 + number % 26)}{chr(97 + number // 26 % 26)}")
    texts = [" ".join(order) for order, _ in zip(permutations(words), range(many), strict=False)]

    async def main() -> dict[str, bool]:
        async with Engine(grace=0.0) as engine:
            model = engine.model("m", endpoint=api.endpoint(), quota=Quota(concurrency=64))
            done = await evaluate_instructions(model, task, texts)
        found, (first, *others) = done.comparisons(), done.scores()
        assert first.measured is not None
        low, high = first.measured.low, first.measured.high
        apart = any(one.measured is not None and not low <= one.measured.score <= high for one in others)
        return {
            "verdict": any(one.verdict != "no difference shown" for one in found),
            "higher mean": any(one.difference for one in found),
            "outside the first's interval": apart,
        }

    return run_virtual(main)


# -- shares ------------------------------------------------------------------------------------------------------------


def counted(outcomes: Iterable[dict[str, bool]]) -> dict[str, int]:
    """How many there were, and how many of these made each claim."""
    counts: dict[str, int] = {"n": 0}
    for outcome in outcomes:
        counts["n"] += 1
        for name, claimed in outcome.items():
            counts[name] = counts.get(name, 0) + claimed
    return counts


def share(hits: int, n: int) -> str:
    low, high = wilson_interval(hits, n)
    return f"{100 * hits / n:.2f} ({100 * low:.2f}-{100 * high:.2f})"


Job: TypeAlias = tuple[str, Callable[[int], dict[str, bool]], int]


def end_to_end(jobs: Sequence[Job], workers: int) -> dict[str, dict[str, int]]:
    """The second table: each job's claims over its numbers."""
    figures = {}
    with ProcessPoolExecutor(workers) as pool:
        for name, job, count in jobs:
            figures[name] = counted(pool.map(job, range(count), chunksize=10))
            others = [f"{kind} {share(hits, count)}" for kind, hits in figures[name].items() if kind != "n"]
            print(f"{name}, {count} comparisons of equals, % called different (95 %): {'; '.join(others)}", flush=True)
    return figures


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--comparisons", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--quick", action="store_true", help="a hundredth of it, to see that it works")
    chosen = options.parse_args()
    many = 20 if chosen.quick else chosen.comparisons
    jobs: list[Job] = [
        ("contests of 2 arms", partial(one_contest, (2, chosen.seed)), many),
        ("contests of 5 arms", partial(one_contest, (5, chosen.seed)), many),
        ("eval of 2 instructions", partial(one_eval, (2, 100)), many),
        ("eval of 5 instructions", partial(one_eval, (5, 100)), many),
        ("studies, 3 seeds", partial(one_comparison, (3, 2, 60)), many),
        ("studies, 1 seed", partial(one_comparison, (1, 2, 60)), many),
    ]
    wanted = [job for job in jobs if job[0].startswith(tuple(chosen.only))]
    figures = {
        "rules": rules(many, chosen.seed) if "rules" in chosen.only else [],
        "end_to_end": end_to_end(wanted, chosen.jobs),
    }
    write_json(chosen.json, "false_claims", {"comparisons": many, "seed": chosen.seed, "level": LEVEL}, figures)


if __name__ == "__main__":
    main()
