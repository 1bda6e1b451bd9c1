"""The lane of batches: what the cache does not have is submitted together, waited for, and paid at half the price."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from asyncopt import codec
from asyncopt.batches.client import MISSED, BatchClient, pauses
from asyncopt.batches.submissions import Submission, Submissions
from asyncopt.batches.till import Till
from asyncopt.batches.wire import NOT_RUN, Batch, Line, answers_in, files_of, line_of
from asyncopt.bulk import Bulk
from asyncopt.endpoints.errands import BatchingEndpoint
from asyncopt.endpoints.protocol import Answer
from asyncopt.engine import Model
from asyncopt.errors import AsyncoptError, BudgetExhausted, ConfigError, MissingCapability, error_of, first_error
from asyncopt.events import Note
from asyncopt.loops import to_its_end
from asyncopt.values import Completion, Fault, FaultKind, Generate

MOST_ROUNDS = 3  # batches that a request may be in: one that was not worked on is in another, then asked alone

Wanted = Mapping[bytes, Generate]


def check_batches(name: str, endpoint: object, *, cached: bool) -> BatchingEndpoint:
    """The endpoint; raises :class:`MissingCapability` or :class:`ConfigError` where it cannot be asked in batches."""
    if not (isinstance(endpoint, BatchingEndpoint) and endpoint.supports.batch):
        raise MissingCapability(
            f"{name} cannot be asked in batches, which only hosts of OpenAI's chat format have; leave batches out, or "
            "name such a model"
        )
    if not cached:
        raise ConfigError("answers of a batch arrive in the cache, and there is none; use one, or leave batches out")
    return endpoint


def require_batches(model: Model) -> BatchingEndpoint:
    """The model's endpoint, as :func:`check_batches` gives it."""
    return check_batches(model.name, model.bulk.endpoint, cached=model.bulk.lookups.kept)


@dataclass(slots=True)
class _End:
    """How a batch ended: its answers, and the requests that were never worked on.

    Where it is ``gone``, there is no batch of its name any more, or a file of its results is not there any more.
    """

    submission: Submission
    batch: Batch | None
    gone: bool
    answers: dict[bytes, Answer] = field(default_factory=dict)
    not_run: list[bytes] = field(default_factory=list)

    @property
    def completed(self) -> int:
        return sum(isinstance(answer, Completion) for answer in self.answers.values())


