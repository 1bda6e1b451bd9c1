"""The simulated API judges the rest of the package, so it is tested against arithmetic, not against the package."""

import asyncio
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from asyncopt import codec
from asyncopt.endpoints.protocol import Reply
from asyncopt.errors import ConfigError
from asyncopt.testing import AnswerModel, Constant, Item, LogNormal, SimulatedAPI, items_of, run_virtual
from asyncopt.testing.bare import ANSWER, serve_bare
from asyncopt.testing.buckets import TokenBucket, take_all
from asyncopt.testing.latency import parse_latency
from asyncopt.testing.ledger import CANCELLED
from asyncopt.testing.proposals import VOCABULARY
from asyncopt.testing.wire import go_duration
from asyncopt.values import Completion, Fault, FaultKind, Finish, Generate, Sampling


def body_of(prompt: str, **parameters: object) -> bytes:
    return codec.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], **parameters})


def text_of(reply: Reply) -> str:
    assert reply.status == 200, reply.body
    return codec.loads(reply.body)["choices"][0]["message"]["content"]


async def post(api: SimulatedAPI, prompt: str = "hello", **parameters: object) -> Reply:
    return await api.handle(body_of(prompt, **parameters), CIMultiDict())


# Buckets

RATES = st.floats(0.1, 1000)
STEPS = st.lists(st.tuples(st.floats(0, 2), st.floats(0, 30)), min_size=1, max_size=60)


@given(RATES, st.floats(1, 50), STEPS, st.booleans())
def test_no_window_is_granted_more_than_burst_and_rate_allow(rate, burst, steps, charge_refused):
    bucket = TokenBucket(rate, burst, charge_refused=charge_refused)
    now, granted = 0.0, []
    for pause, amount in steps:
        now += pause
        if bucket.take(now, amount) is None:
            granted.append((now, amount))
    for first, (start, _) in enumerate(granted):
        total = 0.0
        for end, amount in granted[first:]:
            total += amount
            assert total <= burst + rate * (end - start) + 1e-6 * (burst + rate)


@given(RATES, st.floats(1, 50), STEPS)
def test_what_is_refused_fits_after_the_wait_and_not_before(rate, burst, steps):
    bucket = TokenBucket(rate, burst)
    now = 0.0
    for pause, amount in steps:
        now += pause
        wait = bucket.take(now, amount)
        if wait is None:
            continue
        assert (wait == math.inf) == (amount > burst + 1e-9 * max(1.0, burst))
        if wait > 1e-5 and wait < math.inf:
            assert bucket.wait(now + 0.99 * wait, amount) > 0
            now += wait
            assert bucket.take(now, amount) is None


def test_pacing_at_exactly_the_rate_is_never_refused():
    bucket = TokenBucket(20, 1)
    assert [bucket.take(number * 0.05, 1) for number in range(5000)] == [None] * 5000


def test_refused_requests_are_charged_only_where_asked():
    lenient, strict = TokenBucket(1, 2), TokenBucket(1, 2, charge_refused=True)
    for bucket in (lenient, strict):
        bucket.take(0.0, 2)
    assert lenient.take(0.5, 1) == pytest.approx(0.5)
    assert lenient.take(1.0, 1) is None
    assert strict.take(0.5, 1) == pytest.approx(1.0)
    assert strict.take(1.0, 1) == pytest.approx(1.0)
    assert strict.take(2.0, 1) is None


def test_one_refusal_charges_no_bucket_unless_refused_requests_count():
    requests, tokens = TokenBucket(1, 5), TokenBucket(10, 100)
    assert take_all(0.0, [(requests, 1), (tokens, 100)]) == [None, None]
    assert take_all(0.0, [(requests, 1), (tokens, 10)]) == [None, pytest.approx(1.0)]
    assert requests.level(0.0) == 4
    strict = TokenBucket(1, 5, charge_refused=True)
    take_all(0.0, [(strict, 1), (tokens, 10)])
    assert strict.level(0.0) == 4


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (math.inf, 1), (1, math.nan)])
def test_a_bucket_without_a_sensible_rate_and_burst_is_an_error(rate, burst):
    with pytest.raises(ConfigError, match="must be a number above 0"):
        TokenBucket(rate, burst)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.035, "35ms"),  # 0.035 * 1000 is a little more than 35
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


