"""What servers say in status, headers and error bodies, and what becomes of the calls: on a virtual clock."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from multidict import CIMultiDict
from scripted import Notes, Scripted, Watching, answer, asked, errors, failure, pause, served

from asyncopt import Quota
from asyncopt.endpoints.anthropic import AnthropicMessages
from asyncopt.endpoints.faults import fault_of
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Reply
from asyncopt.errors import QuotaExhausted
from asyncopt.events import LimitChanged
from asyncopt.testing import run_virtual
from asyncopt.values import Completion, Fault, FaultKind

PACED = Quota(requests_per_minute=600)  # ten a second, two at once
FOUR = Quota(concurrency=4)
SLOW = {"code": "rate_limit_exceeded", "message": "slow"}


def first_refused(count: int, headers: dict[str, str] | CIMultiDict[str], error: object = SLOW) -> Scripted:
    """A server that refuses so many requests, and then serves."""
    return Scripted(lambda number, _: failure(429, error, headers) if number < count else answer())


# -- the table of signals ----------------------------------------------------------------------------------------------

RATE, RAMP, QUOTA, DAILY = FaultKind.RATE_LIMITED, FaultKind.RAMP, FaultKind.QUOTA, FaultKind.QUOTA_DAILY
FATAL, LARGE, REFUSED = FaultKind.FATAL_CONFIG, FaultKind.TOO_LARGE, FaultKind.REFUSED
BAD, PASSING, MALFORMED = FaultKind.BAD_REQUEST, FaultKind.TRANSIENT, FaultKind.MALFORMED

MONEY: list[tuple[int, dict[str, object]]] = [
    (429, {"type": "insufficient_quota"}),
    (429, {"type": "insufficient_quota", "code": "insufficient_quota"}),
    (429, {"code": "credit_balance_exhausted"}),
    (429, {"code": "organization_spend_limit_exceeded"}),
    (429, {"code": "project_spend_limit_exceeded"}),
    (429, {"code": "organization_usage_limit_exceeded"}),
    (429, {"code": "billing_hard_limit_reached"}),
    (429, {"code": "enforced_spend_limit_reached", "type": "rate_limit_error"}),
    (429, {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}),
    (402, {"type": "billing_error"}),
    (400, {"type": "billing_error", "message": "spend limit"}),
    (402, {}),
]

SIGNALS: list[tuple[int, object, FaultKind]] = [
    (429, {"code": "rate_limit_exceeded"}, RATE),
    (429, {"type": "rate_limit_error"}, RATE),
    (429, None, RATE),
    (429, {"message": "You exceeded your current quota, please check your plan and billing details"}, RATE),
    (429, {"code": "slow_down"}, RAMP),
    (503, {"code": "slow_down"}, RAMP),
    *((status, error, QUOTA) for status, error in MONEY),
    (401, None, FATAL),
    (401, {"code": "invalid_api_key"}, FATAL),
    (403, {"type": "permission_error"}, FATAL),
    (404, {"code": "model_not_found"}, FATAL),
    (404, None, FATAL),
    *((status, None, FATAL) for status in (301, 302, 303, 307, 308)),
    (302, {"code": "rate_limit_exceeded"}, FATAL),
    (400, {"code": "context_length_exceeded"}, LARGE),
    (413, b"<html>413</html>", LARGE),
    (400, {"code": "content_filter"}, REFUSED),
    (400, {"message": "context_length_exceeded insufficient_quota content_filter"}, BAD),
    (422, None, BAD),
    (405, None, BAD),
    (418, {"code": "teapot"}, BAD),
    (451, None, BAD),
    *((status, None, PASSING) for status in (408, 409, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)),
    (529, {"type": "overloaded_error"}, PASSING),
    (503, {"code": "server_is_overloaded"}, PASSING),
    (599, None, PASSING),
    (200, {"code": 429, "message": "slow"}, RATE),
    (200, {"code": 402}, QUOTA),
    (200, {"code": 503}, PASSING),
    (200, {"code": "rate_limit_exceeded"}, RATE),
    (200, {"message": "who knows"}, MALFORMED),
]


@pytest.mark.parametrize(("status", "error", "kind"), SIGNALS)
@pytest.mark.parametrize("wire", [OpenAIChat(), AnthropicMessages()])
def test_a_signal_is_told_by_code_then_type_then_status(
    wire: OpenAIChat | AnthropicMessages, status: int, error: object, kind: FaultKind
) -> None:
    got = wire.decode(failure(status, error))
    assert isinstance(got, Fault)
    assert got.kind is kind


@pytest.mark.row("H09")
@pytest.mark.parametrize("body", [b"{}", b'{"choices": null}', b'{"choices": []}', b'{"choices": [null]}'])
def test_a_success_without_a_choice_is_no_answer(body: bytes) -> None:
    got = OpenAIChat().decode(Reply(200, {}, body))
    assert isinstance(got, Fault)
    assert got.kind is MALFORMED


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, {"code": "unsupported_value", "type": "invalid_request_error"}, "unsupported_value"),
        (400, {"type": "invalid_request_error", "code": None}, "invalid_request_error"),
        (400, None, "HTTP 400"),
        (400, {"code": "\x1b[31m" + 300 * "x"}, "[31m" + 75 * "x" + "…"),
        (200, {"code": 429}, "HTTP 429"),
        (307, {"code": "moved"}, ""),
    ],
)
def test_the_fault_keeps_the_providers_word(status: int, error: object, code: str) -> None:
    got = OpenAIChat().decode(failure(status, error))
    assert isinstance(got, Fault)
    assert got.code == code


# -- rate limits -------------------------------------------------------------------------------------------------------


@pytest.mark.row("H01")
def test_refusals_without_a_hint_are_one_episode() -> None:
    watching = Watching()
    endpoint = first_refused(20, {})
    quota = Quota(requests_per_minute=60_000, concurrency="10-20-100")
    assert served(run_virtual(asked(endpoint, 60, quota=quota, observers=(watching,))))
    changes = [event for event in watching.events if isinstance(event, LimitChanged)]
    assert [change.value for change in changes if change.what == "concurrency" and change.reason == "refused"] == [16]
    closings = [change.value for change in changes if change.what == "gate" and change.value]
    assert len(closings) == 1
    assert pause(endpoint) >= (closings[0] or 0.0)
    assert len(endpoint.arrived) == 80  # each refused once, and no more


@pytest.mark.row("H02")
@pytest.mark.parametrize("calls", [10, 200])
def test_nothing_is_sent_until_retry_after_and_then_no_herd(calls: int) -> None:
    endpoint = first_refused(10, {"retry-after": "7"})
    assert served(run_virtual(asked(endpoint, calls, quota=PACED)))
    first = next(moment for moment in endpoint.arrived if moment > 1.0)
    last_refused = endpoint.arrived[9] + endpoint.seconds
    assert first >= last_refused + 7.0
    after = [moment for moment in endpoint.arrived if moment >= first]
    for start in after:
        assert sum(start <= moment < start + 0.1 for moment in after) <= 3  # a burst of two, and a tenth of ten


def dated(moment: datetime, form: str) -> str:
    return moment.strftime(
        {"1123": "%a, %d %b %Y %H:%M:%S GMT", "850": "%A, %d-%b-%y %H:%M:%S GMT", "asctime": "%a %b %e %H:%M:%S %Y"}[
            form
        ]
    )


@pytest.mark.row("H03")
@pytest.mark.parametrize("form", ["1123", "850", "asctime"])
@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_date_is_a_delay_by_the_servers_own_clock(form: str, hours: int) -> None:
    now = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours)
    headers = {"retry-after": dated(now + timedelta(seconds=9), form), "date": dated(now, "1123")}
    endpoint = first_refused(1, headers)
    assert served(run_virtual(asked(endpoint, 1)))
    assert 9.0 <= pause(endpoint) <= 10.0


@pytest.mark.row("H04")
def test_milliseconds_go_before_seconds() -> None:
    endpoint = first_refused(1, {"retry-after-ms": "250", "retry-after": "60"})
    assert served(run_virtual(asked(endpoint, 1)))
    assert 0.25 <= pause(endpoint) < 1.0


@pytest.mark.row("H05")
@pytest.mark.parametrize("text", ["-1", "nan", "1e309", "soon", "", "9" * 10_000_000, "٣", "1_0", "0x10", "7, 9"])
def test_a_hint_that_makes_no_sense_is_no_hint(text: str) -> None:
    assert fault_of(429, {"retry-after": text}, None).retry_after is None
    endpoint = first_refused(1, {"retry-after": text})
    assert served(run_virtual(asked(endpoint, 1)))
    assert 1.0 <= pause(endpoint) <= 3.0  # the first wait of the backoff


@pytest.mark.row("H05")
def test_a_hint_that_says_two_things_is_no_hint() -> None:
    twice = CIMultiDict([("Retry-After", "7"), ("Retry-After", "9")])
    assert fault_of(429, twice, None).retry_after is None
    assert fault_of(429, CIMultiDict([("Retry-After", "7"), ("Retry-After", "7")]), None).retry_after == 7.0
    endpoint = first_refused(1, twice)
    assert served(run_virtual(asked(endpoint, 1)))
    assert 1.0 <= pause(endpoint) <= 3.0


@pytest.mark.row("H06")
@pytest.mark.parametrize("error", [SLOW, {"code": "slow_down"}])
def test_a_wait_of_a_day_ends_the_study_and_says_how_long(error: object) -> None:
    endpoint = first_refused(10**9, {"retry-after": "86400"}, error)
    results = run_virtual(asked(endpoint, 100, quota=FOUR))
    assert len(endpoint.arrived) == 4  # those in flight
    for result in results:
        assert isinstance(result, QuotaExhausted)
        assert result.exit_code == 3
        assert result.fault.kind is DAILY
        assert "86400 s (24 h 0 min)" in str(result)


@pytest.mark.row("H06")
def test_a_long_wait_is_waited_for_where_that_is_wanted() -> None:
    endpoint = first_refused(4, {"retry-after": "3600"})  # twice what a call may take with its retries
    assert served(run_virtual(asked(endpoint, 20, quota=FOUR, wait=True)))
    assert 3600.0 <= pause(endpoint) <= 3602.0
    assert len(endpoint.arrived) == 24


@pytest.mark.row("H07")
@pytest.mark.parametrize(("status", "error"), MONEY)
def test_used_up_money_ends_everything_at_once(status: int, error: object) -> None:
    endpoint = Scripted(lambda number, _: answer() if number < 2 else failure(status, error))
    results = run_virtual(asked(endpoint, 500, quota=FOUR))
    assert sum(isinstance(result, Completion) for result in results) == 2
    assert all(isinstance(error, QuotaExhausted) and error.exit_code == 3 for error in errors(results))
    assert "resume the study" in str(errors(results)[0])
    assert len(endpoint.arrived) == 6  # two that were served, and the four in flight at the first refusal
    assert max(endpoint.arrived) <= 1.0


@pytest.mark.row("H08")
def test_geminis_rate_limit_is_none_of_money() -> None:
    error = [
        {
            "error": {
                "code": 429,
                "status": "RESOURCE_EXHAUSTED",
                "message": "You exceeded your current quota, please check your plan and billing details.",
                "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "26s"}],
            }
        }
    ]
    body = json.dumps(error).encode()
    endpoint = Scripted(lambda number, _: failure(429, body) if number < 4 else answer())
    assert served(run_virtual(asked(endpoint, 20, quota=FOUR)))
    assert 26.0 <= pause(endpoint) <= 29.0


@pytest.mark.row("H09")
def test_a_rate_limit_under_200_is_a_rate_limit() -> None:
    body = b'{"error": {"code": 429, "message": "slow"}, "choices": null}'
    endpoint = Scripted(lambda number, _: Reply(200, {}, body) if number < 1 else answer())
    watching = Watching()
    assert served(run_virtual(asked(endpoint, 1, observers=(watching,))))
    gates = [event for event in watching.events if isinstance(event, LimitChanged) and event.what == "gate"]
    assert gates[0].reason.startswith("rate_limited")


# -- headers on a success ----------------------------------------------------------------------------------------------


def with_headers(headers: dict[str, str]) -> Scripted:
    return Scripted(lambda *_: Reply(200, headers, answer().body))


def sent_by(endpoint: Scripted, seconds: float) -> int:
    return sum(moment <= seconds for moment in endpoint.arrived)


@pytest.mark.row("H10")
def test_nothing_left_slows_down_before_anything_is_refused() -> None:
    left, none_left = (
        with_headers({}),
        with_headers(
            {
                "x-ratelimit-limit-tokens": "60000",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            }
        ),
    )
    for endpoint in (left, none_left):
        assert served(run_virtual(asked(endpoint, 400, quota=Quota(concurrency=100))))
    # 950 tokens a second at some 520 a call are two calls a second, where without a word all are sent in some seconds.
    assert sent_by(left, 20.0) == 400
    assert sent_by(none_left, 20.0) <= 8 + 20 * 3


@pytest.mark.row("H11")
def test_the_stated_quota_goes_before_the_headers_but_what_is_left_counts() -> None:
    def headers(remaining: str) -> dict[str, str]:
        return {"x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": remaining}

    notes = Notes()
    plenty, nothing = with_headers(headers("9")), with_headers(headers("0"))
    assert served(run_virtual(asked(plenty, 300, quota=PACED, observers=(notes,))))
    assert len(notes.texts) == 1
    assert "10 requests a minute" in notes.texts[0]
    assert max(plenty.arrived) <= 35.0  # 300 at ten a second; at ten a minute it would be half an hour
    assert served(run_virtual(asked(nothing, 300, quota=PACED)))
    assert sent_by(nothing, 5.0) < sent_by(plenty, 5.0)


@pytest.mark.row("H12")
@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-limit-requests": "-1", "x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "0"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "0"},
        {"x-ratelimit-limit-tokens": "0", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "0"},
        {"x-ratelimit-remaining-requests": "", "x-ratelimit-remaining-tokens": "many"},
    ],
)
def test_an_unknown_remainder_is_not_zero(headers: dict[str, str]) -> None:
    silent, azure = with_headers({}), with_headers(headers)
    for endpoint in (silent, azure):
        assert served(run_virtual(asked(endpoint, 200, quota=Quota(requests_per_minute=600))))
    assert azure.arrived == silent.arrived
