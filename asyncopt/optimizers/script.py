"""The decisions of an earlier run, for a run that has to make them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asyncopt import codec
from asyncopt.errors import StudyFailed
from asyncopt.optimizers.history import Entry

Sample = tuple[int, int]  # the step, and the place in it

# In the rows of a record, and told, not decided: a replay may lose an example in another way than the run did, and
# older journals have less of this.
_TOLD = {"entries": ("problems",), "candidates": ("problems", "scores")}


@dataclass(frozen=True, slots=True)
class Decision:
    """What a search decided, as its journal has it.

    A step ``proposed``, an ``entry`` that joined, a ``step`` ended, or what of it was ``validated``.
    """

    kind: str
    data: Mapping[str, Any]

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        rows: Sequence[Mapping[str, Any]] = self.data.get("entries", ())
        return rows

    def is_of(self, entry: Entry) -> bool:
        """Whether this is the moment at which the entry joined on its own."""
        row = self.rows[0]
        return (row["step"], row["index"], row.get("provisional", False)) == (
            entry.step,
            entry.index,
            entry.provisional,
        )


class Script:
    """Decisions in their order; the first ``done`` of them have been made.

    It also knows what became of every sample: which of two equal candidates was scored depends on which came first.
    """

    def __init__(self, decisions: Sequence[Decision], done: int = 0) -> None:
        self._decisions = decisions
        self._done = done
        self._samples: dict[Sample, str] = {}
        self._provisional: dict[Sample, Mapping[str, Any]] = {}
        self._candidates: set[str] = set()
        self._finished = {decision.data["step"] for decision in decisions if decision.kind == "step"}
        self._validated = {one.data["step"]: one.data["candidates"] for one in decisions if one.kind == "validated"}
        for row in (row for decision in decisions for row in decision.rows):
            sample = (row["step"], row["index"])
            self._samples[sample] = row["candidate"]
            self._candidates.add(row["candidate"])
            if row.get("provisional"):
                self._provisional[sample] = row

    @property
    def head(self) -> Decision | None:
        """The decision that comes next; None when all are made."""
        return self._decisions[self._done] if self._done < len(self._decisions) else None

    def confirm(self, kind: str, data: Mapping[str, Any]) -> None:
        """Go on to the next decision; raises :class:`StudyFailed` if this is not the one that was made then."""
        head = self.head
        if head is None:
            return
        recorded, made = _decided(head.data), _decided(codec.loads(codec.dumps(data)))
        if head.kind != kind or recorded != made:
            was, now = codec.dumps([head.kind, recorded]).decode(), codec.dumps([kind, made]).decode()
            raise StudyFailed(
                f"the replay differs in decision {self._done}: {_difference(was, now)}; "
                "the models, the data or the program are not those of the recorded run"
            )
        self._done += 1

    def covers(self, step: int, index: int) -> bool:
        """Whether the recorded run decided this sample's candidate."""
        return (step, index) in self._samples

    def provisional(self, step: int, index: int) -> Mapping[str, Any] | None:
        """The row with which the sample's candidate was decided by a quorum, if it was."""
        return self._provisional.get((step, index))

    def validated(self, step: int) -> Sequence[str] | None:
        """The candidates that were validated for the step, if any were: a run that was resumed chose them later."""
        rows = self._validated.get(step)
        return None if rows is None else [row["candidate"] for row in rows]

    def allows(self, step: int, index: int, candidate: str | None) -> bool:
        """Whether the sample is to be scored; raises :class:`StudyFailed` if it was another candidate then."""
        recorded = self._samples.get((step, index))
        if recorded is None:  # lost then, or the twin of another
            return candidate is not None and step not in self._finished and candidate not in self._candidates
        if candidate != recorded:
            now = "nothing usable" if candidate is None else repr(codec.printable(candidate, 100))
            raise StudyFailed(
                f"the replay differs: sample {index} of step {step + 1} was {codec.printable(recorded, 100)!r} and is "
                f"{now}; the proposer is not that of the recorded run, or a proposal was lost"
            )
        return True

    def stuck(self) -> StudyFailed:
        """The error where the next decision cannot be made any more."""
        head = self.head
        what = "" if head is None else codec.printable(codec.dumps([head.kind, head.data]).decode(), 200)
        return StudyFailed(f"the replay ends before decision {self._done} of the recorded run: {what}")


def _decided(data: Mapping[str, Any]) -> dict[str, Any]:
    rows = {
        name: [{key: value for key, value in row.items() if key not in told} for row in data[name]]
        for name, told in _TOLD.items()
        if name in data
    }
    return {**data, **rows}


def _difference(was: str, now: str) -> str:
    first = next((place for place, (old, new) in enumerate(zip(was, now, strict=False)) if old != new), 0)
    start = max(first - 60, 0)
    return f"it was …{codec.printable(was[start:], 160)} and is …{codec.printable(now[start:], 160)}"
