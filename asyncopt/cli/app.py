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
    add_completion=False,
    rich_markup_mode=None,
)
tasks_app = typer.Typer(help="The tasks that can be run by name.", no_args_is_help=True, rich_markup_mode=None)
local_app = typer.Typer(help="The embedded model.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tasks_app, name="tasks")
app.add_typer(local_app, name="local")

Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output, nothing else.")]
BudgetOption = Annotated[str | None, typer.Option(help="Limits, such as calls=2000,usd=1.5,tokens=...,seconds=...")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting: a.b=c. May be given several times.")]


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="A task's name, a .jsonl file of your own, or a CONFIG.toml.")],
    optimizer: Annotated[str | None, typer.Option(help="opro or random.")] = None,
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
    json: Json = False,
) -> None:
    """Search for better instructions (or numbers) and measure what was found on examples the search never saw."""
    from asyncopt.cli.run import run_study
    from asyncopt.cli.settings import settle

    flags: dict[str, Any] = {
        "optimizer.name": optimizer,
        "models.scorer.model": scorer,
        "models.proposer.model": proposer,
        "optimizer.steps": steps,
        "task.limit": limit,
        "task.data": data,
        "seed": seed,
        "use_cache": False if no_cache else None,
    }
    run_study(settle(task, flags, base_url, budget, settings or []), directory, json=json)


@app.command()
def resume(
    directory: Annotated[Path, typer.Argument(help="The directory of a run.")],
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Go on with a run that was stopped; what it has paid for is not paid again."""
    from asyncopt.cli.run import run_study
    from asyncopt.cli.settings import settle_resumed

    run_study(settle_resumed(directory, budget), directory, json=json)


@app.command()
def replay(
    recorded: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The directory of a run.")],
    directory: Annotated[Path | None, typer.Option(help="Where the replay is kept; by default a new one.")] = None,
    json: Json = False,
) -> None:
    """Make the decisions of a run again, in their order and on what they saw; fails where the history differs."""
    from asyncopt.cli.run import run_study
    from asyncopt.cli.settings import settle_resumed

    run_study(settle_resumed(recorded, None), directory, json=json, replay=recorded)


@app.command()
def show(directory: Annotated[Path, typer.Argument(help="The directory of a run.")], json: Json = False) -> None:
    """Show what a run has found so far, step by step."""
    from asyncopt.cli.show import show_run

    show_run(directory, json=json)


@tasks_app.command("ls")
def tasks_ls(json: Json = False) -> None:
    """List the tasks."""
    from asyncopt.cli.show import list_tasks

    list_tasks(json=json)


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
    study: Annotated[str | None, typer.Option(help="Simulate this study instead; named as for run.")] = None,
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
