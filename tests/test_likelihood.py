"""How likely a given text is: the requests byte by byte, what is made of the replies, and the way through the engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from fakes import FakeEndpoint, run_virtual
from hypothesis import example, given
from hypothesis import strategies as st
from served import serving
from test_local_server import weights_path  # noqa: F401 - a fixture

from asyncopt import Budget, Engine, Generate, MemoryCache, Quota, Sampling
from asyncopt.cli.models import check_model, open_models
from asyncopt.config import ModelConfig, check
from asyncopt.endpoints.azure import AzureChat
from asyncopt.endpoints.completions import CAPABILITIES, TextCompletions
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.llamacpp import LONGEST_CONTINUATION, LlamaChat
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Answer, Ask, LikelihoodCodec, Reply, converse
from asyncopt.endpoints.providers import as_completions, provider
from asyncopt.errors import BudgetExhausted, CallFailed, ConfigError, EndpointRefused, MissingCapability
from asyncopt.identity import RequestKeys
from asyncopt.limits.budget import Account
from asyncopt.limits.estimate import BYTES_PER_TOKEN, TOKENS_PER_MESSAGE, UNSTATED_OUTPUT, TokenEstimate
from asyncopt.local import KEEPALIVE_SECONDS, LocalServer
from asyncopt.values import (
    Capabilities,
    Completion,
    Fault,
    FaultKind,
    Likelihood,
    LogProb,
    Message,
    TokenLogprob,
    Usage,
)

ASKED = Likelihood.of("Q: capital?\nA:", " Paris now")
ECHOED = [("Q", None), (":", -1.0), (" capital", -2.0), ("?\n", -0.5), ("A:", -0.25), (" Paris", -3.0), (" now", -4.0)]
ANSWER = (TokenLogprob(" Paris", -3.0), TokenLogprob(" now", -4.0))
GIVEN = Capabilities(prompt_logprobs=True, top_logprobs=2)


def usage(sent: int, received: int = 0) -> dict[str, int]:
    return {"prompt_tokens": sent, "completion_tokens": received}


def in_openais_shape(tokens: list[tuple[str, float | None]], **more: object) -> dict[str, Any]:
    texts = [text for text, _ in tokens]
    offsets = [sum(map(len, texts[:index])) for index in range(len(texts))]
    values = [value for _, value in tokens]
    tops = [None if value is None else {text: value} for text, value in tokens]
    logprobs = {"tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
    choice = {"text": "".join(texts), "logprobs": logprobs, "finish_reason": "length"}
    return {"model": "m-1", "choices": [choice], "usage": usage(len(tokens)), **more}


def in_chat_shape(tokens: list[tuple[str, float | None]], **more: object) -> dict[str, Any]:
    content = [{"token": text, "logprob": value, "top_logprobs": []} for text, value in tokens]
    return {"choices": [{"text": "", "logprobs": {"content": content}}], "usage": usage(len(tokens)), **more}


def in_vllms_shape(tokens: list[tuple[str, float | None]], **more: object) -> dict[str, Any]:
    entries = [
        None
        if value is None
        else {
            "7": {"logprob": value, "rank": 9, "decoded_token": text},
            "5": {"logprob": -0.01, "rank": 1, "decoded_token": "the"},
        }
        for text, value in tokens
    ]
    return {"choices": [{"text": "x", "prompt_logprobs": entries}], "usage": usage(len(tokens), 1), **more}


def answer_to(
    codec: LikelihoodCodec, request: Likelihood, *bodies: object, status: int = 200
) -> tuple[Answer, list[Ask]]:
    """The codec's answer where these are the replies, in order, and what it had sent."""
    replies: Iterator[object] = iter(bodies)
    sent: list[Ask] = []

    async def reply_to(ask: Ask) -> Reply:
        sent.append(ask)
        return Reply(status, {}, orjson.dumps(next(replies)))

    async def main() -> Answer:
        return await converse(codec.likelihood("m", request), reply_to)

    return run_virtual(main), sent


