"""A comparison of optimizers: what each came to over its seeds, and which differences are more than luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

from asyncopt.contest.noise import noise_of
from asyncopt.contest.pairs import paired, with_verdicts
from asyncopt.contest.standings import ended, standings
from asyncopt.contest.values import Arm, ArmFigures, ArmRun, AskedTwice, Contest, Noise, Pair
from asyncopt.errors import ConfigError

__all__ = ["Arm", "ArmFigures", "ArmRun", "AskedTwice", "Contest", "Noise", "Pair", "contest"]

UNEQUAL = 1.05  # budgets that differ by more than this factor are no equal ones


def contest(
    arms: Sequence[Arm], level: float = 0.05, twice: tuple[Mapping[int, float], Mapping[int, float]] | None = None
) -> Contest:
    """The arms' figures, all pairs of them, and the noise; ``twice`` are the grades of one instruction asked twice.

    Where all optimizers are equal, the chance that any pair is called better or worse is at most ``level``. Raises
    :class:`ConfigError` where names come twice, or an A/A arm repeats none of the others.
    """
    _check(arms)
    by_name = {arm.name: arm for arm in arms}
    rivals = [arm for arm in arms if arm.same_as is None]
    claims = with_verdicts([paired(first, second) for first, second in combinations(rivals, 2)], level, arms)
    repeats = [with_verdicts([paired(by_name[arm.same_as], arm)], level)[0] for arm in arms if arm.same_as is not None]
    pairs = (*claims, *repeats)
    return Contest(level, standings(arms), pairs, noise_of(arms, twice), tuple(_notes(arms, pairs)))


def _check(arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ConfigError(f"the arms are {', '.join(names)}; every arm needs a name of its own")
    rivals = {arm.name for arm in arms if arm.same_as is None}
    for arm in arms:
        if arm.same_as is not None and arm.same_as not in rivals:
            raise ConfigError(f"{arm.name} repeats {arm.same_as!r}; it must be one of {', '.join(sorted(rivals))}")


def _notes(arms: Sequence[Arm], pairs: Sequence[Pair]) -> list[str]:
    notes = []
    for arm in arms:
        failures = [run.failure for run in arm.runs if run.failure]
        if failures:
            notes.append(
                f"{arm.name}: {len(failures)} of {len(arm.runs)} runs have no result, and are in no figure: "
                f"{failures[0]}"
            )
    if any(pair.basis == "items" for pair in pairs):
        notes.append(
            "With one seed p is about the two prompts that were found, not about optimizers: another finds others. "
            "There is no verdict then; run three seeds or more."
        )
    if any(pair.seeds == 2 for pair in pairs):
        notes.append("From two seeds there is no verdict: they may fall apart by luck alone. Run three or more.")
    if any(pair.basis == "seeds" and pair.seeds > 1 for pair in pairs):
        notes.append(
            "Of some pairs of runs few held-out items are the same, or their grades are not known: such pairs are "
            "compared by their shares, without what the same items would show."
        )
    if any(pair.left_out and not pair.aa for pair in pairs):
        notes.append("Runs whose seed has no run of the other optimizer are left out of their pair.")
    return notes + _budget_notes(arms)


def _budget_notes(arms: Sequence[Arm]) -> list[str]:
    """Says so where the arms scored unequal numbers of answers: then the comparison is of budgets as well."""
    runs = {arm.name: [run.scoring_calls for run in ended(arm)] for arm in arms}
    spent = {name: fmean(calls) for name, calls in runs.items() if any(calls)}
    if len(spent) < 2 or max(spent.values()) <= UNEQUAL * min(spent.values()):
        return []
    stated = ", ".join(f"{name} {calls:.0f}" for name, calls in spent.items())
    return [f"The optimizers did not score equally many answers on training examples: {stated} in the mean."]
