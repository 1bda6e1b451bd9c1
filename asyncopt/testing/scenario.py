"""Random studies on a virtual clock, stopped and resumed: ``python -m asyncopt.testing.scenario SEED`` runs one again.

What one seed draws is in :mod:`asyncopt.testing.draw`; what must hold afterwards in :mod:`asyncopt.testing.invariants`.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from asyncopt.engine import Engine
from asyncopt.errors import AsyncoptError
from asyncopt.events import CallEnded, Event
from asyncopt.files import Disk
from asyncopt.limits.budget import UNLIMITED, Budget
from asyncopt.study import Study
from asyncopt.testing.clock import run_virtual
from asyncopt.testing.draw import Scenario, scenario
from asyncopt.testing.faults import OF_ITEMS, FaultPlan, shrunk
from asyncopt.testing.invariants import InvariantBroken, Run, Sitting, check_run, leftovers, open_descriptors
from asyncopt.testing.load import IDEAL
from asyncopt.testing.simulated import SimulatedAPI

SECRET = "sk-canary-9d1f4c7ab28e"  # noqa: S105 - nobody may find it anywhere afterwards
_MOST_SITTINGS = 4
_LONGEST = 40_000.0  # virtual seconds, after which a study counts as stuck
_RESUMABLE = (1, 3, 4)  # exit codes of ends after which a study goes on
_THREAD_TRIES = 200
_MOST_EVENTS = 1000


class _Unsynced(Disk):
    """A disk that takes no time, which a virtual clock would not wait for."""

    def sync(self, file: int) -> None:
        return


_DISK = _Unsynced()


# -- running one -------------------------------------------------------------------------------------------------------


class KeptCache:
    """A cache in memory that outlives its engine, and can be had as it was at one moment."""

    def __init__(self, values: dict[bytes, bytes] | None = None) -> None:
        self.values = dict(values or {})

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return {key: self.values[key] for key in keys if key in self.values}

    def put(self, key: bytes, value: bytes) -> None:
        self.values.setdefault(key, value)

    async def flush(self) -> None:
        return

    async def aclose(self) -> None:
        return


class _Watch:
    """Keeps what happens."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def notify(self, event: Event) -> None:
        self._events.append(event)


class _Harness:
    """Sittings of one study in a directory, until it is finished."""

    def __init__(self, what: Scenario, directory: Path | None) -> None:
        self.what = what
        self.directory = directory
        self.cache = KeptCache() if what.cached else None
        self.api = SimulatedAPI(
            seed=what.seed, latency=what.latency, answers=what.answers, faults=what.plan, **what.server
        )
        self.sittings: list[Sitting] = []

    async def run(self, stop_at: float | None) -> Run:
        """The whole course, of which the first sitting is killed or cancelled after so many seconds."""
        assert self.directory is not None
        descriptors = open_descriptors()
        for number in range(_MOST_SITTINGS):
            sitting = await self.sit(stop_at if number == 0 else None)
            sitting.left = leftovers(descriptors)
            if sitting.result is not None or not _goes_on(sitting.error):
                break
            if sitting.error is not None:  # somebody has paid, or put the key right
                self.api.faults = replace(self.what.plan, after=None)
        return Run(
            sittings=self.sittings,
            ledger=self.api.ledger,
            answers=self.what.answers,
            quota=self.what.quota,
            directory=self.directory,
            cache=None if self.cache is None else self.cache.values,
            secret=SECRET,
        )

    async def sit(self, stop_at: float | None) -> Sitting:
        """One sitting, from a new engine to its end."""
        what, again = self.what, bool(self.sittings)
        events: list[Event] = []
        watch = _Watch(events)
        async with Engine(cache=self.cache, observers=[watch], grace=0.0) as engine:
            endpoint = self.api.endpoint(api_key=SECRET)
            model = engine.model("m", endpoint=endpoint, quota=what.quota, hedge=what.hedge)
            study = Study(
                task=what.task,
                optimizer=what.optimizer,
                scorer=model,
                proposer=model,
                budget=UNLIMITED if what.budget is None or again else Budget(calls=what.budget),
                directory=self.directory,
                seed=what.seed,
                observers=[watch],
                trace=self.directory is not None,
                disk=_DISK,
            )
            sitting = Sitting(study, first=self.api.ledger.count(), events=events)
            self.sittings.append(sitting)
            task = asyncio.ensure_future(study.run())
            await _wait_for(task, _LONGEST if stop_at is None else stop_at)
            sitting.in_flight = self.api.ledger.in_flight()
            if not task.done():
                await self._stop(task, stuck=stop_at is None)
        with suppress(asyncio.CancelledError):
            sitting.error = task.exception()
            sitting.result = None if sitting.error else task.result()
        return sitting

    async def _stop(self, task: asyncio.Task[Any], *, stuck: bool) -> None:
        """Cancel the study; where it is to be killed, go on from what was on the disk and in the cache before."""
        if stuck:
            task.cancel()
            await asyncio.wait([task])
            raise InvariantBroken(f"the study is not finished after {_LONGEST:g} virtual seconds")
        if self.what.stop is not None and self.what.stop[0] == "kill" and self.directory is not None:
            left = self.directory.with_name(f"run-{len(self.sittings)}")
            with suppress(FileNotFoundError):
                shutil.copytree(self.directory, left)
            self.directory = left
            if self.cache is not None:
                self.cache = KeptCache(self.cache.values)
        task.cancel()
        await asyncio.wait([task])


