"""Observers that tell other systems: the conventions' names and figures, no content, bounded labels, no harm."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from calls import started
from fakes import FakeEndpoint, echo, run_virtual
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry
from recorded import EXAMPLES, TASK, Toy

from asyncopt import OPRO, Budget, BudgetExhausted, Engine, Fault, Generate, Price, Quota, Result, Sampling, Study
from asyncopt.config import check
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import ConfigError
from asyncopt.events import CallEnded, Event, Observer
from asyncopt.sweepfile import read_sweep_file
from asyncopt.telemetry import OpenTelemetry, Prometheus, names, observing
from asyncopt.telemetry.labels import LONGEST, MOST, OTHER, Labels
from asyncopt.telemetry.mlflow import MLflow
from asyncopt.telemetry.prometheus import served
from asyncopt.telemetry.wandb import WandB
from asyncopt.values import Completion, FaultKind, Likelihood, Message, Usage

SECRET = "Start."  # the instruction of the toy task: content, like every question and answer
OPENAI = "https://api.openai.com/v1"


class Collected:
    """OpenTelemetry's own SDK, with everything kept in memory."""

    def __init__(self, **options: Any) -> None:
        self._reader, self._spans, self._logs = (
            InMemoryMetricReader(),
            InMemorySpanExporter(),
            InMemoryLogRecordExporter(),
        )
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        loggers = LoggerProvider()
        loggers.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        self.observer = OpenTelemetry(
            meter_provider=MeterProvider([self._reader]),
            tracer_provider=self.tracers,
            logger_provider=loggers,
            **options,
        )

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        resources = [] if data is None else data.resource_metrics
        metrics = [metric for one in resources for scope in one.scope_metrics for metric in scope.metrics]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]

    def spans(self, name: str) -> list[Any]:
        return [span for span in self._spans.get_finished_spans() if span.name == name]

    def events(self) -> list[Any]:
        return [data.log_record for data in self._logs.get_finished_logs()]

    def everything(self) -> str:
        spans = [span.to_json() for span in self._spans.get_finished_spans()]
        return "".join(
            [*spans, *(str(dict(event.attributes)) for event in self.events()), str(self.points(names.TOKEN_USAGE))]
        )


def ended(number: int = 0, **changed: Any) -> CallEnded:
    """A call to OpenAI that ended well."""
    fields: dict[str, Any] = {
        "model": "gpt", "outcome": "completed", "attempts": 1, "queued": 0.5, "service": 2.0, "input_tokens": 100,
        "output_tokens": 20, "server": OPENAI, "usd": 0.25, "request": Generate.of(f"ask {number}"),
        "completion": Completion("said", served_model="gpt-2026"),
    }  # fmt: skip
    return CallEnded(**{**fields, **changed})


def studied(
    *observers: Observer, engine_too: bool = True, toy: Toy | None = None, budget: Budget | None = None
) -> Result:
    """The toy study, watched."""

    async def main() -> Result:
        async with Engine(observers=observers if engine_too else ()) as engine:
            endpoint = FakeEndpoint(toy or Toy(), seconds=0.5)
            quota = Quota(requests_per_minute=6e4, concurrency=8)
            model = engine.model("m", endpoint=endpoint, quota=quota, price=Price(1.0, 2.0))
            optimizer = OPRO(steps=3, samples_per_step=3, validate_every=1)
            study = Study(
                task=TASK,
                optimizer=optimizer,
                scorer=model,
                proposer=model,
                observers=observers,
                budget=budget or Budget(),
            )
            return await study.run()

    return run_virtual(main)


# -- what the engine tells ---------------------------------------------------------------------------------------------


class Kept:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if type(event).__name__ == kind]


