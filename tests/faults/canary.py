"""The key that nobody may ever see, and whether it is somewhere: as it is, or as URLs, JSON and headers write it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

CANARY = "sk-canary-7f3a9Q2mZx81LbV0tYpW"
TOLD: list[tuple[str, str]] = []  # what each test of this process wrote, logged and raised


def forms() -> Iterator[bytes]:
    """The key in every way in which somebody could still read it."""
    key = CANARY.encode()
    yield key
    yield quote(CANARY, safe="").encode()
    for before in range(3):  # where it stands in what is encoded decides what its letters become
        yield b64encode(b"\0" * before + key)[(4 * before + 2) // 3 : -4]


FORMS = tuple(dict.fromkeys(forms()))


def seen_in(data: bytes) -> bool:
    """Whether the key, or most of it, can be read in the bytes."""
    return any(form in data for form in FORMS) or CANARY[3:20].encode() in data


def files_with_it(folder: Path) -> list[Path]:
    """The files below the folder that have the key in their bytes or in their name."""
    found = []
    for path in sorted(folder.rglob("*")):
        named = seen_in(str(path.relative_to(folder)).encode("utf-8", "surrogateescape"))
        if named or (path.is_file() and not path.is_symlink() and seen_in(path.read_bytes())):
            found.append(path)
    return found
