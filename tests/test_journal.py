from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.directory import RunDirectory, differences
from asyncopt.errors import AsyncoptError, ConfigError, JournalDamaged, RunLocked, StorageFailed
from asyncopt.files import write_atomically
from asyncopt.journal import Journal, Record, pack_record, read_records, unpack_record


def written(path: Path, count: int = 5) -> bytes:
    journal = Journal(path)
    for number in range(count):
        journal.append("step", {"number": number, "text": "ü\u2028\ud800\x00"})
    asyncio.run(journal.sync())
    journal.close()
    return path.read_bytes()


def numbers(path: Path) -> list[int]:
    journal = Journal(path)
    journal.close()
    return [record.data["number"] for record in journal.records]


def test_records_come_back_in_order(tmp_path: Path) -> None:
    written(tmp_path / "j")
    assert numbers(tmp_path / "j") == [0, 1, 2, 3, 4]


def test_damage_in_the_middle_is_refused_and_the_file_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "j"
    whole = bytearray(written(path))
    whole[whole.index(b"\n") + 20] ^= 1
    path.write_bytes(whole)
    with pytest.raises(JournalDamaged, match="record 1"):
        Journal(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("change", ["twice", "swapped", "missing"])
def test_records_out_of_order_are_damage(tmp_path: Path, change: str) -> None:
    path = tmp_path / "j"
    lines = written(path).splitlines(keepends=True)
    lines = {
        "twice": [*lines[:2], *lines[1:]],
        "swapped": [lines[1], lines[0], *lines[2:]],
        "missing": [lines[0], *lines[2:]],
    }[change]
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalDamaged):
        Journal(path)


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    body = b'{"v":2,"seq":0,"ev":"x","data":{}}'
    import zlib

    path.write_bytes(body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body))
    with pytest.raises(AsyncoptError, match="newer"):
        Journal(path)


def test_a_system_without_threads_left_ends_the_run_and_leaves_the_journal_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # what Python says where the system has none left

    path = tmp_path / "j"
    written(path)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        journal = Journal(path)
        for _ in range(2):
            with pytest.raises(StorageFailed, match="can't start new thread"):
                journal.append("step", {"number": 5})
            with pytest.raises(StorageFailed, match="can't start new thread"):
                asyncio.run(journal.sync())
        journal.close()
    assert numbers(path) == [0, 1, 2, 3, 4]


json_data = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), max_size=4)


@given(st.integers(0, 10**6), st.text(), json_data)
def test_any_record_is_one_line_that_comes_back(seq: int, kind: str, data: dict[str, object]) -> None:
    line = pack_record(Record(seq, kind, data))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert unpack_record(line[:-1]) == Record(seq, kind, data)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        records, good = read_records(content, Path("j"))
    except JournalDamaged:
        return
    assert records == []
    assert good == 0


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "run", {"seed": 0}, {})
    with pytest.raises(RunLocked, match=f"process {os.getpid()}"):
        RunDirectory(tmp_path / "run", {"seed": 0}, {})
    first.close()
    RunDirectory(tmp_path / "run", {"seed": 0}, {}).close()


def test_a_directory_is_for_one_study_and_says_what_differs(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run", {"seed": 0, "task": {"name": "a"}}, {}).close()
    with pytest.raises(ConfigError, match="task.name was a, is b"):
        RunDirectory(tmp_path / "run", {"seed": 0, "task": {"name": "b"}}, {})
    RunDirectory(tmp_path / "run", {"seed": 0, "task": {"name": "a"}}, {}).close()  # and the lock was given back


@pytest.mark.parametrize("name", ["journal.jsonl", "run.lock"])
def test_a_directory_with_something_else_in_the_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot be"):
            RunDirectory(tmp_path / "run", {"seed": 0}, {})


def test_the_note_of_who_holds_a_directory_is_only_a_courtesy(tmp_path: Path) -> None:
    (tmp_path / "run" / "run.holder").mkdir(parents=True)
    first = RunDirectory(tmp_path / "run", {"seed": 0}, {})
    with pytest.raises(RunLocked, match="another process"):
        RunDirectory(tmp_path / "run", {"seed": 0}, {})
    first.close()


def test_differences_name_their_place() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": 4}) == [
        "a.b was 1, is 3",
        "c was 2, is None",
        "d was None, is 4",
    ]


def test_a_place_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be made"):
        RunDirectory(tmp_path / "file" / "run", {}, {})