def test_the_end_of_a_call_says_where_it_was_made_what_it_cost_and_what_was_asked() -> None:
    kept = Kept()

    async def main() -> None:
        async with Engine(observers=[kept]) as engine:
            endpoint = FakeEndpoint(seconds=3.0, identity="https://example.org/v1")
            model = engine.model("m", endpoint=endpoint, price=Price(1.0, 100_000.0))
            await model.generate("Hello.")
            await model.generate("Hello.")  # in flight no more, and not cached: another call

    run_virtual(main)
    one, _ = kept.of("CallEnded")
    assert (one.server, one.service, one.input_tokens, one.output_tokens) == ("https://example.org/v1", 3.0, 10, 5)
    assert one.usd == pytest.approx(0.50001)
    assert (one.request.prompt[0].content, one.completion.text) == ("Hello.", "HELLO.")
    assert "Hello" not in repr(one)


def test_when_all_calls_have_ended_the_last_utilisation_says_so() -> None:
    kept = Kept()

    async def main() -> None:
        async with Engine(observers=[kept]) as engine:
            model = engine.model("m", endpoint=FakeEndpoint(seconds=1.25), quota=Quota(concurrency=4))
            await asyncio.gather(*(model.generate(f"q {number}") for number in range(4)))
            await asyncio.sleep(5)

    run_virtual(main)
    looks = [(event.in_flight, event.queued) for event in kept.of("Utilisation")]
    assert looks == [(4, 0), (0, 0)]


def test_a_study_that_stops_says_why_and_one_that_finishes_does_not() -> None:
    stopped, finished = Kept(), Kept()
    with pytest.raises(BudgetExhausted):
        studied(stopped, budget=Budget(calls=20))
    assert [event.error for event in stopped.of("StudyStopped")] == ["BudgetExhausted"]
    studied(finished)
    assert not finished.of("StudyStopped")


# -- OpenTelemetry -----------------------------------------------------------------------------------------------------


def test_the_names_and_buckets_are_those_of_the_conventions() -> None:
    assert names.TOKEN_BUCKETS == (
        1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
    )  # fmt: skip
    wanted = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
    assert names.DURATION_BUCKETS == pytest.approx(wanted)
    collected = Collected()
    collected.observer.notify(ended())
    duration, (sent, received) = (
        collected.points("gen_ai.client.operation.duration"),
        sorted(collected.points("gen_ai.client.token.usage"), key=lambda point: point.sum, reverse=True),
    )
    assert tuple(duration[0].explicit_bounds) == names.DURATION_BUCKETS
    assert tuple(sent.explicit_bounds) == names.TOKEN_BUCKETS
    common = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt",
        "gen_ai.response.model": "gpt-2026", "server.address": "api.openai.com", "server.port": 443,
    }  # fmt: skip
    assert dict(duration[0].attributes) == common
    assert (duration[0].count, duration[0].sum) == (1, 2.0)
    assert (sent.sum, dict(sent.attributes)) == (100, common | {"gen_ai.token.type": "input"})
    assert (received.sum, dict(received.attributes)) == (20, common | {"gen_ai.token.type": "output"})


@pytest.mark.parametrize(
    ("server", "wanted"),
    [
        ("https://api.anthropic.com/v1", ("anthropic", "api.anthropic.com", 443, "chat")),
        ("https://mine.openai.azure.com", ("azure.ai.openai", "mine.openai.azure.com", 443, "chat")),
        ("https://generativelanguage.googleapis.com/v1beta/openai", ("gcp.gemini", "generativelanguage.googleapis.com", 443, "chat")),
        ("http://127.0.0.1:8000/v1", ("openai", "127.0.0.1", 8000, "chat")),
        ("http://[::1]/v1/completions", ("openai", "::1", 80, "text_completion")),
        ("local:0123abcd", ("local", None, None, "chat")),
        ("", ("asyncopt", None, None, "chat")),
    ],
)  # fmt: skip
def test_an_endpoint_has_its_provider_and_its_address(server: str, wanted: tuple[Any, ...]) -> None:
    collected = Collected()
    collected.observer.notify(ended(server=server))
    (point,) = collected.points(names.OPERATION_DURATION)
    keys = ("gen_ai.provider.name", "server.address", "server.port", "gen_ai.operation.name")
    assert tuple(point.attributes.get(key) for key in keys) == wanted


