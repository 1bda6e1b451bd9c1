"""What must hold after every run of a study, whatever went wrong: the invariants I1 to I12 of docs/reliability.md.

The harness hands over what it saw of the run, and the simulated server's ledger judges it. What is stated here of one
run is checked by :func:`check_run`; a flat load has its ideal time besides (I10, I11), and two of them can be compared
(I12), as :mod:`asyncopt.testing.scenario` does.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from asyncopt.cache.memory import unpack
from asyncopt.chronicle import decisions_of
from asyncopt.directory import read_journal
from asyncopt.events import Event, ExampleEnded
from asyncopt.optimizers.history import row_of
from asyncopt.result import Result
from asyncopt.study import Study
from asyncopt.tasks.task import Example, Task
from asyncopt.testing.answers import AnswerModel, signature
from asyncopt.testing.failures import BILLED, ESTIMATED
from asyncopt.testing.faults import OF_ITEMS, PERMANENT
from asyncopt.testing.ledger import Entry, Ledger
from asyncopt.values import Concurrency, Quota

_PERMITS_AT_ONCE = 2.0  # the smallest bucket of a meter, and the most that two calls of one moment take
_BUCKET_SECONDS = 0.1
_STRAYS = 1  # requests after the end of the money: the one that makes sure of it
_SMALL = 1e-6


class InvariantBroken(AssertionError):
    """A run broke one of the invariants; the text says which, and by what."""


@dataclass
class Sitting:
    """One sitting of a study: ``result`` or ``error``, all events, and what it left behind when its engine was closed.

    ``first`` is the number of its first request. ``in_flight`` is how many requests were in flight when it was killed
    or cancelled.
    """

    study: Study
    first: int
    result: Result | None = None
    error: BaseException | None = None
    events: list[Event] = field(default_factory=list)
    in_flight: int = 0
    left: Sequence[str] = ()


@dataclass
class Run:
    """A study from its first sitting to its last, with the server that it asked.

    ``quota`` is what the engine was told, ``cache`` what the cache held at the end, ``secret`` a key that nobody may
    find.
    """

    sittings: list[Sitting]
    ledger: Ledger
    answers: AnswerModel
    quota: Quota
    directory: Path
    cache: Mapping[bytes, bytes] | None
    secret: str

    @property
    def last(self) -> Sitting:
        return self.sittings[-1]

    @property
    def whole(self) -> bool:
        """Whether it was done in one sitting, and nobody asked twice."""
        return len(self.sittings) == 1 and self.last.result is not None and not self.last.study.account.hedges

    @cached_property
    def trace(self) -> list[dict[str, Any]]:
        """What the study's decisions rested on."""
        path = self.directory / "trace.jsonl"
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    @cached_property
    def graded(self) -> list[tuple[str, Example, dict[str, Any]]]:
        """Every graded or missed example: the candidate, the example, and what the trace says of it."""
        task = self.last.study.task
        if not isinstance(task, Task):
            return []
        splits = {"evaluation": task.train, "validation": task.validation, "test": task.test}
        known = {kind: {example.id: example for example in examples} for kind, examples in splits.items()}
        return [
            (record["candidate"], known[record["kind"]][item["example"]], item)
            for record in self.trace
            if record["kind"] in known
            for item in record["items"]
        ]

    def prompt(self, candidate: str, example: Example) -> str:
        """The first prompt by which the candidate is asked this example, as the ledger has it."""
        study = self.last.study
        assert isinstance(study.task, Task)
        request = study.optimizer.program(study.task).first(study.task, candidate, example)
        return "\n".join(message.content for message in request.prompt)


def check_run(run: Run) -> None:
    """Raise :class:`InvariantBroken` with all that is wrong; return if nothing is."""
    broken = [f"{name}: {complaint}" for name, check in CHECKS.items() for complaint in check(run)]
    if broken:
        raise InvariantBroken("\n".join(broken))


# -- I1, I2: every example once, and by the answer to its own prompt ---------------------------------------------------


