"""The simulated API's quotas, and how each provider would tell of them; on a virtual clock, against arithmetic."""

import asyncio
import math
from datetime import datetime
from email.utils import parsedate_to_datetime

import aiohttp
import pytest
from calls import body_of, started
from multidict import CIMultiDict

from asyncopt import codec
from asyncopt.endpoints.protocol import Reply
from asyncopt.errors import ConfigError
from asyncopt.testing import Constant, SimulatedAPI, run_virtual
from asyncopt.testing.process import parse_change


async def post(api: SimulatedAPI, prompt: str = "hello", **parameters: object) -> Reply:
    return await api.handle(body_of(prompt, **parameters), CIMultiDict())


def offered(api: SimulatedAPI, *, seconds: float, per_second: float, **parameters: object) -> list[float]:
    """The times of the requests that were let through, out of an even stream."""

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(round(seconds * per_second)):
                group.create_task(post(api, **parameters))
                await asyncio.sleep(1 / per_second)

    run_virtual(main)
    return [entry.arrived for entry in api.ledger.entries if entry.status == 200]


def between(times: list[float], start: float, end: float) -> int:
    return sum(start <= moment < end for moment in times)


# What is let through


def test_a_sliding_window_lets_its_limit_through_in_any_window():
    times = offered(SimulatedAPI(requests_per_second=10, request_window=4.0), seconds=20, per_second=50)
    assert times == sorted(times)
    assert between(times, 0, 4) == 40
    assert between(times, 0.8, 4) == 0  # the first 40 came at once, and then nobody until the window has passed them
    assert len(times) == 200
    assert max(between(times, start, start + 3.9999) for start in times) == 40


def test_in_a_window_that_counts_refused_requests_an_offer_above_the_rate_stays_out():
    api = SimulatedAPI(requests_per_second=10, request_window=1.0, refused_count=True)
    assert len(offered(api, seconds=20, per_second=20)) == 10


def test_unused_tokens_come_back_where_the_server_refunds():
    async def main(api: SimulatedAPI) -> tuple[int, list[int]]:
        first = await post(api, "x" * 40, max_tokens=600)  # charged 610, used what the answer has
        second = await post(api, "x" * 40, max_tokens=600)
        return codec.loads(first.body)["usage"]["total_tokens"], [first.status, second.status]

    options = {"tokens_per_second": 1, "token_burst": 1000, "latency": Constant(0.0)}
    api = SimulatedAPI(**options, refund_tokens=True)
    used, statuses = run_virtual(lambda: main(api))
    assert statuses == [200, 200]
    assert run_virtual(lambda: main(SimulatedAPI(**options)))[1] == [200, 429]
    headers = run_virtual(lambda: post(api)).headers
    assert int(headers["x-ratelimit-remaining-tokens"]) == 1000 - 2 * used - 2


def test_input_and_output_tokens_are_counted_apart():
    async def main() -> list[tuple[int, str]]:
        api = SimulatedAPI(input_tokens_per_second=100, output_tokens_per_second=50, headers="anthropic")
        replies = [
            await post(api, "x" * 200, max_tokens=40),
            await post(api, "x" * 200, max_tokens=40),
            await post(api, "x" * 240, max_tokens=5),
            await post(api, "x" * 200, max_tokens=10),
        ]
        kinds = [codec.loads(reply.body).get("error", {}).get("type", "") for reply in replies]
        last = replies[-1].headers
        assert last["anthropic-ratelimit-input-tokens-remaining"] == "0"
        assert last["anthropic-ratelimit-output-tokens-remaining"] == "0"
        assert last["anthropic-ratelimit-output-tokens-limit"] == "3000"
        assert "anthropic-ratelimit-tokens-limit" not in last
        return list(zip([reply.status for reply in replies], kinds, strict=True))

    assert run_virtual(main) == [(200, ""), (429, "output_tokens"), (429, "input_tokens"), (200, "")]


@pytest.mark.parametrize("silent", [False, True])
def test_the_rates_change_in_mid_run_and_headers_tell_unless_silent(silent):
    api = SimulatedAPI(
        requests_per_second=20, tokens_per_second=5000, token_burst=400, change=(10, 0.5), silent_change=silent
    )
    times = offered(api, seconds=40, per_second=50)
    assert between(times, 1, 9) == pytest.approx(160, abs=1)
    assert between(times, 12, 40) == pytest.approx(280, abs=1)

    async def look() -> Reply:
        api.now()
        await asyncio.sleep(100)
        return await post(api, "x" * 400)

    headers = run_virtual(look).headers
    assert headers["x-ratelimit-limit-requests"] == ("1200" if silent else "600")
    assert headers["x-ratelimit-limit-tokens"] == ("300000" if silent else "150000")
    assert headers["x-ratelimit-remaining-requests"] == "9"
    assert headers["x-ratelimit-remaining-tokens"] == "100"
    assert headers["x-ratelimit-reset-requests"] == "100ms"


@pytest.mark.parametrize(
    "options",
    [
        {"requests_per_second": 20, "request_burst": 5},
        {"requests_per_second": 20, "request_window": 2.0},
        {"tokens_per_second": 20 * 12, "token_burst": 60},  # a request asks for 12
    ],
)
def test_a_stranger_takes_the_stated_share_and_no_more(options):
    alone = offered(SimulatedAPI(**options), seconds=60, per_second=97, max_tokens=10)
    beside = offered(SimulatedAPI(**options, stranger=0.3), seconds=60, per_second=97, max_tokens=10)
    assert between(alone, 10, 60) == pytest.approx(1000, rel=0.01)
    assert between(beside, 10, 60) == pytest.approx(700, rel=0.01)


