"""What DLN-2 takes against a simulated API with log-probabilities: the project's order, and the reference code's.

**One iteration** (forward pass and inference; B = 20, N = 20, K = 5 and a full memory of M = 5, as in the paper) with a
constant latency and no limits: how many latencies it takes, and the requests that reach the server, by kind. The
reference's order stands there three times: its eight phases with a barrier after each; the same with a barrier between
sets of scores that the code asks for one after the other (posterior and prior, ELBO and trust region); and in its
batches of 20 with a barrier after each. The reference code itself was counted at 7,358 requests (7,220 to the forward
model and 138 to the backward model). All orders choose the same prompts, or the script fails.

**Whole runs** under a request quota that is known, with log-normal latencies, a 1 % tail of which takes ten times as
long: the share of the quota that was used from the first request to the last, with validations and a memory that
fills. `limited by` is what kept more calls from being in flight, in shares of the time: quota is what one wants to see,
tail the wait for the last answers of a phase. Test examples are left out.

Features on: single flight, cache in memory (not for the reference's order, which remembers scores itself), priorities,
request meter; no journal. The server is wrong about a third of the examples whatever the prompt, so that no batch comes
out without errors and every iteration has all of its phases. On a virtual clock.

    python benchmarks/dln.py --rate 25 100 400
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, TypeAlias

from common import parser, table, write_json
from dln_reference import Barriers, Reference, searching

from asyncopt import Engine, Example, MemoryCache, Model, Quota, Study, Task
from asyncopt.cli.summary import Attribution
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.endpoints.protocol import Answer
from asyncopt.optimizers import DLN2
from asyncopt.optimizers.dln.asking import Proposer
from asyncopt.optimizers.dln.dln2 import TwoLayerNetwork
from asyncopt.optimizers.dln.inference import Ask
from asyncopt.optimizers.dln.layers import forward, pair_of
from asyncopt.testing import AnswerModel, Constant, SimulatedAPI, SimulatedEndpoint, items_of, run_virtual
from asyncopt.testing.latency import Latency, parse_latency
from asyncopt.values import Likelihood, Request

OURS = "asyncopt"
BATCHES = "reference: batches of 20"
ORDERS: Mapping[str, tuple[int | None, bool]] = {  # the reference's: requests at a time, and whether sets go together
    "reference: phases": (None, True),
    "reference: sets": (None, False),
    BATCHES: (20, False),
}
KINDS = ("h", "log p(y)", "log p(h)", "q(h)", "proposals")
HIDDEN, OUTPUT = "Think about the numbers.", "Answer the question with yes or no."
INITIAL = pair_of(HIDDEN, OUTPUT)
WRONG_ONE_OF = 3
UNLIMITED = 1e9  # requests a minute
MANY = 1_000_000
LATENCIES = ["lognormal:0.5:0.4", "lognormal:0.5:0.4:0.01:10"]


def task_of(train: int, validation: int) -> Task:
    """Sums to be compared, with two classes."""
    sums = [(a, a * 7919 % 89 + 10, a * 104729 % 97 + a) for a in range(10, 10 + train + validation)]
    texts = [(f"Is {a} plus {b} more than {c}?", "Yes" if a + b > c else "No") for a, b, c in sums]
    examples = tuple(Example(number, text, target) for number, (text, target) in enumerate(texts))
    classes = ("yes|Yes", "no|No")
    return Task("sums", "boolean", examples[:train], (), examples[train:], initial=("",), classes=classes)


def doubtful(task: Task) -> Task:
    """The task as the server knows it: one answer of three is the other one."""
    other = {"Yes": "No", "No": "Yes"}

    def taught(examples: Sequence[Example]) -> tuple[Example, ...]:
        wrong = {example.id for example in examples if example.id % WRONG_ONE_OF == 0}
        return tuple(replace(one, target=other[one.target]) if one.id in wrong else one for one in examples)

    return replace(task, train=taught(task.train), validation=taught(task.validation))


def options_of(chosen: Namespace) -> DLN2:
    """The paper's sizes and the usual options of its end-to-end runs."""
    return DLN2(
        steps=chosen.steps,
        batch_size=chosen.batch,
        prompt_samples=chosen.prompts,
        hidden_samples=chosen.samples,
        memory=chosen.memory,
        posteriors=("label", "prior"),
        held_out_ranking=True,
        trust_factor=1.0,
        logp_penalty=1.0,
        proposal="brief",
        initial_hidden=HIDDEN,
        initial_output=OUTPUT,
    )


