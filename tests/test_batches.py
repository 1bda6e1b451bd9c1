"""Batches: what is asked there is paid once, at half the price, whoever dies when; on a virtual clock and for real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from calls import started
from fakes import FakeEndpoint, run_virtual
from shared_board import Boards

from asyncopt import OPRO, Budget, Engine, Example, Fault, Generate, MemoryCache, Price, Sampling, Study, Task, codec
from asyncopt.assess import evaluate_instructions
from asyncopt.batches.lane import BatchLane, require_batches
from asyncopt.batches.submissions import Submissions
from asyncopt.batches.wire import answers_in, batch_of, batches_of, files_of, form_of, line_of
from asyncopt.endpoints.errands import Errand
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Ask, Reply
from asyncopt.endpoints.providers import FAMILIES
from asyncopt.engine import Model
from asyncopt.errors import (
    BudgetExhausted,
    ConfigError,
    EndpointDown,
    EndpointRefused,
    JournalDamaged,
    MissingCapability,
    QuotaExhausted,
)
from asyncopt.events import CallEnded, Event, Note
from asyncopt.limits.budget import Account
from asyncopt.pool import Member
from asyncopt.testing import Abilities, AnswerModel, BatchPlan, Constant, SimulatedAPI, SimulatedEndpoint, items_of
from asyncopt.values import Completion, FaultKind, Usage

DEAR = Price(input=1000.0, output=3000.0)


def asked(count: int, begin: int = 0) -> list[Generate]:
    return [
        Generate.of(f"question {number}", Sampling(temperature=0.0, max_tokens=20)) for number in range(begin, count)
    ]


class Watcher:
    """Keeps what happened."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    @property
    def notes(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Note))


def api_of(**plan: Any) -> SimulatedAPI:
    return SimulatedAPI(latency=Constant(0.1), batches=BatchPlan(**plan))


class Kill(BaseException):
    """The process is dead: nothing catches this."""


DEATHS = (Kill, BaseExceptionGroup)  # in a group it comes out of a group of tasks


class Dying:
    """An endpoint whose process dies after the reply to a certain errand, or before it is sent."""

    def __init__(self, inner: SimulatedEndpoint, dies: Callable[[Errand], bool], *, before: bool = False) -> None:
        self._inner = inner
        self._dies = dies
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def errand(self, errand: Errand) -> Reply | Fault:
        if self._before and self._dies(errand):
            raise Kill
        reply = await self._inner.errand(errand)
        if self._dies(errand):
            raise Kill
        return reply


def in_engine(
    endpoint: Any,
    use: Callable[[Model, Watcher], Coroutine[Any, Any, Any]],
    cache: MemoryCache | None = None,
    account: Account | None = None,
    price: Price | None = DEAR,
) -> Any:
    async def main() -> Any:
        watcher = Watcher()
        async with Engine(cache=cache or MemoryCache(), observers=[watcher]) as engine:
            model = engine.model("m", endpoint=endpoint, price=price)
            return await use(model if account is None else model.charged_to(account), watcher)

    return run_virtual(main)


def ask(
    endpoint: Any,
    path: Path,
    requests: list[Generate],
    cache: MemoryCache | None = None,
    account: Account | None = None,
    price: Price | None = DEAR,
) -> tuple[list[Completion | None], Watcher]:
    async def use(model: Model, watcher: Watcher) -> tuple[list[Completion | None], Watcher]:
        async with BatchLane(model, path) as lane:
            return await lane.answers(requests), watcher

    found: tuple[list[Completion | None], Watcher] = in_engine(endpoint, use, cache, account, price)
    return found


# -- the lane ----------------------------------------------------------------------------------------------------------


def test_what_a_batch_answers_is_what_calls_would_answer_at_half_the_price(tmp_path: Path) -> None:
    api, cache, account = api_of(), MemoryCache(), Account()
    answers, watcher = ask(api.endpoint(), tmp_path / "b.jsonl", asked(50), cache, account)

    async def one_by_one(model: Model, _: Watcher) -> list[Completion]:
        return list(await asyncio.gather(*map(model.submit, asked(50))))

    alone, other = Account(), api_of()
    assert answers == in_engine(other.endpoint(), one_by_one, None, alone)
    assert api.ledger.count() == 0
    assert api.batches.ledger.answered() == 50
    assert (account.calls, account.tokens, account.hits) == (50, alone.tokens, 0)
    assert account.usd == pytest.approx(alone.usd / 2)
    assert account.usd == pytest.approx(api.batches.usd(DEAR))
    ended = [event for event in watcher.events if isinstance(event, CallEnded)]
    assert len(ended) == 50
    assert sum(event.usd for event in ended) == pytest.approx(account.usd)


def test_an_evaluation_after_it_finds_everything_and_calls_nobody(tmp_path: Path) -> None:
    api, cache = api_of(), MemoryCache()
    ask(api.endpoint(), tmp_path / "b.jsonl", asked(50), cache)

    async def again(model: Model, _: Watcher) -> None:
        await asyncio.gather(*map(model.submit, asked(50)))

    account = Account()
    in_engine(api.endpoint(), again, cache, account)
    assert (account.calls, account.hits, api.ledger.count()) == (0, 50, 0)


