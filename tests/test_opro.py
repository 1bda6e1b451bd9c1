"""The history, what OPRO asks and how it reads the answers."""

from __future__ import annotations

import math
import re
from random import Random

import pytest
from fakes import FakeEndpoint, run_virtual
from hypothesis import given
from hypothesis import strategies as st

from asyncopt import OPRO, ConfigError, Engine, Example, RandomSearch, Task
from asyncopt.optimizers.base import Seen, derived_seed
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.opro.candidates import polished
from asyncopt.optimizers.opro.domain import Style
from asyncopt.optimizers.opro.instructions import InstructionDomain
from asyncopt.optimizers.opro.options import MetaPromptOptions
from asyncopt.optimizers.opro.pairs import PairDomain
from asyncopt.optimizers.rewriting import DEMONSTRATED
from asyncopt.tasks.linear_regression import LinearRegression

EXAMPLES = tuple(Example(number, f"question {number}", f"answer {number}") for number in range(30))
TASK = Task("toy", "text", train=EXAMPLES, test=EXAMPLES[:5], initial=("Start.",))


def entry(candidate: str, score: float | None, step: int = 0, index: int = 0, complete: bool = True) -> Entry:
    return Entry(candidate, score, step, index, 10, complete)


def domain(task: Task = TASK, exemplars: int = 3) -> InstructionDomain:
    return InstructionDomain(
        task, ("meta-prompt", "rewrite", "induction"), MetaPromptOptions(exemplars=exemplars), seed=0
    )


def seen(step: int, *, maximize: bool = True) -> Seen:
    return Seen(step, History(maximize=maximize))


# -- history -----------------------------------------------------------------------------------------------------------


def test_the_view_is_the_best_worst_first_and_equals_keep_their_order() -> None:
    history = History(maximize=True)
    for name, score in [("a", 0.5), ("b", 0.1), ("c", 0.5), ("d", 0.9), ("e", 0.2)]:
        history.add(entry(name, score))
    assert [item.candidate for item in history.view(4)] == ["e", "a", "c", "d"]
    assert [item.candidate for item in history.view(10, threshold=0.3)] == ["a", "c", "d"]


def test_lower_is_better_turns_the_view_round() -> None:
    history = History(maximize=False, entries=[entry("a", 5), entry("b", 1), entry("c", 9)])
    assert [item.candidate for item in history.view(2)] == ["a", "b"]
    best = history.best()
    assert best is not None
    assert best.candidate == "b"


def test_the_first_of_equals_is_the_best() -> None:
    history = History(maximize=True, entries=[entry("a", 0.5, 0, 0), entry("b", 0.5, 1, 0), entry("c", 0.1, 2, 0)])
    best = history.best()
    assert best is not None
    assert best.candidate == "a"


def test_what_was_not_scored_or_not_wholly_is_kept_and_never_the_best() -> None:
    history = History(
        maximize=True, entries=[entry("failed", None), entry("half", 1.0, complete=False), entry("ok", 0.1)]
    )
    best = history.best()
    assert best is not None
    assert best.candidate == "ok"
    assert len(history) == history.unique == 3
    assert "half" in history
    assert History(maximize=True, entries=[entry("failed", None)]).best() is None


def test_where_nothing_is_complete_those_with_the_most_examples_are_compared() -> None:
    history = History(maximize=True)
    for index, (name, right, examples) in enumerate([("a", 4, 4), ("b", 5, 9), ("c", 6, 9)]):
        scores = {number: float(number < right) for number in range(examples)}
        history.add(Entry(name, right / examples, 0, index, examples, False), scores)
    best = history.best()
    assert best is not None
    assert best.candidate == "c"
    assert [entry.candidate for entry in history.ranked()] == ["b", "c"]


