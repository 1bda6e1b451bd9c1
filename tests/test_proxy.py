"""The proxy: what a client asks is what the model is asked, and what the engine says is what the client reads."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from calls import started
from fakes import FakeEndpoint, echo

from asyncopt import codec
from asyncopt.cache import MemoryCache
from asyncopt.endpoints.anthropic import CAPABILITIES as ANTHROPIC
from asyncopt.endpoints.completions import CAPABILITIES as COMPLETIONS
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.endpoints.openai import CHAT_CAPABILITIES, OpenAIChat
from asyncopt.endpoints.protocol import Answer, Reply
from asyncopt.engine import Engine, Model
from asyncopt.errors import ConfigError, MissingCapability
from asyncopt.identity import RequestKeys
from asyncopt.limits.budget import Account, Budget
from asyncopt.proxy import Proxy, server, upstream
from asyncopt.proxy.reading import Asked, asked
from asyncopt.proxy.refusals import Refusal
from asyncopt.proxy.writing import Writer
from asyncopt.testing import SimulatedAPI
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Finish, Generate, Message, Quota, TokenLogprob

HI = [{"role": "user", "content": "hi"}]
WITH_IMAGE = [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": "x"}]}]


def read(supports: Capabilities = CHAT_CAPABILITIES, *, chat: bool = True, **fields: Any) -> Asked:
    given = {"messages": HI} if chat else {"prompt": "hi"}
    return asked({"model": "m", **given, **fields}, supports, chat=chat)


def body_of(found: Asked) -> dict[str, Any]:
    """What the server behind is sent."""
    format_ = OpenAIChat() if found.chat else TextCompletions()
    return dict(orjson.loads(format_.encode("m", found.request)))


# -- reading -----------------------------------------------------------------------------------------------------------


def test_every_field_that_says_how_to_draw_reaches_the_server() -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": -3, "stop": ["a", "b"]}
    assert body_of(read(**fields)) == {"model": "m", "messages": HI, **fields}


def test_fields_that_are_not_known_here_are_passed_on_and_part_of_the_key() -> None:
    keys, schema = RequestKeys("e", "m"), {"type": "json_object"}
    plain, with_schema = read(), read(response_format=schema, max_completion_tokens=9)
    assert body_of(with_schema) == {"model": "m", "messages": HI, "response_format": schema, "max_completion_tokens": 9}
    assert keys.of(plain.request) == keys.of(Generate.of("hi"))
    assert keys.of(plain.request) != keys.of(with_schema.request)
    assert keys.of(with_schema.request) != keys.of(read(response_format=schema).request)


def test_messages_that_are_more_than_texts_are_passed_on_as_they_are() -> None:
    found = read(messages=WITH_IMAGE)
    assert body_of(found)["messages"] == WITH_IMAGE
    assert found.request.prompt == (Message("user", "see"),)
    named = [{"role": "developer", "content": "hi"}]
    assert body_of(read(messages=named))["messages"] == named


def test_raw_text_is_continued_with_the_same_fields() -> None:
    found = read(COMPLETIONS, chat=False, prompt=["once"], max_tokens=3, logprobs=2, suffix=".")
    assert body_of(found) == {"model": "m", "prompt": "once", "max_tokens": 3, "logprobs": 2, "suffix": "."}


@pytest.mark.parametrize(
    ("supports", "chat", "fields", "param"),
    [
        (CHAT_CAPABILITIES, True, {"tools": [{"type": "function"}]}, "tools"),
        (CHAT_CAPABILITIES, True, {"tool_choice": "auto"}, "tool_choice"),
        (CHAT_CAPABILITIES, True, {"audio": {"voice": "x"}}, "audio"),
        (ANTHROPIC, True, {"response_format": {"type": "json_object"}}, "response_format"),
        (ANTHROPIC, True, {"messages": WITH_IMAGE}, "messages"),
        (ANTHROPIC, True, {"seed": 1}, "seed"),
        (ANTHROPIC, True, {"logprobs": True}, "logprobs"),
        (ANTHROPIC, True, {"logprobs": True, "top_logprobs": 1}, "logprobs"),
        (CHAT_CAPABILITIES, True, {"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
        (CHAT_CAPABILITIES, True, {"temperature": "hot"}, "temperature"),
        (CHAT_CAPABILITIES, True, {"temperature": -1}, "temperature"),
        (CHAT_CAPABILITIES, True, {"max_tokens": True}, "max_tokens"),
        (CHAT_CAPABILITIES, True, {"max_tokens": 0}, "max_tokens"),
        (CHAT_CAPABILITIES, True, {"n": 0}, "n"),
        (CHAT_CAPABILITIES, True, {"stop": [1]}, "stop"),
        (CHAT_CAPABILITIES, True, {"messages": []}, "messages"),
        (CHAT_CAPABILITIES, True, {"messages": ["hi"]}, "messages"),
        (CHAT_CAPABILITIES, True, {"model": "a\x1bb"}, "model"),
        (CHAT_CAPABILITIES, False, {}, None),
        (CHAT_CAPABILITIES, True, {"temperature": 10**400}, "temperature"),
        (CHAT_CAPABILITIES, True, {"stream": "false"}, "stream"),
        (CHAT_CAPABILITIES, True, {"logprobs": "yes"}, "logprobs"),
        (CHAT_CAPABILITIES, True, {"top_logprobs": 2}, "top_logprobs"),
        (COMPLETIONS, True, {}, None),
        (COMPLETIONS, False, {"echo": True}, "echo"),
        (COMPLETIONS, False, {"best_of": 2}, "best_of"),
        (COMPLETIONS, False, {"best_of": 3, "n": 2}, "best_of"),
        (COMPLETIONS, False, {"prompt": ["a", "b"]}, "prompt"),
        (COMPLETIONS, False, {"prompt": [1, 2]}, "prompt"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(
    supports: Capabilities, chat: bool, fields: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(Refusal) as found:
        read(supports, chat=chat, **fields)
    error = orjson.loads(found.value.body)["error"]
    assert (found.value.status, error["param"], error["type"]) == (400, param, "invalid_request_error")


@pytest.mark.parametrize("fields", [{"tools": []}, {"tool_choice": "none"}, {"echo": False}])
def test_a_field_that_asks_for_nothing_is_no_reason_to_refuse(fields: dict[str, Any]) -> None:
    assert body_of(read(**fields)) == {"model": "m", "messages": HI}


@pytest.mark.parametrize("fields", [{"best_of": 1}, {"best_of": 3, "n": 3}])
def test_the_best_of_all_that_are_given_is_no_reason_to_refuse(fields: dict[str, Any]) -> None:
    assert body_of(read(COMPLETIONS, chat=False, **fields)) == {"model": "m", "prompt": "hi"}


def test_a_limit_by_its_newer_name_limits_formats_that_know_the_older_one() -> None:
    assert read(ANTHROPIC, max_completion_tokens=5).request.sampling.max_tokens == 5


def test_no_format_is_given_fields_that_it_would_drop() -> None:
    async def ask() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint(supports=ANTHROPIC))
            with pytest.raises(MissingCapability, match="extra"):
                model.submit(Generate(Generate.of("hi").prompt, extra='{"a":1}'))

    asyncio.run(ask())


# -- writing -----------------------------------------------------------------------------------------------------------

TOKENS = (TokenLogprob("a", -0.5, (("a", -0.5), ("b", -1.0))), TokenLogprob("\ud800", -0.25))


def test_log_probabilities_without_alternatives_are_asked_with_one_and_shown_with_none() -> None:
    found = read(logprobs=True)
    assert body_of(found)["top_logprobs"] == 1
    written = orjson.loads(Writer(found, [Completion("a", token_logprobs=TOKENS)], 1, 0).whole())
    content = written["choices"][0]["logprobs"]["content"]
    assert [(one["token"], one["logprob"], one["top_logprobs"]) for one in content] == [
        ("a", -0.5, []),
        ("�", -0.25, []),
    ]


def test_log_probabilities_of_raw_text_are_in_the_older_form() -> None:
    found = read(COMPLETIONS, chat=False, logprobs=1)
    choice = orjson.loads(Writer(found, [Completion("a", token_logprobs=TOKENS[:1])], 1, 0).whole())["choices"][0]
    wanted = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}], "text_offset": [0]}
    assert (choice["text"], choice["logprobs"]) == ("a", wanted)


def test_the_codec_reads_back_what_is_written() -> None:
    """The proxy's own client could be this package: a whole answer and a streamed one are the same completion."""
    answer = Completion("héllo", Finish.LENGTH, echo(Generate.of("x")).usage, served_model="m")
    writer = Writer(read(stream=True, stream_options={"include_usage": True}), [answer], 1, 0)
    decoder = OpenAIChat().stream(Reply(200, {"content-type": "text/event-stream"}, b""))
    for event in writer.events():
        decoder.feed(event)
    assert decoder.finish() == answer
    assert OpenAIChat().decode(Reply(200, {}, writer.whole())) == answer


