"""Published data files from their public homes into a data folder: https only, no redirects, checked before written.

Not the transport of :mod:`asyncopt.endpoints`, which posts prompts with a key: this gets files, for one command.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from asyncopt.errors import ConfigError, DataError
from asyncopt.files import write_atomically
from asyncopt.tasks.sources import PublishedFile, record

LARGEST = 16 << 20  # bytes; the largest published file has 4 MB
AT_ONCE = 8
SECONDS = 120.0  # for one file
_CONNECT_SECONDS = 10.0

Progress = Callable[[str], None]

_ERRORS = (aiohttp.ClientError, OSError, TimeoutError, ValueError)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


async def download(
    files: Sequence[PublishedFile],
    folder: Path,
    progress: Progress,
    *,
    mirror: str | None = None,
    seconds: float = SECONDS,
) -> list[PublishedFile]:
    """The files that were fetched; those that are in the folder already are left alone, and not asked for.

    ``mirror`` is the base URL of a server that has the files in the layout of a data folder. ``progress`` gets a line a
    file. A file is written whole and right, or not at all. Raises :class:`DataError` for the first one that could not
    be fetched, after all have been tried, and :class:`ConfigError` for a mirror that cannot be trusted.
    """
    if mirror is not None:
        _check_mirror(mirror)
    missing = [file for file in files if file.presence(folder) != "there"]
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # a few bytes can unpack to any number
        headers={"Accept-Encoding": "identity", "User-Agent": "asyncopt"},
    ) as session:
        fetching = _Fetching(session, folder, progress, mirror)
        await asyncio.gather(*map(fetching.fetch, missing))
    if fetching.sums:
        record(folder, fetching.sums)
    faults = [fetching.faults[file.path] for file in missing if file.path in fetching.faults]
    if faults:
        raise DataError(faults[0] + (f" ({len(faults) - 1} more could not be fetched either)" if faults[1:] else ""))
    return missing


class _Unusable(Exception):
    """What a server sent is not the file."""


@dataclass
class _Fetching:
    session: aiohttp.ClientSession
    folder: Path
    progress: Progress
    mirror: str | None
    sums: dict[str, str] = field(default_factory=dict)  # of files without a pin; kept at the end, as they share a file
    faults: dict[str, str] = field(default_factory=dict)
    # Not the connector's limit: a file's time begins when it is asked for.
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def fetch(self, file: PublishedFile) -> None:
        path = self.folder / file.path
        address = file.url if self.mirror is None else f"{self.mirror.rstrip('/')}/{file.path}"
        async with self.gate:
            try:
                content = await _content(self.session, address, LARGEST if file.size is None else file.size)
                digest = _checked(file, content, self.folder)
            except (_Unusable, *_ERRORS) as error:
                # Of other exceptions only the type: a server may have written their text.
                reason = str(error) if isinstance(error, _Unusable) else f"no answer ({type(error).__name__})"
                self.faults[file.path] = (
                    f"{file.path} could not be fetched: {address}: {reason}; "
                    f"load {file.url} by hand and put it at {path}"
                )
                return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            self.faults[file.path] = f"{path} cannot be written ({error.strerror}); name another folder with --data DIR"
            return
        if file.sha256 is None:
            self.sums[file.path] = digest
        self.progress(f"{file.path}: {len(content) / 1000:,.0f} kB")


async def _content(session: aiohttp.ClientSession, address: str, largest: int) -> bytes:
    async with session.get(address, allow_redirects=False) as response:
        if 300 <= response.status < 400:
            raise _Unusable(f"HTTP {response.status} redirects to another place, which is never followed")
        if response.status != 200:
            raise _Unusable(f"the answer is HTTP {response.status}")
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > largest:
                raise _Unusable(f"the answer is larger than {largest} bytes")
        return bytes(content)


def _checked(file: PublishedFile, content: bytes, folder: Path) -> str:
    """The sha256 of what came, if it is the file."""
    found, wanted = hashlib.sha256(content).hexdigest(), file.wanted(folder)
    if wanted is not None and found != wanted:
        raise _Unusable(f"what came has the sha256 {found} and not {wanted}")
    if file.size is not None and len(content) != file.size:
        raise _Unusable(f"what came has {len(content)} bytes and not {file.size}")
    return found


def _check_mirror(mirror: str) -> None:
    try:
        parts = urlsplit(mirror)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or (parts.scheme, host in _LOOPBACK) not in (("https", True), ("https", False), ("http", True)):
        raise ConfigError(f"the mirror {mirror!r} is no https:// URL; give one such as https://host/folder")