def echoed(body: object, request: Likelihood = ASKED) -> Answer:
    return answer_to(TextCompletions(), request, body)[0]


def fault(answer: Answer) -> Fault:
    assert isinstance(answer, Fault), answer
    return answer


def tokens_of(answer: Answer) -> list[tuple[str, float]]:
    assert isinstance(answer, Completion), answer
    return [(token.token, token.logprob) for token in answer.token_logprobs]


# -- values ------------------------------------------------------------------------------------------------------------


def test_a_log_probability_is_summed_and_averaged_as_in_the_reference() -> None:
    known = LogProb.of(Completion("", token_logprobs=ANSWER))
    assert known == LogProb((-3.0, -4.0))
    assert known.total == -7.0
    assert known.mean() == -7.0 / (2 + 1e-5)
    many = LogProb(tuple(-float(number) for number in range(39)))
    assert many.mean(0.05) == sum(many.tokens[1:]) / (38 + 1e-5), "floor(0.05 * 39) is 1"
    assert LogProb(()).mean() == 0.0
    with pytest.raises(ValueError, match="burn_in"):
        many.mean(1.0)


def test_requests_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no message"):
        Likelihood((), "x")
    with pytest.raises(ValueError, match="continuation is empty"):
        Likelihood.of("x", "")


def test_the_key_has_everything_and_is_pinned() -> None:
    keys = RequestKeys("https://api.openai.com/v1", "gpt-4o-mini")
    asked = Likelihood.of("Hello", " you")
    others = [Likelihood.of("Hello ", "you"), Likelihood((Message("system", "Hello"),), " you"), Generate.of("Hello")]
    assert len({keys.of(request) for request in [asked, *others]}) == 4
    # A change of this value makes every user's cache useless.
    assert keys.of(asked).hex() == "eb51b61187c81685cf8dda0c74de90a4"


def test_a_likelihood_is_expected_to_take_its_texts_and_hardly_an_answer() -> None:
    estimate = TokenEstimate()
    asked = Likelihood.of("a" * 100, "b" * 300)
    assert estimate.of(asked) == (400 / BYTES_PER_TOKEN + TOKENS_PER_MESSAGE, 1.0)
    for _ in range(40):  # of these, the server counts the continuation as received
        estimate.learn(asked, Usage(50 + int(TOKENS_PER_MESSAGE), 150))
    assert estimate.ratio == pytest.approx(2.0, rel=1e-6)
    assert estimate.of(Generate.of("q"))[1] == UNSTATED_OUTPUT, "nothing is known yet of the length of answers"


# -- raw text ----------------------------------------------------------------------------------------------------------


