"""Servers that fail, refuse everything, dislike one request, or answer oddly; and what becomes of the calls."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted import Notes, Scripted, Watching, answer, ask, asked, errors, failure, pause, served

from asyncopt import Engine, Generate, Quota
from asyncopt.endpoints.anthropic import AnthropicMessages
from asyncopt.endpoints.faults import fault_of
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Answer, Reply
from asyncopt.errors import CallFailed, EndpointDown, EndpointRefused
from asyncopt.events import LimitChanged
from asyncopt.limits.backoff import MAX_ATTEMPTS
from asyncopt.limits.breaker import GIVEN_UP_FAILURES, GIVEN_UP_SECONDS, UNREACHED_SECONDS
from asyncopt.testing import run_virtual
from asyncopt.values import NO_CONNECTION, Completion, Fault, FaultKind, Request

ONE, FOUR = Quota(concurrency=1), Quota(concurrency=4)
LARGE, REFUSED = FaultKind.TOO_LARGE, FaultKind.REFUSED
BAD, PASSING = FaultKind.BAD_REQUEST, FaultKind.TRANSIENT

# -- servers that fail -------------------------------------------------------------------------------------------------

FAILING = (500, 502, 503, 504, 520, 529)


@pytest.mark.row("H13")
@pytest.mark.parametrize("status", FAILING)
def test_a_failure_that_passes_is_tried_again(status: int) -> None:
    endpoint = Scripted(lambda number, _: failure(status) if number == 0 else answer())
    assert served(run_virtual(asked(endpoint, 1)))
    assert len(endpoint.arrived) == 2


def failing_until(end: float, status: int) -> Scripted:
    endpoint = Scripted(lambda *_: failure(status) if endpoint.arrived[-1] < end else answer())
    return endpoint


@pytest.mark.row("H13")
@pytest.mark.parametrize("status", FAILING)
def test_a_minute_of_failures_loses_nothing(status: int) -> None:
    endpoint = failing_until(60.0, status)
    watching = Watching()
    assert served(run_virtual(asked(endpoint, 300, quota=Quota(concurrency=20), observers=(watching,))))
    gates = [event for event in watching.events if isinstance(event, LimitChanged) and event.what == "gate"]
    assert any(event.value == 5.0 and "the server fails" in event.reason for event in gates)  # the breaker
    assert any(event.value == 0.0 for event in gates)
    assert sum(moment < 60.0 for moment in endpoint.arrived) < 60  # of probes there are few


@pytest.mark.row("H13")
@pytest.mark.parametrize("status", FAILING)
def test_failures_without_end_end_the_study_and_it_can_be_resumed(status: int) -> None:
    endpoint = failing_until(float("inf"), status)
    ended: list[float] = []

    async def main() -> list[Completion | BaseException]:
        results = await asked(endpoint, 300, quota=Quota(concurrency=20))()
        ended.append(asyncio.get_running_loop().time())
        return results

    results = run_virtual(main)
    down = [error for error in errors(results) if isinstance(error, EndpointDown)]
    assert len(down) >= 290  # a few had used up their attempts before
    assert down[0].exit_code == 3
    assert f"HTTP {status}" in str(down[0])
    assert GIVEN_UP_SECONDS <= ended[0] <= GIVEN_UP_SECONDS + 130
    assert GIVEN_UP_FAILURES <= len(endpoint.arrived) < 20 * MAX_ATTEMPTS


class Unreachable(Scripted):
    """A server that answers so many requests and takes no connection after them."""

    def __init__(self, first: int = 0) -> None:
        super().__init__(lambda *_: answer())
        self._first = first

    async def send(self, model: str, request: Request) -> Answer:
        if len(self.arrived) < self._first:
            return await super().send(model, request)
        self.arrived.append(asyncio.get_running_loop().time())
        return Fault(FaultKind.TRANSIENT, "no connection (ClientConnectorError)", code=NO_CONNECTION)


@pytest.mark.row("T13")
@pytest.mark.parametrize(("served_before", "patience"), [(0, UNREACHED_SECONDS), (1, GIVEN_UP_SECONDS)])
def test_a_server_that_was_never_reached_is_given_up_soon(served_before: int, patience: float) -> None:
    endpoint = Unreachable(served_before)
    ended: list[float] = []

    async def main() -> list[Completion | BaseException]:
        results = await asked(endpoint, 300, quota=Quota(concurrency=20))()
        ended.append(asyncio.get_running_loop().time())
        return results

    results = run_virtual(main)
    assert any(isinstance(error, EndpointDown) for error in errors(results))
    assert patience <= ended[0] <= 1.2 * patience + 20


@pytest.mark.row("H14")
def test_the_hint_of_a_failing_server_is_kept_to() -> None:
    endpoint = Scripted(lambda number, _: failure(503, None, {"retry-after": "10"}) if number == 0 else answer())
    assert served(run_virtual(asked(endpoint, 1)))
    assert 10.0 <= pause(endpoint) <= 11.1


@pytest.mark.row("H14")
def test_no_hint_of_a_failing_server_holds_a_call_back_for_a_day() -> None:
    assert fault_of(503, {"retry-after": "86400"}, None).retry_after == 120.0


PAGE = b"<html>\x1b[31m<title>502 Bad Gateway</title>\xff" + 10_000 * b"x"


@pytest.mark.row("H14")
@pytest.mark.parametrize(("status", "kind"), [(502, PASSING), (413, LARGE)])
def test_a_proxys_page_is_no_json_and_a_little_of_it_is_shown(status: int, kind: FaultKind) -> None:
    fault = fault_of(status, {}, None, PAGE)
    assert fault.kind is kind
    assert fault.detail.startswith(f"HTTP {status} <html>")
    assert "Bad Gateway" in fault.detail
    assert len(fault.detail) <= 200
    assert fault.detail.isprintable()


@pytest.mark.row("H14")
@pytest.mark.parametrize(("wire", "status"), [(OpenAIChat(), 502), (AnthropicMessages(), 413)])
def test_a_proxys_page_is_shown_through_the_wire_format(wire: OpenAIChat | AnthropicMessages, status: int) -> None:
    fault = wire.decode(Reply(status, {"content-type": "text/html"}, PAGE))
    assert isinstance(fault, Fault)
    assert "Bad Gateway" in fault.detail


# -- configuration and requests ----------------------------------------------------------------------------------------


@pytest.mark.row("H15")
@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_refusal_is_verified_once_and_ends_the_run(status: int, in_flight: int) -> None:
    endpoint = Scripted(lambda *_: failure(status, {"message": "no"}))
    results = run_virtual(asked(endpoint, 10_000, quota=Quota(concurrency=in_flight)))
    assert len(endpoint.arrived) == in_flight + 1
    assert all(isinstance(result, EndpointRefused) and result.exit_code == 4 for result in results)
    assert f"HTTP {status}" in str(results[0])
    assert "look at the key" in str(results[0])


@pytest.mark.row("H15")
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_is_not_confirmed_costs_nothing(status: int) -> None:
    endpoint = Scripted(lambda number, _: failure(status) if number < 4 else answer())
    assert served(run_virtual(asked(endpoint, 50, quota=FOUR)))
    assert len(endpoint.arrived) == 54
    assert sum(1.0 <= moment < 2.0 for moment in endpoint.arrived) == 1  # the one that verifies, alone


@pytest.mark.row("H15")
def test_a_refusal_is_verified_by_whichever_call_is_next() -> None:
    """A rate limit of the same moment holds back the call that was refused; the probe behind it is the second call."""
    endpoint = Scripted(lambda number, _: failure(429, None, {"retry-after": "5"}) if number == 0 else failure(403))
    results = run_virtual(asked(endpoint, 100, quota=FOUR))
    assert all(isinstance(result, EndpointRefused) for result in results)
    assert len(endpoint.arrived) == 4 + 1


@pytest.mark.row("H15")
def test_a_redirect_is_not_verified() -> None:
    endpoint = Scripted(lambda *_: failure(302))
    results = run_virtual(asked(endpoint, 10, quota=ONE))
    assert len(endpoint.arrived) == 1
    assert all(isinstance(result, EndpointRefused) for result in results)


@pytest.mark.row("H16")
@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"code": "context_length_exceeded"}, LARGE),
        (413, None, LARGE),
        (400, {"code": "content_filter"}, REFUSED),
        (400, {"code": "odd"}, BAD),
        (422, None, BAD),
    ],
)
def test_a_bad_request_fails_its_item_and_no_other(status: int, error: object, kind: FaultKind) -> None:
    endpoint = Scripted(lambda _, prompt: failure(status, error) if prompt == "question 3" else answer())
    results = run_virtual(asked(endpoint, 20, quota=ONE))
    (failed,) = errors(results)
    assert isinstance(failed, CallFailed)
    assert failed.fault.kind is kind
    assert len(endpoint.arrived) == 20  # nothing was tried again


@pytest.mark.row("H16")
def test_three_bad_requests_alike_end_the_run() -> None:
    endpoint = Scripted(lambda *_: failure(400, {"code": "unsupported_value", "message": "temperature"}))
    results = run_virtual(asked(endpoint, 1000, quota=ONE))
    assert len(endpoint.arrived) == 3
    assert [type(result) for result in results[:2]] == [CallFailed, CallFailed]
    assert all(isinstance(result, EndpointRefused) and result.exit_code == 4 for result in results[2:])
    assert "unsupported_value" in str(results[-1])
    assert "resume the study" in str(results[-1])


@pytest.mark.row("H16")
def test_bad_requests_that_differ_end_nothing() -> None:
    endpoint = Scripted(lambda number, _: failure(400, {"code": f"code {number}"}))
    results = run_virtual(asked(endpoint, 10, quota=ONE))
    assert [type(result) for result in results] == 10 * [CallFailed]


@pytest.mark.row("H16")
def test_the_same_request_three_times_is_one_bad_request() -> None:
    endpoint = Scripted(lambda *_: failure(400, {"code": "odd"}))

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            for _ in range(5):
                with pytest.raises(CallFailed) as caught:
                    await model.submit(Generate.of("question"))
                assert type(caught.value) is CallFailed

    run_virtual(main)


@pytest.mark.row("H16")
def test_a_candidate_that_is_refused_on_every_example_ends_nothing() -> None:
    def script(_: int, prompt: str) -> Reply:
        number = int(prompt.split()[1])
        return failure(400, {"code": "invalid_prompt"}) if 20 <= number < 60 else answer()

    endpoint = Scripted(script)
    results = run_virtual(asked(endpoint, 100, quota=ONE))
    assert [type(error) for error in errors(results)] == 40 * [CallFailed]
    # What had been served was asked again after 3, 6, 12 and 24 refusals in a row, of which the last are not reached.
    assert len(endpoint.arrived) == 100 + 3


@pytest.mark.row("H16")
@pytest.mark.parametrize("in_flight", [4, 16, 64])
def test_what_was_served_is_asked_again_by_one_call_at_a_time(in_flight: int) -> None:
    def script(_: int, prompt: str) -> Reply:
        number = int(prompt.split()[1])
        return failure(400, {"code": "invalid_prompt"}) if 100 <= number < 200 else answer()

    endpoint = Scripted(script)
    results = run_virtual(asked(endpoint, 300, quota=Quota(concurrency=in_flight)))
    assert [type(error) for error in errors(results)] == 100 * [CallFailed]
    assert len(endpoint.arrived) <= 300 + 5  # as one after the other: after 3, 6, 12, 24 and 48


@pytest.mark.row("H16")
def test_a_candidate_that_is_refused_right_after_a_resume_ends_nothing(tmp_path: Path) -> None:
    endpoint = Scripted(lambda _, prompt: answer() if int(prompt.split()[1]) < 20 else failure(400, {"code": "odd"}))

    async def sitting(count: int) -> list[Completion | BaseException]:
        async with Engine(cache=tmp_path / "answers.sqlite") as engine:
            return await ask(engine.model("m", endpoint=endpoint, quota=ONE), count)

    assert served(asyncio.run(sitting(20)))
    assert [type(error) for error in errors(asyncio.run(sitting(30)))] == 10 * [CallFailed]


@pytest.mark.row("H16")
def test_bad_requests_are_told_from_good_ones_of_the_same_model() -> None:
    """Two models share a quota: that the other one was served last says nothing of this one, and takes nothing away."""
    endpoint = Scripted(lambda _, prompt: failure(400, {"code": "odd"}) if "bad" in prompt else answer())

    async def main() -> list[Completion | BaseException]:
        async with Engine() as engine:
            one, other = (engine.model(name, endpoint=endpoint, quota=Quota(scope="both")) for name in ("one", "other"))
            await one.generate("good")
            await other.generate("good")
            calls = (one.submit(Generate.of(f"bad {number}")) for number in range(5))
            return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(error) for error in errors(run_virtual(main))] == 5 * [CallFailed]


@pytest.mark.row("H16")
def test_bad_requests_after_good_ones_end_the_run_if_the_good_ones_are_refused_as_well() -> None:
    endpoint = Scripted(lambda number, _: answer() if number < 20 else failure(400, {"type": "invalid_request_error"}))
    results = run_virtual(asked(endpoint, 1000, quota=ONE))
    assert len(endpoint.arrived) == 20 + 3 + 1
    assert isinstance(results[-1], EndpointRefused)
    assert endpoint.prompts[-1] == "question 19"


@pytest.mark.row("H17")
def test_the_servers_word_on_retrying_goes_before_the_table() -> None:
    no = Scripted(lambda *_: failure(500, None, {"x-should-retry": "false"}))
    (failed,) = errors(run_virtual(asked(no, 1)))
    assert isinstance(failed, CallFailed)
    assert failed.fault.kind is PASSING
    assert len(no.arrived) == 1
    yes = Scripted(lambda number, _: answer() if number else failure(400, None, {"x-should-retry": "true"}))
    assert served(run_virtual(asked(yes, 1)))
    for status in (401, 402):
        never = Scripted(lambda *_, status=status: failure(status, None, {"x-should-retry": "true"}))
        run_virtual(asked(never, 10, quota=ONE))
        assert len(never.arrived) <= 2


@pytest.mark.parametrize(("kind", "attempts"), [("truncated", 1), ("refused", 1), ("malformed", 3)])
def test_how_often_an_answer_that_is_none_is_asked_for_again(kind: str, attempts: int) -> None:
    choices = {
        "truncated": [{"message": {"content": None}, "finish_reason": "length"}],
        "refused": [{"message": {"content": "no"}, "finish_reason": "content_filter"}],
        "malformed": [],
    }
    endpoint = Scripted(lambda *_: answer(choices=choices[kind]))
    (failed,) = errors(run_virtual(asked(endpoint, 1)))
    assert isinstance(failed, CallFailed)
    assert failed.fault.kind.value == kind
    assert len(endpoint.arrived) == attempts


# -- odd successes -----------------------------------------------------------------------------------------------------


@pytest.mark.row("H21")
@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": "10", "completion_tokens": 5},
        {"prompt_tokens": 10**30, "completion_tokens": 5},
        {"prompt_tokens": 10.5, "completion_tokens": True},
    ],
)
def test_usage_that_cannot_be_believed_is_estimated(usage: object) -> None:
    endpoint = Scripted(lambda *_: answer("a" * 40, usage=usage))

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            completion = await model.generate("q" * 400)
            assert completion.usage.estimated
            assert (completion.usage.input_tokens, completion.usage.output_tokens) == (104, 10)
            assert model.account.tokens == 114
            assert model.account.exhausted(1e9) is None

    run_virtual(main)


@pytest.mark.row("H21")
@pytest.mark.parametrize(("cached", "believed"), [(4, 4), (99, 10), (-1, 0), ("4", 0)])
def test_more_tokens_from_the_cache_than_were_sent_are_those_that_were_sent(cached: object, believed: int) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": cached}}
    (result,) = run_virtual(asked(Scripted(lambda *_: answer(usage=usage)), 1))
    assert isinstance(result, Completion)
    assert (result.usage.cached_tokens, result.usage.estimated) == (believed, False)


@pytest.mark.row("H22")
def test_another_model_that_answers_is_recorded_and_told_once() -> None:
    notes = Notes()
    results = run_virtual(asked(Scripted(lambda *_: answer(model="small\x1b[31m")), 20, observers=(notes,)))
    assert {result.served_model for result in results if isinstance(result, Completion)} == {"small\x1b[31m"}
    (text,) = notes.texts
    assert text.startswith("small [31m answers where m was asked")


@pytest.mark.row("H22")
@pytest.mark.parametrize("model", ["m", "m-2026-08-01", "", None, 7])
def test_a_dated_name_of_the_same_model_is_no_other(model: object) -> None:
    notes = Notes()
    assert served(run_virtual(asked(Scripted(lambda *_: answer(model=model)), 3, observers=(notes,))))
    assert notes.texts == []


@pytest.mark.row("H23")
def test_every_request_asks_for_one_choice_and_a_missing_one_is_asked_for_again() -> None:
    assert b'"n"' not in OpenAIChat().encode("m", Generate.of("q"))
    endpoint = Scripted(lambda number, _: answer(choices=[]) if number == 0 else answer("here"))
    (result,) = run_virtual(asked(endpoint, 1))
    assert isinstance(result, Completion)
    assert result.text == "here"
    assert len(endpoint.arrived) == 2
