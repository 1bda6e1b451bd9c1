"""Loaders: bundled words, own data with everything that can be wrong with it, options, splits, names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from asyncopt.errors import ConfigError, DataError
from asyncopt.tasks import LinearRegression, Task, catalogue, load, procedural

Written = Callable[..., str]


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
    text = (Path(procedural.__file__).parent / "words" / f"{name}.txt").read_text("utf-8")
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


def test_shares_of_own_data(written: Written) -> None:
    path = written(*({"input": str(number), "target": "x"} for number in range(10)))
    thirds = loaded(path, options={"train_ratio": "1/3", "validation_ratio": "1/3"})
    assert [len(thirds.train), len(thirds.validation), len(thirds.test)] == [3, 3, 4]
    some = loaded(path, options={"train_ratio": 0.2, "validation_ratio": 0, "test_ratio": 0.3})
    assert [len(some.train), len(some.validation), len(some.test)] == [2, 0, 3]
    none_left = loaded(path, options={"train_ratio": 0.85, "validation_ratio": 0.15})
    assert [len(none_left.train), len(none_left.validation), len(none_left.test)] == [8, 1, 0]
    sliced = loaded(path, options={"train_slice": "1:", "test_slice": ":50%"})
    usual = loaded(path)
    assert (sliced.train, sliced.validation, sliced.test) == (usual.train[1:], usual.validation, usual.test[:1])
    assert loaded(path, seed=3, options={"split_seed": 0}) == usual
    assert loaded(path, options={"split_seed": 3}).train == loaded(path, seed=3).train != usual.train
    assert loaded(path, seed=2**40).train  # a study's seed may be larger than those of NumPy


def test_own_data_may_be_for_evaluation_alone(written: Written) -> None:
    stated = loaded(written({"input": "a", "target": "b", "split": "test"}))
    assert [len(stated.train), len(stated.test)] == [0, 1]
    drawn = loaded(written({"input": "a", "target": "b"}), options={"train_ratio": 0, "validation_ratio": 0})
    assert [len(drawn.train), len(drawn.test)] == [0, 1]


@pytest.mark.parametrize("option", [{"train_ratio": 0.5}, {"split_seed": 1}])
def test_own_data_that_state_their_splits_are_not_dealt(written: Written, option: Mapping[str, object]) -> None:
    path = written({"input": "a", "target": "b", "split": "train"}, {"input": "c", "target": "d", "split": "test"})
    with pytest.raises(ConfigError, match=f"state their splits; remove the option {next(iter(option))}"):
        load(path, options=option)
    assert loaded(path, options={"test_slice": ":1"}).test[0].input == "c"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_ratio": 1.01}, "option train_ratio of own is 1.01; it must be a number from 0 to 1"),
        ({"train_ratio": -0.1}, "must be a number from 0 to 1"),
        ({"train_ratio": True}, "must be a number from 0 to 1"),
        ({"train_ratio": float("nan")}, "must be a number from 0 to 1"),
        ({"test_ratio": "1/0"}, "'1/0'; it must be a number from 0 to 1, or a text such as '1/3'"),
        ({"test_ratio": "4/3"}, "'4/3'; it must be"),
        ({"test_ratio": "half"}, "'half'; it must be"),
        (
            {"train_ratio": 0.9},
            "the splits of own are more than the whole: train_ratio 0.9 + validation_ratio 0.2; lower one",
        ),
        ({"train_ratio": 0.5, "validation_ratio": 0.25, "test_ratio": "1/3"}, "test_ratio 0.333333; lower one"),
        ({"split_seed": -1}, "split_seed of own is -1; it must be an integer from 0"),
        ({"split_seed": 2**32}, "it must be an integer from 0"),
        ({"split_seed": "x"}, "it must be an integer from 0"),
        ({"train_slice": "10"}, "train_slice of own is '10'; it must be START:STOP"),
        ({"train_slice": 10}, "is 10; it must be START:STOP"),
        ({"train_slice": "-3:"}, "it must be START:STOP"),
        ({"train_slice": "0%:101%"}, "it must be START:STOP"),
        ({"test_slice": "2:1"}, "test_slice of own is '2:1', which keeps none of the 3 examples; widen it"),
        ({"validation_slice": "5:"}, "keeps none of the 2 examples"),
        ({"train_ration": 1}, "own has no option 'train_ration'; did you mean 'train_ratio'"),
    ],
)
def test_wrong_splits_are_refused(written: Written, options: Mapping[str, object], message: str) -> None:
    path = written(*({"input": str(number), "target": "x"} for number in range(10)))
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(path, options=options)


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
        ({"position": "Q_begin"}, "Do.\nhot"),
        ({"frame": True}, "Q: Do.\nhot\n\nA:"),
        ({"position": "Q_end", "frame": True}, "Q: hot\nDo.\n\nA:"),
        ({"position": "A_begin", "frame": True}, "Q: hot\n\nA: Do."),
    ],
)
def test_positions_of_the_instruction(options: Mapping[str, object], prompt: str) -> None:
    assert loaded("antonym", options=options).render("Do.", "hot") == prompt


@pytest.mark.parametrize(
    ("position", "plain", "framed"),
    [
        ("before_Q", None, "Q: hot\n\nA:"),
        ("Q_begin", "hot", "Q: hot\n\nA:"),
        ("Q_end", "hot", "Q: hot\n\nA:"),
        ("A_begin", None, "Q: hot\n\nA:"),
    ],
)
def test_an_empty_instruction_drops_its_line_at_every_position(position: str, plain: str | None, framed: str) -> None:
    assert loaded("antonym", options={"position": position, "frame": True}).render("", "hot") == framed
    if plain is not None:
        assert loaded("antonym", options={"position": position}).render("", "hot") == plain
        return
    with pytest.raises(ConfigError, match="needs the Q/A frame"):
        loaded("antonym", options={"position": position})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("antonym", {"tempalte": ""}, "antonym has no option 'tempalte'; did you mean 'template'"),
        ("antonym", {"kind": "text"}, "antonym has no option 'kind'"),
        ("antonym", {"zzz": 1}, "has no option 'zzz'; it has template, initial"),
        ("antonym", {"template": "{{ input }}"}, "never shows {{ instruction }}"),
        ("antonym", {"template": "{{ instruction }}"}, "never shows {{ input }}"),
        ("antonym", {"template": "{{ question }}"}, "'question' is undefined"),
        ("antonym", {"template": "{{ input / 0 }}"}, "Div of Jinja in line 1"),
        ("antonym", {"template": "{{ input.there }}"}, "cannot be rendered"),
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
    assert load("linear-regression", seed=2) == LinearRegression(15, 14, 2)


@pytest.mark.parametrize(
    ("name", "near"),
    [("gsm8", "gsm8k"), ("antonyms", "antonym"), ("navigat", "dln/navigate"), ("bbh/navigat", "bbh/navigate")],
)
def test_unknown_names_get_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"no task '{name}'; did you mean {near}\\? `asyncopt tasks ls`"):
        load(name)


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(
        ConfigError, match="no task '#'; `asyncopt tasks ls` lists them, and a path ending in .jsonl is one"
    ):
        load("#")


def test_the_catalogue_has_every_name_once() -> None:
    infos = catalogue()
    names = [info.name for info in infos]
    assert len(set(names)) == len(names)
    assert {"gsm8k", "aqua", "multiarith", "bbh/navigate", "mmlu/anatomy", "mmlu/stem", "antonym"} <= set(names)
    assert sum(name.startswith("bbh/") for name in names) == 27
    assert sum(name.startswith("mmlu/") for name in names) == 57 + 4
    for info in infos:
        assert "\n" not in info.summary
        if not info.needs_data:
            assert load(info.name).fingerprint


def test_names_that_need_data_name_the_command_that_fetches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path))
    families = {"dln": "(bbh|gsm8k|dln)"}  # whose data serve other tasks too
    for info in catalogue():
        family = info.name.partition("/")[0]
        # EvoPrompt's are read from disk alone; test_evoprompt_tasks.py has what is said of them.
        if info.needs_data and info.name not in ("dln/disaster", "dln/airline") and family != "evoprompt":
            with pytest.raises(DataError, match=f"fetch it with `asyncopt data get {families.get(family, family)}"):
                load(info.name)
