"""The simulated API judges the rest of the package, so it is tested against arithmetic, not against the package."""

import asyncio
import signal

import aiohttp
import pytest
from calls import body_of, started, text_of
from multidict import CIMultiDict

from asyncopt import codec
from asyncopt.endpoints.protocol import Reply
from asyncopt.errors import ConfigError
from asyncopt.testing import AnswerModel, Constant, Item, SimulatedAPI, run_virtual
from asyncopt.testing.dialects import go_duration
from asyncopt.testing.ledger import CANCELLED
from asyncopt.values import Completion, Fault, FaultKind, Finish, Generate, Sampling


async def post(api: SimulatedAPI, prompt: str = "hello", **parameters: object) -> Reply:
    return await api.handle(body_of(prompt, **parameters), CIMultiDict())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.1 + 0.2, "300ms"),  # a little more as floats go
        (1, "1s"),
        (8.64, "8.64s"),
        (86.4, "1m26.4s"),
        (360, "6m0s"),
        (3661.5, "1h1m1.5s"),
    ],
)
def test_durations_are_written_as_go_does(seconds, text):
    assert go_duration(seconds) == text


# Latency


def test_a_constant_latency_is_exact_on_the_virtual_clock():
    async def main():
        loop = asyncio.get_running_loop()
        api = SimulatedAPI(latency=Constant(0.2))
        await asyncio.gather(*(post(api) for _ in range(100)))
        assert loop.time() == pytest.approx(0.2, abs=1e-9)
        assert {(entry.arrived, entry.finished) for entry in api.ledger.entries} == {(0.0, 0.2)}
        assert api.ledger.max_in_flight() == 100
        return api.ledger.in_flight()

    assert run_virtual(main) == 0


def test_beyond_the_concurrency_requests_queue():
    async def main():
        api = SimulatedAPI(latency=Constant(1.0), concurrency=10)
        await asyncio.gather(*(post(api) for _ in range(35)))
        return [entry.finished for entry in api.ledger.entries]

    assert run_virtual(main) == pytest.approx([1.0] * 10 + [2.0] * 10 + [3.0] * 10 + [4.0] * 5)


# Quotas and the ledger


def test_a_refusal_says_when_to_come_back_and_then_there_is_room():
    async def main():
        api = SimulatedAPI(requests_per_second=20, request_burst=2)
        replies = [await post(api) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429]
        assert replies[1].headers["X-RateLimit-Remaining-Requests"] == "0"
        await asyncio.sleep(int(replies[2].headers["retry-after-ms"]) / 1000)
        assert (await post(api)).status == 200
        return replies[2]

    refused = run_virtual(main)
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["retry-after-ms"] == "50"
    assert refused.headers["x-ratelimit-limit-requests"] == "1200"
    assert refused.headers["x-ratelimit-reset-requests"] == "100ms"
    assert "x-ratelimit-limit-tokens" not in refused.headers
    error = codec.loads(refused.body)["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")


def test_the_token_quota_is_asked_for_prompt_and_max_tokens_on_arrival():
    async def main():
        api = SimulatedAPI(tokens_per_second=100, token_burst=1000, latency=Constant(0.1))
        first = await post(api, "x" * 397, max_tokens=800)
        second = await post(api, "x" * 397, max_tokens=100)
        too_large = await post(api, "x" * 397, max_tokens=901)
        return api, first, second, too_large

    api, first, second, too_large = run_virtual(main)
    assert [entry.charged for entry in api.ledger.entries] == [900, 200, 1001]
    assert [entry.input_tokens for entry in api.ledger.entries] == [100, 100, 100]
    assert codec.loads(first.body)["usage"]["prompt_tokens"] == 100
    assert first.headers["x-ratelimit-remaining-tokens"] == "100"
    assert first.headers["x-ratelimit-reset-tokens"] == "9s"
    assert codec.loads(second.body)["error"]["type"] == "tokens"
    assert second.headers["retry-after-ms"] == "900"
    assert too_large.status == 429
    assert "retry-after" not in too_large.headers


def paced(api: SimulatedAPI, count: int, interval: float):
    async def main():
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(post(api))
                await asyncio.sleep(interval)

    return main


def test_refused_requests_that_count_keep_an_offer_above_the_rate_out_for_ever():
    lenient = SimulatedAPI(requests_per_second=10, request_burst=10)
    strict = SimulatedAPI(requests_per_second=10, request_burst=10, refused_count=True)
    for api in (lenient, strict):
        run_virtual(paced(api, 2000, 0.05))
    assert lenient.ledger.answered() == pytest.approx(1000 + 10, abs=2)
    assert strict.ledger.answered() < 30
    assert strict.ledger.refused() == 2000 - strict.ledger.answered()


