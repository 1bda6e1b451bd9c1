"""The tasks of Deep Language Networks: splits as its reference code draws them, classes, and words for what is missing.

The expected draws come from a transcription of the reference's loader, run once on the same files.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncopt.errors import ConfigError, DataError
from asyncopt.tasks import Example, Task, catalogue, dln, load
from asyncopt.tasks.datasets import files_named, tasks_in

LABELS = {"subj": "01", "trec": "012345", "mpqa": "01"}
BBH = {"date": "date_understanding", "logic7": "logical_deduction_seven_objects"}
BEYOND_BBH = {"navigate": 750, "date": 119, "logic7": 450, "hyperbaton": 2600}  # about as many as BIG-bench has


# -- files as published ------------------------------------------------------------------------------------------------


def ordered_prompt(folder: Path, stem: str, sizes: tuple[int, int, int] = (5452, 256, 500)) -> Path:
    place, labels = folder / "ordered-prompt" / stem, LABELS[stem]
    place.mkdir(parents=True)
    for part, size in zip(("train", "dev_subsample", "test"), sizes, strict=True):
        rows = [{"sentence": f"{part} {i} é", "label": labels[i * 7 % len(labels)]} for i in range(size)]
        (place / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def leopard(folder: Path, stem: str, labels: tuple[str, ...], size: int = 5430) -> Path:
    rows = [{"sentence1": f"s {i}", "label": labels[i % len(labels)], "processed_sent": ""} for i in range(size)]
    (folder / "leopard").mkdir(parents=True)
    (folder / "leopard" / f"{stem}_eval.json").write_text(json.dumps(rows))
    return folder


def big_bench(folder: Path, data: Path, stem: str) -> Path:
    """A data folder with BIG-Bench Hard, and its items among made ones in BIG-bench's own form."""
    hard = json.loads((data / "bbh" / f"{BBH.get(stem, stem)}.json").read_text())["examples"]
    rows = [as_in_big_bench(stem, row) for row in hard]
    for number in range(BEYOND_BBH[stem]):
        rows.insert(number * 2 % (len(rows) + 1), made(stem, number))
    place = folder / "bigbench" / ("logical_deduction/seven_objects" if stem == "logic7" else BBH.get(stem, stem))
    place.mkdir(parents=True)
    (place / "task.json").write_text(json.dumps({"name": stem, "examples": rows}))
    (folder / "bbh").symlink_to(data / "bbh")
    return folder


def as_in_big_bench(stem: str, row: dict[str, str]) -> dict[str, Any]:
    question, _, options = row["input"].partition("\nOptions:\n")
    texts, right = [option[4:] for option in options.split("\n")], row["target"]
    if stem == "navigate":
        scores = {"True": int(right == "Yes"), "False": int(right == "No")}
        return {"input": question.partition("? ")[2], "target_scores": scores}
    place = "ABCDEFG".index(right[1])
    if stem == "hyperbaton":
        text = f'{question} a "{texts[0]}" b "{texts[1]}"'
        return {"input": text, "target_scores": {"a": 1 - place, "b": place}}
    if stem == "logic7":
        question, texts = question.partition("within each paragraph. ")[2], [f"{text}." for text in texts]
    else:
        texts.reverse()  # dates are found by their question, whatever the order of their options
        place = len(texts) - 1 - place
    return {"input": question, "target_scores": {text: int(i == place) for i, text in enumerate(texts)}}


def made(stem: str, number: int) -> dict[str, Any]:
    if stem == "navigate":
        return {"input": f"Take {number} steps.", "target_scores": {"True": number % 2, "False": 1 - number % 2}}
    if stem == "hyperbaton":
        text = f'Which sentence has the correct adjective order: a "big {number}" b "{number} big"'
        return {"input": text, "target_scores": {"a": number % 2, "b": 1 - number % 2}}
    options, stop = (7, ".") if stem == "logic7" else (6, "")
    scores = {f"o{number} {place}{stop}": int(place == number % options) for place in range(options)}
    return {"input": f"What {number}?", "target_scores": scores}


def loaded(name: str, folder: Path, seed: int = 0, **options: object) -> Task:
    task = load(name, data=folder, seed=seed, options=options)
    assert isinstance(task, Task)
    return task


def sizes(task: Task) -> tuple[int, int, int]:
    return len(task.train), len(task.validation), len(task.test)


def ids(examples: Iterable[Example]) -> list[int]:
    return [example.id for example in examples]