# -- serving -----------------------------------------------------------------------------------------------------------


class Client:
    """Asks a proxy as any HTTP client would."""

    def __init__(self, url: str, session: aiohttp.ClientSession, proxy: Proxy) -> None:
        self.url = url
        self.proxy = proxy
        self._session = session

    async def ask(self, text: str = "hi", path: str = "/chat/completions", **fields: Any) -> tuple[int, Any, Any]:
        """The status, the headers and the body's object of an answer; ``headers`` are sent."""
        headers = fields.pop("headers", {})
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
        return await self.post(codec.dumps(body), path, headers)

    async def post(self, data: Any, path: str = "/chat/completions", headers: Any = None) -> tuple[int, Any, Any]:
        async with self._session.post(self.url + path, data=data, headers=headers) as response:
            return response.status, response.headers, orjson.loads(await response.read())

    async def get(self, path: str) -> bytes:
        async with self._session.get(self.url.removesuffix("/v1") + path) as response:
            return await response.read()


@asynccontextmanager
async def proxied(
    endpoint: Any,
    *,
    quota: Quota = Quota(),
    account: Account | None = None,
    names: tuple[str, ...] = ("m",),
    **how: Any,
) -> AsyncIterator[Client]:
    account = account or Account()
    async with Engine(cache=MemoryCache(), grace=0.0) as engine:

        async def open_model(name: str, times: int) -> Model:
            scope = f"{name}, {times}"
            again = Quota(quota.requests_per_minute, quota.tokens_per_minute, quota.concurrency, scope)
            return engine.model(name, endpoint=endpoint, quota=again).charged_to(account)

        proxy = Proxy(engine, open_model, names=names, account=account, **how)
        async with proxy.serve() as url, aiohttp.ClientSession() as session:
            yield Client(url, session, proxy)


