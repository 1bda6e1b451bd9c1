"""The pure half of an endpoint: wire format, fault table, headers, keys."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.endpoints.addresses import check_address
from asyncopt.endpoints.faults import fault_of, kind_of
from asyncopt.endpoints.headers import LONGEST_HINT, retry_after, should_retry
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Reply
from asyncopt.endpoints.secret import Secret
from asyncopt.errors import ConfigError
from asyncopt.values import Completion, Fault, FaultKind, Finish, Generate, Message, Sampling

KEY = "sk-canary-0123456789"


def decode(body: object, status: int = 200, **headers: str) -> Completion | Fault:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return OpenAIChat().decode(Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw))


def answer(content: object = "hi", finish: object = "stop", **more: object) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": content}
    return {"model": "m-1", "choices": [{"message": message, "finish_reason": finish}]} | more


def test_the_body_holds_what_was_asked_and_nothing_else() -> None:
    sampling = Sampling(temperature=0.0, top_p=0.5, max_tokens=7, stop=("\n",), seed=3, draw=9, grammar="root ::= x")
    request = Generate((Message("system", "be brief"), Message("user", "é?")), sampling, top_logprobs=2)
    assert (
        OpenAIChat().encode("m", request)
        == (
            '{"model":"m","messages":[{"role":"system","content":"be brief"},{"role":"user","content":"é?"}],'
            '"temperature":0.0,"top_p":0.5,"max_tokens":7,"seed":3,"grammar":"root ::= x","stop":["\\n"],'
            '"logprobs":true,"top_logprobs":2}'
        ).encode()
    )
    assert OpenAIChat().encode("m", Generate.of("q")) == b'{"model":"m","messages":[{"role":"user","content":"q"}]}'


def test_an_answer_has_text_finish_usage_and_the_model_that_served() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
    got = decode(answer("42", "length", usage=usage))
    assert isinstance(got, Completion)
    assert (got.text, got.finish, got.served_model) == ("42", Finish.LENGTH, "m-1")
    assert (got.usage.input_tokens, got.usage.output_tokens, got.usage.cached_tokens, got.usage.estimated) == (
        9,
        4,
        5,
        False,
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "text", "text": None}], ""),
        ({"odd": 1}, ""),
    ],
)
def test_content_comes_in_several_shapes(content: object, text: str) -> None:
    got = decode(answer(content))
    assert isinstance(got, Completion)
    assert got.text == text


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": "9", "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 10**12, "completion_tokens": 1},
    ],
)
def test_usage_that_cannot_be_believed_is_marked_as_estimated(usage: object) -> None:
    got = decode(answer(usage=usage))
    assert isinstance(got, Completion)
    assert got.usage.estimated


def test_logprobs_are_taken_whole_or_not_at_all() -> None:
    body = answer()
    entry = {
        "token": "hi",
        "logprob": -0.5,
        "top_logprobs": [{"token": "hi", "logprob": -0.5}, {"token": "ho", "logprob": -1}],
    }
    body["choices"][0]["logprobs"] = {"content": [entry]}  # type: ignore[index]
    got = decode(body)
    assert isinstance(got, Completion)
    assert got.token_logprobs[0].top == (("hi", -0.5), ("ho", -1.0))
    body["choices"][0]["logprobs"] = {"content": [entry, {"token": 3}]}  # type: ignore[index]
    got = decode(body)
    assert isinstance(got, Completion)
    assert got.token_logprobs == ()


FAULTS = [
    (200, answer(None, "length"), FaultKind.TRUNCATED),
    (200, answer("no", "content_filter"), FaultKind.REFUSED),
    (
        200,
        {"choices": [{"message": {"content": None, "refusal": "I cannot"}, "finish_reason": "stop"}]},
        FaultKind.REFUSED,
    ),
    (200, {"choices": []}, FaultKind.MALFORMED),
    (200, {"choices": None}, FaultKind.MALFORMED),
    (200, {"choices": [None]}, FaultKind.MALFORMED),
    (200, [], FaultKind.MALFORMED),
    (200, b"<html>", FaultKind.MALFORMED),
    (200, b'{"choices": [{"mess', FaultKind.MALFORMED),
    (200, {"error": {"code": 429, "message": "slow"}, "choices": None}, FaultKind.RATE_LIMITED),
    (200, {"error": {"code": 402}}, FaultKind.QUOTA),
    (200, {"error": "overloaded"}, FaultKind.MALFORMED),
    (429, {"error": {"code": "rate_limit_exceeded"}}, FaultKind.RATE_LIMITED),
    (
        429,
        [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota"}}],
        FaultKind.RATE_LIMITED,
    ),
    (429, b"", FaultKind.RATE_LIMITED),
    (429, {"error": {"type": "insufficient_quota", "code": "insufficient_quota"}}, FaultKind.QUOTA),
    (429, {"error": {"type": "insufficient_quota"}}, FaultKind.QUOTA),
    (429, {"error": {"code": "slow_down"}}, FaultKind.RAMP),
    (402, {}, FaultKind.QUOTA),
    (401, {"error": {"code": "invalid_api_key"}}, FaultKind.FATAL_CONFIG),
    (403, b"denied", FaultKind.FATAL_CONFIG),
    (404, {"error": {"code": "model_not_found"}}, FaultKind.FATAL_CONFIG),
    (400, {"error": {"code": "context_length_exceeded"}}, FaultKind.TOO_LARGE),
    (400, {"error": {"type": "exceed_context_size_error", "code": 400}}, FaultKind.TOO_LARGE),
    (413, b"<html>too large</html>", FaultKind.TOO_LARGE),
    (400, {"error": {"code": "content_filter"}}, FaultKind.REFUSED),
    (400, {"error": {"message": "odd"}}, FaultKind.BAD_REQUEST),
    (422, {}, FaultKind.BAD_REQUEST),
    (418, {}, FaultKind.BAD_REQUEST),
    *((status, b"", FaultKind.TRANSIENT) for status in (408, 409, 425, 500, 502, 503, 504, 520, 529, 599)),
]


@pytest.mark.parametrize(("status", "body", "kind"), FAULTS)
def test_failures_are_told_apart_by_code_type_and_status(status: int, body: object, kind: FaultKind) -> None:
    got = decode(body, status)
    assert isinstance(got, Fault)
    assert got.kind is kind


def test_a_long_wait_is_a_daily_quota() -> None:
    assert fault_of(429, {"retry-after": "86400"}, None).kind is FaultKind.QUOTA_DAILY
    assert fault_of(429, {"retry-after": "100"}, None).kind is FaultKind.RATE_LIMITED


def test_the_servers_word_on_retrying_overrules_passing_faults_only() -> None:
    no, yes = {"x-should-retry": "false"}, {"x-should-retry": "true"}
    assert fault_of(500, no, None).retry is False
    assert fault_of(400, yes, None).retry is True
    assert fault_of(401, yes, None).retry is None
    assert fault_of(402, yes, None).retry is None
    assert should_retry({"x-should-retry": "maybe"}) is None


def test_details_are_short_and_harmless() -> None:
    got = decode({"error": {"message": "\x1b[31m" + "x" * 10_000, "code": "\x07"}}, 400)
    assert isinstance(got, Fault)
    assert len(got.detail) <= 200
    assert got.detail.isprintable()


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "choices", "message", "content", "code", "type", "usage", "finish_reason", "logprobs"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_like | st.binary(max_size=60), st.integers(200, 599))
def test_nothing_a_server_sends_raises(body: object, status: int) -> None:
    assert isinstance(decode(body, status), Completion | Fault)


NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "99999999"}, LONGEST_HINT),
        *(
            ({"retry-after": text}, None)
            for text in ("-1", "nan", "inf", "1e309", "soon", "", "1_0", "٣", "9" * 10_000_000)
        ),
        ({}, None),
    ],
)
def test_waiting_hints_are_read_strictly(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize("skew", [-3600, 0, 3600])
def test_dates_are_compared_with_the_servers_own_clock(skew: int) -> None:
    server = datetime.now(UTC) + timedelta(seconds=skew)
    headers = {
        "date": format_datetime(server, usegmt=True),
        "retry-after": format_datetime(server + timedelta(seconds=30), usegmt=True),
    }
    assert retry_after(headers) == pytest.approx(30, abs=1)


@pytest.mark.parametrize(
    "form", ["Sat, 21 Nov 2026 12:00:07 GMT", "Saturday, 21-Nov-26 12:00:07 GMT", "Sat Nov 21 12:00:07 2026"]
)
def test_all_three_forms_of_dates(form: str) -> None:
    assert retry_after({"date": format_datetime(NOW, usegmt=True), "retry-after": form}) == 7.0


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_hints_never_raise_and_stay_in_their_range(ms: str, seconds: str, date: str) -> None:
    hint = retry_after({"retry-after-ms": ms, "retry-after": seconds, "date": date})
    assert hint is None or 0 <= hint <= LONGEST_HINT


def test_unknown_codes_fall_back_to_the_status() -> None:
    assert kind_of(429, "brand_new_code", 17) is FaultKind.RATE_LIMITED
    assert kind_of(500, None, None) is FaultKind.TRANSIENT


def test_a_key_is_shown_nowhere() -> None:
    secret = Secret(f" {KEY}\n")
    assert secret.reveal() == KEY
    assert KEY not in repr(secret) + str(secret) + f"{secret}" + repr(vars(type(secret)))
    assert secret.redact(f"bad key {KEY}!") == "bad key ***!"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert KEY not in repr(HttpEndpoint("https://host/v1", KEY))


@pytest.mark.parametrize("key", ["", "  ", "sk-“quoted”", "sk-a\nb", "clé"])
def test_keys_that_cannot_be_sent_are_refused_unseen(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Secret(key)
    assert not key.strip() or key.strip() not in str(caught.value)


@pytest.mark.parametrize("url", ["http://api.example.com/v1", "http://8.8.8.8/v1", "https://169.254.169.254/v1"])
def test_clear_text_to_far_hosts_and_metadata_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        check_address(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/v1", "http://localhost/v1", "http://10.0.0.2/v1", "http://gpu-box/v1", "https://x.com"]
)
def test_near_hosts_and_https_are_fine(url: str) -> None:
    check_address(url)


def test_a_key_too_short_to_be_a_secret_does_not_tear_answers_apart() -> None:
    secret = Secret("x")
    assert secret.redact("six boxes") == "six boxes"
    assert secret.redact_bytes(b'{"text": "six"}') == b'{"text": "six"}'
    assert "x" not in repr(secret)
    assert Secret("sk-12345678").redact("with SK-12345678 in it") == "with *** in it"
