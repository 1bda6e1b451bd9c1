"""What servers say of their limits and of waiting, in every dialect: real forms are read, everything else is unknown."""

from __future__ import annotations

import math
from collections.abc import Mapping

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from asyncopt.endpoints.anthropic import AnthropicMessages
from asyncopt.endpoints.faults import LONGEST_WAIT, fault_of
from asyncopt.endpoints.headers import LONGEST_HINT, duration_of, epoch_delay, http_date, number_of, rfc_3339
from asyncopt.endpoints.hints import wait_in_text
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Reply
from asyncopt.endpoints.ratelimits import rate_limits
from asyncopt.values import DIMENSIONS, Allowance, Completion, FaultKind, RateLimits

DATE = "Sat, 21 Nov 2026 12:00:00 GMT"
EPOCH = 1_795_262_400  # the same moment


def openai(name: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    values = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"x-ratelimit-{what}-{name}": value for what, value in values.items() if value}


def anthropic(name: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    values = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"anthropic-ratelimit-{name}-{what}": value for what, value in values.items() if value}


def requests(headers: Mapping[str, str]) -> Allowance | None:
    limits = rate_limits(headers)
    return None if limits is None else limits.requests


# -- headers -----------------------------------------------------------------------------------------------------------


def test_openai_states_durations() -> None:
    headers = openai("requests", "60", "59", "1s") | openai("tokens", "150000", "149984", "6m0s")
    assert rate_limits(headers) == RateLimits(Allowance(60, 59, 1), Allowance(150_000, 149_984, 360))


def test_an_answer_without_such_headers_says_nothing() -> None:
    assert rate_limits({"content-type": "application/json", "date": DATE, "retry-after": "3"}) is None


def test_names_are_found_in_any_case() -> None:
    names = {name.title(): value for name, value in openai("requests", "60", "59", "1s").items()}
    assert requests(CIMultiDict(names)) == Allowance(60, 59, 1)


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "allowance"),
    [
        ("100", "79", "17", Allowance(100, 79, 17)),
        ("", "79", "", Allowance(None, 79, None)),
        ("-1", "-1", "0", None),
        ("0", "0", "0", None),
        ("100", "0", "0", Allowance(100, 0, None)),
        ("", "0", "17", Allowance(None, 0, 17)),
    ],
)
def test_azure_states_whole_seconds_and_has_words_for_unknown(
    limit: str, remaining: str, reset: str, allowance: Allowance | None
) -> None:
    assert requests(openai("requests", limit, remaining, reset)) == allowance


def test_anthropic_states_moments_by_the_servers_own_clock() -> None:
    headers = {
        "date": DATE,
        **anthropic("requests", "50", "49", "2026-11-21T12:00:01Z"),
        **anthropic("tokens", "40000", "39000", "2026-11-21T13:00:03+01:00"),
        **anthropic("input-tokens", "32000", "0", "2026-11-21T11:59:00Z"),
        **anthropic("output-tokens", "8000", "8000", "soon"),
    }
    assert rate_limits(headers) == RateLimits(
        Allowance(50, 49, 1), Allowance(40_000, 39_000, 3), Allowance(32_000, 0, 0), Allowance(8000, 8000, None)
    )
    undated = rate_limits({name: value for name, value in headers.items() if name != "date"})
    assert undated is not None
    assert undated.requests == Allowance(50, 49, None)


def test_one_dimension_of_anthropics_is_enough() -> None:
    headers = anthropic("input-tokens", "32000", "31000", "")
    assert rate_limits(headers) == RateLimits(input_tokens=Allowance(32_000, 31_000, None))


@pytest.mark.parametrize(("reset", "delay"), [(f"{EPOCH + 7}000", 7), (f"{EPOCH + 7}", 7), ("7", 7), ("-7", None)])
def test_windows_end_at_an_epoch_or_after_seconds(reset: str, delay: float | None) -> None:
    headers = {"date": DATE, "x-ratelimit-limit": "20", "x-ratelimit-remaining": "3", "x-ratelimit-reset": reset}
    assert requests(headers) == Allowance(20, 3, delay)


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "per_minute"),
    [
        ("200", "199", "7m12s", 200 / 1440),  # 200 a day: one comes back every 7.2 minutes
        ("10000", "9980", "2m52.8s", 10_000 / 1440),
        ("60", "0", "6m0s", 60),  # an overdrawn limit per minute
        ("60", "59", "59s", 60),  # a window of a minute that has just begun
        ("60", "60", "10h", 60),  # nothing is used, so the period cannot be told
        ("50", "49", "23h59m0s", 50 / 1440),  # a window of a day that has just begun
    ],
)
def test_a_daily_limit_on_requests_is_told_by_its_reset(
    limit: str, remaining: str, reset: str, per_minute: float
) -> None:
    got = requests(openai("requests", limit, remaining, reset))
    assert got is not None
    assert got.limit == pytest.approx(per_minute)


