"""The disk fails: a study stops so that it can go on, what is on the disk is whole, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEndpoint, run_virtual
from swept import Commands
from test_study import toy_model

from asyncopt import OPRO, Engine, Example, MemoryCache, Study, Task
from asyncopt import journal as journal_module
from asyncopt.chronicle import decisions_of
from asyncopt.directory import RESULT, RunDirectory, read_journal
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import AsyncoptError, ConfigError, RunLocked, StorageFailed
from asyncopt.events import Event, Observer, StepFinished, StepValidated, StudyFinished
from asyncopt.files import DISK, Disk, write_atomically
from asyncopt.journal import Journal, read_records
from asyncopt.optimizers.script import Decision
from asyncopt.result import Result
from asyncopt.testing.disk import FaultyDisk
from asyncopt.values import Generate

EXAMPLES = tuple(Example(number, f"q{number}", f"a{number}") for number in range(10))
TASK = Task("toy", "text", train=EXAMPLES[:6], test=EXAMPLES[6:], initial=("Start.",))
OPTIMIZER = OPRO(steps=2, samples_per_step=2)


def sitting(
    directory: Path,
    endpoint: FakeEndpoint,
    cache: MemoryCache,
    disk: Disk = DISK,
    task: Task = TASK,
    optimizer: OPRO = OPTIMIZER,
    observers: Sequence[Observer] = (),
) -> Result:
    """One go at the study; what the endpoint answered is in the cache for the next."""

    async def main() -> Result:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=endpoint)
            return await Study(
                task=task,
                optimizer=optimizer,
                scorer=model,
                proposer=model,
                directory=directory,
                disk=disk,
                observers=observers,
            ).run()

    return run_virtual(main)


def found(result: Result) -> tuple[Any, ...]:
    """What the study found; what it took is measured, and not known where a broken disk could not keep it."""
    return result.best, result.initial, result.steps, result.unscored


def decisions(directory: Path) -> list[Decision]:
    return decisions_of(read_journal(directory))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Decision], tuple[Any, ...], int]:
    """The decisions, the result and the number of calls of a study that nothing interrupted."""
    directory, endpoint = tmp_path_factory.mktemp("whole"), FakeEndpoint(toy_model)
    result = sitting(directory, endpoint, MemoryCache())
    return decisions(directory), found(result), len(endpoint.started)


Whole = tuple[list[Decision], tuple[Any, ...], int]
FAULTS = {
    "full once, after half of a record": {"error": errno.ENOSPC, "short": True},
    "full for good": {"error": errno.ENOSPC, "short": True, "lasting": True},
    "no write works once": {"error": errno.EIO},
    "broken for good": {"error": errno.EIO, "lasting": True},
    "read-only for good": {"error": errno.EROFS, "lasting": True},
    "no permission once": {"error": errno.EACCES},
    "no fsync works": {"error": errno.EIO, "only": "sync"},
    "full for good, and then the power fails": {"error": errno.ENOSPC, "short": True, "lasting": True, "crash": True},
    "no fsync works, and then the power fails": {"error": errno.EIO, "only": "sync", "crash": True},
}


@pytest.mark.row("S01", "S02")
@pytest.mark.parametrize("fault", FAULTS)
def test_whichever_operation_fails_the_study_goes_on_as_if_it_had_not(tmp_path: Path, whole: Whole, fault: str) -> None:
    options: dict[str, Any] = dict(FAULTS[fault])
    crashes = options.pop("crash", False)
    for number in count():
        disk, endpoint, cache = FaultyDisk(number, **options), FakeEndpoint(toy_model), MemoryCache()
        directory = tmp_path / str(number)
        error = attempt(directory, endpoint, cache, disk)
        if error is None and not disk.failed:
            break
        if isinstance(error, ConfigError):
            assert not endpoint.started  # said before anything was paid for
        elif error is not None:
            assert error.exit_code == 3
            assert "make room and resume" in str(error)
        if crashes:
            disk.crash()
        assert_goes_on(directory, endpoint, cache, whole)
    assert number > 5, "the study has more operations than that, or the disk counts none"


def attempt(directory: Path, endpoint: FakeEndpoint, cache: MemoryCache, disk: Disk) -> AsyncoptError | None:
    """How the study ended: None with a result."""
    try:
        sitting(directory, endpoint, cache, disk)
    except AsyncoptError as error:
        return error
    return None


def assert_goes_on(
    directory: Path, endpoint: FakeEndpoint, cache: MemoryCache, whole: Whole, task: Task = TASK
) -> None:
    history, result, calls = whole
    if (directory / "journal.jsonl").exists():
        kept = decisions(directory)
        assert kept == history[: len(kept)]
    assert found(sitting(directory, endpoint, cache, task=task)) == result
    assert decisions(directory) == history
    assert (directory / RESULT).exists()
    assert len(endpoint.started) == calls  # nothing was paid for twice
    assert not [path.name for path in directory.iterdir() if path.name.startswith(".")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; mounting one is for root only."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here: a disk that is really full is not tested")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.real
@pytest.mark.row("S01")
def test_a_disk_that_is_really_full_stops_the_study_until_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    def respond(request: Generate, number: int) -> Answer:
        if number == 20:
            fill(small_disk / "somebody else's")
        return toy_model(request, number)

    # A page of the journal is nearly full by then, so that the next record is written in part only.
    task = replace(TASK, initial=("Start. " + "x" * 3500,))
    expected = found(sitting(tmp_path / "whole", endpoint := FakeEndpoint(toy_model), MemoryCache(), task=task))
    whole = decisions(tmp_path / "whole"), expected, len(endpoint.started)
    run, endpoint, cache = small_disk / "run", FakeEndpoint(respond), MemoryCache()
    with pytest.raises(StorageFailed, match="No space left"):
        sitting(run, endpoint, cache, task=task)
    assert len(endpoint.started) > 20
    assert (run / "journal.jsonl").read_bytes().endswith(b"\n")
    (small_disk / "somebody else's").unlink()
    assert_goes_on(run, endpoint, cache, whole, task)


_WRITE_UNTIL_REFUSED = """
import resource, sys
from pathlib import Path
from asyncopt.errors import StorageFailed
from asyncopt.journal import Journal
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
journal = Journal(Path(sys.argv[1]))
try:
    while True:
        journal.append("step", {"text": "x" * 300})
