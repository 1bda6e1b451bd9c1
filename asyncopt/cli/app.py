"""The commands and their options. What they do stands in the modules beside this one, imported when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="asyncopt",
    help="Optimize prompts, numbers and tours with language models: quotas kept full, nothing paid twice.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=(
        "Exit codes: 0 done; 1 failed, or examples have no score; 2 wrong input; 3 stopped by a budget, a quota, a "
        "dead endpoint or a full disk (resume goes on); 4 key or model refused; 5 directory in use or damaged; "
        "129, 130, 141 or 143 stopped by a signal or a closed pipe (resume goes on)."
    ),
    add_completion=False,
    rich_markup_mode=None,
)
tasks_app = typer.Typer(help="The tasks that can be run by name.", no_args_is_help=True, rich_markup_mode=None)
data_app = typer.Typer(help="Published data sets.", no_args_is_help=True, rich_markup_mode=None)
local_app = typer.Typer(help="The embedded model.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tasks_app, name="tasks")
app.add_typer(data_app, name="data")
app.add_typer(local_app, name="local")
models_app = typer.Typer(help="What models can be asked for.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models_app, name="models")

Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output, nothing else.")]
BudgetOption = Annotated[str | None, typer.Option(help="Limits, such as calls=2000,usd=1.5,tokens=...,seconds=...")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait for a daily quota, for hours if need be.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting: a.b=c. May be given several times.")]


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="A task, your own .jsonl, a CONFIG.toml, or a ready sweep's name.")],
    optimizer: Annotated[str | None, typer.Option(help="opro, random, ape, dln1 or dln2.")] = None,
    scorer: Annotated[str | None, typer.Option(help="The model that is instructed: local, openai/NAME, ...")] = None,
    proposer: Annotated[str | None, typer.Option(help="The model that proposes; by default the scorer.")] = None,
    base_url: Annotated[str | None, typer.Option(help="An OpenAI-compatible server, such as http://host/v1.")] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many examples in each split.")] = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice comes from it.")] = None,
    directory: Annotated[Path | None, typer.Option(help="Where the run is kept; the same one goes on.")] = None,
    data: Annotated[Path | None, typer.Option(help="The folder of published data sets.")] = None,
    budget: BudgetOption = None,
    settings: SetOption = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Ask the model again, whatever was answered.")] = False,
    mode: Annotated[str | None, typer.Option(help="parallel, or faithful to the reference in every draw.")] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Keep every meta-prompt and every answer in trace.jsonl.")
    ] = False,
    wait: WaitOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it may take.")] = False,
    json: Json = False,
) -> None:
    """Search for better instructions (or numbers) and measure what was found on examples the search never saw."""
    from asyncopt.cli.settings import settle
    from asyncopt.cli.sweep import begin, sweep_path

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
        "trace": trace or None,
    }
    if sweep_path(task) is not None:
        seeds = None if flags.pop("seed") is None else str(seed)
        options = {"base_url": base_url, "settings": settings or [], "seeds": seeds}
        begin(task, flags, options, directory, budget, dry_run=dry_run, json=json, wait=wait)
        return
    config = settle(task, flags, base_url, budget, settings or [])
    if dry_run:
        from asyncopt.cli.dry_run import dry_run as tell

        tell([config], json=json)
    else:
        from asyncopt.cli.run import Manner, run_study

        run_study(config, directory, json=json, manner=Manner(wait=wait))


@app.command()
def resume(
    directory: Annotated[Path, typer.Argument(help="The directory of a run or a sweep.")],
    fork: Annotated[Path | None, typer.Option(help="Begin another run here with its finished steps.")] = None,
    steps: Annotated[int | None, typer.Option(help="With --fork: how many steps the other run has.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="With --fork: any setting of it, a.b=c.")] = None,
    budget: BudgetOption = None,
    wait: WaitOption = False,
    json: Json = False,
) -> None:
    """Go on with a run, or a sweep, that was stopped; what it has paid for is not paid again."""
    from asyncopt.cli.run import Manner, run_study
    from asyncopt.cli.settings import settle_resumed
    from asyncopt.cli.sweep import resume_sweep
    from asyncopt.errors import ConfigError
    from asyncopt.sweep import is_sweep

    if fork is None and (steps is not None or settings):
        raise ConfigError("with other settings it would be another run; name its directory with --fork CHILD")
    if is_sweep(directory):
        if fork is not None:
            raise ConfigError(f"{directory} is a sweep; --fork takes the directory of one of its runs")
        resume_sweep(directory, budget, json=json, wait=wait)
        return
    config = settle_resumed(directory, budget, steps=steps, settings=settings or [])
    manner = Manner(parent=None if fork is None else directory, wait=wait)
    run_study(config, fork or directory, json=json, manner=manner)


@app.command()
def sweep(
    name: Annotated[str | None, typer.Argument(metavar="NAME|SWEEP.toml", help="A ready sweep or your own.")] = None,
    tasks: Annotated[str | None, typer.Option(help="These tasks alone, such as gsm8k,bbh/navigate.")] = None,
    seeds: Annotated[str | None, typer.Option(help="These seeds alone, such as 0,1,2.")] = None,
    studies: Annotated[int | None, typer.Option(min=1, help="How many studies run at once.")] = None,
    scorer: Annotated[str | None, typer.Option(help="The model that is instructed: local, openai/NAME, ...")] = None,
    proposer: Annotated[str | None, typer.Option(help="The model that proposes; by default the scorer.")] = None,
    base_url: Annotated[str | None, typer.Option(help="An OpenAI-compatible server, such as http://host/v1.")] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps in every study.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many examples in each split.")] = None,
    directory: Annotated[Path | None, typer.Option(help="Where the sweep is kept; the same one goes on.")] = None,
    data: Annotated[Path | None, typer.Option(help="The folder of published data sets.")] = None,
    budget: BudgetOption = None,
    settings: SetOption = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Ask the model again, whatever was answered.")] = False,
    mode: Annotated[str | None, typer.Option(help="parallel, or faithful to the paper's code in every draw.")] = None,
    wait: WaitOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what all studies may take.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the ready sweeps: the paper's experiments.")] = False,
    json: Json = False,
) -> None:
    """Run tasks x settings x seeds side by side, with one quota, one cache and one --budget, and compare them."""
    from asyncopt.cli.sweep import begin, list_sweeps

    if listed or name is None:
        list_sweeps(json=json)
        return
    flags: dict[str, Any] = {
        "models.scorer.model": scorer,
        "models.proposer.model": proposer,
        "optimizer.steps": steps,
        "task.limit": limit,
        "task.data": data,
        "use_cache": False if no_cache else None,
        "mode": mode,
    }
    options = {"base_url": base_url, "settings": settings or [], "tasks": tasks, "seeds": seeds, "studies": studies}
    begin(name, flags, options, directory, budget, dry_run=dry_run, json=json, wait=wait)


@app.command()
def replay(
    recorded: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The directory of a run.")],
    directory: Annotated[Path | None, typer.Option(help="Where the replay is kept; by default a new one.")] = None,
    json: Json = False,
) -> None:
    """Make the decisions of a run again, in their order and on what they saw; fails where the history differs."""
    from asyncopt.cli.run import Manner, run_study
    from asyncopt.cli.settings import settle_resumed

    run_study(settle_resumed(recorded, None), directory, json=json, manner=Manner(replay=recorded))


@app.command("eval")
def evaluate(
    task: Annotated[str, typer.Argument(help="A task's name, a .jsonl file of your own, or a CONFIG.toml.")],
    instructions: Annotated[
        list[str] | None, typer.Argument(metavar="INSTRUCTION...", help="Any number; @FILE is the text in a file.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Instructions, one a line: plain text, or .jsonl.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="The best instruction of the run in this directory.")] = None,
    fold: Annotated[str, typer.Option(help="train, validation, test or all.")] = "test",
    scorer: Annotated[str | None, typer.Option(help="The model that is instructed: local, openai/NAME, ...")] = None,
    base_url: Annotated[str | None, typer.Option(help="An OpenAI-compatible server, such as http://host/v1.")] = None,
    position: Annotated[str | None, typer.Option(help="before_Q, Q_begin, Q_end or A_begin.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many examples in each split.")] = None,
    seed: Annotated[int | None, typer.Option(help="Deals the examples of some tasks to their splits.")] = None,
    data: Annotated[Path | None, typer.Option(help="The folder of published data sets.")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="So many solved training examples stand first.")] = None,
    shots_by: Annotated[str | None, typer.Option(help="random, lexical (nearest by words) or kate.")] = None,
    baseline: Annotated[str | None, typer.Option(help="cot: reasoning in one call, the answer in the next.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for items.csv, items.jsonl and summary.json.")] = None,
    min_score: Annotated[float | None, typer.Option(min=0, max=1, help="Exit with 1 below it, such as 0.8.")] = None,
    budget: BudgetOption = None,
    settings: SetOption = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Ask the model again, whatever was answered.")] = False,
    wait: WaitOption = False,
    json: Json = False,
) -> None:
    """Score given instructions, each on the same examples, and compare every one with the first.

    An instruction that begins with a dash comes after --; one that begins with @ is given with --file.
    """
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
    }
    way = Baseline(baseline, shots, shots_by)
    given = read_instructions(instructions or [], file, run or [], way.instructions)
    config = settle(task, flags, base_url, budget, settings or [])
    evaluate_given(config, given, fold, out, min_score, json=json, baseline=way, wait=wait)


@app.command()
def show(
    directory: Annotated[Path, typer.Argument(help="The directory of a run or a sweep.")],
    against: Annotated[str | None, typer.Option(help="Beside published results instead: opro-paper.")] = None,
    json: Json = False,
) -> None:
    """Show what a run or a sweep has found so far, or what it found beside published results."""
    from asyncopt.cli.show import show_against, show_run
    from asyncopt.cli.sweep import show_sweep
    from asyncopt.sweep import is_sweep

    if against is None:
        show = show_sweep if is_sweep(directory) else show_run
        show(directory, json=json)
    else:
        show_against(directory, against, json=json)


@app.command()
def doctor(
    directory: Annotated[Path | None, typer.Argument(help="The directory of a run; without, this machine.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be, and keep what was there aside.")] = False,
    json: Json = False,
) -> None:
    """Say what is wrong with a run's directory, or with this machine's set-up, and what to do about it."""
    from asyncopt.cli.doctor import doctor as examine

    examine(directory, repair, json)


@tasks_app.command("ls")
def tasks_ls(json: Json = False) -> None:
    """List the tasks."""
    from asyncopt.cli.show import list_tasks

    list_tasks(json=json)


@data_app.command("get")
def data_get(
    names: Annotated[
        list[str], typer.Argument(help="gsm8k, bbh, bbh/TASK, aqua, mmlu, mmlu/SUBJECT, multiarith, all.")
    ],
    data: Annotated[Path | None, typer.Option(help="The folder; by default ASYNCOPT_DATA, or one for caches.")] = None,
    mirror: Annotated[str | None, typer.Option(help="Another server: URL/gsm8k/train.jsonl and so on.")] = None,
) -> None:
    """Fetch published data sets from their public homes; what is there and right is not fetched again."""
    from asyncopt.cli.data import get_data

    get_data(names, data, mirror)


@data_app.command("ls")
def data_ls(
    data: Annotated[Path | None, typer.Option(help="The folder; by default ASYNCOPT_DATA, or one for caches.")] = None,
    json: Json = False,
) -> None:
    """List which published files are in the data folder, where they lie in it, and their licences."""
    from asyncopt.cli.data import list_data

    list_data(data, json=json)


@models_app.command("probe")
def models_probe(
    model: Annotated[str, typer.Argument(help="local, openai/NAME, ..., or a name at --base-url.")],
    base_url: Annotated[str | None, typer.Option(help="An OpenAI-compatible server, such as http://host/v1.")] = None,
    json: Json = False,
) -> None:
    """Find out by asking what a model's endpoint can do: log-probabilities, seeds, grammars; about 20 short calls."""
    from asyncopt.cli.probe import probe_model

    probe_model(model, base_url, json=json)


