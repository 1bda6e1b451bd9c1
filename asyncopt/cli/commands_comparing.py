"""The command that compares, runs or optimizers; :mod:`asyncopt.cli.app` puts the commands together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncopt.cli.options import (
    BaseUrlOption,
    BudgetOption,
    DataOption,
    DisplayOption,
    Json,
    LimitOption,
    ModeOption,
    NoCacheOption,
    ObserveOption,
    ProposerOption,
    ScorerOption,
    SetOption,
    SharedOption,
    WaitOption,
    WorkersOption,
)


def compare(
    what: Annotated[
        list[str], typer.Argument(metavar="DIRECTORY...|TASK", help="Directories of runs; or a task or a .toml file.")
    ],
    optimizers: Annotated[str | None, typer.Option(help="Run these and compare them, such as opro,ape.")] = None,
    scoring_calls: Annotated[
        int | None, typer.Option(min=1, help="Answers each search may score; by default 50 candidates' worth.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="By default 0,1,2; one tells of prompts alone.")] = None,
    aa: Annotated[bool, typer.Option("--aa", help="Run the first once more under other seeds: the noise.")] = False,
    simulated: Annotated[bool, typer.Option("--simulated", help="Against a simulated API; nothing is spent.")] = False,
    latency: Annotated[
        str | None, typer.Option(help="With --simulated: as `asyncopt simulate` has it; by default 0.05 s.")
    ] = None,
    rps: Annotated[float | None, typer.Option(help="With --simulated: requests a second.")] = None,
    tps: Annotated[float | None, typer.Option(help="With --simulated: tokens a second.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="With --simulated: requests in flight at most.")] = None,
    faults: Annotated[str | None, typer.Option(help="With --simulated: such as seed=1,rate=0.05.")] = None,
    scorer: ScorerOption = None,
    proposer: ProposerOption = None,
    base_url: BaseUrlOption = None,
    limit: LimitOption = None,
    directory: Annotated[Path | None, typer.Option(help="Where the comparison is kept; the same one goes on.")] = None,
    data: DataOption = None,
    budget: BudgetOption = None,
    settings: SetOption = None,
    no_cache: NoCacheOption = False,
    mode: ModeOption = None,
    observe: ObserveOption = None,
    shared: SharedOption = None,
    wait: WaitOption = False,
    workers: WorkersOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what all runs may take.")] = False,
    display: DisplayOption = None,
    json: Json = False,
) -> None:
    """Put runs of one task beside each other; or run optimizers on one task with equal scoring calls, and compare them.

    A comparison of optimizers is kept, resumed, shown and reported like a sweep. TASK is also a CONFIG.toml, or a
    SWEEP.toml whose settings are what is compared.
    """
    options = dict(locals())
    from asyncopt.cli.compare_optimizers import compare_what

    compare_what(options)