class Counted:
    """An endpoint that counts the requests by what they ask for."""

    def __init__(self, endpoint: SimulatedEndpoint) -> None:
        self.identity, self.account = endpoint.identity, endpoint.account
        self.supports = replace(endpoint.supports, stream=False)
        self.counts: Counter[str] = Counter()
        self._endpoint = endpoint

    async def send(self, model: str, request: Request) -> Answer:
        self.counts[kind_of(request)] += 1
        return await self._endpoint.send(model, request)

    async def aclose(self) -> None:
        await self._endpoint.aclose()


def kind_of(request: Request) -> str:
    """What a request is for."""
    if isinstance(request, Likelihood):
        return "log p(h)"
    if request.top_logprobs:
        return "log p(y)"
    if not request.sampling.temperature:
        return "h"
    return "proposals" if request.prompt[-1].content.endswith("instruction:") else "q(h)"


@dataclass(frozen=True)
class Figures:
    """What one arm took. ``seconds`` are virtual, up to the last answer of the search; ``mean`` calls are in flight."""

    seconds: float
    calls: int
    counts: Mapping[str, int]
    mean: float
    limited: Mapping[str, float]
    chosen: Sequence[str]


Arm: TypeAlias = Callable[[Model], Awaitable[Sequence[str]]]  # the prompts that it chose, in their order


def measured(arm: Arm, task: Task, quota: Quota, seed: int, *, cached: bool, **server: Any) -> Figures:
    """One arm against a fresh server, alone."""
    api = SimulatedAPI(seed=seed, answers=AnswerModel(seed, items_of([doubtful(task)])), keep_prompts=False, **server)
    endpoint = Counted(api.endpoint(codec=TextCompletions()))

    async def main() -> Figures:
        async with Engine(cache=MemoryCache() if cached else None, grace=0.0) as engine:
            chosen = await arm(engine.model("m", endpoint=endpoint, quota=quota))
            seconds = asyncio.get_running_loop().time()
            limited = Attribution.of(engine.dispatchers[0]).limited
        mean = api.ledger.busy_seconds() / seconds
        refused = sum(entry.status == 429 for entry in api.ledger.entries)
        return Figures(seconds, len(api.ledger.entries) - refused, dict(endpoint.counts), mean, dict(limited), chosen)

    return run_virtual(main)


def require_same(found: Mapping[str, Figures]) -> None:
    """Fail unless all arms chose the same prompts: else they were not asked to do the same."""
    for name, figures in found.items():
        if figures.chosen != found[OURS].chosen:
            raise SystemExit(f"{name} chose {figures.chosen!r}, and {OURS} {found[OURS].chosen!r}")


# -- one iteration -------------------------------------------------------------------------------------------------


def iterations(task: Task, options: DLN2, seed: int) -> tuple[dict[str, Figures], Counter[str]]:
    """The first iteration in every order with a full memory, where a second is one latency.

    Beside it, what the reference's batches asked for, phase by phase: the engine merges twins in one batch.
    """
    sent: Counter[str] = Counter()
    memory = [
        pair_of(f"Look at digit {number}.", f"Say yes or no, version {number}.") for number in range(options.memory)
    ]

    async def ours(model: Model) -> Sequence[str]:
        layers = options.program(task)
        search = searching(task, model, seed)
        backward = Proposer(search, model, options.texts(), options.backward_temperature, options.proposal_tokens)
        network = TwoLayerNetwork(Ask(search, options, model, backward), options, layers)
        batch = Reference(task, options, Barriers(model), seed).batch(0)
        passes = await forward(model, layers, task, INITIAL, batch)
        return [(await network.improve(0, INITIAL, passes, memory)).candidate]

    def theirs(size: int | None, together: bool) -> Arm:
        async def arm(model: Model) -> Sequence[str]:
            barriers = Barriers(model, size, together)
            reference = Reference(task, options, barriers, seed)
            passes = await reference.forward(INITIAL, reference.batch(0))
            chosen = [await reference.improve(0, INITIAL, passes, memory)]
            if size is not None:
                sent.update(barriers.sent)
            return chosen

        return arm

    latency: Latency = Constant(1.0)
    free = Quota(UNLIMITED, concurrency=MANY)
    found = {OURS: measured(ours, task, free, seed, cached=True, latency=latency)}
    for name, order in ORDERS.items():
        found[name] = measured(theirs(*order), task, free, seed, cached=False, latency=latency)
    require_same(found)
    return found, sent