@models_app.command("ls")
def models_ls(json: Json = False) -> None:
    """List the models that were asked, and what was found."""
    from asyncopt.cli.probe import list_probes

    list_probes(json=json)


@local_app.command("serve")
def local_serve(
    model: Annotated[str, typer.Argument(help="local, or the path of a GGUF file.")] = "local",
    threads: Annotated[int | None, typer.Option(help="Threads; by default one less than there are cores.")] = None,
) -> None:
    """Serve the embedded model on this machine until interrupted, and print its address and key."""
    from asyncopt.cli.serve import serve_local

    serve_local(model, threads)


@app.command()
def simulate(
    study: Annotated[str | None, typer.Option(help="Simulate this study instead: a task or a CONFIG.toml.")] = None,
    settings: SetOption = None,
    repeat: Annotated[int | None, typer.Option(min=1, help="Simulate the study with so many seeds.")] = None,
    json: Json = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides every answer, and the study.")] = None,
    latency: Annotated[str, typer.Option(help="Seconds, or lognormal:MEDIAN:SIGMA[:TAIL_SHARE:FACTOR].")] = "0.05",
    rps: Annotated[float | None, typer.Option(help="Requests a second that are served.")] = None,
    burst: Annotated[float | None, typer.Option(help="Requests that may come at once.")] = None,
    window: Annotated[float | None, typer.Option(help="Count --rps in a sliding window of so many seconds.")] = None,
    tps: Annotated[float | None, typer.Option(help="Tokens a second that are served.")] = None,
    itps: Annotated[float | None, typer.Option(help="Input tokens a second that are served.")] = None,
    otps: Annotated[float | None, typer.Option(help="Output tokens a second that are served.")] = None,
    token_burst: Annotated[float | None, typer.Option(help="Tokens that may come at once.")] = None,
    refund_tokens: Annotated[bool, typer.Option(help="Tokens asked for and not used come back.")] = False,
    refused_count: Annotated[bool, typer.Option(help="Refused requests count against the quota.")] = False,
    change: Annotated[str | None, typer.Option(help="SECONDS:FACTOR: multiply all rates by it then.")] = None,
    silent_change: Annotated[bool, typer.Option(help="Headers do not tell of the change.")] = False,
    stranger: Annotated[float, typer.Option(help="The share of all rates that somebody else takes.")] = 0.0,
    headers: Annotated[str, typer.Option(help="openai, azure, anthropic, openrouter or none.")] = "openai",
    retry_after: Annotated[bool, typer.Option(help="Refusals say when to come back.")] = True,
    clock_skew: Annotated[float, typer.Option(help="Seconds by which the server's clock is ahead.")] = 0.0,
    concurrency: Annotated[int | None, typer.Option(help="Requests in flight at most.")] = None,
    first_byte_share: Annotated[float, typer.Option(help="Share of the latency before a stream begins.")] = 0.3,
    slow_wrong: Annotated[float, typer.Option(help="Wrong answers take so many times as long.")] = 1.0,
    faults: Annotated[str | None, typer.Option(help="Such as seed=1,rate=0.05,kinds=500+reset.")] = None,
    data: Annotated[Path | None, typer.Option(help="Published data sets whose items can be answered.")] = None,
    key: Annotated[str | None, typer.Option(help="Refuse every other API key.")] = None,
) -> None:
    """Serve a simulated API in OpenAI's and Anthropic's formats, or tell what a study on it would come to.

    The server prints one JSON line when it is ready. A study (--study) runs on a virtual clock and ends at once: the
    models it names are not called, and the quotas it states are those of the simulated servers.
    """
    options = dict(locals())
    if study is not None:
        from asyncopt.cli.simulate import simulate_study

        simulate_study(options)
    else:
        from asyncopt.cli.serve import serve_simulated

        serve_simulated(options)