def test_limits_come_with_completions_and_faults() -> None:
    headers = openai("requests", "60", "0", "1s")
    limits = RateLimits(Allowance(60, 0, 1))
    message = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
    content = {"content": [{"type": "text", "text": "hi"}]}
    for codec, body in ((OpenAIChat(), message), (AnthropicMessages(), content)):
        completion = codec.decode(Reply(200, headers, orjson.dumps(body)))
        assert isinstance(completion, Completion)
        assert completion.limits == limits
        assert codec.decode(Reply(500, headers, b"")).limits == limits
    streamed = OpenAIChat().stream(Reply(200, headers | {"content-type": "text/event-stream"}, b""))
    streamed.feed(b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n')
    assert streamed.finish().limits == limits


# -- waits -------------------------------------------------------------------------------------------------------------

RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "26s"}
GEMINI = [
    {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota, please check your plan and billing details.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [{"@type": "type.googleapis.com/google.rpc.Help", "links": []}, RETRY_INFO],
        }
    }
]


def openrouter(reset: str) -> dict[str, object]:
    inner = {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    return {"error": {"code": 429, "message": "Rate limit exceeded", "metadata": {"headers": inner}}, "choices": None}


def test_gemini_states_its_wait_in_the_details() -> None:
    fault = fault_of(429, {}, GEMINI)
    assert (fault.kind, fault.retry_after) == (FaultKind.RATE_LIMITED, 26.0)
    assert fault_of(429, {"retry-after": "3"}, GEMINI).retry_after == 3.0


def test_openrouter_states_its_window_inside_the_body() -> None:
    fault = fault_of(200, {"date": DATE}, openrouter(f"{EPOCH + 9}000"))
    assert (fault.kind, fault.retry_after, fault.scarce) == (FaultKind.RATE_LIMITED, 9.0, "requests")
    assert fault.limits == RateLimits(Allowance(20, 0, 9))
    assert fault_of(200, {}, openrouter(f"{EPOCH + 9}000")).retry_after is None
    assert fault_of(200, {"date": DATE}, openrouter(f"{EPOCH + 9000}000")).kind is FaultKind.QUOTA_DAILY


def test_a_subscription_of_anthropics_ends_at_an_epoch() -> None:
    body = {"type": "error", "error": {"type": "rate_limit_error", "message": "later"}}
    headers = {"date": DATE, "anthropic-ratelimit-unified-5h-reset": str(EPOCH + 60)}
    assert fault_of(429, headers, body).retry_after == 60.0
    assert fault_of(529, headers, {"error": {"type": "overloaded_error"}}).retry_after is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Rate limit reached for gpt-4 on tokens per min. Limit: 10000. Please try again in 41.724s. Visit", 41.724),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 20ms.", 0.02),
        ("exceeded call rate limit. Please retry after 37 seconds. Please go to", 37.0),
        ("Please retry after 1 second.", 1.0),
        ("Please retry in 26.387s.", 26.387),
        ("Please try again in 6m0", None),
        ("Please retry after 37 parsecs", None),
        ("Please retry after 9999999999 seconds", None),
        ("Please try again in a while", None),
        ("try again in 1s" + "s" * 600, None),
        ("x" * 499 + " try again in 3s", None),
        (None, None),
        (17, None),
    ],
)
def test_the_text_is_the_last_place_to_look_for_a_wait(text: object, seconds: float | None) -> None:
    assert wait_in_text(text) == (None if seconds is None else pytest.approx(seconds))


def test_a_text_never_decides_the_kind() -> None:
    day = {"error": {"message": "Please try again in 24h0m0s."}}
    assert (fault_of(429, {}, day).kind, fault_of(429, {}, day).retry_after) == (FaultKind.RATE_LIMITED, LONGEST_WAIT)
    assert fault_of(429, {"retry-after": "2"}, day).retry_after == 2.0
    assert fault_of(500, {}, day).retry_after is None


