"""Asking twice, on a virtual clock: who gets a rival, who wins, and who pays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fakes import FakeEndpoint, echo, run_virtual

from asyncopt import Budget, Engine, Generate, Quota, Sampling
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import AsyncoptError, CallFailed, QuotaExhausted
from asyncopt.limits.budget import Account
from asyncopt.testing import LogNormal, SimulatedAPI
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Price

FIRST, WHOLE = 0.3, 1.0  # seconds of a usual answer
SENT = 64.0  # a known number of answers before the call that is looked at

Plan = tuple[
    float, float, Completion | Fault | None
]  # until the first piece, until the end, and what is answered; None echoes


class Streams(FakeEndpoint):
    """Streams usual answers, but to the prompt "late": its n-th attempt goes as the n-th plan says."""

    def __init__(self, *plans: Plan) -> None:
        super().__init__(supports=Capabilities(stream=True))
        self.plans = list(plans)
        self.late: list[tuple[float, Generate]] = []
        self.cancelled = 0

    async def send_streamed(self, model: str, request: Generate, first_piece: Callable[[], None]) -> Answer:
        first, whole, answer = FIRST, WHOLE, None
        if request.prompt[0].content == "late":
            first, whole, answer = self.plans[len(self.late)]
            self.late.append((asyncio.get_running_loop().time(), request))
        try:
            await asyncio.sleep(first)
            if not isinstance(answer, Fault):  # an error is no piece of an answer
                first_piece()
            await asyncio.sleep(whole - first)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return answer or echo(request)


def raced(
    endpoint: Streams,
    *,
    account: Account | None = None,
    quota: Quota | None = None,
    timeout: float = 600.0,
    also: Callable[[Engine, asyncio.Future[Completion]], Awaitable[None]] | None = None,
) -> tuple[Completion | BaseException, float, Account, Engine]:
    """The result of the late call, when it came, and its account; 64 usual calls have been answered before."""

    async def main() -> tuple[Completion | BaseException, float, Account, Engine]:
        async with Engine(grace=0.0) as engine:
            model = engine.model(
                "m",
                endpoint=endpoint,
                quota=quota or Quota(concurrency=200),
                price=Price(1e6, 1e6),
                hedge=0.02,
                timeout=timeout,
            )
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(model.submit(Generate.of(f"q {n}")) for n in range(int(SENT))))
            begin, mine = loop.time(), account or Account()
            future = model.charged_to(mine).submit(
                Generate.of("late", Sampling(max_tokens=100, temperature=1.0, draw=3))
            )
            if also is not None:
                await also(engine, future)
            (result,) = await asyncio.gather(future, return_exceptions=True)
            took = loop.time() - begin
            await asyncio.sleep(1)
            assert engine.dispatchers[0].slots.in_use == 0
            assert not engine.dispatchers[0]._hedging.tasks
            return result, took, mine, engine

    return run_virtual(main)


def test_a_late_call_gets_one_rival_with_the_same_draw_and_the_rival_wins() -> None:
    endpoint = Streams((50, 60, None), (FIRST, WHOLE, None))
    result, took, account, engine = raced(endpoint)
    assert isinstance(result, Completion)
    assert took == pytest.approx(FIRST + WHOLE, abs=0.21)
    (_, first), (_, second) = endpoint.late
    assert first == second
    assert endpoint.cancelled == 1
    assert (account.calls, account.hedges, engine.dispatchers[0].counts.hedges) == (2, 1, 1)
    # The loser's prompt is billed as the server has counted such prompts so far: 10 tokens.
    assert (account.input_tokens, account.output_tokens) == (20, 5)
    assert account.usd == 25
    assert account.exhausted(0, 0) is None
    assert (account._reserved_tokens, account._reserved_usd) == (0, 0)


def test_who_begins_first_wins_even_if_the_other_would_end_first() -> None:
    endpoint = Streams((1.0, 1.2, Completion("short")), (FIRST, 9.0, Completion("rival")))
    result, took, account, _ = raced(endpoint)
    assert isinstance(result, Completion)
    assert (result.text, endpoint.cancelled) == ("rival", 1)
    assert took == pytest.approx(0.4 + 9.0, abs=0.2)
    assert (account.calls, account.hedges) == (2, 1)


def test_a_first_attempt_that_begins_before_its_rival_goes_on_alone() -> None:
    endpoint = Streams((0.6, 9.0, Completion("first")), (FIRST, WHOLE, Completion("short")))
    result, took, account, _ = raced(endpoint)
    assert isinstance(result, Completion)
    assert (result.text, took, endpoint.cancelled) == ("first", pytest.approx(9.0), 1)
    assert (account.calls, account.hedges) == (2, 1)


def test_a_rival_that_took_over_and_broke_off_is_tried_again() -> None:
    class BreaksOff(Streams):
        async def send_streamed(self, model: str, request: Generate, first_piece: Callable[[], None]) -> Answer:
            number = len(self.late)
            answer = await super().send_streamed(model, request, first_piece)
            return Fault(FaultKind.AMBIGUOUS, "cut") if request.prompt[0].content == "late" and number == 1 else answer

    endpoint = BreaksOff((50, 60, None), (FIRST, WHOLE, None), (FIRST, WHOLE, Completion("again")))
    result, _, account, _ = raced(endpoint)
    assert isinstance(result, Completion)
    assert (result.text, len(endpoint.late)) == ("again", 3)
    assert account._reserved_tokens == 0


def test_a_call_taken_over_still_has_its_deadline() -> None:
    endpoint = Streams((50, 60, None), (FIRST, 40.0, None), (FIRST, WHOLE, Completion("again")))
    result, took, account, _ = raced(endpoint, timeout=5.0)
    assert isinstance(result, Completion)
    assert (result.text, took < 10) == ("again", True)
    assert account._reserved_tokens == 0


def test_a_call_that_has_begun_gets_no_rival_however_long_it_takes() -> None:
    endpoint = Streams((FIRST / 2, 30.0, None))
    _, took, account, _ = raced(endpoint)
    assert (len(endpoint.late), took, account.hedges) == (1, pytest.approx(30.0), 0)


@pytest.mark.parametrize(
    "kind", [FaultKind.TRANSIENT, FaultKind.RATE_LIMITED, FaultKind.REFUSED, FaultKind.FATAL_CONFIG]
)
def test_a_rivals_fault_leaves_the_first_alone(kind: FaultKind) -> None:
    endpoint = Streams((5.0, 6.0, Completion("first")), (0.1, 0.2, Fault(kind, "no")), (0.1, 0.2, Fault(kind, "no")))
    result, took, account, _ = raced(endpoint)
    assert isinstance(result, Completion)
    assert (result.text, took) == ("first", pytest.approx(6.0))
    assert account._reserved_tokens == 0


@pytest.mark.parametrize("told_by_rival", [True, False])
def test_nothing_is_sent_after_the_end_of_the_money(told_by_rival: bool) -> None:
    """Whether it is a rival that brings the news, or another call before there was one."""
    quota = Fault(FaultKind.QUOTA, "no money")
    others: list[Generate] = []

    class Broke(Streams):
        async def send(self, model: str, request: Generate) -> Answer:
            others.append(request)
            return quota

    async def also(engine: Engine, _: asyncio.Future[Completion]) -> None:
        await asyncio.sleep(3.0 if told_by_rival else 0.0)
        with pytest.raises(QuotaExhausted):
            await engine.model("m", endpoint=endpoint).submit(Generate.of("another"))

    endpoint = Broke((5.0, 6.0, Completion("first")), (0.1, 0.2, quota))
    result, took, account, _ = raced(endpoint, also=also)
    assert isinstance(result, Completion)  # it was on its way, and is paid for
    assert (result.text, took) == ("first", pytest.approx(6.0))
    assert (len(endpoint.late), len(others)) == ((2, 0) if told_by_rival else (1, 1))
    assert account._reserved_tokens == 0


def test_where_the_first_fails_in_passing_its_rival_may_yet_win() -> None:
    endpoint = Streams((0.7, 0.8, Fault(FaultKind.TRANSIENT, "reset")), (0.5, WHOLE, Completion("rival")))
    result, took, account, _ = raced(endpoint)
    assert isinstance(result, Completion)
    assert (result.text, len(endpoint.late), endpoint.cancelled) == ("rival", 2, 0)
    assert took == pytest.approx(FIRST + WHOLE, abs=0.21)
    assert account.calls == 2


def test_where_both_fail_the_call_is_tried_again() -> None:
    broken = Fault(FaultKind.TRANSIENT, "reset")
    endpoint = Streams((0.7, 0.8, broken), (0.1, 0.9, broken), (FIRST, WHOLE, Completion("again")))
    result, _, account, _ = raced(endpoint)
    assert isinstance(result, Completion)
    assert (result.text, account.calls, account._reserved_tokens) == ("again", 3, 0)


def test_a_verdict_on_the_request_is_not_waited_for_twice() -> None:
    endpoint = Streams((0.7, 0.8, Fault(FaultKind.REFUSED, "no")), (0.5, WHOLE, Completion("rival")))
    result, took, _, _ = raced(endpoint)
    assert isinstance(result, CallFailed)
    assert (took, endpoint.cancelled) == (pytest.approx(0.8), 1)


def test_a_rival_that_is_cancelled_before_its_first_step_gives_its_slot_back() -> None:
    endpoint = Streams((FIRST, WHOLE, None))

    async def also(engine: Engine, future: asyncio.Future[Completion]) -> None:
        await asyncio.sleep(0.05)
        dispatcher = engine.dispatchers[0]
        ((task, call),) = dispatcher.in_flight_calls.items()
        dispatcher._hedging._start(call, task, dispatcher)
        dispatcher._hedging.ended(call)

    raced(endpoint, also=also)  # which asserts that no slot is in use
    assert len(endpoint.late) == 1


def test_a_deadline_ends_the_call_and_its_rival_and_both_are_tried_again() -> None:
    endpoint = Streams((50, 60, None), (50, 60, None), (FIRST, WHOLE, Completion("again")))
    result, took, account, _ = raced(endpoint, timeout=3.0)
    assert isinstance(result, Completion)
    assert (result.text, endpoint.cancelled, account.calls) == ("again", 2, 3)
    assert 4.0 < took < 6.0


def test_a_budget_that_covers_one_attempt_pays_for_no_rival() -> None:
    endpoint = Streams((5.0, 6.0, None))
    result, _, account, _ = raced(endpoint, account=Account(Budget(calls=1)))
    assert isinstance(result, Completion)
    assert (account.calls, account.hedges) == (1, 0)


def test_no_rival_while_somebody_waits_or_no_place_is_free() -> None:
    endpoint = Streams((5.0, 6.0, None))
    _, _, account, _ = raced(endpoint, quota=Quota(concurrency=1))
    assert account.hedges == 0


def test_closing_with_rivals_leaves_no_task() -> None:
    endpoint = Streams((50, 60, None), (50, 60, None))

    async def main() -> int:
        engine = Engine(grace=0.0)
        async with engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=200), hedge=0.02)
            await asyncio.gather(*(model.submit(Generate.of(f"q {n}")) for n in range(int(SENT))))
            future = model.submit(Generate.of("late"))
            await asyncio.sleep(2)
            assert len(endpoint.late) == 2
        with pytest.raises(AsyncoptError, match="closed"):
            await future
        return len(asyncio.all_tasks())

    assert run_virtual(main) == 1
    assert endpoint.cancelled == 2


def test_at_most_a_fiftieth_is_asked_twice_and_the_tail_is_cut() -> None:
    def run(hedge: float) -> tuple[float, Account, SimulatedAPI]:
        api = SimulatedAPI(latency=LogNormal(0.5, 0.4, 0.01, 20.0), headers="none")

        async def main() -> tuple[float, Account]:
            async with Engine() as engine:
                model = engine.model("m", endpoint=api.endpoint(), quota=Quota(concurrency=100), hedge=hedge)
                loop, steps = asyncio.get_running_loop(), []
                for step in range(20):
                    begin = loop.time()
                    await asyncio.gather(*(model.submit(Generate.of(f"{step} {n}")) for n in range(100)))
                    steps.append(loop.time() - begin)
                return sum(steps), model.account

        seconds, account = run_virtual(main)
        return seconds, account, api

    (alone, _, _), (hedged, account, api) = run(0.0), run(0.02)
    assert 0 < account.hedges <= 0.02 * 2000
    assert account.calls == api.ledger.count() == 2000 + account.hedges
    assert hedged < 0.6 * alone
    assert account.output_tokens == sum(entry.output_tokens for entry in api.ledger.entries if entry.status == 200)
