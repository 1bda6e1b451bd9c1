"""A comparison of optimizers as text: what each came to, what it took, every pair, the noise, the best instructions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from asyncopt import codec
from asyncopt.cli.columns import aligned
from asyncopt.contest import ArmFigures, Contest, Noise, Pair
from asyncopt.records.contest import OfTask
from asyncopt.stats import Spread

_WIDTH = 100
_LONGEST_NAME = 18
_MOST_KEPT = 5  # numbers of seeds to keep the best of
_TOOK = (
    ("candidates", "candidates", 0),
    ("scoring", "scoring_calls", 0),
    ("calls", "calls", 0),
    ("hits", "cache_hits", 0),
    ("tokens", "tokens", 0),
    ("$", "usd", 4),
    ("s", "seconds", 1),
)


def contests_lines(found: Sequence[OfTask]) -> list[str]:
    """The comparisons as text, one a task."""
    lines = [line for one in found for line in ["", *contest_lines(one)]]
    return lines[1:]


def contest_lines(found: OfTask) -> list[str]:
    """The comparison on one task as text, in at most 100 columns but for what models and users wrote."""
    contest = found.contest
    calls = "" if found.scoring_calls is None else f", {found.scoring_calls:,} scoring calls each"
    lines = [f"{codec.printable(found.task, 60)}: {len(contest.arms)} optimizers{calls}"]
    lines += ["", *aligned(_scores(contest.arms), left=(0,))]
    if any(len(arm.top_k) > 1 for arm in contest.arms):
        lines += ["", "held out in %, if the best of so many seeds by its own scores were kept:"]
        lines += aligned(_top_k(contest.arms), left=(0,))
    lines += ["", "what a run took, on average:", *aligned(_took(contest.arms), left=(0,))]
    if contest.pairs:
        lines += [
            "",
            f"held out, difference in points{_on(contest.pairs)}:",
            *aligned(_pairs(contest.pairs), left=(0, 5)),
        ]
    lines += ["", *_noise(contest.noise)]
    lines += [line for note in contest.notes for line in wrap(codec.printable(note, 600), _WIDTH)]
    return [*lines, "", "the best instruction of each:", *_best(contest)]


def _name(text: str) -> str:
    return codec.printable(text, _LONGEST_NAME)


def _scores(arms: Sequence[ArmFigures]) -> list[list[str]]:
    """What each arm's instructions are worth; the truth beside it where that is known."""
    true = any(arm.regret is not None for arm in arms)
    head = ["optimizer", "n", "held out %", "95 %", "train - test", "rank"]
    rows = [head + (["true regret", "true rank"] if true else [])]
    for arm in arms:
        row = [_name(arm.name), f"{arm.n}", _percent(arm.held_out), _interval(arm.held_out)]
        row += [_percent(arm.gap, sign=True), _whole(arm.rank)]
        # Nobody else has tried anything under the seeds of an A/A arm that its choice could be held against.
        regret = None if arm.same_as is not None else arm.regret
        rows.append(row + ([_percent(regret), _whole(arm.true_rank)] if true else []))
    return rows


def _percent(spread: Spread | None, *, sign: bool = False) -> str:
    if spread is None:
        return "-"
    mean = _points(spread.mean) if sign else f"{100 * spread.mean:.1f}"
    return mean if spread.sd is None else f"{mean} ± {100 * spread.sd:.1f}"


def _points(share: float) -> str:
    """A difference in points; what is rounded to nothing has the sign of nothing."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _interval(spread: Spread | None) -> str:
    # Seeds that all came to the same score say nothing of how far others would lie from it.
    if spread is None or spread.low is None or spread.high is None or spread.low == spread.high:
        return "-"
    # Student's interval of a few seeds knows nothing of the ends that a share has.
    return f"{max(100 * spread.low, 0.0):.1f} to {min(100 * spread.high, 100.0):.1f}"


def _whole(number: int | None) -> str:
    return "-" if number is None else f"{number}"


def _top_k(arms: Sequence[ArmFigures]) -> list[list[str]]:
    most = max(len(arm.top_k) for arm in arms)
    kept = [*range(1, min(most, _MOST_KEPT) + 1)]
    kept += [most] if most > _MOST_KEPT else []
    rows = [["optimizer", *(f"of {k}" for k in kept)]]
    for arm in arms:
        cells = [f"{100 * arm.top_k[k - 1][0]:.1f}" if k <= len(arm.top_k) else "-" for k in kept]
        rows.append([_name(arm.name), *cells])
    return rows


def _took(arms: Sequence[ArmFigures]) -> list[list[str]]:
    rows = [["optimizer", *(title for title, _, _ in _TOOK)]]
    for arm in arms:
        spreads = [(arm.took.get(name), digits) for _, name, digits in _TOOK]
        cells = ["-" if spread is None else f"{spread.mean:,.{digits}f}" for spread, digits in spreads]
        rows.append([_name(arm.name), *cells])
    return rows


def _on(pairs: Sequence[Pair]) -> str:
    """What the differences rest on, where it is the same for all."""
    found = {(one.basis, one.seeds, one.items) for one in pairs if not one.aa}
    basis, seeds, items = found.pop()
    if found:
        return ""
    return f" on {seeds} seed{'s' if seeds != 1 else ''}" + (f" and {items} items" if basis != "seeds" else "")


def _pairs(pairs: Sequence[Pair]) -> list[list[str]]:
    return [["", "points", "95 %", "p", "Holm p", ""], *map(_pair, pairs)]


def _pair(one: Pair) -> list[str]:
    """The second against the first; ``Holm p`` is over all pairs of different optimizers."""
    name = f"{_name(one.second)} - {_name(one.first)}"
    if one.difference is None:
        return [name, "-", "-", "-", "-", "nothing in common"]
    interval = "-" if one.low is None or one.high is None else f"{_points(one.low)} to {_points(one.high)}"
    adjusted = "A/A" if one.aa else _p(one.p_holm)
    return [name, _points(one.difference), interval, _p(one.p), adjusted, one.verdict or "-"]


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001"


def _noise(noise: Noise) -> Iterator[str]:
    """What differs where nothing differs, in a line or two."""
    if noise.band is None or noise.sd is None or noise.band_of_means is None:
        seeds = "one seed" if noise.seeds else "no run that ended"
        yield f"noise: not known from {seeds}; give --seeds 0,1,2 or more"
    elif not noise.sd:
        yield "noise: not known, since every optimizer came to the same held-out score under all of its seeds"
    else:
        yield (
            f"noise: two runs of one optimizer differ by up to {100 * noise.band:.1f} points in 95 % of cases (sd "
            f"{100 * noise.sd:.1f}),"
        )
        yield f"means over {noise.seeds} seeds by up to {100 * noise.band_of_means:.1f} points"
    twice = noise.asked_twice
    if twice is not None:
        yield (
            f"the initial instruction asked twice on {twice.n} examples: {_points(twice.difference)} points, "
            f"{100 * twice.changed:.1f} % of the grades changed;"
        )
        yield f"95 % of such differences are within {100 * twice.band:.1f} points"


def _best(contest: Contest) -> Iterator[str]:
    for arm in contest.arms:
        if arm.best is not None:
            seed = "" if arm.best_seed is None else f" (seed {arm.best_seed})"
            text = f"  {_name(arm.name)}{seed}: {codec.printable(arm.best, 500) or '(empty)'}"
            yield from wrap(text, _WIDTH, subsequent_indent="    ")