def test_the_ledger_counts_the_fullest_window():
    api = SimulatedAPI(seed=1)

    async def main():
        for pause in [0.0] * 3 + [0.5, 0.49, 0.01, 5.0, 0.9, 0.0, 0.0]:
            await asyncio.sleep(pause)
            await post(api, "four token text.", max_tokens=6)

    run_virtual(main)
    assert api.ledger.count() == 10
    assert api.ledger.max_in_window(1.0) == 5  # the one a full second after the first is in the next window
    assert api.ledger.max_in_window(1.01) == 6
    assert api.ledger.max_in_window(100) == 10
    assert api.ledger.max_in_window(1.0, tokens=True) == 50


def test_time_goes_on_when_a_later_loop_takes_the_server_over():
    api = SimulatedAPI(requests_per_second=1, request_burst=1, latency=Constant(3.0))

    async def main():
        return (await post(api)).status

    assert [run_virtual(main), run_virtual(main)] == [200, 200]
    assert [entry.arrived for entry in api.ledger.entries] == [0.0, 3.0]


def test_a_client_that_leaves_is_not_in_flight_any_more():
    api = SimulatedAPI(latency=Constant(10.0))

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await post(api)

    run_virtual(main)
    (entry,) = api.ledger.entries
    assert (entry.finished, entry.status, api.ledger.in_flight()) == (1.0, CANCELLED, 0)


def test_prompts_can_be_kept_as_hashes():
    apis = [SimulatedAPI(keep_prompts=keep) for keep in (True, False)]
    for api in apis:
        run_virtual(lambda api=api: post(api, "a secret"))
    assert [api.ledger.entries[0].prompt == "a secret" for api in apis] == [True, False]


def test_a_burst_without_a_rate_is_an_error():
    with pytest.raises(ConfigError, match="without a rate"):
        SimulatedAPI(request_burst=3)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"model":"m"}',
        b'{"model":"m","messages":[]}',
        b'{"messages":[{"content":"x"}]}',
        b'{"model":"m","messages":[{"role":"user","content":null}]}',
        body_of("x", n=2),
        body_of("x", tools=[1]),
        body_of("x", max_tokens="7"),
        body_of("x", temperature=-1),
        body_of("x", stop=[1]),
    ],
)
def test_a_bad_request_gets_a_400_in_openais_shape(body):
    api = SimulatedAPI()
    reply = run_virtual(lambda: api.handle(body, CIMultiDict()))
    assert reply.status == 400
    assert codec.loads(reply.body)["error"]["type"] == "invalid_request_error"


def test_samples_differ_with_temperature_and_repeat_with_a_seed():
    question = "Name something."

    async def main():
        api = SimulatedAPI()
        return {
            "greedy": {text_of(await post(api, question, temperature=0)) for _ in range(8)},
            "drawn": {text_of(await post(api, question, temperature=1.0)) for _ in range(8)},
            "seeded": {text_of(await post(api, question, temperature=1.0, seed=4)) for _ in range(8)},
            "seeds": {text_of(await post(api, question, temperature=1.0, seed=seed)) for seed in range(8)},
        }

    first, again = run_virtual(main), run_virtual(main)
    assert first == again
    assert {name: len(texts) for name, texts in first.items()} == {"greedy": 1, "drawn": 8, "seeded": 1, "seeds": 8}


def test_answers_end_at_stop_texts_and_at_max_tokens():
    api = SimulatedAPI(answers=AnswerModel(0, {"a": Item("Why?", "one, two, three", "text")}))

    async def main():
        full = text_of(await post(api, "\nWhy?"))
        stopped = text_of(await post(api, "\nWhy?", stop=" is"))
        cut = codec.loads((await post(api, "\nWhy?", max_tokens=2)).body)
        return full, stopped, cut

    full, stopped, cut = run_virtual(main)
    assert full.startswith("The answer is")
    assert stopped == "The answer"
    assert cut["choices"][0] | {"logprobs": None} == {
        "index": 0,
        "message": {"role": "assistant", "content": "The answ"},
        "logprobs": None,
        "finish_reason": "length",
    }
    assert cut["usage"]["completion_tokens"] == 2


# As an endpoint, and behind sockets


