"""The commands that ask models, and their options; :mod:`asyncopt.cli.app` puts them together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from asyncopt.cli.options import (
    BaseUrlOption,
    BatchTestOption,
    BudgetOption,
    DataOption,
    DisplayOption,
    Json,
    LimitOption,
    ModeOption,
    NoCacheOption,
    ObserveOption,
    OptimizerOption,
    ProposerOption,
    RayOption,
    ScorerOption,
    SeedOption,
    SetOption,
    SharedOption,
    StepsOption,
    WaitOption,
    WorkersOption,
)


def run(
    task: Annotated[str, typer.Argument(help="A task, your own .jsonl, a CONFIG.toml, or a ready sweep's name.")],
    optimizer: OptimizerOption = None,
    scorer: ScorerOption = None,
    proposer: ProposerOption = None,
    base_url: BaseUrlOption = None,
    steps: StepsOption = None,
    limit: LimitOption = None,
    seed: SeedOption = None,
    directory: Annotated[Path | None, typer.Option(help="Where the run is kept; the same one goes on.")] = None,
    data: DataOption = None,
    budget: BudgetOption = None,
    settings: SetOption = None,
    no_cache: NoCacheOption = False,
    mode: ModeOption = None,
    trace: Annotated[
        bool | None, typer.Option("--trace/--no-trace", help="Keep every meta-prompt and answer (default: yes).")
    ] = None,
    observe: ObserveOption = None,
    shared: SharedOption = None,
    batch_test: BatchTestOption = False,
    wait: WaitOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it may take.")] = False,
    display: DisplayOption = None,
    json: Json = False,
) -> None:
    """Search for better instructions (or numbers) and measure what was found on examples the search never saw."""
    from asyncopt.cli.display_choice import shown_as
    from asyncopt.cli.settings import settle
    from asyncopt.cli.sweep import begin, sweep_path

    shown = shown_as(display, json=json)
    flags: dict[str, Any] = {
        "optimizer.name": optimizer,
        "models.scorer.model": scorer,
        "models.proposer.model": proposer,
        "optimizer.steps": steps,
        "task.limit": limit,
        "task.data": data,
        "seed": seed,
        "use_cache": False if no_cache else None,
        "mode": mode,
        "trace": trace,
        "observers": observe or None,
        "shared": shared,
        "batch": "test" if batch_test else None,
    }
    if sweep_path(task) is not None:
        seeds = None if flags.pop("seed") is None else str(seed)
        options = {"base_url": base_url, "settings": settings or [], "seeds": seeds}
        begin(task, flags, options, directory, budget, dry_run=dry_run, shown=shown, wait=wait)
        return
    config = settle(task, flags, base_url, budget, settings or [])
    if dry_run:
        from asyncopt.cli.dry_run import dry_run as tell

        tell([config], config.budget.model_dump(), json=shown == "json")
    else:
        from asyncopt.cli.run import Manner, run_study

        run_study(config, directory, shown, manner=Manner(wait=wait))


def resume(
    directory: Annotated[Path, typer.Argument(help="The directory of a run or a sweep.")],
    fork: Annotated[Path | None, typer.Option(help="Begin another run here with its finished steps.")] = None,
    steps: Annotated[int | None, typer.Option(help="With --fork: how many steps the other run has.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="With --fork: any setting of it, a.b=c.")] = None,
    budget: BudgetOption = None,
    shared: SharedOption = None,
    wait: WaitOption = False,
    workers: WorkersOption = None,
    ray: RayOption = None,
    display: DisplayOption = None,
    json: Json = False,
) -> None:
    """Go on with a run, or a sweep, that was stopped; what it has paid for is not paid again."""
    from asyncopt.cli.display_choice import shown_as
    from asyncopt.cli.run import Manner, run_study
    from asyncopt.cli.settings import settle_resumed
    from asyncopt.cli.sweep import resume_sweep
    from asyncopt.errors import ConfigError
    from asyncopt.sweep import is_sweep

    shown = shown_as(display, json=json)
    if fork is None and (steps is not None or settings):
        raise ConfigError("with other settings it would be another run; name its directory with --fork CHILD")
    if is_sweep(directory):
        if fork is not None:
            raise ConfigError(f"{directory} is a sweep; --fork takes the directory of one of its runs")
        if ray is not None:
            from asyncopt.cli.workers.clustered import resume_on_ray

            resume_on_ray(directory, budget, shown, wait=wait, shared=shared, workers=workers, address=ray)
            return
        resume_sweep(directory, budget, shown, wait=wait, shared=shared, workers=workers)
        return
    if workers is not None or ray is not None:
        given = "--workers" if ray is None else "--ray"
        raise ConfigError(f"{directory} is a single run, which one process does; {given} is for a sweep")
    config = settle_resumed(directory, budget, steps=steps, settings=settings or [], shared=shared)
    manner = Manner(parent=None if fork is None else directory, wait=wait)
    run_study(config, fork or directory, shown, manner=manner)


def sweep(
    name: Annotated[str | None, typer.Argument(metavar="NAME|SWEEP.toml", help="A ready sweep or your own.")] = None,
    tasks: Annotated[str | None, typer.Option(help="These tasks alone, such as gsm8k,bbh/navigate.")] = None,
    seeds: Annotated[str | None, typer.Option(help="These seeds alone, such as 0,1,2.")] = None,
    studies: Annotated[int | None, typer.Option(min=1, help="How many studies run at once.")] = None,
    scorer: ScorerOption = None,
    proposer: ProposerOption = None,
    base_url: BaseUrlOption = None,
    steps: Annotated[int | None, typer.Option(help="How many steps in every study.")] = None,
    limit: LimitOption = None,
    directory: Annotated[Path | None, typer.Option(help="Where the sweep is kept; the same one goes on.")] = None,
    data: DataOption = None,
    budget: BudgetOption = None,
    settings: SetOption = None,
    no_cache: NoCacheOption = False,
    mode: ModeOption = None,
    observe: ObserveOption = None,
    shared: SharedOption = None,
    batch_test: BatchTestOption = False,
    wait: WaitOption = False,
    workers: WorkersOption = None,
    ray: RayOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what all studies may take.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the ready sweeps: the paper's experiments.")] = False,
    display: DisplayOption = None,
    json: Json = False,
) -> None:
    """Run tasks x settings x seeds side by side, with one quota, one cache and one --budget, and compare them."""
    from asyncopt.cli.display_choice import shown_as
    from asyncopt.cli.sweep import begin, list_sweeps

    shown = shown_as(display, json=json)
    if listed or name is None:
        list_sweeps(json=shown == "json")
        return
    flags: dict[str, Any] = {
        "models.scorer.model": scorer,
        "models.proposer.model": proposer,
        "optimizer.steps": steps,
        "task.limit": limit,
        "task.data": data,
        "use_cache": False if no_cache else None,
        "mode": mode,
        "observers": observe or None,
        "shared": shared,
        "batch": "test" if batch_test else None,
    }
    options = {"base_url": base_url, "settings": settings or [], "tasks": tasks, "seeds": seeds, "studies": studies}
    if ray is not None and not dry_run:
        from asyncopt.cli.workers.clustered import begin_on_ray

        begin_on_ray(name, flags, options, directory, budget, shown=shown, wait=wait, workers=workers, address=ray)
        return
    begin(name, flags, options, directory, budget, dry_run=dry_run, shown=shown, wait=wait, workers=workers)


def replay(
    recorded: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The directory of a run.")],
    directory: Annotated[Path | None, typer.Option(help="Where the replay is kept; by default a new one.")] = None,
    display: DisplayOption = None,
    json: Json = False,
) -> None:
    """Make the decisions of a run again, in their order and on what they saw; fails where the history differs."""
    from asyncopt.cli.display_choice import shown_as
    from asyncopt.cli.run import Manner, run_study
    from asyncopt.cli.settings import settle_resumed
    from asyncopt.errors import ConfigError
    from asyncopt.sweep import is_sweep

    shown = shown_as(display, json=json)
    if is_sweep(recorded):
        raise ConfigError(f"{recorded} is a sweep; replay takes the directory of one of its runs")
    run_study(settle_resumed(recorded, None), directory, shown, manner=Manner(replay=recorded))


def evaluate(
    task: Annotated[str, typer.Argument(help="A task's name, a .jsonl file of your own, or a CONFIG.toml.")],
    instructions: Annotated[
        list[str] | None, typer.Argument(metavar="INSTRUCTION...", help="Any number; @FILE is the text in a file.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Instructions, one a line: plain text, or .jsonl.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="The best instruction of the run in this directory.")] = None,
    top: Annotated[int, typer.Option(min=1, help="So many of the best of each --run, by training scores.")] = 1,
    fold: Annotated[str, typer.Option(help="train, validation, test or all.")] = "test",
    scorer: ScorerOption = None,
    base_url: BaseUrlOption = None,
    position: Annotated[str | None, typer.Option(help="before_Q, Q_begin, Q_end or A_begin.")] = None,
    limit: LimitOption = None,
    seed: Annotated[int | None, typer.Option(help="Deals the examples of some tasks to their splits.")] = None,
    data: DataOption = None,
    shots: Annotated[int | None, typer.Option(min=1, help="So many solved training examples stand first.")] = None,
    shots_by: Annotated[str | None, typer.Option(help="random, lexical (nearest by words) or kate.")] = None,
    baseline: Annotated[str | None, typer.Option(help="cot: reasoning in one call, the answer in the next.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for items.csv, items.jsonl and summary.json.")] = None,
    min_score: Annotated[float | None, typer.Option(min=0, max=1, help="Exit with 1 below it, such as 0.8.")] = None,
    budget: BudgetOption = None,
    settings: SetOption = None,
    no_cache: NoCacheOption = False,
    shared: SharedOption = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Ask in batches: half the price, up to a day; the same command goes on.")
    ] = False,
    wait: WaitOption = False,
    display: DisplayOption = None,
    json: Json = False,
) -> None:
    """Score given instructions, each on the same examples, and compare every one with the first.

    An instruction that begins with a dash comes after --; one that begins with @ is given with --file.
    """
    from asyncopt.cli.display_choice import shown_as
    from asyncopt.cli.eval import NO_SEARCH, Baseline, evaluate_given, read_instructions
    from asyncopt.cli.settings import settle

    flags: dict[str, Any] = {
        **NO_SEARCH,
        "models.scorer.model": scorer,
        "task.position": position,
        "task.limit": limit,
        "task.data": data,
        "seed": seed,
        "use_cache": False if no_cache else None,
        "shared": shared,
    }
    shown = shown_as(display, json=json)
    way = Baseline(baseline, shots, shots_by)
    given = read_instructions(instructions or [], file, run or [], way.instructions, top)
    config = settle(task, flags, base_url, budget, settings or [])
    evaluate_given(config, given, fold, out, min_score, shown, baseline=way, wait=wait, batch=batch)


def plan(
    task: Annotated[str, typer.Argument(help="What `run` takes: a task, your own .jsonl, a CONFIG.toml, a sweep.")],
    optimizer: OptimizerOption = None,
    scorer: ScorerOption = None,
    proposer: ProposerOption = None,
    base_url: BaseUrlOption = None,
    steps: StepsOption = None,
    limit: LimitOption = None,
    seed: SeedOption = None,
    data: DataOption = None,
    budget: BudgetOption = None,
    settings: SetOption = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Count no answer as known.")] = False,
    mode: ModeOption = None,
    shared: SharedOption = None,
    pilot: Annotated[int, typer.Option(min=0, help="Calls to try first, at least 4, in the cache then; or 0.")] = 40,
    json: Json = False,
) -> None:
    """Say what a run or a sweep will take in calls, money and time, and what gain it could show, before it begins."""
    from asyncopt.cli.plan import plan as tell

    flags: dict[str, Any] = {
        "optimizer.name": optimizer,
        "models.scorer.model": scorer,
        "models.proposer.model": proposer,
        "optimizer.steps": steps,
        "task.limit": limit,
        "task.data": data,
        "seed": seed,
        "use_cache": False if no_cache else None,
        "mode": mode,
        "shared": shared,
    }
    tell(task, flags, base_url=base_url, budget=budget, settings=settings or [], pilot=pilot, json=json)