def test_a_stranger_is_seen_in_what_remains_and_changes_with_the_rates():
    api = SimulatedAPI(requests_per_second=10, stranger=0.5, change=(10, 0.5))
    seen = []

    async def main() -> None:
        api.now()
        for pause in (0.15, 0.05, 0.05):  # the stranger's first request comes at 0.2 s, with this one's second
            await asyncio.sleep(pause)
            seen.append((await post(api)).headers["x-ratelimit-remaining-requests"])

    run_virtual(main)
    assert seen == ["9", "7", "7"]
    assert len(offered(api, seconds=100, per_second=30)) == pytest.approx(10 + 48 + 90 * 2.5, abs=5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"request_window": 2.0}, "window of 2.0 was given without a rate"),
        ({"requests_per_second": 1, "request_window": 2.0, "request_burst": 3}, "leave one out"),
        ({"token_burst": 5}, "token burst of 5 was given without a rate"),
        ({"requests_per_second": 1, "change": (5, 0.0)}, "factor above 0"),
        ({"stranger": 0.3}, "without a quota"),
        ({"requests_per_second": 1, "stranger": 1.0}, "below 1"),
        ({"headers": "gemini"}, "wanted one of openai, azure"),
        ({"clock_skew": math.inf}, "clock skew"),
    ],
)
def test_options_that_cannot_be_are_errors(options, words):
    with pytest.raises(ConfigError, match=words):
        SimulatedAPI(**options)


@pytest.mark.parametrize("text", ["30", "30:", ":0.5", "a:b"])
def test_a_change_on_the_command_line_is_checked(text):
    with pytest.raises(ConfigError, match="SECONDS:FACTOR"):
        parse_change(text)


# How it is told


def refused_by(headers: str, **options: object) -> tuple[Reply, Reply]:
    """An answer at 0.25 s, and the refusal of the request after it; half a request a second, two at once."""

    async def main() -> tuple[Reply, Reply]:
        api = SimulatedAPI(requests_per_second=0.5, request_burst=2, headers=headers, **options)
        await post(api)
        await asyncio.sleep(0.25)
        return await post(api), await post(api)

    return run_virtual(main)


def test_openai_writes_go_durations():
    answer, refusal = refused_by("openai")
    assert answer.headers["x-ratelimit-limit-requests"] == "30"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["x-ratelimit-reset-requests"] == "3.75s"
    assert (refusal.headers["retry-after"], refusal.headers["retry-after-ms"]) == ("2", "1750")
    error = codec.loads(refusal.body)["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert error["message"].endswith("Please try again in 1.75s.")


def test_azure_writes_whole_seconds():
    answer, refusal = refused_by("azure")
    assert answer.headers["x-ratelimit-limit-requests"] == "30"
    assert answer.headers["x-ratelimit-reset-requests"] == "4"
    assert (refusal.headers["retry-after"], refusal.headers["retry-after-ms"]) == ("2", "1750")
    assert codec.loads(refusal.body)["error"]["message"].endswith("Please retry after 2 seconds.")


@pytest.mark.parametrize("skew", [0.0, -3600.0])
def test_anthropic_writes_moments_of_its_own_clock(skew):
    answer, refusal = refused_by("anthropic", clock_skew=skew)
    for reply in (answer, refusal):
        date = parsedate_to_datetime(reply.headers["date"])
        reset = datetime.fromisoformat(reply.headers["anthropic-ratelimit-requests-reset"])
        assert (reset - date).total_seconds() == 4.0  # 0.25 s and 4 s, both cut to the second
    assert date.year == (2026 if skew == 0 else 2025)
    assert refusal.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert refusal.headers["retry-after"] == "2"
    assert "retry-after-ms" not in refusal.headers


def test_openrouter_writes_its_limits_into_the_body_only():
    answer, refusal = refused_by("openrouter")
    for reply in (answer, refusal):
        assert not [name for name in reply.headers if "ratelimit" in name.lower() or "retry" in name.lower()]
    error = codec.loads(refusal.body)["error"]
    assert error["code"] == 429
    assert error["metadata"]["headers"] == {
        "X-RateLimit-Limit": "30",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "1767225602000",
    }


def test_a_server_may_tell_nothing_and_give_no_hint():
    answer, refusal = refused_by("none")
    assert not [name for name in (*answer.headers, *refusal.headers) if "ratelimit" in name.lower()]
    assert refusal.headers["retry-after-ms"] == "1750"
    for headers in ("none", "openai", "azure", "anthropic"):
        _, refusal = refused_by(headers, retry_after=False)
        assert not [name for name in refusal.headers if "retry" in name.lower()]
        assert codec.loads(refusal.body)["error"]["message"].endswith("30 requests per minute.")


@pytest.mark.real
def test_the_command_line_sets_quotas_and_headers():
    options = "--rps 1 --window 3 --headers azure --no-retry-after --stranger 0 --change 3600:0.5 --latency 0"

    async def main(url: str) -> list[tuple[int, str | None, str | None]]:
        seen = []
        async with aiohttp.ClientSession() as session:
            for _ in range(4):
                async with session.post(f"{url}/chat/completions", data=body_of("x")) as reply:
                    left = reply.headers.get("x-ratelimit-remaining-requests")
                    seen.append((reply.status, left, reply.headers.get("retry-after")))
        return seen

    with started("-m", "asyncopt", "simulate", *options.split()) as (_, ready):
        seen = asyncio.run(main(str(ready["url"])))
    assert seen == [(200, "2", None), (200, "1", None), (200, "0", None), (429, "0", None)]
