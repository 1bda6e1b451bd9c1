"""What goes wrong on purpose, what takes longer, and what the ledger makes of it."""

import asyncio

import aiohttp
import pytest
from calls import body_of, started
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from asyncopt.endpoints.anthropic import AnthropicMessages
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Codec, Endpoint
from asyncopt.errors import ConfigError
from asyncopt.testing import AnswerModel, Constant, FaultPlan, Item, Ledger, SimulatedAPI, run_virtual
from asyncopt.testing.faults import KINDS, PASSING, PERMANENT, USUAL, Kind, shrunk
from asyncopt.testing.ledger import CANCELLED, CUT
from asyncopt.values import Completion, Fault, FaultKind, Finish, Generate, Sampling

# The plan of faults


def test_a_plan_is_a_function_of_seed_and_number_and_can_be_printed():
    plan = FaultPlan(seed=1, rate=0.25, kinds=("500", "reset"))
    faults = [plan.fault(number) for number in range(4000)]
    assert faults == [eval(repr(plan)).fault(number) for number in range(4000)]  # noqa: S307
    assert faults != [FaultPlan(2, 0.25, ("500", "reset")).fault(number) for number in range(4000)]
    assert {fault for fault in faults if fault} == {"500", "reset"}
    assert 900 < sum(fault is not None for fault in faults) < 1100
    assert 400 < faults.count("500") < 600


def test_plans_are_read_from_the_command_line():
    assert FaultPlan.parse("seed=1,rate=0.05") == FaultPlan(1, 0.05)
    assert FaultPlan.parse("rate=1, seed=7, kinds=500+slow") == FaultPlan(7, 1.0, ("500", "slow"))


PLANS = [
    FaultPlan(3, 0.25),
    FaultPlan(3, 0.0),
    FaultPlan(3, 0.25, ("hang", "429-ms")),
    FaultPlan.of([(9, "reset"), (2, "html")]),
    FaultPlan(1, 0.5, ("500",), ((4, "slow"),), (70, "quota")),
    FaultPlan(after=(0, "401")),
    FaultPlan(),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_plan_is_printed_in_the_words_that_it_is_read_from(plan):
    assert FaultPlan.parse(str(plan)) == plan
    assert "\n" not in str(plan)


def test_a_plan_is_also_the_list_of_what_it_does():
    plan = FaultPlan(1, 0.5, ("500", "reset"), ((4, "slow"),), (70, "quota"))
    listed = FaultPlan.of(plan.events(100))
    assert [listed.fault(number) for number in range(100)] == [plan.fault(number) for number in range(100)]
    assert listed.fault(4) == "slow"
    assert {listed.fault(number) for number in range(70, 100)} == {"quota"}
    assert listed.fault(100) is None


@given(st.integers(0, 1000), st.sets(st.integers(0, 199), min_size=1, max_size=4))
def test_a_failing_plan_is_shrunk_to_what_makes_it_fail(seed, needed):
    events = FaultPlan(seed, 1.0).events(200)
    found = shrunk(events, lambda plan: needed <= {number for number, _ in plan.at})
    assert {number for number, _ in found.at} == needed
    assert set(found.at) <= set(events)


def test_what_fails_without_any_fault_needs_no_plan():
    assert shrunk(FaultPlan(0, 1.0).events(9), lambda plan: True) == FaultPlan()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "at=x:500",
        "at=1",
        "at=-1:500",
        "after=1:nothing",
        "seed=1,at=1:500",
        "0.05",
        "seed=1",
        "rate=0.1",
        "seed=a,rate=0.1",
        "seed=1,rate=2",
        "seed=1,rate=1,kinds=418",
        "seed=1,rate=1,x=2",
    ],
)
def test_a_bad_plan_is_an_error(text):
    with pytest.raises(ConfigError, match="faults"):
        FaultPlan.parse(text)