def test_only_what_the_cache_does_not_have_is_submitted_and_equal_requests_are_one(tmp_path: Path) -> None:
    api, cache = api_of(), MemoryCache()
    ask(api.endpoint(), tmp_path / "b.jsonl", asked(30), cache)
    ask(api.endpoint(), tmp_path / "c.jsonl", asked(40) + asked(40), cache)
    assert api.batches.ledger.count() == 40
    ask(api.endpoint(), tmp_path / "d.jsonl", asked(40), cache)
    assert api.batches.submitted == 2


def test_two_studies_of_one_engine_do_not_submit_the_same_question(tmp_path: Path) -> None:
    api, one, two = api_of(delay=50.0), Account(), Account()

    async def use(model: Model, _: Watcher) -> None:
        async def answers(account: Account, begin: int, end: int) -> list[Completion | None]:
            async with BatchLane(model.charged_to(account), tmp_path / f"{begin}.jsonl") as lane:
                return await lane.answers(asked(end, begin))

        found = await asyncio.gather(answers(one, 0, 30), answers(two, 10, 40))
        assert found[0][10:] == found[1][:20]
        assert None not in found[1]

    in_engine(api.endpoint(), use)
    assert (api.batches.submitted, api.batches.ledger.count()) == (2, 40)
    assert (one.calls, two.calls) == (30, 10)


def test_who_waits_for_a_study_that_is_stopped_submits_by_itself(tmp_path: Path) -> None:
    api = api_of(delay=50.0)

    async def use(model: Model, _: Watcher) -> list[Completion | None]:
        async def answers(name: str) -> list[Completion | None]:
            async with BatchLane(model, tmp_path / name) as lane:
                return await lane.answers(asked(10))

        first, second = asyncio.create_task(answers("1")), asyncio.create_task(answers("2"))
        await asyncio.sleep(20)
        assert api.batches.submitted == 1
        first.cancel()
        return await second

    assert None not in in_engine(api.endpoint(), use)
    assert api.batches.submitted == 2


def between_processes(api: SimulatedAPI, folder: Path, *, stopped: float | None = None, calls: bool = False) -> Any:
    """Two engines of one coordinator and one cache have 20 questions in common; what the second one is given."""
    boards, cache = Boards(), MemoryCache()

    async def process(name: str, begin: int, end: int, wait: float) -> list[Completion | None]:
        await asyncio.sleep(wait)
        async with Engine(cache=cache, coordinator=boards.coordinator(name)) as engine:
            model = engine.model("m", endpoint=api.endpoint(), price=DEAR)
            if wait and calls:
                return list(await asyncio.gather(*map(model.submit, asked(end, begin))))
            async with BatchLane(model, folder / name) as lane:
                return await lane.answers(asked(end, begin))

    async def main() -> list[Completion | None]:
        first = asyncio.create_task(process("one", 0, 30, 0.0))
        second = asyncio.create_task(process("two", 10, 40, 5.0))
        if stopped is not None:
            await asyncio.sleep(stopped)
            first.cancel()
        answers = await second
        if calls:
            assert not first.done()
        await asyncio.gather(first, return_exceptions=True)
        return answers

    return run_virtual(main)


def test_two_processes_do_not_submit_the_same_question(tmp_path: Path) -> None:
    api = api_of(delay=300.0)
    answers = between_processes(api, tmp_path)
    assert len(answers) == 30
    assert None not in answers
    assert (api.batches.submitted, api.batches.ledger.count()) == (2, 40)


def test_who_waits_for_a_process_that_is_stopped_submits_by_itself(tmp_path: Path) -> None:
    api = api_of(delay=300.0)
    assert None not in between_processes(api, tmp_path, stopped=50.0)
    assert api.batches.submitted == 3


def test_what_expires_in_the_batch_of_another_process_is_submitted_by_who_waited_for_it(tmp_path: Path) -> None:
    api = api_of(delay=300.0, rate=0.5, expires=320.0)
    assert None not in between_processes(api, tmp_path)
    assert api.batches.ledger.count() == 40


def test_a_call_does_not_wait_for_the_batch_of_another_process(tmp_path: Path) -> None:
    api = api_of(delay=300.0)
    assert None not in between_processes(api, tmp_path, calls=True)


def test_a_pool_is_asked_in_batches_at_its_first_endpoint(tmp_path: Path) -> None:
    apis = [api_of(), api_of()]

    async def main() -> list[Completion | None]:
        async with Engine(cache=MemoryCache()) as engine:
            members = [Member(endpoint=api.endpoint(api_key=f"key-{n}")) for n, api in enumerate(apis)]
            model = engine.pool("m", members)
            async with BatchLane(model, tmp_path / "b.jsonl") as lane:
                answers = await lane.answers(asked(20))
            again = await asyncio.gather(*map(model.submit, asked(20)))
            assert [one.text for one in answers if one is not None] == [one.text for one in again]
            return answers

    assert None not in run_virtual(main)
    assert [(api.batches.ledger.count(), api.ledger.count()) for api in apis] == [(20, 0), (0, 0)]


