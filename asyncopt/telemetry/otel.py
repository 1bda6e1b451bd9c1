"""Calls and studies as OpenTelemetry's metrics, spans and events, in the words of its conventions for generative AI."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asyncopt.errors import ConfigError
from asyncopt.events import (
    AttemptFailed,
    CallEnded,
    CandidateScored,
    Event,
    StepFinished,
    StudyFinished,
    StudyStarted,
    StudyStopped,
)
from asyncopt.telemetry import names
from asyncopt.telemetry.attributes import content, of_answer, of_request, place
from asyncopt.telemetry.labels import Labels
from asyncopt.values import Likelihood
from asyncopt.version import __version__

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider


class OpenTelemetry:
    """An observer that tells OpenTelemetry: every call in two histograms, a study, its steps and its candidates.

    Give it to the engine for the calls, and to one study for its span: under the span that was current where the study
    began. Calls of an engine that works for that study alone may have spans too, of which ``call_spans`` is the share,
    from 0 to 1. Without providers the global ones are used, and where nobody has set any, nothing happens. No text of
    prompts, answers or candidates is told unless the environment says
    ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true``. ``wall`` tells the nanoseconds since the epoch.
    """

    def __init__(
        self,
        *,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        call_spans: float = 0.0,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        if not 0 <= call_spans <= 1:
            raise ConfigError(f"call_spans is {call_spans}; it is the share of calls that have a span, from 0 to 1")
        try:
            from opentelemetry import metrics, trace
            from opentelemetry._logs import get_logger
        except ImportError:
            raise ConfigError("OpenTelemetry is not installed; pip install 'asyncopt[otel]'") from None
        meter = metrics.get_meter(names.SCOPE, __version__, meter_provider)
        self._tracer = trace.get_tracer(names.SCOPE, __version__, tracer_provider)
        self._logger = get_logger(names.SCOPE, __version__, logger_provider)
        self._tokens = meter.create_histogram(
            names.TOKEN_USAGE,
            names.TOKEN_UNIT,
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=names.TOKEN_BUCKETS,
        )
        self._duration = meter.create_histogram(
            names.OPERATION_DURATION,
            names.DURATION_UNIT,
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS,
        )
        self._failures = meter.create_counter(
            names.ATTEMPTS_FAILED, names.ATTEMPT_UNIT, "Attempts that failed, whether they were made again or not."
        )
        self._models, self._served = Labels(), Labels()
        self._content = os.environ.get(names.CAPTURE, "").strip().lower() == "true"
        self._share, self._due = call_spans, 0.0
        self._wall = wall
        self._task = ""
        self._study: Span | None = None
        self._context: Context | None = None
        self._step_began = 0

    def notify(self, event: Event) -> None:
        if isinstance(event, CallEnded):
            self._count(event)
        elif isinstance(event, AttemptFailed):
            model = self._models.of(event.model)
            self._failures.add(1, {names.REQUEST_MODEL: model, names.ERROR_TYPE: event.kind})
        elif isinstance(event, CandidateScored):
            self._tell(event)
        elif isinstance(event, StepFinished):
            self._end_step(event)
        elif isinstance(event, StudyStarted):
            self._begin(event)
        elif isinstance(event, StudyFinished):
            self._end(None)
        elif isinstance(event, StudyStopped):
            self._end(event.error)

    def close(self) -> None:
        """End what is open; the providers belong to whoever made them."""
        self._end(None)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _count(self, event: CallEnded) -> None:
        common = self._attributes(event)
        failed = event.outcome != "completed"
        self._duration.record(event.service, common | ({names.ERROR_TYPE: event.outcome} if failed else {}))
        for kind, tokens in ((names.INPUT, event.input_tokens), (names.OUTPUT, event.output_tokens)):
            if tokens:  # a refused or broken call may have used none
                self._tokens.record(tokens, common | {names.TOKEN_TYPE: kind})
        # Every n-th call, not a random choice: a share that is exact, and the same in every run.
        self._due += self._share
        if self._due >= 1:
            self._due -= 1
            self._trace_call(event, common, failed=failed)

    def _attributes(self, event: CallEnded) -> dict[str, Any]:
        attributes = dict(place(event.server))
        if isinstance(event.request, Likelihood):
            attributes[names.OPERATION_NAME] = names.LIKELIHOOD
        attributes[names.REQUEST_MODEL] = self._models.of(event.model)
        if event.completion is not None and event.completion.served_model:
            attributes[names.RESPONSE_MODEL] = self._served.of(event.completion.served_model)
        return attributes

    def _trace_call(self, event: CallEnded, common: dict[str, Any], *, failed: bool) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        now = self._wall()
        span = self._tracer.start_span(
            f"{common[names.OPERATION_NAME]} {common[names.REQUEST_MODEL]}",
            context=self._context,
            kind=SpanKind.CLIENT,
            attributes=common
            | {
                names.USAGE_INPUT_TOKENS: event.input_tokens,
                names.USAGE_OUTPUT_TOKENS: event.output_tokens,
                names.ATTEMPTS: event.attempts,
                names.QUEUED: event.queued,
            }
            | of_request(event.request)
            | of_answer(event.completion)
            | (content(event.request, event.completion) if self._content else {}),
            start_time=now - round(event.service * 1e9),
        )
        if failed:
            span.set_attribute(names.ERROR_TYPE, event.outcome)
            span.set_status(Status(StatusCode.ERROR))
        span.end(now)

    # -- a study -------------------------------------------------------------------------------------------------------

    def _begin(self, event: StudyStarted) -> None:
        from opentelemetry.trace import set_span_in_context

        self._end(None)
        self._task = event.task
        self._step_began = self._wall()
        self._study = self._tracer.start_span(
            f"{names.INVOKE_WORKFLOW} {event.optimizer}",
            attributes={
                names.OPERATION_NAME: names.INVOKE_WORKFLOW,
                names.WORKFLOW_NAME: event.optimizer,
                names.TASK: event.task,
                names.STEP: event.step,
                names.STEPS: event.steps,
            },
            start_time=self._step_began,
        )
        self._context = set_span_in_context(self._study)

    def _end_step(self, event: StepFinished) -> None:
        """A step's span goes from the end of the one before to its own: overlapping steps begin before that."""
        began, self._step_began = self._step_began, self._wall()
        attributes: dict[str, Any] = {names.TASK: self._task, names.STEP: event.step}
        if event.best_score is not None:
            attributes[names.BEST_SCORE] = event.best_score
        span = self._tracer.start_span(names.STEP_SPAN, self._context, attributes=attributes, start_time=began)
        span.end(self._step_began)

    def _tell(self, event: CandidateScored) -> None:
        from opentelemetry._logs import LogRecord, SeverityNumber

        attributes: dict[str, Any] = {
            names.EVALUATION_NAME: self._task or names.SCOPE,
            names.STEP: event.step,
            names.INDEX: event.index,
            names.SOURCE: event.source,
            names.EXAMPLES: event.examples,
            names.PARTIAL: event.partial,
            names.PROVISIONAL: event.provisional,
        }
        if event.score is None:
            attributes[names.ERROR_TYPE] = names.NO_SCORE
        else:
            attributes[names.EVALUATION_SCORE] = event.score
        if self._content:
            attributes[names.CANDIDATE] = event.candidate
        self._logger.emit(
            LogRecord(
                timestamp=self._wall(),
                context=self._context,
                severity_number=SeverityNumber.INFO,
                attributes=attributes,
                event_name=names.EVALUATION_RESULT,
            )
        )

    def _end(self, error: str | None) -> None:
        from opentelemetry.trace import Status, StatusCode

        study, self._study, self._context = self._study, None, None
        if study is None:
            return
        if error is not None:
            study.set_attribute(names.ERROR_TYPE, error)
            study.set_status(Status(StatusCode.ERROR))
        study.end(self._wall())
