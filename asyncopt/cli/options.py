"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON lines on standard output, nothing else.")]
DisplayOption: TypeAlias = Annotated[
    str | None, typer.Option("--display", help="rich, plain, json or none; by default what the terminal can show.")
]
BudgetOption: TypeAlias = Annotated[
    str | None, typer.Option(help="Limits, such as calls=2000,usd=1.5,tokens=...,seconds=...")
]
SharedOption: TypeAlias = Annotated[
    str | None,
    typer.Option(help="One quota for all that name it: unix:/PATH on this machine, or redis://HOST:6379/0."),
]
BatchTestOption: TypeAlias = Annotated[
    bool, typer.Option("--batch-test", help="Measure held-out scores in batches: half the price, up to a day.")
]
WorkersOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes of this machine; by default one, or more where the quotas allow over 2,000 calls a second.",
    ),
]
RayOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS|local",
        help="Run the studies on this Ray cluster (HOST:PORT, auto), or a new one here; --workers is of how many.",
    ),
]
WaitOption: TypeAlias = Annotated[bool, typer.Option("--wait", help="Wait for a daily quota, for hours if need be.")]
SetOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting: a.b=c. May be given several times.")
]
ScorerOption: TypeAlias = Annotated[
    str | None, typer.Option(help="The model that is instructed: local (the default), openai/NAME, ...")
]
ProposerOption: TypeAlias = Annotated[str | None, typer.Option(help="The model that proposes; by default the scorer.")]
BaseUrlOption: TypeAlias = Annotated[
    str | None, typer.Option(help="An OpenAI-compatible server, such as http://host/v1.")
]
LimitOption: TypeAlias = Annotated[int | None, typer.Option(help="At most so many examples in each split.")]
DataOption: TypeAlias = Annotated[Path | None, typer.Option(help="The folder of published data sets.")]
OptimizerOption: TypeAlias = Annotated[
    str | None,
    typer.Option(help="opro, random, ape, dln1, dln2, paraphrase, reflective, evoprompt-ga or evoprompt-de."),
]
StepsOption: TypeAlias = Annotated[int | None, typer.Option(help="How many steps.")]
SeedOption: TypeAlias = Annotated[int | None, typer.Option(help="Every random choice comes from it.")]
ModeOption: TypeAlias = Annotated[
    str | None, typer.Option(help="parallel, or faithful to the reference in every draw.")
]
NoCacheOption: TypeAlias = Annotated[
    bool, typer.Option("--no-cache", help="Ask the model again, whatever was answered.")
]
ObserveOption: TypeAlias = Annotated[
    list[str] | None, typer.Option(help="Tell otel, prometheus:PORT, wandb, mlflow or package.module:name.")
]