@pytest.mark.parametrize(
    ("error", "headers", "scarce"),
    [
        ({"type": "tokens", "code": "rate_limit_exceeded"}, openai("requests", "60", "0", "1s"), "tokens"),
        ({"type": "requests"}, {}, "requests"),
        ({"code": "output_tokens"}, {}, "output_tokens"),
        ({}, openai("requests", "60", "0", "1s") | openai("tokens", "9000", "7", "1s"), "requests"),
        ({}, openai("requests", "60", "0", "1s") | openai("tokens", "9000", "0", "1s"), None),
        ({}, anthropic("requests", "5", "4", "") | anthropic("output-tokens", "8000", "0", ""), "output_tokens"),
        ({}, {}, None),
        ({"type": "images"}, {}, None),
    ],
)
def test_which_limit_was_hit(error: dict[str, str], headers: dict[str, str], scarce: str | None) -> None:
    assert fault_of(429, headers, {"error": error}).scarce == scarce
    assert fault_of(500, headers, {"error": {"type": error.get("type")}}).scarce is None


# -- strictness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("12ms", 0.012),
        ("8.64s", 8.64),
        ("1m26.4s", 86.4),
        ("2d3h", 183_600),
        ("350µs", 0.00035),
        ("0s", 0),
        ("999999999h", LONGEST_HINT),
        *((text, None) for text in ("6m0", "6", "s", "", "-1s", "1e3s", "nans", "infs", "1_0s", "٣s", "1 s", "1.s", ".5s", "1s!", "1s" * 99)),
    ],
)  # fmt: skip
def test_durations_match_completely_or_not_at_all(text: str, seconds: float | None) -> None:
    assert duration_of(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e309", "1_0", "٣", "+1", "0x1", ".5", "1.", "9" * 16, None])
def test_numbers_of_other_forms_are_unknown(text: str | None) -> None:
    assert number_of(text) is None


@pytest.mark.parametrize(
    "text", ["2026-02-31T00:00:00Z", "2026-11-21T12:00:00", "2026-11-21", "20261121T120000Z", "٢٠٢٦-11-21T12:00:00Z"]
)
def test_moments_of_other_forms_are_unknown(text: str) -> None:
    assert rfc_3339(text) is None


def test_moments_are_told_from_delays_by_their_size() -> None:
    now = http_date(DATE)
    assert now is not None
    assert now.timestamp() == EPOCH
    assert epoch_delay("12.5", None) == 12.5
    assert epoch_delay(str(EPOCH + 5), None) is None
    assert epoch_delay(str(EPOCH - 5), now) == 0
    assert epoch_delay("999999999999", now) == 0  # milliseconds of the year 2001


digits = st.from_regex(r"-?[0-9]{0,14}(\.[0-9]{0,10})?(s|ms|m|h|d|Z)?", fullmatch=True)
texts = st.text(max_size=30) | digits | st.sampled_from([DATE, "2026-11-21T12:00:00Z", "6m0s", "0", f"{EPOCH}000"])
names = st.sampled_from(
    [
        "date",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "retry-after",
        "retry-after-ms",
        "anthropic-ratelimit-unified-reset",
        *(f"x-ratelimit-{what}-{name}" for what in ("limit", "remaining", "reset") for name in ("requests", "tokens")),
        *(
            f"anthropic-ratelimit-{name.replace('_', '-')}-{what}"
            for what in ("limit", "remaining", "reset")
            for name in DIMENSIONS
        ),
    ]
)


def believable(value: float | None, most: float) -> bool:
    return value is None or (math.isfinite(value) and 0 <= value <= most)


@given(st.dictionaries(names, texts, max_size=20))
def test_no_header_raises_and_all_values_stay_in_bounds(headers: dict[str, str]) -> None:
    limits = rate_limits(headers)
    for name in DIMENSIONS:
        allowance = getattr(limits, name, None) or Allowance()
        assert believable(allowance.limit, 1e15)
        assert believable(allowance.remaining, 1e15)
        assert believable(allowance.reset, LONGEST_HINT)
    assert believable(
        fault_of(429, headers, openrouter(headers.get("x-ratelimit-reset", ""))).retry_after, LONGEST_HINT
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["metadata", "headers", "details", "retryDelay", "message", "code", "type", "X-RateLimit-Reset"]
    ), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(values, st.dictionaries(names, texts, max_size=4), st.integers(200, 599))
def test_no_error_object_raises(error: object, headers: dict[str, str], status: int) -> None:
    assert believable(fault_of(status, headers, {"error": error}).retry_after, LONGEST_HINT)


@given(st.text(max_size=600) | st.builds("Please try again in {}".format, texts))
def test_no_text_raises(text: str) -> None:
    assert believable(wait_in_text(text), LONGEST_HINT)
