"""The sha256 of weights files, remembered, so that gigabytes are not read at every start."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from asyncopt import codec


def sha256_of(path: Path, memory: Path) -> str:
    """The file's sha256 in hexadecimal; it is computed anew only if the file's size or time of change is a new one.

    ``memory`` is the folder for what was computed; one that cannot be written to costs time, not the answer.
    """
    path = path.resolve()
    stat = path.stat()
    record = memory / f"{hashlib.sha256(str(path).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
    seen = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    with contextlib.suppress(OSError, codec.CodecError):
        known = codec.loads(record.read_bytes())
        if isinstance(known, dict) and seen.items() <= known.items() and isinstance(known.get("sha256"), str):
            return str(known["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError):
        memory.mkdir(parents=True, exist_ok=True)
        record.write_bytes(codec.dumps({**seen, "sha256": digest}))
    return digest
