"""Reflection on failures: a model reads what an instruction led to, and writes a better one (after GEPA).

GEPA (Agrawal et al. 2025, arXiv 2507.19457) evolves the prompts of compound systems. This is its core for one
instruction: parents from the Pareto front of the scores by example, and a proposer that sees answers and not only
scores. Every child is scored on all training examples (a race makes that cheaper), where GEPA first tries it on the
examples that were shown; there is no merging of two parents, and an instruction is as short as other optimizers' are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from asyncopt.engine import Model
from asyncopt.evaluation import Item, evaluate
from asyncopt.optimizers.asking import Answers, Proposed, Reading
from asyncopt.optimizers.base import AnyTask, Search, Seen
from asyncopt.optimizers.history import History
from asyncopt.optimizers.instructing import check_options, require_instructions, sampled
from asyncopt.optimizers.opro.candidates import usable
from asyncopt.optimizers.opro.domain import Ask
from asyncopt.optimizers.overlap import Overlap, Plan, Proposal
from asyncopt.optimizers.steps import run_steps
from asyncopt.tasks.task import Example, Task
from asyncopt.templates import packaged
from asyncopt.values import Priority, Sampling

_SOURCE = "reflection"
_OPENING, _CLOSING, _FENCE = "<instruction>", "</instruction>", "```"
_GRAMMAR = rf'root ::= "{_OPENING}" [A-Z] [^<>\n]{{12,300}} "{_CLOSING}"'
_PLACE = "<INS>"
_WORDS = 70  # about as many as a candidate may have characters for


@dataclass(frozen=True)
class Reflective(Overlap):
    """Instructions that a model writes after reading what an earlier one led to, in the manner of GEPA.

    Each of ``samples_per_step`` parents is drawn from the Pareto front, and shown with ``examples`` training examples,
    mostly such as it fails on: what the scorer answered, how that was graded, and the right answer. GEPA shows 3.

    The answers shown are those that the parent was scored by: the scorer is asked again, and the cache answers. Where
    there is no cache a proposal takes ``examples`` more calls of the scorer; they are no part of ``scoring_calls``.
    A parent that solves every example has nothing to reflect on, so no call is made for its sample. One that a
    ``quorum`` has not failed on yet is shown with the examples that are still open.
    """

    steps: int = 25
    samples_per_step: int = 4
    examples: int = 3
    temperature: float = 1.0
    max_tokens: int = 1024
    name: str = "reflective"

    def __post_init__(self) -> None:
        least = {"steps": 0, "samples_per_step": 1, "examples": 1, "max_tokens": 1}
        check_options(self, "reflective", self.temperature, least)

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        require_instructions(self, "reflective", task, scorer, proposer)

    async def run(self, search: Search) -> None:
        task = search.task
        assert isinstance(task, Task)
        answers = Answers(search, self.samples_per_step)
        sampling = Sampling(temperature=self.temperature, max_tokens=self.max_tokens)
        fronts = lru_cache(maxsize=2)(pareto_weights)  # the samples of a step share theirs

        async def propose(step: int, index: int, seen: Seen) -> Proposal | None:
            weights = fronts(seen.history)
            if not weights:
                return None
            parent = search.rng(step, "parent", index).choices(list(weights), list(weights.values()))[0]
            scores = known_scores(seen, parent, task.train)
            shown = minibatch(task.train, scores, self.examples, search.rng(step, "examples", index))
            if not shown:
                return None
            ask = Ask(reflection(task, parent, shown, await answered(search, task, parent, shown)), _GRAMMAR)
            sample = Proposed(step, index, _SOURCE, parents=(parent,))
            return await sampled(search, answers, sample, ask, sampling, lambda answer: read(answer, task), seen)

        initial = list(dict.fromkeys(task.initial))
        await run_steps(search, self, Plan(self.steps, self.samples_per_step, initial, propose))
        answers.sum_up()


def pareto_weights(history: History) -> dict[str, int]:
    """On how many examples each instruction of the Pareto front is among the best, the worst mean score first.

    A parent is drawn in proportion to that (GEPA, algorithm 2; reference code for the details). An example's best are
    all those with the highest score on it. From the lowest mean score up, an instruction leaves the front if it is
    nowhere the only one left. What has no score is no parent.
    """
    scored = dict.fromkeys(entry.candidate for entry in history.ranked())
    tables = {candidate: history.scores[candidate] for candidate in scored if candidate in history.scores}
    highest: dict[int, float] = {}
    for table in tables.values():
        for example, score in table.items():
            highest[example] = max(score, highest.get(example, score))
    best_on = {
        candidate: [example for example, score in table.items() if score == highest[example]]
        for candidate, table in tables.items()
    }
    left = Counter(example for examples in best_on.values() for example in examples)
    weights = {}
    for candidate, examples in best_on.items():
        if any(left[example] == 1 for example in examples):
            weights[candidate] = len(examples)
        else:
            left.subtract(examples)
    return weights


def known_scores(seen: Seen, parent: str, examples: tuple[Example, ...]) -> Mapping[int, float]:
    """The parent's scores by example id; where a quorum has failed on none, its open examples count as failed ones.

    Only they may still show what is wrong with it: their answers are waited for.
    """
    scores, entry = seen.by_candidate[parent], seen.history.entry(parent)
    if entry is None or not entry.provisional or min(scores.values()) < 1.0:
        return scores
    return {example.id: scores.get(example.id, 0.0) for example in examples}


def minibatch(examples: tuple[Example, ...], scores: Mapping[int, float], size: int, rng: Random) -> list[Example]:
    """At most ``size`` of the examples, two thirds and more of them failed ones; empty where none is failed.

    The rest are solved ones, so that the proposer sees what is to be kept. Either kind stands in where there are too
    few of the other; an example without a score is of neither.
    """
    failed = [example for example in examples if scores.get(example.id, 1.0) < 1.0]
    solved = [example for example in examples if scores.get(example.id, 0.0) >= 1.0]
    if not failed:
        return []
    kept = min(len(solved), max(size // 3, size - len(failed)))
    return rng.sample(failed, min(size - kept, len(failed))) + rng.sample(solved, kept)


async def answered(search: Search, task: Task, instruction: str, examples: list[Example]) -> tuple[Item, ...]:
    """What the scorer answers under this instruction, and how that is graded, in the order of the examples."""
    assert search.scorer is not None
    done = await evaluate(search.scorer, task, instruction, examples, priority=Priority.PROPOSE)
    return done.items


def reflection(task: Task, instruction: str, examples: list[Example], items: tuple[Item, ...]) -> str:
    """The request for a better instruction, with the traces of this one."""
    cases = [_case(task, example, item) for example, item in zip(examples, items, strict=True)]
    render = packaged("asyncopt.optimizers.prompts", "reflect.j2")
    return render(description=task.description, instruction=instruction, cases=cases, words=_WORDS)


def _case(task: Task, example: Example, item: Item) -> dict[str, Any]:
    first = f"{item.first_answer} {task.final_answer_cue} " if item.first_answer else ""
    parsed = None if task.metric is not None else task.parse(item.answer)
    return {
        "prompt": task.render(_PLACE, example.input),
        "answer": f"{first}{item.answer}".strip() or "(none)",
        "target": example.target,
        "right": item.score is not None and item.score >= 1,
        "score": None if item.score is None else f"{item.score:.3g}",
        "problem": item.detail or item.label,
        "read": None if parsed == item.answer.strip() else parsed,
    }


def read(answer: str, task: Task) -> Reading:
    """The instruction in a proposer's answer, or why there is none that can be used."""
    text = proposed_in(answer)
    return Reading(None, "without the marks of a proposal") if text is None else usable(text, task)


def proposed_in(answer: str) -> str | None:
    """The instruction in a proposer's answer, on one line; None unless it stands between tags or in a fence.

    The last of each counts, since a model may try several; tags go before fences. What is not closed was cut off.
    """
    if _OPENING in answer:
        text, closed, _ = answer.rpartition(_OPENING)[2].partition(_CLOSING)
        return " ".join(text.split()) if closed else None
    blocks = answer.split(_FENCE)
    if len(blocks) < 3 or len(blocks) % 2 == 0:
        return None
    first, broken, rest = blocks[-2].partition("\n")
    is_language = broken and len(first.split()) < 2
    return " ".join((rest if is_language else blocks[-2]).split())