def test_text_completions_send_these_bytes() -> None:
    sampling = Sampling(temperature=0.0, top_p=0.5, max_tokens=7, stop=("\n",), seed=3, draw=9, grammar="root ::= x")
    request = Generate((Message("system", "be brief"), Message("user", "é?")), sampling, top_logprobs=5)
    codec = TextCompletions()
    body = codec.encode("m", request)
    assert (
        body
        == (
            '{"model":"m","prompt":"be brief\\né?","temperature":0.0,"top_p":0.5,"max_tokens":7,"seed":3,'
            '"grammar":"root ::= x","stop":["\\n"],"logprobs":5}'
        ).encode()
    )
    streamed = codec.encode("m", request, stream=True)
    assert streamed == body[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'
    assert codec.encode("m", Generate.of("q")) == b'{"model":"m","prompt":"q"}'
    assert (codec.path("m"), codec.headers("k"), codec.headers(None)) == (
        "/completions",
        {"Authorization": "Bearer k"},
        {},
    )


@pytest.mark.parametrize("shaped", [in_openais_shape, in_chat_shape])
def test_log_probabilities_of_generated_tokens_come_in_two_shapes(shaped: Any) -> None:
    got = TextCompletions().decode(Reply(200, {}, orjson.dumps(shaped([(" yes", -0.5), ("!", -1)]))))
    assert tokens_of(got) == [(" yes", -0.5), ("!", -1.0)]
    half = shaped([(" yes", -0.5), ("!", None)])
    assert tokens_of(TextCompletions().decode(Reply(200, {}, orjson.dumps(half)))) == [], "half a list is none"


@pytest.mark.parametrize("number", ["1" * 400, "1e400", "true", '"-1"'])
def test_a_number_that_is_none_is_no_log_probability(number: str) -> None:
    for codec, message in ((TextCompletions(), '"text":"x"'), (OpenAIChat(), '"message":{"content":"x"}')):
        entry = f'{{"token":"x","logprob":{number}}}'
        body = f'{{"choices":[{{{message},"logprobs":{{"content":[{entry}]}}}}]}}'
        assert tokens_of(codec.decode(Reply(200, {}, body.encode()))) == []


def test_a_first_token_without_text_is_an_answer_where_its_log_probabilities_were_wanted() -> None:
    body = in_openais_shape([("", -0.5)])
    assert tokens_of(TextCompletions().decode(Reply(200, {}, orjson.dumps(body)))) == [("", -0.5)]
    del body["choices"][0]["logprobs"]
    assert fault(TextCompletions().decode(Reply(200, {}, orjson.dumps(body)))).kind is FaultKind.TRUNCATED


def test_the_likelihood_of_raw_text_is_one_request_of_these_bytes() -> None:
    echo, parameter = TextCompletions("echo"), TextCompletions("prompt_logprobs")
    for codec, body, asks in (
        (echo, in_openais_shape(ECHOED), b'"max_tokens":0,"logprobs":1,"echo":true}'),
        (parameter, in_vllms_shape(ECHOED), b'"max_tokens":1,"prompt_logprobs":1}'),
    ):
        answer, sent = answer_to(codec, ASKED, body)
        text = b'{"model":"m","prompt":"Q: capital?\\nA: Paris now","temperature":0.0,'
        assert sent == [Ask("/completions", text + asks)]
        assert tokens_of(answer) == [(" Paris", -3.0), (" now", -4.0)]


def test_an_echo_is_read_in_either_shape() -> None:
    wanted = Completion("", usage=Usage(7, 0), token_logprobs=ANSWER, served_model="m-1")
    assert echoed(in_openais_shape(ECHOED)) == wanted
    assert tokens_of(echoed(in_chat_shape(ECHOED))) == tokens_of(wanted)


def test_what_was_generated_behind_the_text_is_left_out() -> None:
    generated = in_openais_shape([*ECHOED, (".", -9.0)], usage=usage(len(ECHOED), 1))
    assert tokens_of(echoed(generated)) == [(" Paris", -3.0), (" now", -4.0)]
    as_vllm_counts = in_openais_shape(ECHOED, usage=usage(len(ECHOED), 1))  # one it generated and does not show
    assert tokens_of(echoed(as_vllm_counts)) == [(" Paris", -3.0), (" now", -4.0)]


def test_a_marker_of_the_beginning_is_no_token_of_the_text() -> None:
    marked = [("<|begin_of_text|>", None), ("Q", -1.0), *ECHOED[1:]]
    assert tokens_of(echoed(in_openais_shape(marked))) == [(" Paris", -3.0), (" now", -4.0)]
    # OpenAI's way: the offsets are those of vLLM or not, they are not looked at
    body = in_openais_shape(marked)
    del body["choices"][0]["logprobs"]["text_offset"]
    assert tokens_of(echoed(body)) == [(" Paris", -3.0), (" now", -4.0)]


@pytest.mark.parametrize(
    "body",
    [
        in_chat_shape([(" and", -1.0)], usage=usage(7, 1)),
        in_openais_shape([(" Paris", -3.0), (" now", -4.0)], usage=usage(7, 2)),  # generated, and right by chance
        in_openais_shape([], usage=usage(7)),
        {"choices": [{"text": " and", "logprobs": None}], "usage": usage(7, 1)},
        {"choices": [{"text": " and"}]},
        {"choices": []},
        in_vllms_shape(ECHOED),
    ],
)
def test_a_server_that_ignores_the_echo_ends_the_study_and_never_scores(body: object) -> None:
    found = fault(echoed(body))
    assert found.kind is FaultKind.FATAL_CONFIG
    assert "llama.cpp" in found.detail


def test_without_a_count_of_tokens_their_text_alone_decides() -> None:
    assert tokens_of(echoed(in_openais_shape(ECHOED, usage=None))) == [(" Paris", -3.0), (" now", -4.0)]
    assert fault(echoed(in_openais_shape([(" and", -1.0)], usage=None))).kind is FaultKind.BAD_REQUEST


@pytest.mark.parametrize(
    ("prompt", "continuation", "tokens"),
    [
        ("A: ", "Paris", [("A", None), (":", -1.0), (" Paris", -3.0)]),
        ("A:", "\n\nParis", [("A", None), (":\n\n", -1.0), ("Paris", -3.0)]),
        ("A:", " Paris", [("A", None), (":", -1.0), (" Lon", -3.0), ("don", -1.0)]),
    ],
)
def test_a_token_that_spans_prompt_and_continuation_is_refused(
    prompt: str, continuation: str, tokens: list[tuple[str, float | None]]
) -> None:
    found = fault(echoed(in_openais_shape(tokens), Likelihood.of(prompt, continuation)))
    assert found.kind is FaultKind.BAD_REQUEST
    assert "line break" in found.detail


def test_a_text_without_a_prompt_has_no_first_log_probability() -> None:
    found = fault(echoed(in_openais_shape([("Paris", None), (" now", -1.0)]), Likelihood.of("", "Paris now")))
    assert (found.kind, "first token" in found.detail) == (FaultKind.BAD_REQUEST, True)
    marked = in_openais_shape([("<s>", None), ("Paris", -2.0)])
    assert tokens_of(echoed(marked, Likelihood.of("", "Paris"))) == [("Paris", -2.0)]


@pytest.mark.parametrize(
    ("tokens", "scores"),
    [
        # Characters in several tokens: shown with the last one, not at all, in bytes, or by SentencePiece's names
        ([("Hi", None), ("", -1.0), ("", -2.0), ("🙂", -3.0), ("!", -4.0)], [-1.0, -2.0, -3.0, -4.0]),
        ([("Hi", None), ("\ufffd", -1.0), ("\ufffd", -2.0), ("!", -4.0)], [-1.0, -2.0, -4.0]),
        ([("Hi", None), ("bytes:\\xf0\\x9f", -1.0), ("bytes:\\x99\\x82", -2.0), ("!", -4.0)], [-1.0, -2.0, -4.0]),
        ([("<s>", None), ("Hi", -9.0), ("<0xF0>", -1.0), ("<0x9F>", -2.0), ("!", -4.0)], [-1.0, -2.0, -4.0]),
    ],
)
def test_torn_characters_lose_no_token(tokens: list[tuple[str, float | None]], scores: list[float]) -> None:
    answer = echoed(in_openais_shape(tokens), Likelihood.of("Hi", "🙂!"))
    assert [score for _, score in tokens_of(answer)] == scores


def test_a_token_that_shows_nothing_belongs_to_the_prompt() -> None:
    tokens: list[tuple[str, float | None]] = [("A:", None), ("", -9.0), (" b", -2.0)]
    assert tokens_of(echoed(in_openais_shape(tokens), Likelihood.of("A:", " b"))) == [(" b", -2.0)]


def test_a_torn_character_in_the_prompt_does_not_matter() -> None:
    tokens: list[tuple[str, float | None]] = [("a", None), ("\ufffd", -1.0), ("\ufffd", -1.0), (" b", -2.0)]
    assert tokens_of(echoed(in_openais_shape(tokens), Likelihood.of("a🙂", " b"))) == [(" b", -2.0)]


def test_of_vllms_two_entries_the_less_probable_is_the_one_that_was_sent() -> None:
    body = in_vllms_shape(ECHOED)
    body["choices"][0]["prompt_logprobs"][-1] = {"7": {"logprob": -0.5, "rank": 1, "decoded_token": " now"}}
    answer, _ = answer_to(TextCompletions("prompt_logprobs"), ASKED, body)
    assert tokens_of(answer) == [(" Paris", -3.0), (" now", -0.5)]
    body["choices"][0]["prompt_logprobs"][-1] = {}
    assert fault(answer_to(TextCompletions("prompt_logprobs"), ASKED, body)[0]).kind is FaultKind.FATAL_CONFIG


@given(
    st.lists(st.sampled_from(["a", "b", " a", "é", "\n", "aa"]), min_size=1, max_size=6),
    st.lists(st.sampled_from(["a", "b", " a", "é", "\n", "aa"]), min_size=1, max_size=6),
    st.booleans(),
)
def test_the_boundary_is_found_wherever_it_is(before: list[str], after: list[str], marked: bool) -> None:
    tokens: list[tuple[str, float | None]] = [("<s>", None)] if marked else []
    tokens += [(text, -1.0 if tokens or index else None) for index, text in enumerate(before)]
    tokens += [(text, -2.0) for text in after]
    answer = echoed(in_openais_shape(tokens), Likelihood.of("".join(before), "".join(after)))
    assert tokens_of(answer) == [(text, -2.0) for text in after]


names = "choices text logprobs tokens token_logprobs top_logprobs content token logprob prompt_logprobs usage error 5"
json_like = st.recursive(
    st.none() | st.integers(-2, 2) | st.floats(-2, 2) | st.text(max_size=4) | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(names.split()), inner, max_size=3),
    max_leaves=25,
)


