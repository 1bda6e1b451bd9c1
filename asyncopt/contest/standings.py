"""What each optimizer came to over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from asyncopt.contest.values import Arm, ArmFigures, ArmRun
from asyncopt.stats import Spread, top_k

_TOOK = ("candidates", "scoring_calls", "calls", "cache_hits", "tokens", "usd", "seconds")


def standings(arms: Sequence[Arm]) -> tuple[ArmFigures, ...]:
    """The figures of each arm, in their order."""
    rivals = [arm for arm in arms if arm.same_as is None]
    best_tried = _best_tried(run for arm in arms for run in arm.runs)
    held_out = {arm.name: _spread(_held_out(ended(arm))) for arm in arms}
    regret = {arm.name: _spread(_regrets(ended(arm), best_tried)) for arm in arms}
    ranks = _ranks({arm.name: -spread.mean for arm in rivals if (spread := held_out[arm.name]) is not None})
    true_ranks = _ranks({arm.name: spread.mean for arm in rivals if (spread := regret[arm.name]) is not None})
    return tuple(
        _figures(arm, held_out[arm.name], ranks.get(arm.name), regret[arm.name], true_ranks.get(arm.name))
        for arm in arms
    )


def ended(arm: Arm) -> list[ArmRun]:
    """The arm's runs that did not fail."""
    return [run for run in arm.runs if not run.failure]


def _figures(
    arm: Arm, held_out: Spread | None, rank: int | None, regret: Spread | None, true_rank: int | None
) -> ArmFigures:
    runs = ended(arm)
    chosen_by = _chosen_by(runs)
    best = max(zip(chosen_by, runs, strict=True), key=lambda pair: pair[0], default=None)  # the first of equals
    gaps = [run.train.score - run.held_out.score for run in runs if run.train is not None and run.held_out is not None]
    return ArmFigures(
        name=arm.name,
        same_as=arm.same_as,
        n=len(runs),
        failures=tuple(run.failure for run in arm.runs if run.failure),
        held_out=held_out,
        gap=_spread(gaps),
        top_k=_top_k(chosen_by, _held_out(runs)),
        took={name: spread for name in _TOOK if (spread := _took(runs, name)) is not None},
        rank=rank,
        regret=regret,
        true_rank=true_rank,
        best=None if best is None else best[1].instruction,
        best_seed=None if best is None else best[1].seed,
    )


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread.of(values) if values else None


def _held_out(runs: Iterable[ArmRun]) -> list[float]:
    return [run.held_out.score for run in runs if run.held_out is not None]


def _took(runs: Sequence[ArmRun], name: str) -> Spread | None:
    """The spread of what the runs took of one thing; None where any of them does not say."""
    values = [getattr(run, name) for run in runs]
    return None if None in values else _spread(values)


def _chosen_by(runs: Sequence[ArmRun]) -> list[float]:
    """The scores by which one would choose among the runs, without a look at the held-out examples."""
    validation = [run.validation.score for run in runs if run.validation is not None]
    if len(validation) == len(runs):
        return validation
    train = [run.train.score for run in runs if run.train is not None]
    return train if len(train) == len(runs) else [0.0] * len(runs)


def _top_k(chosen_by: Sequence[float], held_out: Sequence[float]) -> tuple[tuple[float, float], ...]:
    if len(held_out) != len(chosen_by) or len(held_out) < 2:
        return ()
    return tuple(top_k(chosen_by, held_out, k) for k in range(1, len(held_out) + 1))


def _best_tried(runs: Iterable[ArmRun]) -> dict[int, float]:
    """By seed, the best true accuracy that any of the runs tried."""
    best: dict[int, float] = {}
    for run in runs:
        if run.best_true_accuracy is not None:
            best[run.seed] = max(run.best_true_accuracy, best.get(run.seed, 0.0))
    return best


def _regrets(runs: Iterable[ArmRun], best: Mapping[int, float]) -> list[float]:
    return [best[run.seed] - run.true_accuracy for run in runs if run.true_accuracy is not None and run.seed in best]


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """Each value's place from the smallest on, from 1; equal ones share the place."""
    return {name: 1 + sum(other < value for other in values.values()) for name, value in values.items()}
