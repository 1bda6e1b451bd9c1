"""By how much scores differ where nothing differs: two runs of one optimizer, or one instruction asked twice."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from asyncopt.contest.standings import ended
from asyncopt.contest.values import Arm, AskedTwice, Noise
from asyncopt.stats import Z95, mean_sd


def noise_of(arms: Sequence[Arm], twice: tuple[Mapping[int, float], Mapping[int, float]] | None) -> Noise:
    """The spread over the seeds of every optimizer together, an A/A arm with the one that it repeats."""
    scores: dict[str, list[float]] = defaultdict(list)
    for arm in arms:
        scores[arm.same_as or arm.name] += [run.held_out.score for run in ended(arm) if run.held_out is not None]
    groups = [values for values in scores.values() if len(values) > 1]
    df = sum(len(values) - 1 for values in groups)
    seeds = max((len(ended(arm)) for arm in arms), default=0)
    asked_twice = None if twice is None else _asked_twice(*twice)
    if not df:
        return Noise(None, 0, None, seeds, None, asked_twice)
    sds = [(len(values) - 1, mean_sd(values)[1] or 0.0) for values in groups]
    sd = math.sqrt(sum(weight * sd * sd for weight, sd in sds) / df)
    from scipy.special import stdtrit

    band = float(stdtrit(df, 0.975)) * sd * math.sqrt(2)
    return Noise(sd, df, band, seeds, band / math.sqrt(seeds), asked_twice)


def _asked_twice(first: Mapping[int, float], second: Mapping[int, float]) -> AskedTwice | None:
    differences = [second[item] - first[item] for item in sorted(first.keys() & second.keys())]
    if not differences:
        return None
    n = len(differences)
    # One more item won by each side, as in the interval of a paired difference: no change seen is not no noise.
    spread = math.sqrt((sum(difference * difference for difference in differences) + 2) / (n + 2))
    changed = sum(difference != 0 for difference in differences) / n
    return AskedTwice(n, fmean(differences), changed, Z95 * spread / math.sqrt(n + 2))