@given(json_like, json_like, st.sampled_from([200, 400, 429, 500]))
@example({"choices": [{"logprobs": {"content": [3]}}]}, None, 200)
@example({"tokens": [True]}, None, 200)
@example({"tokens": [1]}, {"choices": [{"message": {"content": ""}, "logprobs": {"content": [None]}}]}, 200)
@example({"choices": [{"text": "", "logprobs": {"tokens": ["a"], "token_logprobs": [2**63]}}]}, None, 200)
def test_no_reply_makes_a_codec_raise(first: object, second: object, status: int) -> None:
    for codec in (TextCompletions(), TextCompletions("prompt_logprobs"), LlamaChat()):
        answer, _ = answer_to(codec, ASKED, first, second, status=status)
        assert isinstance(answer, Fault)


# -- llama.cpp ---------------------------------------------------------------------------------------------------------


def held(ids: list[int], values: list[float], finish: str = "length") -> dict[str, Any]:
    """A chat completion that consists of these tokens."""
    entries = [
        {"id": number, "token": f"t{number}", "logprob": value} for number, value in zip(ids, values, strict=True)
    ]
    choice = {"message": {"content": "said"}, "logprobs": {"content": entries}, "finish_reason": finish}
    return {"model": "local", "choices": [choice], "usage": usage(30, len(ids))}