except StorageFailed as error:
    journal.close()
    print(len(journal.records), error)
"""


@pytest.mark.real
@pytest.mark.row("S01")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a file's size")
def test_a_short_write_of_the_system_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "j"
    command = [sys.executable, "-c", _WRITE_UNTIL_REFUSED, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    number, message = said.split(" ", 1)
    assert "make room" in message
    journal = Journal(path)
    journal.close()
    assert len(journal.records) == int(number) > 5
    assert [one.name for one in tmp_path.iterdir()] == ["j"]  # nothing was torn, so nothing was kept aside


# -- when a record is durable -------------------------------------------------------------------------------------------


class Flushed(MemoryCache):
    """Knows which answers it was given since the last flush."""

    def __init__(self) -> None:
        super().__init__()
        self.loose: set[bytes] = set()

    def put(self, key: bytes, value: bytes) -> None:
        super().put(key, value)
        self.loose.add(key)

    async def flush(self) -> None:
        self.loose.clear()


def test_what_is_said_to_be_finished_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_GROUP_SECONDS", 1e6)
    disk, path = FaultyDisk(), tmp_path / "run" / "journal.jsonl"
    seen: list[tuple[str, bool]] = []
    cache = Flushed()

    class Watch:
        def notify(self, event: Event) -> None:
            kind = {StepFinished: "step", StepValidated: "validated", StudyFinished: "finished"}.get(type(event))
            if kind is not None:
                step = getattr(event, "step", None)
                records, _ = read_records(disk.durable(path) or b"", path)
                there = ((record.kind, None if step is None else record.data["step"]) for record in records[::-1])
                seen.append((kind, (kind, step) in there and not cache.loose))

    optimizer = replace(OPTIMIZER, validate_every=1)
    task = replace(TASK, test=EXAMPLES[6:8], validation=EXAMPLES[8:])
    sitting(tmp_path / "run", FakeEndpoint(toy_model), cache, disk, task, optimizer, [Watch()])
    assert set(seen) == {("step", True), ("validated", True), ("finished", True)}
    assert disk.durable(tmp_path / "run" / RESULT) == (tmp_path / "run" / RESULT).read_bytes()


class WatchedDisk(FaultyDisk):
    """A disk that says when it has synced a file, and that waits before it does if it is told to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.synced, self.may_sync = threading.Event(), threading.Event()
        self.may_sync.set()

    def sync(self, file: int) -> None:
        assert self.may_sync.wait(30), "nobody let the disk go on: the loop stands still"
        try:
            super().sync(file)
        finally:
            self.synced.set()


def numbers(path: Path) -> list[int]:
    journal = Journal(path)
    journal.close()
    return [record.data["number"] for record in journal.records]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "asyncopt-journal"]


@pytest.mark.real
@pytest.mark.row("S01")
def test_a_record_becomes_durable_although_nobody_asks(tmp_path: Path) -> None:
    disk = WatchedDisk()
    journal = Journal(tmp_path / "j", disk)
    journal.append("step", {"number": 0})
    assert disk.synced.wait(30)
    disk.crash()
    assert numbers(tmp_path / "j") == [0]
    journal.close()
    assert threads() == []


@pytest.mark.real
def test_five_hundred_records_wait_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_GROUP_SECONDS", 1e6)
    disk = WatchedDisk(only="sync")
    journal = Journal(tmp_path / "j", disk)
    for number in range(500):
        assert disk.operations == 0
        journal.append("step", {"number": number})
    assert disk.synced.wait(30)
    journal.close()


@pytest.mark.real
def test_a_slow_disk_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    disk = WatchedDisk()
    journal = Journal(tmp_path / "j", disk)
    disk.may_sync.clear()
    journal.append("step", {"number": 0})

    async def main() -> None:
        waiting = asyncio.create_task(journal.sync())
        await asyncio.sleep(0)
        assert not waiting.done()
        disk.may_sync.set()  # only a loop that goes on comes here
        await waiting

    asyncio.run(main())
    journal.close()
    assert threads() == []


