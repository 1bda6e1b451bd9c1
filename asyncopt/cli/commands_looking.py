"""The commands that look at runs, or steer them; :mod:`asyncopt.cli.app` puts them together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncopt.cli.options import Json


def show(
    directory: Annotated[Path, typer.Argument(help="The directory of a run or a sweep.")],
    against: Annotated[
        str | None, typer.Option(help="Beside published results instead: opro-paper or dln-paper.")
    ] = None,
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


def best(
    directory: Annotated[Path, typer.Argument(help="The directory of a run.")],
    json: Json = False,
) -> None:
    """Print the best instruction of a run, and nothing else."""
    from asyncopt.cli.best import show_best

    show_best(directory, json=json)


def view(
    directory: Annotated[Path, typer.Argument(help="A folder of runs, or the directory of one.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="An address of this machine; another one needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 0,
    token: Annotated[str | None, typer.Option(help="The secret in the page's address; by default a new one.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    json: Json = False,
) -> None:
    """Serve a page with the curves, candidates and answers of runs, which follows and steers those that go on."""
    from asyncopt.cli.view import view as serve

    serve(directory, host=host, port=port, token=token, open_browser=open_browser, json=json)


def ctl(
    directory: Annotated[Path, typer.Argument(help="The directory of a run or a sweep that goes on.")],
    action: Annotated[str, typer.Argument(help="status, pause, resume, stop or set.")] = "status",
    setting: Annotated[str | None, typer.Argument(help="With set: concurrency=N, calls in flight at most.")] = None,
    json: Json = False,
) -> None:
    """Ask a run that goes on how it does, or pause, resume or stop it, or set its concurrency."""
    from asyncopt.cli.ctl import control

    control(directory, action, setting, json=json)


def report(
    directories: Annotated[list[Path], typer.Argument(metavar="DIRECTORY", help="Runs or sweeps.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The file; by default report.html in the directory, of several here."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Beside published results as well: opro-paper or dln-paper.")
    ] = None,
    static: Annotated[Path | None, typer.Option(help="A folder for the figures as PNG and SVG, for papers.")] = None,
) -> None:
    """Write a run, or several side by side, as one HTML file that needs nothing else."""
    from asyncopt.cli.report import write_report

    write_report(directories, out, against, static)


def export(
    directory: Annotated[Path, typer.Argument(help="The directory of a run.")],
    what: Annotated[str, typer.Option(help="candidates, evaluations, calls or activity.")] = "candidates",
    form: Annotated[str | None, typer.Option("--format", help="jsonl, csv or parquet; by default the file's.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The file; by default standard output.")] = None,
) -> None:
    """Write the tables of a run as JSON lines, CSV or Parquet."""
    from asyncopt.cli.export import export_run

    export_run(directory, what, form, out)


def doctor(
    directory: Annotated[Path | None, typer.Argument(help="The directory of a run; without, this machine.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be, and keep what was there aside.")] = False,
    json: Json = False,
) -> None:
    """Say what is wrong with a run's directory, or with this machine's set-up, and what to do about it."""
    from asyncopt.cli.doctor import doctor as examine

    examine(directory, repair, json)


def tasks_ls(json: Json = False) -> None:
    """List the tasks."""
    from asyncopt.cli.show import list_tasks

    list_tasks(json=json)


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


def data_ls(
    data: Annotated[Path | None, typer.Option(help="The folder; by default ASYNCOPT_DATA, or one for caches.")] = None,
    json: Json = False,
) -> None:
    """List which published files are in the data folder, where they lie in it, and their licences."""
    from asyncopt.cli.data import list_data

    list_data(data, json=json)
