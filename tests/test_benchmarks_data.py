"""Published data sets: the reference's splits, question texts and targets; files that are not the published ones.

MMLU and MultiArith are tested on items of our own in the published formats.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from asyncopt.errors import ConfigError, DataError
from asyncopt.tasks import Task, bbh, gsm8k, load, mmlu
from asyncopt.tasks.datasets import DATASETS, files_named, tasks_in
from asyncopt.tasks.sources import CHECKSUMS
from asyncopt.tasks.splits import Splits

# Of the reference code: items, the two ratios -> for each split its size, its first indices, and the beginning of the
# sha256 of all its indices, joined by commas. Those of training alone are the specification's.
SPLITS = [
    (7473, 0.035, 0, (261, [29, 33, 38, 39, 42, 49, 72, 98], "b961e3c646da4762"), None),
    (250, 0.2, 0, (50, [5, 8, 12, 22, 37, 44, 45, 55], "4b09eaf8b6f77718"), None),
    (187, 0.2, 0, (37, [4, 5, 7, 18, 26, 33, 37, 44], "9da57a694524e8dc"), None),
    (146, 0.2, 0, (29, [7, 8, 16, 22, 24, 26, 27, 33], "048b7568be266dcd"), None),
    (178, 0.2, 0, (35, [4, 5, 7, 8, 18, 26, 33, 37], "b27e1ba43947e844"), None),
    (
        100,
        0.8,
        0.2,
        (80, [0, 1, 2, 3, 4, 5, 6, 7], "bfad9071f6f016d9"),
        (20, [9, 12, 21, 25, 36, 37, 39, 44], "a2831826f8af0a5c"),
    ),
    (
        7473,
        0.035,
        0.035,
        (261, [29, 33, 38, 39, 42, 49, 72, 98], "b961e3c646da4762"),
        (261, [4, 19, 35, 36, 51, 154, 197, 290], "ea05030fd8ce09ea"),
    ),
    (
        178,
        "1/3",
        "1/3",
        (59, [4, 5, 7, 8, 16, 18, 19, 22], "e4c3f38e6b593d7a"),
        (59, [0, 6, 9, 10, 11, 12, 17, 21], "76bbf26da43bae5d"),
    ),
    (
        250,
        0.3333,
        0.3333,
        (83, [4, 5, 7, 8, 12, 15, 16, 18], "f0a7a4446ad5c904"),
        (83, [1, 3, 6, 9, 10, 11, 14, 17], "9240a9efd00dcafa"),
    ),
]

TRAIN_OF_250 = [5, 8, 12, 22, 37, 44, 45, 55]
FIRST_TRAIN = {
    "causal_judgement": [4, 5, 7, 18, 26, 33, 37, 44],
    "penguins_in_a_table": [7, 8, 16, 22, 24, 26, 27, 33],
    "snarks": [4, 5, 7, 8, 18, 26, 33, 37],
}
BOOLEAN = {
    "boolean_expressions",
    "causal_judgement",
    "formal_fallacies",
    "navigate",
    "sports_understanding",
    "web_of_lies",
}
NUMBER = {"object_counting", "multistep_arithmetic_two"}
TEXT = {"dyck_languages", "word_sorting"}


def loaded(name: str, data: Path, **options: object) -> Task:
    task = load(name, data=data, options=options)
    assert isinstance(task, Task)
    return task


def digest(indices: Sequence[int]) -> str:
    return hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest()[:16]


def ids(task: Task) -> list[list[int]]:
    return [[example.id for example in split] for split in (task.train, task.validation, task.test)]


# Splits


@pytest.mark.parametrize(("count", "train_ratio", "validation_ratio", "train", "validation"), SPLITS)
def test_splits_are_the_references(
    count: int,
    train_ratio: object,
    validation_ratio: object,
    train: tuple[int, list[int], str],
    validation: tuple[int, list[int], str] | None,
) -> None:
    splits = Splits.of("t", {"train_ratio": train_ratio, "validation_ratio": validation_ratio})
    drawn = splits.indices(count)
    for indices, golden in zip(drawn, (train, validation or (0, [], digest([]))), strict=False):
        assert (len(indices), indices[:8], digest(indices)) == golden
    whole = train_ratio == 0.8
    assert sorted(index for indices in drawn for index in indices) == list(range(count))
    assert (drawn[2] == []) == whole


def test_a_stated_test_ratio_draws_from_what_the_others_leave() -> None:
    train, validation, test = Splits.of("t", {"test_ratio": 0.1}, train=0.2, validation=0.2).indices(250)
    assert (len(train), len(validation), len(test)) == (50, 50, 25)
    assert len({*train, *validation, *test}) == 125
    assert train[:8] == TRAIN_OF_250
    assert Splits.of("t", {"test_ratio": 1}).indices(30) == ([], [], list(range(30)))


def test_ratios_that_are_the_whole_leave_no_test_of_what_rounding_left_over() -> None:
    assert Splits.of("t", {}, train=0.8, validation=0.2).sizes(101) == (80, 20, 0)
    assert (
        Splits.of("t", {"train_ratio": "1/3", "validation_ratio": "1/3", "test_ratio": "1/3"}).sizes(250) == (83,) * 3
    )
    assert Splits.of("t", {"train_ratio": 0.7, "validation_ratio": 0.2, "test_ratio": 0.1}).sizes(10) == (7, 2, 1)


def test_another_split_seed_draws_others() -> None:
    drawn = [Splits.of("t", {"split_seed": seed}, train=0.2).indices(250)[0] for seed in (0, 1, 1)]
    assert drawn[0] != drawn[1] == drawn[2]


def test_no_items_are_no_splits() -> None:
    assert Splits.of("t", {}, train=0.2).indices(0) == ([], [], [])


# GSM8K


def test_gsm8k_is_the_published_data_in_the_references_split(data: Path) -> None:
    task = load("gsm8k", data=data, seed=7)
    assert isinstance(task, Task)
    train, validation, test = ids(task)
    assert [len(train), len(validation), len(test)] == [261, 0, 1319]
    assert (train[:8], digest(train)) == ([29, 33, 38, 39, 42, 49, 72, 98], "b961e3c646da4762")
    assert test == list(range(1319))
    assert task.test[0].target == "18"
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", example.target) for example in task.train + task.test)
    assert task.forbid is not None
    assert task.forbid.search("In 3 steps")
    assert (task.kind, task.initial, task.max_tokens) == ("number", ("Let's solve the problem.",), 1024)
    assert task.render("Think.", "1 + 1?") == "Think.\n1 + 1?"


def test_ratios_of_gsm8k_are_of_its_training_file(data: Path) -> None:
    usual = loaded("gsm8k", data)
    task = loaded("gsm8k", data, validation_ratio=0.035, test_slice=":10%")
    assert task.train == usual.train
    assert digest(ids(task)[1]) == "ea05030fd8ce09ea"
    assert task.test == usual.test[:131]
    assert task.fingerprint != usual.fingerprint
    with pytest.raises(ConfigError, match="gsm8k has no option 'test_ratio'; did you mean"):
        loaded("gsm8k", data, test_ratio=0.5)


def test_gsm8ks_own_solutions_are_graded_right(data: Path) -> None:
    task = loaded("gsm8k", data)
    solutions = [json.loads(line)["answer"] for line in (data / "gsm8k" / "test.jsonl").read_text("utf-8").splitlines()]
    assert [task.grade(text, example) for text, example in zip(solutions, task.test, strict=True)] == [1.0] * 1319


# BIG-Bench Hard


@pytest.mark.parametrize("stem", bbh.STEMS)
def test_bbh_splits_and_targets_fit_their_kind(data: Path, stem: str) -> None:
    task = loaded(f"bbh/{stem}", data)
    rows = json.loads((data / "bbh" / f"{stem}.json").read_text("utf-8"))["examples"]
    train, _, test = ids(task)
    assert train[:8] == FIRST_TRAIN.get(stem, TRAIN_OF_250)
    assert len(train) == int(0.2 * len(rows))
    assert sorted(train + test) == list(range(len(rows)))
    assert test == sorted(test)
    kinds = {"boolean": BOOLEAN, "number": NUMBER, "text": TEXT}
    assert task.kind == next((kind for kind, stems in kinds.items() if stem in stems), "choice")
    assert task.initial == ("",)
    for example in task.train + task.test:
        assert example.input == rows[example.id]["input"]
        assert task.grade(f"Let's see.\n\nThe answer is {example.target}.", example) == 1.0
    targets = {example.target.casefold() for example in task.train + task.test}
    if task.kind == "boolean":
        assert targets in ({"yes", "no"}, {"true", "false"}, {"valid", "invalid"})
    if task.kind == "choice":
        assert {target for target in targets if not re.fullmatch(r"\([a-z]\)", target)} <= {
            "monsters, inc",
            "dearth, wind, & fire",
            "rita, sue and bob poo",
        }


def test_there_are_27_tasks_of_bbh_and_17_are_multiple_choice() -> None:
    kinds = [bbh.kind_of(stem) for stem in bbh.STEMS]
    assert {kind: kinds.count(kind) for kind in kinds} == {"boolean": 6, "choice": 17, "text": 2, "number": 2}


def test_bbh_answers_of_another_item_are_graded_wrong(data: Path) -> None:
    for stem in bbh.STEMS:
        task = loaded(f"bbh/{stem}", data)
        for example, other in zip(task.test, task.test[1:], strict=False):
            if example.target != other.target:
                assert task.grade(f"The answer is {other.target}.", example) == 0.0


def test_a_split_in_thirds(data: Path) -> None:
    task = loaded("bbh/snarks", data, train_ratio="1/3", validation_ratio="1/3")
    train, validation, test = ids(task)
    assert (digest(train), digest(validation), len(test)) == ("e4c3f38e6b593d7a", "76bbf26da43bae5d", 60)


def test_slices_are_of_the_splits(data: Path) -> None:
    usual = loaded("bbh/navigate", data)
    task = loaded("bbh/navigate", data, train_slice="10:20", test_slice="50%:100%")
    assert (task.train, task.test) == (usual.train[10:20], usual.test[100:])


def test_moving_examples_to_the_validation_set_changes_the_fingerprint(data: Path) -> None:
    prints = {
        loaded("bbh/navigate", data, **options).fingerprint
        for options in ({}, {"validation_ratio": 0.8}, {"validation_ratio": 0.2}, {"split_seed": 1})
    }
    assert len(prints) == 4


# AQuA


def test_aqua_is_all_test_and_its_question_ends_with_the_options(data: Path) -> None:
    task = loaded("aqua", data)
    assert [len(split) for split in ids(task)] == [0, 0, 254]
    assert task.kind == "choice"
    rows = [json.loads(line) for line in (data / "aqua" / "test.json").read_text("utf-8").splitlines()]
    for example, row in zip(task.test, rows, strict=True):
        lines = example.input.removeprefix(row["question"]).splitlines()
        assert [lines[0], *lines[1:6]] == ["", *(f"({option}" for option in row["options"])]
        assert lines[6:] == ["Which of (A), (B), (C), (D) and (E) is the answer?"]
        assert example.target == row["correct"]
        assert task.grade(f"So the answer is ({example.target}).", example) == 1.0
        assert task.grade(f"So the answer is ({'B' if example.target == 'A' else 'A'}).", example) == 0.0


def test_aqua_can_be_searched_on(data: Path) -> None:
    assert [len(split) for split in ids(loaded("aqua", data, train_ratio=0.2))] == [50, 0, 204]


# MultiArith and MMLU, in their formats


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with items of our own: 10 of MultiArith, 10 each of two subjects of MMLU."""
    items = [
        {
            "iIndex": number,
            "lAlignments": [1],
            "lEquations": [f"X={number}.0+2.0"],
            "lSolutions": [number + 2.0],
            "sQuestion": f" Ada has {number} pens and gets 2. How many has she? ",
        }
        for number in range(10)
    ]
    (tmp_path / "multiarith").mkdir()
    (tmp_path / "multiarith" / "MultiArith.json").write_text(json.dumps(items, indent=4))
    (tmp_path / "mmlu").mkdir()
    for subject in ("global_facts", "miscellaneous"):
        with (tmp_path / "mmlu" / f"{subject}_test.csv").open("w", newline="", encoding="utf-8") as file:
            rows = (
                [f'{subject} {number}, "so"\nsaid', "None", "1", "ä", "NA", "ABCD"[number % 4]] for number in range(10)
            )
            csv.writer(file).writerows(rows)
    return tmp_path


