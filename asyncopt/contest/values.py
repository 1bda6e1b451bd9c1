"""What goes into a comparison of optimizers, an arm each, and the figures that come out of it; plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from asyncopt.result import Measured
from asyncopt.stats import Spread, Verdict

Basis = Literal["seeds and items", "seeds", "items"]


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One search of an optimizer under one seed: what the instruction that it chose is worth, and what it took.

    ``scores`` are that instruction's grades in [0, 1] on the held-out examples that have one, by the example's number.
    A run that failed says why in ``failure`` and has none. ``true_accuracy`` is the chosen instruction's, and
    ``best_true_accuracy`` that of the best one that the run tried, where answers are simulated and both are known.
    """

    seed: int
    instruction: str = ""
    train: Measured | None = None
    validation: Measured | None = None
    held_out: Measured | None = None
    scores: Mapping[int, float] = field(default_factory=dict)
    candidates: int = 0
    scoring_calls: int = 0
    calls: int = 0
    cache_hits: int = 0
    tokens: int = 0
    usd: float | None = None
    seconds: float = 0.0
    true_accuracy: float | None = None
    best_true_accuracy: float | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Arm:
    """An optimizer under one setting with its runs, one a seed.

    ``same_as`` names the arm that this one repeats under other seeds (an A/A arm): what divides the two is luck.
    """

    name: str
    runs: Sequence[ArmRun]
    same_as: str | None = None


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What an arm came to over the ``n`` runs that ended; ``failures`` are the reasons of the others.

    ``gap`` is the training score of the chosen instruction less its held-out score: what choosing the luckiest of many
    adds (the winner's curse). ``top_k`` is the mean and standard deviation of the held-out score if the best of 1, 2
    and so on of the seeds were kept, by validation or, without it, training score. ``took`` has the spread of
    ``candidates``, ``scoring_calls``, ``calls``, ``cache_hits``, ``tokens``, ``usd`` and ``seconds``. ``rank`` is by
    mean held-out score, 1 the best.

    ``regret`` is, of each seed, the best true accuracy that any arm tried under it less that of the chosen instruction,
    and ``true_rank`` is by its mean; both are None where the truth is not known. ``best`` is the instruction of the run
    with the best validation or training score, and ``best_seed`` that run's seed. A/A arms have no ranks.
    """

    name: str
    same_as: str | None
    n: int
    failures: tuple[str, ...]
    held_out: Spread | None
    gap: Spread | None
    top_k: tuple[tuple[float, float], ...]
    took: Mapping[str, Spread]
    rank: int | None
    regret: Spread | None
    true_rank: int | None
    best: str | None
    best_seed: int | None


@dataclass(frozen=True, slots=True)
class Pair:
    """The arm ``second`` against the arm ``first``: ``difference`` is its mean held-out score less the first's.

    ``low`` and ``high`` are the ends of its 95 % interval, and ``p`` is the two-sided p-value. ``p_holm`` is p adjusted
    by Holm over all pairs of different optimizers, and the ``verdict`` on ``second`` is by that. Of few seeds and many
    pairs it may be larger: p is then also by what the seeds of the other arms vary. They are None where
    there is one run of each and no item in common, and the difference too where there are no two runs at all.

    ``basis`` is what the verdict rests on: the grades of ``seeds`` pairs of runs on ``items`` different items ("seeds
    and items"), the shares alone where single grades are not known or of other items ("seeds"), or the items of one
    pair of runs ("items"): then p is about these very instructions. From fewer than three seeds there is no verdict on
    optimizers. ``left_out`` counts runs without a partner. ``aa`` marks an arm against its own repetition.
    """

    first: str
    second: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    verdict: Verdict | None = None
    basis: Basis = "seeds"
    seeds: int = 0
    items: int = 0
    left_out: int = 0
    aa: bool = False


@dataclass(frozen=True, slots=True)
class AskedTwice:
    """One instruction asked twice for answers on the same ``n`` items: ``changed`` is the share of grades that changed.

    ``difference`` is the second score less the first, ``band`` what 95 % of such differences stay within.
    """

    n: int
    difference: float
    changed: float
    band: float


@dataclass(frozen=True, slots=True)
class Noise:
    """By how much scores differ where nothing differs.

    ``sd`` is the standard deviation of the held-out score over the seeds of one optimizer, pooled over the arms, with
    ``df`` degrees of freedom; 95 % of the differences between two runs of the same optimizer are within ``band``, and
    between two means over ``seeds`` runs within ``band_of_means``. ``asked_twice`` is of one instruction.
    """

    sd: float | None
    df: int
    band: float | None
    seeds: int
    band_of_means: float | None
    asked_twice: AskedTwice | None


@dataclass(frozen=True, slots=True)
class Contest:
    """All figures of a comparison of optimizers. ``level`` is what the chance of any false "better" stays below.

    ``notes`` say in whole sentences what a reader must know, such as that one seed tells nothing of optimizers.
    """

    level: float
    arms: tuple[ArmFigures, ...]
    pairs: tuple[Pair, ...]
    noise: Noise
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The figures as a plain value."""
        return asdict(self)