def failing(*faults: Fault) -> Callable[[Generate, int], Answer]:
    return lambda request, number: faults[number] if number < len(faults) else echo(request)


@pytest.mark.anyio
@pytest.mark.real
class TestServing:
    async def test_the_same_request_at_temperature_0_is_paid_once(self) -> None:
        endpoint = FakeEndpoint(supports=CHAT_CAPABILITIES)
        async with proxied(endpoint) as client:
            found = [await client.ask(temperature=0) for _ in range(2)]
            found.append(await client.ask(seed=1))
            found.append(await client.ask(seed=1))
        assert [headers["x-asyncopt-cache"] for _, headers, _ in found] == ["miss", "hit", "miss", "hit"]
        assert len(endpoint.started) == 2
        assert [body["choices"][0]["message"]["content"] for _, _, body in found] == ["HI"] * 4

    @pytest.mark.parametrize(("draws", "paid"), [("fresh", 2), ("cached", 1)])
    async def test_another_draw_is_another_call_unless_draws_are_cached(self, draws: str, paid: int) -> None:
        endpoint = FakeEndpoint(supports=CHAT_CAPABILITIES)
        async with proxied(endpoint, draws=draws) as client:
            for _ in range(2):
                await client.ask(temperature=1.0)
        assert len(endpoint.started) == paid

    async def test_equal_requests_in_flight_are_one_call(self) -> None:
        endpoint = FakeEndpoint(supports=CHAT_CAPABILITIES, seconds=0.2)
        async with proxied(endpoint) as client:
            found = await asyncio.gather(*(client.ask(temperature=0) for _ in range(10)))
        assert len(endpoint.started) == 1
        assert sorted(headers["x-asyncopt-cache"] for _, headers, _ in found) == ["hit"] * 9 + ["miss"]

    async def test_n_answers_with_a_seed_have_seeds_of_their_own_and_are_the_same_again(self) -> None:
        endpoint = FakeEndpoint(lambda request, _: Completion(str(request.sampling.seed)), supports=CHAT_CAPABILITIES)
        for first, wanted in ((5, [5, 6, 7]), (2**53, [2**53, 2**53 - 1, 2**53 - 2])):
            async with proxied(endpoint) as client:
                found = [await client.ask(n=3, seed=first, temperature=1.0) for _ in range(2)]
            for _, _, body in found:
                assert [choice["message"]["content"] for choice in body["choices"]] == [str(seed) for seed in wanted]
            assert found[1][1]["x-asyncopt-cache"] == "hit"

    async def test_a_body_that_is_not_compressed_as_it_says_is_refused(self) -> None:
        endpoint = FakeEndpoint(supports=CHAT_CAPABILITIES)
        async with proxied(endpoint) as client:
            status, _, body = await client.post(b"garbage", headers={"Content-Encoding": "gzip"})
        assert (status, body["error"]["code"]) == (400, "invalid_value")

    async def test_n_answers_are_n_draws(self) -> None:
        endpoint = FakeEndpoint(lambda request, number: Completion(str(number)), supports=CHAT_CAPABILITIES)
        async with proxied(endpoint) as client:
            _, _, body = await client.ask(n=3)
        assert {choice["message"]["content"] for choice in body["choices"]} == {"0", "1", "2"}
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]

    async def test_refusals_and_failures_are_tried_again_before_the_client_sees_them(self) -> None:
        faults = (
            Fault(FaultKind.RATE_LIMITED, "too many", retry_after=0.01),
            Fault(FaultKind.TRANSIENT, "HTTP 500", retry_after=0.01),
        )
        endpoint = FakeEndpoint(failing(*faults), supports=CHAT_CAPABILITIES)
        async with proxied(endpoint) as client:
            status, _, _ = await client.ask()
        assert (status, len(endpoint.started)) == (200, 3)

    @pytest.mark.parametrize(
        ("kind", "status", "code"),
        [
            (FaultKind.QUOTA, 402, "insufficient_quota"),
            (FaultKind.FATAL_CONFIG, 403, "endpoint_refused"),
            (FaultKind.TOO_LARGE, 400, "context_length_exceeded"),
            (FaultKind.REFUSED, 400, "content_filter"),
            (FaultKind.BAD_REQUEST, 400, "bad_request"),
        ],
    )
    async def test_a_failure_for_good_is_an_error_that_no_client_repeats(
        self, kind: FaultKind, status: int, code: str
    ) -> None:
        endpoint = FakeEndpoint(lambda request, number: Fault(kind, "no"), supports=CHAT_CAPABILITIES)
        async with proxied(endpoint) as client:
            found, headers, body = await client.ask()
        assert (found, headers["x-should-retry"], body["error"]["code"]) == (status, "false", code)
        assert "no" in body["error"]["message"]

    async def test_an_answer_without_a_word_is_one_that_ended_at_its_length(self) -> None:
        endpoint = FakeEndpoint(
            lambda request, number: Fault(FaultKind.TRUNCATED, "no word"), supports=CHAT_CAPABILITIES
        )
        async with proxied(endpoint) as client:
            status, _, body = await client.ask()
        choice = body["choices"][0]
        assert (status, choice["message"]["content"], choice["finish_reason"]) == (200, "", "length")

    async def test_an_endpoint_that_was_given_up_is_asked_again_after_a_while(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        endpoint = FakeEndpoint(failing(Fault(FaultKind.QUOTA, "no money")), supports=CHAT_CAPABILITIES)
        async with proxied(endpoint) as client:
            first = [(await client.ask(str(number)))[0] for number in range(3)]
            sent = len(endpoint.started)
            monkeypatch.setattr(upstream, "GIVEN_UP_SECONDS", 0.0)
            later = (await client.ask("later"))[0]
        assert (first, sent, later) == ([402, 402, 402], 1, 200)

    async def test_the_budget_is_kept_and_said(self) -> None:
        endpoint = FakeEndpoint(supports=CHAT_CAPABILITIES)
        async with proxied(endpoint, account=Account(Budget(calls=1))) as client:
            await client.ask()
            status, headers, body = await client.ask()
            assert orjson.loads(await client.get("/status"))["calls"] == 1
        assert (status, headers["x-should-retry"], body["error"]["code"]) == (402, "false", "budget_exhausted")
        assert len(endpoint.started) == 1

    async def test_a_client_that_goes_away_takes_its_waiting_call_with_it(self) -> None:
        endpoint = FakeEndpoint(supports=CHAT_CAPABILITIES, seconds=0.3)
        async with proxied(endpoint, quota=Quota(concurrency=1)) as client:
            first = asyncio.create_task(client.ask("first"))
            second = asyncio.create_task(client.ask("second"))
            await until(lambda: scope_of(client)["queued"] == 1 and bool(endpoint.prompts))
            (second if endpoint.prompts == ["first"] else first).cancel()
            await until(lambda: scope_of(client)["queued"] == 0)
            await asyncio.gather(first, second, return_exceptions=True)
            await client.ask("third")
        assert len(endpoint.started) == 2

    async def test_what_a_client_left_in_flight_is_a_hit_for_the_next(self) -> None:
        endpoint = FakeEndpoint(supports=CHAT_CAPABILITIES, seconds=0.3)
        async with proxied(endpoint) as client:
            first = asyncio.create_task(client.ask(temperature=0))
            await until(lambda: bool(endpoint.started))
            (waiter,) = client.proxy._waiting
            first.cancel()
            await until(waiter.cancelled)
            _, headers, _ = await client.ask(temperature=0)
            status = client.proxy.status()
        assert (headers["x-asyncopt-cache"], status["calls"], status["hits"]) == ("hit", 1, 1)

    async def test_who_still_waits_when_the_proxy_ends_is_told(self) -> None:
        endpoint = FakeEndpoint(supports=CHAT_CAPABILITIES, seconds=60.0)
        async with aiohttp.ClientSession() as session:
            async with proxied(endpoint) as client:
                waiting = asyncio.create_task(Client(client.url, session, client.proxy).ask())
                await until(lambda: bool(endpoint.started))
            status, headers, body = await waiting
        assert (status, headers["x-should-retry"], body["error"]["code"]) == (503, "true", "unavailable")

    async def test_a_stream_is_the_whole_answer_in_events(self) -> None:
        async with proxied(SimulatedAPI().endpoint()) as client, aiohttp.ClientSession() as session:
            body = {"model": "m", "messages": HI, "stream": True, "n": 2}
            async with session.post(f"{client.url}/chat/completions", json=body) as response:
                assert response.content_type == "text/event-stream"
                events = (await response.text()).split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        choices = [choice for event in events[:-2] for choice in orjson.loads(event[6:])["choices"]]
        assert [choice["index"] for choice in choices] == [0, 0, 1, 1]
        assert [choice["finish_reason"] for choice in choices] == [None, "stop", None, "stop"]

    async def test_a_name_that_is_not_served_is_refused_and_others_are_listed(self) -> None:
        async with proxied(FakeEndpoint(supports=CHAT_CAPABILITIES), names=("m", "openai/m")) as client:
            assert (await client.ask(model="openai/m"))[0] == 200
            status, _, body = await client.ask(model="other")
            listed = orjson.loads(await client.get("/v1/models"))["data"]
        assert (status, body["error"]["code"]) == (404, "model_not_found")
        assert [one["id"] for one in listed] == ["m", "openai/m"]

    @pytest.mark.parametrize(
        ("names", "asked", "found"),
        [(("m", "openai/m"), "openai/m", "openai/m"), (("m",), "other", None), ((), "a%2Fb", "a/b")],
    )
    async def test_one_model_is_shown_by_its_name(self, names: tuple[str, ...], asked: str, found: str | None) -> None:
        async with proxied(FakeEndpoint(supports=CHAT_CAPABILITIES), names=names) as client:
            shown = orjson.loads(await client.get(f"/v1/models/{asked}"))
        if found is None:
            assert shown["error"]["code"] == "model_not_found"
        else:
            assert shown == {"id": found, "object": "model", "created": 0, "owned_by": "asyncopt"}

    async def test_any_name_is_a_model_where_none_is_stated_up_to_a_number(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upstream, "MOST_MODELS", 2)
        async with proxied(FakeEndpoint(supports=CHAT_CAPABILITIES), names=()) as client:
            found = [(await client.ask(model=name))[0] for name in ("a", "b", "c", "a")]
        assert found == [200, 200, 404, 200]

    @pytest.mark.parametrize(
        "headers",
        [{"Host": "evil.example:80"}, {"Host": ""}, {"Host": "[::1"}, {"Origin": "https://evil.example"}],
    )
    async def test_pages_in_a_browser_are_refused(self, headers: dict[str, str]) -> None:
        endpoint = FakeEndpoint(supports=CHAT_CAPABILITIES)
        async with proxied(endpoint) as client:
            status, _, _ = await client.ask(headers=headers)
        assert status in (400, 403)
        assert endpoint.started == []

    async def test_a_token_is_required_where_there_is_one(self) -> None:
        endpoint = FakeEndpoint(supports=CHAT_CAPABILITIES)
        async with proxied(endpoint, token="open sésame") as client:
            refused = [
                (await client.ask(headers={"Authorization": given}))[0] for given in ("", "Bearer x", "Bearer \udcff")
            ]
            let_in = [
                (await client.ask(headers={"Authorization": f"{scheme} open sésame"}))[0]
                for scheme in ("Bearer", "bearer", "BEARER ")
            ]
        assert (refused, let_in) == ([401, 401, 401], [200, 200, 200])

    async def test_bodies_are_limited_in_size_time_and_form(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "BODY_SECONDS", 0.05)
        async with proxied(FakeEndpoint(supports=CHAT_CAPABILITIES)) as client:
            large = await client.post(io.BytesIO(b" " * (server.LARGEST_BODY + 1)))
            deep = await client.post(b'{"model":"m","messages":' + b"[" * 5000)
            other = await client.post(b"[]")
            reader, writer = await asyncio.open_connection("127.0.0.1", int(client.url.split(":")[2].split("/")[0]))
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            slow = await reader.readline()
            writer.close()
        assert [large[0], deep[0], other[0]] == [413, 400, 400]
        assert "8 MiB" in large[2]["error"]["message"]
        assert slow.startswith(b"HTTP/1.1 408")

    async def test_paths_that_are_none_are_answered_in_the_same_form(self) -> None:
        async with proxied(FakeEndpoint(supports=CHAT_CAPABILITIES)) as client:
            status, _, body = await client.ask(path="/embeddings")
        assert status == 404
        assert body["error"]["type"] == "invalid_request_error"
        assert f"the base URL is {client.url}" in body["error"]["message"]

    async def test_what_is_going_on_can_be_read_by_people_and_by_prometheus(self) -> None:
        async with proxied(FakeEndpoint(supports=CHAT_CAPABILITIES)) as client:
            for _ in range(2):
                await client.ask(temperature=0)
            status = orjson.loads(await client.get("/status"))
            metrics = (await client.get("/metrics")).decode().splitlines()
        assert (status["requests"], status["calls"], status["hits"]) == (2, 1, 1)
        assert (status["input_tokens"], status["output_tokens"]) == (10, 5)
        assert {"asyncopt_proxy_calls_total 1", "asyncopt_proxy_hits_total 1"} <= set(metrics)

    async def test_a_port_that_is_taken_is_an_error_that_says_so(self) -> None:
        async with proxied(FakeEndpoint(supports=CHAT_CAPABILITIES)) as client:
            with pytest.raises(ConfigError, match="choose another"):
                async with client.proxy.serve(int(client.url.split(":")[2].split("/")[0])):
                    pass


def scope_of(client: Client) -> dict[str, Any]:
    scopes = client.proxy.status()["scopes"]
    return next(iter(scopes.values()), {"queued": -1})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the proxy tells nobody
            await asyncio.sleep(0.001)


# -- the command -------------------------------------------------------------------------------------------------------

ASYNCOPT = ("-m", "asyncopt")
WATCHER = """
import os, pathlib

class Watcher:
    calls = ""
    def notify(self, event):
        if type(event).__name__ == "CallEnded":
            self.calls += "CallEnded"
    def close(self):
        pathlib.Path(os.environ["SEEN"]).write_text(self.calls)
"""


@pytest.mark.real
def test_the_command_serves_until_it_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.request import Request, urlopen

    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PROXY_KEY", "sk-canary-0123456789")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "watcher.py").write_text(WATCHER)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.txt"))
    body = codec.dumps({"model": "m", "messages": HI, "temperature": 0})

    def ask(url: str) -> str:
        with urlopen(Request(f"{url}/chat/completions", body)) as response:  # noqa: S310 - our own server
            return str(response.headers["x-asyncopt-cache"])

    with started(*ASYNCOPT, "simulate", "--key", "sk-canary-0123456789", "--latency", "0") as (_, api):
        command = (*ASYNCOPT, "proxy", "--scorer", "m", "--base-url", str(api["url"]), "--key-env", "PROXY_KEY")
        with started(*command, "--observe", "watcher:Watcher") as (process, ready):
            found = [ask(str(ready["url"])) for _ in range(2)]
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        with started(*command) as (_, ready):
            found.append(ask(str(ready["url"])))
    assert found == ["miss", "hit", "hit"]
    assert (process.returncode, out) == (0, "")
    assert (tmp_path / "seen.txt").read_text() == "CallEnded"
    assert "canary" not in err


@pytest.mark.real
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scorer", "openai/m"), "OPENAI_API_KEY"),
        (("--base-url", "http://127.0.0.1:9/v1", "--draws", "some"), "--draws"),
        (("--base-url", "http://127.0.0.1:9/v1", "--token-env", "UNSET"), "UNSET"),
        (("--base-url", "http://127.0.0.1:9/v1", "--budget", "seconds=3"), "seconds"),
        (("--base-url", "http://127.0.0.1:9/v1", "--budget", "usd=3"), "no price"),
        (("--base-url", "http://127.0.0.1:9/v1", "--hedge", "3"), "hedge"),
        (("--base-url", "http://127.0.0.1:9/v1", "--observe", "nobody"), "no observer 'nobody'"),
        (("--base-url", "http://127.0.0.1:9/v1", "--set", "models.proposer.model=x"), "models.scorer.KEY"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(options: tuple[str, ...], said: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    command = [sys.executable, *ASYNCOPT, "proxy", *options]
    ended = subprocess.run(command, capture_output=True, text=True, env=kept, check=False)
    assert ended.returncode == 2
    assert said in ended.stderr
