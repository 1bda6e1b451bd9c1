"""DLN on the embedded model with its true log-probabilities, over several seeds, beside prompts that nobody trained.

Every seed is one search from mediocre initial prompts, with the settings that `asyncopt run` has for this optimizer and
this model (`--set` changes them), and one control: as many proposals as the search makes, all from the initial prompts,
none scored on a batch, and of these the best by validation. So the control looks at the validation examples more often
than the search does, for which they decide among a few prompts. Both see the same splits; the held-out examples are
seen by neither. All seeds are reported as they come.

    python benchmarks/dln_embedded.py --task antonym --optimizer dln1 --seeds 0 1 2
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import parser, table, write_json

from asyncopt import Engine, MemoryCache, Model, Result, Study
from asyncopt.cli.models import open_models, start_local_servers
from asyncopt.cli.settings import settle
from asyncopt.config import Config
from asyncopt.evaluation import Program
from asyncopt.loops import loop_factory
from asyncopt.optimizers import DLN1, DLN2, Entry, Search
from asyncopt.optimizers.base import AnyTask
from asyncopt.optimizers.dln.asking import Proposer
from asyncopt.optimizers.dln.layers import pair_of
from asyncopt.optimizers.dln.options import examples_of
from asyncopt.optimizers.dln.proposals import prompt_requests

# The word lists state no prompt for a hidden layer.
HIDDEN = {"antonym": "Say what the word means.", "capital": "Say what is known of the country."}


@dataclass(frozen=True)
class Resampling:
    """Proposals from the initial prompts of a network, as many as its training makes, chosen by validation alone."""

    network: DLN1 | DLN2
    name: str = "resampled"
    steps: int = 1

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        self.network.check(task, scorer, proposer)

    def program(self, task: AnyTask) -> Program:
        return self.network.program(task)

    async def run(self, search: Search) -> None:
        task = examples_of(search.task)
        options = self.network
        bases = [options.first_output(task)]
        if isinstance(options, DLN2):
            bases = [options.first_hidden(task), *bases]
        layers = [await self._proposals(search, place, base) for place, base in enumerate(bases)]
        texts = [tuple(bases), *zip(*layers, strict=True)]
        candidates = [pair_of(*prompts) if len(prompts) == 2 else prompts[0] for prompts in texts]
        start, *others = await search.validate(list(dict.fromkeys(candidates)))
        for step, validated in ((-1, [start]), (0, others)):
            search.begin_step(step)
            await search.finish_validation(step, validated)
            entries = [
                Entry(one.candidate, one.score, step, index, one.examples, one.complete, self.name)
                for index, one in enumerate(validated)
            ]
            await search.finish_step(step, entries, {})

    async def _proposals(self, search: Search, place: int, base: str) -> list[str]:
        """Other prompts for one layer; the base stands in where the model has none."""
        options = self.network
        templates, purpose = options.texts(), f"resampling {place}"
        proposer = Proposer(
            search, search.require_proposer(), templates, options.backward_temperature, options.proposal_tokens
        )
        count = options.steps * (options.prompt_samples - 1)
        requests = prompt_requests(templates, [base], [], count, partial(search.rng, 0, purpose))
        asked = [proposer.prompt(0, purpose, index, request) for index, request in enumerate(requests)]
        return [text or base for text in await asyncio.gather(*asked)]


def settings_of(chosen: Namespace, seed: int) -> Config:
    """The configuration of one search."""
    hidden = [f"optimizer.initial_hidden={HIDDEN[chosen.task]}"] if chosen.optimizer == "dln2" else []
    flags = {"optimizer.name": chosen.optimizer, "seed": seed}
    return settle(chosen.task, flags, None, None, [*hidden, *chosen.set])


async def searched(config: Config, *, control: bool) -> Result:
    """The result of the search, or of its control."""
    task = config.load_task()
    network = config.build_optimizer(task)
    assert isinstance(network, (DLN1, DLN2))
    optimizer = Resampling(network) if control else network
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = await start_local_servers(config, stack, folder / "local.log", print)
        engine = await stack.enter_async_context(Engine(cache=MemoryCache()))
        models = await open_models(config, engine, servers)
        scorer, proposer = models["scorer"], models["proposer"]
        study = Study(task=task, optimizer=optimizer, scorer=scorer, proposer=proposer, seed=config.seed)
        return await study.run()


def compared(chosen: Namespace, seed: int) -> dict[str, dict[str, Any]]:
    """The search and its control, one after the other."""
    config = settings_of(chosen, seed)
    results = {}
    for name, control in ((chosen.optimizer, False), ("control", True)):
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            results[name] = runner.run(searched(config, control=control)).to_json()
    return results


def each(chosen: Namespace) -> Iterator[dict[str, dict[str, Any]]]:
    """The results of all seeds in their order; one at a time needs no other process, which could be left behind."""
    if chosen.jobs == 1:
        yield from map(compared, repeat(chosen), chosen.seeds)
        return
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(compared, repeat(chosen), chosen.seeds)


def rows(seed: int, results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The lines of one seed; scores in percent."""
    return [
        [
            str(seed),
            name,
            f"{share(result['initial'], 'validation')} -> {share(result['best'], 'validation')}",
            f"{share(result['initial'], 'held_out')} -> {share(result['best'], 'held_out')}",
            f"{gain(result):+.1f}",
            str(result["best"]["step"] + 1),
            str(result["calls"]),
            f"{result['seconds']:.0f}",
            result["best"]["candidate"],
        ]
        for name, result in results.items()
    ]


def share(scored: dict[str, Any], fold: str) -> str:
    """The share of right answers, in percent."""
    return f"{100 * scored[fold]['score']:.1f}"


def gain(result: dict[str, Any]) -> float:
    """Points won on the held-out examples."""
    return float(100 * (result["best"]["held_out"]["score"] - result["initial"]["held_out"]["score"]))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--task", default="antonym", choices=sorted(HIDDEN))
    options.add_argument("--optimizer", default="dln1", choices=["dln1", "dln2"])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--jobs", type=int, default=1, help="seeds at once; times are true for 1 only")
    options.add_argument("--set", action="append", default=[], metavar="A.B=C")
    chosen = options.parse_args()
    found = {}
    for seed, results in zip(chosen.seeds, each(chosen), strict=False):
        found[seed] = results
        print(
            f"seed {seed}: {', '.join(f'{name} {gain(result):+.1f}' for name, result in results.items())}", flush=True
        )
    show(chosen, found)
    settings = {name: getattr(chosen, name) for name in ("task", "optimizer", "set")}
    write_json(chosen.json, "dln_embedded", settings, {str(seed): results for seed, results in found.items()})


def show(chosen: Namespace, found: dict[int, dict[str, dict[str, Any]]]) -> None:
    config = settings_of(chosen, 0)
    print(f"\n{chosen.task}: {config.build_optimizer(config.load_task())}")
    heads = [
        "seed",
        "",
        "dev: initial -> best",
        "held out: initial -> best",
        "gain",
        "found in step",
        "calls",
        "s",
        "best",
    ]
    table(heads, [row for seed, results in found.items() for row in rows(seed, results)])
    for name in (chosen.optimizer, "control"):
        gains: Sequence[float] = [gain(results[name]) for results in found.values()]
        print(f"median gain on held-out examples, {name}: {statistics.median(gains):+.1f} points, {len(gains)} seeds")


if __name__ == "__main__":
    main()
