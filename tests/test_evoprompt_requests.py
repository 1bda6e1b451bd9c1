"""What EvoPrompt asks a model and reads from it, what the simulated model says, and what a run keeps of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from evoprompt_toy import POOL, TASK, Toy, run

from asyncopt import Study, load_run
from asyncopt.optimizers import EvoPromptDE, EvoPromptGA
from asyncopt.optimizers.evoprompt.options import Template
from asyncopt.optimizers.evoprompt.pool import SENTENCES
from asyncopt.optimizers.evoprompt.requests import crossover, differential, final_prompt, paraphrase, read
from asyncopt.pages.document import document
from asyncopt.testing import AnswerModel
from asyncopt.testing.evolution import shown_in as seen_by_the_model

GA = EvoPromptGA(popsize=5, generations=3, pool=POOL, order="serial_best")
DE = EvoPromptDE(popsize=5, generations=3, pool=POOL)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("1. Both.\n2. <prompt>Count twice.</prompt>", "Count twice."),
        ("<prompt>First.</prompt> then <prompt>Last.</prompt>", "Last."),
        ("<prompt>Draft.</prompt>\n<prompt> Spread\nover lines. </prompt> Bye.", "Spread over lines."),
        ("<prompt>Never closed, and so the rest", "Never closed, and so the rest"),
        ("<prompt>One.</prompt> of <prompt>", ""),
        ("<prompt>Up to the first.</prompt> of two</prompt>", "Up to the first."),
        ("</prompt> before <prompt>Real.</prompt>", "Real."),
        ('<prompt>"Quoted."</prompt>', '"Quoted."'),
        ('"Without tags."', "Without tags."),
        ('"Half quoted.', "Half quoted."),
        ("Say it\n  plainly.", "Say it plainly."),
        ('"', ""),
        ("", ""),
        ("<PROMPT>Not a tag</PROMPT>", "<PROMPT>Not a tag</PROMPT>"),
    ],
)
def test_the_final_prompt_is_what_stands_in_the_last_tags(answer: str, text: str) -> None:
    assert final_prompt(answer) == text


@pytest.mark.parametrize(
    ("answer", "text", "reason"),
    [
        ("<prompt>count **twice**.</prompt>", "Count twice.", ""),
        ("<prompt> </prompt>", None, "empty"),
        ("<prompt>Add 3 and 4.</prompt>", None, "forbidden by the task"),
        ("<prompt>" + "long " * 101 + "</prompt>", None, "too long"),
        ("It is all over.</prompt>", None, "with a mark of the format"),
        ("<prompt>Write <INS>.</prompt>", None, "with a mark of the format"),
        ("<prompt>{{ config }} \x00\x1b[31m</prompt>", "{{ config }} [31m", ""),
    ],
)
def test_an_answer_is_a_candidate_or_says_why_not(answer: str, text: str | None, reason: str) -> None:
    task = replace(TASK, forbid=re.compile(r"\d (?!m)"))
    reading = read(answer, task)
    assert (reading.text, reading.reason) == (text, reason)


# -- asking ------------------------------------------------------------------------------------------------------------


def test_a_crossover_shows_a_worked_example_and_then_both_parents() -> None:
    request = crossover("Add it up.", "Think {{ hard }}.")
    example, turn = request.prompt.split("Your turn")
    assert example.count("<prompt>") == 2  # in the steps, and the example's result
    assert turn.endswith("\n\nPrompt 1: Add it up.\nPrompt 2: Think {{ hard }}.\n\n1. ")
    assert [line[:2] for line in turn.splitlines() if line[:1].isdigit()] == ["1.", "2.", "1."]
    assert (request.source, request.parents) == ("crossover", ("Add it up.", "Think {{ hard }}."))
    assert crossover("Same.", "Same.").parents == ("Same.",)


@pytest.mark.parametrize(
    ("template", "steps", "end", "parents"),
    [
        ("v1", 4, "Prompt 1: A.\nPrompt 2: B.\nPrompt 3: C.\nBasic Prompt: M.\n\n1. ", ("M.", "A.", "B.", "C.")),
        ("v2", 3, "Prompt 1: A.\nPrompt 2: B.\nBasic Prompt: M.\n\n1. ", ("M.", "A.", "B.")),
        ("v3", 3, "Prompt 1: A.\nPrompt 2: B.\nPrompt 3: C.\nBasic Prompt: M.\n\n1. ", ("M.", "A.", "B.", "C.")),
    ],
)
def test_a_differential_shows_what_its_template_says(
    template: Template, steps: int, end: str, parents: tuple[str, ...]
) -> None:
    request = differential("M.", "A.", "B.", "C.", template)
    example, turn = request.prompt.split("Your turn")
    assert request.prompt.endswith(end)
    assert request.parents == parents
    for part in (example, turn):
        numbers = [line[:2] for line in part.splitlines() if line[:1].isdigit()]
        assert numbers[:steps] == [f"{number}." for number in range(1, steps + 1)]
    assert example.count("<prompt>") == 2
    assert ("differ" in example) == (template != "v3")


def test_a_model_that_only_repeats_the_steps_has_made_no_prompt() -> None:
    for prompt in (crossover("A.", "B.").prompt, *(differential(*"MABC", v).prompt for v in get_args(Template))):
        steps = [line for line in prompt.split("Your turn")[1].splitlines() if line[:1].isdigit()]
        assert read("\n".join(steps), TASK).reason == "empty"


def test_the_pool_suits_any_task() -> None:
    assert len(set(SENTENCES)) == 20
    assert all(read(f"<prompt>{sentence}</prompt>", TASK).text == sentence for sentence in SENTENCES)
    assert not any(char.isdigit() for sentence in SENTENCES for char in sentence)


# -- the simulated model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        crossover("Alpha beta gamma delta.", "One two three four.").prompt,
        differential("Alpha beta.", "Gamma delta.", "One two.", "Three four.", "v1").prompt,
        differential("Alpha beta.", "Gamma delta.", "One two.", "Three four.", "v2").prompt,
    ],
)
def test_the_simulated_model_crosses_what_it_is_shown(prompt: str) -> None:
    model = AnswerModel(0)
    children = [final_prompt(model.answer(prompt, str(draw))) for draw in range(100)]
    assert len(set(children)) > 80
    shown = {word for text in seen_by_the_model(prompt) for word in text.lower().rstrip(".").split()}
    kept = [shown & set(child.lower().rstrip(".").split()) for child in children]
    assert set().union(*kept) == shown
    assert sum(map(len, kept)) / len(kept) > 1
    assert model.answer(prompt, "0") == model.answer(prompt, "0")


def test_the_simulated_model_paraphrases() -> None:
    answer = AnswerModel(0).answer(paraphrase("Compute the answer with care and check it.").prompt, "1")
    words = {"compute", "the", "answer", "with", "care", "and", "check", "it"}
    assert len(words & set(final_prompt(answer).lower().rstrip(".").split())) >= 4


def test_other_requests_are_none_of_evoprompt() -> None:
    assert seen_by_the_model("Prompt 1: A.\nPrompt 2: B.\n\n1. ") == []
    assert seen_by_the_model(crossover("A.", "B.").prompt + "Then answer.") == []


# -- what a run keeps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [GA, DE])
def test_parents_are_what_the_request_showed(optimizer: Any, tmp_path: Path) -> None:
    endpoint = Toy()
    study, _ = run(optimizer, endpoint, directory=tmp_path / "run", trace=True)
    read_back = load_run(tmp_path / "run")
    children = [one for one in read_back.candidates if one.step >= 0]
    assert [one.candidate for one in read_back.candidates] == [one.candidate for one in study.history.entries]
    asked = [frozenset(shown) for shown in endpoint.asked]
    assert {frozenset(one.parents) for one in children} <= set(asked)
    sizes = {"paraphrase": {1}, "crossover": {1, 2}, "differential": {3, 4}}
    assert all(len(one.parents) in sizes[one.source] for one in children)
    assert all(one.parents == () for one in read_back.candidates if one.step < 0)
    assert all(one.closest in one.parents for one in children)
    assert read_back.planned == study.optimizer.steps
    assert [step.step for step in read_back.steps] == list(range(-1, study.optimizer.steps))


def test_without_a_trace_parents_are_the_best_that_were_there(tmp_path: Path) -> None:
    run(DE, directory=tmp_path / "run")
    children = [one for one in load_run(tmp_path / "run").candidates if one.step > 0]
    assert all(len(one.parents) > 4 for one in children)


def repeated(directory: Path) -> Study:
    study, _ = run(GA, directory=directory, trace=True)
    assert len(study.history.entries) > study.history.unique
    return study


def test_a_candidate_that_joined_twice_has_its_scores_in_records_tables_and_pages(tmp_path: Path) -> None:
    study = repeated(tmp_path / "run")
    read_back = load_run(tmp_path / "run")
    by_text: dict[str, set[Any]] = {}
    for one in read_back.candidates:
        by_text.setdefault(one.candidate, set()).add((one.score, one.scores, one.outcomes))
    assert all(len(told) == 1 for told in by_text.values())
    assert all(one.scores is not None and len(one.scores) == 10 for one in read_back.candidates)
    rows = list(read_back.table("candidates"))
    assert len(rows) == len(study.history.entries)
    trained = [row for row in read_back.table("evaluations") if row["fold"] == "train"]
    assert len(trained) == study.history.unique * 10
    (tmp_path / "run" / "trace.jsonl").unlink()
    untraced = load_run(tmp_path / "run")
    assert len([row for row in untraced.table("evaluations") if row["fold"] == "train"]) == study.history.unique * 10
    page = document(read_back)
    json.dumps(page)
    best = read_back.best
    assert best is not None
    assert page["candidates"][0]["text"] == best.candidate
