"""The simulated model: its hidden accuracies, its proposals, and what it knows."""

import math
import re
from collections.abc import Mapping
from importlib.resources import files
from random import Random

import pytest

from asyncopt.errors import ConfigError
from asyncopt.tasks import Example, Task, load
from asyncopt.tasks.datasets import tasks_in
from asyncopt.testing import AnswerModel, Item, SimulatedAPI, items_of
from asyncopt.testing.process import known_items
from asyncopt.testing.proposals import VOCABULARY

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


def test_a_nonce_comes_back_and_is_no_part_of_the_instruction():
    model = AnswerModel(5, QUESTIONS)
    for item in list(QUESTIONS.values())[:100]:
        plain = model.answer(f"Think.\n{item.question}")
        assert model.answer(f"Think. nonce=a-7_B\n{item.question}") == f"{plain} nonce=a-7_B"
    assert model.answer("hello nonce: zz9").endswith(" nonce=zz9")


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


def test_proposals_start_from_the_best_of_what_is_shown():
    model = AnswerModel(0)
    good = {f"{start} yellow elephant walks through my garden.": 0.9 for start in ("A", "The", "This")}
    bad = {f"{start} blue whale swims below our boat.": 0.2 for start in ("A", "The", "This")}
    for sample in range(20):
        proposal = set(model.answer(text_prompt(bad | good), f"{sample}")[1:-2].lower().split())
        assert len(proposal & {"yellow", "elephant", "walks", "garden", "my"}) >= 2
        assert not proposal & {"blue", "whale", "swims", "boat", "our"}


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


# Known questions


def test_items_are_made_of_all_splits_of_tasks():
    task = Task("t", "text", (Example(0, "a", "b"),), (Example(0, "c", "d"),), (Example(0, "e", "f"),))
    assert list(items_of([task]).values()) == [Item("a", "b", "text"), Item("e", "f", "text"), Item("c", "d", "text")]


def test_every_bundled_word_is_known_whatever_the_seed_of_the_study():
    known = {item.question for item in known_items(None).values()}
    words = files("asyncopt.tasks").joinpath("words")
    for name in ("antonym", "capital"):
        lines = words.joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines()
        assert {line.split("\t")[0] for line in lines} <= known


def graded_share(model: AnswerModel, task: Task, instruction: str) -> float:
    examples = (*task.train, *task.validation, *task.test)
    grades = [task.grade(model.answer(task.render(instruction, example.input)), example) for example in examples]
    return sum(grades) / len(grades)


@pytest.mark.parametrize("name", ["antonym", "capital"])
def test_bundled_tasks_are_graded_at_the_hidden_accuracy(name):
    model = AnswerModel(4, known_items(None))
    task = load(name)
    for instruction in ("", "Think twice.", "Answer with one word and check it."):
        accuracy = model.true_accuracy(task.render(instruction, ""))
        assert abs(graded_share(model, task, instruction) - accuracy) < 4 * math.sqrt(accuracy * (1 - accuracy) / 171)


def test_published_tasks_are_graded_at_the_hidden_accuracy(data):
    model = AnswerModel(4, known_items(data))
    shares = []
    for name in tasks_in(data):
        task = load(name, data=data)
        accuracy = model.true_accuracy(task.render("Check it.", ""))
        share = graded_share(model, task, "Check it.")
        count = len(task.train) + len(task.validation) + len(task.test)
        assert abs(share - accuracy) < 4 * math.sqrt(accuracy * (1 - accuracy) / count), name
        shares.append(share)
    assert len(shares) == 29


def test_a_folder_without_published_data_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="has no folder aqua or bbh or gsm8k or mmlu or multiarith"):
        known_items(tmp_path)


def test_of_several_questions_the_last_one_is_answered():
    items = items_of(
        [
            Task(
                "sums",
                "number",
                tuple(Example(n, f"What is {n} and {n} {'in all ' * n}?", str(2 * n)) for n in range(9)),
                (),
            )
        ]
    )
    model = AnswerModel(1, items)
    questions = [item.question for item in items.values()]
    for asked in questions:
        solved = [question for question in questions if question != asked][:4]
        prompt = "\n\n".join(f"Q: {question}\nA: {items[f'sums: {question}'].target}" for question in solved)
        assert next(iter(model.chances(f"{prompt}\n\nQ: {asked}\nA:"))) == items[f"sums: {asked}"].target
