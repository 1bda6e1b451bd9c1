"""Data files that are damaged are refused with their line before any call, and a run refuses data that have changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import FakeEndpoint
from test_storage import sitting

from asyncopt import Example, MemoryCache, Task
from asyncopt.errors import ConfigError, DataError
from asyncopt.tasks import load
from asyncopt.tasks.sources import PublishedFile
from asyncopt.values import Completion, Usage

GOOD = b"".join(b'{"input": "q%d", "target": "a%d"}\n' % (number, number) for number in range(2))
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "a bad line of JSON": (GOOD + b'{"input": \n', "data.jsonl, line 3"),
    "a missing field": (GOOD + b'{"input": "x"}\n', "data.jsonl, line 3: there is no field 'target'"),
    "empty": (b"", "data.jsonl has no examples"),
    "a huge line": (
        GOOD + b'{"input": "' + b"x" * (1 << 20) + b'", "target": "2"}\n',
        "data.jsonl, line 3: the line has",
    ),
    "a file without an end": (GOOD + b" " * (64 << 20), "data.jsonl is larger than 64 MiB"),
    "one example in two splits": (
        b'{"input": "q", "target": "a", "split": "train"}\n{"input": "q", "target": "a", "split": "test"}\n',
        "data.jsonl: the input 'q' is in the training split and in another",
    ),
    "no UTF-8": (GOOD + b'{"input": "\xff", "target": "2"}\n', "data.jsonl, line 3: byte 12 is no UTF-8"),
}
FINE_FILES = {
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "BOM and CRLF": b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"),
}


def own(path: Path) -> Task:
    """The task in a file of one's own."""
    task = load(str(path))
    assert isinstance(task, Task)
    return task


@pytest.mark.row("S10")
@pytest.mark.parametrize("damage", BAD_FILES)
def test_a_damaged_data_file_is_refused_with_its_name_and_the_line(tmp_path: Path, damage: str) -> None:
    content, message = BAD_FILES[damage]
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        own(path)
    assert refused.value.exit_code == 2


@pytest.mark.row("S10")
def test_two_examples_with_one_id_are_refused() -> None:
    with pytest.raises(ConfigError, match="two training examples of 'toy' have one id"):
        Task("toy", "text", train=(Example(1, "a", "x"), Example(1, "b", "y")), test=(Example(1, "c", "z"),))


@pytest.mark.row("S10")
@pytest.mark.parametrize("form", FINE_FILES)
def test_how_a_file_was_saved_changes_nothing(tmp_path: Path, form: str) -> None:
    (tmp_path / "data.jsonl").write_bytes(GOOD)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.jsonl").write_bytes(FINE_FILES[form])
    assert own(tmp_path / "data.jsonl") == own(tmp_path / "other" / "data.jsonl")


@pytest.mark.row("S10")
def test_a_published_file_with_another_sum_is_refused(tmp_path: Path) -> None:
    published = PublishedFile("set", "set.json", "https://example.org/set.json", sha256="0" * 64)
    (tmp_path / "set.json").write_bytes(b"[]")
    with pytest.raises(DataError, match=r"set\.json has the sha256 4f53.* not the published file"):
        published.read(tmp_path)


@pytest.mark.row("S10")
def test_a_run_refuses_data_that_have_changed_since(tmp_path: Path) -> None:
    path, run = tmp_path / "data.jsonl", tmp_path / "run"
    path.write_bytes(GOOD)
    sitting(run, FakeEndpoint(lambda *_: Completion("[idea]", usage=Usage(4, 2))), MemoryCache(), task=own(path))
    path.write_bytes(GOOD.replace(b'"a1"', b'"a2"'))
    endpoint = FakeEndpoint(lambda *_: Completion("[idea]", usage=Usage(4, 2)))
    with pytest.raises(ConfigError, match=r"holds another study \(task\.fingerprint was") as refused:
        sitting(run, endpoint, MemoryCache(), task=own(path))
    assert refused.value.exit_code == 2
    assert endpoint.started == []
