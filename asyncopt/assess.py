"""Given instructions on a fold of a task: each with its score, and held against the first on the same examples."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import anyio

from asyncopt.batches import answer_ahead
from asyncopt.engine import Model
from asyncopt.errors import AsyncoptError, BudgetExhausted, ConfigError, first_error
from asyncopt.evaluation import PROMPTED, Evaluation, Item, Program, evaluate
from asyncopt.events import Events
from asyncopt.limits.budget import UNLIMITED, Account, Budget, require_price
from asyncopt.result import Measured
from asyncopt.stats import Verdict, judged, paired_grades
from asyncopt.tasks.task import Example, Fold, Split, Task


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction on one example. ``index`` is the example's number in its source, ``number`` the instruction's.

    ``correct`` is the grade, from 0 to 1, and None where the ``outcome`` is not ``scored``; ``detail`` then says why.
    ``parsed`` is what was taken for the answer in ``answer``; ``first_answer`` is what came before a cue for it.
    """

    number: int
    split: Split
    index: int
    prompt: str
    answer: str
    parsed: str
    truth: str
    correct: float | None
    outcome: str
    detail: str
    first_answer: str


@dataclass(frozen=True, slots=True)
class Assessed:
    """An instruction's share of right answers over the examples that have a score; ``unscored`` counts the others.

    ``problems`` counts them by how they ended, such as ``{"refused": 2, "failed:transient": 1}``.
    """

    number: int
    instruction: str
    measured: Measured | None
    unscored: int
    complaint: str
    problems: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """An instruction against the first, on the ``n`` examples that both have a score for; ``left_out`` are the others.

    ``difference`` is its mean grade less the first's, with the 95 % interval [``low``, ``high``]. ``only_first`` and
    ``only_this`` count the examples that one of the two alone got right. ``p`` is two-sided: McNemar's exact test on
    these, or Student's on the differences where grades lie between 0 and 1. ``p_holm`` is p adjusted by Holm for how
    many instructions were compared with the first, and the ``verdict`` is by that, at 5 %.
    """

    number: int
    n: int
    left_out: int
    difference: float
    low: float
    high: float
    only_first: int
    only_this: int
    p: float
    p_holm: float = 1.0
    verdict: Verdict = "no difference shown"


@dataclass(frozen=True)
class Assessment:
    """Instructions evaluated on the same examples, and what that took; ``calls`` counts requests sent.

    Instructions are numbered from 1 in the order they were given in, as ``evaluations`` are. ``program`` is how they
    answered; as a text it says so for whoever reads the scores.
    """

    task: Task
    fold: Fold
    model: str
    evaluations: tuple[Evaluation, ...]
    calls: int
    cache_hits: int
    tokens: int
    usd: float | None
    seconds: float
    program: Program = PROMPTED

    @property
    def how(self) -> str:
        """What there is beside the instruction in the task's template; empty where there is nothing."""
        cue = self.task.final_answer_cue
        parts = ["" if self.program is PROMPTED else str(self.program), cue and f"answers after {cue!r}"]
        return ", ".join(part for part in parts if part)

    @property
    def unscored(self) -> int:
        """How many (instruction, example) pairs have no score."""
        return sum(len(done.items) - len(done.scores) for done in self.evaluations)

    def scores(self) -> list[Assessed]:
        """The instructions with their scores, in their order."""
        return [_assessed(number, done) for number, done in enumerate(self.evaluations, 1)]

    def comparisons(self) -> list[Comparison]:
        """Every other instruction against the first, where they have examples with a score in common."""
        first, *others = self.evaluations
        compared = (_compared(number, first, other) for number, other in enumerate(others, 2))
        known = [comparison for comparison in compared if comparison is not None]
        found = judged([(one.difference, one.p) for one in known])
        return [replace(one, p_holm=p, verdict=verdict) for one, (p, verdict) in zip(known, found, strict=True)]

    def rows(self) -> Iterator[Row]:
        """All (instruction, example) pairs: instruction by instruction, the examples in the order of the fold."""
        examples = _examples(self.task, self.fold)
        for number, done in enumerate(self.evaluations, 1):
            for (split, example), item in zip(examples, done.items, strict=True):
                prompt = self.program.first(self.task, done.instruction, example).prompt[-1].content
                yield _row(self.task, number, prompt, split, example, item)

    def to_json(self) -> dict[str, Any]:
        """Everything but the rows as a plain value, with the task's rules that the scores rest on."""
        rules = ("name", "fingerprint", "template", "answers", "final_answer_cue", "temperature", "max_tokens", "stop")
        took = ("fold", "model", "how", "calls", "cache_hits", "tokens", "usd", "seconds", "unscored")
        return {
            "task": {name: getattr(self.task, name) for name in rules},
            "instructions": [asdict(assessed) for assessed in self.scores()],
            "comparisons": [asdict(comparison) for comparison in self.comparisons()],
            **{name: getattr(self, name) for name in took},
        }


