"""DLN's proposals: which requests are made for prompts and hidden texts, and how the answers are read."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.optimizers.dln.proposals import hidden_requests, prompt_requests, read_hidden, read_prompt
from asyncopt.optimizers.dln.roles import HIDDEN_FORMS, POSTERIORS, PROPOSAL_FORMS, Case, Templates
from asyncopt.testing import AnswerModel, Item
from asyncopt.testing.proposals import VOCABULARY

TEMPLATES = Templates()
BATCH = [Case(f"<x{n}>", f"<out{n}>", f"<y{n}>", float(n % 2)) for n in range(8)]
STOP = TEMPLATES.stop("proposal")


def one(index: int) -> Random:
    return Random(f"prompt {index}")


def two(example: int, sample: int) -> Random:
    return Random(f"hidden {example} {sample}")


# New prompts


def test_messages_and_bases_rotate():
    requests = prompt_requests(TEMPLATES, ["current", "first", "second"], BATCH, 9, one)
    messages = TEMPLATES.messages("proposal")
    assert [request.base for request in requests] == ["current", "first", "second"] * 3
    assert [request.message for request in requests] == [*messages, *messages, messages[0]]
    for request in requests:
        text = str(request.prompt(TEMPLATES))
        assert f"# Instruction\n{request.base}\n[END]" in text
        assert request.message in text


def test_the_concise_form_has_no_messages_to_rotate():
    requests = prompt_requests(Templates(proposal_form="concise"), ["current"], BATCH, 3, one)
    assert [request.message for request in requests] == ["", "", ""]


def test_every_request_has_an_order_of_its_own_and_the_same_one_again():
    requests = prompt_requests(TEMPLATES, ["current"], BATCH, 6, one)
    assert all(sorted(request.cases, key=BATCH.index) == BATCH for request in requests)
    assert len({request.cases for request in requests}) == 6
    assert prompt_requests(TEMPLATES, ["current"], BATCH, 9, one)[:6] == requests  # whatever their number
    places = [str(requests[0].prompt(TEMPLATES)).index(case.input) for case in requests[0].cases if case.loss > 0]
    assert places == sorted(places)


@pytest.mark.parametrize(("size", "shown"), [(1, 1), (2, 1), (5, 2), (8, 4)])
def test_held_out_requests_show_half_of_the_batch(size, shown):
    batch = BATCH[:size]
    requests = prompt_requests(TEMPLATES, ["current"], batch, 20, one, half=True)
    assert {len(request.cases) for request in requests} == {shown}
    assert {case for request in requests for case in request.cases} == set(batch)  # not the same half always


def test_a_request_shrinks_from_its_end_to_one_case():
    request = prompt_requests(TEMPLATES, ["current"], BATCH[:3], 1, one)[0]
    smaller = request.shrunk()
    assert smaller is not None
    assert (smaller.base, smaller.message, smaller.cases) == (request.base, request.message, request.cases[:2])
    assert request.cases[2].input not in str(smaller.prompt(TEMPLATES))
    smallest = smaller.shrunk()
    assert smallest is not None
    assert smallest.cases == request.cases[:1]
    assert smallest.shrunk() is None


def test_no_proposals_where_the_current_prompt_is_all_that_is_asked_for():
    assert prompt_requests(TEMPLATES, ["current"], BATCH, 0, one) == []


# Hidden texts


def test_hidden_requests_go_by_example_and_sample_and_rotate_messages():
    requests = hidden_requests(TEMPLATES, ["edit"], BATCH[:2], ("p1", "p2"), 5, two)
    assert [(request.example, request.sample) for request in requests] == [(i, j) for i in range(2) for j in range(5)]
    messages = TEMPLATES.messages("posterior_edit")
    for request in requests:
        case = BATCH[request.example]
        assert request.kind == "edit"
        assert request.text == TEMPLATES.posterior("edit", case, "p1", "p2", messages[request.sample % 3])


def test_templates_of_the_mixture_are_chosen_uniformly_by_place():
    requests = hidden_requests(TEMPLATES, ["label", "prior"], BATCH, ("p1", "p2"), 100, two)
    share = Counter(request.kind for request in requests)["label"] / len(requests)
    assert abs(share - 0.5) < 4 * (0.25 / len(requests)) ** 0.5
    assert hidden_requests(TEMPLATES, ["label", "prior"], BATCH[:1], ("p1", "p2"), 9, two) == requests[:9]
    for request in requests:
        case = BATCH[request.example]
        assert (case.target in request.text) == (request.kind == "label")
        assert "p1" in request.text
        assert "p2" not in request.text


def test_only_wrong_examples_are_rewritten_and_as_they_would_be_among_all():
    every = hidden_requests(TEMPLATES, POSTERIORS, BATCH, ("p1", "p2"), 3, two)
    wrong = hidden_requests(TEMPLATES, POSTERIORS, BATCH, ("p1", "p2"), 3, two, wrong_only=True)
    assert wrong == [request for request in every if BATCH[request.example].loss > 0]
    assert {request.example for request in wrong} == {1, 3, 5, 7}


# Answers


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        (" Add the numbers. ", "Add the numbers."),
        ("\n\nAdd them.\n\nInput: 1", "Add them."),
        ("Add them. [END] More.", "Add them."),
        ("Add them.\n# Outputs", "Add them."),
        ("Add them.\nThen check.", "Add them.\nThen check."),
        ("> Add them.", "Add them."),
        ("New instruction: Add them.", "Add them."),
        ('Instruction: "Add them."', "Add them."),
        ("“Add them.”", "Add them."),
        ('Say "yes" or "no".', 'Say "yes" or "no".'),
        ("Add\u00a0the\tnumbers\x07\u200b.", "Add the numbers."),
        ("Use {{ braces }}.", "Use {{ braces }}."),
        ("\ud83d\ude00 Add \ud800.", "😀 Add \ufffd."),
        ("", None),
        (" \n ", None),
        ("# Instruction\nAdd.", None),
        ("[END]", None),
        ('""', None),
        ("Instruction:", None),
    ],
)
def test_reading_a_prompt(answer, prompt):
    assert read_prompt(answer, STOP) == prompt


def test_the_concise_form_lets_a_prompt_have_paragraphs():
    stop = Templates(proposal_form="concise").stop("proposal")
    assert read_prompt("# Task\n\nAdd them.\n[END]\nDone.", stop) == "# Task\n\nAdd them."


@pytest.mark.parametrize(
    ("answer", "hidden"),
    [
        ("Two and two.\n\n\nSo four. ", "Two and two.\nSo four."),
        ("\n \nTwo.\r\n\r\n  So four.", "Two.\n  So four."),
        ("Two.## Next", "Two."),
        ("Two [END] {{ h }}", "Two [END] {{ h }}"),
        ("# Step", None),
        ("  ", None),
    ],
)
def test_reading_a_hidden_text(answer, hidden):
    assert read_hidden(answer, TEMPLATES.stop("hidden")) == hidden


@given(st.text(alphabet=st.characters(), max_size=60) | st.text(alphabet="\n #[END]>\"' a:", max_size=40))
def test_what_is_read_has_no_stop_text_and_is_never_empty(answer):
    prompt, hidden = read_prompt(answer, STOP), read_hidden(answer, ("#",))
    assert prompt is None or (prompt.strip() == prompt != "" and not any(mark in prompt for mark in STOP))
    assert hidden is None or (hidden.strip() == hidden != "" and "#" not in hidden and "\n\n" not in hidden)


# The simulated model's answers to these requests

ITEM = Item("Box 7 holds 7 pens and 2 are lost.\nHow many are left?", "5", "number")
CASES = [Case(ITEM.question, "Count the pens twice.", ITEM.target, 1.0), Case("Other?", "1", "2", 0.0)]
MODEL = AnswerModel(3, {"box": ITEM})


def words(text: str) -> set[str]:
    return set(text.lower().replace(".", " ").split())


@pytest.mark.parametrize("form", [form for form in PROPOSAL_FORMS if form != "rewrite"])
@pytest.mark.parametrize("base", ["Count all of the pens carefully first.", ""])
def test_the_simulated_model_varies_the_prompt_that_is_shown(form, base):
    templates = Templates(proposal_form=form)
    for request in prompt_requests(templates, [base], CASES, 4, one):
        answers = [MODEL.answer(str(request.prompt(templates)), str(draw)) for draw in range(8)]
        assert answers == [MODEL.answer(str(request.prompt(templates)), str(draw)) for draw in range(8)]
        assert len(set(answers)) > 4
        for answer in answers:
            assert read_prompt(answer, templates.stop("proposal")) == answer
            assert len(words(base) - words(answer)) <= 3
            assert len(words(answer) - words(base)) <= 3


@pytest.mark.parametrize("form", HIDDEN_FORMS)
@pytest.mark.parametrize("kind", POSTERIORS)
def test_the_simulated_models_thoughts_carry_the_words_they_are_made_of(form, kind):
    templates = Templates(hidden_form=form)
    prompt = "Break it into parts and check every one."
    source = CASES[0].output if kind == "edit" else prompt
    for request in hidden_requests(templates, [kind], CASES[:1], (prompt, "Answer."), 4, two):
        answers = [MODEL.answer(request.text, str(draw)) for draw in range(8)]
        assert len(set(answers)) > 4
        for answer in answers:
            assert read_hidden(answer, templates.stop("hidden")) == answer
            assert len(words(source) - words(answer)) <= 3


def test_the_output_layer_answers_better_for_better_thoughts():
    questions = {
        str(n): Item(f"Box {n} holds {n} pens and some are lost.\nHow many are left?", "5", "number")
        for n in range(400)
    }
    model = AnswerModel(3, questions)
    worth = sorted(VOCABULARY, key=model.true_accuracy)

    def accuracy(hidden: str) -> float:
        prompts = [
            TEMPLATES.forward("Answer.", TEMPLATES.residual(item.question, hidden)) for item in questions.values()
        ]
        return sum(model.answer(prompt) == "The answer is 5." for prompt in prompts) / len(prompts)

    assert accuracy(" ".join(worth[-3:])) > accuracy(" ".join(worth[:3])) + 0.2


def test_prompts_that_were_known_before_are_answered_as_before():
    """A question with a step-by-step instruction at its end is a question, not a hidden layer's request."""
    for prompt in (
        f"{ITEM.question}\nLet's think step by step.",
        f"Q: {ITEM.question}\n\nA: Let's think step by step.",
        f"Count.\n\n{ITEM.question}\n\nAnswer:",
    ):
        assert MODEL.answer(prompt).startswith("The answer is ")


def test_a_rewrite_shows_demonstrations_and_no_case():
    templates = Templates(proposal_form="rewrite")
    requests = prompt_requests(templates, ["Sort the pens."], BATCH, 3, Random)
    prompts = [request.prompt(templates) for request in requests]
    assert len(set(map(str, prompts))) == 3  # the demonstrations stand in another order
    for prompt in prompts:
        assert prompt[-1].content.endswith("Sort the pens.")
        assert not any(case.input in message.content for case in BATCH for message in prompt)


def test_an_empty_prompt_has_no_other_words():
    templates = Templates(proposal_form="rewrite")
    (request,) = prompt_requests(templates, [""], BATCH, 1, Random)
    assert request.prompt(templates) == Templates(proposal_form="concise").proposal("", request.cases)
