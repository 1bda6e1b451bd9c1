"""Other optimizers behind ``asyncopt proxy``, against a server with a rate limit, beside the same without it.

Each study runs twice as its users run it, with the retries that are its defaults: straight at the server, and with the
proxy's address instead. Failed calls are those that end in an error for the optimizer, after its own retries. The
server's requests and refusals are from its own ledger. A second table is what the proxy costs: CPU of its process for
one request, and the seconds that it adds to a request that nothing limits.

Needs the extra ``bench``; what is not installed is left out, and said.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import urlopen

from common import parser, table, write_json
from paper import task_of
from rival_studies import _plain_adapter as plain_adapter

MARK = "FIGURES "
SECONDS = 600.0  # for one study; one that takes longer has failed
Figures: TypeAlias = dict[str, Any]


# -- the studies, each in a process of its own -------------------------------------------------------------------------


class Failures:
    """Counts the calls of a study, and those that end in an error."""

    def __init__(self) -> None:
        self.calls = self.failed = 0

    def watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, counted."""

        def counted(*values: Any, **named: Any) -> Any:
            self.calls += 1
            try:
                return call(*values, **named)
            except Exception:
                self.failed += 1
                raise

        return counted


def dspy_study(url: str, examples: int, threads: int, failures: Failures) -> Callable[[], object]:
    """COPRO over a task of the project's, in its plain words, with DSPy's own retries."""
    import dspy

    task = task_of(examples)
    lm = dspy.LM("openai/m", api_base=url, api_key="x")
    lm.forward = failures.watched(lm.forward)
    dspy.configure(lm=lm, adapter=plain_adapter())
    rows = [dspy.Example(question=e.input, answer=e.target).with_inputs("question") for e in task.train]

    def metric(example: Any, prediction: Any, _: object = None) -> bool:
        return str(example.answer) in str(prediction.answer)

    program = dspy.Predict(dspy.Signature("question -> answer", task.initial[0]))
    settings = {"num_threads": threads, "display_progress": False, "display_table": 0}
    copro = dspy.COPRO(metric=metric, breadth=5, depth=2)
    return lambda: copro.compile(program, trainset=rows, eval_kwargs=settings)


def promptolution_study(url: str, examples: int, threads: int, failures: Failures) -> Callable[[], object]:
    """Its OPRO over the same task, with the retries of its client."""
    import pandas
    from promptolution.llms.api_llm import APILLM
    from promptolution.optimizers.opro import OPRO
    from promptolution.predictors.maker_based_predictor import MarkerBasedPredictor
    from promptolution.tasks.classification_tasks import ClassificationTask

    task = task_of(examples)
    rows = pandas.DataFrame([{"x": e.input, "y": e.target} for e in task.train])
    model = APILLM(url, "m", "x", max_concurrent_calls=threads)
    model.get_response = failures.watched(model.get_response)
    predictor = MarkerBasedPredictor(model, begin_marker="The answer is ", end_marker=".")
    opro = OPRO(
        predictor,
        ClassificationTask(rows, task_description=task.description),
        model,
        initial_prompts=list(task.initial),
        num_instructions_per_step=5,
    )
    return lambda: opro.optimize(2)


Study: TypeAlias = Callable[[str, int, int, Failures], Callable[[], object]]
STUDIES: dict[str, tuple[str, Study]] = {
    "DSPy, COPRO": ("dspy", dspy_study),
    "promptolution, OPRO": ("promptolution", promptolution_study),
}


def _run_study(name: str, url: str, examples: int, threads: int) -> None:
    logging.disable(logging.ERROR)
    failures = Failures()
    work = STUDIES[name][1](url, examples, threads, failures)
    began, error = time.perf_counter(), ""
    try:
        work()
    except Exception as failure:  # whatever it is: that it does not end well is the figure
        error = f"{type(failure).__name__}: {str(failure)[:120]}"
    seconds = time.perf_counter() - began
    figures = {"seconds": seconds, "calls": failures.calls, "failed": failures.failed, "error": error}
    print(f"\n{MARK}{json.dumps(figures)}", flush=True)
    os._exit(0)  # some of them leave threads behind that nothing ends


