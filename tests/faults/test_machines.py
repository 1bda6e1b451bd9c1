"""Machines that do random things in a random order and hold what they see against a simple model of it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import looptime
from fakes import FakeEndpoint, echo
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncopt import Engine, Quota, SqliteCache
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import CallFailed
from asyncopt.journal import Journal
from asyncopt.testing.invariants import pace_complaints
from asyncopt.testing.ledger import Entry
from asyncopt.values import Completion, Fault, FaultKind, Generate, Priority, Sampling

KINDS = (FaultKind.TRANSIENT, FaultKind.RATE_LIMITED, FaultKind.AMBIGUOUS, FaultKind.MALFORMED, FaultKind.REFUSED)


class Scheduler(RuleBasedStateMachine):
    """Calls, cancellations and failures against a dispatcher; the model is what everybody who waits must get.

    Every waiter ends once, with the answer to its own prompt or an error, unless it has left; no more calls are in
    flight than allowed, and none starts before the rate allows it.
    """

    quota = Quota(requests_per_minute=600.0, concurrency=4)

    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop(start=0, noop_cycles=0)
        self.faults: list[FaultKind] = []
        self.endpoint = FakeEndpoint(self.respond, seconds=0.7)
        self.waiters: list[tuple[str, asyncio.Future[Completion]]] = []
        self.left: Counter[str] = Counter()
        self.engine = self.run(Engine(grace=0.0).__aenter__())
        self.model = self.run(self.made())

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def made(self) -> Any:
        return self.engine.model("m", endpoint=self.endpoint, quota=self.quota)

    def respond(self, request: Generate, number: int) -> Answer:
        return Fault(self.faults.pop(), "planned") if self.faults else echo(request)

    @rule(names=st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=8), urgent=st.booleans())
    def submit(self, names: list[str], urgent: bool) -> None:
        async def go() -> None:
            for name in names:
                priority = Priority.PROPOSE if urgent else Priority.SCORE
                request = Generate.of(name, Sampling(draw=len(self.waiters)) if urgent else Sampling())
                self.waiters.append((name, self.model.submit(request, priority=priority)))

        self.run(go())

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name, waiter = data.draw(st.sampled_from(self.waiters))
        if waiter.cancel():
            self.left[name] += 1

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    def fail(self, kinds: list[FaultKind]) -> None:
        self.faults += kinds

    @rule(seconds=st.sampled_from([0.01, 0.3, 5.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @invariant()
    def within_the_limits(self) -> None:
        assert self.endpoint.most_in_flight <= 4
        entries = [Entry(number, arrived) for number, arrived in enumerate(self.endpoint.started)]
        assert list(pace_complaints(entries, self.quota.requests_per_minute)) == []

    @invariant()
    def answers_are_to_their_prompts(self) -> None:
        for name, waiter in self.waiters:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                assert waiter.result().text == name.upper()

    def teardown(self) -> None:
        self.run(asyncio.sleep(4000.0))
        ends = Counter(self.end_of(waiter) for _, waiter in self.waiters)
        assert ends["withdrawn"] == sum(self.left.values())
        assert ends.total() == len(self.waiters)
        assert self.endpoint.in_flight == 0
        self.run(self.engine.__aexit__(None, None, None))
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()

    @staticmethod
    def end_of(waiter: asyncio.Future[Completion]) -> str:
        assert waiter.done(), "nobody is left waiting"
        if waiter.cancelled():
            return "withdrawn"
        assert isinstance(waiter.exception(), CallFailed | None)
        return "completed" if waiter.exception() is None else "failed"


class StoredAnswers(RuleBasedStateMachine):
    """A cache on a real file, opened anew at any moment; the model is a dict in which the first word counts."""

    keys = st.binary(min_size=16, max_size=16)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.cache = SqliteCache(self.folder / "answers.sqlite")
        self.model: dict[bytes, bytes] = {}
        self.doubtful: set[bytes] = set()  # put since the last flush: a crash may lose them

    @rule(key=keys, value=st.binary(max_size=300))
    def put(self, key: bytes, value: bytes) -> None:
        async def go() -> None:
            self.cache.put(key, value)

        self.loop.run_until_complete(go())
        if key not in self.model:
            self.doubtful.add(key)
        self.model.setdefault(key, value)
        self.get([key])

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def get_some(self, data: st.DataObject) -> None:
        known = data.draw(st.lists(st.sampled_from(sorted(self.model)), max_size=5))
        self.get([*known, b"nobody has it 16"])

    def get(self, keys: list[bytes]) -> None:
        found = self.loop.run_until_complete(self.cache.get_many(keys))
        assert found == {key: self.model[key] for key in keys if key in self.model}

    @rule()
    def flush(self) -> None:
        self.loop.run_until_complete(self.cache.flush())
        self.doubtful.clear()

    @rule()
    def reopen(self) -> None:
        self.loop.run_until_complete(self.cache.aclose())
        self.doubtful.clear()
        self.cache = SqliteCache(self.cache.path)

    @rule()
    def crash(self) -> None:
        """Go on with the file as it is now: what was flushed is there, and nothing is other than it was put."""
        old, copy = self.folder, Path(tempfile.mkdtemp())
        shutil.copytree(old, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*-shm"))
        self.loop.run_until_complete(self.cache.aclose())
        self.folder, self.cache = copy, SqliteCache(copy / self.cache.path.name)
        shutil.rmtree(old)
        found = self.loop.run_until_complete(self.cache.get_many(list(self.model)))
        assert found.keys() >= self.model.keys() - self.doubtful
        assert all(self.model[key] == value for key, value in found.items())
        self.model, self.doubtful = dict(found), set()

    def teardown(self) -> None:
        self.loop.run_until_complete(self.cache.aclose())
        assert self.cache.degraded is None
        self.loop.close()
        shutil.rmtree(self.folder)


class Chronicled(RuleBasedStateMachine):
    """A journal that is torn and opened again; the model is the list of its records."""

    contents = st.dictionaries(st.text(max_size=5), st.integers(-(2**53), 2**53), max_size=3)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "journal.jsonl"
        self.journal = Journal(self.path)
        self.model: list[tuple[str, Any]] = []
        self.ends = [0]  # where each record ends in the file

    @rule(kind=st.sampled_from(["entry", "step"]), data=contents)
    def append(self, kind: str, data: dict[str, int]) -> None:
        self.journal.append(kind, data)
        self.model.append((kind, data))
        self.ends.append(self.path.stat().st_size)

    @rule()
    def sync(self) -> None:
        asyncio.run(self.journal.sync())

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path)

    @precondition(lambda self: len(self.model) > 0)
    @rule(data=st.data())
    def tear(self, data: st.DataObject) -> None:
        """A crash in the middle of the last record: it alone is lost, and what is left of it is kept aside."""
        self.journal.close()
        cut = data.draw(st.integers(self.ends[-2], self.ends[-1] - 1))
        content = self.path.read_bytes()[:cut]
        self.path.write_bytes(content)
        self.model.pop()
        self.ends.pop()
        before = set(self.folder.iterdir())
        self.journal = Journal(self.path)
        kept = [path.read_bytes() for path in set(self.folder.iterdir()) - before]
        assert kept == ([content[self.ends[-1] :]] if cut > self.ends[-1] else [])

    @invariant()
    def the_records_are_those_that_were_written(self) -> None:
        assert [(record.kind, record.data) for record in self.journal.records] == self.model
        assert [record.seq for record in self.journal.records] == list(range(len(self.model)))
        assert self.path.stat().st_size == self.ends[-1]

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)


FEW = settings(max_examples=25, stateful_step_count=20, deadline=None)

TestScheduler = Scheduler.TestCase
TestScheduler.settings = FEW
TestStoredAnswers = StoredAnswers.TestCase
TestStoredAnswers.settings = FEW
TestChronicled = Chronicled.TestCase
TestChronicled.settings = FEW
