"""The commands about models, and those that serve until interrupted; :mod:`asyncopt.cli.app` puts them together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncopt.cli.options import BaseUrlOption, BudgetOption, Json, ObserveOption, SetOption, SharedOption, WaitOption


def models_probe(
    model: Annotated[str, typer.Argument(help="local, openai/NAME, ..., or a name at --base-url.")],
    base_url: BaseUrlOption = None,
    json: Json = False,
) -> None:
    """Find out by asking what a model's endpoint can do: log-probabilities, seeds, grammars; at most 25 short calls."""
    from asyncopt.cli.probe import probe_model

    probe_model(model, base_url, json=json)


def models_ls(json: Json = False) -> None:
    """List the models that were asked, and what was found."""
    from asyncopt.cli.probe import list_probes

    list_probes(json=json)


def local_serve(
    model: Annotated[str, typer.Argument(help="local, or the path of a GGUF file.")] = "local",
    threads: Annotated[int | None, typer.Option(help="Threads; by default one less than there are cores.")] = None,
) -> None:
    """Serve the embedded model on this machine until interrupted, and print its address and key."""
    from asyncopt.cli.serve import serve_local

    serve_local(model, threads)


def proxy(
    scorer: Annotated[
        str | None, typer.Option(help="The model that is served: local (the default), openai/NAME, ...")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="A server; without --scorer all its models are served.")] = None,
    rpm: Annotated[float | None, typer.Option(help="Requests a minute that the provider allows.")] = None,
    tpm: Annotated[float | None, typer.Option(help="Tokens a minute that the provider allows.")] = None,
    concurrency: Annotated[str | None, typer.Option(help="Calls in flight: a number, or such as 10-20-100.")] = None,
    hedge: Annotated[
        float | None, typer.Option(help="The share of slow calls that may be asked twice: 0 to 0.1.")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(help="The file of answers, or redis://HOST; by default that of all runs.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no answers.")] = False,
    draws: Annotated[str, typer.Option(help="fresh, or cached: the same request has the same answer.")] = "fresh",
    budget: BudgetOption = None,
    settings: SetOption = None,
    observe: ObserveOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")] = 0,
    key_env: Annotated[str | None, typer.Option(help="The variable with the provider's key.")] = None,
    token_env: Annotated[str | None, typer.Option(help="The variable with the key that clients must send.")] = None,
    shared: SharedOption = None,
    wait: WaitOption = False,
) -> None:
    """Serve a model to other programs in OpenAI's format: cached, within its quotas, tried again, within a budget."""
    from asyncopt.cli.proxy import proxy as serve

    serve(
        scorer,
        base_url,
        rpm=rpm,
        tpm=tpm,
        concurrency=concurrency,
        hedge=hedge,
        cache=cache,
        no_cache=no_cache,
        draws=draws,
        budget=budget,
        settings=settings or [],
        observe=observe or [],
        port=port,
        key_env=key_env,
        token_env=token_env,
        wait=wait,
        shared=shared,
    )


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
    batches: Annotated[str | None, typer.Option(help="DELAY[:RATE[:FAILED[:EXPIRES]]] of batches, as 2:500.")] = None,
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
