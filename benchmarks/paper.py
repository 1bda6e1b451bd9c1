"""OPRO in the order of the paper and of its code, to hold the project's own order against.

All proposals of a step, then all scorings, each phase awaited; every candidate on all examples; nothing cached, and a
twin (the same text proposed twice) is paid for twice. The samples are those that `OPRO` draws for the same seed, so
that up to twins both see the same candidates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from random import Random

from asyncopt import Generate, Model, Priority, Sampling, Task
from asyncopt.optimizers import Entry, History
from asyncopt.optimizers.base import Seen, derived_seed
from asyncopt.optimizers.opro import MetaPromptOptions, Style
from asyncopt.optimizers.opro.instructions import InstructionDomain
from asyncopt.tasks import load

SHOWN, EXEMPLARS = 20, 3
STYLE: Style = "meta-prompt"
LONGEST = 1024
DEALS = 20


def task_of(examples: int, name: str = "antonym") -> Task:
    """A bundled task with so many training examples, and none held out: a run is its search and no more."""
    # One deal holds 180 of the words, the next one others.
    tasks = [task for task in (load(name, seed=seed) for seed in range(DEALS)) if isinstance(task, Task)]
    pool = {example.id: example for task in tasks for example in (*task.train, *task.validation, *task.test)}
    if len(pool) < examples:
        raise SystemExit(f"{name} has {len(pool)} examples; ask for no more than these")
    task = tasks[0]
    return replace(task, train=tuple(pool.values())[:examples], validation=(), test=())


async def paper_order(
    model: Model, task: Task, steps: int, samples: int, seed: int, on_step: Callable[[History], None]
) -> History:
    """The history after so many steps with barriers; ``on_step`` sees it after the start and after each step."""
    domain = InstructionDomain(task, (STYLE,), MetaPromptOptions(exemplars=EXEMPLARS), seed)
    history = History(maximize=True)
    for index, text in enumerate(task.initial):
        history.add(await _scored(model, task, text, -1, index))
    on_step(history)
    for step in range(steps):
        texts = await _proposed(model, domain, history, step, samples, seed)
        entries = await asyncio.gather(
            *(_scored(model, task, text, step, index) for index, text in enumerate(texts) if text is not None)
        )
        for entry in entries:
            if entry.candidate not in history:
                history.add(entry)
        on_step(history)
    return history


async def _proposed(
    model: Model, domain: InstructionDomain, history: History, step: int, samples: int, seed: int
) -> list[str | None]:
    view = history.view(SHOWN)
    futures = []
    for index in range(samples):
        number = derived_seed(seed, step, "propose", index)
        ask = domain.ask(STYLE, view, Seen(step, history), Random(derived_seed(seed, step, "ask", index)))
        sampling = Sampling(temperature=1.0, max_tokens=LONGEST, seed=number, draw=number)
        futures.append(model.submit(Generate.of(ask.prompt, sampling), priority=Priority.PROPOSE))
    return [domain.read(STYLE, answer.text).text for answer in await asyncio.gather(*futures)]


async def _scored(model: Model, task: Task, text: str, step: int, index: int) -> Entry:
    """The candidate's entry. A draw of its own keeps the engine from answering twins together."""
    sampling = Sampling(temperature=0.0, max_tokens=task.max_tokens, stop=task.stop, draw=1000 * (step + 1) + index)
    prompts = (task.render(text, example.input) for example in task.train)
    answers = await asyncio.gather(*(model.submit(Generate.of(prompt, sampling)) for prompt in prompts))
    scores = [task.grade(answer.text, example) for answer, example in zip(answers, task.train, strict=True)]
    return Entry(text, sum(scores) / len(scores), step, index, len(scores))