class BatchLane:
    """Asks one model in batches; ``path`` is the journal by which another process goes on with them.

    Batches that the journal has open are waited for, too, and what they brought is counted on the model's account.
    """

    def __init__(self, model: Model, path: Path) -> None:
        self._endpoint = require_batches(model)
        self._bulk: Bulk = model.bulk
        self._client = BatchClient(self._endpoint)
        self._submissions = Submissions(path)
        self._till = Till(self._bulk)
        self._mine: set[bytes] = set()  # of what is underway in this engine
        for submission in self._submissions.open.values():
            self._begin(submission.keys)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._till.put_all_back()
        mine = tuple(self._mine)
        self._end(mine)
        names = [one.batch for one in self._submissions.open.values() if one.batch is not None]
        if names and error is not None:
            self._say(f"not cancelled, and paid for: {', '.join(names)}; whoever goes on with this gets the answers")
        self._submissions.close()
        await self._bulk.lookups.underway.release(mine)

    def _say(self, text: str) -> None:
        self._bulk.events.emit(Note(codec.printable(text, 400)))

    # -- asking --------------------------------------------------------------------------------------------------------

    async def answers(self, requests: Sequence[Generate]) -> list[Completion | None]:
        """The answers in the order of the requests, each of which is in the cache then; None where there is none.

        Raises :class:`BudgetExhausted` before anything is submitted that the account does not cover.
        """
        keys = [self._bulk.keys.of(request) for request in requests]
        wanted = dict(zip(keys, requests, strict=True))
        due: Wanted = wanted
        for count in range(1, MOST_ROUNDS + 1):
            submissions, theirs = await self._submitted(due, wanted)
            ends = await self._all_collected(submissions, wanted)
            for end in ends:
                self._report(end, last=count == MOST_ROUNDS)
            open_ = [key for end in ends for key in end.not_run if key in wanted]
            due = {key: wanted[key] for key in dict.fromkeys((*open_, *await self._left(theirs)))}
            if not due:
                break
            self._require_room(ends)
        known = await self._bulk.known(keys)
        return [known.get(key) for key in keys]

    async def _left(self, theirs: Sequence[bytes]) -> list[bytes]:
        """Those of the questions in batches of others that are still open when these have ended."""
        underway = self._bulk.lookups.underway
        await underway.wait([key for key in theirs if key not in self._mine])
        for pause in pauses():
            known = await self._bulk.known(theirs)
            left = [key for key in theirs if key not in known]
            abroad = [key for key in left if key in self._mine]
            if all(await underway.claim(abroad)):
                break
            await asyncio.sleep(pause)
        known = await self._bulk.known(theirs)  # once more: an answer may have come, and its claim been given up
        await self._give_up([key for key in known if key in self._mine])
        return [key for key in theirs if key not in known]

    async def _submitted(self, due: Wanted, wanted: Wanted) -> tuple[list[Submission], list[bytes]]:
        """The batches that are on their way, with new ones for what is due and neither they nor the cache have.

        Also those of the due keys that others have in batches of theirs, be it in this engine or in another process.
        """
        running = [one for one in list(self._submissions.open.values()) if await self._found(one, wanted)]
        known = await self._bulk.known(list(due))
        covered = {key for one in running for key in one.keys}
        await self._bulk.lookups.underway.claim(list(covered))
        open_ = [key for key in due if key not in known and key not in covered]
        underway = self._bulk.lookups.underway
        theirs = [key for key in open_ if key in underway and key not in self._mine]
        ours = [key for key in open_ if key not in underway or key in self._mine]
        self._begin(ours)
        granted = dict(zip(ours, await underway.claim(ours), strict=True))
        came = await self._bulk.known(ours)  # once more: a claim is given up when its answer is in the cache
        await self._give_up(list(came))
        if not all(granted.values()):
            self._say(
                f"{len(ours) - sum(granted.values())} requests are in batches of other processes: waiting for those"
            )
        theirs += [key for key in ours if not granted[key] and key not in came]
        missing = {key: due[key] for key in ours if granted[key] and key not in came}
        if missing:
            running += await self._new(missing, wanted)
        return running, theirs

    def _begin(self, keys: Iterable[bytes]) -> None:
        self._mine.update(keys)
        self._bulk.lookups.underway.begin(keys)

    def _end(self, keys: Iterable[bytes]) -> None:
        self._mine.difference_update(keys)
        self._bulk.lookups.underway.end(keys)

    async def _give_up(self, keys: Sequence[bytes]) -> None:
        """Others may have these answered, if they are not in the cache."""
        self._end(keys)
        await self._bulk.lookups.underway.release(keys)

    async def _new(self, missing: Wanted, wanted: Wanted) -> list[Submission]:
        self._require_money(missing)
        await self._client.require(self._bulk.name)
        asks = {key: self._endpoint.asked(self._bulk.served, request) for key, request in missing.items()}
        (path,) = {ask.path for ask in asks.values()}
        files = files_of(line_of(key, ask) for key, ask in asks.items())
        return [await self._submit(lines, f"/v1{path}", wanted) for lines in files]

    async def _found(self, submission: Submission, wanted: Wanted) -> bool:
        """Whether the batch that was planned exists; one without a name is asked for by its token."""
        if submission.batch is None:
            batch = await self._client.find(submission.token)
            if batch is None:
                await self._submissions.ended(submission, "never submitted")
                return False
            await self._submissions.submitted(submission, batch.id)
        self._till.set_aside(submission.keys, wanted)
        self._say(f"batch {submission.batch} of {len(submission.keys)} requests was submitted before: going on with it")
        return True

    def _require_money(self, missing: Wanted) -> None:
        tokens, usd = self._till.expected(missing.values())
        reason = self._bulk.account.exhausted(tokens, usd, len(missing))
        if reason is not None:
            raise BudgetExhausted(f"{reason} (a batch of {len(missing)} in all); raise it and resume the study")

    async def _submit(self, lines: Sequence[Line], url: str, wanted: Wanted) -> Submission:
        keys = [key for key, _ in lines]
        self._till.set_aside(keys, wanted)
        file = await self._client.upload(b"".join(line for _, line in lines))
        planned = await self._submissions.plan(keys)
        batch = await self._client.create(file, url, planned.token)
        await self._submissions.submitted(planned, batch.id)
        self._say(f"batch {batch.id}: {len(keys)} requests submitted, at half the price and within 24 hours")
        return planned

    # -- collecting ----------------------------------------------------------------------------------------------------

    async def _all_collected(self, submissions: Sequence[Submission], wanted: Wanted) -> list[_End]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._collected(one, wanted)) for one in submissions]
        except* AsyncoptError as failures:
            raise first_error(failures) from None
        return [task.result() for task in tasks]

    async def _collected(self, submission: Submission, wanted: Wanted) -> _End:
        """The end of a batch, its answers in the cache and on the account."""
        began = asyncio.get_running_loop().time()
        batch = await self._over(submission)
        end = await self._read(submission, batch)
        lost = end.gone or batch is None or batch.status != "completed"
        end.not_run = [key for key in submission.keys if _was_not_run(end.answers.get(key), lost=lost)]
        seconds = asyncio.get_running_loop().time() - began
        await to_its_end(self._kept(end, wanted, seconds))
        if batch is not None and batch.problem is not None and batch.problem.kind is not FaultKind.QUOTA:
            raise error_of(batch.problem)
        return end

    async def _read(self, submission: Submission, batch: Batch | None) -> _End:
        """A batch's answers; they are read again where they are fewer than the provider counts."""
        end = _End(submission, batch, gone=batch is None)
        for left, pause in zip(reversed(range(MISSED)), pauses(), strict=False):
            found: dict[bytes, Answer] = {}
            contents = [await self._client.content(file) for file in (batch.files if batch is not None else ())]
            for content in contents:
                found = answers_in(content or b"", self._endpoint.answered) | found
            end.answers = {key: found[key] for key in submission.keys if key in found}  # its own alone
            end.gone = batch is None or None in contents
            if batch is None or not left or (not end.gone and len(end.answers) >= batch.completed):
                break
            await asyncio.sleep(pause)
        return end

    async def _over(self, submission: Submission) -> Batch | None:
        """The batch when nothing more comes of it; None where the provider does not know it any more."""
        assert submission.batch is not None
        told, missed = -1, 0
        for pause in pauses():
            batch = await self._client.look(submission.batch)
            missed = missed + 1 if batch is None else 0
            if missed == MISSED or (batch is not None and batch.over):
                return batch
            if batch is not None and batch.completed * 10 // (batch.total or 1) != told:  # every tenth of it
                told = batch.completed * 10 // (batch.total or 1)
                self._say(f"batch {batch.id}: {batch.status}, {batch.completed} of {batch.total} done")
            await asyncio.sleep(pause)
        raise AssertionError("pauses do not end")

    async def _kept(self, end: _End, wanted: Wanted, seconds: float) -> None:
        """Keep and count the answers, and only then forget the batch: in between they would be paid twice."""
        not_run = set(end.not_run)
        for key in end.submission.keys:
            if key in not_run:
                self._till.put_back(key)
                continue
            answer = self._till.pay(key, end.answers.get(key), wanted.get(key), seconds)
            if isinstance(answer, Completion):
                self._bulk.lookups.remember(key, answer)
        await self._bulk.lookups.flush()
        await self._submissions.ended(end.submission, "gone" if end.batch is None else end.batch.status)
        await self._give_up(end.submission.keys)

    def _report(self, end: _End, *, last: bool) -> None:
        """Say what came of a batch, and how the rest of it is asked."""
        how = "is not known any more" if end.batch is None else end.batch.status
        if end.gone and end.batch is not None:
            how += ", but not all of its results are there any more"
        text = f"batch {end.submission.batch} {how}: {end.completed} of {len(end.submission.keys)} answered"
        if end.not_run:
            then = "are asked one by one" if last else "go into another batch"
            why = f" ({end.batch.problem.code})" if end.batch is not None and end.batch.problem is not None else ""
            what = "have no result" if end.gone else "were not worked on"
            text += f"; {len(end.not_run)} {what}{why} and {then}"
        failed = [answer for answer in end.answers.values() if isinstance(answer, Fault) and answer.code not in NOT_RUN]
        lost = len(end.submission.keys) - len(end.not_run) - end.completed - len(failed)
        reasons = Counter(fault.kind.value for fault in failed) + Counter({"without a result": lost})
        if reasons:
            listed = ", ".join(f"{count} {name}" for name, count in reasons.most_common())
            text += f"; {listed}: these are asked one by one"
        self._say(text)

    def _require_room(self, ends: Sequence[_End]) -> None:
        """Raise where the account is too full for a batch and none of ours has ended, which would have made room."""
        problems = [end.batch.problem for end in ends if end.batch is not None and end.batch.problem is not None]
        if problems and not any(end.completed for end in ends):
            raise error_of(problems[0])


def _was_not_run(answer: Answer | None, *, lost: bool) -> bool:
    """Whether a request was never worked on: the provider says so, or nothing of a batch that ended early."""
    return lost if answer is None else isinstance(answer, Fault) and answer.code in NOT_RUN
