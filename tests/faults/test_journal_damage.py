"""A journal or a manifest that was damaged: a torn end is cut off and kept, everything else is refused, nothing skipped."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEndpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from test_storage import assert_goes_on, decisions, found, sitting
from test_study import toy_model

from asyncopt import MemoryCache
from asyncopt.directory import RunDirectory
from asyncopt.errors import ConfigError, JournalDamaged, StorageFailed
from asyncopt.journal import Journal, Record, good_records, pack_record, repair
from asyncopt.testing.disk import FaultyDisk

pytestmark = pytest.mark.row("S05")


def lines(count: int = 5) -> list[bytes]:
    return [pack_record(Record(number, "step", {"number": number, "text": "ü\u2028\x00"})) for number in range(count)]


def opened(path: Path) -> list[int]:
    journal = Journal(path)
    journal.close()
    return [record.data["number"] for record in journal.records]


WHOLE = b"".join(lines())
LAST = WHOLE.rindex(b"\n", 0, -1) + 1


@pytest.mark.parametrize("cut", range(LAST, len(WHOLE)))
def test_a_journal_torn_at_any_byte_of_its_last_record_goes_on_without_it(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j"
    path.write_bytes(WHOLE[:cut])
    journal = Journal(path)
    assert len(journal.records) == 4
    journal.append("step", {"number": 99})
    journal.close()
    assert opened(path) == [0, 1, 2, 3, 99]
    kept = [one.read_bytes() for one in tmp_path.glob(f"j.tail-{LAST}")]
    assert kept == ([WHOLE[LAST:cut]] if cut > LAST else [])


def newer(body: bytes = b'{"v":2,"seq":0,"ev":"x","data":{}}') -> bytes:
    return body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)


ENDS: dict[str, tuple[bytes, int]] = {  # what stands behind the good records, and how many of those there are
    "nothing at all": (b"", 0),
    "nothing behind whole records": (WHOLE, 5),
    "zeros, as after a power failure": (WHOLE + bytes(4096), 5),
    "zeros in the place of a record": (b"".join(lines()[:4]) + bytes(len(lines()[4])), 4),
    "a bad checksum": (WHOLE[:-5] + b"x" + WHOLE[-4:], 4),
    "the last record twice": (WHOLE + lines()[4], 5),
    "an empty line": (WHOLE + b"\n", 5),
    "something else": (WHOLE + b"\xff\xfe not of ours\n", 5),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_is_bad_at_the_end_is_cut_off_and_kept(tmp_path: Path, end: str) -> None:
    content, good = ENDS[end]
    path = tmp_path / "j"
    path.write_bytes(content)
    assert opened(path) == list(range(good))
    size = len(b"".join(lines()[:good]))
    assert path.read_bytes() == content[:size]
    kept = [one.read_bytes() for one in tmp_path.glob("j.tail-*")]
    assert kept == ([content[size:]] if len(content) > size else [])


def flipped(place: int) -> bytes:
    return WHOLE[:place] + bytes([WHOLE[place] ^ 1]) + WHOLE[place + 1 :]


MIDDLES: dict[str, tuple[bytes, int]] = {
    "a bad checksum": (flipped(WHOLE.index(b"\n") + 20), 1),
    "the first record": (flipped(10), 0),
    "a line's end that is gone": (WHOLE.replace(b"\n", b" ", 1), 0),
    "a record twice": (b"".join([*lines()[:2], *lines()[1:]]), 2),
    "records in another order": (b"".join([lines()[1], lines()[0], *lines()[2:]]), 0),
    "a record that is gone": (b"".join([lines()[0], *lines()[2:]]), 1),
    "CRLF": (WHOLE.replace(b"\n", b"\r\n"), 0),
    "a BOM": (b"\xef\xbb\xbf" + WHOLE, 0),
    "zeros": (lines()[0] + bytes(len(lines()[1]) - 1) + b"\n" + b"".join(lines()[2:]), 1),
    "nothing of ours": (b"# notes\n# more notes\n", 0),
}


@pytest.mark.parametrize("damage", MIDDLES)
def test_damage_with_records_behind_it_is_refused_until_it_is_repaired(tmp_path: Path, damage: str) -> None:
    content, good = MIDDLES[damage]
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(JournalDamaged, match=rf"record {good} .* asyncopt doctor {tmp_path} --repair") as refused:
        Journal(path)
    assert refused.value.exit_code == 5
    assert [one.name for one in tmp_path.iterdir()] == ["j"]
    assert path.read_bytes() == content

    kept, aside = repair(path)
    assert kept == good
    assert aside is not None
    assert aside.read_bytes() == content
    assert opened(path) == list(range(good))
    assert repair(path) == (good, None)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_no_byte_can_change_unnoticed(place: int, change: int) -> None:
    content = WHOLE[:place] + bytes([WHOLE[place] ^ change]) + WHOLE[place + 1 :]
    records, good = good_records(content)
    assert good <= place
    assert [record.data["number"] for record in records] == list(range(len(records)))


@pytest.mark.parametrize(("kind", "data"), [("step", None), ("step", ["number"]), (3, {})])
def test_what_no_study_writes_is_damage_whatever_its_checksum_says(tmp_path: Path, kind: Any, data: Any) -> None:
    path = tmp_path / "j"
    path.write_bytes(pack_record(Record(0, kind, data)) + b"".join(lines()[1:]))
    with pytest.raises(JournalDamaged, match="record 0 at byte 0 is damaged"):
        Journal(path)


def test_a_newer_version_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(newer())
    with pytest.raises(ConfigError, match="version 2, by a newer asyncopt; this one reads 1"):
        Journal(path)
    assert path.read_bytes() == newer()


@pytest.mark.row("S02")
def test_cutting_off_a_torn_end_may_fail_at_every_operation(tmp_path: Path) -> None:
    for number in range(100):
        path = tmp_path / str(number) / "j"
        path.parent.mkdir()
        path.write_bytes(WHOLE[:-3])
        disk = FaultyDisk(number, short=True)
        try:
            Journal(path, disk).close()
        except OSError:
            disk.crash()
            assert opened(path) == [0, 1, 2, 3]
            assert WHOLE[LAST:-3] in [one.read_bytes() for one in path.parent.glob("j.tail-*")]
        else:
            break
    assert number > 5


class JournalMachine(RuleBasedStateMachine):
    """A journal beside a list: whatever fails, after a crash it is the list up to some place at or behind the last sync."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "j"
        self.model: list[int] = []
        self.durable = 0
        self.disk = FaultyDisk()
        self.journal = Journal(self.path, self.disk)

    @rule(number=st.integers(0, 99))
    def append(self, number: int) -> None:
        try:
            self.journal.append("step", {"number": number})
        except StorageFailed:
            assert self.disk.failed
        else:
            self.model.append(number)

    @rule()
    def close_and_open(self) -> None:
        self.journal.close()
        if not self.disk.failed:
            self.durable = len(self.model)
        self.journal = Journal(self.path, self.disk)

    @rule(fail_in=st.integers(0, 5), short=st.booleans(), kind=st.sampled_from(["write", "sync", "truncate"]))
    def crash(self, fail_in: int, short: bool, kind: str) -> None:
        self.journal.close()
        self.durable = max(self.durable, 0 if self.disk.failed else len(self.model))
        self.disk.crash()
        self.disk = FaultyDisk(fail_in, short=short, only=kind)
        try:
            self.journal = Journal(self.path, self.disk)
        except OSError:
            self.disk = FaultyDisk()
            self.journal = Journal(self.path, self.disk)
        numbers = [record.data["number"] for record in self.journal.records]
        assert self.durable <= len(numbers)
        assert numbers == self.model[: len(numbers)]
        self.model = numbers

    @invariant()
    def is_the_list(self) -> None:
        assert [record.data["number"] for record in self.journal.records] == self.model

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


