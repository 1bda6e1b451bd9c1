"""The end of a run in a few lines of text."""

from __future__ import annotations

from pathlib import Path

from asyncopt import codec
from asyncopt.result import Measured, Result, Scored


def summary_lines(result: Result, baseline: Result | None, place: Path, local_cpu: float | None) -> list[str]:
    """What was found, what it rests on, and what it took."""
    lines = [""]
    if result.start is not None:
        lines += _pair_lines(result, baseline)
    else:
        lines += _instruction_lines(result)
    cost = "" if not result.usd else f", ${result.usd:.4f}"
    cpu = "" if local_cpu is None else f", {local_cpu:.0f} CPU-seconds of the embedded model"
    lines += [
        "",
        f"{result.steps} steps, {result.calls} calls, {result.cache_hits} cache hits, {result.tokens} tokens{cost}, "
        f"{result.seconds:.1f} s{cpu}",
        f"asyncopt show {place}",
    ]
    return lines


def _instruction_lines(result: Result) -> list[str]:
    lines = []
    for title, scored in (("initial", result.initial), ("best", result.best)):
        if scored is None:
            continue
        lines.append(f"{title:8} {codec.printable(scored.candidate, 500) or '(empty)'}")
        lines.append(f"         train {share(scored.train)}   held out {share(scored.held_out)}   [{_origin(scored)}]")
    if result.initial is not None and result.best is not None and result.initial.candidate == result.best.candidate:
        lines.append("no better instruction was found")
    return lines


def _origin(scored: Scored) -> str:
    return "a starting point" if scored.step < 0 else f"step {scored.step + 1}, {scored.source}"


def share(measured: Measured | None) -> str:
    """A share of right answers with its 95 % interval, in percent."""
    if measured is None:
        return "not measured"
    low, high = 100 * measured.low, 100 * measured.high
    return f"{100 * measured.score:.1f} % of {measured.n} (95 %: {low:.1f} to {high:.1f})"


def _pair_lines(result: Result, baseline: Result | None) -> list[str]:
    assert result.start is not None
    start = ", ".join(f"({w:g}, {b:g}): {loss:.0f}" for w, b, loss in result.start)
    lines = [f"start    {start}", f"optimum  loss {result.optimum_loss:.3f}"]
    for title, run in ((result.optimizer, result), ("random", baseline)):
        if run is not None and run.best is not None:
            end = f"found in step {run.steps}" if run.solved else f"not found in {run.steps} steps"
            found = f"best {run.best.candidate} with loss {run.best.loss:.3f}"
            lines.append(f"{title:8} {found}, {end}, {run.unique_pairs} unique pairs")
    return lines