EXPECTED = {
    **dict.fromkeys(("500", "502", "503", "504", "520", "529", "503-after", "408", "409", "html"), FaultKind.TRANSIENT),
    **dict.fromkeys(("429", "429-after", "429-ms", "429-date", "429-nonsense", "error-200"), FaultKind.RATE_LIMITED),
    **dict.fromkeys(("reset", "reset-body"), FaultKind.AMBIGUOUS),
    **dict.fromkeys(("malformed", "truncated", "no-choices"), FaultKind.MALFORMED),
    **dict.fromkeys(("401", "403", "404"), FaultKind.FATAL_CONFIG),
    **dict.fromkeys(("402", "quota"), FaultKind.QUOTA),
    "ramp": FaultKind.RAMP,
    "daily": FaultKind.QUOTA_DAILY,
    "too-large": FaultKind.TOO_LARGE,
    "400": FaultKind.BAD_REQUEST,
    "refused": FaultKind.REFUSED,
    "length-empty": FaultKind.TRUNCATED,
}
STATUSES = {"reset": CUT, "reset-body": CUT, "html": 502, "503-after": 503, "error-200": 200, "refused": 200} | {
    **dict.fromkeys(("429-after", "429-ms", "429-date", "429-nonsense", "ramp", "quota", "daily"), 429),
    **dict.fromkeys(("malformed", "truncated", "no-choices", "length-empty"), 200),
    "too-large": 400,
}
HINTS = {"429-after": 3.0, "429-ms": 0.25, "429-date": 4.0, "503-after": 5.0, "daily": 86400.0}
AT_ONCE = {"429", "429-after", "429-ms", "429-date", "429-nonsense", "ramp", "error-200", *PERMANENT}


def asked_twice(kind: Kind, codec: Codec | None = None) -> tuple[list[object], float, SimulatedAPI]:
    """The answers to one plain and one streamed request, the virtual seconds, and the server."""
    api = SimulatedAPI(latency=Constant(2.0), faults=FaultPlan(0, 1.0, (kind,)))

    async def main() -> tuple[list[object], float, SimulatedAPI]:
        endpoint = api.endpoint(codec=codec)
        request = Generate.of("hello", Sampling(max_tokens=64))
        answers = [await endpoint.send("m", request), await endpoint.send_streamed("m", request, list)]
        return answers, asyncio.get_running_loop().time(), api

    return run_virtual(main)


@pytest.mark.parametrize("codec", [OpenAIChat(), AnthropicMessages()], ids=["openai", "anthropic"])
@pytest.mark.parametrize("kind", EXPECTED)
def test_each_fault_is_what_a_client_would_take_it_for(kind, codec):
    answers, time, api = asked_twice(kind, codec)
    assert [entry.fault for entry in api.ledger.entries] == [kind, kind]
    assert {entry.status for entry in api.ledger.entries} == {STATUSES.get(kind) or int(kind)}
    for answer in answers:
        assert isinstance(answer, Fault)
        assert (answer.kind, answer.retry_after) == (EXPECTED[kind], HINTS.get(kind))
    assert time == pytest.approx(0 if kind in AT_ONCE else 4)


def test_every_kind_of_fault_is_tested():
    assert set(KINDS) == {
        *EXPECTED,
        "slow",
        "hang",
        "no-usage",
        "absurd-usage",
        "other-model",
        "null-content",
        "length",
    }


