"""Proposals that never came: each is counted and told, and a search that gets none any more does not run to its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from asyncopt.errors import CallFailed, StudyFailed
from asyncopt.values import FaultKind

MOST_EMPTY_STEPS = 3  # in a row, every call of them lost for a reason that no retry mends

_ADVICE = {
    FaultKind.REFUSED: "the proposer declines what it is asked; look at the task's texts, or choose another proposer",
    FaultKind.BAD_REQUEST: "the proposer does not take such requests; look at its message and at the options",
    FaultKind.MALFORMED: "the proposer's server gives nothing that can be read; look at its log, or choose another",
    FaultKind.TOO_LARGE: "the meta-prompt is too long for the proposer; show fewer solutions or exemplars",
    FaultKind.TRUNCATED: "the proposer's answers are cut off before they say anything; raise max_tokens",
}  # what is not here may pass, as an overloaded server does


class Proposals:
    """What became of the calls for proposals; ``tell`` is called with the step and the error of each that was lost."""

    def __init__(self, tell: Callable[[int, CallFailed], None] = lambda _step, _error: None) -> None:
        self._tell = tell
        self._came: set[int] = set()
        self._reasons: dict[int, Counter[tuple[FaultKind, str]]] = {}
        self._empty: list[int] = []

    def came(self, step: int) -> None:
        """Take note of a call that was answered, whether or not there was a solution in it."""
        self._came.add(step)

    def lost(self, step: int, error: CallFailed) -> None:
        """Take note of a call that failed for good."""
        self._reasons.setdefault(step, Counter())[error.fault.kind, error.fault.detail] += 1
        self._tell(step, error)

    def end(self, step: int) -> None:
        """Raise :class:`StudyFailed` where this is the last of three steps in a row without a proposal, for good."""
        reasons = self._reasons.get(step)
        if step in self._came or not reasons or any(kind not in _ADVICE for kind, _ in reasons):
            for past in (*self._empty, step):
                self._reasons.pop(past, None)
            self._came.discard(step)
            self._empty = []
            return
        self._empty.append(step)
        if len(self._empty) < MOST_EMPTY_STEPS:
            return
        total = sum((self._reasons[past] for past in self._empty), Counter[tuple[FaultKind, str]]())
        ((kind, detail), _), *_ = total.most_common(1)
        raise StudyFailed(
            f"not one proposal came in {len(self._empty)} steps; most often: {kind.value}: {detail}; "
            f"{_ADVICE[kind]}, then resume the study"
        )