def test_failures_have_their_kind_and_a_likelihood_its_name() -> None:
    collected = Collected()
    collected.observer.notify(ended(outcome="refused", completion=None, output_tokens=0))
    collected.observer.notify(ended(request=Likelihood((Message("user", "q"),), "a")))
    points = collected.points(names.OPERATION_DURATION)
    found = {(point.attributes.get("error.type"), point.attributes["gen_ai.operation.name"]) for point in points}
    assert found == {("refused", "chat"), (None, "likelihood")}


def test_a_study_its_steps_and_its_calls_are_one_tree_below_the_span_of_the_caller() -> None:
    collected = Collected(call_spans=0.25)
    with collected.tracers.get_tracer("user").start_as_current_span("request") as caller:
        result = studied(collected.observer)
    (study,) = collected.spans("invoke_workflow opro")
    assert study.parent.span_id == caller.get_span_context().span_id
    assert study.status.status_code is StatusCode.UNSET
    assert study.attributes["asyncopt.task"] == "toy"
    steps, calls = collected.spans("asyncopt step"), collected.spans("chat m")
    assert [step.attributes["asyncopt.step"] for step in steps] == [0, 1, 2]
    assert len(calls) == result.calls // 4
    assert {span.parent.span_id for span in [*steps, *calls]} == {study.context.span_id}
    assert all(call.end_time - call.start_time == 500_000_000 for call in calls)
    assert all(study.start_time <= step.start_time <= step.end_time <= study.end_time for step in steps)
    assert sum(point.count for point in collected.points(names.OPERATION_DURATION)) == result.calls
    tokens = {point.attributes["gen_ai.token.type"]: point.sum for point in collected.points(names.TOKEN_USAGE)}
    assert tokens == {"input": result.input_tokens, "output": result.output_tokens}


def test_every_candidate_is_an_evaluation_event_in_the_study() -> None:
    collected, kept = Collected(), Kept()
    studied(collected.observer, kept)
    (study,) = collected.spans("invoke_workflow opro")
    events, scored = collected.events(), kept.of("CandidateScored")
    assert {event.event_name for event in events} == {"gen_ai.evaluation.result"}
    assert [event.attributes.get("gen_ai.evaluation.score.value") for event in events] == [one.score for one in scored]
    assert {event.attributes["gen_ai.evaluation.name"] for event in events} == {"toy"}
    assert {event.span_id for event in events} == {study.context.span_id}


@pytest.mark.parametrize("error", [BudgetExhausted, asyncio.CancelledError])
def test_a_study_that_stops_ends_its_span_with_the_error(error: type[BaseException]) -> None:
    collected = Collected()
    if error is BudgetExhausted:
        with pytest.raises(BudgetExhausted):
            studied(collected.observer, budget=Budget(calls=20))
    else:

        async def main() -> None:
            async with Engine(grace=0.0) as engine:
                model = engine.model("m", endpoint=FakeEndpoint(Toy(), seconds=0.5))
                study = Study(
                    task=TASK, optimizer=OPRO(steps=3), scorer=model, proposer=model, observers=[collected.observer]
                )
                task = asyncio.create_task(study.run())
                await asyncio.sleep(2.0)
                task.cancel()
                await asyncio.wait([task])

        run_virtual(main)
    (study,) = collected.spans("invoke_workflow opro")
    assert study.status.status_code is StatusCode.ERROR
    assert study.attributes["error.type"] == error.__name__


