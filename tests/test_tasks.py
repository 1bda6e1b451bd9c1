"""Loaders: golden splits of the published data, own data with everything that can be wrong with it, options, names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from asyncopt.errors import ConfigError, DataError
from asyncopt.tasks import LinearRegression, Task, catalogue, load
from asyncopt.tasks import bbh as bbh_module
from asyncopt.tasks import gsm8k as gsm8k_module
from asyncopt.tasks.sources import reference_split

Written = Callable[..., str]

# Of the reference code: items, ratio -> training items, the first of their indices, sha256 of all, joined by commas.
SPLITS = [
    (7473, 0.035, 261, [29, 33, 38, 39, 42, 49, 72, 98], "b961e3c646da4762"),
    (250, 0.2, 50, [5, 8, 12, 22, 37, 44, 45, 55], "4b09eaf8b6f77718"),
    (187, 0.2, 37, [4, 5, 7, 18, 26, 33, 37, 44], "9da57a694524e8dc"),
    (146, 0.2, 29, [7, 8, 16, 22, 24, 26, 27, 33], "048b7568be266dcd"),
    (178, 0.2, 35, [4, 5, 7, 8, 18, 26, 33, 37], "b27e1ba43947e844"),
]


def loaded(name: str, **arguments: object) -> Task:
    task = load(name, **arguments)  # type: ignore[arg-type]
    assert isinstance(task, Task)
    return task


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes lines (bytes, or values to be JSON) to a file of own data and returns its path."""

    def write(*lines: object, joint: bytes = b"\n") -> str:
        path = tmp_path / "own.jsonl"
        path.write_bytes(joint.join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
        return str(path)

    return write


@pytest.mark.parametrize(("count", "ratio", "size", "first", "digest"), SPLITS)
def test_reference_splits(count: int, ratio: float, size: int, first: list[int], digest: str) -> None:
    indices = reference_split(count, ratio)
    assert len(indices) == size
    assert indices[:8] == first
    assert hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest().startswith(digest)


def test_gsm8k_is_the_published_data_in_the_references_split(data: Path) -> None:
    task = loaded("gsm8k", data=data, seed=7)
    assert [len(task.train), len(task.validation), len(task.test)] == [261, 0, 1319]
    assert [example.id for example in task.train] == reference_split(7473, 0.035)
    assert task.test[0].target == "18"
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", example.target) for example in task.train + task.test)
    assert task.forbid is not None
    assert task.forbid.search("In 3 steps")
    assert (task.kind, task.initial, task.max_tokens) == ("number", ("Let's solve the problem.",), 1024)
    assert task.render("Think.", "1 + 1?") == "Think.\n1 + 1?"


def test_gsm8ks_own_solutions_are_graded_right(data: Path) -> None:
    task = loaded("gsm8k", data=data)
    solutions = [json.loads(line)["answer"] for line in (data / "gsm8k" / "test.jsonl").read_text("utf-8").splitlines()]
    assert [task.grade(text, example) for text, example in zip(solutions, task.test, strict=True)] == [1.0] * 1319


@pytest.mark.parametrize("stem", bbh_module.STEMS)
def test_bbh_splits_and_targets_fit_their_kind(data: Path, stem: str) -> None:
    task = loaded(f"bbh/{stem}", data=data)
    rows = json.loads((data / "bbh" / f"{stem}.json").read_text("utf-8"))["examples"]
    assert [example.id for example in task.train] == reference_split(len(rows), 0.2)
    assert sorted(example.id for example in task.train + task.test) == list(range(len(rows)))
    assert task.kind == bbh_module.kind_of(stem)
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


def test_bbh_answers_of_another_item_are_graded_wrong(data: Path) -> None:
    for stem in bbh_module.STEMS:
        task = loaded(f"bbh/{stem}", data=data)
        for example, other in zip(task.test, task.test[1:], strict=False):
            if example.target != other.target:
                assert task.grade(f"The answer is {other.target}.", example) == 0.0


def test_kinds_of_bbh_are_the_references() -> None:
    kinds = [bbh_module.kind_of(stem) for stem in bbh_module.STEMS]
    assert {kind: kinds.count(kind) for kind in kinds} == {"boolean": 6, "choice": 17, "text": 2, "number": 2}


def test_missing_data_says_which_file_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as without:
        load("gsm8k")
    with pytest.raises(DataError) as elsewhere:
        load("bbh/navigate", data=tmp_path)
    assert "DIR/gsm8k/train.jsonl" in str(without.value)
    assert str(tmp_path / "bbh" / "navigate.json") in str(elsewhere.value)
    assert gsm8k_module.TRAIN.url in str(without.value)
    assert bbh_module.file_of("navigate").url in str(elsewhere.value)
    for error in (without, elsewhere):
        assert "--data DIR" in str(error.value)
        assert "ASYNCOPT_DATA" in str(error.value)


def test_another_file_than_the_published_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bbh").mkdir()
    content = b'{"examples": []}'
    (tmp_path / "bbh" / "navigate.json").write_bytes(content)
    with pytest.raises(DataError) as refused:
        load("bbh/navigate", data=tmp_path)
    assert hashlib.sha256(content).hexdigest() in str(refused.value)
    assert bbh_module.file_of("navigate").sha256 in str(refused.value)


def test_files_beyond_the_limit_are_refused_before_they_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncopt.tasks.sources.LARGEST_FILE", 1 << 20)
    path = tmp_path / "own.jsonl"
    path.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(DataError, match="larger than 1 MiB"):
        load(str(path))


@pytest.mark.parametrize(("name", "least", "test_size"), [("antonym", 240, 100), ("capital", 170, 91)])
def test_bundled_words(name: str, least: int, test_size: int) -> None:
    task = loaded(name)
    assert [len(task.train), len(task.validation), len(task.test)] == [40, 40, test_size]
    text = (Path(bbh_module.__file__).parent / "words" / f"{name}.txt").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    assert len(rows) >= least
    assert {len(row) for row in rows} == {2}
    inputs = [row[0] for row in rows]
    assert len(set(inputs)) == len(inputs)
    assert all(word == word.strip() != "" and word.isascii() for row in rows for word in row)
    assert all(row[0].casefold() != row[1].casefold() for row in rows)
    if name == "antonym":
        assert all(re.fullmatch("[a-z]+", word) for row in rows for word in row)
    dealt = task.train + task.validation + task.test
    assert len({example.id for example in dealt}) == len(dealt)
    assert all([example.input, example.target] == rows[example.id] for example in dealt)


def test_bundled_words_are_dealt_by_the_seed() -> None:
    tasks = [loaded("antonym", seed=seed) for seed in (0, 0, 1)]
    first, again, other = tasks
    assert first == again
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.train != other.train


def test_bundled_template_drops_an_empty_instruction() -> None:
    task = loaded("antonym")
    assert task.render("Do it.", "hot") == "Do it.\n\nInput: hot\nOutput:"
    assert task.render("", "hot") == "Input: hot\nOutput:"


def test_own_data_with_stated_splits(written: Written) -> None:
    path = written(
        {"input": "a", "target": "x", "split": "test"},
        {"question": "b", "answer": 2, "split": "train"},
        {"input": 3.5, "target": True, "split": "validation"},
    )
    task = loaded(path)
    assert [(e.id, e.input, e.target) for e in task.train] == [(1, "b", "2")]
    assert [(e.id, e.input, e.target) for e in task.validation] == [(2, "3.5", "true")]
    assert [(e.id, e.input, e.target) for e in task.test] == [(0, "a", "x")]
    assert (task.name, task.kind, task.initial) == ("own", "text", ("",))


def test_own_data_is_dealt_by_the_seed(written: Written) -> None:
    path = written(*({"input": str(number), "target": "x"} for number in range(10)))
    first, again, other = (loaded(path, seed=seed) for seed in (0, 0, 1))
    assert [len(first.train), len(first.validation), len(first.test)] == [5, 2, 3]
    assert sorted(e.id for e in first.train + first.validation + first.test) == list(range(10))
    assert first == again
    assert first.fingerprint != other.fingerprint


def test_two_own_examples_are_enough(written: Written) -> None:
    task = loaded(written({"input": "a", "target": "x"}, {"input": "b", "target": "y"}))
    assert [len(task.train), len(task.validation), len(task.test)] == [1, 0, 1]


def test_windows_files_and_blank_lines_are_accepted(written: Written) -> None:
    lines = [
        b'\xef\xbb\xbf{"input": "a", "target": "x", "split": "train"}',
        b"",
        b'{"input":"b","target":"y","split":"test"}',
        b"",
    ]
    task = loaded(written(*lines, joint=b"\r\n"))
    assert [task.train[0].input, task.test[0].input] == ["a", "b"]


def test_lone_surrogates_are_repaired(written: Written) -> None:
    task = loaded(written(b'{"input": "\\ud83d\\ude00 \\ud800", "target": "\\udfff x", "split": "train"}'))
    assert (task.train[0].input, task.train[0].target) == ("\U0001f600 \ufffd", "\ufffd x")


GOOD = b'{"input": "a", "target": "b"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json", "not JSON"),
        (b'{"input": "a", "target": "b"', "not JSON"),
        (b'{"input": "a", "target": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["a", "b"]', "a JSON array; wanted an object"),
        (b"3", "a JSON number; wanted an object"),
        (b'{"target": "b"}', "no field 'input' \\(or 'question'\\)"),
        (b'{"input": "a"}', "no field 'target' \\(or 'answer'\\)"),
        (b'{"input": ["a"], "target": "b"}', "'input' is neither a text nor a number"),
        (b'{"input": "a", "target": null}', "'target' is neither a text nor a number"),
        (b'{"input": "a", "target": " "}', "the target is empty"),
        (
            b'{"input": "a", "target": "b", "split": "dev"}',
            "the split is 'dev'; it must be one of train, validation, test",
        ),
        (b'{"input": "a", "target": "b", "split": "train"}', "some lines have a split and some have none"),
        (b'{"input": "caf\xe9", "target": "b"}', "byte 15 is no UTF-8"),
        (b'{"input": "' + b"a" * (1 << 20) + b'", "target": "b"}', "it may have at most 1048576"),
    ],
)
def test_a_bad_line_is_named(written: Written, line: bytes, message: str) -> None:
    path = written(GOOD, b"", line, GOOD)
    with pytest.raises(DataError, match=f"^{re.escape(path)}, line 3: .*{message}"):
        load(path)


