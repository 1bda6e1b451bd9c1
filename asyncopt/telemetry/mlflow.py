"""A study's scores in MLflow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asyncopt.errors import ConfigError
from asyncopt.events import Event, StudyFinished, StudyStarted, StudyStopped
from asyncopt.telemetry.figures import figures, flat


class MLflow:
    """An observer of one study: parameters, every score under its step, and the result's numbers as metrics.

    A run is begun in ``experiment``, which asks MLflow's server, so make it before the study; where the server is, is
    MLflow's own affair (MLFLOW_TRACKING_URI). What comes later is sent by a thread. No text of a model is sent.
    """

    def __init__(self, *, experiment: str = "asyncopt") -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise ConfigError("mlflow is not installed; pip install 'asyncopt[mlflow]'") from None
        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(experiment)
        identity = self._client.create_experiment(experiment) if found is None else found.experiment_id
        self._run = self._client.create_run(identity).info.run_id
        self._thread = ThreadPoolExecutor(1, "mlflow")
        self._status = "FINISHED"

    def notify(self, event: Event) -> None:
        if isinstance(event, StudyStarted):
            for name, stated in (("task", event.task), ("optimizer", event.optimizer), ("steps", event.steps)):
                self._send(self._client.log_param, name, stated)
        elif isinstance(event, StudyFinished):
            for name, value in flat(event.result).items():
                self._send(self._client.log_metric, name, float(value))
        elif isinstance(event, StudyStopped):
            self._status = "KILLED" if event.error == "CancelledError" else "FAILED"
        else:
            found = figures(event)
            step = int(found.pop("step", 0))
            for name, value in found.items():
                self._send(self._client.log_metric, name, float(value), step=max(step, 0))

    def _send(self, send: Callable[..., Any], *values: Any, **named: Any) -> None:
        self._thread.submit(send, self._run, *values, **named)

    def close(self) -> None:
        """Wait until everything is sent, and end the run."""
        self._send(self._client.set_terminated, self._status)
        self._thread.shutdown()