@pytest.mark.parametrize("said", [None, "false", "true"])
def test_content_is_told_only_where_the_environment_says_so(said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if said is not None:
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", said)
    collected = Collected(call_spans=1.0)
    studied(collected.observer)
    question = EXAMPLES[0].input
    told = [
        SECRET in collected.everything(),
        f"\\n{question}" in collected.everything(),
        "Idea" in collected.everything(),
    ]
    assert told == [said == "true"] * 3
    if said == "true":
        span = next(
            span for span in collected.spans("chat m") if "square" not in span.attributes["gen_ai.input.messages"]
        )
        (turn,) = json.loads(span.attributes["gen_ai.input.messages"])
        (answer,) = json.loads(span.attributes["gen_ai.output.messages"])
        assert (turn["role"], turn["parts"][0]["type"]) == ("user", "text")
        assert (answer["role"], answer["finish_reason"]) == ("assistant", "stop")


def test_without_a_provider_nothing_happens() -> None:
    observer = OpenTelemetry(call_spans=1.0)
    with_it, without = studied(observer), studied()
    observer.close()
    assert with_it == without


def test_the_share_of_calls_that_have_a_span_is_the_one_that_was_asked_for() -> None:
    collected = Collected(call_spans=0.4)
    for number in range(100):
        collected.observer.notify(ended(number))
    assert abs(len(collected.spans("chat gpt")) - 40) <= 1


def test_a_share_of_spans_is_from_none_to_all() -> None:
    with pytest.raises(ConfigError, match="from 0 to 1"):
        OpenTelemetry(call_spans=1.5)


def test_no_string_of_the_conventions_stands_anywhere_else() -> None:
    folder = Path(names.__file__).parent
    others = [path for path in folder.parent.rglob("*.py") if path.name != "names.py"]
    assert others
    assert not [path for path in others if '"gen_ai.' in path.read_text(encoding="utf-8")]


def test_importing_the_observers_loads_none_of_their_packages() -> None:
    code = "import sys, asyncopt.telemetry, asyncopt.telemetry.wandb, asyncopt.telemetry.mlflow\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {module.split(".")[0] for module in done.stdout.split()}
    assert not loaded & {"opentelemetry", "prometheus_client", "wandb", "mlflow", "pydantic", "numpy"}


# -- labels ------------------------------------------------------------------------------------------------------------


def test_labels_are_printable_short_and_few() -> None:
    labels = Labels()
    hostile = "gpt\x1b[31m\u202e\n" + "x" * 1000
    assert labels.of(hostile).isprintable()
    assert len(labels.of(hostile)) <= LONGEST
    found = {labels.of(f"model {number}") for number in range(10 * MOST)}
    assert len(found) <= MOST
    assert OTHER in found
    assert labels.of(hostile) != OTHER


# -- Prometheus --------------------------------------------------------------------------------------------------------


def test_prometheus_counts_what_the_result_says() -> None:
    registry, kept = CollectorRegistry(), Kept()
    result = studied(Prometheus(registry), kept)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    refused = value("asyncopt_calls_total", model="m", outcome="refused")
    completed = value("asyncopt_calls_total", model="m", outcome="completed")
    assert refused is not None
    assert completed is not None
    assert refused + completed == result.calls
    assert value("asyncopt_tokens_total", model="m", type="input") == result.input_tokens
    assert value("asyncopt_tokens_total", model="m", type="output") == result.output_tokens
    assert value("asyncopt_usd_total", model="m") == pytest.approx(result.usd)
    assert value("asyncopt_call_seconds_count", model="m") == result.calls
    assert value("asyncopt_failed_attempts_total", model="m", kind="refused") == refused
    assert value("asyncopt_concurrency_limit", scope="m") == 8
    assert value("asyncopt_steps_finished", study="toy") == 3
    assert value("asyncopt_candidates_total", study="toy") == len(kept.of("CandidateScored"))
    assert value("asyncopt_best_score", study="toy") == kept.of("StepFinished")[-1].best_score
    labels = {text for metric in registry.collect() for sample in metric.samples for text in sample.labels.values()}
    assert not [text for text in labels if "Idea" in text or SECRET in text]


def test_refusals_for_the_rate_are_counted() -> None:
    registry = CollectorRegistry()

    def answers(request: Generate, number: int) -> Answer:
        return Fault(FaultKind.RATE_LIMITED, "slow down", retry_after=0.1) if number == 1 else echo(request)

    async def main() -> None:
        async with Engine(observers=[Prometheus(registry)]) as engine:
            model = engine.model("m", endpoint=FakeEndpoint(answers))
            await asyncio.gather(*(model.submit(Generate.of("x", Sampling(draw=draw))) for draw in range(5)))

    run_virtual(main)
    assert registry.get_sample_value("asyncopt_failed_attempts_total", {"model": "m", "kind": "rate_limited"}) == 1
    assert registry.get_sample_value("asyncopt_calls_total", {"model": "m", "outcome": "completed"}) == 5


def test_studies_side_by_side_have_their_own_figures() -> None:
    registry = CollectorRegistry()
    prometheus = Prometheus(registry)

    async def main() -> list[Result]:
        async with Engine(observers=[prometheus]) as engine:
            model = engine.model("m", endpoint=FakeEndpoint(Toy(), seconds=0.5), quota=Quota(concurrency=8))
            studies = [
                Study(
                    task=TASK, optimizer=OPRO(steps=steps, samples_per_step=2), scorer=model, proposer=model, seed=steps,
                    observers=[prometheus.study(f"with {steps} steps")],
                )
                for steps in (1, 3)
            ]  # fmt: skip
            return await asyncio.gather(*(study.run() for study in studies))

    run_virtual(main)
    for steps in (1, 3):
        assert registry.get_sample_value("asyncopt_steps_finished", {"study": f"with {steps} steps"}) == steps
    assert registry.get_sample_value("asyncopt_steps_finished", {"study": "toy"}) is None


@pytest.mark.real
def test_the_metrics_are_served_on_this_machine_until_the_end() -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/metrics"
    with served(port) as observer:
        observer.notify(ended())
        with urllib.request.urlopen(address) as reply:
            assert 'asyncopt_calls_total{model="gpt",outcome="completed"} 1.0' in reply.read().decode()
        with pytest.raises(ConfigError, match="another one"), served(port):
            pass
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address)