def _outcomes(run: Run) -> Iterator[str]:
    task = run.last.study.task
    if not isinstance(task, Task):
        return
    for record in run.trace:
        ids = [item["example"] for item in record.get("items", ())]
        repeated = [number for number, count in Counter(ids).items() if count > 1]
        if repeated:
            yield f"the examples {repeated} of {record['candidate']!r} have several outcomes"
        for item in record.get("items", ()):
            if (item["score"] is None) == (item["outcome"] == "scored"):
                yield f"example {item['example']} is {item['outcome']} with the score {item['score']}"
    for entry in run.last.study.history.entries:
        if entry.complete and not entry.provisional and entry.examples > len(task.train):
            yield f"{entry.candidate!r} rests on {entry.examples} of {len(task.train)} examples"
    if run.whole and not getattr(run.last.study.optimizer, "quorum", None):
        told = sum(isinstance(event, ExampleEnded) for event in run.last.events)
        traced = sum(len(record.get("items", ())) for record in run.trace)
        if told != traced:
            yield f"{told} outcomes were told of, and {traced} decided on"


def _attributed(run: Run) -> Iterator[str]:
    given: dict[str, set[str]] = defaultdict(set)
    altered: set[str] = set()
    for entry in run.ledger.entries:
        given[entry.prompt].add(entry.answer)
        if entry.fault in OF_ITEMS:
            altered.add(entry.prompt)
    for candidate, example, item in run.graded:
        prompt = run.prompt(candidate, example)
        answer = item["first_answer"] if item.get("first_answer") else item["answer"]
        if item["outcome"] != "scored":
            continue
        if answer not in given[prompt]:
            yield f"example {example.id} of {candidate!r} was graded on {answer!r}, which its prompt never got"
        if signature(prompt) not in answer and prompt not in altered:
            yield f"example {example.id} of {candidate!r} was graded on {answer!r}, the answer to another prompt"


# -- I3, I4, I5: quotas, bills and the end of the money ----------------------------------------------------------------


def _within_quota(run: Run) -> Iterator[str]:
    if run.quota.concurrency is not None:
        most = Concurrency.of(run.quota.concurrency).most
        if run.ledger.max_in_flight() > most:
            yield f"{run.ledger.max_in_flight()} requests were in flight at once, and {most} are allowed"
    firsts = [sitting.first for sitting in run.sittings] + [run.ledger.count()]
    for first, last in pairwise(firsts):  # a new process knows nothing of the last one's requests
        yield from pace_complaints(run.ledger.entries[first:last], run.quota.requests_per_minute)


def pace_complaints(entries: Sequence[Entry], per_minute: float | None) -> Iterator[str]:
    """The first request that came too early: more than the meter's bucket and a probe above the pace."""
    if per_minute is None:
        return
    rate = per_minute / 60
    capacity, level, before = max(_PERMITS_AT_ONCE, _BUCKET_SECONDS * rate) + 1, 0.0, 0.0
    for entry in entries:
        level = max(0.0, level - rate * (entry.arrived - before)) + 1
        before = entry.arrived
        if level > capacity + _SMALL:
            yield f"request {entry.number} at {before:.3f} s is {level:.2f} above a pace of {rate:g} a second"
            return


def _billed(run: Run) -> Iterator[str]:
    account, ledger = run.last.study.account, run.ledger
    # A rival that is called off before it has begun counts as a call, and was not sent: a budget may be told too much.
    unsent = sum(sitting.study.account.hedges for sitting in run.sittings)
    if account.calls > ledger.count() + unsent:
        yield f"{account.calls} calls are counted, and the server saw {ledger.count()}"
    if not run.whole:
        return
    if account.calls < ledger.count():
        yield f"{account.calls} calls are counted, and the server saw {ledger.count()}"
    paid = [entry for entry in ledger.entries if entry.status == 200 and entry.fault in BILLED]
    estimated = any(entry.fault in ESTIMATED for entry in ledger.entries)
    for name in ("input_tokens", "output_tokens"):
        told, found = sum(getattr(entry, name) for entry in paid), getattr(account, name)
        if found < told or (found > told and not estimated):
            yield f"the account has {found} {name}, and the server's answers had {told}"