def _goes_on(error: BaseException | None) -> bool:
    return error is None or (isinstance(error, AsyncoptError) and error.exit_code in _RESUMABLE)


async def _wait_for(task: asyncio.Task[Any], seconds: float) -> None:
    """Return when the task is done, or after so many virtual seconds, whichever is first."""
    await asyncio.wait([task], timeout=seconds)
    tries = _THREAD_TRIES if seconds == _LONGEST else 0
    while not task.done() and tries:
        tries -= 1
        time.sleep(0.01)  # noqa: ASYNC251 - a virtual clock does not wait for threads, such as the journal's
        await asyncio.wait([task], timeout=seconds)


def alone(what: Scenario) -> Sitting:
    """One sitting of the study without a directory, so that its virtual time does not depend on threads."""
    return run_virtual(lambda: _Harness(replace(what, stop=None), None).sit(None))


def played(what: Scenario, directory: Path, stop_at: float | None = None) -> Run:
    """The whole course of the study in this directory, stopped after so many seconds and resumed."""
    return run_virtual(lambda: _Harness(what, directory).run(stop_at))


def check(what: Scenario) -> Run:
    """The study's run, with all invariants checked; raises :class:`InvariantBroken`."""
    ideal = alone(what.undisturbed)
    if ideal.result is None:
        raise InvariantBroken(f"undisturbed, the study ended with {ideal.error!r}")
    stop_at = None if what.stop is None else what.stop[1] * ideal.result.seconds
    with tempfile.TemporaryDirectory() as folder:
        run = played(what, Path(folder) / "run", stop_at)
        check_run(run)
    _check_history(what, run, ideal)
    if what.timed:
        _check_time(what, ideal.result.seconds)
    return run


def _check_history(what: Scenario, run: Run, ideal: Sitting) -> None:
    """N04: the study is finished, with the history of the undisturbed one if nothing was refused or given up."""
    if run.last.result is None:
        if what.plan.rate < 0.2 and not set(what.plan.kinds) & set(OF_ITEMS):
            raise InvariantBroken(f"the study ended with {run.last.error!r}")
        return
    ends = [event.outcome for sitting in run.sittings for event in sitting.events if isinstance(event, CallEnded)]
    altered = {entry.fault for entry in run.ledger.entries} & {*OF_ITEMS}
    if what.settled and not altered and set(ends) <= {"completed"} and _history(run.last) != _history(ideal):
        raise InvariantBroken(f"N04: the history is {_history(run.last)}, and undisturbed {_history(ideal)}")


def _check_time(what: Scenario, best: float) -> None:
    """I11: no later than the work allows (Graham's bound: the work over the places, and the longest path)."""
    harness = _Harness(what, None)
    done = run_virtual(lambda: harness.sit(None))
    ledger = harness.api.ledger
    assert done.result is not None
    longest = max((entry.finished or 0.0) - entry.arrived for entry in ledger.entries)
    best += ledger.busy_seconds() / int(what.quota.concurrency or 1)
    if what.quota.requests_per_minute is not None:
        best += ledger.count() / (what.quota.requests_per_minute / 60)
    if done.result.seconds > best * IDEAL + longest:
        raise InvariantBroken(f"I11: it took {done.result.seconds:.3f} s, and {best:.3f} s are enough")


def _history(sitting: Sitting) -> list[tuple[Any, ...]]:
    entries = sitting.study.history.entries
    return [(one.step, one.index, one.candidate, one.score, one.stopped) for one in entries]


# -- reproducing one ---------------------------------------------------------------------------------------------------


def failure(what: Scenario) -> str | None:
    """What is wrong with the run; None if nothing is."""
    try:
        check(what)
    except Exception as error:  # whatever goes wrong is what is looked for
        return f"{type(error).__name__}: {error}"
    return None


def report(seed: int) -> str | None:
    """What is wrong with this seed's run, and the line that runs it again; None if nothing is."""
    what = scenario(seed)
    complaint = failure(what)
    if complaint is None:
        return None
    line = reproduction(what, lambda plan: failure(replace(what, plan=plan)) is not None)
    return (
        f"{line}\n{complaint}\n"
        f"of {what.plan}; {what.optimizer}; {what.quota}; {what.server}; stop {what.stop}; hedge {what.hedge}"
    )


def reproduction(what: Scenario, fails: Callable[[FaultPlan], bool]) -> str:
    """The command that runs this scenario again, with the fewest faults with which it still fails."""
    events = what.plan.events(_MOST_EVENTS)
    # Where the faults alone do not do it, such as with a plan that is changed between sittings, it is the whole plan.
    least = shrunk(events, fails) if fails(FaultPlan.of(events)) else what.plan
    return f"python -m asyncopt.testing.scenario {what.seed} --faults '{least}'"


def main() -> int:
    """Run one seed again: 0 if all is well, 1 with the complaint if not."""
    parser = argparse.ArgumentParser(description="Run a random study again and check it.")
    parser.add_argument("seed", type=int)
    parser.add_argument("--faults", help="a plan instead of the seed's own, as FaultPlan.parse reads it")
    parser.add_argument("--ledger", action="store_true", help="print what the server saw")
    options = parser.parse_args()
    what = scenario(options.seed)
    what = what if options.faults is None else replace(what, plan=FaultPlan.parse(options.faults))
    run = check(what)
    for entry in run.ledger.entries if options.ledger else ():
        print({**asdict(entry), "prompt": entry.prompt[-40:]})
    print(f"{options.seed}: {len(run.sittings)} sittings, {run.ledger.count()} requests, all is well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
