"""The commands by name, in the order in which ``asyncopt --help`` lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from asyncopt.cli import commands_looking as looking
from asyncopt.cli import commands_running as running
from asyncopt.cli import commands_serving as serving
from asyncopt.cli.commands_comparing import compare
from asyncopt.version import __version__

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


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asyncopt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


def _group(name: str, about: str) -> typer.Typer:
    group = typer.Typer(help=about, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group


app.command()(running.plan)
app.command()(running.run)
app.command()(running.resume)
app.command()(running.sweep)
app.command("eval")(running.evaluate)
app.command()(running.replay)
app.command()(looking.view)
app.command()(looking.ctl)
app.command()(looking.show)
app.command()(looking.best)
app.command()(compare)
app.command()(looking.report)
app.command()(looking.export)
app.command()(looking.doctor)
app.command()(serving.proxy)
app.command()(serving.simulate)

_tasks = _group("tasks", "The tasks that can be run by name.")
_tasks.command("ls")(looking.tasks_ls)
_data = _group("data", "Published data sets.")
_data.command("get")(looking.data_get)
_data.command("ls")(looking.data_ls)
_models = _group("models", "What models can be asked for.")
_models.command("probe")(serving.models_probe)
_models.command("ls")(serving.models_ls)
_local = _group("local", "The embedded model.")
_local.command("serve")(serving.local_serve)
