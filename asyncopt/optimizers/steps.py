"""The loop that optimizers with steps share: propose, score, remember; with lag, before the last step has ended.

All decisions (a step's proposals see the history as it is; an entry joins it; a step ends) are made by one coroutine,
one after the other, whatever the tasks of the candidates do meanwhile. That is what makes a search with lag replayable:
the journal holds the decisions in their order, and a replay makes each of them when its turn comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace

from asyncopt.errors import AsyncoptError, StudyFailed, first_error
from asyncopt.evaluation import most_asked
from asyncopt.optimizers.base import Search, Seen, Validated, comparable, derived_seed
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.overlap import START, Overlap, Plan, Proposal, is_validated
from asyncopt.optimizers.script import Decision
from asyncopt.racing import Floor, alpha_of
from asyncopt.tasks.task import Task


async def run_steps(search: Search, options: Overlap, plan: Plan) -> None:
    """Return when every step of the plan is finished and every candidate of it decided, or the optimum is found."""
    if search.restored is None or not search.restored["solved"]:
        await _Loop(search, options, plan).run()


@dataclass(slots=True)
class _Step:
    """A step that has begun and has not ended."""

    number: int
    seen: Seen
    floor: Floor | None
    undecided: int
    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)  # by candidate, and by who scored it


@dataclass(slots=True)
class _Claim:
    """Whose candidate a text is: among the twins of a step the first sample's, whichever arrived first."""

    step: int
    index: int
    source: str


