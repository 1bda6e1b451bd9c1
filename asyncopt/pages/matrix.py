"""Candidates by training examples: who got what right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncopt.records import Candidate, Run
from asyncopt.values import Outcome

MOST_ROWS = 60
MOST_CELLS = 12_000  # of which a browser makes an element each
_NOT_ASKED, _FAILED = ".", "!"
_WITHDRAWN = Outcome.WITHDRAWN.value


def matrix(run: Run, ranked: Sequence[Candidate]) -> tuple[dict[str, Any], int]:
    """The best candidates by examples, and how many cells are left out.

    ``rows``: places in ``ranked``; ``examples``: their numbers in the source; ``cells``: one text a row with a sign an
    example: a digit from 0 (wrong) to 9 (right), ``.`` where it was not asked for, ``!`` where it ended without a
    score; ``reasons``: for each row, why, by column.
    """
    known = [(place, one) for place, one in enumerate(ranked) if one.scores]
    width = max((len(one.scores or ()) for _, one in known), default=0)
    columns = min(width, MOST_CELLS)
    shown = known[: min(MOST_ROWS, max(MOST_CELLS // columns, 1))] if columns else []
    traced = run.trace.examples("train") if shown else []
    examples = list(traced if len(traced) == width else range(width))[:columns]
    table = {
        "rows": [place for place, _ in shown],
        "examples": examples,
        "cells": [_cells(one)[:columns] for _, one in shown],
        "reasons": [_reasons(one, columns) for _, one in shown],
    }
    total = sum(len(one.scores or ()) for one in ranked)
    return table, total - sum(min(len(one.scores or ()), columns) for _, one in shown)


def _cells(one: Candidate) -> str:
    return "".join(map(_sign, one.scores or (), one.outcomes))


def _sign(score: float | None, outcome: str) -> str:
    if score is None:
        return _NOT_ASKED if outcome == _WITHDRAWN else _FAILED
    return "0" if score <= 0 else "9" if score >= 1 else str(min(max(round(9 * score), 1), 8))


def _reasons(one: Candidate, columns: int) -> dict[str, str]:
    pairs = enumerate(one.outcomes[:columns])
    return {str(column): outcome for column, outcome in pairs if outcome not in (Outcome.SCORED.value, _WITHDRAWN)}
