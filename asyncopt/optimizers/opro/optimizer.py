"""The loop of OPRO, and random search under the same conditions to hold it against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from asyncopt.engine import Model
from asyncopt.errors import ConfigError
from asyncopt.optimizers.asking import Answers, Proposed, asked
from asyncopt.optimizers.base import AnyTask, Search, Seen
from asyncopt.optimizers.opro.domain import STYLES, Domain, Style
from asyncopt.optimizers.opro.instructions import InstructionDomain
from asyncopt.optimizers.opro.options import MetaPromptOptions
from asyncopt.optimizers.opro.pairs import PairDomain
from asyncopt.optimizers.opro.tours import TourDomain
from asyncopt.optimizers.overlap import Overlap, Plan, Proposal, Propose
from asyncopt.optimizers.steps import run_steps
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.tasks.task import Task
from asyncopt.tasks.tsp import TSP
from asyncopt.values import Sampling


@dataclass(frozen=True)
class OPRO(Overlap, MetaPromptOptions):
    """Optimization by prompting: a model sees the best solutions with their scores and proposes new ones.

    Defaults are the paper's for prompt optimization (section 5.1): 200 steps of K = 8 samples (``samples_per_step``),
    the best M = 20 in the meta-prompt (``history_size``), 3 exemplars, temperature 1. ``threshold`` keeps instructions
    with a lower score out of the meta-prompt. ``styles`` are used in turn. The temperature goes in equal steps towards
    ``final_temperature`` where there is one. A sample is asked for up to ``attempts`` times, until its answer holds a
    usable solution.

    :class:`~asyncopt.optimizers.opro.options.MetaPromptOptions` has the options of the meta-prompt, and
    :class:`~asyncopt.optimizers.overlap.Overlap` those that let steps run into each other.
    """

    steps: int = 200
    samples_per_step: int = 8
    history_size: int = 20
    threshold: float | None = None
    temperature: float = 1.0
    final_temperature: float | None = None
    max_tokens: int = 1024
    attempts: int = 1
    styles: tuple[Style, ...] = ("meta-prompt",)
    name: str = "opro"

    def __post_init__(self) -> None:
        self.check_overlap()
        self.check_meta_prompt()
        least = {"steps": 0, "samples_per_step": 1, "history_size": 1, "exemplars": 0, "max_tokens": 1, "attempts": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"opro's {name} is {getattr(self, name)}; it must be at least {lowest}")
        for name in ("temperature", "final_temperature"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value >= 0):
                raise ConfigError(f"opro's {name} is {value}; it must be a number of at least 0, such as 1.0")
        unknown = [style for style in self.styles if style not in STYLES]
        if unknown or not self.styles:
            raise ConfigError(f"opro's styles are {list(self.styles)}; wanted some of {', '.join(STYLES)}")
        self._check_faithful()

    def _check_faithful(self) -> None:
        if not self.faithful:
            return
        if self.lag or self.quorum is not None or self.racing is not None:
            raise ConfigError(
                "opro is faithful and has lag, quorum or racing, which the reference lacks; drop one side"
            )
        if set(self.styles) != {"meta-prompt"}:
            raise ConfigError(f"opro is faithful and has the styles {list(self.styles)}; the reference has meta-prompt")

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        if proposer is None:
            raise ConfigError("opro asks a model for proposals; name one with --proposer, or pass proposer=")
        if isinstance(task, Task) and scorer is None:
            raise ConfigError(f"{task.name} is scored by a model; name one with --scorer, or pass scorer=")
        if not isinstance(task, Task):
            self.check_no_instructions(task.name)
        self.check_examples(task)
        domain_of(task, self.styles, self, 0)

    async def run(self, search: Search) -> None:
        domain = domain_of(search.task, self.styles, self, search.seed)
        proposer = search.require_proposer()
        answers = Answers(search, self.samples_per_step)

        async def propose(step: int, index: int, seen: Seen) -> Proposal | None:
            return await self._propose(search, domain, proposer, answers, step, index, seen)

        await run_steps(search, self, _plan(search.task, self.steps, self.samples_per_step, propose))
        answers.sum_up()

    async def _propose(
        self,
        search: Search,
        domain: Domain,
        proposer: Model,
        answers: Answers,
        step: int,
        index: int,
        seen: Seen,
    ) -> Proposal | None:
        """One sample of the proposer, read; None where it gives no usable solution."""
        style = domain.styles[(step * self.samples_per_step + index) % len(domain.styles)]
        view = seen.history.view(self.history_size, self.threshold if isinstance(search.task, Task) else None)
        for attempt in range(self.attempts):
            again = f":{attempt}" if attempt else ""
            ask = domain.ask(style, view, seen, search.rng(step, f"ask{again}", index))
            sampling = Sampling(
                temperature=self._temperature(step),
                max_tokens=self.max_tokens,
                stop=ask.stop,
                grammar=ask.grammar if proposer.supports.grammar else None,
            )
            answer = await asked(search, ask.prompt, sampling, step, index, f"propose{again}")
            if answer is None:
                return None
            reading = domain.read(style, answer)
            answers.take(Proposed(step, index, style, attempt), ask.prompt, answer, reading, seen)
            if reading.text is not None:
                return reading.text, style
        return None

    def _temperature(self, step: int) -> float:
        """The step's temperature, T0 + step / steps (T1 - T0): the last step stays short of T1 (reference code)."""
        if self.final_temperature is None:
            return self.temperature
        return self.temperature + step / self.steps * (self.final_temperature - self.temperature)


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
        task = search.task
        assert not isinstance(task, Task)

        async def propose(step: int, index: int, _: Seen) -> Proposal | None:
            return task.random(search.rng(step, "random", index)), "random"

        await run_steps(search, self, _plan(task, self.steps, self.samples_per_step, propose))


def domain_of(task: AnyTask, styles: tuple[Style, ...], options: MetaPromptOptions, seed: int) -> Domain:
    """The kind of solution that this task wants."""
    if isinstance(task, Task):
        return InstructionDomain(task, styles, options, seed)
    if isinstance(task, LinearRegression):
        return PairDomain()
    if isinstance(task, TSP):
        return TourDomain(task)
    raise ConfigError(f"opro has no meta-prompt for {task.name}; use another optimizer")


def _plan(task: AnyTask, steps: int, samples: int, propose: Propose) -> Plan:
    """The loop of the paper's section 2: propose, score, remember, until the optimum or the last step."""
    initial: Sequence[str] = task.initial if isinstance(task, Task) else task.initial()
    solved = (lambda _: False) if isinstance(task, Task) else task.solved
    return Plan(steps, samples, list(dict.fromkeys(initial)), propose, solved)
