"""Published data files: where they lie, that they are the ones meant, and what is recorded of those without a pin.

The layout of a data folder: ``gsm8k/train.jsonl``, ``gsm8k/test.jsonl``, ``bbh/<task>.json``, ``aqua/test.json``,
``mmlu/<subject>_test.csv``, ``multiarith/MultiArith.json``, ``ordered-prompt/<task>/{train,dev_subsample,test}.jsonl``,
``leopard/<task>_eval.json`` and ``bigbench/<path>/task.json``, each as its authors published it, and ``evoprompt``, a
checkout of beeevita/EvoPrompt.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from asyncopt import codec
from asyncopt.errors import DataError
from asyncopt.files import cache_folder, write_atomically
from asyncopt.tasks.task import Example

LARGEST_FILE = 64 << 20  # bytes
CHECKSUMS = "checksums.json"

# The data of the paper's reference code, as of its last commit.
REFERENCE = "https://raw.githubusercontent.com/google-deepmind/opro/e81b2f573ce4e15755c70c2535279d6fb940b4b7/data"

Presence: TypeAlias = Literal["there", "missing", "another file"]


def default_folder() -> Path:
    """The data folder that is used where none is named: ``data`` in the folder for caches."""
    return cache_folder() / "data"


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file as its authors published it.

    ``name`` is what ``asyncopt data get`` calls it, ``path`` its place below the data folder, ``url`` its public home.
    A file without ``sha256`` must be the one that was loaded or fetched first: its sum is kept in ``checksums.json`` of
    the data folder. ``size`` is in bytes, where it is known.
    """

    name: str
    path: str
    url: str
    sha256: str | None = None
    size: int | None = None

    @property
    def home(self) -> str:
        """Where to get the file by hand, in words."""
        return f"its public home is {self.url}" + (f" (sha256 {self.sha256})" if self.sha256 else "")

    def read(self, data: Path | None) -> bytes:
        """The file's bytes; raises :class:`DataError` if it is missing, or another file than the published one."""
        folder = default_folder() if data is None else data
        path = folder / self.path
        if not path.is_file():
            command = f"asyncopt data get {self.name}" + ("" if data is None else f" --data {shlex.quote(str(data))}")
            raise DataError(
                f"there is no file {path}; fetch it with `{command}`, or name the DIR with DIR/{self.path} "
                f"(--data DIR, or ASYNCOPT_DATA in the environment); {self.home}"
            )
        content = read_capped(path)
        found, wanted = _sha256(content), self.wanted(folder)
        if wanted is None:
            record(folder, {self.path: found})
        elif found != wanted:
            raise self._other(folder, found, wanted)
        return content

    def wanted(self, folder: Path) -> str | None:
        """The sha256 that the file must have, if it is pinned or was recorded in this data folder."""
        return self.sha256 or recorded(folder).get(self.path)

    def presence(self, folder: Path) -> Presence:
        """Whether the file is in the folder, as far as can be known."""
        if not (folder / self.path).is_file():
            return "missing"
        found = _sha256(read_capped(folder / self.path))
        return "there" if self.wanted(folder) in (None, found) else "another file"

    def _other(self, folder: Path, found: str, wanted: str) -> DataError:
        has = f"{folder / self.path} has the sha256 {found}"
        if self.sha256 is not None:
            return DataError(f"{has}, so it is not the published file; {self.home}")
        return DataError(
            f"{has}, and had {wanted} when it was first used; put that file back, or remove {self.path} from "
            f"{folder / CHECKSUMS} if you trust the new one"
        )


def recorded(folder: Path) -> dict[str, str]:
    """The sha256 sums of files without a pin, by path, as they were when first used; raises :class:`DataError`."""
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    try:
        sums = codec.loads(read_capped(path))
    except codec.CodecError:
        sums = None
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        raise DataError(
            f"{path} does not hold sha256 sums by file; restore it, or remove it to have them recorded anew"
        )
    return sums


def record(folder: Path, sums: dict[str, str]) -> None:
    """Keep the sums of files that are used for the first time."""
    # A folder that cannot be written to is not changed by others of our kind either. Of two processes that record at
    # once one may lose its sum, which is then recorded at the next use.
    with suppress(OSError):
        write_atomically(folder / CHECKSUMS, codec.dumps(dict(sorted((recorded(folder) | sums).items()))) + b"\n")


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


def fingerprint(*splits: Sequence[Example]) -> str:
    """The sha256 of the examples in their splits."""
    rows = [[[example.id, example.input, example.target] for example in split] for split in splits]
    return hashlib.sha256(codec.dumps(rows)).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json_type(value: object) -> str:
    names = {str: "text", bool: "truth value", int: "number", float: "number", list: "array", type(None): "null"}
    return names.get(type(value), "object")
