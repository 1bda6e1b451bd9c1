"""What an engine and its studies do, as metrics that Prometheus collects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asyncopt.errors import ConfigError
from asyncopt.events import (
    AttemptFailed,
    CallEnded,
    CandidateScored,
    Event,
    Observer,
    StepFinished,
    StudyStarted,
    Utilisation,
)
from asyncopt.telemetry.labels import Labels

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PORT = 9464  # of OpenTelemetry's exporter for Prometheus, which collectors are often set to
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Prometheus:
    """An observer that counts calls, tokens, dollars and failures, and shows what is in flight and what is best.

    Give it to the engine, and for studies :meth:`study` or, where there is one alone, the same. ``registry`` is
    prometheus_client's own by default: whoever serves that one serves these. Labels are models, scopes of quotas, kinds
    of failures and names of studies; never what a model said.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        try:
            from prometheus_client import REGISTRY, Counter, Gauge, Histogram
        except ImportError:
            raise ConfigError("prometheus_client is not installed; pip install 'asyncopt[prometheus]'") from None
        into = REGISTRY if registry is None else registry
        self._calls = Counter(
            "asyncopt_calls", "Calls that have ended; those answered by the cache are none.", ["model", "outcome"],
            registry=into,
        )  # fmt: skip
        self._tokens = Counter("asyncopt_tokens", "Tokens of ended calls.", ["model", "type"], registry=into)
        self._usd = Counter("asyncopt_usd", "Dollars for ended calls, by the price stated.", ["model"], registry=into)
        self._failures = Counter(
            "asyncopt_failed_attempts", "Failed attempts by kind; rate_limited is a 429.", ["model", "kind"],
            registry=into,
        )  # fmt: skip
        self._service = Histogram(
            "asyncopt_call_seconds", "Seconds of the attempt that ended a call.", ["model"], buckets=_SECONDS,
            registry=into,
        )  # fmt: skip
        self._queued_seconds = Histogram(
            "asyncopt_queue_seconds", "Seconds in the queue before that attempt.", ["model"], buckets=_SECONDS,
            registry=into,
        )  # fmt: skip
        self._in_flight = Gauge("asyncopt_calls_in_flight", "Calls in flight.", ["scope"], registry=into)
        self._limit = Gauge("asyncopt_concurrency_limit", "Calls that may be in flight.", ["scope"], registry=into)
        self._queued = Gauge("asyncopt_calls_queued", "Calls that wait for their turn.", ["scope"], registry=into)
        self._limiting = Counter(
            "asyncopt_limiting", "Looks at what kept more calls from being in flight, one a second.",
            ["scope", "limiting"], registry=into,
        )  # fmt: skip
        self.candidates = Counter("asyncopt_candidates", "Candidates with a score.", ["study"], registry=into)
        self.steps = Gauge("asyncopt_steps_finished", "Finished steps.", ["study"], registry=into)
        self.best = Gauge("asyncopt_best_score", "The best score in training so far.", ["study"], registry=into)
        self._models, self._scopes, self._studies = Labels(), Labels(), Labels()
        self._own: _OfStudy | None = None

    def study(self, name: str) -> Observer:
        """An observer for one of several studies, whose figures carry this name."""
        return _OfStudy(self, self._studies.of(name))

    def notify(self, event: Event) -> None:
        if isinstance(event, CallEnded):
            self._count(event)
        elif isinstance(event, AttemptFailed):
            self._failures.labels(self._models.of(event.model), event.kind).inc()
        elif isinstance(event, Utilisation):
            self._look(event)
        elif isinstance(event, StudyStarted):
            self._own = _OfStudy(self, self._studies.of(event.task))
        if self._own is not None:
            self._own.notify(event)

    def _count(self, event: CallEnded) -> None:
        model = self._models.of(event.model)
        self._calls.labels(model, event.outcome).inc()
        self._tokens.labels(model, "input").inc(event.input_tokens)
        self._tokens.labels(model, "output").inc(event.output_tokens)
        self._usd.labels(model).inc(event.usd)
        self._service.labels(model).observe(event.service)
        self._queued_seconds.labels(model).observe(event.queued)

    def _look(self, event: Utilisation) -> None:
        scope = self._scopes.of(event.scope)
        self._in_flight.labels(scope).set(event.in_flight)
        self._limit.labels(scope).set(event.concurrency)
        self._queued.labels(scope).set(event.queued)
        self._limiting.labels(scope, event.limiting).inc()


class _OfStudy:
    """The figures of one study."""

    def __init__(self, metrics: Prometheus, name: str) -> None:
        self._metrics = metrics
        self._name = name

    def notify(self, event: Event) -> None:
        metrics, name = self._metrics, self._name
        if isinstance(event, CandidateScored) and event.score is not None and not event.provisional:
            metrics.candidates.labels(name).inc()
        elif isinstance(event, StudyStarted):
            metrics.steps.labels(name).set(event.step)
        elif isinstance(event, StepFinished):
            metrics.steps.labels(name).set(event.step + 1)
            if event.best_score is not None:
                metrics.best.labels(name).set(event.best_score)


@contextmanager
def served(port: int = PORT) -> Iterator[Prometheus]:
    """A :class:`Prometheus` of its own, served by a thread at ``http://127.0.0.1:PORT/metrics``."""
    observer, registry = _of_its_own()
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise ConfigError(
            f"the metrics cannot be served on port {port} ({error.strerror}); say another one, as in prometheus:9465"
        ) from None
    try:
        yield observer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _of_its_own() -> tuple[Prometheus, CollectorRegistry]:
    try:
        from prometheus_client import CollectorRegistry
    except ImportError:
        raise ConfigError("prometheus_client is not installed; pip install 'asyncopt[prometheus]'") from None
    registry = CollectorRegistry()
    return Prometheus(registry), registry
