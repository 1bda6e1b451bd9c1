"""The history of a run again, record by record, with what each candidate's proposal could see."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from asyncopt.journal import Record
from asyncopt.optimizers.base import Validated
from asyncopt.optimizers.history import Entry, History, entry_of
from asyncopt.records.values import Candidate, Spent, Step

_NO_PARENTS: Mapping[tuple[int, int, str], tuple[str, ...]] = MappingProxyType({})
_SHOWN = 20  # candidates in a meta-prompt, where the optimizer does not say


class Replayed:
    """What the records taken so far come to.

    ``parents`` are those that the trace tells, by step, place in it and candidate.
    """

    def __init__(
        self,
        *,
        maximize: bool,
        options: Mapping[str, Any],
        parents: Mapping[tuple[int, int, str], tuple[str, ...]] = _NO_PARENTS,
    ) -> None:
        self.maximize = maximize
        self.steps: list[Step] = []
        self.candidates: list[Candidate] = []
        self.validations: dict[int, list[Validated]] = {}
        self.spent: list[Spent] = []
        self.lost = 0
        self._options = options
        self._parents = parents
        self._scored: dict[str, Mapping[str, Any]] = {}
        self._history = History(maximize=maximize)
        self._seen: dict[int, tuple[str, ...]] = {}
        self._provisional: dict[str, int] = {}

    def take(self, record: Record) -> None:
        """Take in the next record; kinds that say nothing here are passed over."""
        data = record.data
        if "account" in data:
            self.spent.append(_spent(record))
        for row in data.get("entries", ()):
            self._add(row, record.seq)
        if record.kind == "proposed":
            self._seen[data["step"]] = self._shown()
        elif record.kind == "step":
            best = self._history.best()
            text, score = (None, None) if best is None else (best.candidate, best.score)
            self.steps.append(Step(data["step"], text, score, data.get("state") or {}, record.seq))
        elif record.kind == "validated":
            self.validations[data["step"]] = [Validated.of_row(row) for row in data["candidates"]]
        self.lost += record.kind == "lost"

    def best(self, named: str | None) -> Candidate | None:
        """The candidate that the result names; without one the best in training so far."""
        if named is None:
            entry = self._history.best()
            named = None if entry is None else entry.candidate
        found = [one for one in self.candidates if one.candidate == named]
        return next((one for one in found if one.score is not None), found[0] if found else None)

    def _add(self, row: Mapping[str, Any], seq: int) -> None:
        entry = entry_of(row)
        if "scores" in row:
            self._scored[entry.candidate] = {name: row[name] for name in ("scores", "problems") if name in row}
        else:  # a candidate that joined once more, for what it was worth before
            row = {**row, **self._scored.get(entry.candidate, {})}
        scores = tuple(row["scores"]) if row.get("scores") else None
        candidate = self._candidate(entry, row, scores, seq)
        # As in the history: a complete entry takes the place of the provisional one.
        place = self._provisional.pop(entry.candidate, None)
        if place is None:
            place = len(self.candidates)
            self.candidates.append(candidate)
        else:
            self.candidates[place] = candidate
        if entry.provisional:
            self._provisional[entry.candidate] = place
        known = {} if scores is None else {example: score for example, score in enumerate(scores) if score is not None}
        self._history.add(entry, None if entry.provisional or entry.score is None else known or None)

    def _candidate(
        self, entry: Entry, row: Mapping[str, Any], scores: tuple[float | None, ...] | None, seq: int
    ) -> Candidate:
        return Candidate(
            candidate=entry.candidate,
            step=entry.step,
            index=entry.index,
            source=entry.source,
            score=entry.score,
            examples=entry.examples,
            complete=entry.complete,
            partial=entry.partial,
            stopped=entry.stopped,
            provisional=entry.provisional,
            scores=scores,
            problems=row.get("problems", {}),
            parents=self._parents.get((entry.step, entry.index, entry.candidate), self._seen.get(entry.step, ())),
            record=seq,
        )

    def _shown(self) -> tuple[str, ...]:
        threshold = self._options.get("threshold") if self.maximize else None
        view = self._history.view(self._options.get("history_size", _SHOWN), threshold)
        return tuple(dict.fromkeys(entry.candidate for entry in reversed(view)))


def _spent(record: Record) -> Spent:
    account = record.data["account"]
    tokens = account.get("input_tokens", 0) + account.get("output_tokens", 0)
    return Spent(
        record.seq,
        account.get("calls", 0),
        account.get("hits", 0),
        tokens,
        account.get("usd", 0.0),
        record.data.get("seconds", 0.0),
    )
