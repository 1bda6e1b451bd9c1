"""Published data files: where they lie, that they are the ones meant, and how they are split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asyncopt import codec
from asyncopt.errors import DataError
from asyncopt.tasks.task import Example

LARGEST_FILE = 64 << 20  # bytes
_HOW = "(--data DIR, or ASYNCOPT_DATA in the environment)"


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file as its authors published it: its place below the data folder, its public home, and its sha256."""

    path: str
    url: str
    sha256: str

    def read(self, data: Path | None) -> bytes:
        """The file's bytes; raises :class:`DataError` if it is missing, or another file than the published one."""
        wanted = f"its public home is {self.url} (sha256 {self.sha256})"
        if data is None:
            raise DataError(f"no data folder is given; name the DIR with DIR/{self.path} {_HOW}; {wanted}")
        path = data / self.path
        if not path.is_file():
            raise DataError(f"there is no file {path}; put it there, or name its folder {_HOW}; {wanted}")
        content = read_capped(path)
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise DataError(f"{path} has the sha256 {found}, so it is not the published file; {wanted}")
        return content


def read_capped(path: Path) -> bytes:
    """The bytes of a file of at most 64 MiB; raises :class:`DataError` for a larger or an unreadable one."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give the path of a readable file") from None
    if len(content) > LARGEST_FILE:
        raise DataError(f"{path} is larger than {LARGEST_FILE >> 20} MiB; give a smaller part of it")
    return content


def parse_line(line: bytes, place: str) -> dict[str, object]:
    """The JSON object in the bytes; raises :class:`DataError` naming the place if there is none."""
    try:
        # The codec would put U+FFFD for what is no UTF-8, which in a data file is a mistake and no model's whim.
        line.decode("utf-8", "surrogatepass")
        value = codec.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: byte {error.start + 1} is no UTF-8; save the file as UTF-8") from None
    except codec.CodecError as error:
        raise DataError(f"{place}: {codec.printable(str(error))}; wanted a JSON object") from None
    if not isinstance(value, dict):
        raise DataError(f"{place}: a JSON {_json_type(value)}; wanted an object")
    return value


def reference_split(count: int, ratio: float) -> list[int]:
    """The sorted indices of the reference's training items: ``int(ratio * count)`` of them, drawn with NumPy seed 0.

    The same for every seed of a study, so that studies with different seeds are scored on the same items.
    """
    from numpy.random import RandomState  # `import asyncopt` stays light

    chosen = RandomState(0).choice(count, int(ratio * count), replace=False)
    return sorted(int(index) for index in chosen)


def fingerprint(*splits: Sequence[Example]) -> str:
    """The sha256 of the examples in their splits."""
    rows = [[[example.id, example.input, example.target] for example in split] for split in splits]
    return hashlib.sha256(codec.dumps(rows)).hexdigest()


def _json_type(value: object) -> str:
    names = {str: "text", bool: "truth value", int: "number", float: "number", list: "array", type(None): "null"}
    return names.get(type(value), "object")
