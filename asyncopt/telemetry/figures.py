"""The numbers in events, by name, for trackers of experiments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncopt.events import CandidateScored, Event, StepFinished, StepValidated, Utilisation


def figures(event: Event) -> dict[str, float]:
    """The numbers that an event brings, ``step`` among them where it is of one; empty for all other events."""
    if isinstance(event, CandidateScored):
        return _known(step=event.step, score=event.score) if not event.provisional else {}
    if isinstance(event, StepFinished):
        return _known(step=event.step, best_score=event.best_score)
    if isinstance(event, StepValidated):
        return _known(step=event.step, validation_score=event.score)
    if isinstance(event, Utilisation):
        return _known(in_flight=event.in_flight, concurrency=event.concurrency, queued=event.queued)
    return {}


def _known(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def flat(result: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a result as in ``result.json``, nested names joined by dots, as in ``best.held_out.score``."""
    found: dict[str, float] = {}
    for name, value in result.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            found[f"{prefix}{name}"] = value
    return found