def test_multiarith_is_all_test_with_whole_numbers(folder: Path) -> None:
    task = loaded("multiarith", folder)
    assert [len(split) for split in ids(task)] == [0, 0, 10]
    assert task.kind == "number"
    assert (task.test[3].input, task.test[3].target) == ("Ada has 3 pens and gets 2. How many has she?", "5")
    assert [len(split) for split in ids(loaded("multiarith", folder, train_ratio=0.2))] == [2, 0, 8]


def test_a_subject_of_mmlu(folder: Path) -> None:
    task = loaded("mmlu/global_facts", folder)
    assert [len(split) for split in ids(task)] == [8, 2, 0]
    assert task.kind == "choice"
    first = next(example for example in task.train + task.validation if example.id == 1)
    assert first.input == (
        'global_facts 1, "so"\nsaid\n(A) None\n(B) 1\n(C) ä\n(D) NA\nWhich of (A), (B), (C) and (D) is the answer?'
    )
    assert first.target == "B"
    assert task.grade("The answer is (B).", first) == 1.0


def test_there_are_57_subjects_in_four_categories() -> None:
    assert len(mmlu.SUBJECTS) == 57
    sizes = {category: len(mmlu.files_of(category)) for category in mmlu.CATEGORIES}
    assert sizes == {"stem": 18, "humanities": 13, "social_sciences": 12, "other": 14}
    files = [file for category in mmlu.CATEGORIES for file in mmlu.files_of(category)]
    assert sum(file.size or 0 for file in files) == 6_366_061


