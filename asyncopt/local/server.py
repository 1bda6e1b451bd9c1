"""llama.cpp's own server as a child process that ends with its owner, behind the ordinary OpenAI endpoint."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import aiohttp
import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from asyncopt import codec
from asyncopt.errors import ConfigError
from asyncopt.local.fetch import Progress, environment_without_keys
from asyncopt.local.fingerprint import sha256_of
from asyncopt.local.weights import ensure_weights, models_folder, require_packages, silent
from asyncopt.values import Capabilities

KEEPALIVE_SECONDS = 2.0  # llama.cpp closes a connection after 5 idle seconds; a client must have let go before that
CONTEXT = 2048  # tokens of prompt and answer that one slot holds
CACHE_MIB = 128  # prompts kept outside the slots; llama.cpp's own default of 8 GiB would be all the memory there is
START_SECONDS = 300.0  # several gigabytes from a slow disk; a server that dies is noticed at once
STOP_SECONDS = 5.0

_LOG_LINES = 7  # of a model that cannot be read, llama.cpp gives the reason first and five consequences


def is_local(name: str) -> bool:
    """Whether a model's name means one that runs here: ``local``, or the path of a GGUF file."""
    return name == "local" or name.endswith(".gguf")


class LocalServer:
    """A running model server: an async context manager that starts it on entry and ends it on exit.

    ``model`` is ``"local"`` (SmolLM2-135M-Instruct, fetched at first use) or the path of a GGUF file. ``threads``
    defaults to all cores but one: with a second busy process and no core to spare, llama.cpp's threads wait for each
    other and lose most of their speed. ``log`` is appended to; without it the server's log is not kept. Raises
    :class:`ConfigError` if the weights cannot be had or the server does not start.

    On 127.0.0.1 only, on a free port, with a random API key. Once entered: ``base_url`` (ends in ``/v1``), ``api_key``,
    ``pid``, and ``identity``, which is the sha256 of the weights file; the chat template and the tokenizer are in that
    file, and neither threads nor slots change an answer.
    """

    supports = Capabilities(
        completion=True,
        top_logprobs=100,
        prompt_logprobs=True,
        seed=True,
        n=True,
        logit_bias=True,
        grammar=True,
        extra=True,
    )
    base_url: str
    identity: str
    pid: int

    def __init__(
        self,
        model: str | Path = "local",
        *,
        threads: int | None = None,
        slots: int = 8,
        log: Path | None = None,
        progress: Progress = silent,
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}; it must be at least 1")
        if slots < 1:
            raise ConfigError(f"slots is {slots}; it must be at least 1")
        if not is_local(str(model)):
            raise ConfigError(f"the local model is {str(model)!r}; say local, or give the path of a .gguf file")
        self.model_name = "local" if model == "local" else Path(model).name
        self.threads = threads or max(1, _cores() - 1)
        self.slots = slots
        self.api_key = secrets.token_urlsafe(32)
        self._model = model
        self._log_path = log
        self._progress = progress
        self._log: IO[bytes] | None = None
        self._log_start = 0
        self._process: Process | None = None
        self._cpu_seconds: float | None = None

    async def __aenter__(self) -> Self:
        try:
            path = await anyio.to_thread.run_sync(self._prepare)
            await self._start(path)
        except BaseException:
            await self._stop()
            self._close_log()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()
        self._close_log()

    def cpu_seconds(self) -> float | None:
        """CPU seconds that the server has used: up to now, or until it was stopped. None where no system tells."""
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(OSError, ValueError, IndexError, AttributeError):
                # Fields 14 and 15 of proc(5); the name in field 2 may have spaces, so count from its closing bracket.
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                self._cpu_seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return self._cpu_seconds

    def _prepare(self) -> Path:
        """The weights' path, with the log open. Blocks."""
        if self._model == "local":
            path = ensure_weights(self._progress)
        else:
            require_packages("xllamacpp")
            path = Path(self._model).expanduser().resolve()
            if not path.is_file():
                raise ConfigError(f"there is no model file {path}; give the path of a GGUF file, or say local")
        try:
            self.identity = f"local:{sha256_of(path, models_folder() / 'sha256')}"
            # A file without a name vanishes with the processes that have it open, whatever ends them.
            self._log = self._log_path.open("a+b") if self._log_path is not None else tempfile.TemporaryFile()  # noqa: SIM115
            self._log_start = self._log.seek(0, os.SEEK_END)
        except OSError as error:
            raise ConfigError(f"{error.filename or path} cannot be opened: {error.strerror or error}") from None
        return path

    async def _start(self, path: Path) -> None:
        settings = {
            "path": str(path),
            "name": self.model_name,
            "api_key": self.api_key,
            "slots": self.slots,
            "context": CONTEXT,
            "cache_mib": CACHE_MIB,
            "threads": self.threads,
        }
        # Run as a file: `-m` would import this package and look in the current folder first. In a session of its own,
        # Ctrl-C in the terminal reaches the owner alone, which still wants answers while it winds up.
        command = [sys.executable, "-P", str(Path(__file__).with_name("child.py"))]
        process = await anyio.open_process(
            command, stderr=self._log, start_new_session=True, env=environment_without_keys()
        )
        self._process, self.pid = process, process.pid
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with anyio.fail_after(START_SECONDS):
                await process.stdin.send(codec.dumps(settings) + b"\n")
                line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 4096)
                address = codec.loads(line)["address"]
                await _until_ready(address)
        except (anyio.BrokenResourceError, anyio.IncompleteRead, aiohttp.ClientError) as error:
            await self._stop()
            raise ConfigError(f"the server of {path.name} ended before it was ready{self._why()}") from error
        except TimeoutError:
            await self._stop()
            raise ConfigError(
                f"the server of {path.name} was not ready after {START_SECONDS:g} s{self._why()}; "
                "use a smaller model, or give it more --threads"
            ) from None
        self.base_url = f"{address}/v1"

    async def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        self.cpu_seconds()
        with anyio.CancelScope(shield=True):
            assert process.stdin is not None
            await process.stdin.aclose()
            with anyio.move_on_after(STOP_SECONDS):
                await process.wait()
            if process.returncode is None:
                process.kill()
            await process.aclose()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()

    def _why(self) -> str:
        """The end of what the server wrote to its log, for an error message; call it only when the server has ended."""
        assert self._log is not None
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(self._log_start, end - 4000))
        lines = [codec.printable(line) for line in self._log.read().decode("utf-8", "replace").splitlines()]
        last = " | ".join([line for line in lines if line][-_LOG_LINES:])
        return (f": {last}" if last else "") + (f" (log: {self._log_path})" if self._log_path is not None else "")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


async def _until_ready(address: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{address}/health") as reply:
                if reply.status == 200:
                    return
            await anyio.sleep(0.05)
