"""Processes with an engine each, and a Redis server, for the scripts that measure several of them.

A worker is this file as a program: it opens an engine as its :class:`Job` says, prints a line when it is ready, begins
when it is told to, and prints its :class:`Report` when its questions are answered.
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import orjson
from memory import allow_files, resident
from rivals import GC_THRESHOLD

from asyncopt import Completion, Engine, Generate, Model, Quota
from asyncopt.cache import cache_at
from asyncopt.events import Event, Note
from asyncopt.loops import loop_factory

TEXT = "Solve the following problem and end with the answer. A farmer has seventeen sheep and buys some more. " * 3
PATIENCE = 30.0  # seconds for a server to answer, or to end
SPARE_FILES = 256


@dataclass(frozen=True)
class Job:
    """What one process asks: the questions from ``first`` on, up to ``last``.

    ``rate`` in requests a second and ``concurrency`` are those of the account, which are shared where ``shared`` names
    a Redis server or a socket. ``warm`` questions are asked before it is ready, to open the connections.
    """

    url: str
    first: int
    last: int
    rate: float | None = None
    concurrency: int = 256
    shared: str | None = None
    cache: str | None = None
    warm: int = 0


@dataclass(frozen=True)
class Report:
    """What became of a job: seconds of the clock and of its process, the resident set at the end, its answers' digest.

    ``notes`` are what the engine had to say, such as that the shared quota was gone.
    """

    seconds: float
    cpu: float
    rss: int
    lost: int
    digest: str
    notes: list[str]


# -- in the worker -----------------------------------------------------------------------------------------------------


class Notes:
    """An observer that keeps what is worth a line for people."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def notify(self, event: Event) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)


def question(number: int | str) -> Generate:
    return Generate.of(f"{TEXT}{number}")


async def work(job: Job) -> None:
    """Ask the questions of the job when told to begin, and print the report when the last one is answered."""
    notes = Notes()
    coordinator = None
    if job.shared is not None:
        from asyncopt.shared.at import coordinator_at

        coordinator = coordinator_at(job.shared)
    async with Engine(cache=cache_at(job.cache), observers=[notes], coordinator=coordinator) as engine:
        quota = Quota(None if job.rate is None else 60 * job.rate, concurrency=job.concurrency)
        model = engine.model("m", base_url=job.url, api_key="x", quota=quota)
        await asyncio.gather(*(model.submit(question(f"warm {job.first} {n}")) for n in range(job.warm)))
        await engine.flush()
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print(json.dumps(asdict(await _measured(engine, model, job, notes))), flush=True)


async def _measured(engine: Engine, model: Model, job: Job, notes: Notes) -> Report:
    gc.collect()
    began, cpu = time.perf_counter(), time.process_time()
    futures = [model.submit(question(number)) for number in range(job.first, job.last)]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    await engine.flush()
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    texts = [answer.text if isinstance(answer, Completion) else repr(answer) for answer in answers]
    lost = sum(not isinstance(answer, Completion) for answer in answers)
    return Report(seconds, cpu, resident(), lost, digest_of(texts), notes.texts)


def digest_of(texts: list[str]) -> str:
    return blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    gc.set_threshold(*GC_THRESHOLD)  # an application's choice
    allow_files(job.concurrency + SPARE_FILES)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work(job))


# -- in the script that starts them ------------------------------------------------------------------------------------


class Worker:
    """A process that does a job; ready when this returns."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit(f"a worker did not start: {self.process.communicate()[1]}")

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("begin\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.communicate()

    def report(self) -> Report:
        """What it reports when its last question is answered, which is waited for."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker failed: {self.process.communicate()[1]}")
        return Report(**json.loads(line))

    def end(self) -> None:
        """Wait until it has left its engine, and complain of what it has complained of."""
        errors = self.process.communicate()[1]
        if self.process.returncode or "Traceback" in errors:
            raise SystemExit(f"a worker failed: {errors}")


@contextmanager
def workers(jobs: list[Job]) -> Iterator[list[Worker]]:
    """Processes with these jobs, all of them ready; what is in the list at the end has ended when this is left."""
    started: list[Worker] = []
    try:
        started += (Worker(job) for job in jobs)
        yield started
        for worker in started:
            worker.end()
    finally:
        for worker in started:
            with suppress(OSError):
                worker.process.kill()
            worker.process.wait()


def ledger(url: str, since: int = 0) -> dict[str, Any]:
    """What a simulated API has seen, with its entries from this number on."""
    with urlopen(f"http://{urlsplit(url).netloc}/ledger?since={since}", timeout=PATIENCE) as response:
        found: dict[str, Any] = orjson.loads(response.read())
    return found


class Redis:
    """A Redis server of this script's own, on a free port of the loopback interface, which keeps nothing on disk."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        options = {"port": str(self._port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        program = shutil.which("redis-server")
        if program is None:
            raise SystemExit("there is no redis-server; install it, or choose other rows")
        self._process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise SystemExit("redis-server did not start")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with suppress(OSError):
            return self.command("PING") == b"+PONG\r\n"
        return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def command(self, name: str) -> bytes:
        """The answer to a command without arguments of its own, as it is sent."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as connection:
            connection.sendall(f"{name}\r\nQUIT\r\n".encode())
            with connection.makefile("rb") as stream:
                return stream.read().removesuffix(b"+OK\r\n")

    def info(self) -> dict[str, str]:
        """Everything that INFO says."""
        lines = self.command("INFO everything").decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def cpu(self) -> float:
        """Seconds of the processor that the server has used."""
        found = self.info()
        return sum(float(found[f"used_cpu_{kind}"]) for kind in ("user", "sys"))


def commands(info: Mapping[str, str]) -> dict[str, tuple[int, float]]:
    """Of each command how often it was given, and the seconds that it took, scripts' own commands included."""
    found = {}
    for name, text in info.items():
        if name.startswith("cmdstat_"):
            values = dict(part.split("=") for part in text.split(","))
            found[name.removeprefix("cmdstat_")] = int(values["calls"]), 1e-6 * float(values["usec"])
    return found


@contextmanager
def redis() -> Iterator[Redis]:
    """A Redis server that lives while this is entered."""
    server = Redis()
    try:
        yield server
    finally:
        server.stop()


def has_redis() -> bool:
    """Whether there is a Redis server to start; says so where there is none."""
    if shutil.which("redis-server") is None:
        print("NO redis-server: its rows are left out")
        return False
    return True


if __name__ == "__main__":
    main()
