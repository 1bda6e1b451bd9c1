"""The loop of OPRO, and random search under the same conditions to hold it against."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from asyncopt.engine import Model
from asyncopt.errors import AsyncoptError, CallFailed, ConfigError, EndpointRefused, QuotaExhausted, StudyFailed
from asyncopt.optimizers.base import AnyTask, Search, derived_seed
from asyncopt.optimizers.history import Entry
from asyncopt.optimizers.opro.domain import STYLES, Domain, Style
from asyncopt.optimizers.opro.instructions import InstructionDomain
from asyncopt.optimizers.opro.pairs import PairDomain
from asyncopt.tasks.task import Task
from asyncopt.values import Generate, Priority, Sampling

Proposal = tuple[str, str]  # the candidate, and how it was made


@dataclass(frozen=True)
class OPRO:
    """Optimization by prompting: a model sees the best solutions with their scores and proposes new ones.

    Defaults are the paper's for prompt optimization (section 5.1): 200 steps of K = 8 samples (``samples_per_step``),
    the best M = 20 in the meta-prompt (``history_size``), 3 exemplars, temperature 1. ``styles`` are used in turn.
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

    async def run(self, search: Search) -> None:
        domain = domain_of(search.task, self.styles, self.exemplars, search.seed)
        proposer = search.require_proposer()

        async def propose(step: int, index: int) -> Proposal | None:
            return await self._propose(search, domain, proposer, step, index)

        await _run(search, domain, self.steps, self.samples_per_step, propose)

    async def _propose(self, search: Search, domain: Domain, proposer: Model, step: int, index: int) -> Proposal | None:
        """One sample of the proposer, read; None where it gives no usable solution."""
        style = domain.styles[(step * self.samples_per_step + index) % len(domain.styles)]
        view = search.history.view(self.history_size, self.threshold if domain.maximize else None)
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
class RandomSearch:
    """As many solutions a step as OPRO proposes, drawn uniformly: what any optimizer has to beat."""

    steps: int = 200
    samples_per_step: int = 8
    name: str = "random"

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        if isinstance(task, Task):
            raise ConfigError(f"nothing can be drawn at random for {task.name}; name a model with --proposer")

    async def run(self, search: Search) -> None:
        domain = domain_of(search.task, ("meta-prompt",), 0, search.seed)

        async def propose(step: int, index: int) -> Proposal | None:
            candidate = domain.random(search.rng(step, "random", index))
            return None if candidate is None else (candidate, "random")

        await _run(search, domain, self.steps, self.samples_per_step, propose)


def domain_of(task: AnyTask, styles: tuple[Style, ...], exemplars: int, seed: int) -> Domain:
    """The kind of solution that this task wants."""
    if isinstance(task, Task):
        return InstructionDomain(task, styles, exemplars, seed)
    return PairDomain(task)


def _check_scorer(task: AnyTask, scorer: Model | None) -> None:
    if isinstance(task, Task) and scorer is None:
        raise ConfigError(f"{task.name} is scored by a model; name one with --scorer, or pass scorer=")


async def _run(
    search: Search,
    domain: Domain,
    steps: int,
    samples: int,
    propose: Callable[[int, int], Awaitable[Proposal | None]],
) -> None:
    """The loop of the paper's section 2: propose, score, remember, until the optimum or the last step."""
    first = 0
    if search.restored is None:
        await _start(search, domain)
    else:
        first = int(search.restored["step"]) + 1
    if search.restored is not None and search.restored["solved"]:
        return
    for step in range(first, steps):
        entries = await _step(search, step, samples, propose)
        solved = any(domain.solved(entry.candidate) for entry in entries)
        await search.finish_step(step, entries, {"step": step, "solved": solved})
        if solved:
            return


async def _start(search: Search, domain: Domain) -> None:
    candidates = list(dict.fromkeys(domain.initial()))
    scored = await _together(
        search.score(candidate, -1, index, "initial") for index, candidate in enumerate(candidates)
    )
    if all(entry.score is None for entry in scored):
        raise StudyFailed("not one example could be scored with the initial solutions")
    await search.finish_step(-1, scored, {"step": -1, "solved": False})


async def _step(
    search: Search, step: int, samples: int, propose: Callable[[int, int], Awaitable[Proposal | None]]
) -> list[Entry]:
    """The new entries of one step, in the order of their samples; each is scored as soon as its sample arrives."""
    scores: dict[str, asyncio.Task[Entry]] = {}

    async def candidate(index: int, group: asyncio.TaskGroup) -> Proposal | None:
        proposal = await propose(step, index)
        if proposal is None or proposal[0] in search.history:
            return None
        text, source = proposal
        if text not in scores:  # a twin is scored once, whichever arrives first
            scores[text] = group.create_task(_scored(search, text, step, index, source))
        return proposal

    try:
        async with asyncio.TaskGroup() as group:
            proposals = [group.create_task(candidate(index, group)) for index in range(samples)]
    except* AsyncoptError as failures:
        raise _first(failures) from None
    entries: dict[str, Entry] = {}
    for index, task in enumerate(proposals):
        proposal = task.result()
        if proposal is not None and proposal[0] not in entries:
            # By sample, not by arrival: the same entry whatever the latencies were.
            entries[proposal[0]] = replace(scores[proposal[0]].result(), index=index, source=proposal[1])
    return list(entries.values())


async def _scored(search: Search, text: str, step: int, index: int, source: str) -> Entry:
    return await search.score(text, step, index, source)


async def _together(awaitables: Iterator[Awaitable[Entry]]) -> list[Entry]:
    async def wait(awaitable: Awaitable[Entry]) -> Entry:
        return await awaitable

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait(awaitable)) for awaitable in awaitables]
    except* AsyncoptError as failures:
        raise _first(failures) from None
    return [task.result() for task in tasks]


def _first(failures: BaseExceptionGroup[AsyncoptError]) -> AsyncoptError:
    """The first error in a group of groups."""
    for failure in failures.exceptions:
        return _first(failure) if isinstance(failure, BaseExceptionGroup) else failure
    raise AssertionError("an exception group is never empty")
