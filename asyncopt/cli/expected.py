"""From a configuration to its forecast: prices looked up, the pilot run, and what is said of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from asyncopt import codec
from asyncopt.cli.models import check_model, open_models, roles, start_local_servers
from asyncopt.cli.run import cache_path, coordinator_of
from asyncopt.config import Config, ModelConfig
from asyncopt.endpoints.providers import provider
from asyncopt.engine import Engine
from asyncopt.files import cache_folder
from asyncopt.forecast import NO_PILOT, Forecast, Interval, Listener, Noise, Pilot, Served, forecast, run_pilot
from asyncopt.forecast.estimate import DRAWS
from asyncopt.local import is_local
from asyncopt.prices import Priced, price_of
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Price

_FEWEST_DRAWS = 30
LOCAL_SLOTS = 8  # calls that the embedded model's server takes at once
_FREE = Priced(Price(), "the embedded model is free")
_BUDGETED = ("calls", "tokens", "usd", "seconds")


@dataclass(frozen=True, slots=True)
class Expected:
    """What some studies will take together; ``prices`` are by model, and ``seconds`` with ``at_once`` side by side."""

    forecasts: tuple[Forecast, ...]
    prices: Mapping[str, Priced]
    at_once: int = 1

    def total(self, quantity: str) -> Interval | None:
        """The interval of calls, tokens and so on for all studies; None where it is not known of one."""
        every: list[Interval | None] = [getattr(one, quantity) for one in self.forecasts]
        known = [one for one in every if one is not None]
        if len(known) < len(every) or not known:
            return None
        total = known[0]
        for one in known[1:]:
            total += one
        return total.over(min(self.at_once, len(known))) if quantity == "seconds" else total

    def to_json(self, budget: Mapping[str, float | None]) -> dict[str, Any]:
        """A plain value that JSON can hold."""
        names = ("calls", "input_tokens", "output_tokens", "tokens", "usd", "seconds")
        totals = {name: self.total(name) for name in names}
        first = self.forecasts[0]
        return {
            **{name: None if one is None else asdict(one) for name, one in totals.items()},
            "bound": first.bound,
            "limited": dict(first.limited),
            "noise": None if first.noise is None else asdict(first.noise),
            "pilot_calls": sum(one.pilot_calls for one in self.forecasts),
            "prices": {
                model: {"price": None if one.price is None else asdict(one.price), "source": one.source}
                for model, one in self.prices.items()
            },
            "budget": dict(self.verdicts(budget)),
        }

    def verdicts(self, budget: Mapping[str, float | None]) -> Iterator[tuple[str, str]]:
        """Of each limit whether it "suffices", "may not suffice" or "does not suffice"."""
        for name in _BUDGETED:
            limit, wanted = budget.get(name), self.total(name)
            if limit is None:
                continue
            if wanted is None:
                yield name, "cannot be held against a price that is not known"
            elif wanted.high <= limit:
                yield name, "suffices"
            else:
                yield name, "does not suffice" if wanted.low > limit else "may not suffice"


def expected(configs: Sequence[Config], pilots: Mapping[str, Pilot], at_once: int = 1) -> Expected:
    """The forecasts of these runs; ``pilots`` are by :func:`subject`; where one lacks, values are typical."""
    models = {_priced_as(wanted): wanted for config in configs for wanted in roles(config).values()}
    prices = {key: _price(wanted) for key, wanted in models.items()}
    draws = max(DRAWS // len(configs), _FEWEST_DRAWS)
    known: dict[tuple[str, bool], Forecast] = {}
    piloted: dict[str, tuple[int, Sequence[Example]]] = {}  # the seed and the examples that the pilot had
    for config in configs:
        kind = _kind(config, piloted)
        if kind in known:
            continue
        task = config.load_task()
        examples = task.train if isinstance(task, Task) else ()
        pilot = pilots.get(subject(config), NO_PILOT)
        if piloted.setdefault(subject(config), (config.seed, examples))[1] != examples:
            pilot = replace(pilot, cached=0)
        served = {role: _served(wanted, prices[_priced_as(wanted)].price) for role, wanted in roles(config).items()}
        known[_kind(config, piloted)] = forecast(
            task,
            config.build_optimizer(task),
            served,
            pilot,
            seed=config.seed,
            use_cache=config.use_cache,
            draws=draws,
        )
    found = [known[_kind(config, piloted)] for config in configs]
    return Expected(tuple(found), _by_name((key[0], priced) for key, priced in prices.items()), at_once)


def _priced_as(wanted: ModelConfig) -> tuple[str, str | None, Price | None]:
    """What decides a price: two servers may serve a model of the same name."""
    return wanted.model, wanted.address, wanted.price


def _by_name(prices: Iterable[tuple[str, Priced]]) -> dict[str, Priced]:
    """Prices by model; a name that stands for several prices is numbered."""
    found: dict[str, Priced] = {}
    for model, priced in prices:
        names = itertools.chain([model], (f"{model} ({number})" for number in itertools.count(2)))
        found[next(name for name in names if found.get(name, priced) == priced)] = priced
    return found


def _kind(config: Config, piloted: Mapping[str, tuple[int, Sequence[Example]]]) -> tuple[str, bool]:
    """What studies have in common that differ in their seed alone, and whether it is the pilot's."""
    seed = piloted[subject(config)][0] if subject(config) in piloted else config.seed
    return repr(config.model_copy(update={"seed": 0})), config.seed == seed


