"""What goes wrong on purpose, what takes longer, and what the ledger makes of it."""

import asyncio

import aiohttp
import pytest
from calls import body_of, started
from multidict import CIMultiDict

from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.protocol import Endpoint
from asyncopt.errors import ConfigError
from asyncopt.testing import AnswerModel, Constant, FaultPlan, Item, Ledger, SimulatedAPI, run_virtual
from asyncopt.testing.faults import KINDS
from asyncopt.testing.ledger import CUT
from asyncopt.values import Completion, Fault, FaultKind, Generate, Sampling

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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.05",
        "seed=1",
        "rate=0.1",
        "seed=a,rate=0.1",
        "seed=1,rate=2",
        "seed=1,rate=1,kinds=404",
        "seed=1,rate=1,x=2",
    ],
)
def test_a_bad_plan_is_an_error(text):
    with pytest.raises(ConfigError, match="faults"):
        FaultPlan.parse(text)


EXPECTED = {
    "500": FaultKind.TRANSIENT,
    "502": FaultKind.TRANSIENT,
    "503": FaultKind.TRANSIENT,
    "529": FaultKind.TRANSIENT,
    "429": FaultKind.RATE_LIMITED,
    "reset": FaultKind.AMBIGUOUS,
    "malformed": FaultKind.MALFORMED,
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_fault_is_what_a_client_would_take_it_for(kind):
    async def main() -> tuple[list[object], float]:
        api = SimulatedAPI(latency=Constant(2.0), faults=FaultPlan(0, 1.0, (kind,)))
        answers = [
            await api.endpoint().send("m", Generate.of("hello")),
            await api.endpoint().send_streamed("m", Generate.of("hello"), list),
        ]
        assert [entry.fault for entry in api.ledger.entries] == [kind, kind]
        assert {entry.status for entry in api.ledger.entries} == {
            {"reset": CUT, "malformed": 200}.get(kind) or int(kind)
        }
        return answers, asyncio.get_running_loop().time()

    answers, time = run_virtual(main)
    for answer in answers:
        assert isinstance(answer, Fault)
        assert (answer.kind, answer.retry_after) == (EXPECTED[kind], None)
    assert time == pytest.approx(0 if kind == "429" else 4)


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


async def outcomes(endpoint: Endpoint, count: int) -> list[str]:
    answers = [await endpoint.send("m", Generate.of(f"nonce=n{number}")) for number in range(count)]
    await endpoint.aclose()
    return [answer.text if isinstance(answer, Completion) else answer.kind.value for answer in answers]


@pytest.mark.real
@pytest.mark.anyio
async def test_the_same_plan_works_in_the_loop_and_over_sockets():
    plan = FaultPlan(seed=5, rate=0.7)
    inner, outer = SimulatedAPI(faults=plan), SimulatedAPI(faults=plan)
    async with outer.serve() as url:
        over_sockets = await outcomes(HttpEndpoint(url), 60)
    assert over_sockets == await outcomes(inner.endpoint(), 60)
    assert {entry.fault for entry in outer.ledger.entries} == {None, *KINDS}
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
        return await outcomes(HttpEndpoint(url), 40)

    with started("-m", "asyncopt", "simulate", *options.split()) as (_, ready):
        found = asyncio.run(main(str(ready["url"])))
    plan = FaultPlan(5, 0.5, ("reset", "503"))
    kinds = [None if text.endswith(f"nonce=n{number}") else text for number, text in enumerate(found)]
    expected = {None: None, "reset": "ambiguous", "503": "transient"}
    assert kinds == [expected[plan.fault(number)] for number in range(40)]
    assert set(kinds) == set(expected.values())