async def evaluate_instructions(
    model: Model,
    task: Task,
    instructions: Sequence[str],
    fold: Fold = "test",
    *,
    budget: Budget = UNLIMITED,
    events: Events | None = None,
    program: Program = PROMPTED,
    batches: str | Path | None = None,
) -> Assessment:
    """The instructions' scores on all examples of the fold, with the answers they rest on; ``program`` says how.

    With ``batches``, a journal's path, batches answer what the cache does not know, at half the price and within a day.
    All calls are submitted at once, and equal ones are made once. Raises :class:`ConfigError` where there is nothing to
    evaluate, and :class:`BudgetExhausted` when the budget does not cover all of it: what was answered is in the cache.
    """
    examples = [example for _, example in _examples(task, fold)]
    if not instructions:
        raise ConfigError(f"there are no instructions to evaluate {task.name} with; give at least one")
    if not examples:
        sizes = [f"{split} has {len(task.fold(split))}" for split in get_args(Split) if task.fold(split)]
        raise ConfigError(f"{task.name} has no examples in the fold {fold}; {', '.join(sizes)}; name one of them")
    require_price(budget, "scorer", model.name, model.price)
    account = Account(budget)
    charged = model.charged_to(account)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with anyio.move_on_after(budget.seconds) as scope:
        if batches is not None:
            await answer_ahead(charged, task, instructions, examples, Path(batches), program=program)
        evaluations = await _all(charged, task, instructions, examples, events, program)
    if scope.cancelled_caught:
        raise BudgetExhausted(f"the budget of {budget.seconds:g} seconds is used up; raise it and evaluate again")
    _require_shares(task, evaluations)
    usd = None if model.price is None else account.usd
    took = (account.calls, account.hits, account.tokens, usd, loop.time() - began)
    return Assessment(task, fold, model.name, evaluations, *took, program)


async def _all(
    model: Model,
    task: Task,
    instructions: Sequence[str],
    examples: Sequence[Example],
    events: Events | None,
    program: Program,
) -> tuple[Evaluation, ...]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(evaluate(model, task, instruction, examples, events=events, program=program))
                for instruction in instructions
            ]
    except* AsyncoptError as failures:
        raise first_error(failures) from None
    return tuple(task.result() for task in tasks)


def _examples(task: Task, fold: Fold) -> list[tuple[Split, Example]]:
    """The examples with their splits: a number may stand for another example in another split's file."""
    splits: tuple[Split, ...] = get_args(Split) if fold == "all" else (fold,)
    return [(split, example) for split in splits for example in task.fold(split)]


def _require_shares(task: Task, evaluations: Sequence[Evaluation]) -> None:
    for done in evaluations:
        for score in done.scores:
            if not 0 <= score <= 1:
                raise ConfigError(f"{task.name} graded an answer {score:g}; intervals are for grades from 0 to 1")


def _assessed(number: int, done: Evaluation) -> Assessed:
    measured = Measured.of(sum(done.scores), len(done.scores))
    return Assessed(
        number, done.instruction, measured, len(done.items) - len(done.scores), done.complaint(), done.unscored
    )


def _compared(number: int, first: Evaluation, other: Evaluation) -> Comparison | None:
    pairs = [
        (one.score, two.score)
        for one, two in zip(first.items, other.items, strict=True)
        if one.score is not None and two.score is not None
    ]
    if not pairs:
        return None
    return Comparison(number, len(pairs), len(first.items) - len(pairs), *paired_grades(pairs))


def _row(task: Task, number: int, prompt: str, split: Split, example: Example, item: Item) -> Row:
    return Row(
        number=number,
        split=split,
        index=example.id,
        prompt=prompt,
        answer=item.answer,
        parsed=task.parse(item.answer) if item.answer else "",
        truth=example.target,
        correct=item.score,
        outcome=item.outcome.value,
        detail=item.detail,
        first_answer=item.first_answer,
    )