def test_more_than_a_file_takes_is_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_of, "__defaults__", (20, 10**6))
    api = api_of()
    answers, _ = ask(api.endpoint(), tmp_path / "b.jsonl", asked(50))
    assert api.batches.submitted == 3
    assert None not in answers


def test_a_day_of_waiting_takes_few_looks(tmp_path: Path) -> None:
    api, looks = api_of(delay=80_000.0), []
    endpoint = Dying(api.endpoint(), lambda errand: looks.append(errand.path) or False)
    answers, _ = ask(endpoint, tmp_path / "b.jsonl", asked(5))
    assert None not in answers
    assert sum(path == "/batches/batch_0" for path in looks) < 80_000 / 60 + 15


def test_what_expires_is_in_another_batch_and_what_fails_is_left(tmp_path: Path) -> None:
    # 60 of 100 are done in time; of the rest all are, in the next batch.
    api, account = api_of(delay=0.0, rate=1.0, expires=60.0, failed=0.1), Account()
    answers, watcher = ask(api.endpoint(), tmp_path / "b.jsonl", asked(100), None, account)
    assert api.batches.submitted == 2
    assert api.batches.ledger.count() == api.batches.ledger.answered() == sum(one is not None for one in answers)
    failed = answers.count(None)
    assert 0 < failed < 30
    assert account.calls == 100  # each once: what expired was put back
    assert account.usd == pytest.approx(api.batches.usd(DEAR))
    assert "40 were not worked on and go into another batch" in watcher.notes
    assert "transient: these are asked one by one" in watcher.notes


def test_after_three_batches_the_rest_is_asked_one_by_one(tmp_path: Path) -> None:
    api, account = api_of(delay=0.0, rate=1.0, expires=20.0), Account()
    answers, watcher = ask(api.endpoint(), tmp_path / "b.jsonl", asked(100), None, account)
    assert (api.batches.submitted, answers.count(None), account.calls) == (3, 40, 60)
    assert "40 were not worked on and are asked one by one" in watcher.notes


def test_a_batch_that_somebody_cancels_is_submitted_again(tmp_path: Path) -> None:
    api = api_of(delay=100.0)

    async def use(model: Model, _: Watcher) -> list[Completion | None]:
        async def cancel() -> None:
            await asyncio.sleep(50)
            await endpoint.errand(Errand("POST", "/batches/batch_0/cancel"))

        task = asyncio.create_task(cancel())
        async with BatchLane(model, tmp_path / "b.jsonl") as lane:
            answers = await lane.answers(asked(10))
        await task
        return answers

    endpoint = api.endpoint()
    assert None not in in_engine(endpoint, use)
    assert (api.batches.submitted, api.batches.ledger.count()) == (2, 10)


def test_a_batch_that_is_refused_ends_the_work_before_anything_is_paid(tmp_path: Path) -> None:
    account = Account()
    with pytest.raises(EndpointRefused, match="invalid_json_line"):
        ask(api_of(refused="invalid_json_line").endpoint(), tmp_path / "b.jsonl", asked(10), None, account)
    with pytest.raises(QuotaExhausted, match="token_limit_exceeded"):
        ask(api_of(refused="token_limit_exceeded").endpoint(), tmp_path / "c.jsonl", asked(10), None, account)
    assert (account.calls, account.usd) == (0, 0.0)


@pytest.mark.parametrize("budget", [Budget(calls=9), Budget(tokens=100), Budget(usd=0.3)])
def test_a_budget_that_does_not_cover_all_submits_nothing(budget: Budget, tmp_path: Path) -> None:
    api, account = api_of(), Account(budget)
    with pytest.raises(BudgetExhausted, match="a batch of 10 in all"):
        ask(api.endpoint(), tmp_path / "b.jsonl", asked(10), None, account)
    assert (api.batches.submitted, account.calls) == (0, 0)


def test_dollars_are_checked_at_half_the_price(tmp_path: Path) -> None:
    # Ten prompts of 10 or 11 bytes, which are expected to be 7 tokens with their message's, and 20 of each answer.
    expected = 10 * (6.75 * 1000 + 20 * 3000) / 1e6
    ask(api_of().endpoint(), tmp_path / "b.jsonl", asked(10), None, Account(Budget(usd=0.55 * expected)))
    with pytest.raises(BudgetExhausted):
        ask(api_of().endpoint(), tmp_path / "c.jsonl", asked(10), None, Account(Budget(usd=0.45 * expected)))


# -- what cannot be asked in batches -----------------------------------------------------------------------------------


def test_an_endpoint_without_batches_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    endpoint = FakeEndpoint()
    with pytest.raises(MissingCapability, match="cannot be asked in batches"):
        ask(endpoint, tmp_path / "b.jsonl", asked(1))
    assert endpoint.started == []
    assert {name for name, family in FAMILIES.items() if family.capabilities.batch} == {"openai"}