def test_llama_cpp_is_held_to_the_token_ids() -> None:
    answer, sent = answer_to(LlamaChat(), ASKED, {"tokens": [7042, 1343]}, held([7042, 1343], [-3.0, -4.0]))
    assert sent == [
        Ask(
            "/tokenize",
            b'{"model":"m","content":" Paris now","add_special":false,"parse_special":false}',
            at_root=True,
        ),
        Ask(
            "/chat/completions",
            b'{"model":"m","messages":[{"role":"user","content":"Q: capital?\\nA:"}],"temperature":0.0,"max_tokens":2,'
            b'"grammar":"root ::= <[7042]> <[1343]>","logprobs":true,"top_logprobs":1}',
        ),
    ]
    assert isinstance(answer, Completion)
    assert (answer.text, answer.usage, tokens_of(answer)) == ("", Usage(30, 2), [("t7042", -3.0), ("t1343", -4.0)])


def test_token_ids_are_asked_for_once_and_the_oldest_forgotten() -> None:
    codec = LlamaChat()
    for number in range(1025):
        assert len(answer_to(codec, Likelihood.of("q", f"{number}"), {"tokens": [1]}, held([1], [-1.0]))[1]) == 2
    assert len(answer_to(codec, Likelihood.of("other", "1024"), held([1], [-1.0]))[1]) == 1
    assert len(answer_to(codec, Likelihood.of("q", "0"), {"tokens": [1]}, held([1], [-1.0]))[1]) == 2