@given(st.lists(st.tuples(st.text(max_size=3), st.none() | st.floats(0, 1)), max_size=30), st.integers(1, 20))
def test_the_view_is_sorted_and_holds_nothing_worse_than_what_it_leaves_out(
    scored: list[tuple[str, float | None]], limit: int
) -> None:
    history = History(maximize=True, entries=[entry(text, score, index=i) for i, (text, score) in enumerate(scored)])
    shown = [item.score for item in history.view(limit)]
    everything = sorted(score for _, score in scored if score is not None)
    assert shown == everything[-limit:]


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_the_meta_prompt_has_the_papers_structure() -> None:
    view = [entry("Bad.", 0.104), entry("Good {{ 7*7 }}.", 0.957)]
    prompt = domain().ask("meta-prompt", view, seen(2), Random(0)).prompt
    assert isinstance(prompt, str)
    places = [
        prompt.index("ascending"),
        prompt.index("text:\nBad.\nscore:\n10\n"),
        prompt.index("text:\nGood {{ 7*7 }}.\nscore:\n96\n"),  # a candidate is a value, never a template
        prompt.index("<INS>"),
        prompt.index("input:\n<INS>\nquestion "),
        prompt.index("output:\nanswer "),
        prompt.index("different"),
        prompt.rindex("square brackets"),
    ]
    assert places == sorted(places)
    assert prompt.count("output:\n") == 3


def test_all_samples_of_a_step_share_their_exemplars_and_steps_do_not() -> None:
    samples = [(0, 0), (0, 1), (1, 0)]
    prompts = [domain().ask("meta-prompt", [], seen(step), Random(index)).prompt for step, index in samples]
    assert prompts[0] == prompts[1] != prompts[2]


def test_exemplars_may_be_left_out() -> None:
    prompt = domain(exemplars=0).ask("meta-prompt", [entry("A.", 0.5)], seen(0), Random(0)).prompt
    assert isinstance(prompt, str)
    assert "<INS>" not in prompt
    assert "output:" not in prompt


def test_a_rewrite_starts_from_one_of_the_best() -> None:
    view = [entry(f"Instruction {number}.", number / 10) for number in range(10)]
    prompts = [domain().ask("rewrite", view, seen(0), Random(seed)).prompt for seed in range(50)]
    assert {prompt[-1].content.rpartition(": ")[2] for prompt in prompts} == {f"Instruction {n}." for n in (7, 8, 9)}
    assert [turn.role for turn in prompts[0]] == ["user", "assistant"] * DEMONSTRATED + ["user"]


def test_an_empty_instruction_is_not_rewritten_but_induced() -> None:
    assert "Write the instruction" in str(domain().ask("rewrite", [entry("", 0.5)], seen(0), Random(0)).prompt)


def test_an_induction_shows_inputs_with_their_outputs() -> None:
    prompt = str(domain().ask("induction", [], seen(0), Random(0)).prompt)
    pairs = re.findall(r"Input: question (\d+)\nOutput: answer (\d+)", prompt)
    assert len(pairs) == 3
    assert all(one == other for one, other in pairs)


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "answer", "candidate"),
    [
        ("meta-prompt", "Sure! [think step by step] or [other]", "Think step by step"),
        ("meta-prompt", "no brackets at all", None),
        ("meta-prompt", "[]", None),
        ("meta-prompt", "[ **Bold** claim ]", "Bold claim"),
        ("meta-prompt", "[two\nlines] [one line]", "One line"),
        ("meta-prompt", "[Solve <INS> now]", None),
        ("meta-prompt", "[" + "x" * 501 + "]", None),
        ("rewrite", '\n\n"Say the opposite."\nMore talk', "Say the opposite."),
        ("rewrite", "Instruction: do it", "Do it"),
        ("rewrite", "  ", None),
        ("induction", "In other words: name the capital.", "Name the capital."),
        ("meta-prompt", "[a\x1b[31mb\u202e]", "31mb"),
        ("rewrite", "q\x07uiet\ud800", "Quiet\ufffd"),
    ],
)
def test_candidates_are_read_out_of_answers(style: Style, answer: str, candidate: str | None) -> None:
    assert domain().read(style, answer).text == candidate


def test_a_task_may_forbid_candidates() -> None:
    task = Task("toy", "number", train=EXAMPLES, test=(), forbid=re.compile(r"\d"))
    assert domain(task).read("meta-prompt", "[Add 3 numbers]").text is None
    assert domain(task).read("meta-prompt", "[Add three numbers]").text == "Add three numbers"