def test_a_server_that_knows_no_batches_is_told_nothing_of_the_task(tmp_path: Path) -> None:
    api = SimulatedAPI(abilities=Abilities(batch=False))
    sent: list[Errand] = []

    class Claims(Dying):
        supports = api_of().endpoint().supports

    endpoint = Claims(api.endpoint(), lambda errand: sent.append(errand) or False)
    with pytest.raises(MissingCapability, match="HTTP 404"):
        ask(endpoint, tmp_path / "b.jsonl", asked(1))
    assert [(errand.method, errand.body) for errand in sent] == [("GET", b"")]


def test_without_a_cache_there_is_nowhere_to_put_the_answers() -> None:
    async def main() -> None:
        async with Engine() as engine:
            require_batches(engine.model("m", endpoint=api_of().endpoint()))

    with pytest.raises(ConfigError, match="arrive in the cache"):
        run_virtual(main)


# -- whoever dies when -------------------------------------------------------------------------------------------------


def posted(errand: Errand) -> bool:
    return (errand.method, errand.path) == ("POST", "/batches")


def searched(errand: Errand) -> bool:
    return errand.path.startswith("/batches?limit=100")


def looked(errand: Errand) -> bool:
    return errand.path == "/batches/batch_0"


def read(errand: Errand) -> bool:
    return errand.path.endswith("/content")


def uploaded(errand: Errand) -> bool:
    return errand.path == "/files"


@pytest.mark.parametrize("dies", [posted, looked, read, uploaded])
@pytest.mark.parametrize("before", [False, True])
def test_a_process_may_die_anywhere_and_another_gets_the_same_batch(
    dies: Callable[[Errand], bool], before: bool, tmp_path: Path
) -> None:
    api, cache, account = api_of(delay=30.0), MemoryCache(), Account()
    path = tmp_path / "b.jsonl"
    with pytest.raises(DEATHS):
        ask(Dying(api.endpoint(), dies, before=before), path, asked(20), cache)
    answers, _ = ask(api.endpoint(), path, asked(20), cache, account)
    assert None not in answers
    assert (api.batches.submitted, api.batches.ledger.count(), account.calls) == (1, 20, 20)
    assert account.usd == pytest.approx(api.batches.usd(DEAR))


class Slow:
    """An endpoint that is told of batches, and has them only after ``looks`` lists without them."""

    def __init__(self, inner: SimulatedEndpoint, looks: int, told: BaseException | Fault) -> None:
        self._inner = inner
        self._looks = looks
        self._told = told
        self._pending: Errand | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def errand(self, errand: Errand) -> Reply | Fault:
        if posted(errand) and self._pending is None:
            self._pending = errand
            if isinstance(self._told, Fault):
                return self._told
            raise self._told
        reply = None if posted(errand) else await self._inner.errand(errand)
        self._looks -= errand.path.startswith("/batches?limit=100")
        if self._looks == 0 or reply is None:
            assert self._pending is not None
            await self._inner.errand(self._pending)
            self._looks = -1
        return reply or await self._inner.errand(errand)


@pytest.mark.parametrize("told", [Kill(), Fault(FaultKind.AMBIGUOUS, "the connection broke")])
def test_a_batch_that_a_provider_has_a_moment_later_is_not_submitted_twice(
    told: BaseException | Fault, tmp_path: Path
) -> None:
    api, path = api_of(), tmp_path / "b.jsonl"
    slow = Slow(api.endpoint(), 2, told)
    if not isinstance(told, Fault):
        with pytest.raises(Kill):
            ask(slow, path, asked(4))
    answers, _ = ask(slow, path, asked(4))
    assert None not in answers
    assert api.batches.submitted == 1


def test_a_batch_is_forgotten_only_when_its_answers_are_on_disk(tmp_path: Path) -> None:
    api, path = api_of(), tmp_path / "b.jsonl"

    class Lost(MemoryCache):
        async def flush(self) -> None:
            raise Kill

    with pytest.raises(DEATHS):
        ask(api.endpoint(), path, asked(20), Lost())
    answers, _ = ask(api.endpoint(), path, asked(20))
    assert None not in answers
    assert api.batches.submitted == 1


def test_a_batch_that_is_found_is_looked_for_on_every_page(tmp_path: Path) -> None:
    api, path = api_of(delay=0.0), tmp_path / "b.jsonl"
    with pytest.raises(Kill):
        ask(Dying(api.endpoint(), posted), path, asked(3))
    api.batches.plan = BatchPlan()

    async def crowd() -> None:
        for number in range(150):
            data = line_of(bytes([number] * 16), Ask("/chat/completions", b'{"model":"m"}'))[1]
            body, kind = form_of(data)
            reply = await api.endpoint().errand(Errand("POST", "/files", body, kind))
            file = codec.loads(reply.body)["id"]  # type: ignore[union-attr]
            fields = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            await api.endpoint().errand(Errand("POST", "/batches", codec.dumps(fields)))

    run_virtual(crowd)
    answers, watcher = ask(api.endpoint(), path, asked(3))
    assert None not in answers
    assert api.batches.submitted == 151
    assert "batch_0 of 3 requests was submitted before" in watcher.notes