def study(name: str, url: str, examples: int, threads: int) -> Figures:
    """What a study against this address comes to, in a process and with a cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DSPY_CACHEDIR": folder, "OPENAI_API_KEY": "x"}
        command = [sys.executable, __file__, "--study", name, "--url", url, "--examples", str(examples)]
        try:
            ended = subprocess.run(
                [*command, "--threads", str(threads)],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                env=os.environ | settings,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"seconds": SECONDS, "calls": 0, "failed": 0, "error": f"not done after {SECONDS:g} s"}
    for line in ended.stdout.splitlines():
        if line.startswith(MARK):
            figures: Figures = json.loads(line.removeprefix(MARK))
            return figures
    raise SystemExit(f"{name} said nothing; its last words: {ended.stderr[-500:]}")


# -- both arms ---------------------------------------------------------------------------------------------------------


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, int]]:
    """The base URL and the process of ``python -m asyncopt ...``."""
    command = [sys.executable, "-m", "asyncopt", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"asyncopt {' '.join(arguments)} did not start")
        yield json.loads(line)["url"], process.pid
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def proxied(url: str) -> Iterator[tuple[str, int]]:
    """A proxy that knows nothing of the server but its address, with no answers of earlier proxies."""
    with serving("proxy", "--scorer", "m", "--base-url", url, "--no-cache") as served:
        yield served


def compare(name: str, rps: float, examples: int, threads: int) -> dict[str, Figures]:
    """The study at the server itself and through the proxy, each with a fresh server."""
    arms: dict[str, Figures] = {}
    for arm in ("without", "through the proxy"):
        with serving("simulate", "--rps", f"{rps:g}", "--latency", "lognormal:0.2:0.5") as (server, _):
            way = proxied(server) if arm != "without" else contextlib.nullcontext((server, 0))
            with way as (url, _):
                found = study(name, url, examples, threads)
            with urlopen(f"{server.removesuffix('/v1')}/ledger") as response:  # noqa: S310 - our own server
                entries = json.loads(response.read())["entries"]
        refused = sum(entry["status"] == 429 for entry in entries)
        arms[arm] = {**found, "requests": len(entries), "refused": refused}
    return arms


# -- what it costs -----------------------------------------------------------------------------------------------------


def overhead(calls: int) -> dict[str, float]:
    """CPU of the proxy's process for a request, and the seconds that it adds to one, of one client at a time."""
    with serving("simulate", "--latency", "0") as (server, _), proxied(server) as (url, pid):
        _ask(url, "warm up", 50)
        straight = _ask(server, "straight", calls)
        before = _cpu(pid)
        through = _ask(url, "through", calls)
        used = _cpu(pid) - before
    return {
        "cpu_us": 1e6 * used / calls,
        "straight_ms": 1e3 * statistics.median(straight),
        "through_ms": 1e3 * statistics.median(through),
    }


def _ask(url: str, text: str, calls: int) -> list[float]:
    """The seconds of so many different calls, one after another on one connection."""
    parts, seconds = urlsplit(url), []
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    for number in range(calls):
        body = {"model": "m", "messages": [{"role": "user", "content": f"{text} {number}"}]}
        began = time.perf_counter()
        connection.request("POST", f"{parts.path}/chat/completions", json.dumps(body))
        with connection.getresponse() as response:
            response.read()
            assert response.status == 200
        seconds.append(time.perf_counter() - began)
    connection.close()
    return seconds


def _cpu(pid: int) -> float:
    """Seconds of CPU that the process has used; only Linux says."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- the script --------------------------------------------------------------------------------------------------------


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rps", type=float, default=10.0, help="requests a second that the server allows")
    options.add_argument("--examples", type=int, default=40)
    options.add_argument("--threads", type=int, default=32)
    options.add_argument("--calls", type=int, default=2000, help="for the overhead; 0 leaves it out")
    options.add_argument("--only", choices=[*STUDIES], default=None)
    options.add_argument("--study", help="run this one in this process")
    options.add_argument("--url")
    given = options.parse_args()
    if given.study:
        _run_study(given.study, given.url, given.examples, given.threads)
        return
    rows, figures = [], {}
    for name, (module, _) in STUDIES.items():
        if given.only not in (None, name):
            continue
        if find_spec(module) is None:
            print(f"left out: {name} (not installed; pip install 'asyncopt[bench]')")
            continue
        figures[name] = compare(name, given.rps, given.examples, given.threads)
        for arm, found in figures[name].items():
            ended = found["error"] or "yes"
            counts = [str(found[key]) for key in ("calls", "failed", "requests", "refused")]
            rows.append([name, arm, *counts, f"{found['seconds']:.1f}", ended])
    table(["study", "arm", "calls", "failed calls", "requests", "429s", "seconds", "finished"], rows)
    cost = overhead(given.calls) if given.calls else {}
    if cost:
        print(f"\nproxy: {cost['cpu_us']:.0f} us of CPU a request, {cost['through_ms']:.2f} ms instead of", end=" ")
        print(f"{cost['straight_ms']:.2f} ms for one at a time (medians of {given.calls})")
    settings = {key: getattr(given, key) for key in ("rps", "examples", "threads", "calls")}
    write_json(given.json, "proxy", settings, {"studies": figures, "overhead": cost})


if __name__ == "__main__":
    main()