@given(st.text(), st.sampled_from(["meta-prompt", "rewrite", "induction"]))
def test_any_answer_gives_a_usable_candidate_or_none(answer: str, style: Style) -> None:
    candidate = domain().read(style, answer).text
    if candidate is not None:
        assert 0 < len(candidate) <= 500
        assert candidate.isprintable()
        assert candidate == polished(candidate)


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_the_pairs_prompt_lists_values_in_descending_order_and_hides_the_function() -> None:
    view = [entry("[18, 15]", 386334.7), entry("[17, 17]", 98.9)]
    prompt = str(PairDomain().ask("meta-prompt", view, seen(0), Random(0)).prompt)
    assert prompt.index("input:\nw=18, b=15\nvalue:\n386334\n") < prompt.index("input:\nw=17, b=17\nvalue:\n98\n")
    assert "[w, b]" in prompt
    assert "regression" not in prompt.lower()


@pytest.mark.parametrize(
    ("answer", "candidate"),
    [
        ("so [15, 14]", "[15, 14]"),
        ("[w=15, b=14]", "[15, 14]"),
        ("[w, b]", None),
        ("[15.4, 13.6]", "[15, 14]"),
        ("no", None),
    ],
)
def test_pairs_are_read_and_rounded(answer: str, candidate: str | None) -> None:
    assert PairDomain().read("meta-prompt", answer).text == candidate


def test_a_loss_that_no_double_holds_is_not_shown() -> None:
    view = [entry("[1, 1]", math.inf), entry("[2, 2]", 8.0)]
    prompt = str(PairDomain().ask("meta-prompt", view, seen(0, maximize=False), Random(0)).prompt)
    assert prompt.count("input:") == 1


def test_random_pairs_fill_the_square_and_the_truth_ends_the_search() -> None:
    pairs = LinearRegression(w_true=15, b_true=14)
    drawn = {pairs.random(Random(seed)) for seed in range(3000)}
    assert len(drawn) == 121
    assert pairs.solved("[15, 14]")
    assert not pairs.solved("[15, 15]")


# -- settings ----------------------------------------------------------------------------------------------------------


def test_the_papers_values_are_the_defaults() -> None:
    opro = OPRO()
    assert (opro.steps, opro.samples_per_step, opro.history_size, opro.exemplars, opro.temperature) == (
        200,
        8,
        20,
        3,
        1.0,
    )
    assert opro.styles == ("meta-prompt",)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": -1}, "at least 0"),
        ({"samples_per_step": 0}, "at least 1"),
        ({"attempts": 0}, "at least 1"),
        ({"styles": ()}, "meta-prompt, rewrite, induction"),
        ({"styles": ("odd",)}, "meta-prompt, rewrite, induction"),
        ({"temperature": -1.0}, "at least 0"),
        ({"final_temperature": math.nan}, "at least 0"),
        ({"meta_prompt": "gtp"}, "instruction-tuned, gpt, pre-trained"),
        ({"history_order": "up"}, "ascending, descending, random"),
        ({"exemplar_choice": "hard"}, "random, constant, accumulative_most_frequent, current_most_frequent"),
        ({"score_buckets": 0}, "at least 1"),
        ({"score_buckets": True}, "at least 1"),
        ({"score_buckets": 20.0}, "at least 1"),
        ({"score_buckets": "inf"}, "infinite"),
        ({"faithful": True, "lag": 1}, "lag"),
        ({"faithful": True, "racing": 0.05}, "racing"),
        ({"faithful": True, "styles": ("meta-prompt", "rewrite")}, "styles"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        OPRO(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "option",
    [{"meta_prompt": "gpt"}, {"history_order": "random"}, {"score_buckets": 20}, {"exemplar_choice": "constant"}],
)
def test_options_of_instructions_are_refused_where_there_are_none(option: dict[str, object]) -> None:
    async def check() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint())
            OPRO(**option).check(TASK, model, model)  # type: ignore[arg-type]
            OPRO(faithful=True).check(LinearRegression(), None, model)
            with pytest.raises(ConfigError, match=next(iter(option))):
                OPRO(**option).check(LinearRegression(), None, model)  # type: ignore[arg-type]

    run_virtual(check)


def test_models_are_asked_for_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="--proposer"):
        OPRO().check(TASK, None, None)
    with pytest.raises(ConfigError, match="random"):
        RandomSearch().check(TASK, None, None)


def test_seeds_depend_on_all_they_are_made_of() -> None:
    seeds = {derived_seed(s, t, p, i) for s in (0, 1) for t in (0, 1) for p in ("a", "b") for i in (0, 1)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**31 for seed in seeds)
