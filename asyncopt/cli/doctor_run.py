"""The checks of a run's directory, and the repair of its journal."""

from __future__ import annotations

import asyncio
import shlex
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asyncopt import codec
from asyncopt.cache.place import network_file_system
from asyncopt.cli.doctor_machine import Check
from asyncopt.directory import JOURNAL, MANIFEST, RESULT, SWEEP, TRACE, lock, read_json
from asyncopt.errors import AsyncoptError, ConfigError, RunLocked, StorageFailed
from asyncopt.files import cache_folder
from asyncopt.journal import Record, good_records, repair
from asyncopt.redislink import LinkFailed, answering, is_redis
from asyncopt.shared import SharingFailed
from asyncopt.shared.at import coordinator_at


def check_run(directory: Path) -> Iterator[Check]:
    """How the files of a run are; only the note of who had its lock last is changed.

    Raises :class:`ConfigError` where there is no run.
    """
    _require_run(directory)
    yield _held(directory)
    manifest, check = _manifest(directory)
    yield check
    content = _content(directory / JOURNAL)
    records, good = good_records(content)
    yield _journal(directory, content, records, good)
    yield _result(directory, records)
    if (directory / TRACE).exists():
        yield _trace(directory / TRACE)
    yield _answers(manifest.get("config"))
    yield from _quota(manifest.get("config"))


def repair_run(directory: Path) -> Iterator[Check]:
    """Cut the journal to its good records, and say what was done; raises :class:`RunLocked` if the run is going on."""
    _require_run(directory)
    path = directory / JOURNAL
    held = lock(directory)
    try:
        kept, aside = repair(path)
    except OSError as error:
        raise StorageFailed.at(path, error) from None
    finally:
        held.release()
    if aside is None:
        yield Check("repair", "pass", "the journal is whole; nothing was changed")
    else:
        then = f"go on with: asyncopt resume {shlex.quote(str(directory))}"
        detail = f"{_records(kept)} kept; the damaged file is {aside.name}; {then}"
        yield Check("repair", "pass", detail)


def _require_run(directory: Path) -> None:
    if (directory / SWEEP).exists():
        raise ConfigError(f"{directory} holds a sweep; name one of the runs in it")
    if not any((directory / name).exists() for name in (MANIFEST, JOURNAL)):
        raise ConfigError(f"{directory} is not the directory of a run: it has no {MANIFEST} and no {JOURNAL}")


def _held(directory: Path) -> Check:
    network = network_file_system(directory.resolve())
    try:
        lock(directory).release()
    except RunLocked as error:
        return Check("lock", "warn", f"{error}; what follows may be changing")
    except AsyncoptError as error:
        return Check("lock", "fail", str(error))
    if network is not None:
        return Check("lock", "warn", f"free; on {network}, use it from one machine at a time")
    return Check("lock", "pass", "free")


def _manifest(directory: Path) -> tuple[Mapping[str, Any], Check]:
    try:
        manifest = read_json(directory / MANIFEST)
    except ConfigError:
        detail = f"{MANIFEST} is missing or damaged and cannot be made anew; restore it, or start in another directory"
        return {}, Check("manifest", "fail", detail)
    by = f"written by asyncopt {manifest.get('asyncopt', '(unknown)')}"
    if not isinstance(manifest.get("subject"), dict):
        return manifest, Check("manifest", "fail", f"{by}, but it does not say of which study; restore it from a copy")
    parent = manifest.get("parent")
    of = f", a child of {parent.get('path')}" if isinstance(parent, dict) else ""
    return manifest, Check("manifest", "pass", by + of)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None


def _journal(directory: Path, content: bytes, records: list[Record], good: int) -> Check:
    steps = [int(record.data["step"]) + 1 for record in records if record.kind == "step"]
    whole = f"{_records(len(records))}, {max(steps, default=0)} steps finished"
    behind = content.count(b"\n", good)
    if good == len(content):
        return Check("journal", "pass", whole)
    if behind <= 1 and content.find(b"\n", good) + 1 in (0, len(content)):
        return Check("journal", "warn", f"{whole}; its end is torn at byte {good}, which resume cuts off and keeps")
    detail = (
        f"{whole}; damaged at byte {good}, with {behind} lines from there on; a repair goes back to the good records, "
        f"and the cache still has the answers: asyncopt doctor {directory} --repair"
    )
    return Check("journal", "fail", detail)


def _result(directory: Path, records: list[Record]) -> Check:
    finished = any(record.kind == "finished" for record in records)
    if not (directory / RESULT).exists():
        detail = f"{RESULT} is missing; resume writes it" if finished else "not there yet; the run has not finished"
        return Check("result", "warn" if finished else "pass", detail)
    try:
        read_json(directory / RESULT)
    except ConfigError:
        return Check("result", "fail", f"{RESULT} is damaged; remove it, and resume writes it from the journal")
    if not finished:
        return Check(
            "result", "warn", f"{RESULT} is there, and the journal does not end with it; resume writes it anew"
        )
    return Check("result", "pass", "as the journal has it")


def _trace(path: Path) -> Check:
    try:
        with path.open("rb") as file:
            verdicts = [_is_json(line) for line in file]
    except OSError as error:
        return Check("trace", "warn", f"{path} cannot be read ({error.strerror}); it decides nothing")
    if not all(verdicts):
        bad = verdicts.count(False)
        return Check(
            "trace", "warn", f"{bad} of {len(verdicts)} lines are damaged; it is for reading, and decides nothing"
        )
    return Check("trace", "pass", f"{len(verdicts)} lines")


def _is_json(line: bytes) -> bool:
    try:
        codec.loads(line)
    except codec.CodecError:
        return False
    return True


def _answers(config: object) -> Check:
    stated = config if isinstance(config, dict) else {}
    if stated.get("use_cache") is False:
        return Check("cache", "pass", "the run uses none; what is not in its journal would be paid for again")
    if is_redis(stated.get("cache")):
        return _server(str(stated["cache"]))
    path = Path(stated["cache"]) if isinstance(stated.get("cache"), str) else cache_folder() / "answers.sqlite"
    if not path.exists():
        return Check("cache", "warn", f"{path} is missing; what is not in the journal would be paid for again")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            count = connection.execute("SELECT count(*) FROM answers_v1").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Check("cache", "warn", f"{path} cannot be read ({error}); it would be set aside, and paid for again")
    return Check("cache", "pass", f"{path} has {count} answers")


def _server(url: str) -> Check:
    try:
        asyncio.run(answering(url))
    except (ConfigError, LinkFailed) as error:
        return Check("cache", "warn", f"{error}; what is not in the journal would be paid for again")
    return Check("cache", "pass", "its server answers")


def _quota(config: object) -> Iterator[Check]:
    address = config.get("shared") if isinstance(config, dict) else None
    if isinstance(address, str):
        try:
            asyncio.run(_heard(address))
        except (ConfigError, SharingFailed) as error:
            yield Check("shared quota", "fail", f"{error}; start it, or resume with another --shared")
        else:
            yield Check("shared quota", "pass", "it answers")


async def _heard(address: str) -> None:
    coordinator = coordinator_at(address)
    try:
        await coordinator.give_back("doctor", "requests", 0.0, 1.0)  # changes nothing
    finally:
        await coordinator.aclose()


def _records(number: int) -> str:
    return "1 good record" if number == 1 else f"{number} good records"