def test_log_normal_latencies_have_the_stated_median_spread_and_tail():
    plain = [LogNormal(0.5, 1.0).seconds(3, number) for number in range(4000)]
    logs = sorted(math.log(value) for value in plain)
    assert logs[2000] == pytest.approx(math.log(0.5), abs=0.08)
    assert math.sqrt(sum((log - math.log(0.5)) ** 2 for log in logs) / 4000) == pytest.approx(1.0, abs=0.06)
    tailed = [LogNormal(0.5, 1.0, 0.1, 7.0).seconds(3, number) for number in range(4000)]
    ratios = [slow / value for slow, value in zip(tailed, plain, strict=True)]
    assert {round(ratio, 6) for ratio in ratios} == {1.0, 7.0}
    assert 320 < sum(ratio > 2 for ratio in ratios) < 480


def test_latencies_are_read_from_the_command_line():
    assert parse_latency("0.05") == Constant(0.05)
    assert parse_latency("lognormal:0.5:1.0") == LogNormal(0.5, 1.0)
    assert parse_latency("lognormal:0.5:1.0:0.01:20") == LogNormal(0.5, 1.0, 0.01, 20.0)


@pytest.mark.parametrize("text", ["", "fast", "-1", "nan", "lognormal", "lognormal:1", "lognormal:1:2:3", "uniform:1"])
def test_a_bad_latency_is_an_error(text):
    with pytest.raises(ConfigError, match="latency"):
        parse_latency(text)


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
        body_of("x", stream=True),
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


# Answers

QUESTIONS = {
    str(number): Item(
        f"Box {number} holds {number} pens and {number % 7} are lost.\nHow many are left?", "12", "number"
    )
    for number in range(3000)
}


def right_share(model: AnswerModel, prompt_of, items: Mapping[str, Item] = QUESTIONS) -> float:
    right = [model.answer(prompt_of(item.question)) == f"The answer is {item.target}." for item in items.values()]
    return sum(right) / len(right)


@pytest.mark.parametrize("instruction", ["", "Let's think step by step.", "Read each part and check the result."])
def test_the_hidden_accuracy_is_realised(instruction):
    model = AnswerModel(5, QUESTIONS)
    accuracy = model.true_accuracy(instruction)
    share = right_share(model, lambda question: f"{instruction}\n{question}")
    assert abs(share - accuracy) < 4 * math.sqrt(accuracy * (1 - accuracy) / len(QUESTIONS))


def test_the_position_of_the_instruction_does_not_change_what_it_is_worth():
    model = AnswerModel(5, QUESTIONS)
    instruction = "Check the result."
    prompts = [
        lambda question: f"{instruction}\n{question}",
        lambda question: f"{question}\n{instruction}",
        lambda question: f"Q: {instruction}\n{question}\n\nA:",
        lambda question: f"{instruction}\nQ: {question}\n\nA:",
        lambda question: f"Q: {question}\n\nA: {instruction}",
    ]
    assert len({right_share(model, prompt_of) for prompt_of in prompts}) == 1
    assert model.true_accuracy(f"Q: {instruction}\n\n\nA:") == model.true_accuracy(instruction)


def test_instructions_differ_and_stay_within_the_bounds():
    model = AnswerModel(1)
    rng = Random(0)
    values = [model.true_accuracy(" ".join(rng.sample(VOCABULARY, 12))) for _ in range(300)]
    assert min(values) >= 0.05
    assert max(values) <= 0.95
    assert max(values) - min(values) > 0.5


def test_two_instructions_are_judged_by_partly_the_same_luck():
    model = AnswerModel(5, QUESTIONS)
    outcomes = [
        [model.answer(f"{instruction}\n{item.question}") == "The answer is 12." for item in QUESTIONS.values()]
        for instruction in ("Check the result.", "Think twice and verify.")
    ]
    first, second = (sum(column) / len(column) for column in outcomes)
    both = sum(a and b for a, b in zip(*outcomes, strict=True)) / len(QUESTIONS)
    assert both > first * second + 0.03  # independent answers would make this an equality


@pytest.mark.parametrize(
    ("item", "wrong"),
    [
        (Item("How many?", "1,200", "number"), r"-?\d+"),
        (Item("How much?", "2.5", "number"), r"\d+\.5"),
        (Item("Which?\n(A) red\n(B) blue\n(C) green", "(B)", "choice"), r"\((A|C)\)"),
        (Item("Which? Name the letter.", "B", "choice"), r"[ACDE]"),
        (Item("Is it?", "Yes", "boolean"), "No"),
        (Item("Is it so?", "false", "boolean"), "true"),
        (Item("Is that argument sound?", "invalid", "boolean"), "valid"),
        (Item("The opposite of hot?", "cold", "text"), "unknown|Paris"),
    ],
)
def test_wrong_answers_are_wrong_and_of_the_right_kind(item, wrong):
    model = AnswerModel(0, {"it": item, "other": Item("The capital of France?", "Paris", "text")})
    prompts = [f"{word}\n{item.question}" for word in VOCABULARY]
    answers = {re.fullmatch(r"The answer is (.*)\.", model.answer(prompt))[1] for prompt in prompts}
    assert item.target in answers
    assert len(answers) > 1
    assert all(re.fullmatch(wrong, answer) for answer in answers - {item.target})


