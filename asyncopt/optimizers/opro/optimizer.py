"""The loop of OPRO, and random search under the same conditions to hold it against."""

from __future__ import annotations

from dataclasses import dataclass

from asyncopt.engine import Model
from asyncopt.errors import CallFailed, ConfigError, EndpointRefused, QuotaExhausted
from asyncopt.optimizers.base import AnyTask, Search, derived_seed
from asyncopt.optimizers.history import History
from asyncopt.optimizers.opro.domain import STYLES, Domain, Style
from asyncopt.optimizers.opro.instructions import InstructionDomain
from asyncopt.optimizers.opro.pairs import PairDomain
from asyncopt.optimizers.overlap import Overlap, Plan, Proposal, Propose
from asyncopt.optimizers.steps import run_steps
from asyncopt.tasks.task import Task
from asyncopt.values import Generate, Priority, Sampling


@dataclass(frozen=True)
class OPRO(Overlap):
    """Optimization by prompting: a model sees the best solutions with their scores and proposes new ones.

    Defaults are the paper's for prompt optimization (section 5.1): 200 steps of K = 8 samples (``samples_per_step``),
    the best M = 20 in the meta-prompt (``history_size``), 3 exemplars, temperature 1. ``styles`` are used in turn.
    :class:`~asyncopt.optimizers.overlap.Overlap` has the options that let steps run into each other.
    """

    steps: int = 200
    samples_per_step: int = 8
    history_size: int = 20
    exemplars: int = 3
    threshold: float | None = None
    temperature: float = 1.0
    max_tokens: int = 1024
    styles: tuple[Style, ...] = ("meta-prompt",)
    name: str = "opro"

    def __post_init__(self) -> None:
        self.check_overlap()
        for name, least in (("steps", 0), ("samples_per_step", 1), ("history_size", 1), ("exemplars", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"opro's {name} is {getattr(self, name)}; it must be at least {least}")
        unknown = [style for style in self.styles if style not in STYLES]
        if unknown or not self.styles:
            raise ConfigError(f"opro's styles are {list(self.styles)}; wanted some of {', '.join(STYLES)}")

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        if proposer is None:
            raise ConfigError("opro asks a model for proposals; name one with --proposer, or pass proposer=")
        _check_scorer(task, scorer)
        self.check_examples(task)

    async def run(self, search: Search) -> None:
        domain = domain_of(search.task, self.styles, self.exemplars, search.seed)
        proposer = search.require_proposer()

        async def propose(step: int, index: int, seen: History) -> Proposal | None:
            return await self._propose(search, domain, proposer, step, index, seen)

        await run_steps(search, self, _plan(domain, self.steps, self.samples_per_step, propose))

    async def _propose(
        self, search: Search, domain: Domain, proposer: Model, step: int, index: int, seen: History
    ) -> Proposal | None:
        """One sample of the proposer, read; None where it gives no usable solution."""
        style = domain.styles[(step * self.samples_per_step + index) % len(domain.styles)]
        view = seen.view(self.history_size, self.threshold if domain.maximize else None)
        ask = domain.ask(style, view, step, search.rng(step, "ask", index))
        number = derived_seed(search.seed, step, "propose", index)
        sampling = Sampling(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            stop=ask.stop,
            seed=number if proposer.supports.seed else None,
            draw=number,  # two studies that start with the same meta-prompt must not get the same samples
            grammar=ask.grammar if proposer.supports.grammar else None,
        )
        try:
            completion = await proposer.submit(Generate.of(ask.prompt, sampling), priority=Priority.PROPOSE)
        except (EndpointRefused, QuotaExhausted):
            raise
        except CallFailed as error:
            search.note(f"step {step + 1}: a proposal was lost ({error})")
            return None
        candidate = domain.read(style, completion.text)
        return None if candidate is None else (candidate, style)


@dataclass(frozen=True)
class RandomSearch(Overlap):
    """As many solutions a step as OPRO proposes, drawn uniformly: what any optimizer has to beat."""

    steps: int = 200
    samples_per_step: int = 8
    name: str = "random"

    def __post_init__(self) -> None:
        self.check_overlap()

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        if isinstance(task, Task):
            raise ConfigError(f"nothing can be drawn at random for {task.name}; name a model with --proposer")
        self.check_examples(task)

    async def run(self, search: Search) -> None:
        domain = domain_of(search.task, ("meta-prompt",), 0, search.seed)

        async def propose(step: int, index: int, _: History) -> Proposal | None:
            candidate = domain.random(search.rng(step, "random", index))
            return None if candidate is None else (candidate, "random")

        await run_steps(search, self, _plan(domain, self.steps, self.samples_per_step, propose))


def domain_of(task: AnyTask, styles: tuple[Style, ...], exemplars: int, seed: int) -> Domain:
    """The kind of solution that this task wants."""
    if isinstance(task, Task):
        return InstructionDomain(task, styles, exemplars, seed)
    return PairDomain(task)


def _plan(domain: Domain, steps: int, samples: int, propose: Propose) -> Plan:
    """The loop of the paper's section 2: propose, score, remember, until the optimum or the last step."""
    return Plan(steps, samples, list(dict.fromkeys(domain.initial())), propose, domain.solved)


def _check_scorer(task: AnyTask, scorer: Model | None) -> None:
    if isinstance(task, Task) and scorer is None:
        raise ConfigError(f"{task.name} is scored by a model; name one with --scorer, or pass scorer=")