@pytest.mark.parametrize("codec", [OpenAIChat(), AnthropicMessages()], ids=["openai", "anthropic"])
@pytest.mark.parametrize("kind", ["no-usage", "absurd-usage", "other-model", "length"])
def test_an_odd_answer_is_the_right_one_with_something_wrong_about_it(kind, codec):
    (plain, streamed), _, api = asked_twice(kind, codec)
    assert isinstance(plain, Completion)
    right = AnswerModel(0).answer("hello")
    assert plain == streamed
    assert plain.text == (right[: len(right) // 2] if kind == "length" else right) == api.ledger.entries[0].answer
    assert plain.finish is (Finish.LENGTH if kind == "length" else Finish.STOP)
    assert plain.usage.estimated == (kind in ("no-usage", "absurd-usage"))
    assert (plain.served_model == "m") == (kind != "other-model")


def test_a_server_that_hangs_answers_nobody_and_lets_them_go():
    api = SimulatedAPI(faults=FaultPlan.of([(0, "hang")]))

    async def main() -> object:
        task = asyncio.ensure_future(api.endpoint().send("m", Generate.of("hello")))
        done, _ = await asyncio.wait([task], timeout=86400)
        assert not done
        task.cancel()
        await asyncio.wait([task])
        return await api.endpoint().send("m", Generate.of("hello"))

    assert isinstance(run_virtual(main), Completion)
    assert [entry.status for entry in api.ledger.entries] == [CANCELLED, 200]


def test_a_slow_answer_takes_ten_times_as_long_before_its_first_byte():
    async def main() -> list[float]:
        loop, times = asyncio.get_running_loop(), []
        endpoint = SimulatedAPI(latency=Constant(1.0), faults=FaultPlan(0, 1.0, ("slow",))).endpoint()
        for send in (endpoint.send, lambda *call: endpoint.send_streamed(*call, lambda: times.append(loop.time()))):
            assert isinstance(await send("m", Generate.of("hello")), Completion)
            times.append(loop.time())
        return times

    assert run_virtual(main) == pytest.approx([10.0, 19.3, 20.0])


def test_a_retry_has_a_chance_of_its_own_and_the_answer_that_was_due():
    """The draws of a prompt are those of a run without faults, however often it was tried."""

    async def texts(plan: FaultPlan | None) -> list[str]:
        endpoint = SimulatedAPI(faults=plan).endpoint()
        found: list[str] = []
        for _ in range(400):
            answer = await endpoint.send("m", Generate.of("hello", Sampling(temperature=1.0)))
            if isinstance(answer, Completion):
                found.append(answer.text)
        return found

    clean = run_virtual(lambda: texts(None))
    tried = run_virtual(lambda: texts(FaultPlan(3, 0.3)))
    assert 240 < len(tried) < 320
    assert tried == clean[: len(tried)]


FRESH = 1e-9  # seconds that a connection is kept: one that was used before and breaks is tried again unseen
ALL_KINDS = FaultPlan.of(enumerate(kind for kind in KINDS if kind != "hang"))


async def outcomes(endpoint: Endpoint, count: int) -> list[str]:
    answers = [await endpoint.send("m", Generate.of(f"nonce=n{number}")) for number in range(count)]
    await endpoint.aclose()
    return [answer.text if isinstance(answer, Completion) else answer.kind.value for answer in answers]


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.parametrize("plan", [FaultPlan(5, 0.7), ALL_KINDS], ids=["usual", "all"])
async def test_the_same_plan_works_in_the_loop_and_over_sockets(plan):
    inner, outer = SimulatedAPI(faults=plan), SimulatedAPI(faults=plan)
    async with outer.serve() as url:
        over_sockets = await outcomes(HttpEndpoint(url, keepalive=FRESH), 60)
    assert over_sockets == await outcomes(inner.endpoint(), 60)
    assert {entry.fault for entry in outer.ledger.entries} >= {None, *(USUAL if plan.rate else PASSING)} - {"hang"}
    assert [entry.fault for entry in outer.ledger.entries] == [plan.fault(number) for number in range(60)]


# Latency that goes with the answer


def test_wrong_answers_take_longer_where_asked():
    items = {str(number): Item(f"Is {number} a number of the list?", "Yes", "boolean") for number in range(300)}
    model = AnswerModel(5, items)

    async def main(factor: float) -> dict[str, set[float]]:
        api = SimulatedAPI(latency=Constant(1.0), answers=model, slow_wrong=factor)
        found: dict[str, set[float]] = {}
        for item in items.values():
            answer = await api.endpoint().send("m", Generate.of(f"Look twice.\n{item.question}"))
            entry = api.ledger.entries[-1]
            found.setdefault(answer.text, set()).add(round(entry.finished - entry.arrived, 6))
        return found

    assert run_virtual(lambda: main(2.5)) == {"The answer is Yes.": {1.0}, "The answer is No.": {2.5}}
    assert run_virtual(lambda: main(1.0)) == {"The answer is Yes.": {1.0}, "The answer is No.": {1.0}}


def test_the_model_knows_which_answers_are_wrong():
    items = {str(number): Item(f"What is {number} and 1?", str(number + 1), "number") for number in range(200)}
    model = AnswerModel(5, items)
    for item in items.values():
        text, wrong = model.judged(f"Think.\n{item.question}")
        assert wrong == (text != f"The answer is {item.target}.")
    assert model.judged("hello")[1] is False


# The ledger


def ledger_of(spans: list[tuple[float, float | None]]) -> Ledger:
    ledger = Ledger()
    events = [(start, index, None) for index, (start, _) in enumerate(spans)]
    events += [(end, index, 200) for index, (_, end) in enumerate(spans) if end is not None]
    entries = {}
    for time, index, status in sorted(events, key=lambda event: event[0]):
        if status is None:
            entries[index] = ledger.open(time, None)
        else:
            ledger.close(entries[index], time, status)
    return ledger


def test_the_mean_number_in_flight_is_busy_seconds_over_time():
    ledger = ledger_of([(1.0, 3.0), (2.0, 5.0), (4.0, None), (6.0, 9.0)])
    assert ledger.busy_seconds() == 2 + 3 + 5 + 3
    assert ledger.mean_in_flight() == 13 / 8
    assert Ledger().mean_in_flight() == 0


def test_the_series_says_what_happened_in_each_interval():
    ledger = ledger_of([(1.0, 3.0), (2.0, 5.0), (4.0, None), (6.0, 9.0)])
    ledger.entries[2].charged = 7
    rows = ledger.series(4.0)
    assert [row["from"] for row in rows] == [0, 4, 8]
    assert [row["arrived"] for row in rows] == [2, 2, 0]
    assert [row["charged"] for row in rows] == [0, 7, 0]
    assert [row["answered"] for row in rows] == [1, 1, 1]
    assert [row["mean_in_flight"] for row in rows] == [4 / 4, 7 / 4, 2 / 4]
    assert sum(row["mean_in_flight"] for row in rows) * 4 == ledger.busy_seconds()
    assert Ledger().series(1.0) == []


@pytest.mark.real
@pytest.mark.anyio
async def test_the_ledger_is_served_from_a_number_on_and_with_a_series():
    api = SimulatedAPI()
    for _ in range(5):
        await api.handle(body_of("x"), CIMultiDict())

    async with api.serve() as url, aiohttp.ClientSession() as session:

        async def asked(query: str) -> tuple[int, dict]:
            async with session.get(f"{url}/ledger{query}") as reply:
                return reply.status, await reply.json() if reply.status == 200 else {}

        _, whole = await asked("")
        _, later = await asked("?since=3")
        _, timed = await asked("?since=5&every=0.5")
        statuses = [(await asked(query))[0] for query in ("?since=x", "?since=-1", "?every=nan")]
    assert [entry["number"] for entry in whole["entries"]] == [0, 1, 2, 3, 4]
    assert [entry["number"] for entry in later["entries"]] == [3, 4]
    assert later["requests"] == 5
    assert {"busy_seconds", "mean_in_flight"} < set(whole)
    assert "series" not in whole
    assert timed["entries"] == []
    assert sum(row["arrived"] for row in timed["series"]) == 5
    assert statuses == [400, 400, 400]


@pytest.mark.real
def test_the_command_line_sets_faults_and_the_connection_is_reset():
    options = "--latency 0 --faults seed=5,rate=0.5,kinds=reset+503 --otps 9000 --refund-tokens --slow-wrong 2"

    async def main(url: str) -> list[str]:
        return await outcomes(HttpEndpoint(url, keepalive=FRESH), 40)

    with started("-m", "asyncopt", "simulate", *options.split()) as (_, ready):
        found = asyncio.run(main(str(ready["url"])))
    plan = FaultPlan(5, 0.5, ("reset", "503"))
    kinds = [None if text.endswith(f"nonce=n{number}") else text for number, text in enumerate(found)]
    expected = {None: None, "reset": "ambiguous", "503": "transient"}
    assert kinds == [expected[plan.fault(number)] for number in range(40)]
    assert set(kinds) == set(expected.values())
