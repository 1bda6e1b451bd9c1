"""Asking a model for solutions: one sample of it, and what becomes of all answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace

from asyncopt import codec
from asyncopt.errors import CallFailed, EndpointUnusable
from asyncopt.optimizers.base import Search, Seen, derived_seed
from asyncopt.values import Generate, Priority, Prompt, Sampling

_NOTED = 100  # characters of an answer that held nothing usable


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read out of an answer: a solution as ``text``, or None and in a few words why there is none."""

    text: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Proposed:
    """Which sample an answer is: of this step, at this place in it, asked for in this way, for the so-many-th time.

    ``parents`` are the candidates it was to be made from, where these are a few and not a whole view of the history.
    """

    step: int
    index: int
    source: str
    attempt: int = 0
    parents: tuple[str, ...] = ()


async def asked(
    search: Search, prompt: Prompt, sampling: Sampling, step: int, index: int, purpose: str = "propose"
) -> str | None:
    """What the proposer says to this prompt; None where the call failed for good, which is told and counted.

    The seed and the draw of ``sampling`` are set here, from the study's seed, the step, the purpose and the index.
    """
    proposer = search.require_proposer()
    number = derived_seed(search.seed, step, purpose, index)
    # The draw: two studies that start with the same meta-prompt must not get the same samples.
    sampling = replace(sampling, seed=number if proposer.supports.seed else None, draw=number)
    try:
        completion = await proposer.submit(Generate.of(prompt, sampling), priority=Priority.PROPOSE)
    except EndpointUnusable:
        raise
    except CallFailed as error:
        search.proposals.lost(step, error)
        return None
    search.proposals.came(step)
    return completion.text


class Answers:
    """Traces the proposer's answers, counts those that held nothing usable, and says so.

    Once they are all of the ``first`` ones, and at the end: one line for each would hide everything else where a small
    model proposes, and the trace has them all.
    """

    def __init__(self, search: Search, first: int) -> None:
        self._search = search
        self._first = first
        self._asked = self._unusable = self._noted = 0
        self._reasons: Counter[str] = Counter()
        self._last = ""

    def take(self, sample: Proposed, prompt: Prompt, answer: str, reading: Reading, seen: Seen) -> None:
        """Take note of an answer and of what was read out of it."""
        known = reading.text is not None and reading.text in seen.history
        rejected = "tried before" if known else reading.reason
        said = {"answer": answer, "candidate": reading.text, "rejected": rejected}
        messages = [[message.role, message.content] for message in Generate.of(prompt).prompt]
        place = asdict(sample)
        if not sample.parents:
            del place["parents"]
        self._search.trace("proposal", {**place, "prompt": messages, **said})
        self._asked += 1
        if reading.text is None:
            self._unusable += 1
            self._reasons[reading.reason] += 1
            self._last = answer
        if self._asked == self._unusable == self._first:
            self.sum_up()

    def sum_up(self) -> None:
        """Say how many answers held nothing usable, if that is not said yet."""
        if self._unusable > self._noted:
            self._noted = self._unusable
            last = codec.printable(self._last, _NOTED) or "nothing"
            reasons = ", ".join(f"{count} {reason}" for reason, count in self._reasons.most_common())
            counts = f"{self._unusable} of {self._asked} answers of the proposer held no usable solution ({reasons})"
            self._search.note(f"{counts}; the last one said: {last}")