def test_a_category_of_mmlu_is_its_subjects_one_after_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in mmlu.files_of("other"):
        path = folder / file.path
        if not path.exists():
            path.write_text(f"{file.name},a,b,c,d,A\n")
    task = loaded("mmlu/other", folder, train_ratio=0, validation_ratio=0)
    first = [example.input.split("\n")[0].split(",")[0] for example in task.test]
    alone = [file.name for file in mmlu.files_of("other")]
    start, middle = alone.index("mmlu/global_facts"), alone.index("mmlu/miscellaneous")
    wanted = [*alone[:start], *(f"global_facts {n}" for n in range(10)), *alone[start + 1 : middle]]
    wanted += [*(f"miscellaneous {n}" for n in range(10)), *alone[middle + 1 :]]
    assert first == wanted
    assert [example.id for example in task.test] == list(range(len(wanted)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q,a,b,c,A\n", "mmlu/anatomy_test.csv, row 1: wanted a question, four options"),
        (b"q,a,b,c,d,A\nq,a,b,c,d,E\n", "row 2: wanted"),
        (b"q,a,b,c,d,\n", "row 1: wanted"),
        (b'q,"a,b,c,d,A\n', "is no CSV file in UTF-8"),
        (b"\xff,a,b,c,d,A\n", "is no CSV file in UTF-8"),
    ],
)
def test_a_damaged_file_of_mmlu_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu" / "anatomy_test.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("mmlu/anatomy", data=tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}x",
        b"3",
        b"[3]",
        b'[{"sQuestion": "a"}]',
        b'[{"sQuestion": "a", "lSolutions": []}]',
        b'[{"sQuestion": 3, "lSolutions": [1.0]}]',
        b'[{"sQuestion": "a", "lSolutions": [1e999]}]',
    ],
)
def test_a_damaged_file_of_multiarith_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "multiarith").mkdir()
    (tmp_path / "multiarith" / "MultiArith.json").write_bytes(content)
    with pytest.raises(
        DataError, match=r"MultiArith.json cannot be read .* wanted a JSON list .* public home is https"
    ):
        load("multiarith", data=tmp_path)


