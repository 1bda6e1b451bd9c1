"""A whole study against simulated servers on a virtual clock: when it would end, what it would take, and its regret.

The models that the configuration names are not called: each of their quotas gets a simulated server that keeps it. The
search, the engine and all settings are the real ones, only the answers are not. What an instruction is worth is known
here, so that the chosen one can be held against the best that was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from asyncopt.cache import MemoryCache
from asyncopt.cli.models import roles
from asyncopt.cli.summary import Attribution
from asyncopt.config import Config, ModelConfig
from asyncopt.dispatch import Dispatcher
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.engine import Engine, Model
from asyncopt.local import is_local
from asyncopt.optimizers.base import AnyTask
from asyncopt.optimizers.history import Entry
from asyncopt.result import Result
from asyncopt.study import Study
from asyncopt.tasks.task import Task
from asyncopt.testing.abilities import Abilities
from asyncopt.testing.answers import AnswerModel, items_of
from asyncopt.testing.clock import run_virtual
from asyncopt.testing.inloop import SimulatedEndpoint
from asyncopt.testing.simulated import SimulatedAPI
from asyncopt.values import DIMENSIONS, Dimension, Price

LOCAL_SLOTS = 8  # calls that the embedded model's server takes at once, where the configuration states no number
_TOKEN_RATES = ("tokens_per_second", "input_tokens_per_second", "output_tokens_per_second")

_Place: TypeAlias = tuple[str, str, str]  # what models must share to draw on one quota: address, key and scope


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate with what it is truly worth: the accuracy that scores only estimate, or the loss."""

    candidate: str
    step: int
    worth: float


