"""``asyncopt doctor``: every fault that it knows, in a run's directory and on a machine, and that it shows no key."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncopt import ConfigError, RandomSearch, Study
from asyncopt.cli.doctor import doctor
from asyncopt.directory import RunDirectory, read_json
from asyncopt.errors import RunLocked
from asyncopt.tasks import LinearRegression


def run(directory: Path) -> Any:
    study = Study(task=LinearRegression(3, 5), optimizer=RandomSearch(steps=3), directory=directory)
    return asyncio.run(study.run())


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path / "cache"))
    run(tmp_path / "run")
    return tmp_path / "run"


def verdicts(
    capsys: pytest.CaptureFixture[str], directory: Path | None = None, *, repair: bool = False
) -> dict[str, tuple[str, str]]:
    """The checks by name, and under ``exit`` the exit code."""
    code = 0
    try:
        doctor(directory, repair, json=True)
    except SystemExit as ended:
        code = int(str(ended.code))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {line["name"]: (line["verdict"], line["detail"]) for line in lines} | {"exit": (str(code), "")}


def test_a_finished_run_is_well(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verdicts(capsys, finished)
    assert found["exit"][0] == "0"
    assert {name: verdict for name, (verdict, _) in found.items() if name not in ("exit", "cache")} == dict.fromkeys(
        ("lock", "manifest", "journal", "result"), "pass"
    )
    assert found["journal"][1].endswith("good records, 3 steps finished")
    assert found["cache"][1].endswith("answers.sqlite is missing; what is not in the journal would be paid for again")


def torn(run: Path) -> None:
    path = run / "journal.jsonl"
    os.truncate(path, path.stat().st_size - 2)


def damaged(run: Path) -> None:
    path = run / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3].replace(b"step", b"stop"), *lines[4:]]))


def no_result(run: Path) -> None:
    (run / "result.json").unlink()


def half_a_result(run: Path) -> None:
    os.truncate(run / "result.json", 5)


def no_manifest(run: Path) -> None:
    (run / "manifest.json").unlink()


def manifest_of_nothing(run: Path) -> None:
    (run / "manifest.json").write_text("{}")


def bad_trace(run: Path) -> None:
    (run / "trace.jsonl").write_text('{}\n{"kind":\n')


def bad_cache(run: Path) -> None:
    (run.parent / "cache").mkdir()
    (run.parent / "cache" / "answers.sqlite").write_text(
        "no database, but long enough to be read as the head of one" * 9
    )


FAULTS: list[tuple[Callable[[Path], None], str, str, str]] = [
    (torn, "journal", "warn", "its end is torn at byte"),
    (damaged, "journal", "fail", "3 good records, 0 steps finished; damaged at byte"),
    (no_result, "result", "warn", "missing; resume writes it"),
    (half_a_result, "result", "fail", "is damaged; remove it"),
    (no_manifest, "manifest", "fail", "cannot be made anew"),
    (manifest_of_nothing, "manifest", "fail", "does not say of which study"),
    (bad_trace, "trace", "warn", "1 of 2 lines are damaged"),
    (bad_cache, "cache", "warn", "cannot be read"),
]


@pytest.mark.parametrize(("harm", "name", "verdict", "detail"), FAULTS, ids=lambda one: getattr(one, "__name__", ""))
def test_what_is_wrong_is_said_and_nothing_changed(
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
    name: str,
    verdict: str,
    detail: str,
) -> None:
    harm(finished)
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.name != "run.holder"}
    found = verdicts(capsys, finished)
    assert found[name][0] == verdict
    assert detail in found[name][1]
    assert found["exit"][0] == ("1" if verdict == "fail" else "0")
    assert {path.name: path.read_bytes() for path in finished.iterdir() if path.name != "run.holder"} == before


def test_a_repair_keeps_the_damaged_file_and_the_run_goes_on(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = read_json(finished / "result.json")
    damaged(finished)
    content = (finished / "journal.jsonl").read_bytes()
    found = verdicts(capsys, finished, repair=True)
    assert found["repair"][1].startswith("3 good records kept; the damaged file is journal.jsonl.damaged-")
    assert found["journal"][0] == "pass"
    assert found["exit"][0] == "0"
    assert [path.read_bytes() for path in finished.glob("journal.jsonl.damaged-*")] == [content]
    run(finished)
    assert read_json(finished / "result.json")["best"] == result["best"]
    assert verdicts(capsys, finished, repair=True)["repair"][1] == "the journal is whole; nothing was changed"


def test_a_run_that_is_going_on_is_looked_at_and_not_repaired(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = RunDirectory(finished, read_json(finished / "manifest.json")["subject"], {})
    found = verdicts(capsys, finished)
    assert found["lock"][0] == "warn"
    assert f"process {os.getpid()} on" in found["lock"][1]
    with pytest.raises(RunLocked):
        doctor(finished, repair=True, json=True)
    held.close()


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a sweep"])
def test_what_is_no_run_is_refused(tmp_path: Path, there: str) -> None:
    place = tmp_path / "place"
    if there != "nothing":
        place.mkdir()
    if there == "a sweep":
        (place / "sweep.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a sweep" if there == "a sweep" else "is not the directory of a run"):
        doctor(place, repair=False, json=False)
    assert place.exists() == (there != "nothing")


def test_without_a_directory_there_is_nothing_to_repair() -> None:
    with pytest.raises(ConfigError, match="nothing to repair"):
        doctor(None, repair=True, json=False)


@pytest.mark.skipif(os.name != "posix", reason="the permissions are those of POSIX")
@pytest.mark.parametrize(
    ("mode", "verdict", "detail"),
    [(0o700, "pass", "yours alone"), (0o755, "warn", "chmod 700"), (0o777, "fail", "everybody can write")],
)
def test_the_cache_folder_must_be_private(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: int,
    verdict: str,
    detail: str,
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(folder))
    found = verdicts(capsys)
    assert found["cache folder"][0] == verdict
    assert detail in found["cache folder"][1]
    assert (found["exit"][0] == "1") == (verdict == "fail")


@pytest.mark.parametrize("there", [True, False])
def test_keys_are_named_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, there: bool
) -> None:
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path / "none yet"))
    for name in ("AZURE_OPENAI_API_KEY", "OPENROUTER_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    if there:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234567890")
    doctor(None, repair=False, json=False)
    said = capsys.readouterr().out
    assert "OPENAI_API_KEY is set" in said if there else "none of OPENAI_API_KEY" in said
    assert "secret" not in said
    assert [line.split()[0] for line in said.splitlines()].count("fail") == 0
    assert "will be made, for you alone" in said