def test_a_broken_connection_at_the_submission_does_not_submit_twice(tmp_path: Path) -> None:
    api = api_of()
    broken = Fault(FaultKind.AMBIGUOUS, "the connection broke")

    class Breaking(Dying):
        async def errand(self, errand: Errand) -> Reply | Fault:
            reply = await self._inner.errand(errand)
            return broken if posted(errand) else reply

    answers, _ = ask(Breaking(api.endpoint(), posted), tmp_path / "b.jsonl", asked(4))
    assert None not in answers
    assert api.batches.submitted == 1


def test_replies_that_fail_for_a_while_are_waited_for(tmp_path: Path) -> None:
    api, failing = api_of(delay=600.0), [0]

    class Failing(Dying):
        async def errand(self, errand: Errand) -> Reply | Fault:
            failing[0] += 1
            if failing[0] % 5 not in (0, 4):
                return Reply(503, {}, b"") if failing[0] % 2 else Fault(FaultKind.TRANSIENT, "no connection")
            return await self._inner.errand(errand)

    answers, _ = ask(Failing(api.endpoint(), posted), tmp_path / "b.jsonl", asked(4))
    assert None not in answers
    assert api.batches.submitted == 1


@pytest.mark.parametrize("said", [b"<html>Sign in</html>", b"", b'{"message": "upstream timed out"}'])
@pytest.mark.parametrize("phase", ["searched", "looked", "read"])
def test_results_are_asked_for_again_where_a_gateway_replies_in_their_place(
    said: bytes, phase: str, tmp_path: Path
) -> None:
    api, path = api_of(), tmp_path / "b.jsonl"
    if phase == "searched":  # for what was asked of it before
        with pytest.raises(DEATHS):
            ask(Dying(api.endpoint(), posted), path, asked(4))

    class Gateway(Dying):
        left = 2

        async def errand(self, errand: Errand) -> Reply | Fault:
            if {"searched": searched, "looked": looked, "read": read}[phase](errand) and self.left:
                self.left -= 1
                return Reply(200, {}, said)
            return await super().errand(errand)

    answers, watcher = ask(Gateway(api.endpoint(), lambda _: False), path, asked(4))
    assert None not in answers, watcher.notes
    assert api.batches.submitted == 1


def test_a_provider_that_says_nothing_for_an_hour_is_down_and_the_batch_is_kept(tmp_path: Path) -> None:
    api, path = api_of(), tmp_path / "b.jsonl"

    class Silent(Dying):
        async def errand(self, errand: Errand) -> Reply | Fault:
            return Reply(503, {}, b"") if looked(errand) else await self._inner.errand(errand)

    with pytest.raises(EndpointDown, match="no word of batches"):
        ask(Silent(api.endpoint(), posted), path, asked(4))
    assert None not in ask(api.endpoint(), path, asked(4))[0]
    assert api.batches.submitted == 1


def test_a_batch_that_the_provider_has_forgotten_is_submitted_again(tmp_path: Path) -> None:
    first, path = api_of(), tmp_path / "b.jsonl"
    with pytest.raises(DEATHS):
        ask(Dying(first.endpoint(), looked, before=True), path, asked(4))
    second = api_of()
    answers, watcher = ask(second.endpoint(), path, asked(4))
    assert None not in answers
    assert "batch_0 is not known any more" in watcher.notes


def test_a_batch_whose_results_the_provider_has_deleted_is_submitted_again(tmp_path: Path) -> None:
    api, path, account = api_of(), tmp_path / "b.jsonl", Account()
    with pytest.raises(DEATHS):
        ask(Dying(api.endpoint(), read, before=True), path, asked(4))

    class Forgetful(Dying):
        """The files of the first batch, which are older than those of the second, are not there."""

        async def errand(self, errand: Errand) -> Reply | Fault:
            gone = read(errand) and api.batches.submitted == 1
            return Reply(404, {}, b'{"error": {"message": "No such File"}}') if gone else await super().errand(errand)

    answers, watcher = ask(Forgetful(api.endpoint(), lambda _: False), path, asked(4), account=account)
    assert None not in answers
    assert (api.batches.submitted, account.calls) == (2, 4)
    assert "not all of its results are there any more: 0 of 4 answered; 4 have no result" in watcher.notes


def test_cancelling_leaves_the_batch_and_says_so_and_the_account_as_it_was(tmp_path: Path) -> None:
    api, path, account = api_of(delay=1000.0), tmp_path / "b.jsonl", Account()

    async def use(model: Model, watcher: Watcher) -> str:
        async def work() -> None:
            async with BatchLane(model, path) as lane:
                await lane.answers(asked(5))

        task = asyncio.create_task(work())
        await asyncio.sleep(100)
        assert account.calls == 5
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return watcher.notes

    assert "not cancelled, and paid for: batch_0; whoever goes on with this gets the answers" in in_engine(
        api.endpoint(), use, None, account
    )
    assert (account.calls, account.exhausted()) == (0, None)
    submissions = Submissions(path)
    assert [one.batch for one in submissions.open.values()] == ["batch_0"]
    submissions.close()