def subject(config: Config) -> str:
    """What one pilot is good for: a task, an optimizer and models."""
    return repr((config.task, config.optimizer.name, config.models, config.mode))


async def run_pilots(configs: Sequence[Config], calls: int, engine: Engine, listener: Listener) -> dict[str, Pilot]:
    """A pilot of so many calls for each subject; what is answered is in the engine's cache then."""
    pilots: dict[str, Pilot] = {}
    for config in configs:
        if subject(config) in pilots:
            continue
        for wanted in roles(config).values():
            check_model(wanted)
        task = config.load_task()
        async with AsyncExitStack() as stack:
            log = cache_folder() / "local.log"
            servers = await start_local_servers(config, stack, log, lambda _: None)
            models = await open_models(config, engine, servers)
            optimizer = config.build_optimizer(task)
            optimizer.check(task, models.get("scorer"), models.get("proposer"))
            pilots[subject(config)] = await run_pilot(
                task, optimizer, engine, models, listener, calls=calls, seed=config.seed
            )
            await engine.flush()
    return pilots


def engine_of(config: Config, listener: Listener) -> Engine:
    """An engine with the cache that the run will have."""
    return Engine(cache=cache_path(config), observers=[listener], coordinator=coordinator_of(config))


def _price(wanted: ModelConfig) -> Priced:
    if is_local(wanted.model) and wanted.price is None:
        return _FREE
    return price_of(wanted.model, wanted.address, wanted.price)


def _served(wanted: ModelConfig, price: Price | None) -> Served:
    name = provider(wanted.model, wanted.address or "http://localhost", None).model
    scope = wanted.scope or name
    family = wanted.model.partition("/")[0] if wanted.address is None else wanted.address
    quota = wanted.quota
    if is_local(wanted.model) and quota.concurrency is None:
        quota = replace(quota, concurrency=LOCAL_SLOTS)
    return Served("|".join((family, wanted.api_key_env or "", scope)), scope, quota, price)


# -- lines for people --------------------------------------------------------------------------------------------------


def lines_of(found: Expected, budget: Mapping[str, float | None], *, pilot: bool) -> Iterator[str]:
    """What is expected, in lines."""
    number = len(found.forecasts)
    head = "this run" if number == 1 else f"{number} studies"
    yield f"{head + ' will take':28} {'expected':>12}   90 % interval"
    for name in ("calls", "input_tokens", "output_tokens"):
        yield _line(name.replace("_", " "), found.total(name), "{:,.0f}")
    yield _line("dollars", found.total("usd"), "{:,.2f}")
    yield _line("time", found.total("seconds"), None)
    first = found.forecasts[0]
    if first.limited:
        yield f"the time is bound by {_BOUND[first.bound]}: " + ", ".join(
            f"{100 * share:.0f} % {name}" for name, share in first.limited.items() if share >= 0.005
        )
    for name, priced in found.prices.items():
        model = codec.printable(name, 60)
        if priced.price is None:
            yield f"{model}: {priced.source}"
        elif priced is not _FREE:
            yield f"{model}: ${priced.price.input:g} and ${priced.price.output:g} a million tokens, {priced.source}"
    if first.noise is not None:
        yield from _noise_lines(first.noise)
    for name, verdict in found.verdicts(budget):
        yield f"the budget of {budget[name]:g} {name} {verdict}"
    if not pilot:
        yield "without a pilot: lengths and latencies are typical values, so the intervals are wide (asyncopt plan)"


_BOUND = {
    "tail": "latency: the stragglers of each step",
    "proposals": "latency: proposals that all else waits for",
    "concurrency": "concurrency",
    "pauses": "pauses after failures",
    "quota": "the quota",
    "nothing": "nothing",
}


def _line(name: str, one: Interval | None, form: str | None) -> str:
    if one is None:
        return f"{name:28} {'not known':>12}"
    values = [duration(value) if form is None else form.format(value) for value in (one.middle, one.low, one.high)]
    return f"{name:28} {values[0]:>12}   {values[1]} to {values[2]}"


def duration(seconds: float) -> str:
    """A time for people, such as ``3 min`` or ``1 h 40 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _noise_lines(noise: Noise) -> Iterator[str]:
    if noise.high - noise.low < 1.0:
        yield f"the initial prompt scores {100 * noise.score:.0f} % ({100 * noise.low:.0f} to {100 * noise.high:.0f})"
    shown = f"a score on {noise.n} examples has a standard error of {100 * noise.standard_error:.1f} points"
    if noise.repeat is not None:
        shown += f"; asked again, the same prompt differs by {100 * noise.repeat:.1f}"
    yield shown
    if noise.paired < 1.0:
        yield (
            f"the smallest gain that shows (80 % power): {100 * noise.paired:.1f} points on the same {noise.n} examples"
            + (f", {100 * noise.unpaired:.1f} on others" if noise.unpaired < 1.0 else "")
        )
    else:
        yield f"no gain can be shown with {noise.n} examples (80 % power); more are needed"