def show_iterations(found: Mapping[str, Figures], sent: Mapping[str, int], options: DLN2) -> None:
    sizes = (
        f"B = {options.batch_size}, N = {options.prompt_samples}, K = {options.hidden_samples}, M = {options.memory}"
    )
    print(f"one iteration, {sizes}, memory full, constant latency, no limits")
    rows = [
        [name, f"{one.seconds:.2f}", str(one.calls), *(str(one.counts.get(kind, 0)) for kind in KINDS)]
        for name, one in found.items()
    ]
    table(["order", "latencies", "requests", *KINDS], rows)
    phases = ", ".join(f"{phase} {count:,}" for phase, count in sent.items())
    print(f"before twins in one batch are merged, the reference's order asks for {sum(sent.values()):,}: {phases}")


# -- whole runs ----------------------------------------------------------------------------------------------------


def runs(task: Task, options: DLN2, rate: float, latency: str, seed: int) -> dict[str, Figures]:
    """Whole searches under a quota of so many requests a second."""

    async def ours(model: Model) -> Sequence[str]:
        study = Study(task=task, optimizer=options, scorer=model, proposer=model, seed=seed)
        await study.run()
        return [entry.candidate for entry in study.history.entries]

    async def theirs(model: Model) -> Sequence[str]:
        return await Reference(task, options, Barriers(model), seed).run(INITIAL)

    server: dict[str, Any] = {
        "latency": parse_latency(latency),
        "requests_per_second": rate,
        "request_burst": rate / 10 + 2,
    }
    quota = Quota(60 * rate, concurrency=MANY)
    found = {OURS: measured(ours, task, quota, seed, cached=True, **server)}
    found[BATCHES] = measured(theirs, task, quota, seed, cached=False, **server)
    require_same(found)
    return found


def show_runs(found: Mapping[str, Figures], rate: float, latency: str, steps: int) -> None:
    print(f"\n{steps} iterations, {rate:g} requests a second, latency {latency}")
    rows = []
    for name, one in found.items():
        limits = ", ".join(f"{reason} {100 * part:.0f} %" for reason, part in one.limited.items() if part >= 0.005)
        share = 100 * one.calls / (rate * one.seconds)
        rows.append([name, f"{one.seconds:.0f}", str(one.calls), f"{share:.1f} %", f"{one.mean:.0f}", limits])
    table(["order", "s", "requests", "of the quota", "mean in flight", "limited by"], rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=20, help="B")
    options.add_argument("--prompts", type=int, default=20, help="N")
    options.add_argument("--samples", type=int, default=5, help="K")
    options.add_argument("--memory", type=int, default=5, help="M")
    options.add_argument("--steps", type=int, default=5, help="iterations of a whole run")
    options.add_argument("--rate", type=float, nargs="+", default=[25.0, 100.0], help="requests a second")
    options.add_argument("--latency", nargs="+", default=LATENCIES, help="as in `asyncopt simulate`")
    options.add_argument("--validation", type=int, default=250, help="examples")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.batch, chosen.prompts, chosen.samples, chosen.memory, chosen.steps = 10, 4, 3, 2, 2
        chosen.validation, chosen.latency = 12, chosen.latency[:1]
    task = task_of(max(200, chosen.batch), chosen.validation)
    settings = options_of(chosen)
    alone, sent = iterations(task, settings, chosen.seed)
    show_iterations(alone, sent, settings)
    whole = {}
    for latency, rate in product(chosen.latency, chosen.rate):
        found = runs(task, settings, rate, latency, chosen.seed)
        show_runs(found, rate, latency, chosen.steps)
        whole[f"{rate:g} a second, {latency}"] = found
    figures = {
        "iteration": {name: asdict(one) for name, one in alone.items()} | {"reference asks for": dict(sent)},
        "runs": {name: {order: asdict(one) for order, one in found.items()} for name, found in whole.items()},
    }
    names = ("batch", "prompts", "samples", "memory", "steps", "validation", "seed")
    write_json(chosen.json, "dln", {name: getattr(chosen, name) for name in names}, figures)


if __name__ == "__main__":
    main()
