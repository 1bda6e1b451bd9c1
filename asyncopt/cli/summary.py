"""The end of a run in a few lines of text: what was found, and what kept the engine from doing more at once."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyncopt import codec
from asyncopt.cli.show_network import prompts_in
from asyncopt.dispatch import Dispatcher
from asyncopt.outcomes import unscored_text
from asyncopt.result import Measured, Result, Scored
from asyncopt.stats import Verdict
from asyncopt.values import Dimension

LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True)
class Attribution:
    """What one dispatcher did, and why not more at once.

    ``limited`` is the share of its time by reason, the largest first; ``concurrency`` the calls that may be in flight
    now; ``per_minute`` the rates in force, by dimension, and ``learned`` the dimensions whose rate nobody stated.
    """

    scope: str
    attempts: int
    refused: int
    hedges: int
    concurrency: int
    limited: Mapping[str, float]
    per_minute: Mapping[Dimension, float]
    learned: Sequence[Dimension]

    @classmethod
    def of(cls, dispatcher: Dispatcher) -> Attribution:
        counts, control, limited = dispatcher.counts, dispatcher.control, dispatcher.ticker.limited
        total = sum(limited.values())
        shares = {name: seconds / total for name, seconds in limited.items() if total > 0 and seconds > 0}
        rates = {lane.dimension: 60 * lane.rate for lane in control.lanes if lane.rate is not None}
        return cls(
            scope=control.scope,
            attempts=counts.attempts,
            refused=counts.throttled,
            hedges=counts.hedges,
            concurrency=control.slots.limit,
            limited=dict(sorted(shares.items(), key=lambda share: (-share[1], share[0]))),
            per_minute=rates,
            learned=[lane.dimension for lane in control.lanes if lane.rate is not None and lane.rate != lane.stated],
        )


def attribution_lines(attributions: Iterable[Attribution]) -> list[str]:
    """One line for each dispatcher that was used, led by its scope where there are several."""
    used = [attribution for attribution in attributions if attribution.attempts]
    return [(f"{codec.printable(one.scope, 60)}: " if len(used) > 1 else "") + _attribution(one) for one in used]


def _attribution(one: Attribution) -> str:
    reasons = [f"{name} {100 * share:.0f} %" for name, share in one.limited.items() if share >= 0.005]
    parts = [f"limited by: {', '.join(reasons)}"] if reasons else []
    parts.append(f"{one.refused} of {one.attempts} calls refused")
    if one.hedges:
        parts.append(f"{one.hedges} asked twice")
    parts.append(f"{one.concurrency} at once")
    parts += [
        f"{rate:.0f} {dimension.replace('_', ' ')} a minute" + (" (learned)" if dimension in one.learned else "")
        for dimension, rate in one.per_minute.items()
    ]
    return "; ".join(parts)


def summary_lines(
    result: Result,
    baseline: Result | None,
    place: Path,
    local_cpu: float | None,
    attributions: Iterable[Attribution] = (),
) -> list[str]:
    """What was found, what it rests on, what it took, and what it waited for."""
    lines = [""]
    if result.gap is not None:
        lines += _tour_lines(result, baseline)
    elif result.start is not None:
        lines += _pair_lines(result, baseline)
    else:
        lines += _instruction_lines(result)
    cost = "" if not result.usd else f", ${result.usd:.4f}"
    if result.possibly_billed_tokens:
        cost += f", up to {result.possibly_billed_tokens} more tokens may be billed that brought no answer"
    cpu = "" if local_cpu is None else f", {local_cpu:.0f} CPU-seconds of the embedded model"
    stopped = f", {result.stopped} candidates stopped early" if result.stopped else ""
    lines += [
        "",
        f"{result.steps} steps, {result.calls} calls, {result.cache_hits} cache hits, {result.tokens} tokens{cost}, "
        f"{result.seconds:.1f} s{cpu}{stopped}",
        *_outcome_lines(result),
        *attribution_lines(attributions),
        f"asyncopt show {shlex.quote(codec.printable(str(place), LONGEST_PATH))}",
    ]
    return lines


def _outcome_lines(result: Result) -> list[str]:
    """What has no score, and what was never proposed; nothing where all is well."""
    unscored = unscored_text(result.outcomes or {})
    lines = [f"of {sum((result.outcomes or {}).values())} examples asked: {unscored}"] if unscored else []
    if result.lost_proposals:
        lines.append(f"{result.lost_proposals} proposals lost")
    return lines


def _instruction_lines(result: Result) -> list[str]:
    lines = []
    for title, scored in (("initial", result.initial), ("best", result.best)):
        if scored is None:
            continue
        for layer, prompt in prompts_in(scored.candidate).items():
            name = "" if layer == "prompt" else f"{layer}: "
            lines.append(f"{title:8} {name}{codec.printable(prompt, 500) or '(empty)'}")
        shares = {"train": scored.train, "validation": scored.validation, "held out": scored.held_out}
        known = [f"{name} {share(part)}" for name, part in shares.items() if part is not None or name != "validation"]
        lines.append(f"         {'   '.join(known)}   [{_origin(scored)}]")
    if result.initial is not None and result.best is not None and result.initial.candidate == result.best.candidate:
        lines.append("no better instruction was found")
    gain = result.gain
    if gain is not None:
        found = points(gain.difference, gain.low, gain.high)
        lines.append(f"gain     held out {found}: {judgement(gain.verdict, gain.p, gain.p, 1)}")
    return lines


def _origin(scored: Scored) -> str:
    origin = "a starting point" if scored.step < 0 else f"step {scored.step + 1}, {scored.source}"
    return f"{origin}; partial: some training examples have no score" if scored.partial else origin


def share(measured: Measured | None) -> str:
    """A share of right answers with its 95 % interval, in percent."""
    if measured is None:
        return "not measured"
    low, high = 100 * measured.low, 100 * measured.high
    return f"{100 * measured.score:.1f} % of {measured.n} (95 %: {low:.1f} to {high:.1f})"


def points(difference: float, low: float, high: float, against: str = "") -> str:
    """A difference of two shares with its 95 % interval, in points of percent."""
    return f"{100 * difference:+.1f} points{against} (95 %: {100 * low:+.1f} to {100 * high:+.1f})"


def judgement(verdict: Verdict, p: float, p_holm: float, compared: int) -> str:
    """The verdict with the p-values that it rests on, where so many are compared with one."""
    adjusted = f", {p_holm:.2g} by Holm over {compared}" if compared > 1 else ""
    return f"{verdict} (p = {p:.2g}{adjusted})"


def _pair_lines(result: Result, baseline: Result | None) -> list[str]:
    assert result.start is not None
    start = ", ".join(f"({w:g}, {b:g}): {loss:.0f}" for w, b, loss in result.start)
    lines = [f"start    {start}", f"optimum  loss {result.optimum_loss:.3f}"]
    for title, run in ((result.optimizer, result), ("random", baseline)):
        if run is not None and run.best is not None:
            found = f"best {run.best.candidate} with loss {run.best.loss:.3f}"
            lines.append(f"{title:8} {found}, {_end(run)}, {run.unique_pairs} unique pairs")
    return lines


def _end(run: Result) -> str:
    return f"found in step {run.steps}" if run.solved else f"not found in {run.steps} steps"


def _tour_lines(result: Result, baseline: Result | None) -> list[str]:
    assert result.start is not None and result.optimum_loss is not None  # noqa: PT018
    optimum = result.optimum_loss
    lines = [
        f"start    lengths {', '.join(f'{length:.0f}' for _, length in result.start)}",
        f"optimum  length {optimum:.3f}",
    ]
    for name, length in (result.baselines or {}).items():
        lines.append(f"{name.replace('_', ' ')}: length {length:.3f}, gap {100 * (length - optimum) / optimum:.2f} %")
    for title, run in ((result.optimizer, result), ("random", baseline)):
        if run is not None and run.best is not None:
            found = f"best {codec.printable(run.best.candidate, 1000)} with length {run.best.loss:.3f}"
            lines.append(f"{title:8} {found}, gap {run.gap:.2f} %, {_end(run)}, {run.unique_tours} unique tours")
    return lines
