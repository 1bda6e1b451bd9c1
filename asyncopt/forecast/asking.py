"""How a search in steps asks for proposals: how many, how often, and what its requests are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from asyncopt.evaluation import Item
from asyncopt.forecast.prompts import TYPICAL, as_opro, meta_prompt, tokens_of
from asyncopt.optimizers import OPRO
from asyncopt.optimizers.base import AnyTask, Optimizer, derived_seed
from asyncopt.optimizers.evoprompt import EvoPromptDE, EvoPromptGA
from asyncopt.optimizers.evoprompt.population import founders
from asyncopt.optimizers.evoprompt.requests import crossover, differential, paraphrase, read
from asyncopt.optimizers.history import Entry
from asyncopt.optimizers.opro.candidates import first_line, usable
from asyncopt.optimizers.opro.optimizer import domain_of
from asyncopt.optimizers.overlap import START
from asyncopt.optimizers.paraphrase import Paraphrase
from asyncopt.optimizers.reflective import Reflective, proposed_in, reflection
from asyncopt.optimizers.rewriting import GRAMMAR, rewrite
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Generate, Outcome, Prompt, Sampling

TYPICAL_TOKENS = len(TYPICAL) / 4
_AVERAGED = 50  # examples over whose lengths a mean is taken
_PARENTS = 4  # of a pilot's requests for children are of different parents
_PACE = 8.0  # a generation's children are made of the last one's, words of both and more

Reader: TypeAlias = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a request of this step shows: solutions tried before it, and tokens of an instruction and of an answer."""

    step: int
    tried: int
    instruction: float
    answer: float


@dataclass(frozen=True, slots=True)
class Asking:
    """A step has ``samples``, each of which is asked for up to ``attempts`` times, until an answer is of use.

    There are ``starts`` starting points. ``tokens`` are those of a request, as estimated, and ``most`` those of an
    answer at most. ``first(index, seed)`` is a request as the first step makes it, and how its answer is read. So many
    answers of the scorer are asked for ``again`` before a request, which a cache has. Only samples that are ``wanted``,
    by step and index, are asked for. Instructions grow with the steps, ``pace`` times as fast as OPRO's. A search has
    about so many times as many different ``requests`` as a pilot has; None where every step has its own.
    """

    starts: int
    samples: int
    attempts: int
    most: int
    tokens: Callable[[Shown], float]
    first: Callable[[int, int], tuple[Generate, Reader]]
    again: int = 0
    pace: float = 1.0
    requests: int | None = None
    wanted: Callable[[int, int], bool] = lambda _step, _index: True


def asking_of(task: AnyTask, optimizer: Optimizer) -> Asking | None:
    """How this optimizer asks; None for one that asks nobody (random search)."""
    opro = as_opro(optimizer)
    if opro is not None:
        return _of_opro(task, opro)
    if isinstance(task, Task) and isinstance(optimizer, Paraphrase):
        return _of_paraphrases(task, optimizer)
    if isinstance(task, Task) and isinstance(optimizer, Reflective):
        return _of_reflections(task, optimizer)
    if isinstance(task, Task) and isinstance(optimizer, EvoPromptGA | EvoPromptDE):
        return _of_evolution(task, optimizer)
    return None


# -- OPRO and APE ------------------------------------------------------------------------------------------------------


def _of_opro(task: AnyTask, opro: OPRO) -> Asking:
    one, more = _meta_prompts(task, opro)
    showing = opro.styles.count("meta-prompt") / len(opro.styles)

    def tokens(shown: Shown) -> float:
        count = shown.tried if opro.meta_prompt == "pre-trained" else min(shown.tried, opro.history_size)
        text = shown.instruction if isinstance(task, Task) else 0.0
        return one + max(count - 1, 0) * (more + showing * text)

    def first(index: int, seed: int) -> tuple[Generate, Reader]:
        domain = domain_of(task, opro.styles, opro, seed)
        style = domain.styles[index % len(domain.styles)]
        ask = meta_prompt(task, opro, style, shown=1, rng=Random(derived_seed(seed, 0, "pilot", index)))
        sampling = Sampling(opro.temperature, max_tokens=opro.max_tokens, stop=ask.stop, grammar=ask.grammar)
        return Generate.of(ask.prompt, sampling), lambda text: domain.read(style, text).text

    return Asking(_starts(task), opro.samples_per_step, opro.attempts, opro.max_tokens, tokens, first)


def _starts(task: AnyTask) -> int:
    return len(dict.fromkeys(task.initial)) if isinstance(task, Task) else 0