# -- trackers of experiments -------------------------------------------------------------------------------------------


class FakeRun:
    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.logged: list[dict[str, float]] = []
        self.ended = False

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.ended = True


def test_wandb_gets_scores_by_step_and_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    run, module = FakeRun(), ModuleType("wandb")
    begun: list[str] = []
    module.init = lambda project: begun.append(project) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    observer, kept = WandB(project="p"), Kept()
    result = studied(observer, kept, engine_too=False)
    observer.close()
    assert begun == ["p"]
    assert run.ended
    assert run.config == {"task": "toy", "optimizer": "opro", "steps": 3}
    best = [{"step": event.step, "best_score": event.best_score} for event in kept.of("StepFinished")]
    assert [line for line in run.logged if "best_score" in line] == best
    assert len([line for line in run.logged if "score" in line]) == len(kept.of("CandidateScored"))
    assert result.best is not None
    assert result.best.held_out is not None
    assert run.summary["best.held_out.score"] == result.best.held_out.score
    assert run.summary["calls"] == result.calls
    assert "Idea" not in str((run.logged, run.summary))


def test_a_run_of_the_users_own_is_left_open() -> None:
    run = FakeRun()
    WandB(run).close()
    assert not run.ended


class FakeClient:
    """What MLflow's client keeps on its server."""

    sent: list[tuple[Any, ...]]

    def __init__(self) -> None:
        type(self).sent = []

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return f"id of {name}"

    def create_run(self, experiment: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run in {experiment}"))

    def log_param(self, run: str, name: str, value: object) -> None:
        self.sent.append((run, name, value))

    def log_metric(self, run: str, name: str, value: float, step: int | None = None) -> None:
        self.sent.append((run, name, value, step))

    def set_terminated(self, run: str, status: str) -> None:
        self.sent.append((run, status))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    package, tracking = ModuleType("mlflow"), ModuleType("mlflow.tracking")
    tracking.MlflowClient = FakeClient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", tracking)
    return FakeClient


def test_mlflow_gets_scores_by_step_and_the_result(mlflow: type[FakeClient]) -> None:
    observer, kept = MLflow(experiment="e"), Kept()
    result = studied(observer, kept, engine_too=False)
    observer.close()
    run = "run in id of e"
    assert mlflow.sent[:3] == [(run, "task", "toy"), (run, "optimizer", "opro"), (run, "steps", 3)]
    best = [(run, "best_score", event.best_score, event.step) for event in kept.of("StepFinished")]
    assert [line for line in mlflow.sent if "best_score" in line] == best
    assert (run, "calls", float(result.calls), None) in mlflow.sent
    assert mlflow.sent[-1] == (run, "FINISHED")


def test_mlflow_is_told_of_a_study_that_failed(mlflow: type[FakeClient]) -> None:
    observer = MLflow()
    with pytest.raises(BudgetExhausted):
        studied(observer, engine_too=False, budget=Budget(calls=20))
    observer.close()
    assert mlflow.sent[-1] == ("run in id of asyncopt", "FAILED")


@pytest.mark.parametrize(("module", "make"), [("wandb", WandB), ("mlflow", MLflow)])
def test_what_is_not_installed_is_named_with_its_extra(
    module: str, make: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"asyncopt\[{module}\]"):
        make()


# -- by name -----------------------------------------------------------------------------------------------------------


class Own:
    """An observer of a user's own, found by its name."""

    closed = 0

    def notify(self, event: Event) -> None:
        pass

    def close(self) -> None:
        type(self).closed += 1


READY = Own()


class Waiting:
    async def notify(self, event: Event) -> None: ...


def unreachable() -> Observer:
    raise ConnectionError("no tracker\x1b[2J")


class Unclosable(Kept):
    def close(self) -> None:
        raise ConnectionError("no tracker")


def test_an_observer_that_cannot_be_closed_does_not_hurt_what_it_watched(caplog: pytest.LogCaptureFixture) -> None:
    before = Own.closed
    with observing([f"{__name__}:Own", f"{__name__}:Unclosable"]):
        result = "paid for"
    assert (result, Own.closed) == ("paid for", before + 1)
    assert "Unclosable could not be closed (ConnectionError: no tracker)" in caplog.text


def test_observers_are_found_by_name_and_closed_at_the_end() -> None:
    before = Own.closed
    with observing([f"{__name__}:Own", f"{__name__}:READY"]) as (made, ready):
        assert isinstance(made, Own)
        assert ready is READY
        assert Own.closed == before
    assert Own.closed == before + 2


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("otl", "wanted otel, prometheus"),
        ("prometheus:99999", "wanted otel, prometheus"),
        ("prometheus:", "wanted otel, prometheus"),
        ("prometheus:0", "wanted otel, prometheus"),
        ("no_such_module:x", "PYTHONPATH"),
        (f"{__name__}:nothing", "PYTHONPATH"),
        ("builtins:object", "notify"),
        (f"{__name__}:Waiting", "no async"),
        (f"{__name__}:unreachable", r"unreachable cannot be started \(ConnectionError: no tracker"),
        (f"{__name__}:TASK", "cannot be started"),
        ("otel", "opentelemetry-instrument"),
        ("\x1b[31m", r"wanted otel"),
    ],
)
def test_a_wrong_name_is_refused_and_said(name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused, observing([name]):
        pass
    assert str(refused.value).isprintable()


def test_a_wrong_name_opens_none_of_the_others() -> None:
    before = Own.closed
    with pytest.raises(ConfigError), observing([f"{__name__}:Own", "wrong"]):
        pass
    assert Own.closed == before


def test_observers_stand_in_a_configuration() -> None:
    config = check({"task": {"name": "antonym"}, "observers": ["prometheus:9465", "otel"]})
    assert config.observers == ("prometheus:9465", "otel")
    assert check(config.to_plain()) == config


@pytest.fixture
def server() -> Iterator[str]:
    with started("-m", "asyncopt", "simulate", "--latency", "0.01") as (_, line):
        yield str(line["url"])


WATCHER = """
import pathlib

class Watcher:
    def __init__(self):
        self.kinds = []
    def notify(self, event):
        self.kinds.append(type(event).__name__)
    def close(self):
        pathlib.Path("seen.txt").write_text(" ".join(self.kinds))
"""


@pytest.mark.real
def test_the_command_line_has_observers_of_the_engine_and_of_the_study(tmp_path: Path, server: str) -> None:
    (tmp_path / "watcher.py").write_text(WATCHER)
    command = [sys.executable, "-m", "asyncopt", "run", "antonym", "--steps", "1", "--limit", "4", "--scorer", "m"]
    command += ["--base-url", server, "--no-cache", "--observe"]
    subprocess.run([*command, "watcher:Watcher", "--directory", "here"], check=True, capture_output=True, cwd=tmp_path)
    kinds = (tmp_path / "seen.txt").read_text().split()
    assert {"CallEnded", "StudyStarted", "CandidateScored", "StudyFinished"} <= set(kinds)
    wrong = subprocess.run([*command, "nobody"], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 2
    assert "there is no observer 'nobody'" in wrong.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.real
def test_an_evaluation_has_the_observers_of_its_configuration(tmp_path: Path, server: str) -> None:
    (tmp_path / "watcher.py").write_text(WATCHER)
    command = [sys.executable, "-m", "asyncopt", "eval", "antonym", "Say it.", "--limit", "4", "--scorer", "m"]
    command += ["--base-url", server, "--no-cache", "--set", 'observers=["watcher:Watcher"]']
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert (tmp_path / "seen.txt").read_text().split().count("CallEnded") == 4


SWEEP = """
tasks = ["antonym"]
seeds = [0, 1]

[base.task]
limit = 4
[base.optimizer]
steps = 1
samples_per_step = 2
[base.models.scorer]
model = "m"

[settings.usual]
"""


@pytest.mark.real
def test_in_a_sweep_observers_hear_of_all_calls_and_of_no_single_study(tmp_path: Path, server: str) -> None:
    (tmp_path / "watcher.py").write_text(WATCHER)
    (tmp_path / "two.toml").write_text(f'summary = "two seeds"\n{SWEEP}')
    command = [sys.executable, "-m", "asyncopt", "sweep", "two.toml", "--base-url", server, "--no-cache", "--json"]
    observed = [*command, "--directory", "here", "--observe", "watcher:Watcher"]
    done = subprocess.run(observed, check=True, capture_output=True, text=True, cwd=tmp_path)
    kinds = (tmp_path / "seen.txt").read_text().split()
    ends = [json.loads(line) for line in done.stdout.splitlines() if '"calls"' in line]
    assert kinds.count("CallEnded") == ends[-1]["calls"] > 0
    assert not {"StudyStarted", "CandidateScored", "StudyFinished"} & set(kinds)
    wrong = subprocess.run([*command, "--observe", "nobody"], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 2
    assert "there is no observer 'nobody'" in wrong.stderr
    assert not (tmp_path / "runs").exists()


def test_an_observer_of_one_setting_of_a_sweep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(SWEEP + 'observers = ["prometheus"]')
    with pytest.raises(ConfigError, match=r"settings.usual.observers cannot be.*set base.observers"):
        read_sweep_file(path)


def test_usage_is_not_told_where_none_was_counted() -> None:
    collected = Collected()
    collected.observer.notify(ended(input_tokens=0, output_tokens=0, completion=Completion("", usage=Usage())))
    assert not collected.points(names.TOKEN_USAGE)


@pytest.mark.real
def test_a_server_that_states_an_identity_is_told_by_its_address(server: str) -> None:
    collected = Collected()

    async def main() -> None:
        async with Engine(observers=[collected.observer]) as engine:
            endpoint = HttpEndpoint(server, identity="stated:simulated", codec=TextCompletions())
            await engine.model("m", endpoint=endpoint).generate("Hello.")

    asyncio.run(main())
    (point,) = collected.points(names.OPERATION_DURATION)
    assert point.attributes["server.address"] == "127.0.0.1"
    assert f":{point.attributes['server.port']}/" in server
    assert (point.attributes["gen_ai.provider.name"], point.attributes["gen_ai.operation.name"]) == (
        "openai",
        "text_completion",
    )
