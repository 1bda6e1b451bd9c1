"""``asyncopt compare``: runs of one task beside each other."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from asyncopt import codec
from asyncopt.cli.columns import aligned
from asyncopt.cli.show_network import prompts_in
from asyncopt.cli.summary import judgement, points, share
from asyncopt.errors import ConfigError
from asyncopt.records import load_run
from asyncopt.records.compare import Compared, Paired, Standing, compare


def compare_runs(directories: Sequence[Path], *, json: bool) -> None:
    """Print what the runs in these directories found, and how each differs from the first."""
    if len(directories) < 2:
        raise ConfigError("one run cannot be compared; name the directories of two or more")
    compared = compare([load_run(directory) for directory in directories])
    if json:
        sys.stdout.write(codec.json_line(asdict(compared)))
        return
    for line in compared_lines(compared):
        print(line)


def compared_lines(compared: Compared) -> list[str]:
    """The comparison as text: a table of what each run took, what each found, and the differences."""
    first = compared.standings[0]
    lines = aligned([_HEAD, *map(_row, compared.standings)], left=(0, 1, 2))
    for one in compared.standings:
        lines += ["", codec.printable(one.directory, 200), *_found(one)]
    if compared.paired:
        lines += ["", f"held out, against {codec.printable(first.directory, 200)} (of these two on new examples):"]
        lines += [_difference(one, len(compared.paired)) for one in compared.paired]
    return lines + [codec.printable(note, 400) for note in compared.notes]


_HEAD = ("run", "optimizer", "state", "seed", "steps", "calls", "tokens", "$", "s")


def _row(one: Standing) -> tuple[str, ...]:
    figures = (one.seed, one.steps, one.calls, one.tokens, f"{one.usd:.4f}" if one.usd else "-", f"{one.seconds:.1f}")
    return (
        codec.printable(Path(one.directory).name, 60),
        codec.printable(one.optimizer, 20),
        one.state,
        *map(str, figures),
    )


def _found(one: Standing) -> Iterable[str]:
    if one.best is None:
        yield "  nothing has a score yet"
        return
    for layer, prompt in prompts_in(one.best).items():
        name = "" if layer == "prompt" else f"{layer}: "
        yield f"  {name}{codec.printable(prompt, 500) or '(empty)'}"
    if one.loss is not None:
        yield f"  loss {one.loss:.3f}"
        return
    shares = {"train": one.train, "validation": one.validation, "held out": one.held_out}
    known = (f"{name} {share(part)}" for name, part in shares.items() if part is not None or name == "held out")
    yield f"  {'   '.join(known)}"


def _difference(one: Paired, compared: int) -> str:
    right = f"{one.only_this} right here alone, {one.only_first} there alone"
    left_out = f", {one.left_out} left out" if one.left_out else ""
    found = f"{points(one.difference, one.low, one.high)} on {one.n} examples{left_out}; {right}"
    said = judgement(one.verdict, one.p, one.p_holm, compared)
    return f"  {codec.printable(one.directory, 200)}: {found}: {said}"
