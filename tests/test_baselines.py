"""What DLN is held against: which demonstrations stand before a query, and reasoning before an answer."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEndpoint, run_virtual
from test_cli import KEY, Server, call

from asyncopt import Completion, ConfigError, Engine, Example, Generate, MemoryCache, Task
from asyncopt.assess import Assessment, evaluate_instructions
from asyncopt.baselines import (
    CHOICES,
    FIRST_WORDS,
    Drawn,
    EmbeddingNearest,
    FewShot,
    LexicalNearest,
    chain_of_thought,
    choice_of,
)
from asyncopt.cli import main
from asyncopt.cli.items import write_files
from asyncopt.evaluation import PROMPTED
from asyncopt.values import Usage

COLOURS = ("red", "green", "blue")
TRAIN = tuple(Example(n, f"thing {n}", COLOURS[0 if n < 20 else 1 if n < 27 else 2]) for n in range(30))
TEST = tuple(Example(n, f"object {n}", COLOURS[n % 3]) for n in range(6))
TASK = Task("colours", "text", train=TRAIN, test=TEST, classes=COLOURS, template="{{ instruction }}\n{{ input }}\nA:")


def targets(order: Sequence[int]) -> Counter[str]:
    return Counter(TRAIN[place].target for place in order)


# -- drawn demonstrations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shots", [3, 6, 9])
def test_demonstrations_come_from_all_classes_in_turn(shots: int, seed: int) -> None:
    drawn = Drawn(TASK, seed).pick("", shots)
    assert targets(drawn) == dict.fromkeys(COLOURS, shots // 3)
    assert len(set(drawn)) == shots


def test_a_class_that_is_used_up_leaves_its_turns_to_the_others() -> None:
    drawn = Drawn(TASK, 0).pick("", 16)
    counts = targets(drawn)
    assert (counts["blue"], {counts["red"], counts["green"]}) == (3, {6, 7})
    assert sorted(Drawn(TASK, 0).pick("", 30)) == list(range(30))


def test_without_classes_nothing_is_balanced() -> None:
    drawn = [Drawn(replace(TASK, classes=()), seed).pick("", 6) for seed in range(20)]
    assert len({tuple(sorted(targets(one).items())) for one in drawn}) > 1


def test_the_seed_decides_the_draw_and_the_query_does_not() -> None:
    assert Drawn(TASK, 3).pick("a", 9) == Drawn(TASK, 3).pick("b", 9)
    assert len({tuple(Drawn(TASK, seed).pick("a", 9)) for seed in range(8)}) == 8


# -- nearest demonstrations --------------------------------------------------------------------------------------------

TEXTS = ["the red apple", "the green apple tree", "a red red car", "the sky"]


def test_the_lexically_nearest_are_those_of_a_sum_by_hand() -> None:
    def vector(text: str) -> dict[str, float]:
        words = [word for word in text.split() if any(word in one.split() for one in TEXTS)]
        weights = {}
        for word in words:
            texts_with = sum(word in one.split() for one in TEXTS)
            weights[word] = (1 + log(words.count(word))) * (1 + log(5 / (1 + texts_with)))
        length = sqrt(sum(weight**2 for weight in weights.values()))
        return {word: weight / length for word, weight in weights.items()}

    def cosine(one: str, other: str) -> float:
        left, right = vector(one), vector(other)
        return sum(left[word] * right.get(word, 0) for word in left)

    query = "red apple unknown"
    by_hand = sorted(range(4), key=lambda place: -cosine(query, TEXTS[place]))
    assert by_hand == [0, 2, 1, 3]
    assert LexicalNearest(TEXTS).pick(query, 4) == by_hand
    assert LexicalNearest(TEXTS).pick(query, 2) == by_hand[:2]


def test_case_and_signs_do_not_matter_and_equals_keep_their_order() -> None:
    nearest = LexicalNearest(["Sky!", "sea", "sky?", ""])
    assert nearest.pick("SKY", 4) == [0, 2, 1, 3]
    assert nearest.pick("", 4) == nearest.pick("none of them", 4) == [0, 1, 2, 3]


PLACES = {
    "north": (0.0, 2.0),
    "north-east": (3.0, 3.0),
    "east": (5.0, 0.0),
    "south": (0.0, -1.0),
    "nowhere": (0.0, 0.0),
}


def encode(texts: Sequence[str]) -> np.ndarray:
    return np.array([PLACES[text] for text in texts])


@pytest.mark.parametrize(
    ("query", "order"),
    [("north", ["north", "north-east", "east"]), ("east", ["east", "north-east", "north"])],
)
def test_embeddings_are_compared_by_angle_and_not_by_length(query: str, order: list[str]) -> None:
    texts = ["east", "north", "north-east", "south"]
    assert [texts[place] for place in EmbeddingNearest(texts, encode).pick(query, 3)] == order


def test_an_embedding_of_nothing_is_as_near_to_one_as_to_another() -> None:
    assert EmbeddingNearest(["east", "nowhere", "south"], encode).pick("nowhere", 3) == [0, 1, 2]


def test_kate_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'asyncopt\[kate\]'"):
        choice_of("kate", TASK, 0)
    with pytest.raises(ConfigError, match="random, lexical, kate"):
        choice_of("nearest", TASK, 0)


def test_a_label_says_which_choice_is_not_the_papers() -> None:
    labels = {name: choice_of(name, TASK, 0).label for name in CHOICES if name != "kate"}
    assert "not the paper" in labels["lexical"]
    assert "classes" in labels["random"]
    assert "classes" not in Drawn(replace(TASK, classes=()), 0).label


# -- the prompt --------------------------------------------------------------------------------------------------------


def text_of(request: Generate | None) -> str:
    assert request is not None
    return request.prompt[-1].content


def test_demonstrations_are_prompts_without_instruction_and_the_query_has_it() -> None:
    program = FewShot(TASK, 3, Drawn(TASK, 0))
    shown = program.demonstrations(TASK, TEST[0].input)
    parts = [f"{one.input}\nA: {one.target}" for one in shown]
    prompt = text_of(program.first(TASK, "Say {{ it }}.", TEST[0]))
    assert prompt == "\n\n".join([*parts, "Say {{ it }}.\nobject 0\nA:"])
    assert program.first(TASK, "", TEST[0]).sampling == PROMPTED.first(TASK, "", TEST[0]).sampling


def test_after_a_bare_question_the_answer_has_its_own_line() -> None:
    task = replace(TASK, template="{{ instruction }}{{ input }}")
    program = FewShot(task, 1, Drawn(task, 0))
    (shown,) = program.demonstrations(task, "object 0")
    assert text_of(program.first(task, "", TEST[0])) == f"{shown.input}\n{shown.target}\n\nobject 0"


@pytest.mark.parametrize("choice", [Drawn(TASK, 0), LexicalNearest([one.input for one in TRAIN])])
def test_a_query_is_never_among_its_own_demonstrations(choice: Drawn | LexicalNearest) -> None:
    program = FewShot(TASK, 5, choice)
    for query in TRAIN:
        shown = program.demonstrations(TASK, query.input)
        assert len({one.id for one in shown}) == 5
        assert query not in shown
        assert text_of(program.first(TASK, "", query)).count(f"{query.input}\n") == 1


def test_neither_are_examples_with_the_same_input() -> None:
    twins = tuple(Example(30 + n, "thing 1", "red") for n in range(4))
    task = replace(TASK, train=TRAIN + twins)
    program = FewShot(task, 8, LexicalNearest([one.input for one in task.train]))
    assert {one.input for one in program.demonstrations(task, "thing 1")}.isdisjoint({"thing 1"})
    assert len(program.demonstrations(task, "thing 1")) == 8


@pytest.mark.parametrize(
    ("task", "shots", "said"),
    [
        (TASK, 0, "at least 1"),
        (TASK, 30, "enough for 29"),
        (replace(TASK, train=()), 1, "0 training examples"),
        (replace(TASK, kind="choice", answers="opro_compat", classes=()), 2, "choose strict"),
    ],
)
def test_demonstrations_that_cannot_be_are_refused(task: Task, shots: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FewShot(task, shots, Drawn(task, 0))


# -- whole evaluations -------------------------------------------------------------------------------------------------


def assessed(use: Callable[[Engine], object]) -> object:
    async def inside() -> object:
        async with Engine(cache=None) as engine:
            return await use(engine)  # type: ignore[misc]

    return run_virtual(inside)


def copies_a_demonstration(request: Generate, number: int) -> Completion:
    """Answers as the last demonstration does; its tokens are its words."""
    prompt = request.prompt[-1].content
    *_, last, _ = prompt.split("\n\n")
    return Completion(last.rpartition("A: ")[2], usage=Usage(len(prompt.split()), 1))


def test_few_shot_scores_are_what_the_demonstrations_make_of_the_model(tmp_path: Path) -> None:
    endpoint, cache = FakeEndpoint(copies_a_demonstration), MemoryCache()

    async def once() -> Assessment:
        async with Engine(cache=cache) as engine:
            program = FewShot(TASK, 3, Drawn(TASK, 1))
            return await evaluate_instructions(engine.model("m", endpoint=endpoint), TASK, ["", "Go."], program=program)

    done = run_virtual(once)
    last = TRAIN[Drawn(TASK, 1).pick("", 3)[-1]].target
    assert [row.correct for row in done.rows()] == 2 * [float(one.target == last) for one in TEST]
    assert Counter(row.prompt for row in done.rows()) == Counter(endpoint.prompts)  # what was sent, with demonstrations
    assert done.calls == len(endpoint.prompts) == 12
    assert done.tokens == sum(len(prompt.split()) + 1 for prompt in endpoint.prompts)
    assert done.to_json()["how"] == "3-shot, drawn from all classes in turn"
    write_files(tmp_path, done)
    assert json.loads((tmp_path / "summary.json").read_bytes())["tokens"] == done.tokens
    again = run_virtual(once)
    assert (again.calls, again.cache_hits, len(endpoint.prompts)) == (0, 12, 12)
    assert again.scores() == done.scores()


def test_demonstrations_stand_before_both_calls_where_a_cue_asks_for_the_answer() -> None:
    task = replace(TASK, final_answer_cue="So it is")
    program = FewShot(task, 2, Drawn(task, 0))
    first = text_of(program.first(task, "Go.", TEST[0]))
    second = program.after(task, "Go.", TEST[0], [Completion("Hm.")])
    assert text_of(second) == f"{first} Hm. So it is"
    assert program.after(task, "Go.", TEST[0], [Completion("Hm."), Completion("red")]) is None


@pytest.mark.parametrize(
    ("kind", "target", "reply", "cue"),
    [
        ("number", "42", "42.", "Therefore, the answer (arabic numerals) is"),
        ("boolean", "Yes", "Yes, it is.", "Therefore, the answer is"),
        ("choice", "(B)", "B.", "Therefore, the answer is"),
    ],
)
def test_a_chain_of_thought_is_two_calls_and_the_second_answer_is_graded(
    kind: str, target: str, reply: str, cue: str
) -> None:
    task = Task("t", kind, (), (Example(0, "Which? (A) 41 (B) 42", target),), max_tokens=3, stop=("\n",))  # type: ignore[arg-type]

    def say(request: Generate, number: int) -> Completion:
        asked = request.prompt[-1].content.endswith(cue)
        assert request.sampling.max_tokens == (50 if asked else 256)
        assert request.sampling.stop == ()
        return Completion(reply if asked else "Is it (A), 41? No.")

    endpoint = FakeEndpoint(say)
    chained = chain_of_thought(task)
    done = assessed(lambda engine: evaluate_instructions(engine.model("m", endpoint=endpoint), chained, [FIRST_WORDS]))
    assert isinstance(done, Assessment)
    (row,) = done.rows()
    assert (row.correct, row.first_answer) == (1, "Is it (A), 41? No.")
    assert endpoint.prompts[1] == f"{endpoint.prompts[0]} Is it (A), 41? No. {cue}"
    assert cue in done.how


def test_a_cue_and_a_length_of_the_tasks_own_are_kept() -> None:
    task = chain_of_thought(replace(TASK, final_answer_cue="Thus", max_tokens=900))
    assert (task.final_answer_cue, task.max_tokens) == ("Thus", 900)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server("--latency", "0")
    yield server
    server.close()


def last_event(environment: dict[str, str], *command: str) -> dict[str, Any]:
    return dict(json.loads(call(environment, *command, "--json").stdout.splitlines()[-1]))


@pytest.mark.real
def test_the_command_line_puts_demonstrations_first_and_pays_once(server: Server, tmp_path: Path) -> None:
    environment = os.environ | {"ASYNCOPT_CACHE_DIR": str(tmp_path / "cache"), "OPENAI_API_KEY": KEY}
    command = ["eval", "antonym", "", "--scorer", "mock", "--base-url", server.url, "--limit", "12", "--shots", "10"]
    first = last_event(environment, *command)
    assert (first["how"], first["calls"], first["unscored"]) == ("10-shot, drawn at random", 12, 0)
    assert first["tokens"] > 0
    # Ten demonstrations and the query, whose outputs are one fewer.
    assert all(
        re.fullmatch(r"(Input: .+\nOutput: .+\n\n){10}Input: .+\nOutput:", one["prompt"]) for one in server.ledger()
    )
    lexical = call(environment, *command, "--shots-by", "lexical").stdout
    assert "10-shot, lexically nearest (TF-IDF; not the paper's embeddings)" in lexical.splitlines()[0]
    before = len(server.ledger())
    again = last_event(environment, *command)
    assert (again["calls"], again["instructions"], len(server.ledger())) == (0, first["instructions"], before)
    chained = last_event(environment, "eval", "antonym", *command[3:9], "--baseline", "cot")
    assert (chained["calls"], chained["instructions"][0]["instruction"]) == (24, FIRST_WORDS)


BASE = ["--scorer", "m", "--base-url", "http://127.0.0.1:9/v1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "--shots-by", "lexical"], "add --shots"),
        (["", "--shots", "5", "--shots-by", "nearest"], "random, lexical, kate"),
        (["", "--shots", "40"], "ask for fewer"),
        (["", "--shots", "5", "--baseline", "cot"], "zero-shot"),
        (["--baseline", "ape"], "it must be cot"),
        (["--shots", "5"], "no instruction"),
    ],
)
def test_wrong_baselines_are_said_before_the_first_call(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["asyncopt", "eval", "antonym", *arguments, *BASE])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert (ended.value.code, message in error) == (2, True), error