@pytest.mark.parametrize(("kind", "target"), [("number", "many"), ("boolean", "perhaps")])
def test_targets_must_fit_the_kind(written: Written, kind: str, target: str) -> None:
    path = written(GOOD.replace(b'"b"', b"1"), {"input": "a", "target": target})
    with pytest.raises(DataError, match=f"line 2: the target '{target}' is no {kind}"):
        load(path, options={"kind": kind})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([b""], "has no examples"),
        ([b"\n \n"], "has no examples"),
        ([GOOD], "1 example; a study needs at least two"),
        ([{"input": "a", "target": "b", "split": "test"}], 'no example with the split "train"'),
    ],
)
def test_files_without_enough_examples_are_refused(written: Written, lines: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(written(*lines))


def test_missing_own_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"there is no file {tmp_path / 'own.jsonl'}")):
        load(str(tmp_path / "own.jsonl"))


def test_options_change_a_task(written: Written) -> None:
    path = written(*({"input": str(number), "target": number} for number in range(4)))
    options = {
        "kind": "number",
        "description": "Repeat the number.",
        "initial": ["Repeat.", "Say it again."],
        "template": "<{{ input }}> {{ instruction }}",
        "max_tokens": 5,
    }
    task = loaded(path, options=options)
    assert (task.kind, task.description, task.initial) == ("number", "Repeat the number.", ("Repeat.", "Say it again."))
    assert task.max_tokens == 5
    assert task.render("{{ x }}", "1") == "<1> {{ x }}"
    assert loaded("antonym", options={"initial": "One."}).initial == ("One.",)


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({"position": "Q_end"}, "hot\nDo."),
        ({"position": "before_Q", "frame": True}, "Do.\nQ: hot\n\nA:"),
        ({"frame": True}, "Q: Do.\nhot\n\nA:"),
        ({"position": "A_begin", "frame": True}, "Q: hot\n\nA: Do."),
    ],
)
def test_positions_of_the_instruction(options: Mapping[str, object], prompt: str) -> None:
    assert loaded("antonym", options=options).render("Do.", "hot") == prompt


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("antonym", {"tempalte": ""}, "antonym has no option 'tempalte'; did you mean 'template'"),
        ("antonym", {"kind": "text"}, "antonym has no option 'kind'"),
        ("antonym", {"zzz": 1}, "has no option 'zzz'; it has template, initial"),
        ("antonym", {"template": "{{ input }}"}, "never shows {{ instruction }}"),
        ("antonym", {"template": "{{ instruction }}"}, "never shows {{ input }}"),
        ("antonym", {"template": "{{ question }}"}, "'question' is undefined"),
        ("antonym", {"template": "{{ input / 0 }}"}, "cannot be rendered"),
        ("antonym", {"template": "{{ input "}, "cannot be read"),
        (
            "antonym",
            {"template": "{{ input }}{{ instruction }}", "frame": True},
            "both a template and a position or frame",
        ),
        ("antonym", {"template": 3}, "option template of antonym is 3; it must be a text"),
        ("antonym", {"position": "before_Q"}, "needs the Q/A frame"),
        ("antonym", {"position": "middle"}, "must be one of before_Q, Q_begin, Q_end, A_begin"),
        ("antonym", {"position": ["Q_end"]}, "must be one of before_Q"),
        ("antonym", {"frame": "yes"}, "must be true or false"),
        ("antonym", {"initial": []}, "must be a text or a list of texts"),
        ("antonym", {"initial": ["a", 1]}, "must be a text or a list of texts"),
        ("antonym", {"max_tokens": 0}, "must be an integer of at least 1"),
        ("antonym", {"max_tokens": True}, "must be an integer of at least 1"),
        ("linear-regression", {"w_tru": 1}, "did you mean 'w_true'"),
        ("linear-regression", {"w_true": "1"}, "must be an integer"),
    ],
)
def test_wrong_options_are_refused(name: str, options: Mapping[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(name, options=options)


@pytest.mark.parametrize("options", [{"kind": "numeral"}, {"kind": ["text"]}, {"description": 1}])
def test_wrong_options_of_own_data_are_refused(written: Written, options: Mapping[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"option {next(iter(options))} of own is"):
        load(written(GOOD, {"input": "another", "target": "b"}), options=options)


@pytest.mark.parametrize("seed", range(20))
def test_equal_inputs_of_own_data_never_stand_in_two_splits(written: Written, seed: int) -> None:
    lines = [{"input": f"q{number % 7}", "target": "b"} for number in range(40)]
    task = load(written(*lines), seed=seed)
    assert isinstance(task, Task)
    splits = [{example.input for example in split} for split in (task.train, task.validation, task.test)]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 7
    assert len(task.train) + len(task.validation) + len(task.test) == 40


def test_an_input_in_two_stated_splits_is_refused(written: Written) -> None:
    lines = [{"input": "same", "target": "b", "split": split} for split in ("train", "test")]
    with pytest.raises(DataError, match="'same' is in the training split and in another"):
        load(written(*lines))


@pytest.mark.parametrize("name", ["x" * 5000 + ".jsonl", "a\0b.jsonl"])
def test_a_name_that_no_file_can_have_is_a_missing_file(name: str) -> None:
    with pytest.raises(DataError, match="there is no file"):
        load(name)


def test_linear_regression_is_a_task() -> None:
    assert load("linear-regression", options={"w_true": 3, "b_true": 5, "repetition": 4}) == LinearRegression(3, 5, 4)


@pytest.mark.parametrize(
    ("name", "near"),
    [("gsm8", "gsm8k"), ("antonyms", "antonym"), ("navigate", "bbh/navigate"), ("bbh/navigat", "bbh/navigate")],
)
def test_unknown_names_get_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"no task '{name}'; did you mean {near}\\? `asyncopt tasks ls`"):
        load(name)


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(
        ConfigError, match="no task '#'; `asyncopt tasks ls` lists them, and a path ending in .jsonl is one"
    ):
        load("#")


def test_the_catalogue_is_what_can_be_loaded(data: Path) -> None:
    infos = catalogue()
    assert len({info.name for info in infos}) == len(infos) == 31
    for info in infos:
        assert load(info.name, data=data).name == info.name
        assert "\n" not in info.summary
        if info.needs_data:
            with pytest.raises(DataError):
                load(info.name)
        else:
            assert load(info.name).fingerprint