def test_the_endpoint_speaks_the_wire_format_of_the_package():
    async def main():
        api = SimulatedAPI(requests_per_second=1, request_burst=2, latency=Constant(0.25), require_key="right")
        endpoint = api.endpoint(api_key="right")
        stranger = api.endpoint(api_key="wrong")
        request = Generate.of("tell me nonce=q1", Sampling(temperature=0, max_tokens=50))
        answer = await endpoint.send("m", request)
        assert asyncio.get_running_loop().time() == pytest.approx(0.25)
        short = await endpoint.send("m", Generate.of("tell me", Sampling(max_tokens=1)))
        refused = await endpoint.send("m", request)
        unknown = await stranger.send("m", request)
        await endpoint.aclose()
        assert endpoint.identity == api.identity
        assert endpoint.account != stranger.account
        return answer, short, refused, unknown, api.ledger.entries

    answer, short, refused, unknown, entries = run_virtual(main)
    assert isinstance(answer, Completion)
    assert answer.text.endswith(" nonce=q1")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, entries[0].output_tokens)
    assert isinstance(short, Completion)
    assert short.finish is Finish.LENGTH
    assert isinstance(refused, Fault)
    assert (refused.kind, refused.retry_after) == (FaultKind.RATE_LIMITED, 0.5)
    assert isinstance(unknown, Fault)
    assert unknown.kind is FaultKind.FATAL_CONFIG
    assert [entry.status for entry in entries] == [200, 200, 429, 401]
    assert entries[0].key_hash != entries[3].key_hash
    assert "right" not in str(entries)


@pytest.mark.real
@pytest.mark.anyio
async def test_the_server_answers_over_sockets():
    api = SimulatedAPI(seed=3, require_key="k", requests_per_second=1000, latency=Constant(0.001))
    headers = {"Authorization": "Bearer k"}
    async with api.serve() as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/models") as reply:
            assert reply.status == 401
            assert (await reply.json())["error"]["code"] == "invalid_api_key"
        async with session.get(f"{url}/models", headers=headers) as reply:
            assert reply.status == 200
            assert reply.headers["x-asyncopt-identity"] == api.identity

        async def ask(number: int) -> str:
            async with session.post(
                f"{url}/chat/completions", data=body_of(f"nonce={number}"), headers=headers
            ) as reply:
                assert "x-ratelimit-remaining-requests" in reply.headers
                return text_of(Reply(reply.status, reply.headers, await reply.read()))

        texts = await asyncio.gather(*(ask(number) for number in range(50)))
        assert [text.rpartition("nonce=")[2] for text in texts] == [str(number) for number in range(50)]
        async with session.get(f"{url.removesuffix('/v1')}/ledger") as reply:
            ledger = await reply.json()
    assert ledger["identity"] == api.identity
    assert (ledger["requests"], ledger["answered"], ledger["in_flight"]) == (50, 50, 0)
    assert {entry["prompt"] for entry in ledger["entries"]} == {f"nonce={number}" for number in range(50)}


@pytest.mark.real
@pytest.mark.anyio
async def test_a_socket_client_that_leaves_is_noticed():
    api = SimulatedAPI(latency=Constant(3600))
    async with api.serve() as url, aiohttp.ClientSession() as session:
        call = asyncio.create_task(session.post(f"{url}/chat/completions", data=body_of("x")))
        while not api.ledger.in_flight():  # noqa: ASYNC110 - it changes behind the socket
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        while api.ledger.in_flight():  # noqa: ASYNC110 - it changes behind the socket
            await asyncio.sleep(0)
    assert api.ledger.entries[0].status == CANCELLED


@pytest.mark.real
@pytest.mark.anyio
async def test_a_port_that_is_taken_is_an_error_that_says_so():
    async with SimulatedAPI().serve() as url:
        port = int(url.split(":")[2].removesuffix("/v1"))
        with pytest.raises(ConfigError, match=f"port {port} .* choose another"):
            async with SimulatedAPI().serve(port):
                pass


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_simulator_prints_one_line_and_ends_quietly_at_a_signal(number):
    code = "from asyncopt.testing.process import run_simulator; run_simulator({'port': 0, 'seed': 5, 'latency': '0'})"
    with started("-c", code) as (process, ready):
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert ready["event"] == "ready"
    assert ready["url"] == f"http://127.0.0.1:{ready['port']}/v1"
    assert ready["pid"] == process.pid
    assert str(ready["identity"]).startswith("simulated:5:")