# Which file it is


def test_missing_data_says_which_file_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path / "cache"))
    elsewhere = tmp_path / "my data"
    with pytest.raises(DataError) as without:
        load("gsm8k")
    with pytest.raises(DataError) as named:
        load("bbh/navigate", data=elsewhere)
    assert f"there is no file {tmp_path / 'cache' / 'data' / 'gsm8k' / 'train.jsonl'}" in str(without.value)
    assert "`asyncopt data get gsm8k`" in str(without.value)
    assert gsm8k.TRAIN.url in str(without.value)
    assert str(elsewhere / "bbh" / "navigate.json") in str(named.value)
    assert f"`asyncopt data get bbh/navigate --data '{elsewhere}'`" in str(named.value)
    for error in (without, named):
        assert "--data DIR" in str(error.value)
        assert "ASYNCOPT_DATA" in str(error.value)


def test_data_are_found_in_the_default_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "data").symlink_to(folder, target_is_directory=True)
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path / "cache"))
    assert load("multiarith") == load("multiarith", data=folder)


def test_another_file_than_the_published_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bbh").mkdir()
    content = b'{"examples": []}'
    (tmp_path / "bbh" / "navigate.json").write_bytes(content)
    with pytest.raises(DataError) as refused:
        load("bbh/navigate", data=tmp_path)
    assert hashlib.sha256(content).hexdigest() in str(refused.value)
    assert str(bbh.file_of("navigate").sha256) in str(refused.value)


