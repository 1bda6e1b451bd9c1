"""``asyncopt`` as a child, with the key of the fault suite in its environment: on pipes, or on a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """How a command ended, and the bytes it wrote; on a terminal both streams are in ``out``."""

    code: int
    out: bytes
    err: bytes = b""


class Shell:
    """Runs commands in a folder, which has their cache and their temporary files too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"ASYNCOPT_CACHE_DIR": str(folder / "cache"), "TMPDIR": str(folder)}

    async def run(self, *arguments: str, module: str = "asyncopt") -> Ran:
        """The command's end, its output piped."""
        command = [sys.executable, "-m", module, *arguments]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdout=pipe, stderr=pipe, cwd=self.folder, env=self.environment
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return Ran(process.returncode, out, err)

    async def on_terminal(self, *arguments: str) -> Ran:
        """The command's end, with all that reached the terminal it was typed on."""
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "asyncopt", *arguments]
        environment = self.environment | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        process = await asyncio.create_subprocess_exec(
            *command, stdin=slave, stdout=slave, stderr=slave, cwd=self.folder, env=environment
        )
        os.close(slave)
        reading = asyncio.get_running_loop().run_in_executor(None, _read_all, master)
        code = await process.wait()
        return Ran(code, await reading)


def _read_all(master: int) -> bytes:
    parts = []
    try:
        while part := os.read(master, 1 << 16):
            parts.append(part)
    except OSError:  # Linux says that the last writer has gone by an error
        pass
    finally:
        os.close(master)
    return b"".join(parts)