# -- BIG-bench ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "expected", "first", "last", "cut"),
    [
        (
            "navigate",
            (375, 375, 250),
            ("Take 7 steps.\nOptions:\n- Yes\n- No", "Yes"),
            ("Take 353 steps.\nOptions:\n- Yes\n- No", "Yes"),
            ["Take 172 steps.", "Take 463 steps.", "Take 178 steps.", "Take 443 steps."],
        ),
        (
            "date",
            (59, 119, 250),
            ("What 56?\nOptions:\n(A) o56 5\n(B) o56 4\n(C) o56 2\n(D) o56 3\n(E) o56 0\n(F) o56 1", "(C)"),
            ("What 102?\nOptions:\n(A) o102 3\n(B) o102 0\n(C) o102 5\n(D) o102 4\n(E) o102 1\n(F) o102 2", "(B)"),
            ["What 117?", "What 11?", "What 44?", "What 65?"],
        ),
        (
            "logic7",
            (225, 225, 250),
            ("(A) o208 3\n(B) o208 5\n(C) o208 0\n(D) o208 6\n(E) o208 4\n(F) o208 2\n(G) o208 1", "(B)"),
            ("(A) o353 2\n(B) o353 5\n(C) o353 6\n(D) o353 3\n(E) o353 1\n(F) o353 4\n(G) o353 0", "(D)"),
            ["What 47?", "What 383?", "What 418?", "What 394?"],
        ),
        (
            "hyperbaton",
            (1000, 300, 250),
            ("(A) big 1844\n(B) 1844 big", "(B)"),
            ("(A) 2156 big\n(B) big 2156", "(A)"),
            ["(A) 2328 big", "(A) 1803 big", "(A) big 1703", "(A) 2571 big"],
        ),
    ],
)
def test_with_big_bench_the_splits_are_the_references(
    tmp_path: Path,
    data: Path,
    stem: str,
    expected: tuple[int, int, int],
    first: tuple[str, str],
    last: tuple[str, str],
    cut: list[str],
) -> None:
    folder = big_bench(tmp_path, data, stem)
    task = loaded(stem, folder)
    assert sizes(task) == expected
    for example, (ending, target) in ((task.train[0], first), (task.validation[-1], last)):
        assert example.input.endswith(ending)
        assert example.target == target
    hard = loaded(f"bbh/{BBH.get(stem, stem)}", data, train_ratio=0)
    assert task.test == hard.test
    assert not {example.input for example in (*task.train, *task.validation)} & {e.input for e in task.test}
    assert "in two halves" in task.description
    assert [end in ex.input for end, ex in zip(cut, loaded(stem, folder, 13, train_size=4).train, strict=True)] == [
        True
    ] * 4


def test_dates_are_validated_on_the_training_items_too_and_others_are_not(tmp_path: Path, data: Path) -> None:
    date = loaded("date", big_bench(tmp_path / "date", data, "date"))
    assert date.validation[:59] == date.train
    assert "validation has the training items too" in date.description
    navigate = loaded("navigate", big_bench(tmp_path / "navigate", data, "navigate"))
    assert not set(ids(navigate.train)) & set(ids(navigate.validation))
    assert "training items too" not in navigate.description


def test_shuffled_options_keep_the_right_one(tmp_path: Path, data: Path) -> None:
    task = loaded("logic7", big_bench(tmp_path, data, "logic7"))
    for example in (*task.train, *task.validation):
        number = int(re.findall(r"What (\d+)\?", example.input)[0])
        assert f"{example.target} o{number} {number % 7}" in example.input.split("\n")
    assert len(Counter(example.target for example in task.train)) == 7


@pytest.mark.parametrize("stem", BEYOND_BBH)
def test_without_big_bench_the_items_of_bbh_serve_for_all(data: Path, stem: str) -> None:
    task, whole = loaded(stem, data), loaded(f"bbh/{BBH.get(stem, stem)}", data, train_ratio=0)
    assert sizes(task) == (75, 75, 100)
    assert sorted(task.fold("all"), key=lambda example: example.id) == list(whole.test)
    assert "75/75/100 of the 250 items of BIG-Bench Hard, which is not the paper's split" in task.description
    assert loaded(stem, data, seed=5).fingerprint == task.fingerprint


def test_another_big_bench_file_is_refused(tmp_path: Path, data: Path) -> None:
    folder = big_bench(tmp_path, data, "date")
    path = folder / "bigbench" / "date_understanding" / "task.json"
    rows = json.loads(path.read_text())["examples"]
    for content, message in (
        (json.dumps({"examples": rows[200:]}), r"has \d+ of the 250 items of BIG-Bench Hard; wanted BIG-bench's file"),
        (
            json.dumps(rows),
            r"cannot be read \(TypeError\); wanted BIG-bench's JSON, with examples of input and target_sc",
        ),
        ("{", r"cannot be read \(\w+\); wanted BIG-bench's JSON"),
        (json.dumps({"examples": [{"input": "?", "target_scores": {"a": 0}}]}), r"cannot be read \(IndexError\)"),
    ):
        (folder / "checksums.json").unlink(missing_ok=True)
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            load("date", data=folder)