def test_a_file_without_a_pin_must_stay_what_it_was(folder: Path) -> None:
    first = load("multiarith", data=folder)
    path = folder / "multiarith" / "MultiArith.json"
    published = path.read_bytes()
    sums: Mapping[str, str] = json.loads((folder / CHECKSUMS).read_bytes())
    assert sums == {"multiarith/MultiArith.json": hashlib.sha256(published).hexdigest()}
    path.write_bytes(published.replace(b"pens", b"hats"))
    with pytest.raises(DataError, match=r"when it was first used; put that file back, or remove multiarith/Multi"):
        load("multiarith", data=folder)
    path.write_bytes(published)
    assert load("multiarith", data=folder) == first
    load("mmlu/global_facts", data=folder)
    assert json.loads((folder / CHECKSUMS).read_bytes()).keys() == {*sums, "mmlu/global_facts_test.csv"}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 3}'])
def test_damaged_checksums_are_named(folder: Path, content: bytes) -> None:
    (folder / CHECKSUMS).write_bytes(content)
    with pytest.raises(DataError, match=r"checksums\.json does not hold sha256 sums by file; restore it, or remove it"):
        load("multiarith", data=folder)


def test_data_on_a_read_only_disk_load_all_the_same(folder: Path) -> None:
    (folder / f".{CHECKSUMS}.{os.getpid()}").mkdir()  # where the draft would be: not even root can write to it
    assert load("multiarith", data=folder).fingerprint
    assert not (folder / CHECKSUMS).exists()


def test_files_by_the_names_of_the_command() -> None:
    assert [file.path for file in files_named(["gsm8k", "bbh/navigate", "bbh/navigate"])] == [
        "gsm8k/train.jsonl",
        "gsm8k/test.jsonl",
        "bbh/navigate.json",
    ]
    assert len(files_named(["bbh"])) == 27
    assert len(files_named(["mmlu/anatomy", "mmlu"])) == 57
    assert len(files_named(["all"])) == 2 + 27 + 1 + 57 + 1 + 9 == sum(len(one.files) for one in DATASETS)
    with pytest.raises(ConfigError, match="no data named 'gsm8'; did you mean gsm8k"):
        files_named(["gsm8"])
    with pytest.raises(
        ConfigError,
        match="no data named '#'; wanted all, gsm8k, bbh, aqua, mmlu, multiarith, ordered-prompt, bbh/<task>",
    ):
        files_named(["#"])


def test_every_published_file_has_an_https_home_and_a_sum_or_a_size() -> None:
    files = files_named(["all"])
    assert all(file.url.startswith("https://raw.githubusercontent.com/") for file in files)
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) if file.sha256 else file.size for file in files)
    assert {file.path for file in files if file.sha256 is None} == {
        "multiarith/MultiArith.json",
        *(f"mmlu/{subject}_test.csv" for subject in mmlu.SUBJECTS),
        *(
            f"ordered-prompt/{stem}/{part}.jsonl"
            for stem in ("subj", "trec", "mpqa")
            for part in ("train", "dev_subsample", "test")
        ),
    }


def test_the_tasks_in_a_folder_are_those_that_can_be_loaded(folder: Path, data: Path) -> None:
    assert tasks_in(folder) == ["multiarith", "mmlu/global_facts", "mmlu/miscellaneous"]
    assert {"gsm8k", "aqua", *(f"bbh/{stem}" for stem in bbh.STEMS)} <= set(tasks_in(data))
    for name in tasks_in(folder):
        assert load(name, data=folder).name == name