@pytest.mark.parametrize(
    ("bodies", "kind"),
    [
        ([{"tokens": []}], FaultKind.MALFORMED),
        ([{"tokens": [1] * LONGEST_CONTINUATION}], FaultKind.TOO_LARGE),
        ([{"tokens": [1, 2]}, held([1], [-1.0])], FaultKind.TOO_LARGE),
        ([{"tokens": [1, 2]}, held([1, 3], [-1.0, -1.0])], FaultKind.FATAL_CONFIG),
        ([{"tokens": [1]}, {"choices": [{"message": {"content": "x"}}]}], FaultKind.MALFORMED),
        ([{"error": {"code": "invalid_api_key"}}], FaultKind.FATAL_CONFIG),
        ([{"tokens": [1]}, {"error": {"code": "context_length_exceeded"}}], FaultKind.TOO_LARGE),
    ],
)
def test_anything_but_the_continuation_is_a_fault(bodies: list[object], kind: FaultKind) -> None:
    assert fault(answer_to(LlamaChat(), ASKED, *bodies)[0]).kind is kind


def test_generation_with_llama_cpp_is_chat_as_ever() -> None:
    request = Generate.of("q", Sampling(temperature=0.5, grammar="root ::= x"), top_logprobs=3)
    assert LlamaChat().encode("m", request) == OpenAIChat().encode("m", request)


# -- the transport -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def llama_server(moved: str | None = None) -> Any:
    """A server's base URL, and the requests it gets; ``moved`` is a path that it redirects."""
    seen: list[tuple[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("Authorization", "")))
        if request.path == moved:
            raise web.HTTPTemporaryRedirect("/elsewhere")
        return web.json_response({"tokens": [1]} if request.path == "/tokenize" else held([1], [-2.5]))

    async with serving(handler) as url:
        yield url, seen


@pytest.mark.anyio
@pytest.mark.real
async def test_the_token_ids_come_from_the_servers_root() -> None:
    async with llama_server() as (url, seen):
        endpoint = HttpEndpoint(url, "sk-canary-0123456789", codec=LlamaChat())
        answers = [await endpoint.send("m", ASKED), await endpoint.send_streamed("m", ASKED, lambda: None)]
        await endpoint.aclose()
    assert [tokens_of(answer) for answer in answers] == [[("t1", -2.5)]] * 2
    key = "Bearer sk-canary-0123456789"
    assert seen == [("/tokenize", key), *[("/v1/chat/completions", key)] * 2]


@pytest.mark.anyio
@pytest.mark.real
async def test_no_request_of_an_exchange_is_redirected() -> None:
    for moved in ("/tokenize", "/v1/chat/completions"):
        async with llama_server(moved) as (url, seen):
            endpoint = HttpEndpoint(url, codec=LlamaChat())
            assert fault(await endpoint.send("m", ASKED)).kind is FaultKind.FATAL_CONFIG
            await endpoint.aclose()
        assert "/elsewhere" not in [path for path, _ in seen]


@pytest.mark.anyio
@pytest.mark.parametrize("codec", [OpenAIChat(), AzureChat("https://r.openai.azure.com")])
async def test_formats_without_likelihoods_say_so(codec: OpenAIChat) -> None:
    answer = await HttpEndpoint("http://127.0.0.1:1/v1", codec=codec).send("m", ASKED)
    assert fault(answer).kind is FaultKind.FATAL_CONFIG


def test_two_formats_at_one_address_share_no_answers() -> None:
    chat, text = (HttpEndpoint("https://host/v1", codec=codec) for codec in (None, TextCompletions()))
    assert chat.identity == "https://host/v1", "as ever: caches depend on it"
    assert text.identity == "https://host/v1/completions"
    stated = HttpEndpoint("http://127.0.0.1:1", codec=TextCompletions(), identity="stated:x")
    assert stated.identity == "stated:x/completions"