# -- studies and evaluations -------------------------------------------------------------------------------------------

EXAMPLES = tuple(Example(number, f"{number} plus 1", str(number + 1)) for number in range(60))
TASK = Task("sums", "number", train=EXAMPLES[:20], test=EXAMPLES[20:], initial=("Add.", "Count on."))


def study_api(**plan: Any) -> SimulatedAPI:
    return SimulatedAPI(latency=Constant(0.1), answers=AnswerModel(0, items_of([TASK])), batches=BatchPlan(**plan))


def studied(endpoint: Any, directory: Path, cache: MemoryCache, *, batch: Any = "test", task: Task = TASK) -> Any:
    async def main() -> Any:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=endpoint, price=DEAR)
            search = OPRO(steps=0)
            study = Study(task=task, optimizer=search, scorer=model, proposer=model, directory=directory, batch=batch)
            return await study.run()

    return run_virtual(main)


def test_the_test_of_a_study_is_one_batch_and_gives_the_same_result(tmp_path: Path) -> None:
    api, plain = study_api(delay=3600.0), study_api()
    result = studied(api.endpoint(), tmp_path / "a", MemoryCache())
    usual = studied(plain.endpoint(), tmp_path / "b", MemoryCache(), batch=None)
    assert result.best == usual.best
    assert result.initial == usual.initial
    assert (api.ledger.count(), api.batches.ledger.count(), api.batches.submitted) == (40, 40, 1)
    assert (result.test.calls, result.test.input_tokens) == (usual.test.calls, usual.test.input_tokens)
    assert result.test.usd == pytest.approx(usual.test.usd / 2)
    assert result.search.calls == usual.search.calls
    assert result.search.usd == pytest.approx(usual.search.usd)
    assert result.calls == usual.calls


@pytest.mark.parametrize("dies", [posted, looked])
def test_a_study_that_dies_in_its_test_goes_on_with_the_same_batch(
    dies: Callable[[Errand], bool], tmp_path: Path
) -> None:
    api, cache = study_api(delay=100.0), MemoryCache()
    with pytest.raises(DEATHS):
        studied(Dying(api.endpoint(), dies), tmp_path, cache)
    result = studied(api.endpoint(), tmp_path, cache)
    whole = studied(study_api().endpoint(), tmp_path / "whole", MemoryCache())
    assert (api.batches.submitted, api.batches.ledger.count(), api.ledger.count()) == (1, 40, 40)
    assert result.best == whole.best
    assert result.test.calls == 40
    assert result.test.usd == pytest.approx(whole.test.usd)


def test_a_study_wants_batches_before_it_searches(tmp_path: Path) -> None:
    endpoint = FakeEndpoint()
    with pytest.raises(MissingCapability):
        studied(endpoint, tmp_path, MemoryCache())
    assert endpoint.started == []


def test_a_cue_for_the_answer_is_a_second_batch(tmp_path: Path) -> None:
    task = Task("sums", "number", train=EXAMPLES[:20], test=EXAMPLES[20:], initial=("Add.",), final_answer_cue="So:")
    api, plain = study_api(), study_api()
    result = studied(api.endpoint(), tmp_path / "a", MemoryCache(), task=task)
    usual = studied(plain.endpoint(), tmp_path / "b", MemoryCache(), task=task, batch=None)
    assert result.best == usual.best
    assert (api.batches.submitted, api.batches.ledger.count()) == (2, 80)


def test_an_evaluation_asks_alone_what_a_batch_did_not_answer(tmp_path: Path) -> None:
    api = study_api(failed=0.25)

    async def use(model: Model, _: Watcher) -> Any:
        return await evaluate_instructions(model, TASK, ["Add.", "Count."], batches=tmp_path / "b.jsonl")

    assessment = in_engine(api.endpoint(), use)
    assert assessment.unscored == 0
    failed = 80 - api.batches.ledger.answered()
    assert failed > 0
    assert api.ledger.count() == failed
    assert assessment.calls == 80 + failed


# -- the wire ----------------------------------------------------------------------------------------------------------


def result_line(key: bytes, text: str | None = None, status: int = 200, **error: str) -> bytes:
    body: Any = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": None}
    response = None if error else {"status_code": status, "request_id": "r", "body": body if text else {"error": {}}}
    line = {"id": "x", "custom_id": key.hex(), "response": response, "error": error or None}
    return codec.dumps(line) + b"\n"


def key(number: int) -> bytes:
    return bytes([number] * 16)


