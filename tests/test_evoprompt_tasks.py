"""EvoPrompt's tasks: its files read as they are published, its draws, pools and grading, and words for what is missing.

The files are made here in the published layout; their data are not bundled, and no test needs them.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEndpoint, run_virtual
from hypothesis import given
from hypothesis import strategies as st

from asyncopt import Completion, Engine, Evaluation, Example, Study, Task, evaluate
from asyncopt.answers import grade, parse
from asyncopt.cli import main
from asyncopt.config import check
from asyncopt.errors import ConfigError, DataError
from asyncopt.evaluation import final_answer_request, scoring_request
from asyncopt.optimizers.evoprompt import EvoPromptGA
from asyncopt.tasks import catalogue, evoprompt, load
from asyncopt.tasks.evoprompt import metrics, reasoning
from asyncopt.tasks.evoprompt.metrics import sari

CLASSES = {"sst2": 2, "cr": 2, "mr": 2, "sst-5": 5, "agnews": 4, "trec": 6, "subj": 2}
DEMONSTRATIONS = "What ends where it began.\n\nQ: Turn {around}.\nA: <prompt>\nSo the answer is Yes."


# -- files as published ------------------------------------------------------------------------------------------------


def write(root: Path, path: str, lines: list[str], end: str = "\n") -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes((end.join(lines) + end).encode())


def classification(root: Path, stem: str, seeds: tuple[int, ...] = (5, 10, 15), test: bool = False) -> Path:
    for seed in seeds:
        rows = [f"sentence {seed} {number} é .\t{number % CLASSES[stem]}" for number in range(200)]
        write(root, f"data/cls/{stem}/seed{seed}/dev.txt", rows)
        if test:
            rows = [f"unseen {seed} {number} .\t{number % CLASSES[stem]}" for number in range(500)]
            write(root, f"data/cls/{stem}/seed{seed}/test.txt", rows)
    write(root, f"data/cls/{stem}/prompts.txt", ["Label it.", "", "Say which. "])
    write(root, f"data/cls/{stem}/prompts_auto.txt", ["say which it is.", "Label it."])
    return root


def asset(root: Path, size: int = 120, test: int = 7) -> Path:
    for split, short, count in (("dev", "valid", size), ("test", "test", test)):
        folder = f"data/sim/asset/{split}/asset.{short}"
        write(root, f"{folder}.src", [f"The {split} sentence {number} is long ." for number in range(count)])
        for one in range(10):
            write(root, f"{folder}.simp.{one}", [f"{split} {number}, reference {one} ." for number in range(count)])
    write(root, "data/sim/asset/prompts.txt", ["Simplify."])
    write(root, "data/sim/asset/prompts_auto.txt", ["make it short."])
    return root


def samsum(root: Path) -> Path:
    for split, count in (("valid", 818), ("test", 819)):
        write(root, f"data/sum/sam/{split}.src", [f"Ann: hi {number} Bob: bye" for number in range(count)])
        write(root, f"data/sum/sam/{split}.tgt", [f"Ann greets Bob {number}." for number in range(count)])
    write(root, "data/sum/sam/prompts.txt", ["Sum it up."])
    write(root, "data/sum/sam/prompts_auto.txt", ["shorten the talk."])
    return root


def reasoned(root: Path, data: Path, stem: str = "navigate") -> Path:
    root.mkdir(exist_ok=True)
    (root / "bbh").symlink_to(data / "bbh")
    checkout = root / "evoprompt"  # beside bbh/, which on some systems is BBH/ too
    write(checkout, f"BBH/lib_prompt/{stem}.txt", DEMONSTRATIONS.split("\n"))
    write(checkout, "BBH/prompts.txt", ["Let us think.", "First,"])
    write(checkout, f"BBH/auto_prompts/{stem}.txt", ["Follow the walk.", "First,"])
    return root


def loaded(stem: str, root: Path, **options: object) -> Task:
    task = load(f"evoprompt/{stem}", data=root, options=options)
    assert isinstance(task, Task)
    return task


def needs(package: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed, so this metric is not tested: asyncopt[metrics]")


# -- grading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("positive", "positive"),
        (" Positive.\nBecause it is not negative", "positive"),
        ("The label is **Negative**, not positive.", "negative"),
        ("neg-ative", "negative"),  # punctuation is dropped before words are looked for
        ("positively good", ""),
        ("", ""),
    ],
)
def test_the_first_word_that_is_a_label_counts(answer: str, label: str) -> None:
    classes = ("negative", "positive")
    assert parse("text", answer, answers="evoprompt_compat", classes=classes) == label
    for target in classes:
        assert grade("text", answer, target, answers="evoprompt_compat", classes=classes) == float(label == target)


def test_any_verbalizer_of_a_class_stands_for_it() -> None:
    for answer, worth in (("yeah", 1.0), ("YES!", 1.0), ("no, yes", 0.0)):
        assert grade("text", answer, "Yes", answers="evoprompt_compat", classes=("no|No", "yes|yeah")) == worth


@pytest.mark.parametrize(
    ("kind", "answer", "target", "right"),
    [
        ("boolean", "Since it is so, the answer is No.", "No", True),
        ("boolean", "The answer is Yes. No, the answer is No.", "No", True),
        ("boolean", "So the answer is no.", "No", False),  # the reference compares letter by letter
        ("boolean", "No", "No", True),
        ("boolean", "I say No", "No", False),
        ("choice", "So the answer is (B).", "(B)", True),
        ("choice", "the answer is (B), and not (A).", "(B)", False),  # its slip: the lowest letter anywhere
        ("choice", "the answer is B.", "(B)", False),
        ("choice", "B", "(B)", True),
        ("number", "3 + 4 = 7. So the answer is 7.", "7", True),
        ("number", "So the answer is 7.0", "7", False),
        ("text", "So the answer is ] ).", "] )", True),
        ("text", "So the answer is ", "] )", False),
    ],
)
def test_what_follows_the_last_answer_is_is_compared_exactly(kind: Any, answer: str, target: str, right: bool) -> None:
    assert grade(kind, answer, target, answers="evoprompt_compat") == float(right)


# -- SARI and ROUGE ----------------------------------------------------------------------------------------------------

# The example of Xu et al. (2016), section 4, and what another implementation (tensor2tensor's sari_hook) gives for it
# without the slip of the authors' script, which prints 0.2683, 0.5890 and 0.5072.
SOURCE = "About 95 species are currently accepted ."
REFERENCES = (
    "About 95 species are currently known .",
    "About 95 species are now accepted .",
    "95 species are now accepted .",
)
PUBLISHED = [
    ("About 95 you now get in .", 0.2695360, 0.2683),
    ("About 95 species are now agreed .", 0.6170966, 0.5890),
    ("About 95 species are currently agreed .", 0.5088682, 0.5072),
]


@pytest.mark.parametrize(("output", "corrected", "printed"), PUBLISHED)
def test_sari_of_the_papers_example(output: str, corrected: float, printed: float) -> None:
    found = sari(SOURCE.split(), output.split(), [reference.split() for reference in REFERENCES])
    assert found == pytest.approx(corrected, abs=1e-7)
    assert found == pytest.approx(printed, abs=0.03)


def test_sari_by_hand() -> None:
    # Of single words b is added, a is kept and c is deleted, as wanted. Of pairs "a b" is added and "a c" is deleted as
    # wanted, and none is kept: 0/0, which counts 0. Longer runs of words there are none.
    found = sari(["a", "c"], ["a", "b"], [["a", "b"]])
    assert found == pytest.approx(((1 + 1 + 1) / 3 + (1 + 0 + 1) / 3 + 0 + 0) / 4)


@given(
    st.lists(st.sampled_from("abcd"), max_size=8),
    st.lists(st.sampled_from("abcd"), max_size=8),
    st.lists(st.lists(st.sampled_from("abcd"), max_size=8), min_size=1, max_size=3),
)
def test_sari_is_a_grade_whatever_the_order_of_the_references(
    source: list[str], output: list[str], references: list[list[str]]
) -> None:
    found = sari(source, output, references)
    assert 0 <= found <= 1
    assert found == pytest.approx(sari(source, output, references[::-1]))


def test_sari_parts_words_from_their_punctuation_and_forgets_case() -> None:
    needs("sacrebleu")
    metric, example = metrics.simplification(), Example(0, SOURCE, "\n".join(REFERENCES))
    for output, corrected, _ in PUBLISHED:
        assert metric(output.replace(" .", ".").upper(), example) == pytest.approx(corrected, abs=1e-7)


def test_rouge_is_the_mean_of_three_f_scores() -> None:
    needs("rouge_score")
    metric = metrics.summary()
    # Of 3 words 2 are among the 5 wanted ones, of 2 pairs 1 is among 4, and the longest common part has 2 words.
    assert metric("A cat sat.", Example(0, "", "the cat sat on mats")) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert metric("", Example(0, "", "the cat")) == 0.0


@pytest.mark.parametrize(
    ("module", "made", "message"),
    [
        ("sacrebleu.tokenizers.tokenizer_13a", metrics.simplification, "SARI needs sacrebleu"),
        ("rouge_score.rouge_scorer", metrics.summary, "ROUGE needs rouge-score"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    module: str, made: Callable[[], object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{message}.*pip install 'asyncopt\[metrics\]'"):
        made()


# -- classification ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", CLASSES)
def test_a_task_of_sentences_has_the_200_items_of_its_seed_and_the_whole_pool(stem: str, tmp_path: Path) -> None:
    test = stem in ("agnews", "mr", "sst-5")
    root = classification(tmp_path, stem, test=test)
    task = loaded(stem, root)
    assert (len(task.train), len(task.validation), len(task.test)) == (200, 0, 500 if test else 0)
    assert task.initial == ("Label it.", "Say which.", "say which it is.")
    assert [example.target for example in task.train[: CLASSES[stem]]] == list(task.classes)
    assert task.train[1].input == "sentence 5 1 é ."
    assert task.render("Label it.", "good .") == "Label it.\n\nInput: good .\nOutput:"
    assert task.render("", "good .") == "Input: good .\nOutput:"
    assert task.grade(f"It is {task.classes[1]}", task.train[1]) == 1.0
    assert task.grade(f"It is {task.classes[0]}", task.train[1]) == 0.0
    other = loaded(stem, root, split_seed=15)
    assert other.train[0].input == "sentence 15 0 é ."
    assert other.fingerprint != task.fingerprint
    assert loaded(stem, root, initial="Mine.").initial == ("Mine.",)


def test_the_labels_are_those_of_the_reference(tmp_path: Path) -> None:
    root = classification(classification(tmp_path, "trec"), "subj")
    assert loaded("trec", root).classes == ("description", "entity", "expression", "human", "location", "number")
    assert loaded("subj", root).classes == ("subjective", "objective")


def test_a_checkout_may_lie_in_the_data_folder(tmp_path: Path) -> None:
    classification(tmp_path / "evoprompt", "sst2")
    assert len(loaded("sst2", tmp_path).train) == 200


def test_a_test_file_of_ones_own_is_read_where_the_repository_has_none(tmp_path: Path) -> None:
    root = classification(tmp_path, "sst2")
    write(root, "lm-bff/test.txt", ["fine .\t1", "poor .\t0"])
    task = loaded("sst2", root, test_file="lm-bff/test.txt")
    assert [(example.input, example.target) for example in task.test] == [
        ("fine .", "positive"),
        ("poor .", "negative"),
    ]
    with pytest.raises(DataError, match=r"there is no file .*none\.txt; the option test_file"):
        loaded("sst2", root, test_file="none.txt")


def test_line_ends_of_windows_marks_and_odd_characters_are_read(tmp_path: Path) -> None:
    root = classification(tmp_path, "sst2")
    write(root, "data/cls/sst2/seed5/dev.txt", ["\ufefffine\u2028still fine .\t1", "", "a\ttab .\t0"], end="\r\n")
    found = [(example.id, example.input, example.target) for example in loaded("sst2", root).train]
    assert found == [(0, "fine\u2028still fine .", "positive"), (2, "a\ttab .", "negative")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"fine .\t1\nno tab here\n",
            r"dev\.txt, line 2: 'no tab here' is no example.*from 0 to 1 \(negative, positive\)",
        ),
        (b"fine .\t2\n", r"line 1: .*class index from 0 to 1"),
        (b"fine .\t-1\n", "line 1: .*class index"),
        (b"fine .\tone\n", "line 1: .*class index"),
        (b"\t1\n", "line 1: .*wanted a sentence"),
        (b"fine .\t\n", "line 1: "),
        (b"fine .\t1\ncaf\xe9 .\t1\n", r"dev\.txt, line 2: byte 13 is no UTF-8; save the file as UTF-8"),
        (b"", "dev.txt has no examples"),
        (b"\n\n", "dev.txt has no examples"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    root = classification(tmp_path, "sst2")
    (root / "data/cls/sst2/seed5/dev.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        loaded("sst2", root)


def test_an_empty_pool_is_no_pool(tmp_path: Path) -> None:
    root = classification(tmp_path, "sst2")
    for name in ("prompts", "prompts_auto"):
        write(root, f"data/cls/sst2/{name}.txt", ["", " "])
    with pytest.raises(DataError, match="have no instruction; wanted one a line, or the option initial"):
        loaded("sst2", root)


def test_another_file_than_the_first_one_used_is_refused(tmp_path: Path) -> None:
    root = classification(tmp_path, "sst2")
    loaded("sst2", root)
    write(root, "data/cls/sst2/seed5/dev.txt", ["other .\t1"])
    with pytest.raises(DataError, match="when it was first used"):
        loaded("sst2", root)


@pytest.mark.parametrize(
    ("stem", "options", "message"),
    [
        ("sst2", {"split_seed": 7}, "split_seed of evoprompt/sst2 is 7; it must be one of 5, 10, 15"),
        ("asset", {"split_seed": True}, "split_seed of evoprompt/asset is True; it must be an integer of at least 0"),
        ("samsum", {"split_seed": -1}, "an integer of at least 0"),
        ("sst2", {"test_files": "x"}, "did you mean 'test_file'"),
    ],
)
def test_options_that_cannot_be_meant(stem: str, options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load(f"evoprompt/{stem}", data=classification(tmp_path, "sst2"), options=options)


# -- generation --------------------------------------------------------------------------------------------------------


def test_simplification_has_the_references_draw_and_ten_references(tmp_path: Path) -> None:
    needs("sacrebleu")
    task = loaded("asset", asset(tmp_path))
    random.seed(5)
    assert [example.id for example in task.train] == random.sample(range(120), 100)  # as the reference draws
    assert len(task.test) == 7
    assert task.test[3].target == "\n".join(f"test 3, reference {one} ." for one in range(10))
    assert task.initial == ("Simplify.", "make it short.")
    assert task.metric is not None
    copied, simplified = (task.metric(text, task.test[3]) for text in (task.test[3].input, "test 3, reference 4."))
    assert 0 < copied < simplified < 1
    assert [e.id for e in loaded("asset", tmp_path, split_seed=10).train] != [e.id for e in task.train]


def test_summaries_are_scored_by_rouge_through_the_engine(tmp_path: Path) -> None:
    needs("rouge_score")
    task = loaded("samsum", samsum(tmp_path))
    assert (len(task.train), len(task.test)) == (100, 819)
    example = task.test[0]

    async def scored() -> Evaluation:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint(lambda request, number: Completion("Ann greets Bob.")))
            return await evaluate(model, task, "Sum it up.", [example])

    evaluation = run_virtual(scored)
    assert task.metric is not None
    assert evaluation.scores == [task.metric("Ann greets Bob.", example)]
    assert 0.8 < evaluation.scores[0] < 1


def test_parallel_files_must_be_parallel(tmp_path: Path) -> None:
    needs("sacrebleu")
    root = asset(tmp_path)
    write(root, "data/sim/asset/test/asset.test.simp.4", ["one line"])
    with pytest.raises(
        DataError, match=r"asset\.test\.simp\.4 has 1 lines and data/sim/asset/test/asset\.test\.src has 7"
    ):
        loaded("asset", root)


def test_a_reference_may_be_missing_but_not_all(tmp_path: Path) -> None:
    needs("sacrebleu")
    root = asset(tmp_path, test=2)
    for one in range(10):
        write(root, f"data/sim/asset/test/asset.test.simp.{one}", ["there" if one == 9 else "", "there"])
    assert loaded("asset", root).test[0].target == "there"
    (root / "checksums.json").unlink()
    write(root, "data/sim/asset/test/asset.test.simp.9", ["", "there"])
    with pytest.raises(DataError, match=r"asset\.test\.src, line 1: it has no reference"):
        loaded("asset", root)


def test_too_few_items_for_the_draw(tmp_path: Path) -> None:
    needs("sacrebleu")
    with pytest.raises(DataError, match=r"asset\.valid\.src has 99 items; wanted at least 100"):
        loaded("asset", asset(tmp_path, size=99))


# -- BIG-Bench Hard ----------------------------------------------------------------------------------------------------


def test_the_candidate_stands_in_every_chain_of_thought(data: Path, tmp_path: Path) -> None:
    task = loaded("navigate", reasoned(tmp_path, data))
    assert task.render("Let us think.", "Take 1 step.") == (
        "What ends where it began.\n\nQ: Turn {around}.\nA: Let us think.\nSo the answer is Yes."
        "\n\nQ: Take 1 step.\nA: Let us think."
    )
    assert task.initial == ("Let us think.", "First,")
    assert loaded("navigate", tmp_path, auto_prompts=True).initial == ("Let us think.", "First,", "Follow the walk.")
    system, user = scoring_request(task, "First,", task.train[0]).prompt
    assert (system.role, user.role) == ("system", "user")
    assert user.content == task.render("First,", task.train[0].input)
    assert final_answer_request(task, "First,", task.train[0], "x").prompt[0] == system


def test_fifty_items_are_scored_on_and_none_of_them_is_tested(data: Path, tmp_path: Path) -> None:
    task = loaded("navigate", reasoned(tmp_path, data))
    rows = json.loads((data / "bbh" / "navigate.json").read_text())["examples"]
    random.seed(10)
    drawn = random.sample(rows, 50)  # as the reference draws
    assert [(one.input, one.target) for one in task.train] == [(row["input"], row["target"]) for row in drawn]
    assert [(one.input, one.target) for one in task.test] == [
        (row["input"], row["target"]) for row in rows if row not in drawn
    ]
    example = task.train[0]
    assert task.grade(f"We walk. So the answer is {example.target}.", example) == 1.0
    assert task.grade(f"So the answer is {example.target.lower()}.", example) == 0.0


@pytest.mark.parametrize("text", ["{{ input }}", "{% raw %}", "{# note #}", "}}", "{{'", "a { b", "{{{ <prompt> }}}"])
def test_worked_examples_are_no_template(text: str) -> None:
    task = Task("t", "text", (Example(0, "q", "a"),), (), template=reasoning.template(f"{text} <prompt>", "f"))
    assert (
        task.render("C {{ x }}", "Q") == f"{text} <prompt>".replace("<prompt>", "C {{ x }}") + "\n\nQ: Q\nA: C {{ x }}"
    )


def test_worked_examples_without_a_slot_are_refused(data: Path, tmp_path: Path) -> None:
    root = reasoned(tmp_path, data)
    write(root, "evoprompt/BBH/lib_prompt/navigate.txt", ["Q: a", "A: b"])
    with pytest.raises(DataError, match=r"BBH/lib_prompt/navigate\.txt has no <prompt>"):
        loaded("navigate", root)
    with pytest.raises(ConfigError, match="auto_prompts of evoprompt/navigate is 1; it must be true or false"):
        loaded("navigate", reasoned(tmp_path / "other", data), auto_prompts=1)


# -- what is missing, and what is listed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "path", "terms"),
    [
        ("sst2", "data/cls/sst2/seed5/dev.txt", "corpora that have terms of their own"),
        ("asset", "data/sim/asset/dev/asset.valid.src", "non-commercial"),
        ("samsum", "data/sum/sam/valid.src", "CC BY-NC-ND 4.0"),
    ],
)
def test_a_missing_file_is_named_with_its_home_and_terms(stem: str, path: str, terms: str, tmp_path: Path) -> None:
    needs({"asset": "sacrebleu", "samsum": "rouge_score"}.get(stem, "asyncopt"))
    with pytest.raises(DataError) as raised:
        loaded(stem, tmp_path)
    said = str(raised.value)
    assert f"there is no file {tmp_path / path}; it is not fetched" in said
    assert f"https://github.com/beeevita/EvoPrompt/blob/94caff3/{path}" in said
    assert terms in said
    assert "--data DIR" in said


def test_what_only_the_repository_lacks_is_not_asked_for(tmp_path: Path) -> None:
    root = classification(tmp_path, "mr")
    with pytest.raises(DataError, match=r"there is no file .*cls/mr/seed5/test\.txt"):
        loaded("mr", root)  # the repository has one
    assert loaded("mr", root, test_file="data/cls/mr/seed10/dev.txt").test


def test_the_worked_examples_are_asked_for_when_only_the_questions_are_there(data: Path, tmp_path: Path) -> None:
    (tmp_path / "bbh").symlink_to(data / "bbh")
    with pytest.raises(DataError, match=r"there is no file .*BBH/lib_prompt/navigate\.txt; .*it is under MIT"):
        loaded("navigate", tmp_path)
    with pytest.raises(DataError, match="fetch it with `asyncopt data get bbh/navigate"):
        loaded("navigate", tmp_path / "nowhere")


def test_every_task_is_in_the_catalogue_and_in_the_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = {info.name: info for info in catalogue()}
    assert {*CLASSES, "asset", "samsum", "navigate"} <= set(evoprompt.STEMS)
    assert len(evoprompt.STEMS) == 7 + 2 + 27
    for stem in evoprompt.STEMS:
        assert infos[f"evoprompt/{stem}"].needs_data
    monkeypatch.setattr(sys, "argv", ["asyncopt", "tasks", "ls"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "evoprompt/sst-5" in capsys.readouterr().out


def test_a_directory_is_not_resumed_with_another_system_message_or_other_labels(tmp_path: Path) -> None:
    task = loaded("sst2", classification(tmp_path, "sst2"))

    async def stated(task: Task) -> dict[str, Any]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint(lambda request, number: Completion("positive")))
            study = Study(task=task, optimizer=EvoPromptGA(pool=()), scorer=model, proposer=model)
            return dict(study.subject()["task"])

    usual = run_virtual(lambda: stated(task))
    assert usual["answers"] == "evoprompt_compat"
    assert usual["classes"] == ("negative", "positive")
    assert "system" not in usual  # so that directories of older versions still fit
    assert run_virtual(lambda: stated(replace(task, system="Be brief.")))["system"] == "Be brief."
    assert run_virtual(lambda: stated(replace(task, classes=("positive", "negative"))))["classes"] != usual["classes"]


def test_faithful_mode_keeps_the_rules_of_the_task(tmp_path: Path) -> None:
    tables = {"task": {"name": "evoprompt/sst2", "data": str(classification(tmp_path, "sst2"))}, "mode": "faithful"}
    task = check(tables, "test").load_task()
    assert isinstance(task, Task)
    assert task.answers == "evoprompt_compat"