@pytest.mark.parametrize("kind", ["choice", "text"])
def test_a_wrong_answer_never_happens_to_be_right(kind):
    options = "\n(A) red\n(B) blue\n(C) green" if kind == "choice" else ""
    targets = ["(A)", "(B)", "(C)"] if kind == "choice" else ["red", "dark red", "blue", "green"]
    items = {str(n): Item(f"Which is number {n}?{options}", targets[n % len(targets)], kind) for n in range(3000)}
    model = AnswerModel(2, items)
    accuracy = model.true_accuracy("")
    share = right_share(model, lambda question: question, items)
    assert abs(share - accuracy) < 4 * math.sqrt(accuracy * (1 - accuracy) / len(items))


def test_answers_are_the_same_for_the_same_seed_only():
    prompts = [f"Think.\n{item.question}" for item in list(QUESTIONS.values())[:50]] + ["hello"]
    answers = [[AnswerModel(seed, QUESTIONS).answer(prompt) for prompt in prompts] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_the_identity_changes_with_all_that_decides_answers():
    some = {"a": Item("Why?", "because", "text")}
    models = [AnswerModel(1), AnswerModel(2), AnswerModel(1, some), AnswerModel(1, {"b": some["a"]})]
    identities = [SimulatedAPI(seed=9, answers=model).identity for model in models]
    assert len(set(identities)) == 3
    assert identities[2] == identities[3]
    assert identities[0].startswith("simulated:1:")
    assert len({model.fingerprint for model in models}) == 3


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


def test_a_nonce_comes_back_and_is_no_part_of_the_instruction():
    model = AnswerModel(5, QUESTIONS)
    for item in list(QUESTIONS.values())[:100]:
        plain = model.answer(f"Think.\n{item.question}")
        assert model.answer(f"Think. nonce=a-7_B\n{item.question}") == f"{plain} nonce=a-7_B"
    assert model.answer("hello nonce: zz9").endswith(" nonce=zz9")


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


# Proposals


def pair_prompt(pairs: Mapping[tuple[int, int], float]) -> str:
    worst_first = sorted(pairs.items(), key=lambda pair: -pair[1])[-20:]
    blocks = "\n\n".join(f"input:\nw={w}, b={b}\nvalue:\n{int(value)}" for (w, b), value in worst_first)
    return f"Find the minimum.\n\n{blocks}\n\nThe output must end with a new pair [w, b]."


@pytest.mark.parametrize("optimum", [(15, 14), (3, 5), (36, -1)])
def test_a_regression_run_gets_to_the_optimum(optimum):
    def loss(w: int, b: int) -> float:
        return sum(((w - optimum[0]) * x + b - optimum[1]) ** 2 for x in range(1, 51))

    model = AnswerModel(0)
    rng = Random(0)
    starts = [(rng.randint(10, 20), rng.randint(10, 20)) for _ in range(5)]
    pairs = {start: loss(*start) for start in starts}
    for step in range(150):
        prompt = pair_prompt(pairs)
        for sample in range(8):
            found = re.search(r"\[(-?\d+), (-?\d+)\]$", model.answer(prompt, f"{step} {sample}"))
            pair = int(found[1]), int(found[2])
            pairs[pair] = loss(*pair)
    assert optimum in pairs


def text_prompt(scored: Mapping[str, float]) -> str:
    worst_first = sorted(scored.items(), key=lambda pair: pair[1])[-20:]
    blocks = "\n\n".join(f"text:\n{text}\nscore:\n{round(100 * score)}" for text, score in worst_first)
    exemplar = "input:\nQ: <INS>\nBox 1 holds 1 pens and 1 fall out.\nHow many stay?\n\nA:\noutput:\n12"
    return f"Some texts.\n\n{blocks}\n\n{exemplar}\n\nWrite a new text in square brackets."


def test_a_prompt_run_finds_better_instructions():
    model = AnswerModel(0, QUESTIONS)
    scored = {"": model.true_accuracy("")}
    for step in range(20):
        prompt = text_prompt(scored)
        for sample in range(8):
            text = re.fullmatch(r"\[([^\[\]\n\d]+)\]", model.answer(prompt, f"{step} {sample}"))[1]
            scored[text] = model.true_accuracy(text)
    assert max(scored.values()) > scored[""] + 0.25


def test_what_is_shown_is_not_proposed_again():
    model = AnswerModel(0)
    grid = {(w, b): float(abs(w) + abs(b)) for w in range(-2, 2) for b in range(-2, 3)}
    words = {f"{word.capitalize()}.": 0.5 for word in VOCABULARY} | {"": 0.9}
    blocks = "\n\n".join(f"text:\n{text}\nscore:\n{score}" for text, score in words.items())
    for sample in range(60):
        found = re.search(r"\[(-?\d+), (-?\d+)\]$", model.answer(pair_prompt(grid), f"{sample}"))
        assert (int(found[1]), int(found[2])) not in grid
        assert model.answer(blocks, f"{sample}")[1:-1] not in words


def test_a_request_for_other_words_gets_the_instruction_changed_on_one_line():
    model = AnswerModel(0)
    prompts = [
        "Say the following in other words.\n\nInstruction: Think about the yellow elephant twice\n\nIn other words:",
        'Write a variation of "Think about the yellow elephant twice" please.',
    ]
    for prompt in prompts:
        for draw in "abcdef":
            text = model.answer(prompt, draw)
            assert "\n" not in text
            assert len({"think", "about", "the", "yellow", "elephant", "twice"} & set(text.lower()[:-1].split())) >= 3
            assert "please" not in text


def test_examples_that_ask_for_their_instruction_get_one_and_no_answer():
    model = AnswerModel(0, QUESTIONS)
    prompt = f"Input: {QUESTIONS['3'].question}\nOutput: 12\n\nWrite the instruction in one sentence."
    texts = {model.answer(prompt, draw) for draw in "abcd"}
    assert len(texts) == 4
    assert not any("12" in text or "The answer is" in text for text in texts)


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


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """A server process and its line of JSON."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


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


# The bare responder

REQUEST_BODY = body_of("tell me " * 30)
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    + f"Content-Length: {len(REQUEST_BODY)}\r\n\r\n".encode()
    + REQUEST_BODY
)


async def connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    return await asyncio.open_connection(host, int(port))


@pytest.mark.real
@pytest.mark.anyio
async def test_the_bare_responder_answers_pipelined_and_split_requests():
    async with serve_bare() as url:
        reader, writer = await connected(url)
        writer.write(REQUEST * 5)
        assert await reader.readexactly(5 * len(ANSWER)) == ANSWER * 5
        for cut in (1, 30, REQUEST.index(b"\r\n\r\n") + 2, REQUEST.index(b"\r\n\r\n") + 4, len(REQUEST) - 1):
            # The answer to the whole request in front shows that the part behind it was read on its own.
            writer.write(REQUEST + REQUEST[:cut])
            assert await reader.readexactly(len(ANSWER)) == ANSWER
            writer.write(REQUEST[cut:] + REQUEST)
            assert await reader.readexactly(2 * len(ANSWER)) == ANSWER * 2
        writer.write(b"GET /count HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert codec.loads(await reader.readexactly(len(b'{"count":20}'))) == {"count": 20}
        writer.close()
        await writer.wait_closed()


@pytest.mark.real
@pytest.mark.anyio
async def test_the_bare_responder_ends_a_connection_whose_requests_have_no_stated_length():
    async with serve_bare() as url:
        reader, writer = await connected(url)
        writer.write(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 411 ")
        writer.close()
        await writer.wait_closed()


@pytest.mark.real
def test_the_canned_answer_is_a_completion_for_clients():
    async def main(url: str) -> tuple[str, dict[str, int]]:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/chat/completions", data=REQUEST_BODY) as reply:
                text = text_of(Reply(reply.status, reply.headers, await reply.read()))
            async with session.get(f"{url.removesuffix('/v1')}/count") as reply:
                return text, await reply.json()

    with started("-m", "asyncopt.testing.bare", "--port", "0") as (process, ready):
        text, count = asyncio.run(main(str(ready["url"])))
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert "42" in text
    assert count == {"count": 1}


def test_items_are_made_of_all_splits_of_tasks():
    from asyncopt.tasks.task import Example, Task

    task = Task("t", "text", (Example(0, "a", "b"),), (Example(1, "c", "d"),))
    assert items_of([task]) == {"t/train/0": Item("a", "b", "text"), "t/test/1": Item("c", "d", "text")}