def test_results_are_read_in_any_order_whatever_else_is_there() -> None:
    data = b"".join(
        [
            result_line(key(2), "two"),
            b"\n",
            b"no json\n",
            b"[1]\n",
            b'{"custom_id": 7}\n',
            b'{"custom_id": "zz", "response": null}\n',
            result_line(key(3), status=500),
            result_line(key(1), "one"),
            result_line(key(2), "two again"),
            result_line(key(4), code="batch_expired", message="late"),
            result_line(key(5), status=500),
            result_line(key(5), "at last"),
            result_line(key(6), code="odd"),
        ]
    )
    found = answers_in(data, OpenAIChat().decode)
    texts = {number: answer.text if isinstance(answer, Completion) else answer.kind.value for number, answer in
             ((sender[0], answer) for sender, answer in found.items())}  # fmt: skip
    assert texts == {2: "two", 3: "transient", 1: "one", 4: "transient", 5: "at last", 6: "malformed"}
    late = found[key(4)]
    assert isinstance(late, Fault)
    assert late.code == "batch_expired"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"id": 3, "status": "completed"}', b'{"id": "b/../x", "status": "completed"}',
        b'{"id": "b?x", "status": "completed"}', b'{"id": "", "status": "x"}', b'{"id": "b"}',
    ],
)  # fmt: skip
def test_what_is_no_batch_is_a_fault(body: bytes) -> None:
    assert isinstance(batch_of(Reply(200, {}, body)), Fault)


def test_a_list_of_batches_may_have_anything_in_it() -> None:
    odd = [3, {}, {"id": "b1", "status": "completed", "metadata": 4, "request_counts": 5, "output_file_id": "../x"}]
    found = batches_of(Reply(200, {}, codec.dumps({"data": odd, "has_more": "yes"})))
    assert not isinstance(found, Fault)
    ((batch,), more) = found
    assert (batch.id, batch.files, batch.token, more) == ("b1", (), None, False)


def test_files_keep_to_both_limits() -> None:
    lines = [(key(number), b"x" * 10) for number in range(25)]
    assert [len(file) for file in files_of(lines, 10, 1000)] == [10, 10, 5]
    assert [len(file) for file in files_of(lines, 1000, 99)] == [9, 9, 7]
    assert files_of([]) == []
    assert [len(file) for file in files_of([(key(1), b"x" * 200), (key(2), b"y")], 10, 99)] == [1, 1]


def test_a_line_is_the_request_that_would_be_sent_alone() -> None:
    request = Generate.of('say "hi"\n', Sampling(temperature=0.5, max_tokens=3))
    body = OpenAIChat().encode("m", request)
    _, line = line_of(key(7), Ask("/chat/completions", body))
    assert json.loads(line) == {
        "custom_id": "07" * 16,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": json.loads(body),
    }
    assert line.count(b"\n") == 1


def test_a_damaged_journal_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    ask(api_of().endpoint(), path, asked(3))
    path.write_bytes(path.read_bytes().replace(b"planned", b"plamned"))
    with pytest.raises(JournalDamaged, match="move it away"):
        Submissions(path)


@pytest.mark.parametrize(("text", "plan"), [("2", BatchPlan(2.0)), ("2:5:0.1:9", BatchPlan(2.0, 5.0, 0.1, 9.0))])
def test_a_plan_of_batches_is_read(text: str, plan: BatchPlan) -> None:
    assert BatchPlan.parse(text) == plan


@pytest.mark.parametrize("text", ["", "x", "1:2:3", "1:0", "-1", "1:2:0:4:5", "nan"])
def test_what_is_no_plan_of_batches_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        BatchPlan.parse(text)


# -- real sockets and processes ----------------------------------------------------------------------------------------


@pytest.mark.real
def test_over_sockets_with_a_key_that_is_nowhere(tmp_path: Path) -> None:
    secret = "sk-batches-0123456789abcdef"

    async def main() -> None:
        api = SimulatedAPI(require_key=secret, batches=BatchPlan(delay=0.2))
        watcher = Watcher()
        async with api.serve() as url, Engine(cache=tmp_path / "c.sqlite", observers=[watcher]) as engine:
            model = engine.model("m", base_url=url, api_key=secret, price=DEAR)
            async with BatchLane(model, tmp_path / "b.jsonl") as lane:
                answers = await lane.answers(asked(3000))
            assert None not in answers
            assert (api.batches.ledger.count(), api.ledger.count()) == (3000, 0)
            async with aiohttp.ClientSession() as session, session.get(f"{url}/ledger") as response:
                assert (await response.json())["batches"]["answered"] == 3000
            wrong = engine.model("m", base_url=url, api_key="sk-wrong-key-00000000")
            with pytest.raises(EndpointRefused) as refused:
                async with BatchLane(wrong, tmp_path / "w.jsonl") as lane:
                    await lane.answers(asked(3001))
            assert "sk-wrong" not in str(refused.value)
        assert secret not in watcher.notes + (tmp_path / "b.jsonl").read_text()

    asyncio.run(main())


