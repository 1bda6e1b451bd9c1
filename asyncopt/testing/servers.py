"""The servers that simulated studies ask: one for each quota that is named, all with one model's answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from asyncopt.cli.models import roles
from asyncopt.cli.summary import Attribution
from asyncopt.config import Config, ModelConfig
from asyncopt.dispatch import Dispatcher
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.engine import Engine, Model
from asyncopt.local import is_local
from asyncopt.optimizers.base import AnyTask
from asyncopt.tasks.task import Task
from asyncopt.testing.abilities import Abilities
from asyncopt.testing.answers import AnswerModel, items_of
from asyncopt.testing.inloop import SimulatedEndpoint
from asyncopt.testing.simulated import SimulatedAPI
from asyncopt.values import DIMENSIONS, Dimension, Price

LOCAL_SLOTS = 8  # calls that the embedded model's server takes at once, where the configuration states no number
_TOKEN_RATES = ("tokens_per_second", "input_tokens_per_second", "output_tokens_per_second")

_Place: TypeAlias = tuple[str, str, str]  # what models must share to draw on one quota: address, key and scope


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


class SimulatedServers:
    """The servers of these configurations; what they answer comes from the seed of the first and from the tasks.

    ``server`` has parameters of :class:`SimulatedAPI` for all of them.
    """

    def __init__(self, configs: Iterable[Config], tasks: Iterable[AnyTask], server: Mapping[str, Any]) -> None:
        found = list(configs)
        seed = found[0].seed
        self._answers = AnswerModel(seed, items_of(task for task in tasks if isinstance(task, Task)))
        self._servers: dict[_Place, _Server] = {}
        for wanted in (model for config in found for model in roles(config).values()):
            place = _place_of(wanted)
            if place not in self._servers:
                self._servers[place] = _Server(place, wanted, server, seed, self._answers)

    def model(self, engine: Engine, wanted: ModelConfig) -> Model:
        """The model of this configuration's table, opened on the engine."""
        quota, price = wanted.quota, wanted.price
        if is_local(wanted.model):
            quota = replace(quota, concurrency=quota.concurrency or LOCAL_SLOTS)
            price = price or Price()
        endpoint = self._servers[_place_of(wanted)].endpoint
        return engine.model(
            wanted.model, endpoint=endpoint, quota=quota, price=price, timeout=wanted.timeout, hedge=wanted.hedge
        )

    def true_accuracy(self, task: Task, instruction: str) -> float:
        """The share of right answers that the instruction is truly worth, which scores only estimate."""
        return self._answers.true_accuracy(task.render(instruction, ""))

    def uses(self, engine: Engine, seconds: float) -> tuple[Use, ...]:
        """How far each of the engine's servers was used in so many seconds."""
        servers = {id(server.endpoint): server for server in self._servers.values()}
        return tuple(servers[id(one.endpoint)].use(one, seconds) for one in engine.dispatchers)


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


def _place_of(wanted: ModelConfig) -> _Place:
    provider = wanted.model.partition("/")[0] if wanted.address is None else wanted.address
    return provider, wanted.api_key_env or "", wanted.scope or wanted.model