# -- through the engine ------------------------------------------------------------------------------------------------


def scoring() -> FakeEndpoint:
    return FakeEndpoint(
        lambda request, number: Completion("", usage=Usage(10, 1), token_logprobs=ANSWER), seconds=1.0, supports=GIVEN
    )


def test_a_model_says_how_likely_a_text_is_and_remembers_it() -> None:
    endpoint, cache = scoring(), MemoryCache()

    async def main() -> list[LogProb]:
        found = []
        for _ in range(2):
            async with Engine(cache=cache) as engine:
                model = engine.model("m", endpoint=endpoint)
                found += [await model.likelihood("Q: capital?\nA:", " Paris now")]
                found += [LogProb.of(await model.submit(ASKED))]
        return found

    assert run_virtual(main) == [LogProb((-3.0, -4.0))] * 4
    assert len(endpoint.started) == 1


def test_equal_likelihoods_in_flight_are_one_call() -> None:
    endpoint = scoring()

    async def main() -> tuple[int, int, int, int]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            futures = [model.submit(ASKED) for _ in range(5)] + [model.submit(Likelihood.of("Q:", " Paris now"))]
            for future in futures:
                assert LogProb.of(await future).total == -7.0
            account = model.account
            return account.calls, account.hits, account.input_tokens, account.output_tokens

    assert run_virtual(main) == (2, 4, 20, 2)
    assert len(endpoint.started) == 2


def test_likelihoods_are_paid_for_as_calls() -> None:
    endpoint = scoring()

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint).charged_to(Account(Budget(calls=2)))
            await model.likelihood("a", "b")
            await model.likelihood("a", "c")
            with pytest.raises(BudgetExhausted):
                await model.likelihood("a", "d")

    run_virtual(main)
    assert len(endpoint.started) == 2


def test_what_an_endpoint_cannot_answer_is_refused_before_it_is_asked() -> None:
    endpoint = FakeEndpoint(supports=Capabilities(top_logprobs=2))

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=1))
            with pytest.raises(MissingCapability, match="completions"):
                model.submit(ASKED)
            with pytest.raises(MissingCapability, match="3 top log-probabilities.*gives 2"):
                model.submit(Generate.of("q", top_logprobs=3))
            await model.submit(Generate.of("q", top_logprobs=2))

    run_virtual(main)
    assert len(endpoint.started) == 1


def test_likelihoods_are_never_hedged() -> None:
    # The fake cannot stream: a hedged call would be streamed, and fail.
    supports = Capabilities(prompt_logprobs=True, stream=True)
    endpoint = FakeEndpoint(lambda request, number: Completion("", token_logprobs=ANSWER), supports=supports)

    async def main() -> float:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, hedge=0.1)
            with pytest.raises(CallFailed):
                await model.generate("q")
            return (await model.likelihood("a", "b")).total

    assert run_virtual(main) == -7.0


@pytest.mark.anyio
@pytest.mark.real
async def test_a_silent_echo_reaches_the_caller_as_a_refusal() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(in_chat_shape([(" and", -1.0)], usage=usage(7, 1)))

    async with serving(handler) as url, Engine() as engine:
        endpoint = HttpEndpoint(url, codec=TextCompletions(), supports=CAPABILITIES)
        with pytest.raises(EndpointRefused, match="does not give those of its prompt"):
            await engine.model("m", endpoint=endpoint).likelihood("Q: capital?\nA:", " Paris now")


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_format_is_chosen_by_name() -> None:
    found = as_completions(provider("openai/m", "http://127.0.0.1:8000/v1", None), "prompt_logprobs")
    assert isinstance(found.codec, TextCompletions)
    assert (found.capabilities.top_logprobs, found.capabilities.prompt_logprobs) == (5, True)
    assert provider("openai/m", None, "k").capabilities.top_logprobs == 20
    for name in ("anthropic/m", "azure/m"):
        with pytest.raises(ConfigError, match="completions"):
            as_completions(provider(name, "https://host", "k"))


