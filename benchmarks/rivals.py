"""The libraries that the benchmarks measure beside the project, each in a process of its own, none of them needed.

`python rivals.py calls NAME URL CONCURRENCY` makes as many calls as each line on its standard input says, and answers
with their CPU seconds. `python rivals.py study NAME URL` runs a search of the size on its standard input, after one
call before its clock starts, and answers with its seconds. Retries are off, time-outs are long, caches start empty.

    pip install 'asyncopt[bench]'
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, TypeAlias

from common import pin
from rival_studies import STUDIES, TIMEOUT, Size

from asyncopt.loops import loop_factory

MARK = "answer: "  # what these libraries print themselves does not begin so
GC_THRESHOLD = (50_000, 20, 100)
Ask: TypeAlias = Callable[[str], Awaitable[str]]
Caller: TypeAlias = Callable[[str, int], float]


# -- one call ----------------------------------------------------------------------------------------------------------


def openai_default(url: str) -> Ask:
    import openai

    return _openai(openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0, timeout=TIMEOUT))


def openai_aiohttp(url: str) -> Ask:
    import openai

    client = openai.DefaultAioHttpClient(timeout=TIMEOUT)
    return _openai(openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0, timeout=TIMEOUT, http_client=client))


def _openai(client: Any) -> Ask:
    async def ask(text: str) -> str:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
        return str(answer.choices[0].message.content)

    return ask


def litellm_acompletion(url: str) -> Ask:
    import litellm

    async def ask(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        answer = await litellm.acompletion(
            "openai/m", messages, api_base=url, api_key="x", num_retries=0, max_retries=0, timeout=TIMEOUT
        )
        return str(answer.choices[0].message.content)

    return ask


def dspy_acall(url: str) -> Ask:
    import dspy

    lm = dspy.LM("openai/m", api_base=url, api_key="x", cache=False, num_retries=0, timeout=TIMEOUT)

    async def ask(text: str) -> str:
        return str((await lm.acall(text))[0])

    return ask


CALLS: dict[str, tuple[str, Callable[[str], Ask]]] = {
    "openai, default transport": ("openai", openai_default),
    "openai, aiohttp transport": ("openai", openai_aiohttp),
    "litellm.acompletion": ("litellm", litellm_acompletion),
    "dspy LM.acall": ("dspy", dspy_acall),
}


async def _burst(ask: Ask, text: str, calls: int, concurrency: int) -> float:
    """CPU seconds of so many calls by as many workers as may be in flight: the cheapest way to drive a client."""
    numbers = iter(range(calls))

    async def worker() -> None:
        for number in numbers:
            assert await ask(f"{text}{number}")

    began = time.process_time()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return time.process_time() - began


def _serve_calls(name: str, url: str, concurrency: int) -> None:
    gc.set_threshold(*GC_THRESHOLD)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:

        async def first() -> Ask:
            return CALLS[name][1](url)  # clients are made in the loop that they are used in

        ask = runner.run(first())
        runner.run(_burst(ask, "warm up ", 2 * concurrency, concurrency))
        _answer(0.0)
        for line in sys.stdin:
            order = json.loads(line)
            gc.collect()
            _answer(runner.run(_burst(ask, order["text"], order["calls"], concurrency)))


@contextmanager
def caller(name: str, url: str, concurrency: int) -> Iterator[Caller]:
    """A function that has so many calls made by this rival, warmed up, and returns their CPU seconds."""
    with _child("calls", name, url, str(concurrency)) as child:
        child.answer()
        yield lambda text, count: child.ask({"text": text, "calls": count})


def callers(stack: ExitStack, url: str, concurrency: int) -> dict[str, Caller]:
    """The callers of all rivals that are installed; says which are not."""
    found = {name: module for name, (module, _) in CALLS.items() if installed(name, module)}
    return {name: stack.enter_context(caller(name, url, concurrency)) for name in found}


# -- one search --------------------------------------------------------------------------------------------------------


def study(name: str, size: Size, url: str) -> float:
    """Seconds of this rival's search against the server."""
    with _child("study", name, url) as child:
        return child.ask(asdict(size))


def _serve_study(name: str, url: str) -> None:
    logging.disable(logging.ERROR)
    work = STUDIES[name][1](url, Size(**json.loads(sys.stdin.readline())))
    began = time.perf_counter()
    work()
    _answer(time.perf_counter() - began)
    os._exit(0)  # some of them leave threads behind that nothing ends


# -- processes ---------------------------------------------------------------------------------------------------------


def installed(name: str, module: str) -> bool:
    """Whether the rival can be run; says so where it cannot."""
    if find_spec(module) is None:
        print(f"left out: {name} (not installed; pip install 'asyncopt[bench]')")
        return False
    return True


class _Child:
    """A rival's process, which is told a line and answers with a number."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, order: dict[str, Any]) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> float:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return float(line.removeprefix(MARK))
        raise SystemExit(f"no answer; start it by hand to see why: {self._process.args!r}")


@contextmanager
def _child(*arguments: str) -> Iterator[_Child]:
    with tempfile.TemporaryDirectory() as folder:
        # Without the first, litellm asks the network for prices.
        settings = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DSPY_CACHEDIR": folder, "OPENAI_API_KEY": "x"}
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | settings,
        )
        try:
            pin(process.pid, last=False)
            yield _Child(process)
        finally:
            process.kill()
            process.communicate()


def _answer(seconds: float) -> None:
    print(f"\n{MARK}{seconds}", flush=True)


def main() -> None:
    kind, name, url, *more = sys.argv[1:]
    if kind == "calls":
        _serve_calls(name, url, int(more[0]))
    else:
        _serve_study(name, url)


if __name__ == "__main__":
    main()