@pytest.mark.real
def test_a_file_that_redirects_is_not_followed() -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://example.com/x\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            endpoint = HttpEndpoint(f"http://127.0.0.1:{port}/v1", "sk-not-for-others-12345")
            found = await endpoint.errand(Errand("GET", "/files/f/content"))
            assert isinstance(found, Fault)
            assert found.kind is FaultKind.FATAL_CONFIG
        closed = await endpoint.errand(Errand("GET", "/files/f/content"))
        assert isinstance(closed, Fault)
        assert closed.kind is FaultKind.TRANSIENT

    asyncio.run(main())


async def ledger_at(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/ledger") as response:
        return await response.json()


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from asyncopt import Engine, Generate, Price, Sampling
from asyncopt.batches.lane import BatchLane
from asyncopt.endpoints.http import HttpEndpoint

url, folder, dies = sys.argv[1:]

class Dying(HttpEndpoint):
    async def errand(self, errand):
        reply = await super().errand(errand)
        if dies and errand.method + errand.path.rstrip("0123456789") == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

async def main():
    async with Engine(cache=Path(folder) / "c.sqlite") as engine:
        model = engine.model("m", endpoint=Dying(url), price=Price(1000, 3000))
        requests = [Generate.of(f"question {n}", Sampling(temperature=0.0, max_tokens=20)) for n in range(40)]
        async with BatchLane(model, Path(folder) / "b.jsonl") as lane:
            answers = await lane.answers(requests)
        assert None not in answers
        print(model.account.calls, model.account.usd)

asyncio.run(main())
"""


@pytest.mark.real
@pytest.mark.parametrize("dies", ["POST/batches", "GET/batches/batch_"])
def test_kill_9_between_submission_journal_and_result(dies: str, tmp_path: Path) -> None:
    with started("-m", "asyncopt", "simulate", "--batches", "0.3") as (_, ready):
        command = [sys.executable, "-c", CHILD, str(ready["url"]), str(tmp_path)]
        killed = subprocess.run([*command, dies], check=False, capture_output=True, text=True, timeout=60)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        again = subprocess.run([*command, ""], check=False, capture_output=True, text=True, timeout=60)
        assert again.returncode == 0, again.stderr
        seen = asyncio.run(ledger_at(str(ready["url"])))
        assert (seen["batches"]["submitted"], seen["batches"]["requests"], seen["requests"]) == (1, 40, 0)
        calls, usd = again.stdout.split()
        entries = seen["batches"]["entries"]
        sent, received = (sum(entry[name] for entry in entries) for name in ("input_tokens", "output_tokens"))
        assert int(calls) == 40
        assert float(usd) == pytest.approx(DEAR.of(Usage(sent, received)) / 2)


@pytest.mark.real
def test_a_run_that_is_stopped_in_its_test_says_so_and_goes_on_with_the_same_batch(tmp_path: Path) -> None:
    environment = {**os.environ, "ASYNCOPT_CACHE_DIR": str(tmp_path / "cache"), "OPENAI_API_KEY": "unused-key"}
    asyncopt = [sys.executable, "-m", "asyncopt"]
    with started("-m", "asyncopt", "simulate", "--batches", "3", "--latency", "0.005") as (_, ready):
        options = ["--scorer", "mock", "--base-url", str(ready["url"]), "--steps", "1", "--limit", "20"]
        place = ["--directory", str(tmp_path / "run"), "--display", "plain"]
        command = [*asyncopt, "run", "antonym", *options, "--batch-test", *place]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as run:
            assert run.stderr is not None
            for line in run.stderr:
                if "requests submitted" in line:
                    run.terminate()
                    break
            said = run.stderr.read()
        assert run.returncode == 128 + signal.SIGTERM, said
        assert "not cancelled, and paid for: batch_0" in said
        command = [*asyncopt, "resume", str(tmp_path / "run"), "--json"]
        resumed = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
        assert resumed.returncode == 0, resumed.stderr
        done = json.loads(resumed.stdout.splitlines()[-1])
        seen = asyncio.run(ledger_at(str(ready["url"])))
        assert (seen["batches"]["submitted"], seen["batches"]["requests"]) == (1, 40)
        assert done["calls"] == seen["requests"] + 40


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "antonym", "--scorer", "anthropic/x", "--batch-test"], "cannot be asked in batches"),
        (["run", "antonym", "--scorer", "local", "--batch-test"], "cannot be asked in batches"),
        (["eval", "antonym", "", "--scorer", "local", "--batch"], "cannot be asked in batches"),
        (["eval", "antonym", "", "--scorer", "openai/x", "--batch", "--no-cache"], "arrive in the cache"),
        (["run", "antonym", "--scorer", "openai/x", "--set", "batch=train"], "'test'"),
    ],
)
def test_what_cannot_be_asked_in_batches_is_said_at_once(arguments: list[str], said: str, tmp_path: Path) -> None:
    keys = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY"), "sk-unused-0123456789")
    environment = {**os.environ, **keys, "ASYNCOPT_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "asyncopt", *arguments]
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert not list(tmp_path.iterdir())
