"""A run as one JSON value: everything that a page shows of it, bounded in size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any

from asyncopt.directory import MANIFEST
from asyncopt.optimizers.base import Validated
from asyncopt.pages.comparing import name_of
from asyncopt.pages.matrix import matrix
from asyncopt.pages.repeat import command
from asyncopt.pages.timeline import latency, timeline
from asyncopt.records import Candidate, Run, Spent
from asyncopt.result import Measured, Scored
from asyncopt.stats import wilson_interval

MOST_CANDIDATES = 1000
LONGEST_TEXT = 100_000  # characters of a candidate; behind them stands how many there were
_PARENTS_SHOWN = 8
_COMPARED = 100  # candidates whose closest parent is looked for, which takes a millisecond or more each
_COUNTED = ("calls", "hits", "tokens", "usd", "seconds")


def document(run: Run) -> dict[str, Any]:
    """Everything that a page shows of the run, as plain data for JSON; texts are as the models wrote them.

    - ``v``: 1; ``name``: of its directory; ``problems``: what could not be read of it.
    - ``head``: ``task``, ``optimizer``, ``models`` by role, ``seed``, ``state``, ``started`` (seconds since the epoch,
      or None), ``step`` of ``steps`` (None where not stated), ``scored`` ("share" of right answers, or "loss").
    - ``steps``, the finished ones: ``step`` (-1: the starting points), ``best`` so far, ``only`` (on how many examples
      it was scored, where that is a part of them), ``mean`` of each, and by its end ``calls``, ``tokens``,
      ``usd``, ``seconds``.
    - ``candidates``, best first: ``rank`` (None where it cannot be compared), ``text``, ``step``, ``index``,
      ``source``, ``score``, ``low`` and ``high`` (95 %, of shares alone), ``n``, ``partial``, ``provisional``,
      ``stopped`` (after so many examples, or None), ``parents`` and ``closest`` (places in this list).
    - ``validations``: ``step``, ``text``, ``score``, ``low``, ``high``, ``n``.
    - ``held_out``: for ``which``, "best" and "initial": ``train``, ``validation`` and ``test`` with ``score``, ``low``,
      ``high``, ``n``, or None.
    - ``cost``: ``calls``, ``hits``, ``tokens``, ``usd``, ``seconds``, ``hit_share`` so far, and the first five
      ``to_come`` by the mean of a finished step, or None.
    - ``activity`` (:func:`timeline`), ``latency`` (:func:`latency`), each with ``shared``: the name of the sweep whose
      studies they count together, or None; ``outcomes`` of examples and ``errors`` of calls, by class; ``matrix``
      (:func:`matrix`).
    - ``answers``: empty; a report puts in what it carries.
    - ``manifest``; ``command``, which repeats the run; ``left_out``: how many ``candidates`` and ``cells`` are beyond.
    """
    ranked = _ranked(run)
    shown = ranked[:MOST_CANDIDATES]
    table, cells_left_out = matrix(run, shown)
    shared = None if run.engine_of == run.directory else name_of(run.engine_of)
    activity = timeline(run.activity)
    return {
        "v": 1,
        "name": name_of(run.directory),
        "problems": list(run.problems),
        "head": _head(run),
        "steps": _steps(run),
        "candidates": _rows(run, shown),
        "validations": [row for step, ones in run.validations.items() if (row := _validation(step, ones))],
        "held_out": _held_out(run),
        "cost": _cost(run),
        "activity": {**activity, "shared": shared},
        "latency": {**latency(run.activity, run.latency_edges), "shared": shared},
        "outcomes": _outcomes(run),
        "errors": _errors(run, activity, " in the whole sweep" if shared else ""),
        "matrix": table,
        "answers": {},
        "manifest": dict(run.manifest),
        "command": command(run),
        "left_out": {"candidates": len(ranked) - len(shown), "cells": cells_left_out},
    }


def _head(run: Run) -> dict[str, Any]:
    started = None
    with suppress(OSError):
        started = (run.directory / MANIFEST).stat().st_mtime  # written once, when the run begins
    return {
        "task": run.task,
        "optimizer": run.optimizer,
        "models": dict(run.models),
        "seed": run.seed,
        "state": run.state,
        "started": started,
        "step": sum(step.step >= 0 for step in run.steps),
        "steps": run.planned,
        "scored": "share" if run.maximize else "loss",
    }


# -- scores ------------------------------------------------------------------------------------------------------------


def _steps(run: Run) -> list[dict[str, Any]]:
    spent = {one.record: one for one in run.spent}
    scores: dict[int, list[float]] = {}
    for one in run.candidates:
        if one.score is not None:
            scores.setdefault(one.step, []).append(one.score)
    only = {one.candidate: one.examples for one in run.candidates if one.partial}
    rows = []
    for step in run.steps:
        mean = fmean(scores[step.step]) if step.step in scores else None
        row = {"step": step.step, "best": step.best_score, "only": only.get(step.best or ""), "mean": mean}
        rows.append({**row, **_counts(spent.get(step.record))})
    return rows


def _counts(spent: Spent | None) -> dict[str, Any]:
    return {name: None if spent is None else getattr(spent, name) for name in _COUNTED}


def _ranked(run: Run) -> list[Candidate]:
    """Best first; then those that cannot be compared with all others, and those without a score."""

    def key(one: Candidate) -> tuple[bool, bool, float, int, int]:
        score = one.score or 0.0
        return one.score is None, not _comparable(one), -score if run.maximize else score, one.step, one.index

    best = run.best
    return sorted(run.candidates, key=lambda one: (best is None or one.record != best.record or one != best, *key(one)))


def _comparable(one: Candidate) -> bool:
    return one.score is not None and not one.partial and not one.provisional


def _rows(run: Run, shown: Sequence[Candidate]) -> list[dict[str, Any]]:
    places: dict[str, int] = {}
    for place, one in enumerate(shown):
        places.setdefault(one.candidate, place)
    rows = []
    for place, one in enumerate(shown):
        chosen = run.best is not None and place == 0
        rank = place + 1 if one.score is not None and (_comparable(one) or chosen) else None
        closest = one.closest if place < _COMPARED else None
        rows.append(
            {
                "rank": rank,
                "text": _text(one.candidate),
                "step": one.step,
                "index": one.index,
                "source": one.source,
                "score": one.score,
                **_interval(run, one),
                "n": one.examples,
                "partial": one.partial,
                "provisional": one.provisional,
                "stopped": one.stopped,
                "parents": [places[text] for text in one.parents[:_PARENTS_SHOWN] if text in places],
                "closest": None if closest is None else places.get(closest),
            }
        )
    return rows


def _interval(run: Run, one: Candidate) -> dict[str, float | None]:
    if not run.maximize or one.score is None:
        return {"low": None, "high": None}
    low, high = wilson_interval(one.score * one.examples, one.examples)
    return {"low": low, "high": high}


def _text(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text):,} characters)"


def _validation(step: int, validated: Sequence[Validated]) -> dict[str, Any] | None:
    """The best of those that were validated at the end of a step; None without a score."""
    best = max((one for one in validated if one.score is not None), key=lambda one: one.score or 0.0, default=None)
    if best is None or best.score is None:
        return None
    low, high = wilson_interval(best.score * best.examples, best.examples)
    text = _text(best.candidate)
    return {"step": step, "text": text, "score": best.score, "low": low, "high": high, "n": best.examples}


def _held_out(run: Run) -> list[dict[str, Any]]:
    """What the best and the initial candidate are worth; before the end of the run, in training alone."""
    if run.result is not None:
        ends = {"best": run.result.best, "initial": run.result.initial}
        known = {which: one for which, one in ends.items() if one is not None and one.train is not None}
        return [{"which": which, **_folds(one)} for which, one in known.items()]
    initial = next((one for one in run.candidates if one.step < 0), None)
    so_far = {"best": run.best, "initial": initial} if run.maximize else {}
    return [
        {"which": which, "train": _in_training(one), "validation": None, "test": None}
        for which, one in so_far.items()
        if one is not None and one.score is not None
    ]


def _in_training(one: Candidate) -> dict[str, Any] | None:
    return _measured(Measured.of((one.score or 0.0) * one.examples, one.examples))


def _folds(scored: Scored) -> dict[str, Any]:
    folds = {"train": scored.train, "validation": scored.validation, "test": scored.held_out}
    return {name: _measured(measured) for name, measured in folds.items()}


def _measured(measured: Measured | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    return {"score": measured.score, "low": measured.low, "high": measured.high, "n": measured.n}


# -- cost and outcomes -------------------------------------------------------------------------------------------------


def _cost(run: Run) -> dict[str, Any]:
    last = run.spent[-1] if run.spent else None
    counts = {name: value or 0 for name, value in _counts(last).items()}
    asked = counts["calls"] + counts["hits"]
    to_come = _to_come(run, counts) if run.state != "finished" else None
    return {**counts, "hit_share": counts["hits"] / asked if asked else None, "to_come": to_come}


def _to_come(run: Run, counts: Mapping[str, float]) -> dict[str, float] | None:
    done = sum(step.step >= 0 for step in run.steps)
    if run.planned is None or not done:
        return None
    first = next((one for one in run.spent if one.record == run.steps[0].record), None)
    before = _counts(first) if first is not None and run.steps[0].step < 0 else {}
    left = max(run.planned - done, 0)
    return {name: (counts[name] - (before.get(name) or 0)) / done * left for name in _COUNTED}


def _outcomes(run: Run) -> dict[str, int]:
    if run.result is not None and run.result.outcomes is not None:
        return dict(run.result.outcomes)
    return dict(Counter(outcome for one in run.candidates for outcome in one.outcomes))


def _errors(run: Run, activity: Mapping[str, Any], where: str) -> dict[str, int]:
    """Attempts that did not succeed, as far as they were recorded, and proposals that were lost for good."""
    found = {f"attempts refused (429){where}": activity["refused"], f"attempts failed{where}": activity["broken"]}
    return {name: number for name, number in {**found, "proposals lost": run.lost}.items() if number}
