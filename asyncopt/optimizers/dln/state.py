"""What a training run knows between two iterations: its prompts, its memory, its patience. A plain value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from asyncopt import codec

_NEW = 0.2  # the share of the newest value in a running average (reference code)


@dataclass(frozen=True, slots=True)
class Progress:
    """The state after iteration ``step``; -1 before the first.

    ``current`` are the prompts to go on with, ``best`` those of the best validation so far and ``best_score`` theirs,
    None before there is any. ``memory`` holds at most M prompts with their validation scores, best first.
    ``patience`` counts the validations since the last better one, ``pending`` the steps and prompts whose validation
    has not been taken into account. ``running`` are averages over the iterations; ``report`` is what the last found.
    """

    step: int
    current: str
    best: str
    best_score: float | None = None
    memory: tuple[tuple[str, float], ...] = ()
    patience: int = 0
    pending: tuple[tuple[int, str], ...] = ()
    running: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def beginning(cls, candidate: str) -> Progress:
        """The state before the first iteration."""
        return cls(-1, candidate, candidate)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """The state that :meth:`to_json` gave, whatever else stands beside it."""
        pairs = {name: tuple((first, second) for first, second in state[name]) for name in ("memory", "pending")}
        return cls(**{**{name: state[name] for name in cls.__slots__}, **pairs})

    def to_json(self) -> dict[str, Any]:
        """A plain value that JSON can hold."""
        plain: dict[str, Any] = codec.loads(codec.dumps(asdict(self)))
        return plain

    @property
    def remembered(self) -> list[str]:
        """The prompts in memory, best first."""
        return [candidate for candidate, _ in self.memory]

    def judged(self, score: float | None, *, memory: int, tolerance: int | None) -> Progress:
        """The state when the first pending validation is known to be ``score``; None where nothing could be scored.

        Only a strictly better score makes prompts the best ones, and lets them into a memory of that size (M). After
        ``tolerance`` validations in a row without one, training goes back to the best prompts.
        """
        (_, candidate), *pending = self.pending
        now = replace(self, pending=tuple(pending))
        if score is not None and score > (0.0 if self.best_score is None else self.best_score):
            kept = sorted([*self.memory, (candidate, score)], key=lambda pair: -pair[1])[:memory]
            now = replace(now, best=candidate, best_score=score, memory=tuple(kept), patience=0)
        else:
            now = replace(now, patience=self.patience + 1)
        if tolerance is not None and now.patience >= tolerance:
            return replace(now, current=now.best, patience=0)
        return now

    def improved(self, step: int, candidate: str, report: Mapping[str, Any]) -> Progress:
        """The state after an iteration that chose this candidate."""
        running = {
            name: value if name not in self.running else _NEW * value + (1 - _NEW) * self.running[name]
            for name, value in (("elbo", report.get("elbo")), ("accuracy", report.get("accuracy")))
            if value is not None
        }
        return replace(self, step=step, current=candidate, running={**self.running, **running}, report=report)
