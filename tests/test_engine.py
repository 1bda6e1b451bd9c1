"""The path of a call: model, cache, dispatcher, endpoint; on a virtual clock, with exact times."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from random import Random

import pytest
from fakes import FakeEndpoint, echo, run_virtual
from hypothesis import example, given
from hypothesis import strategies as st

from asyncopt import Budget, Engine, Generate, MemoryCache, Priority, Quota, Sampling
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import AsyncoptError, BudgetExhausted, CallFailed, ConfigError, EndpointRefused, QuotaExhausted
from asyncopt.events import AttemptFailed, CacheDegraded, CallEnded, Event
from asyncopt.limits import backoff
from asyncopt.limits.budget import Account
from asyncopt.values import Completion, Fault, FaultKind, Finish, Price, Usage


class Watcher:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)


def ask(number: object, **sampling: object) -> Generate:
    return Generate.of(f"question {number}", Sampling(**sampling))  # type: ignore[arg-type]


# -- pacing ------------------------------------------------------------------------------------------------------------


def test_two_thousand_calls_through_twenty_a_second_end_at_a_hundred_seconds() -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(requests_per_minute=1200, concurrency=500))
            await asyncio.gather(*(model.submit(ask(number)) for number in range(2000)))

    run_virtual(main)
    assert len(endpoint.started) == 2000
    assert endpoint.started[-1] == pytest.approx(100.0, abs=0.11)
    for start in endpoint.started[::100]:
        assert sum(start <= time < start + 10 for time in endpoint.started) <= 203


def test_a_large_request_among_small_ones_is_served_in_its_turn() -> None:
    endpoint = FakeEndpoint()

    async def main() -> None:
        async with Engine() as engine:
            quota = Quota(tokens_per_minute=60 * 100, concurrency=500)
            model = engine.model("m", endpoint=endpoint, quota=quota)
            # A small request is estimated at 1 + 4 + 1 = 6 tokens.
            requests = [Generate.of("s", Sampling(max_tokens=1, draw=number)) for number in range(2000)]
            requests.insert(500, Generate.of("large", Sampling(max_tokens=294)))  # 300 tokens: fifty small ones
            await asyncio.gather(*(model.submit(request) for request in requests))

    def answered(request: Generate, number: int) -> Answer:
        asked = 300 if request.prompt[0].content == "large" else 6
        return Completion("x", usage=Usage(asked - 1, 1))

    endpoint._respond = answered
    run_virtual(main)
    at = endpoint.prompts.index("large")
    assert at == 500
    assert endpoint.started[at] == pytest.approx((500 * 6 + 300) / 100, abs=0.3)
    assert endpoint.started[-1] == pytest.approx((2000 * 6 + 300) / 100, abs=0.3)


def test_tokens_reserved_and_not_used_speed_up_the_rest() -> None:
    endpoint = FakeEndpoint(lambda request, number: Completion("x", usage=Usage(10, 0)))

    async def main() -> None:
        async with Engine() as engine:
            quota = Quota(tokens_per_minute=60 * 100, concurrency=1)
            model = engine.model("m", endpoint=endpoint, quota=quota)
            await asyncio.gather(*(model.submit(ask(number, max_tokens=90)) for number in range(100)))

    run_virtual(main)
    assert endpoint.started[-1] == pytest.approx(100 * 10 / 100, abs=1.5)  # 10 s, not the 97 s of the reservations


def test_never_more_in_flight_than_the_quota_says() -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=7))
            await asyncio.gather(*(model.submit(ask(number)) for number in range(70)))

    run_virtual(main)
    assert endpoint.most_in_flight == 7
    assert endpoint.started[-1] == 9.0  # never fewer either


def test_proposals_go_before_scores_and_equals_in_their_order() -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=1))
            futures = [model.submit(ask("running"))]
            futures += [model.submit(ask(f"late {n}"), priority=Priority.SPECULATE) for n in range(2)]
            futures += [model.submit(ask(f"score {n}")) for n in range(2)]
            futures += [model.submit(ask(f"propose {n}"), priority=Priority.PROPOSE) for n in range(2)]
            await asyncio.gather(*futures)

    run_virtual(main)
    order = [prompt.removeprefix("question ") for prompt in endpoint.prompts]
    assert order == ["running", "propose 0", "propose 1", "score 0", "score 1", "late 0", "late 1"]


# -- sharing -----------------------------------------------------------------------------------------------------------


def test_a_hundred_identical_requests_at_once_make_one_call() -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> Account:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            answers = await asyncio.gather(*(model.submit(ask("same")) for _ in range(100)))
            assert {answer.text for answer in answers} == {"QUESTION SAME"}
            return model.account

    account = run_virtual(main)
    assert len(endpoint.started) == 1
    assert (account.calls, account.hits) == (1, 99)


def test_each_draw_is_an_answer_of_its_own_and_is_cached_as_such() -> None:
    endpoint = FakeEndpoint(lambda request, number: Completion(f"{number}"))

    async def main() -> list[str]:
        async with Engine(cache=MemoryCache()) as engine:
            model = engine.model("m", endpoint=endpoint)
            draws = [ask("same", temperature=1.0, draw=draw) for draw in range(3)]
            first = await asyncio.gather(*map(model.submit, draws))
            second = await asyncio.gather(*map(model.submit, draws))
            assert [answer.text for answer in first] == [answer.text for answer in second]
            return [answer.text for answer in first]

    assert len(set(run_virtual(main))) == 3
    assert len(endpoint.started) == 3


def test_without_a_cache_an_answer_is_asked_for_again() -> None:
    endpoint = FakeEndpoint()

    async def main() -> None:
        async with Engine(cache=None) as engine:
            model = engine.model("m", endpoint=endpoint)
            for _ in range(2):
                await model.generate("same")

    run_virtual(main)
    assert len(endpoint.started) == 2


def test_a_second_engine_on_the_same_file_makes_no_call(tmp_path: Path) -> None:
    full = Completion("täxt\ud800", Finish.LENGTH, Usage(3, 4, 1), (), "served")

    async def once(endpoint: FakeEndpoint) -> list[Completion]:
        async with Engine(cache=tmp_path / "deep" / "answers.sqlite") as engine:
            model = engine.model("m", endpoint=endpoint)
            return list(await asyncio.gather(*(model.submit(ask(number)) for number in range(300))))

    first, second = FakeEndpoint(lambda *_: full), FakeEndpoint(lambda *_: full)
    with asyncio.Runner() as runner:
        runner.run(once(first))
        again = runner.run(once(second))
    assert (len(first.started), len(second.started)) == (300, 0)
    assert again[0].text == "täxt\ufffd"
    assert (again[0].finish, again[0].usage, again[0].served_model) == (full.finish, full.usage, "served")


def test_faults_are_never_cached(tmp_path: Path) -> None:
    endpoint = FakeEndpoint(lambda request, number: Fault(FaultKind.REFUSED, "no") if number == 0 else echo(request))

    async def main() -> str:
        async with Engine(cache=tmp_path / "answers.sqlite") as engine:
            model = engine.model("m", endpoint=endpoint)
            with pytest.raises(CallFailed):
                await model.generate("q")
            return (await model.generate("q")).text

    with asyncio.Runner() as runner:
        assert runner.run(main()) == "Q"


def test_two_models_of_one_endpoint_and_scope_share_a_quota() -> None:
    endpoint = FakeEndpoint()

    async def main() -> None:
        async with Engine() as engine:
            quota = Quota(requests_per_minute=600, scope="account")
            models = [engine.model(name, endpoint=endpoint, quota=quota) for name in ("a", "b")]
            await asyncio.gather(*(models[n % 2].submit(ask(n)) for n in range(100)))
            with pytest.raises(ConfigError, match="quota"):
                engine.model("c", endpoint=endpoint, quota=Quota(requests_per_minute=6, scope="account"))

    run_virtual(main)
    assert endpoint.started[-1] == pytest.approx(10.0, abs=0.3)


# -- withdrawing -------------------------------------------------------------------------------------------------------


def test_a_withdrawn_request_that_has_not_started_costs_nothing() -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> Account:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=1))
            futures = [model.submit(ask(number)) for number in range(5000)]
            for future in futures[1:]:
                future.cancel()
            last = model.submit(ask("last"))
            await asyncio.gather(futures[0], last)
            assert engine.dispatchers[0].queued == 0
            return model.account

    account = run_virtual(main)
    assert account.calls == 2
    assert endpoint.started == [0.0, 1.0]


def test_a_call_is_withdrawn_only_when_its_last_waiter_goes() -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> str:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=1))
            running = model.submit(ask("running"))
            first, second = model.submit(ask("shared")), model.submit(ask("shared"))
            first.cancel()
            await running
            return (await second).text

    assert run_virtual(main) == "QUESTION SHARED"


def test_the_answer_of_a_call_that_nobody_waits_for_any_more_is_kept() -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> str:
        async with Engine(cache=MemoryCache()) as engine:
            model = engine.model("m", endpoint=endpoint)
            future = model.submit(ask("paid"))
            await asyncio.sleep(0.5)
            future.cancel()
            await asyncio.sleep(1.0)
            return (await model.submit(ask("paid"))).text

    assert run_virtual(main) == "QUESTION PAID"
    assert len(endpoint.started) == 1


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_429_holds_everybody_until_its_time_then_sends_one_probe() -> None:
    def respond(request: Generate, number: int) -> Answer:
        return Fault(FaultKind.RATE_LIMITED, "slow", retry_after=7.0) if number < 10 else echo(request)

    endpoint = FakeEndpoint(respond, seconds=0.5)
    watcher = Watcher()

    async def main() -> None:
        async with Engine(observers=[watcher]) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=10))
            await asyncio.gather(*(model.submit(ask(number)) for number in range(50)))

    run_virtual(main)
    probe = endpoint.started[10]
    assert 7.5 <= probe <= 0.5 + 7.0 * 1.1
    assert probe + 0.5 <= endpoint.started[11] <= probe + 0.7  # at the pace of the rate that the refusal has taught
    assert len(endpoint.started) == 60
    assert sum(isinstance(event, AttemptFailed) for event in watcher.events) == 10
    assert sum(isinstance(event, CallEnded) for event in watcher.events) == 50


def test_without_a_hint_the_pauses_grow_and_an_episode_counts_once() -> None:
    def respond(request: Generate, number: int) -> Answer:
        return Fault(FaultKind.RATE_LIMITED, "slow") if number < 14 else echo(request)

    endpoint = FakeEndpoint(respond, seconds=0.01)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=10))
            await asyncio.gather(*(model.submit(ask(number)) for number in range(10)))

    run_virtual(main)
    pauses = [later - earlier for earlier, later in zip(endpoint.started[9:14], endpoint.started[10:15], strict=True)]
    assert all(pause >= backoff.THROTTLE.base for pause in pauses)  # ten refusals at once are one episode: one probe
    assert len(endpoint.started) == 24


def test_a_passing_fault_is_tried_again_and_keeps_its_turn() -> None:
    endpoint = FakeEndpoint(lambda r, n: Fault(FaultKind.TRANSIENT, "oops") if n == 0 else echo(r), seconds=1.0)

    async def main() -> list[str]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=1))
            answers = await asyncio.gather(*(model.submit(ask(number)) for number in range(30)))
            return [answer.text for answer in answers]

    assert run_virtual(main) == [f"QUESTION {number}" for number in range(30)]
    assert endpoint.prompts.index("question 0", 1) < 10


def test_a_call_that_fails_for_good_says_how_and_hurts_no_other() -> None:
    def respond(request: Generate, number: int) -> Answer:
        return Fault(FaultKind.TRANSIENT, "HTTP 500") if "7" in request.prompt[0].content else echo(request)

    endpoint = FakeEndpoint(respond)

    async def main() -> list[Completion | BaseException]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            return await asyncio.gather(*(model.submit(ask(number)) for number in range(10)), return_exceptions=True)

    results = run_virtual(main)
    assert [isinstance(result, CallFailed) for result in results] == [number == 7 for number in range(10)]
    assert endpoint.prompts.count("question 7") == backoff.MAX_ATTEMPTS
    assert "HTTP 500" in str(results[7])


@pytest.mark.parametrize(
    ("kind", "error"), [(FaultKind.FATAL_CONFIG, EndpointRefused), (FaultKind.QUOTA, QuotaExhausted)]
)
def test_money_and_configuration_end_everything_at_once(kind: FaultKind, error: type[CallFailed]) -> None:
    endpoint = FakeEndpoint(lambda *_: Fault(kind, "no"), seconds=1.0)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=4))
            results = await asyncio.gather(*(model.submit(ask(n)) for n in range(500)), return_exceptions=True)
            assert all(isinstance(result, error) for result in results)
            with pytest.raises(error):
                await model.generate("afterwards")

    run_virtual(main)
    assert len(endpoint.started) == 4  # those already in flight, and none after them


def test_an_attempt_without_an_answer_ends_at_its_timeout_and_is_tried_again() -> None:
    class Stuck(FakeEndpoint):
        async def send(self, model: str, request: Generate) -> Answer:
            self.seconds = 3600.0 if not self.started else 0.0
            return await super().send(model, request)

    endpoint = Stuck()

    async def main() -> str:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, timeout=30.0)
            return (await model.generate("q")).text

    assert run_virtual(main) == "Q"
    assert 30.0 <= endpoint.started[1] <= 32.0
    assert endpoint.in_flight == 0


def test_an_endpoint_that_raises_fails_its_call_and_no_other() -> None:
    def respond(request: Generate, number: int) -> Answer:
        if number == 0:
            raise RuntimeError("a defect")
        return echo(request)

    endpoint = FakeEndpoint(respond)

    async def main() -> list[Completion | BaseException]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=1))
            return await asyncio.gather(*(model.submit(ask(number)) for number in range(3)), return_exceptions=True)

    results = run_virtual(main)
    assert [isinstance(result, CallFailed) for result in results] == [True, False, False]
    assert "RuntimeError" in str(results[0])


def test_time_in_the_queue_does_not_count_against_a_calls_retries() -> None:
    endpoint = FakeEndpoint(lambda r, n: Fault(FaultKind.RATE_LIMITED, "slow") if n == 40 else echo(r), seconds=60.0)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=1))
            await asyncio.gather(*(model.submit(ask(number)) for number in range(41)))  # 41 minutes

    run_virtual(main)
    assert len(endpoint.started) == 42


def test_a_cache_that_raises_is_complained_of_once_and_the_calls_are_made() -> None:
    class Broken(MemoryCache):
        async def get_many(self, keys: object) -> dict[bytes, bytes]:
            raise OSError("gone")

    watcher = Watcher()

    async def main() -> None:
        async with Engine(cache=Broken(), observers=[watcher]) as engine:
            model = engine.model("m", endpoint=FakeEndpoint())
            for number in range(3):
                await model.submit(ask(number))

    run_virtual(main)
    assert sum(isinstance(event, CacheDegraded) for event in watcher.events) == 1


def test_a_call_shared_by_two_keys_is_withdrawn_from_the_queue_it_is_in() -> None:
    endpoint, other = FakeEndpoint(seconds=1.0), FakeEndpoint(seconds=1.0)
    other.account = "another key"

    async def main() -> None:
        async with Engine() as engine:
            models = [engine.model("m", endpoint=end, quota=Quota(concurrency=1)) for end in (endpoint, other)]
            running = models[0].submit(ask("running"))
            first, second = (model.submit(ask("shared")) for model in models)
            first.cancel()
            second.cancel()
            await running
            await models[0].submit(ask("after"))
            assert [dispatcher.queued for dispatcher in engine.dispatchers] == [0, 0]

    run_virtual(main)
    assert endpoint.prompts == ["question running", "question after"]
    assert other.prompts == []


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_calls_beyond_the_budget_are_not_sent() -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> list[Completion | BaseException]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint).charged_to(Account(Budget(calls=10)))
            return await asyncio.gather(*(model.submit(ask(number)) for number in range(25)), return_exceptions=True)

    results = run_virtual(main)
    assert len(endpoint.started) == 10
    assert sum(isinstance(result, BudgetExhausted) for result in results) == 15


def test_money_is_set_aside_before_a_call_starts() -> None:
    endpoint = FakeEndpoint(lambda *_: Completion("x", usage=Usage(8, 1000)), seconds=1.0)

    async def main() -> Account:
        async with Engine() as engine:
            account = Account(Budget(usd=0.01))
            model = engine.model("m", endpoint=endpoint, price=Price(1.0, 1.0)).charged_to(account)
            await asyncio.gather(
                *(model.submit(ask(number, max_tokens=1500)) for number in range(50)), return_exceptions=True
            )
            return account

    account = run_virtual(main)
    assert 0 < account.usd <= 0.01


def test_one_studys_budget_does_not_fail_the_other_that_shares_its_call() -> None:
    endpoint = FakeEndpoint(seconds=1.0)

    async def main() -> list[Completion | BaseException]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            poor, rich = model.charged_to(Account(Budget(calls=0))), model.charged_to(Account())
            return await asyncio.gather(poor.submit(ask(1)), rich.submit(ask(1)), return_exceptions=True)

    poor, rich = run_virtual(main)
    assert isinstance(poor, BudgetExhausted)
    assert isinstance(rich, Completion)


def test_cache_hits_cost_no_budget() -> None:
    endpoint = FakeEndpoint()

    async def main() -> None:
        async with Engine(cache=MemoryCache()) as engine:
            model = engine.model("m", endpoint=endpoint)
            await model.generate("q")
            await model.charged_to(Account(Budget(calls=0))).generate("q")

    run_virtual(main)


# -- ends --------------------------------------------------------------------------------------------------------------


def test_closing_leaves_no_task_and_tells_those_who_wait() -> None:
    endpoint = FakeEndpoint(seconds=100.0)

    async def main() -> None:
        before = asyncio.all_tasks()
        async with Engine(cache=MemoryCache()) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=2, requests_per_minute=60))
            futures = [model.submit(ask(number)) for number in range(10)]
            await asyncio.sleep(1)
        for future in futures:
            with pytest.raises(AsyncoptError, match="closed"):
                await future
        assert asyncio.all_tasks() == before
        with pytest.raises(AsyncoptError, match="closed"):
            model.submit(ask("late"))

    run_virtual(main)
    assert endpoint.closed
    assert endpoint.in_flight == 0
    gc.collect()


def test_an_engine_belongs_to_one_loop_and_one_block() -> None:
    engine = Engine()

    async def enter() -> None:
        async with engine:
            pass

    run_virtual(enter)
    with pytest.raises(AsyncoptError, match="once"):
        run_virtual(enter)
    with pytest.raises(AsyncoptError, match="async with"):
        engine.model("openai/x", api_key="k")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpt-4o", {}, "base_url"),
        ("openai/gpt-4o", {}, "API key"),
        ("openai/", {"base_url": "http://127.0.0.1"}, "model name"),
        ("m", {"base_url": "https://me:pw@host/v1"}, "credentials"),
    ],
)
def test_models_that_cannot_be_called_are_refused(name: str, options: dict[str, str], message: str) -> None:
    async def main() -> None:
        async with Engine() as engine:
            with pytest.raises(ConfigError, match=message):
                engine.model(name, **options)  # type: ignore[arg-type]

    run_virtual(main)


@example(seed=3425777368, concurrency=23, rate=600)  # once, a wait shorter than the clock's tick made the pump spin
@given(seed=st.integers(0, 2**32), concurrency=st.integers(1, 40), rate=st.sampled_from([None, 600, 6000]))
def test_under_any_plan_of_passing_faults_everybody_gets_the_answer_to_their_question(
    seed: int, concurrency: int, rate: float | None
) -> None:
    rng = Random(seed)
    kinds = [FaultKind.TRANSIENT, FaultKind.AMBIGUOUS, FaultKind.RATE_LIMITED, FaultKind.MALFORMED]

    def respond(request: Generate, number: int) -> Answer:
        if rng.random() < 0.2:
            return Fault(rng.choice(kinds), "planned", rng.choice([None, 0.0, 1.5]))
        return echo(request)

    endpoint = FakeEndpoint(respond, seconds=0.3)

    async def main() -> None:
        async with Engine(cache=MemoryCache()) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(requests_per_minute=rate, concurrency=concurrency))
            futures = [model.submit(ask(number % 40)) for number in range(60)]
            for future in futures[::7]:
                future.cancel()
            results = await asyncio.gather(*futures, return_exceptions=True)
            for number, result in enumerate(results):
                if isinstance(result, Completion):
                    assert result.text == f"QUESTION {number % 40}"
                else:
                    assert number % 7 == 0 or (
                        isinstance(result, CallFailed) and result.fault.kind is FaultKind.MALFORMED
                    )
            dispatcher = engine.dispatchers[0]
            assert (dispatcher.queued, dispatcher.in_flight, dispatcher.slots.in_use) == (0, 0, 0)
            assert model.account.calls == len(endpoint.started)

    run_virtual(main)
    assert endpoint.most_in_flight <= concurrency