@pytest.mark.row("S02")
def test_nothing_is_written_after_a_failed_fsync(tmp_path: Path) -> None:
    disk = FaultyDisk(0, errno.EIO, only="sync")
    journal = Journal(tmp_path / "j", disk)
    journal.append("step", {"number": 0})
    with pytest.raises(StorageFailed, match="Input/output error"):
        asyncio.run(journal.sync())
    with pytest.raises(StorageFailed):
        journal.append("step", {"number": 1})
    with pytest.raises(StorageFailed):
        asyncio.run(journal.sync())
    journal.close()
    assert disk.operations == 1  # and the fsync is not tried again, which would lie
    disk.crash()
    assert numbers(tmp_path / "j") == []
    assert threads() == []


@pytest.mark.row("S01")
def test_a_record_that_is_not_taken_leaves_nothing_and_the_next_one_stands_in_its_place(tmp_path: Path) -> None:
    disk = FaultyDisk(1, short=True, only="write")
    journal = Journal(tmp_path / "j", disk)
    journal.append("step", {"number": 0})
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(StorageFailed, match="make room and resume"):
        journal.append("step", {"number": 1})
    assert disk.failed
    assert (tmp_path / "j").read_bytes() == before
    journal.append("step", {"number": 2})
    journal.close()
    assert numbers(tmp_path / "j") == [0, 2]


@pytest.mark.row("S01")
def test_where_half_a_record_cannot_be_cut_off_nothing_comes_behind_it(tmp_path: Path) -> None:
    disk = FaultyDisk(1, short=True, only="write", lasting=True)
    journal = Journal(tmp_path / "j", disk)
    journal.append("step", {"number": 0})
    for number in (1, 2):
        with pytest.raises(StorageFailed):
            journal.append("step", {"number": number})
        disk.failed = False  # it works again, and all the same nothing may follow the half record
    journal.close()
    assert not (tmp_path / "j").read_bytes().endswith(b"\n")
    assert numbers(tmp_path / "j") == [0]


@pytest.mark.row("S01", "S02")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_file_is_the_old_one_or_the_new_one_whichever_operation_fails(tmp_path: Path, error: int) -> None:
    for number in count():
        path = tmp_path / str(number) / "manifest.json"
        path.parent.mkdir()
        path.write_bytes(b"old")
        disk = FaultyDisk(number, error, short=True)
        try:
            write_atomically(path, b"new", disk)
        except OSError:
            assert disk.failed
            disk.crash()
            assert path.read_bytes() in (b"old", b"new")
        else:
            break
    assert number == 5  # made, written, synced, renamed, and the folder synced
    disk.crash()
    assert path.read_bytes() == b"new"


# -- run directories that cannot be written ------------------------------------------------------------------------------


@pytest.mark.row("S03")
@pytest.mark.parametrize("where", ["below a file", "in /proc", "read-only", "not ours"])
def test_a_run_directory_that_cannot_be_written_is_refused_before_any_call(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    directory = {"below a file": tmp_path / "file" / "run", "in /proc": Path("/proc/run")}.get(where, tmp_path / "run")
    if where == "in /proc" and not Path("/proc/self").exists():
        pytest.skip("no /proc on this platform")
    disks = {
        "read-only": FaultyDisk(0, errno.EROFS, lasting=True),
        "not ours": FaultyDisk(0, errno.EACCES, lasting=True),
    }
    endpoint = FakeEndpoint(toy_model)
    with pytest.raises(ConfigError, match=r"cannot be (made|used|written) \(.*name another") as refused:
        sitting(directory, endpoint, MemoryCache(), disks.get(where, DISK))
    assert refused.value.exit_code == 2
    assert endpoint.started == []


# -- two processes -------------------------------------------------------------------------------------------------------

_HOLD = """
import sys
from pathlib import Path
from asyncopt.directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]), {"seed": 0}, {})
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.real
@pytest.mark.row("S06")
def test_a_run_directory_is_for_one_process_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        who = rf"process {holder.pid} on {socket.gethostname()} since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d"
        with pytest.raises(RunLocked, match=who) as refused:
            RunDirectory(tmp_path, {"seed": 0}, {})
        assert refused.value.exit_code == 5
        holder.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        holder.wait()
    RunDirectory(tmp_path, {"seed": 0}, {}).close()
    assert f"process {os.getpid()}" in (tmp_path / "run.holder").read_text()


@pytest.mark.real
@pytest.mark.row("S06")
def test_a_directory_in_use_is_refused_before_anything_else_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncopt = Commands(monkeypatch, capsys, tmp_path)
    held = RunDirectory(tmp_path / "run", {"seed": 0}, {})
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.setblocking(False)
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        refused = asyncopt("run", "antonym", "--scorer", "mock", "--base-url", url, "--directory", "run")
        with pytest.raises(BlockingIOError):
            nobody.accept()
    assert refused.code == 5
    assert f"in use by process {os.getpid()}" in refused.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    held.close()
