"""A study's scores in Weights & Biases."""

from __future__ import annotations

from typing import Any

from asyncopt.errors import ConfigError
from asyncopt.events import Event, StudyFinished, StudyStarted
from asyncopt.telemetry.figures import figures, flat


class WandB:
    """An observer of one study: every score under its step, and the result's numbers in the summary.

    ``run`` is a run that you have begun, and end; without, one is begun here and now, which asks W&B's server, so make
    it before the study. No text of a model is sent.
    """

    def __init__(self, run: Any = None, *, project: str = "asyncopt") -> None:
        self._owned = run is None
        if run is None:
            try:
                import wandb
            except ImportError:
                raise ConfigError("wandb is not installed; pip install 'asyncopt[wandb]'") from None
            run = wandb.init(project=project)
        self._run = run

    def notify(self, event: Event) -> None:
        if isinstance(event, StudyStarted):
            self._run.config.update({"task": event.task, "optimizer": event.optimizer, "steps": event.steps})
        elif isinstance(event, StudyFinished):
            self._run.summary.update(flat(event.result))
        elif found := figures(event):
            self._run.log(found)

    def close(self) -> None:
        """End the run, if it was begun here."""
        if self._owned:
            self._run.finish()