def test_settings_of_raw_text_need_raw_text() -> None:
    model = {"model": "m", "base_url": "http://127.0.0.1:8000/v1", "prompt_logprobs": "echo"}
    with pytest.raises(ConfigError, match='format = "completions"'):
        check({"task": {"name": "antonym"}, "models": {"scorer": model}})
    scorer = check({"task": {"name": "antonym"}, "models": {"scorer": model | {"format": "completions"}}}).models.scorer
    assert scorer is not None
    assert scorer.prompt_logprobs == "echo"


def test_a_model_of_raw_text_is_opened_with_what_was_said_of_it() -> None:
    address = "http://127.0.0.1:1/v1"
    said = {"base_url": address, "format": "completions", "top_logprobs": 40}
    config = check({"task": {"name": "antonym"}, "models": {"scorer": {"model": "m", **said}}})

    async def main() -> tuple[str, Capabilities]:
        async with Engine() as engine:
            scorer = (await open_models(config, engine, {}))["scorer"]
            return scorer.identity, scorer.supports

    identity, supports = asyncio.run(main())
    assert identity == f"{address}/completions"
    assert (supports.top_logprobs, supports.prompt_logprobs, supports.chat) == (40, True, False)


@pytest.mark.parametrize("said", [{"format": "completions"}, {"top_logprobs": 3}])
def test_of_the_embedded_model_nothing_needs_to_be_said(said: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="leave format and top_logprobs out"):
        check_model(ModelConfig.model_validate({"model": "local", **said}))


# -- the embedded model ------------------------------------------------------------------------------------------------


@pytest.mark.local
@pytest.mark.anyio
async def test_the_embedded_models_likelihood_is_the_product_of_its_next_token_chances(
    weights_path: Path,  # noqa: F811
) -> None:
    prompt, pieces = "What is the capital of France?", ["Paris", " is", " big"]
    async with LocalServer(weights_path) as running:
        shared = {"identity": running.identity, "supports": running.supports, "keepalive": KEEPALIVE_SECONDS}
        chat = HttpEndpoint(running.base_url, running.api_key, codec=LlamaChat(), **shared)  # type: ignore[arg-type]
        text = HttpEndpoint(running.base_url, running.api_key, codec=TextCompletions(), **shared)  # type: ignore[arg-type]
        answer = await chat.send("local", Likelihood.of(prompt, "".join(pieces)))
        assert [token for token, _ in tokens_of(answer)] == pieces
        context, total = await templated(running, prompt), 0.0
        for piece in pieces:
            total += await next_token(text, context, piece)
            context += piece
        assert LogProb.of(answer).total == pytest.approx(total, abs=1e-3)  # type: ignore[arg-type]
        other = await chat.send("local", Likelihood.of("What is the opposite of hot?", "".join(pieces)))
        assert abs(math.fsum(value for _, value in tokens_of(other)) - total) > 1
        unheld = await text.send("local", Likelihood.of(prompt, " Paris"))
        assert fault(unheld).kind is FaultKind.FATAL_CONFIG, "llama.cpp ignores an echo silently"
        await chat.aclose()
        await text.aclose()


async def templated(running: LocalServer, prompt: str) -> str:
    """The text that the model sees of this prompt."""
    body = {"messages": [{"role": "user", "content": prompt}]}
    headers = {"Authorization": f"Bearer {running.api_key}"}
    address = f"{running.base_url.removesuffix('/v1')}/apply-template"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(address, json=body) as reply:
        text: str = (await reply.json())["prompt"]
        return text


async def next_token(endpoint: HttpEndpoint, context: str, token: str) -> float:
    """The log-probability of this token out of all that may come next."""
    answer = await endpoint.send(
        "local", Generate.of(context, Sampling(temperature=0, max_tokens=1), top_logprobs=50_000)
    )
    assert isinstance(answer, Completion), answer
    return dict(answer.token_logprobs[0].top)[token]
