"""The three forms of the meta-prompt: what they show, in which order, how an answer is read; and whole runs with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fakes import FakeEndpoint, run_virtual
from hypothesis import given
from hypothesis import strategies as st

from asyncopt import OPRO, Engine, Example, Quota, Study, Task, codec
from asyncopt.endpoints.protocol import Answer
from asyncopt.events import Event, Note
from asyncopt.optimizers.base import Seen
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.opro.instructions import InstructionDomain
from asyncopt.optimizers.opro.options import MetaPromptOptions
from asyncopt.result import Result
from asyncopt.testing import AnswerModel, SimulatedAPI, items_of
from asyncopt.values import Completion, Generate

EXAMPLES = tuple(Example(number, f"What is {number} plus 3?", str(number + 3)) for number in range(30))
SCORES = {"": 0.104, "Add.": 0.557, "Think twice.": 0.557, "Count up.": 0.9999}  # 0.557: a tie, in the order of trial

FORMS = ("instruction-tuned", "gpt", "pre-trained")
# Where the instruction stands, the form, and what a proposal stands between in the answer.
TAGS = [
    ("Q_begin", "instruction-tuned", "[", "]"),
    ("A_begin", "instruction-tuned", "[", "]"),
    ("Q_end", "gpt", "<INS>", "</INS>"),
    ("A_begin", "gpt", "<Start>", "</Start>"),
    ("Q_begin", "pre-trained", "<TEXT>", "</TEXT>"),
]


def task_of(position: str = "Q_begin", frame: bool | None = None, name: str = "bbh/word_sorting", **more: Any) -> Task:
    frame = position in ("before_Q", "A_begin") if frame is None else frame
    parts: dict[str, Any] = {"train": EXAMPLES[:20], "test": EXAMPLES[20:], "initial": ("Start.",)} | more
    return Task(name, "number", position=position, frame=frame, **parts)  # type: ignore[arg-type]


def history_of(scores: Mapping[str, float] = SCORES) -> History:
    entries = [Entry(text, score, number - 1, 0, 20) for number, (text, score) in enumerate(scores.items())]
    return History(maximize=True, entries=entries)


def domain_of(task: Task, seed: int = 0, **options: Any) -> InstructionDomain:
    return InstructionDomain(task, ("meta-prompt",), MetaPromptOptions(**options), seed)


def asked(
    task: Task | None = None,
    history: History | None = None,
    *,
    step: int = 0,
    seed: int = 0,
    limit: int = 20,
    threshold: float | None = None,
    **options: Any,
) -> str:
    """The meta-prompt after this history."""
    history = history_of() if history is None else history
    domain = domain_of(task_of() if task is None else task, seed, **options)
    view = history.view(limit, threshold)
    return str(domain.ask("meta-prompt", view, Seen(step, history), Random(0)).prompt)


def shown_texts(prompt: str) -> list[str]:
    """The instructions in a meta-prompt of any form, in its order."""
    tagged = re.findall(r"<TEXT>(.*?)</TEXT>", prompt, re.DOTALL)
    return tagged or re.findall(r"^text:\n(.*?)\n(?:score:|\n)", prompt, re.MULTILINE | re.DOTALL)


def in_order(prompt: str, *parts: str) -> bool:
    places = [prompt.index(part) for part in parts]
    return all(one < other for one, other in pairwise(places))


# -- the form for instruction-tuned models -----------------------------------------------------------------------------


def test_the_default_meta_prompt_is_to_the_byte_what_recorded_runs_saw() -> None:
    examples = (Example(0, "What is 2?", "2"),)
    task = Task("toy", "number", train=examples, test=())
    assert asked(task, history_of({"Bad.": 0.1, "Good.": 0.955}), exemplars=3) == (
        "Below are instructions together with the scores they reached. They stand in ascending order of their scores, "
        "which lie between 0 and 100; a higher score means a better instruction.\n\n"
        "text:\nBad.\nscore:\n10\n\ntext:\nGood.\nscore:\n96\n\n"
        "The following exercises show how an instruction is used. It takes the place of <INS> in the input; the input "
        "is then answered, and the answer is right if it agrees with the output that is given here, and wrong if it "
        "does not.\n\ninput:\n<INS>\nWhat is 2?\noutput:\n2\n\n"
        "Write a new instruction that is different from the ones above and reaches a score as high as possible. Write "
        "it in square brackets."
    )


@pytest.mark.parametrize(
    ("position", "frame", "input_block"),
    [
        ("Q_begin", False, "input:\n<INS>\nWhat is 0 plus 3?\noutput:\n3\n"),
        ("Q_end", False, "input:\nWhat is 0 plus 3?\n<INS>\noutput:\n3\n"),
        ("before_Q", True, "input:\n<INS>\nQ: What is 0 plus 3?\n\nA:\noutput:\n3\n"),
        ("Q_begin", True, "input:\nQ: <INS>\nWhat is 0 plus 3?\n\nA:\noutput:\n3\n"),
        ("Q_end", True, "input:\nQ: What is 0 plus 3?\n<INS>\n\nA:\noutput:\n3\n"),
        ("A_begin", True, "input:\nQ: What is 0 plus 3?\n\nA: <INS>\noutput:\n3\n"),
    ],
)
def test_exemplars_have_the_placeholder_where_the_instruction_goes(
    position: str, frame: bool, input_block: str
) -> None:
    assert input_block in asked(task_of(position, frame, train=EXAMPLES[:1]))


# -- the form for GPT models -------------------------------------------------------------------------------------------


def test_the_gpt_form_has_the_papers_structure() -> None:
    prompt = asked(task_of("Q_begin", train=EXAMPLES[:1]), meta_prompt="gpt")
    assert in_order(
        prompt,
        "instruction <INS>",
        "between 0 and 100",
        "text:\nAdd.\nscore:\n56\n\ntext:\nThink twice.\nscore:\n56\n\ntext:\nCount up.\nscore:\n100\n",
        "some of the problems",
        "Problem:\n<INS>\nWhat is 0 plus 3?\n\nRight answer:\n3\n",
        "different from all",
        "higher score than any",
        "Begin it with <INS> and end it with </INS>",
        "short and effective",
        "suits all problems",
    )
    assert "[" not in prompt


@pytest.mark.parametrize(
    ("position", "frame", "block"),
    [
        ("Q_end", False, "Problem:\nWhat is 0 plus 3?\n<INS>\n\nRight answer:\n3\n"),
        ("before_Q", True, "\n\n<INS>\nQ: What is 0 plus 3?\n\nA:\n\nRight answer:\n3\n"),
        ("A_begin", True, "\n\nQ: What is 0 plus 3?\n\nA: <Start>\n\nRight answer:\n3\n"),
    ],
)
def test_problems_are_labelled_where_there_is_no_frame(position: str, frame: bool, block: str) -> None:
    prompt = asked(task_of(position, frame, train=EXAMPLES[:1]), meta_prompt="gpt")
    assert block in prompt
    assert ("Problem:" in prompt) is not frame


def test_the_beginning_of_an_answer_has_another_name_and_other_tags() -> None:
    prompt = asked(task_of("A_begin"), meta_prompt="gpt")
    assert in_order(prompt, "opening sentence <Start>", "text:\n", "A: <Start>", "Begin it with <Start>", "</Start>")
    assert "INS" not in prompt


# -- the form for pre-trained models -----------------------------------------------------------------------------------


def test_the_pre_trained_form_is_a_sentence_and_the_whole_history() -> None:
    history = history_of({f"Way {number}.": number / 50 for number in range(40)})
    prompt = asked(task_of("A_begin"), history, meta_prompt="pre-trained", limit=20, threshold=0.5)
    sentence, *lines = prompt.split("\n\n")
    assert "at the beginning of the answer" in sentence
    assert "word sorting problems" in sentence
    # No cut at M and no threshold; nothing but the history.
    assert lines == [f"Precision: {round(2 * number)} <TEXT>Way {number}.</TEXT>" for number in range(40)]


@pytest.mark.parametrize(
    ("position", "name", "said"),
    [
        (
            "Q_begin",
            "gsm8k",
            "at the beginning of the question and makes the solutions of all sorts of grade school math",
        ),
        (
            "Q_end",
            "mmlu/abstract_algebra",
            "at the end of the question and makes the solutions of all sorts of abstract algebra",
        ),
        ("before_Q", "own-task", "before the question and makes the solutions of all sorts of own task"),
    ],
)
def test_the_sentence_names_the_place_and_the_topic(position: str, name: str, said: str) -> None:
    assert said in asked(task_of(position, name=name), meta_prompt="pre-trained")


def test_shares_have_two_decimals_there_and_three_elsewhere() -> None:
    history = history_of({"Third.": 1 / 3, "Half.": 0.5})
    assert "Precision: 0.33 <TEXT>Third.</TEXT>\n\nPrecision: 0.5 <TEXT>Half.</TEXT>" in asked(
        None, history, meta_prompt="pre-trained", score_buckets="infinite"
    )
    for form in ("instruction-tuned", "gpt"):
        prompt = asked(None, history, meta_prompt=form, score_buckets="infinite")
        assert "text:\nThird.\nscore:\n0.333\n\ntext:\nHalf.\nscore:\n0.5\n" in prompt
        assert "between 0 and 1" in prompt
        assert "100" not in prompt


# -- options of all forms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_twenty_buckets_are_rounded_half_to_even(form: str) -> None:
    history = history_of({"A.": 0.025, "B.": 0.075, "C.": 0.557})
    prompt = asked(None, history, meta_prompt=form, score_buckets=20)
    assert re.findall(r"(?:score:\n|Precision: )(\d+)", prompt) == ["0", "2", "11"]  # 0.5, 1.5, 11.14


@pytest.mark.parametrize("form", FORMS)
def test_scores_may_be_left_out(form: str) -> None:
    prompt = asked(meta_prompt=form, score_buckets="none", exemplars=0)
    assert shown_texts(prompt) == list(SCORES)
    assert not re.search(r"score:|Precision|\d", prompt)


@pytest.mark.parametrize("form", FORMS)
def test_the_history_ascends_descends_or_has_no_order(form: str) -> None:
    history = history_of({f"Way {number}.": number / 50 for number in range(15)})
    best_last = [f"Way {number}." for number in range(15)]

    def shown(order: str, step: int = 0, seed: int = 0) -> list[str]:
        return shown_texts(asked(None, history, meta_prompt=form, history_order=order, step=step, seed=seed))

    assert shown("ascending") == best_last
    assert shown("descending") == best_last[::-1]
    random = [shown("random", step, seed) for step, seed in [(0, 0), (0, 0), (1, 0), (0, 1)]]
    assert random[0] == random[1]  # the samples of a step share one prompt
    assert len(set(map(tuple, random))) == 3
    assert all(sorted(one) == sorted(best_last) for one in random)


@pytest.mark.parametrize("form", ["instruction-tuned", "gpt"])
def test_what_is_said_of_the_order_is_true(form: str) -> None:
    for order in ("ascending", "descending"):
        assert f"in {order} order" in asked(meta_prompt=form, history_order=order)
        assert f"in {order} order" in asked(meta_prompt=form, history_order=order, score_buckets="none")
    for buckets in (100, "none"):
        prompt = asked(meta_prompt=form, history_order="random", score_buckets=buckets)
        assert "in no particular order" in prompt
        assert "ascending" not in prompt


@pytest.mark.parametrize("form", ["instruction-tuned", "gpt"])
def test_the_best_are_shown_from_the_threshold_on(form: str) -> None:
    assert shown_texts(asked(meta_prompt=form, limit=2)) == ["Think twice.", "Count up."]
    assert shown_texts(asked(meta_prompt=form, threshold=0.557)) == ["Add.", "Think twice.", "Count up."]
    assert shown_texts(asked(meta_prompt=form, threshold=1.0)) == []


@pytest.mark.parametrize("form", ["instruction-tuned", "gpt"])
def test_exemplars_may_come_first(form: str) -> None:
    task = task_of(train=EXAMPLES[:1])
    usual, turned = (asked(task, meta_prompt=form, exemplars_first=first) for first in (False, True))
    assert in_order(usual, "text:\nAdd.", "What is 0 plus 3?", "Write an" if form == "gpt" else "Write a new")
    assert in_order(turned, "What is 0 plus 3?", "text:\nAdd.", "Write an" if form == "gpt" else "Write a new")
    assert sorted(usual) == sorted(turned)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [0, 3, 10])
def test_as_many_exemplars_are_shown_as_wanted_and_none_to_a_pre_trained_model(form: str, count: int) -> None:
    prompt = asked(meta_prompt=form, exemplars=count)
    assert prompt.count("What is") == (0 if form == "pre-trained" else count)
    assert ("some of the problems" in prompt or "exercises" in prompt) == (count > 0 and form != "pre-trained")


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "answer", "candidate", "faithful"),
    [
        ("instruction-tuned", "Sure: [do it] or [that]", "Do it", "Do it"),
        ("instruction-tuned", "[see [this] now]", "This", "See [this"),
        ("instruction-tuned", "nothing", None, ""),
        ("instruction-tuned", "[]", None, ""),
        ("instruction-tuned", "[Read the INSTRUCTION]", "Read the INSTRUCTION", None),
        ("instruction-tuned", "[a <INS> b]", None, None),
        ("instruction-tuned", "[a <TEXT> b]", None, "A <TEXT> b"),
        ("instruction-tuned", "[naïve “quotes” 漢字]", "Naïve “quotes” 漢字", "Naïve “quotes” 漢字"),
        ("instruction-tuned", "[" + "x" * 500 + "]", "X" + "x" * 499, "X" + "x" * 499),
        ("instruction-tuned", "[" + "x" * 501 + "]", None, None),
        ("instruction-tuned", "[ **add** up ]", "Add up", "Add up"),
        ("instruction-tuned", "[** add]", "Add", " add"),
        ("gpt", "Here: <INS>do it</INS> or <INS>that</INS>", "Do it", "Do it"),
        ("gpt", "<INS>do it", "Do it", "Do it"),
        ("gpt", "do it</INS> and more", "Do it", "Do it"),
        ("gpt", "I think so.", "I think so.", "I think so."),
        ("gpt", "<INS> one\n\ntwo </INS>", "One two", "One\n\ntwo"),
        ("gpt", "<INS></INS>", None, ""),
        ("gpt", "</INS> odd <INS>", None, ""),
        ("pre-trained", "Precision: 99 <TEXT>do\nit</TEXT>\n<TEXT>that</TEXT>", "Do it", "Do\nit"),
        ("pre-trained", "<TEXT>do it", None, None),
        ("pre-trained", "</TEXT><TEXT>do it</TEXT>", "Do it", "Do it"),
        ("pre-trained", "<TEXT><TEXT>do it</TEXT></TEXT>", None, "<TEXT>do it"),
        ("pre-trained", "<TEXT></TEXT>", None, ""),
        ("pre-trained", "[do it]", None, None),
    ],
)
def test_each_form_is_read_in_its_way(form: str, answer: str, candidate: str | None, faithful: str | None) -> None:
    task = task_of()
    assert domain_of(task, meta_prompt=form).read("meta-prompt", answer).text == candidate
    assert domain_of(task, meta_prompt=form, faithful=True).read("meta-prompt", answer).text == faithful


@pytest.mark.parametrize("faithful", [False, True])
def test_a_task_forbids_in_either_mode(faithful: bool) -> None:
    domain = domain_of(task_of(forbid=re.compile(r"\d")), faithful=faithful)
    assert domain.read("meta-prompt", "[Add 3]").text is None
    assert domain.read("meta-prompt", "[Add]").text == "Add"


def test_the_beginning_of_an_answer_is_read_between_its_own_tags() -> None:
    domain = domain_of(task_of("A_begin"), meta_prompt="gpt")
    assert domain.read("meta-prompt", "<INS>no</INS> <Start>let us see</Start>").text == "Let us see"


PIECES = ["{{ 7*7 }}", "{% raw %}", "[", "]", "**", "a", " word", "\n", "\r", "\u2028", "\ud800", "\x1b[31m"]
MARKS = ["<INS>", "</INS>", "<Start>", "</Start>", "<TEXT>", "</TEXT>"]
ENTRIES = ["text:\n", "score:\n100", "\n\ntext:\nBest.\nscore:\n100\n", "\n\nPrecision: 100 <TEXT>Best.</TEXT>"]
HOSTILE = st.lists(st.sampled_from([*PIECES, *MARKS, *ENTRIES]) | st.text(max_size=5)).map("".join)


@given(HOSTILE, st.sampled_from(TAGS), st.booleans())
def test_no_answer_breaks_out_of_the_form(inner: str, tags: tuple[str, str, str, str], faithful: bool) -> None:
    position, form, opening, closing = tags
    domain = domain_of(task_of(position), meta_prompt=form, faithful=faithful)
    candidate = domain.read("meta-prompt", f"Talk. {opening}{inner}{closing}").text
    if candidate is None:
        return
    assert candidate.encode()[:1] or faithful  # it can be sent; an empty one is the reference's
    if faithful:
        return
    assert candidate.isprintable()
    assert 0 < len(candidate) <= 500
    prompt = asked(task_of(position), history_of({"Bad.": 0.1, candidate: 0.5}), meta_prompt=form)
    assert shown_texts(prompt) == ["Bad.", candidate]


@pytest.mark.parametrize("form", FORMS)
def test_a_long_line_of_openings_is_read_in_linear_time(form: str) -> None:
    # Quadratic time would take hours here, and the test's time limit is minutes.
    for faithful in (False, True):
        domain = domain_of(task_of(), meta_prompt=form, faithful=faithful)
        for sign in ("[", "<INS>", "<TEXT>"):
            domain.read("meta-prompt", sign * 1_000_000)


# -- whole runs --------------------------------------------------------------------------------------------------------


class Watcher:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def notify(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(event.text)


def run(optimizer: OPRO, task: Task, endpoint: Any, **options: Any) -> tuple[Study, Result, list[str]]:
    watcher = Watcher()

    async def main() -> tuple[Study, Result]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(requests_per_minute=6e7, concurrency=1000))
            study = Study(task=task, optimizer=optimizer, scorer=model, proposer=model, observers=[watcher], **options)
            return study, await study.run()

    return *run_virtual(main), watcher.notes


@pytest.mark.parametrize(("position", "form", "opening", "closing"), TAGS)
@pytest.mark.parametrize("buckets", [100, "infinite", "none"])
@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_the_simulated_model_knows_every_form(
    position: str, form: str, opening: str, closing: str, buckets: Any, order: Any
) -> None:
    task = task_of(position)
    answers = AnswerModel(0, items_of([task]))
    optimizer = OPRO(steps=3, samples_per_step=4, meta_prompt=form, score_buckets=buckets, history_order=order)  # type: ignore[arg-type]
    api = SimulatedAPI(answers=answers)
    study, result, notes = run(optimizer, task, api.endpoint())
    assert result.steps == 3
    assert 8 < study.history.unique <= 1 + 3 * 4  # some words come twice
    assert not notes
    proposals = [entry.prompt for entry in api.ledger.entries if "text:\n" in entry.prompt or "<TEXT>" in entry.prompt]
    assert len(proposals) == 12
    answer = answers.answer(proposals[-1], "any")
    assert answer.startswith(opening)
    assert answer.endswith(closing)
    # Every proposal changes at most three words of one that is shown.
    changed = set(answer[len(opening) : -len(closing)].rstrip(".").lower().split())
    assert min(len(changed ^ set(text.rstrip(".").lower().split())) for text in shown_texts(proposals[-1])) <= 6


def test_without_scores_the_simulated_model_goes_by_the_order() -> None:
    model = AnswerModel(0)
    texts = [f"Blue whale swims below our boat {number}." for number in range(8)]
    texts += [f"Yellow elephant walks through my garden {number}." for number in range(8)]
    scores = {text: 0.05 * number for number, text in enumerate(texts)}
    for form in FORMS:
        for order in ("ascending", "descending"):
            if form == "pre-trained" and order == "descending":
                continue  # which says nothing of its order
            prompt = asked(None, history_of(scores), meta_prompt=form, score_buckets="none", history_order=order)
            words = {word for draw in "abcdef" for word in model.answer(prompt, draw).lower().split()}
            assert "elephant" in words
            assert "whale" not in words


def proposing(answers: list[str]) -> FakeEndpoint:
    """Proposals are taken from the list, every other call is answered wrongly."""
    left = iter(answers)

    def respond(request: Generate, number: int) -> Answer:
        return Completion(next(left) if "square brackets" in request.prompt[-1].content else "no idea")

    return FakeEndpoint(respond)


def test_a_sample_is_asked_for_until_it_is_usable_and_no_more_often_than_allowed() -> None:
    endpoint = proposing(["nothing", "[]", "[First]", "nope", "nope", "nope"])
    optimizer = OPRO(steps=2, samples_per_step=1, attempts=3)
    study, _, notes = run(optimizer, task_of(), endpoint)
    assert [entry.candidate for entry in study.history.entries] == ["Start.", "First"]
    proposals = [prompt for prompt in endpoint.prompts if "square brackets" in prompt]
    assert len(proposals) == 6
    assert len(set(proposals)) == 2  # an attempt asks with its step's prompt
    assert notes == [
        "1 of 1 answers of the proposer held no usable solution (1 empty); the last one said: nothing",
        "5 of 6 answers of the proposer held no usable solution (5 empty); the last one said: nope",
    ]


def test_attempts_of_a_sample_have_draws_of_their_own_and_the_first_has_that_of_a_run_without() -> None:
    def draws(attempts: int) -> list[int]:
        found: list[int] = []

        def respond(request: Generate, number: int) -> Answer:
            if "square brackets" in request.prompt[-1].content:
                found.append(request.sampling.draw)
            return Completion("no idea")

        run(OPRO(steps=1, samples_per_step=2, attempts=attempts), task_of(), FakeEndpoint(respond))
        return found

    assert len(set(draws(4))) == 8
    assert set(draws(1)) < set(draws(4))


def test_a_trace_holds_every_answer_whatever_became_of_it(tmp_path: Path) -> None:
    optimizer = OPRO(steps=1, samples_per_step=1, attempts=2)
    run(optimizer, task_of(), proposing(["nothing", "[add up]"]), directory=tmp_path / "run", trace=True)
    rows = [codec.loads(line) for line in (tmp_path / "run" / "trace.jsonl").read_bytes().splitlines()]
    proposals = [row for row in rows if row["kind"] == "proposal"]
    assert [(row["step"], row["index"], row["attempt"], row["source"]) for row in proposals] == [
        (0, 0, 0, "meta-prompt"),
        (0, 0, 1, "meta-prompt"),
    ]
    assert [(row["answer"], row["candidate"]) for row in proposals] == [("nothing", None), ("[add up]", "Add up")]
    ((role, prompt),) = proposals[0]["prompt"]
    assert role == "user"
    assert "text:\nStart.\n" in prompt


def test_an_unusable_answer_is_noted_and_moves_no_cursor() -> None:
    _, _, notes = run(OPRO(steps=1, samples_per_step=1), task_of(), proposing(["\x1b[2J" + "long " * 100]))
    assert len(notes) == 1
    assert notes[0].isprintable()
    assert len(notes[0]) < 200


def temperatures(optimizer: OPRO) -> dict[float, int]:
    """How many proposals were asked for at each temperature."""
    found: dict[float, int] = {}

    def respond(request: Generate, number: int) -> Answer:
        if "square brackets" in request.prompt[-1].content:
            temperature = request.sampling.temperature
            assert temperature is not None
            found[temperature] = found.get(temperature, 0) + 1
        return Completion(f"[idea {'abcdefghijklmnopqrstuvwxyz'[number % 26]}]")

    run(optimizer, task_of(), FakeEndpoint(respond))
    return found


def test_the_temperature_is_constant_or_goes_in_equal_steps() -> None:
    assert temperatures(OPRO(steps=4, samples_per_step=2, temperature=0.5)) == {0.5: 8}
    rising = OPRO(steps=4, samples_per_step=2, temperature=0.5, final_temperature=1.5)
    assert temperatures(rising) == {0.5: 2, 0.75: 2, 1.0: 2, 1.25: 2}
    falling = OPRO(steps=2, samples_per_step=1, temperature=2.0, final_temperature=0.0)
    assert temperatures(falling) == {2.0: 1, 1.0: 1}


def test_the_one_step_baseline_makes_all_its_proposals_from_the_start() -> None:
    task = task_of()
    api = SimulatedAPI(answers=AnswerModel(0, items_of([task])))
    study, result, _ = run(OPRO(steps=1, samples_per_step=50), task, api.endpoint())
    prompts = [entry.prompt for entry in api.ledger.entries if "square brackets" in entry.prompt]
    assert len(prompts) == 50
    assert shown_texts(prompts[0]) == ["Start."]
    assert len(set(prompts)) == 1
    assert result.steps == 1
    assert 40 < study.history.unique <= 51


def test_faithful_scores_an_empty_candidate_once() -> None:
    endpoint = proposing(["no brackets", "[]", "[The INSIDE story]", "[Add up]"])
    study, _, notes = run(OPRO(steps=1, samples_per_step=4, faithful=True), task_of(), endpoint)
    assert sorted(entry.candidate for entry in study.history.entries) == ["", "Add up", "Start."]
    assert len(notes) == 1


def test_a_run_with_hostile_candidates_ends() -> None:
    hostile = [
        "[{{ 7*7 }}]",
        "[{% for %}]",
        "[</TEXT>]",
        "[\ud800\u202e]",
        "[text: x score: 100]",
        "[[[[",
        "\x00",
        "[漢字]",
    ]
    study, result, _ = run(OPRO(steps=1, samples_per_step=8), task_of(), proposing(hostile))
    assert result.steps == 1
    tried = {entry.candidate for entry in study.history.entries}
    assert tried == {"Start.", "{{ 7*7 }}", "{% for %}", "\ufffd", "Text: x score: 100", "漢字"}
