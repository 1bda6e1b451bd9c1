"""Given instructions on a fold: scores, pairs of them on the same examples, what is paid, and the files."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEndpoint, run_virtual

from asyncopt import (
    Budget,
    BudgetExhausted,
    Completion,
    ConfigError,
    Engine,
    Example,
    Fault,
    Model,
    Price,
    Quota,
    Task,
    codec,
)
from asyncopt.assess import Assessment, evaluate_instructions
from asyncopt.cli.items import write_files
from asyncopt.endpoints.protocol import Answer
from asyncopt.stats import wilson_interval
from asyncopt.testing import AnswerModel, FaultPlan, SimulatedAPI, items_of
from asyncopt.values import FaultKind, Generate

TASK = Task(
    "sums",
    "number",
    train=tuple(Example(n, f"{n}+20", str(n + 20)) for n in range(3)),
    validation=(Example(7, "7+30", "37"),),
    test=tuple(Example(n, f"{n}+1", str(n + 1)) for n in range(10)),
)


def assessed(endpoint: FakeEndpoint, use: Callable[[Model], Awaitable[Assessment]], **about: Any) -> Assessment:
    async def inside() -> Assessment:
        async with Engine(cache=None) as engine:
            return await use(engine.model("m", endpoint=endpoint, **about))

    return run_virtual(inside)


class Marked(FakeEndpoint):
    """Right on the test items that the instruction names; ``!`` before one makes the call fail."""

    def __init__(self) -> None:
        super().__init__(self.say)

    def say(self, request: Generate, number: int) -> Answer:
        instruction, _, question = request.prompt[-1].content.rpartition("\n")
        item = question.partition("+")[0]
        if f"!{item}" in instruction.split():
            return Fault(FaultKind.REFUSED, "blocked")
        return Completion(str(int(item) + 1) if item in instruction.split() else "-5")


# -- scores and pairs --------------------------------------------------------------------------------------------------


def test_every_instruction_has_its_share_with_its_interval() -> None:
    done = assessed(Marked(), lambda model: evaluate_instructions(model, TASK, ["1 2 3", "", "0 1 2 3 4 5 6 7 8 9"]))
    scores = [(one.number, one.instruction, one.measured and one.measured.score, one.unscored) for one in done.scores()]
    assert scores == [(1, "1 2 3", 0.3, 0), (2, "", 0.0, 0), (3, "0 1 2 3 4 5 6 7 8 9", 1.0, 0)]
    first = done.scores()[0].measured
    assert first is not None
    assert (first.n, first.low, first.high) == (10, *wilson_interval(3, 10))
    assert (done.calls, done.unscored) == (30, 0)


def test_pairs_are_compared_by_the_exact_test_on_the_same_examples() -> None:
    many = "1 2 3 4 5 6 7 8 9"
    done = assessed(Marked(), lambda model: evaluate_instructions(model, TASK, ["0 9", many, "0 9"]))
    second, third = done.comparisons()
    assert (second.number, second.n, second.left_out) == (2, 10, 0)
    assert (second.only_first, second.only_this) == (1, 8)  # 0; 1 to 8
    assert second.p == 2 * (1 + 9) / 2**9  # no or one of nine: 0.0390625
    assert second.difference == pytest.approx(0.7)
    assert second.low < 0.7 < second.high
    assert (third.p, third.difference, third.only_first, third.only_this) == (1.0, 0.0, 0, 0)
    assert third.low < 0 < third.high


def test_p_is_adjusted_for_how_many_are_compared_and_the_verdict_is_by_that() -> None:
    many, all_of_them = "1 2 3 4 5 6 7 8 9", "0 1 2 3 4 5 6 7 8 9"
    alone = assessed(Marked(), lambda model: evaluate_instructions(model, TASK, ["0 9", many]))
    (one,) = alone.comparisons()
    assert (one.p, one.p_holm, one.verdict) == (0.0390625, 0.0390625, "better")
    several = assessed(Marked(), lambda model: evaluate_instructions(model, TASK, ["0 9", many, "0", all_of_them]))
    found = several.comparisons()
    assert [pair.p for pair in found] == [0.0390625, 1.0, 2 / 2**8]
    assert [pair.p_holm for pair in found] == [2 * 0.0390625, 1.0, 3 * 2 / 2**8]
    assert [pair.verdict for pair in found] == ["no difference shown", "no difference shown", "better"]
    plain = several.to_json()["comparisons"]
    assert [(pair["p_holm"], pair["verdict"]) for pair in plain] == [(pair.p_holm, pair.verdict) for pair in found]


def test_a_call_that_failed_is_never_a_zero_and_its_pair_is_left_out() -> None:
    done = assessed(Marked(), lambda model: evaluate_instructions(model, TASK, ["0 1 !2 !3", "0 !1 2"]))
    first, second = done.scores()
    assert (first.measured and first.measured.score, first.measured and first.measured.n) == (0.25, 8)
    assert (first.unscored, second.unscored, done.unscored) == (2, 1, 3)
    assert "blocked" in first.complaint
    (pair,) = done.comparisons()
    assert (pair.n, pair.left_out, pair.only_first, pair.only_this) == (7, 3, 0, 0)
    rows = [row for row in done.rows() if row.number == 1]
    assert [row.correct for row in rows] == [1, 1, None, None, 0, 0, 0, 0, 0, 0]
    assert [row.outcome for row in rows[:4]] == ["scored", "scored", "refused", "refused"]
    assert (rows[2].answer, rows[2].parsed) == ("", "")


def test_instructions_without_a_common_score_are_not_compared() -> None:
    everything = " ".join(f"!{n}" for n in range(10))
    done = assessed(Marked(), lambda model: evaluate_instructions(model, TASK, [everything, ""]))
    assert done.comparisons() == []
    assert done.scores()[0].measured is None


def test_grades_between_0_and_1_are_compared_by_students_test() -> None:
    class Partly(Task):
        def grade(self, answer: str, example: Example, prompt: str = "") -> float:
            return 0.5 if answer == "-5" else 1.0

    task = Partly("partly", "number", TASK.train, TASK.test)
    done = assessed(Marked(), lambda model: evaluate_instructions(model, task, ["", "0 1"]))
    (pair,) = done.comparisons()
    from scipy.stats import ttest_1samp

    assert pair.difference == pytest.approx(0.1)
    assert pair.p == pytest.approx(ttest_1samp([0.5, 0.5] + [0.0] * 8, 0).pvalue)


def test_grades_that_are_no_shares_are_refused() -> None:
    class Points(Task):
        def grade(self, answer: str, example: Example, prompt: str = "") -> float:
            return 5.0

    with pytest.raises(ConfigError, match="graded an answer 5"):
        assessed(Marked(), lambda m: evaluate_instructions(m, Points("p", "number", TASK.train, TASK.test), [""]))


@pytest.mark.parametrize(
    ("fold", "expected"),
    [
        ("train", [("train", 0), ("train", 1), ("train", 2)]),
        ("validation", [("validation", 7)]),
        ("test", [("test", n) for n in range(10)]),
        ("all", [*(("train", n) for n in range(3)), ("validation", 7), *(("test", n) for n in range(10))]),
    ],
)
def test_a_fold_is_one_split_or_all_of_them(fold: Any, expected: list[tuple[str, int]]) -> None:
    # The numbers of examples repeat between the splits, as they do where each is a file of its own.
    done = assessed(Marked(), lambda model: evaluate_instructions(model, TASK, ["a"], fold))
    assert [(row.split, row.index) for row in done.rows()] == expected
    inputs = {row.prompt.partition("\n")[2] for row in done.rows()}
    assert len(inputs) == len(expected)


def test_there_must_be_something_to_evaluate() -> None:
    empty = Task("t", "number", TASK.train, ())
    with pytest.raises(ConfigError, match="no examples in the fold test; train has 3; name one of them"):
        assessed(Marked(), lambda model: evaluate_instructions(model, empty, ["a"]))
    with pytest.raises(ConfigError, match="no instructions"):
        assessed(Marked(), lambda model: evaluate_instructions(model, TASK, []))


# -- calls -------------------------------------------------------------------------------------------------------------


def test_all_calls_are_submitted_at_once_and_equal_ones_are_made_once() -> None:
    endpoint = FakeEndpoint(seconds=1)
    done = assessed(endpoint, lambda model: evaluate_instructions(model, TASK, ["a", "b", "a"]))
    assert Counter(endpoint.prompts) == {f"{text}\n{one.input}": 1 for text in "ab" for one in TASK.test}
    assert (done.calls, done.cache_hits) == (20, 10)
    assert len({tuple(row.answer for row in done.rows() if row.number == number) for number in (1, 3)}) == 1


def test_evaluating_again_makes_no_call_and_faults_change_no_score(tmp_path: Path) -> None:
    api = SimulatedAPI(
        answers=AnswerModel(0, items_of([TASK])), faults=FaultPlan(seed=3, rate=0.3, kinds=("500", "reset", "429"))
    )

    async def once() -> Assessment:
        async with Engine(cache=tmp_path / "answers.sqlite") as engine:
            return await evaluate_instructions(engine.model("m", endpoint=api.endpoint()), TASK, ["a", ""], "all")

    first = run_virtual(once)
    assert api.ledger.count() == first.calls > api.ledger.answered() == 28
    second = run_virtual(once)
    assert (second.calls, second.cache_hits, api.ledger.count()) == (0, 28, first.calls)
    assert list(second.rows()) == list(first.rows())
    assert (first.unscored, second.unscored) == (0, 0)


@pytest.mark.parametrize(
    ("budget", "message"),
    [(Budget(calls=12), "12 calls"), (Budget(seconds=2.5), "2.5 seconds"), (Budget(usd=1e-5), "\\$")],
)
def test_a_budget_is_never_exceeded(budget: Budget, message: str) -> None:
    endpoint = FakeEndpoint(seconds=1)

    async def inside() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, price=Price(1, 1), quota=Quota(concurrency=4))
            await evaluate_instructions(model, TASK, ["a", "b", "c"], budget=budget)

    with pytest.raises(BudgetExhausted, match=message):
        run_virtual(inside)
    assert len(endpoint.started) < 30
    if budget.calls is not None:
        assert len(endpoint.started) <= budget.calls


def test_a_budget_in_dollars_needs_a_price() -> None:
    endpoint = FakeEndpoint()
    with pytest.raises(ConfigError, match="no price"):
        assessed(endpoint, lambda model: evaluate_instructions(model, TASK, ["a"], budget=Budget(usd=1)))
    assert endpoint.started == []


# -- files -------------------------------------------------------------------------------------------------------------

HOSTILE = Task(
    "hostile",
    "text",
    train=(Example(0, "x", "x"),),
    test=(
        Example(4, 'say "hi", please', "hi"),
        Example(9, "two\nlines", "=1+1"),
        Example(11, "surrogate", "é"),
    ),
)
ANSWERS = {
    'say "hi", please': "hi",
    "two\nlines": '=HYPERLINK("http://evil.example","hi")',
    "surrogate": "-3\ud800",
}


def test_items_are_written_for_spreadsheets_and_exactly_for_programs(tmp_path: Path) -> None:
    def say(request: Generate, number: int) -> Answer:
        return Completion(ANSWERS[request.prompt[-1].content.partition("\n")[2]])

    done = assessed(FakeEndpoint(say), lambda model: evaluate_instructions(model, HOSTILE, ["@SUM(A1)"]))
    write_files(tmp_path, done)
    text = (tmp_path / "items.csv").read_bytes().decode()
    assert text.startswith(
        "number,split,index,prompt,answer,parsed,truth,correct,outcome,detail,first_answer\r\n"
        '1,test,4,"\'@SUM(A1)\nsay ""hi"", please",hi,hi,hi,1,scored,,\r\n'
        '1,test,9,"\'@SUM(A1)\ntwo\nlines","\'=HYPERLINK(""http://evil.example"",""hi"")",'
    )
    cells = list(csv.reader(io.StringIO(text, newline="")))
    assert [len(row) for row in cells] == [11] * 4
    assert cells[2][6] == "'=1+1"
    assert cells[3][4] == "'-3\ufffd"
    assert not any(cell[:1] in "=+-@" for row in cells for cell in row if cell)
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_bytes().splitlines()]
    assert [line["index"] for line in lines] == [4, 9, 11]
    assert lines[1]["prompt"] == "@SUM(A1)\ntwo\nlines"
    assert lines[1]["answer"] == ANSWERS["two\nlines"]
    summary = json.loads((tmp_path / "summary.json").read_bytes())
    assert summary["instructions"][0]["instruction"] == "@SUM(A1)"
    assert summary["task"]["template"] == HOSTILE.template
    write_files(tmp_path, done)
    assert (tmp_path / "items.csv").read_bytes().decode() == text  # replaced, not added to


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\nplain", "'\nplain"),
        ("  =1", "'  =1"),
        ("\x00\u200b=1", "'\x00\u200b=1"),
        ("＝1", "'＝1"),
        ("- a list", "'- a list"),
        ("-5", "-5"),
        ("+3.25", "+3.25"),
        ("-5\n", "'-5\n"),
        ("1=1", "1=1"),
        ("", ""),
        ("'=1", "'=1"),
    ],
)
def test_no_cell_is_a_formula(text: str, cell: str) -> None:
    assert codec.csv_cell(text) == cell
