"""The tables of a run: plain rows with the same columns in each, for files and data frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from asyncopt.optimizers.base import Validated
from asyncopt.records.trace import FOLD_OF, Answer, Trace, answers_in
from asyncopt.records.values import Candidate, outcomes

Row: TypeAlias = dict[str, Any]

COLUMNS: dict[str, tuple[str, ...]] = {
    "candidates": (
        "step", "index", "source", "candidate", "score", "examples", "complete", "partial", "provisional", "stopped",
        "validation", "closest", "parents",
    ),
    "evaluations": (
        "step", "index", "candidate", "fold", "place", "example", "outcome", "score", "answer", "parsed",
        "first_answer",
    ),
    "calls": (
        "kind", "step", "index", "source", "fold", "example", "prompt", "answer", "candidate", "outcome", "score",
        "rejected",
    ),
    "activity": (
        "t", "s", "in_flight", "concurrency", "queued", "limiting", "calls", "hits", "tokens", "usd", "throttled",
        "failed", "latency",
    ),
}  # fmt: skip


def candidate_rows(candidates: Iterable[Candidate], validations: Mapping[int, Sequence[Validated]]) -> Iterator[Row]:
    """One row a candidate, in the order in which they joined the history."""
    validated = {one.candidate: one.score for step in sorted(validations) for one in validations[step]}
    for one in candidates:
        known = {"validation": validated.get(one.candidate), "closest": one.closest, "parents": list(one.parents)}
        yield {name: known[name] if name in known else getattr(one, name) for name in COLUMNS["candidates"]}


def evaluation_rows(
    candidates: Iterable[Candidate], validations: Mapping[int, Sequence[Validated]], trace: Trace
) -> Iterator[Row]:
    """One row a candidate, fold and example: with the answer where the trace has it, else as the journal has it.

    ``place`` counts the examples of the fold from 0, ``example`` is the number in its source; None where not known.
    """
    validated = {one.candidate: one for step in sorted(validations) for one in validations[step]}
    for one in {one.candidate: one for one in candidates}.values():
        known = {"train": (one.scores, one.outcomes)}
        if (checked := validated.get(one.candidate)) is not None:
            known["validation"] = (tuple(checked.scores), outcomes(checked.scores, checked.problems))
        answers = trace.answers(one.candidate)
        for fold in FOLD_OF.values():
            of_fold = [answer for answer in answers if answer.fold == fold]
            if of_fold:
                yield from _traced(one, of_fold, trace.examples(fold))
            elif fold in known:
                yield from _journalled(one, fold, *known[fold], trace.examples(fold))


def _traced(one: Candidate, answers: Sequence[Answer], examples: Sequence[int]) -> Iterator[Row]:
    places = {example: place for place, example in enumerate(examples)}
    for answer in answers:
        yield _evaluation(one, place=places.get(answer.example), **asdict(answer))


def _journalled(
    one: Candidate, fold: str, scores: Sequence[float | None] | None, labels: Sequence[str], examples: Sequence[int]
) -> Iterator[Row]:
    numbers = examples if len(examples) == len(scores or ()) else [None] * len(scores or ())
    for place, (score, label, number) in enumerate(zip(scores or (), labels, numbers, strict=True)):
        yield _evaluation(one, fold=fold, place=place, example=number, outcome=label, score=score)


def _evaluation(one: Candidate, **known: Any) -> Row:
    place = {"step": one.step, "index": one.index, "candidate": one.candidate}
    return {name: {**place, **known}.get(name) for name in COLUMNS["evaluations"]}


def call_rows(trace: Trace) -> Iterator[Row]:
    """One row a call of which the trace has the answer: proposals with their meta-prompts, and graded answers.

    A line that was traced twice, because its step was interrupted, stands here twice.
    """
    for row in trace.rows():
        kept = {name: row.get(name) for name in ("kind", "step", "index", "source", "prompt", "candidate", "rejected")}
        if row.get("kind") == "proposal":
            yield _call({**kept, "source": row.get("source", row.get("purpose")), "answer": row.get("answer")})
        for answer in answers_in(row):
            yield _call({**kept, **asdict(answer)})


def _call(known: Row) -> Row:
    return {name: known.get(name) for name in COLUMNS["calls"]}


def activity_rows(samples: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """One row a line of ``activity.jsonl``, with the sums over its scopes; ``limiting`` names what each waited for."""
    for sample in samples:
        scopes = sample["scopes"].values()
        sums: Row = {name: sum(one[name] for one in scopes) for name in ("in_flight", "concurrency", "queued")}
        sums["limiting"] = " and ".join(dict.fromkeys(one["limiting"] for one in scopes))
        yield {name: sums[name] if name in sums else sample.get(name) for name in COLUMNS["activity"]}