@dataclass(frozen=True, slots=True)
class Use:
    """How far one server was used. ``utilisation`` is the mean in flight over the number allowed at the end.

    ``quota`` is the share of what each of its rates would have let through in the study's time, a stranger's share
    taken off; it can pass 1 in a short study, by the server's burst.
    """

    attribution: Attribution
    mean_in_flight: float
    most_in_flight: int
    utilisation: float
    quota: Mapping[Dimension, float]


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a study came to on the virtual clock. ``seconds`` are virtual; ``usd`` is None where a price is missing.

    ``regret`` is the best true accuracy among those tried minus that of the chosen candidate; where candidates have a
    loss, the loss of the chosen one above the optimum.
    """

    task: str
    optimizer: str
    seed: int
    steps: int
    measure: Literal["accuracy", "loss"]
    seconds: float
    calls: int
    refused: int
    hedges: int
    cache_hits: int
    tokens: int
    usd: float | None
    candidates: int
    stopped: int
    initial: Tried
    chosen: Tried
    best: Tried
    regret: float
    uses: tuple[Use, ...]


def simulate(config: Config, server: Mapping[str, Any]) -> Simulated:
    """The study of this configuration in virtual time; no model is called, no key needed and nothing written.

    The quotas that the configuration states are the servers', and known to the engine. ``server`` has parameters of
    :class:`SimulatedAPI` for all servers; a quota there takes the stated one's place, and the engine does not know it.
    Raises :class:`ConfigError` for what cannot be meant, and what :meth:`asyncopt.Study.run` raises.
    """
    simulation = _Simulation(config, config.load_task(), server)
    return run_virtual(simulation.run)


class _Server:
    """A simulated server with the rates that it lets through."""

    def __init__(
        self, place: _Place, wanted: ModelConfig, chosen: Mapping[str, Any], seed: int, answers: AnswerModel
    ) -> None:
        per_minute = {f"{name}_per_second": wanted.quota.per_minute(name) for name in DIMENSIONS}
        stated = {name: rate / 60 for name, rate in per_minute.items() if rate is not None}
        self.choices = {**_token_burst(stated, chosen), **stated, **chosen}
        # What is served here has llama.cpp's way of telling log-probabilities; others have OpenAI's.
        local = Abilities(top_logprobs=100, prompt_logprobs="llamacpp", silent_echo=True)
        abilities = local if is_local(wanted.model) else Abilities()
        self.api = SimulatedAPI(**self.choices, seed=seed, answers=answers, abilities=abilities, keep_prompts=False)
        codec = TextCompletions(wanted.prompt_logprobs or "echo") if wanted.format == "completions" else None
        # The place stands for the account, or the engine would take servers of one scope for the same.
        self.endpoint: SimulatedEndpoint = self.api.endpoint(api_key="|".join(place), codec=codec)
        # Simulated proposals have the right form without any, and a free grammar is not simulated.
        self.endpoint.supports = replace(self.endpoint.supports, grammar=False)

    def use(self, dispatcher: Dispatcher, seconds: float) -> Use:
        """What was made of the server in so many seconds."""
        ledger, attribution = self.api.ledger, Attribution.of(dispatcher)
        mean = ledger.busy_seconds() / seconds if seconds > 0 else 0.0
        shares = {name: share for name in DIMENSIONS if (share := self._share(name, seconds)) is not None}
        return Use(attribution, mean, ledger.max_in_flight(), mean / attribution.concurrency, shares)

    def _share(self, dimension: Dimension, seconds: float) -> float | None:
        rate = self.choices.get(f"{dimension}_per_second")
        if rate is None or seconds <= 0:
            return None
        at, factor = self.choices.get("change") or (seconds, 1.0)
        granted = rate * (min(at, seconds) + factor * max(0.0, seconds - at))
        return float(self._granted(dimension) / (granted * (1 - self.choices.get("stranger", 0.0))))

    def _granted(self, dimension: Dimension) -> int:
        """What the server counted: of a reservation all, unless it gives back what was not used."""
        entries = [entry for entry in self.api.ledger.entries if entry.status != 429]
        if dimension == "requests":
            return len(entries)
        sent = sum(entry.input_tokens for entry in entries)
        refunds = self.choices.get("refund_tokens", False)
        total = sum(entry.input_tokens + entry.output_tokens if refunds else entry.charged for entry in entries)
        return {"tokens": total, "input_tokens": sent, "output_tokens": total - sent}[dimension]


def _token_burst(stated: Mapping[str, float], chosen: Mapping[str, Any]) -> dict[str, float]:
    """A minute's worth where the quota is one a minute, as providers have it: a second's holds no long answer."""
    rates = [stated[name] for name in _TOKEN_RATES if name in stated]
    return {"token_burst": 60 * min(rates)} if rates and not any(name in chosen for name in _TOKEN_RATES) else {}


class _Simulation:
    def __init__(self, config: Config, task: AnyTask, server: Mapping[str, Any]) -> None:
        self._config = config
        self._task = task
        self._answers = AnswerModel(config.seed, items_of([task]) if isinstance(task, Task) else {})
        self._servers: dict[_Place, _Server] = {}
        for wanted in roles(config).values():
            place = _place_of(wanted)
            if place not in self._servers:
                self._servers[place] = _Server(place, wanted, server, config.seed, self._answers)

    async def run(self) -> Simulated:
        """The whole study on the loop it is run in."""
        config = self._config
        async with Engine(cache=MemoryCache() if config.use_cache else None, grace=0.0) as engine:
            models = {role: self._model(engine, wanted) for role, wanted in roles(config).items()}
            study = Study(
                task=self._task,
                optimizer=config.build_optimizer(self._task),
                scorer=models.get("scorer"),
                proposer=models.get("proposer"),
                budget=config.budget.build(),
                seed=config.seed,
            )
            result = await study.run()
            return self._summed_up(study, result, engine)

    def _model(self, engine: Engine, wanted: ModelConfig) -> Model:
        quota, price = wanted.quota, wanted.price
        if is_local(wanted.model):
            quota = replace(quota, concurrency=quota.concurrency or LOCAL_SLOTS)
            price = price or Price()
        endpoint = self._servers[_place_of(wanted)].endpoint
        return engine.model(
            wanted.model, endpoint=endpoint, quota=quota, price=price, timeout=wanted.timeout, hedge=wanted.hedge
        )

    def _summed_up(self, study: Study, result: Result, engine: Engine) -> Simulated:
        tried = {entry.candidate: self._tried(entry) for entry in study.history.entries}
        assert result.best is not None and result.initial is not None  # noqa: PT018
        initial, chosen = tried[result.initial.candidate], tried[result.best.candidate]
        accuracy = isinstance(self._task, Task)
        best = (max if accuracy else min)(tried.values(), key=lambda one: one.worth)
        servers = {id(server.endpoint): server for server in self._servers.values()}
        return Simulated(
            task=result.task,
            optimizer=result.optimizer,
            seed=result.seed,
            steps=result.steps,
            measure="accuracy" if accuracy else "loss",
            seconds=result.seconds,
            calls=result.calls,
            refused=sum(dispatcher.counts.throttled for dispatcher in engine.dispatchers),
            hedges=study.account.hedges,
            cache_hits=result.cache_hits,
            tokens=result.tokens,
            usd=result.usd,
            candidates=len(tried),
            stopped=result.stopped,
            initial=initial,
            chosen=chosen,
            best=best,
            regret=best.worth - chosen.worth if accuracy else chosen.worth - (result.optimum_loss or 0.0),
            uses=tuple(servers[id(one.endpoint)].use(one, result.seconds) for one in engine.dispatchers),
        )

    def _tried(self, entry: Entry) -> Tried:
        if isinstance(self._task, Task):
            worth = self._answers.true_accuracy(self._task.render(entry.candidate, ""))
        else:
            worth = entry.score or 0.0  # a loss is exact
        return Tried(entry.candidate, entry.step, worth)


def _place_of(wanted: ModelConfig) -> _Place:
    provider = wanted.model.partition("/")[0] if wanted.base_url is None else wanted.base_url
    return provider, wanted.api_key_env or "", wanted.scope or wanted.model