def _meta_prompts(task: AnyTask, opro: OPRO) -> tuple[float, float]:
    """Tokens of a request that shows one solution, and of each more that it shows, its text left out."""
    rng, many = Random(0), max(opro.history_size, 2)
    one = more = 0.0
    for style in opro.styles:
        prompts = [meta_prompt(task, opro, style, shown=count, rng=rng, text=TYPICAL).prompt for count in (1, many)]
        few, full = (tokens_of(Generate.of(prompt)) for prompt in prompts)
        initial = tokens_of(Generate.of(meta_prompt(task, opro, style, shown=1, rng=rng).prompt))
        one += initial / len(opro.styles)
        own = TYPICAL_TOKENS if isinstance(task, Task) else 0.0
        more += max((full - few) / (many - 1) - own, 0.0) / len(opro.styles)
    return one, more


# -- those that show instructions and no scores ------------------------------------------------------------------------


def _of_paraphrases(task: Task, optimizer: Paraphrase) -> Asking:
    base = next((text for text in task.initial if text.strip()), "")

    def first(index: int, seed: int) -> tuple[Generate, Reader]:
        prompt = rewrite(base, Random(derived_seed(seed, 0, "pilot", index)))
        sampling = Sampling(optimizer.temperature, max_tokens=optimizer.max_tokens, grammar=GRAMMAR)
        return Generate.of(prompt, sampling), lambda text: usable(first_line(text), task).text

    tokens = _worded(lambda text: rewrite(text, Random(0)))
    return Asking(_starts(task), optimizer.samples_per_step, 1, optimizer.max_tokens, tokens, first)


def _of_reflections(task: Task, optimizer: Reflective) -> Asking:
    def render(text: str, examples: Sequence[Example], answer: str = "") -> str:
        items = tuple(Item(one.id, Outcome.SCORED, 0.0, answer) for one in examples)
        return reflection(task, text, list(examples), items)

    def first(index: int, seed: int) -> tuple[Generate, Reader]:
        rng = Random(derived_seed(seed, 0, "pilot", index))
        shown = rng.sample(task.train, min(optimizer.examples, len(task.train)))
        sampling = Sampling(optimizer.temperature, max_tokens=optimizer.max_tokens)
        request = Generate.of(render(task.initial[0], shown, TYPICAL), sampling)
        return request, lambda text: usable(proposed_in(text) or "", task).text

    some = task.train[:_AVERAGED]
    again = min(optimizer.examples, len(some))
    empty, one = tokens_of(Generate.of(render("", ()))), tokens_of(Generate.of(render("", some)))
    bare = empty + again * (one - empty) / len(some)

    def tokens(shown: Shown) -> float:
        return bare + shown.instruction + again * shown.answer

    starts = _starts(task)
    return Asking(starts, optimizer.samples_per_step, 1, optimizer.max_tokens, tokens, first, again)


def _of_evolution(task: Task, optimizer: EvoPromptGA | EvoPromptDE) -> Asking:
    starts = optimizer.starts(task)
    worded = [text for text in starts if text.strip()] or [""]
    pool = [Entry(text, 0.0, START, index, 1) for index, text in enumerate(worded)]
    paraphrases = founders(pool, optimizer.initial_mode, optimizer.popsize, Random(0)).paraphrases

    def child(parents: Sequence[str]) -> str:
        if isinstance(optimizer, EvoPromptGA):
            return crossover(parents[0], parents[1]).prompt
        basic, one, other, best = parents
        return differential(basic, one, other, best, optimizer.template).prompt

    def first(index: int, seed: int) -> tuple[Generate, Reader]:
        # Some parents twice: how often a model repeats itself shows where it is asked for the same.
        rng = Random(derived_seed(seed, 0, "pilot", index % _PARENTS))
        parents = (rng.sample(worded, len(worded)) * 4)[:4]
        return Generate.of(child(parents), optimizer.sampling), lambda text: read(text, task).text

    def wanted(step: int, index: int) -> bool:
        generation, member = optimizer.place(step, index)
        return generation > 0 or member < paraphrases

    founding, later = _worded(lambda text: paraphrase(text).prompt), _worded(lambda text: child([text] * 4))

    def tokens(shown: Shown) -> float:
        return (later if optimizer.place(shown.step, 0)[0] else founding)(shown)

    pace = _PACE * optimizer.samples / optimizer.popsize
    requests = max(optimizer.popsize**2 // _PARENTS, 1)  # pairs of parents; more of the population stays than changes
    return Asking(len(starts), optimizer.samples, 1, optimizer.max_tokens, tokens, first, 0, pace, requests, wanted)


def _worded(render: Callable[[str], Prompt]) -> Callable[[Shown], float]:
    """Tokens of a request that shows an instruction, or several of the same length."""
    bare, full = (tokens_of(Generate.of(render(text))) for text in ("", TYPICAL))
    return lambda shown: bare + (full - bare) / TYPICAL_TOKENS * shown.instruction
