"""The checks of a machine: what every run on it will find."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypeAlias

from asyncopt.files import cache_folder
from asyncopt.version import __version__

Verdict: TypeAlias = Literal["pass", "warn", "fail"]

_PACKAGES = ("aiohttp", "aiolimiter", "anyio", "uvloop", "filelock", "orjson", "pydantic")
_FEW_FILES = 256
_LITTLE_SPACE, _NO_SPACE = 1 << 30, 50 << 20  # bytes
_COARSE_CLOCK = 0.02  # seconds
_OLDEST_DATE = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and what that means."""

    name: str
    verdict: Verdict
    detail: str


def check_machine() -> Iterator[Check]:
    """What a run on this machine will find."""
    yield _versions()
    yield _loop()
    yield _open_files()
    yield _clock()
    yield _keys()
    yield _cache(cache_folder())
    yield _space("cache's disk", cache_folder())
    yield _space("this folder's disk", Path.cwd())


def _versions() -> Check:
    found = [f"asyncopt {__version__}", f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return Check("versions", "pass", ", ".join(found))


def _loop() -> Check:
    from asyncopt.loops import loop_factory

    if loop_factory() is None:
        return Check("event loop", "warn", "asyncio's own; with uvloop a call costs less: pip install uvloop")
    return Check("event loop", "pass", "uvloop")


def _open_files() -> Check:
    from asyncopt.limits.descriptors import most_sockets, raise_limit

    raise_limit()  # as every command that makes calls does
    most = most_sockets()
    if most is None:
        return Check("open files", "pass", "there is no limit")
    advice = "; raise the limit: ulimit -n 4096" if most < _FEW_FILES else ""
    return Check("open files", "warn" if advice else "pass", f"enough for {most} calls in flight{advice}")


def _clock() -> Check:
    resolution, now = time.get_clock_info("monotonic").resolution, datetime.now(UTC)
    if now < _OLDEST_DATE:
        return Check("clock", "fail", f"it says {now:%Y-%m-%d}; set it, or no certificate will be valid")
    if resolution > _COARSE_CLOCK:
        return Check("clock", "warn", f"it ticks every {resolution:g} s; the pace of calls will be uneven")
    return Check("clock", "pass", f"it says {now:%Y-%m-%d %H:%M} UTC and ticks every {resolution:g} s")


def _keys() -> Check:
    from asyncopt.endpoints.providers import FAMILIES

    names = dict.fromkeys(family.key_variable for family in FAMILIES.values())
    there = [name for name in names if os.environ.get(name)]  # names only: a key is shown nowhere
    if not there:
        return Check("keys", "warn", f"none of {', '.join(names)} is set; the embedded model and own servers need none")
    return Check("keys", "pass", f"{', '.join(there)} {'is' if len(there) == 1 else 'are'} set")


def _cache(folder: Path) -> Check:
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return Check("cache folder", "pass", f"{folder} will be made, for you alone")
    except OSError as error:
        return Check("cache folder", "fail", f"{folder} cannot be read ({error.strerror}); set ASYNCOPT_CACHE_DIR")
    if not stat.S_ISDIR(mode):
        return Check("cache folder", "fail", f"{folder} is no folder; move it away, or set ASYNCOPT_CACHE_DIR")
    if os.name == "posix" and mode & stat.S_IWOTH:
        detail = f"everybody can write into {folder}, and so change answers; chmod 700 {folder}"
        return Check("cache folder", "fail", detail)
    if not os.access(folder, os.W_OK):
        return Check("cache folder", "warn", f"{folder} cannot be written; answers are kept in memory only")
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        detail = f"others can look into {folder}, where prompts and answers are; chmod 700 {folder}"
        return Check("cache folder", "warn", detail)
    return Check("cache folder", "pass", f"{folder} is yours alone")


def _space(name: str, place: Path) -> Check:
    there = next((one for one in (place, *place.parents) if one.is_dir()), Path.cwd())
    free = shutil.disk_usage(there).free
    verdict: Verdict = "fail" if free < _NO_SPACE else "warn" if free < _LITTLE_SPACE else "pass"
    advice = "" if verdict == "pass" else "; make room before a long run"
    return Check(name, verdict, f"{free / 1e9:.1f} GB free at {there}{advice}")