# -- whole runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", range(1, 6))
def test_a_repaired_run_goes_on_and_pays_for_nothing_again(tmp_path: Path, record: int) -> None:
    endpoint, cache, run = FakeEndpoint(toy_model), MemoryCache(), tmp_path / "run"
    result = found(sitting(run, endpoint, cache))
    whole = decisions(run), result, len(endpoint.started)
    journal = run / "journal.jsonl"
    content = journal.read_bytes().splitlines(keepends=True)
    content[record] = content[record].replace(b'"seconds":', b'"sekunds":')
    journal.write_bytes(b"".join(content))
    with pytest.raises(JournalDamaged):
        sitting(run, endpoint, cache)
    assert repair(journal)[0] == record
    assert_goes_on(run, endpoint, cache, whole)


def no_manifest(path: Path) -> None:
    path.unlink()


def half_a_manifest(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty_manifest(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [no_manifest, half_a_manifest, empty_manifest])
def test_a_journal_without_its_manifest_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    endpoint = FakeEndpoint(toy_model)
    sitting(tmp_path, endpoint, MemoryCache())
    calls = len(endpoint.started)
    damage(tmp_path / "manifest.json")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"manifest\.json is missing"):
            sitting(tmp_path, endpoint, MemoryCache())
    assert len(endpoint.started) == calls


def test_a_directory_in_which_only_the_lock_is_left_is_a_new_one(tmp_path: Path) -> None:
    RunDirectory(tmp_path, {"seed": 0}, {}).close()
    for name in ("manifest.json", "journal.jsonl"):
        (tmp_path / name).unlink()
    RunDirectory(tmp_path, {"seed": 1}, {}).close()


def test_an_empty_journal_is_the_beginning(tmp_path: Path) -> None:
    endpoint, cache = FakeEndpoint(toy_model), MemoryCache()
    whole = found(sitting(tmp_path, endpoint, cache)), len(endpoint.started)
    (tmp_path / "journal.jsonl").write_bytes(b"")
    assert (found(sitting(tmp_path, endpoint, cache)), len(endpoint.started)) == whole