# -- sentences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", LABELS)
def test_sentences_of_ordered_prompt_are_drawn_as_the_reference_does(tmp_path: Path, stem: str) -> None:
    task = loaded(stem, ordered_prompt(tmp_path, stem))
    generator = np.random.RandomState(42)
    assert ids(task.train) == list(generator.choice(5452, 1000, replace=False))
    assert ids(task.test) == list(generator.choice(500, 250, replace=False))
    assert ids(task.validation) == list(range(256))
    assert len({task.class_of(example.target) for example in task.train}) == len(task.classes) == len(LABELS[stem])


def test_a_sentence_is_followed_by_its_options(tmp_path: Path) -> None:
    task = loaded("dln/mpqa", ordered_prompt(tmp_path, "mpqa"))
    assert task.validation[1] == Example(1, "dev_subsample 1 é\nOptions:\n- negative\n- positive", "positive")
    assert task.grade("Positive.", task.validation[1]) == 1.0


@pytest.mark.parametrize(
    ("stem", "labels", "shown"),
    [
        ("disaster", ("Relevant", "Not Relevant"), ("no", "yes")),
        ("airline", ("positive", "negative", "neutral"), ("positive", "negative", "neutral")),
    ],
)
def test_sentences_of_leopard_are_drawn_as_the_reference_does(
    tmp_path: Path, stem: str, labels: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    task = loaded(stem, leopard(tmp_path, stem, labels))
    drawn = list(np.random.RandomState(42).choice(5430, 1500, replace=False))
    assert (ids(task.train), ids(task.validation), ids(task.test)) == (drawn[:1000], drawn[1000:1250], drawn[1250:])
    question, sentence, *options = task.train[0].input.split("\n")
    assert question.endswith(("?", "."))
    assert [sentence, *options] == [f"s {drawn[0]}", "Options:", *(f"- {label}" for label in shown)]
    assert {example.target for example in task.train} == set(shown)
    assert all(shown[task.class_of(example.target)] == example.target for example in task.train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace('"label": "0"', '"label": "9"', 1),
            "line 1: wanted an object with sentence, a text, ",
        ),
        (lambda text: text.replace('"sentence"', '"text"', 1), "line 1: .* and label, one of 0, 1$"),
        (lambda text: "[]\n" + text, "line 1: a JSON array; wanted an object"),
        (lambda text: text[:3000], r"train.jsonl, line \d+: "),
        (
            lambda text: text.split("\n")[0],
            "train.jsonl has 1 items; wanted at least 1000; its public home is https://",
        ),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    path = ordered_prompt(tmp_path, "subj") / "ordered-prompt" / "subj" / "train.jsonl"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load("subj", data=tmp_path)


@pytest.mark.parametrize("content", ["{}", "[", "[1]"])
def test_leopard_must_be_a_list_of_objects(tmp_path: Path, content: str) -> None:
    path = leopard(tmp_path, "airline", ("positive",)) / "leopard" / "airline_eval.json"
    path.write_text(content)
    with pytest.raises(DataError, match="airline_eval.json is no JSON list of objects with sentence1 and label"):
        load("airline", data=tmp_path)


# -- all of them -------------------------------------------------------------------------------------------------------


def test_gsm8k_is_trained_on_half_of_its_training_file(data: Path) -> None:
    task = loaded("dln/gsm8k", data)
    assert sizes(task) == (3736, 3737, 1319)
    assert sorted(ids(task.train + task.validation)) == list(range(7473))
    assert ids(task.train[:4]) == [int(place) for place in np.random.default_rng(42).permutation(7473)[:4]]
    assert not task.classes
    assert loaded("gsm8k", data).name == "gsm8k"


def test_a_split_is_cut_class_by_class_with_repeats(tmp_path: Path) -> None:
    ordered_prompt(tmp_path, "trec")
    task = loaded("trec", tmp_path, 13, train_size=600, validation_size=12)
    assert sizes(task) == (600, 12, 250)
    assert set(Counter(example.target for example in task.train).values()) == {100}
    assert len({example.input for example in task.train}) < 600  # 100 of about 167, with repeats
    assert ids(task.train) == list(range(600))
    again, other = (loaded("trec", tmp_path, seed, train_size=600, validation_size=12) for seed in (13, 14))
    assert again.fingerprint == task.fingerprint
    assert other.train != task.train
    assert other.validation == task.validation  # which only training depends on


@pytest.mark.parametrize("value", [0, True, "3", 2.0])
def test_a_size_is_a_number_of_examples(tmp_path: Path, value: object) -> None:
    with pytest.raises(
        ConfigError, match="the option test_size of dln/subj is .*; it must be an integer of at least 1"
    ):
        loaded("subj", ordered_prompt(tmp_path, "subj"), test_size=value)


def test_every_task_is_in_the_catalogue_with_a_line_about_it() -> None:
    infos = {info.name: info for info in catalogue()}
    for stem in dln.STEMS:
        info = infos[f"dln/{stem}"]
        assert info.needs_data
        assert "\n" not in info.summary


def test_prompts_begin_as_in_the_paper(data: Path) -> None:
    for stem in ("navigate", "date", "logic7", "hyperbaton", "gsm8k"):
        task = loaded(f"dln/{stem}", data)
        assert len(task.initial) == 1
        assert task.initial[0].endswith(".")
        assert bool(task.hidden_initial) == (stem == "navigate")  # decompose, there; empty for dates and objects
        assert task.answers == "strict"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("navigate", "fetch it with `asyncopt data get bbh/navigate"),
        ("dln/gsm8k", "fetch it with `asyncopt data get gsm8k"),
        ("trec", "fetch it with `asyncopt data get dln/trec"),
        ("disaster", "it is not fetched, because its authors state no licence: .*DIR/leopard/disaster_eval.json"),
    ],
)
def test_missing_data_are_named_with_the_way_to_get_them(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(name, data=tmp_path)


def test_the_files_of_ordered_prompt_are_fetched_by_their_tasks_or_together(tmp_path: Path) -> None:
    assert len(files_named(["dln/subj", "ordered-prompt"])) == 9
    assert tasks_in(ordered_prompt(tmp_path, "subj")) == ["dln/subj"]


def test_a_name_near_a_task_is_told() -> None:
    with pytest.raises(ConfigError, match="no task 'dln/navigat'; did you mean dln/navigate"):
        load("dln/navigat")


# -- classes -----------------------------------------------------------------------------------------------------------


EXAMPLES = (Example(0, "a", "(A)"), Example(1, "b", "B"))


def test_each_target_is_in_one_class_whatever_its_case_and_brackets() -> None:
    task = Task("t", "choice", EXAMPLES, (), classes=("a|A", "b|B"))
    assert [task.class_of(target) for target in ("(A)", "a", " (b) ", "B")] == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match=r"the target '\(C\)' is in no class of t, which are a\|A, b\|B"):
        task.class_of("(C)")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("a|A",), "the target 'B' is in no class of t"),
        (("a|A", "b|a"), "'a' is in two classes of t; leave it in one of them"),
        (("a|", "b"), r"the class 'a\|' of t has an empty text; write it as one\|One"),
    ],
)
def test_classes_that_leave_a_target_out_or_share_a_word_are_refused(classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Task("t", "choice", EXAMPLES, (), classes=classes)


def test_classes_of_own_data_are_a_list_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"input": "1", "target": "yes"}\n{"input": "2", "target": "no"}\n')
    assert loaded(str(path), tmp_path).classes == ()
    assert loaded(str(path), tmp_path, classes=["yes|Yes", "no|No"]).classes == ("yes|Yes", "no|No")
    for value in ("yes", ["yes"], [1, 2], {"yes": 1}):
        with pytest.raises(
            ConfigError, match="the option classes of own is .*; it must be a list of two texts or more"
        ):
            loaded(str(path), tmp_path, classes=value)
    with pytest.raises(ConfigError, match="the target 'no' is in no class of own"):
        loaded(str(path), tmp_path, classes=["yes", "maybe"])


def test_bbh_has_classes_where_every_target_is_one_of_few(data: Path) -> None:
    def classes(stem: str) -> tuple[str, ...]:
        return loaded(f"bbh/{stem}", data).classes

    assert classes("navigate") == ("yes|Yes", "no|No")
    assert classes("formal_fallacies") == ("valid|Valid", "invalid|Invalid")
    assert classes("boolean_expressions") == ("true|True", "false|False")
    assert classes("date_understanding") == ("a|A", "b|B", "c|C", "d|D", "e|E", "f|F")
    assert classes("object_counting") == classes("word_sorting") == ()
    assert classes("ruin_names") == ()  # one of its targets has no letter
    assert loaded("bbh/navigate", data, classes=[]).classes == ()