class _Loop:
    def __init__(self, search: Search, options: Overlap, plan: Plan) -> None:
        self._search = search
        self._options = options
        self._plan = plan
        self._script = search.script
        self._steps: dict[int, _Step] = {}
        self._next = START
        self._ready: list[Entry] = []  # decided, and about to join the history on their own
        self._claims: dict[str, _Claim] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._validating: int | None = None  # the step whose validation is under way, or not yet decided upon
        self._validated: list[Validated] | None = None
        self._solved: int | None = None
        self._ended = False

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._resume(group)
                while not self._over():
                    self._changed.clear()
                    if not await self._decide(group):
                        if self._script is not None and self._script.head is not None and not self._tasks:
                            raise self._script.stuck()
                        await self._changed.wait()
                for task in self._tasks:
                    task.cancel()
        except* AsyncoptError as failures:
            raise first_error(failures) from None

    def _over(self) -> bool:
        head = None if self._script is None else self._script.head
        working = self._steps or self._ready or self._tasks or self._validating is not None
        return self._ended or (head is None and not working and self._none_left())

    def _none_left(self) -> bool:
        """Whether no further step can begin."""
        return self._next >= self._plan.steps or (self._next > START and not self._allowed(self._search.history))

    def _allowed(self, history: History) -> int:
        """How many samples a step after this history may have, by the plan and by the scoring calls that are left."""
        limit = self._options.scoring_calls
        if limit is None:
            return self._plan.samples
        assert isinstance(self._search.task, Task)
        all_of_them = len(self._search.task.train)
        tried = {entry.candidate: entry for entry in history.entries}
        used = sum(most_asked(entry.stopped, all_of_them) for entry in tried.values())
        return max(limit - used, 0) // all_of_them

    def _count(self, seen: Seen) -> int:
        """How many samples a step has, from what it sees alone, so that a step that goes on has as many."""
        if seen.step == START:
            return len(self._plan.initial)
        return min(self._plan.samples, self._allowed(seen.history))

    # -- decisions -----------------------------------------------------------------------------------------------------

    async def _decide(self, group: asyncio.TaskGroup) -> bool:
        """Make the next decision; False if none can be made before something changes."""
        head = None if self._script is None else self._script.head
        if head is not None:
            return await self._follow(head, group)
        undecided = sum(step.undecided for step in self._steps.values())
        earliest = self._steps.get(min(self._steps, default=START))
        if self._solved is not None:
            await self._finish(self._steps[self._solved], group)
        elif self._ready:
            self._join(self._ready.pop(0))
        elif self._validated is not None:
            await self._finish_validation()
        elif earliest is not None and not earliest.undecided and self._validating is None:
            await self._finish(earliest, group)
        elif self._may_begin(undecided):
            self._begin(group)
        else:
            return False
        return True

    def _may_begin(self, undecided: int) -> bool:
        """Whether the next step may be proposed; never before the starting points are scored, whatever the lag."""
        started = self._next == START or START not in self._steps
        # Without lag a step's entries join at its end, for which a validation may still have to come.
        seen = self._options.lag > 0 or not self._steps
        if self._none_left() or not started or not seen or undecided > self._options.lag:
            return False
        if self._options.scoring_calls is None or not undecided:
            return True
        # With few calls left they are dealt out when it is known what the candidates under way take of them.
        return self._allowed(self._search.history) >= self._plan.samples + undecided

    async def _follow(self, head: Decision, group: asyncio.TaskGroup) -> bool:
        """Make the recorded decision if its time has come."""
        if head.kind == "entry":
            entry = next((entry for entry in self._ready if head.is_of(entry)), None)
            if entry is None:
                return False
            self._ready.remove(entry)
            self._join(entry)
        elif head.kind == "proposed":
            self._begin(group)
        elif head.kind == "validated":
            if self._validated is None:
                return False
            await self._finish_validation()
        else:
            step = self._steps.get(head.data["step"])
            if step is None or (step.undecided and self._solved != step.number):
                return False
            await self._finish(step, group)
        return True

    def _begin(self, group: asyncio.TaskGroup) -> None:
        seen = self._search.begin_step(self._next)
        self._launch(group, seen, range(self._count(seen)))
        self._next += 1

    def _join(self, entry: Entry) -> None:
        entry = self._credited(entry)
        self._search.commit(entry)
        if entry.step != START and self._plan.solved(entry.candidate):
            self._solved = entry.step

    async def _finish(self, step: _Step, group: asyncio.TaskGroup) -> None:
        entries = [self._credited(entry) for entry in step.entries.values()]
        solved = step.number != START and any(self._plan.solved(entry.candidate) for entry in entries)
        if step.number == START and all(entry.score is None for entry in entries):
            raise StudyFailed("not one example could be scored with the initial solutions")
        self._search.proposals.end(step.number)
        joining = [] if self._options.lag else sorted(entries, key=lambda entry: entry.index)
        del self._steps[step.number]
        await self._search.finish_step(step.number, joining, {"step": step.number, "solved": solved})
        self._ended = solved
        if not solved and self._validates(step.number):
            self._start_validation(step.number, group)

    # -- validation ----------------------------------------------------------------------------------------------------

    def _validates(self, step: int) -> bool:
        every = self._options.validate_every
        return is_validated(step, self._plan.steps, every) or (every is not None and self._none_left())

    def _start_validation(self, step: int, group: asyncio.TaskGroup) -> None:
        """Validate the step's candidates and the best so far while the next step goes on.

        That step does not end before this is known, so that a search ends at the same place whatever the latencies are.
        """
        recorded = None if self._script is None else self._script.validated(step)
        self._validating = step
        self._task(group, self._validate(self._to_validate(step) if recorded is None else recorded))

    def _to_validate(self, step: int) -> list[str]:
        """The step's candidates and the best so far, without those whose validation score is known."""
        history = self._search.history
        best = history.best()
        scored = [entry.candidate for entry in history.entries if entry.step == step and entry.score is not None]
        chosen = dict.fromkeys(scored if best is None else [*scored, best.candidate])
        known = {one.candidate for validated in self._search.validations.values() for one in validated}
        return [candidate for candidate in chosen if candidate not in known]

    async def _validate(self, candidates: Sequence[str]) -> None:
        self._validated = await self._search.validate(candidates)

    async def _finish_validation(self) -> None:
        assert self._validating is not None and self._validated is not None  # noqa: PT018
        step, validated = self._validating, self._validated
        self._validating = self._validated = None
        await self._search.finish_validation(step, validated)
        if self._stalled():
            self._search.note(f"no better validation score in {self._options.patience} validations; the search ends")
            self._ended = True

    def _stalled(self) -> bool:
        """Whether the last ``patience`` validations brought nothing better."""
        if self._options.patience is None:
            return False
        validations = self._search.validations
        comparables = {one.candidate: one.score or 0.0 for one in comparable(validations)}
        best, since = -1.0, 0
        for step in sorted(validations):
            scores = [comparables[one.candidate] for one in validations[step] if one.candidate in comparables]
            since = 0 if max(scores, default=-1.0) > best else since + 1
            best = max([best, *scores])
        return since >= self._options.patience

    # -- candidates ----------------------------------------------------------------------------------------------------

    def _launch(self, group: asyncio.TaskGroup, seen: Seen, indexes: Iterable[int]) -> _Step:
        step = self._steps[seen.step] = _Step(seen.step, seen, self._floor(seen), 0)
        for index in indexes:
            step.undecided += 1
            self._task(group, self._sample(step, index))
        return step

    def _task(self, group: asyncio.TaskGroup, coroutine: Coroutine[None, None, None]) -> None:
        task = group.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    def _floor(self, seen: Seen) -> Floor | None:
        """What the step's candidates race against: the best that their proposals saw, whatever came in since."""
        if self._options.racing is None or seen.step == START or not (scores := seen.scores):
            return None
        alpha = alpha_of(self._options.racing, self._plan.steps * self._plan.samples)
        return Floor(scores, alpha, derived_seed(self._search.seed, START, "race"))

    async def _sample(self, step: _Step, index: int) -> None:
        """One candidate from its proposal to its score."""
        if step.number == START:
            proposal: Proposal | None = (self._plan.initial[index], "initial")
        else:
            proposal = await self._plan.propose(step.number, index, step.seen)
        known = step.seen.history.entry(proposal[0]) if proposal is not None and self._plan.repeats else None
        if known is not None and proposal is not None and not known.provisional:
            self._scored(step, replace(known, step=step.number, index=index, source=proposal[1]))
            return
        if not self._claim(step.number, index, proposal):
            step.undecided -= 1
            return
        assert proposal is not None
        entry = await self._search.score(
            proposal[0],
            step.number,
            index,
            proposal[1],
            floor=step.floor,
            quorum=self._options.quorum,
            on_quorum=lambda entry: self._scored(step, entry),
        )
        self._scored(step, entry)

    def _claim(self, step: int, index: int, proposal: Proposal | None) -> bool:
        """Whether the sample is the first with its candidate, so that it is to be scored."""
        if self._script is not None and not self._script.allows(step, index, proposal and proposal[0]):
            return False
        if proposal is None or proposal[0] in self._search.history:
            return False
        claim = self._claims.setdefault(proposal[0], _Claim(step, index, proposal[1]))
        if claim.step == step and index < claim.index:
            # By sample, not by arrival: the same entry whatever the latencies were.
            claim.index, claim.source = index, proposal[1]
            return False
        return (claim.step, claim.index) == (step, index)

    def _credited(self, entry: Entry) -> Entry:
        claim = self._claims.get(entry.candidate)
        if claim is None or claim.step != entry.step:  # a repeated candidate keeps its place
            return entry
        return replace(entry, index=claim.index, source=claim.source)

    def _scored(self, step: _Step, entry: Entry) -> None:
        """Take in an entry from a quorum or from all examples; it joins with its step, or alone if that is over."""
        key = (entry.candidate, entry.index)
        first = key not in step.entries
        step.undecided -= first
        recorded = None if self._script is None else self._script.provisional(step.number, entry.index)
        alone = self._options.lag > 0 or step.number not in self._steps or (recorded is not None and not first)
        if alone:
            self._ready.append(entry)
        if first or not alone:
            step.entries[key] = entry
        self._changed.set()

    # -- going on ------------------------------------------------------------------------------------------------------

    def _resume(self, group: asyncio.TaskGroup) -> None:
        """Begin where the journal ends: nothing that has its entry is proposed or scored again."""
        if self._search.restored is not None:
            last = int(self._search.restored["step"])
            self._next = last + 1
            self._ended = self._stalled()
            if self._validates(last) and last not in self._search.validations:
                self._start_validation(last, group)
        entries = self._search.history.entries
        for entry in entries:
            if entry.provisional:
                self._task(group, self._late(entry))
        begun = {seen.step for seen in self._search.unfinished} - {START}
        solved = (entry.step for entry in entries if entry.step in begun and self._plan.solved(entry.candidate))
        self._solved = next(solved, None)
        for seen in self._search.unfinished:
            done = {entry.index: entry for entry in entries if entry.step == seen.step}
            # Where the optimum is found nothing more is asked: only the end of its step is to be written down.
            left = [i for i in range(self._count(seen)) if i not in done] if self._solved is None else []
            step = self._launch(group, seen, left)
            step.entries = {(entry.candidate, entry.index): entry for entry in done.values()}
            self._next = max(self._next, seen.step + 1)

    async def _late(self, entry: Entry) -> None:
        """The complete entry of a candidate that a quorum decided before the study was interrupted."""
        self._ready.append(await self._search.score(entry.candidate, entry.step, entry.index, entry.source))