def _ended(run: Run) -> Iterator[str]:
    firsts = [sitting.first for sitting in run.sittings] + [run.ledger.count()]
    for first, last in pairwise(firsts):
        entries = run.ledger.entries[first:last]
        ends = [entry.finished for entry in entries if entry.fault in PERMANENT and entry.finished is not None]
        later = [entry.number for entry in entries if ends and entry.arrived > ends[0] + _SMALL]
        if len(later) > _STRAYS:
            yield f"after the end at {ends[0]:.3f} s came {len(later)} more requests, from number {later[0]} on"


def _paid_twice(run: Run) -> Iterator[str]:
    if run.cache is None or any(sitting.study.account.hedges for sitting in run.sittings):
        return
    prompts = {run.prompt(candidate, example) for candidate, example, _ in run.graded}
    answered = Counter(entry.prompt for entry in run.ledger.entries if _is_answer(entry) and entry.prompt in prompts)
    twice = sum(count - 1 for count in answered.values())
    allowed = sum(sitting.in_flight for sitting in run.sittings)
    if twice > allowed:
        yield f"{twice} answers were paid for twice, and {allowed} calls were in flight when the study was stopped"


def _is_answer(entry: Entry) -> bool:
    """Whether the client has had an answer that it keeps."""
    return entry.status == 200 and entry.fault in {None, "slow", "other-model", "no-usage", "absurd-usage"}


# -- I6 to I9: nothing left, nothing forgotten, nothing invented, nothing told -----------------------------------------


def _nothing_left(run: Run) -> Iterator[str]:
    for sitting in run.sittings:
        if sitting.left:
            yield f"a sitting left {', '.join(sitting.left)}"


def _journalled(run: Run) -> Iterator[str]:
    entries = [
        row for decision in decisions_of(read_journal(run.directory)) for row in decision.data.get("entries", ())
    ]
    names = row_of(run.last.study.history.entries[0]).keys() if run.last.study.history.entries else ()
    journalled = {row["candidate"]: {name: row.get(name) for name in names} for row in entries}
    for entry in run.last.study.history.entries:
        row = {name: value for name, value in row_of(entry).items() if name in names}
        if journalled.get(entry.candidate) != row:
            yield f"the journal has {journalled.get(entry.candidate)}, and the study {row}"
    if len(journalled) != len(run.last.study.history):
        yield f"the journal has {len(journalled)} candidates, and the study {len(run.last.study.history)}"


def _cached(run: Run) -> Iterator[str]:
    answers = {entry.answer for entry in run.ledger.entries if entry.status == 200}
    for value in (run.cache or {}).values():
        completion = unpack(value)
        if completion is None or completion.text not in answers:
            yield f"the cache has {value[:80]!r}, which the server never answered"


def _untold(run: Run) -> Iterator[str]:
    secret = run.secret.encode()
    files = [path for path in run.directory.rglob("*") if path.is_file()]
    yield from (f"the key is in {path.name}" for path in files if secret in path.read_bytes())
    told = [sitting.events for sitting in run.sittings] + [repr(sitting.error) for sitting in run.sittings]
    if run.secret in repr(told) or any(secret in value for value in (run.cache or {}).values()):
        yield "the key is in an event, an error or the cache"


CHECKS: Mapping[str, Callable[[Run], Iterator[str]]] = {
    "I1 (every example has one outcome)": _outcomes,
    "I2 (answers belong to their prompts)": _attributed,
    "I3 (quotas are kept)": _within_quota,
    "I4 (what is counted is what was asked)": _billed,
    "I5 (nothing is asked after the end)": _ended,
    "I6 (nothing is left)": _nothing_left,
    "I7 (the journal is the study)": _journalled,
    "I8 (the cache has what was answered)": _cached,
    "I9 (the key is nowhere)": _untold,
    "P5 (nothing is paid twice)": _paid_twice,
}


def leftovers(descriptors: int) -> list[str]:
    """What still lives when everything is closed: tasks, threads of this package, descriptors above that number."""
    tasks = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("asyncopt")]
    more = open_descriptors() - descriptors
    return tasks + threads + ([f"{more} descriptors"] if more > 0 else [])


def open_descriptors() -> int:
    """How many descriptors this process has open; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
