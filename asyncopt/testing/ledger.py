"""What a simulated server saw: every request, when it came, how it ended. The judge of quotas and of lost calls."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from asyncopt.codec import Json
from asyncopt.testing.chance import digest_of

# Requests that are a second apart do not share a one-second window, whatever their floats say.
_MARGIN = 1e-9

CANCELLED = 499  # the client left before the answer
CUT = 444  # the server cut the connection


@dataclass(slots=True)
class Entry:
    """One request. Times are in seconds since the server's start; ``status`` is None while it is in flight.

    ``key_hash`` tells API keys apart. ``prompt`` is the contents of the messages, a line break between them, or a hash
    of that. ``charged`` is what the token quota was asked for; ``input_tokens`` and ``output_tokens`` are those of the
    answer's usage, the latter as far as written where the answer is streamed, which began at ``first_byte``. ``fault``
    is what the fault plan did to it, and ``answer`` the text that was to be sent, kept as the prompt is.
    """

    number: int
    arrived: float
    finished: float | None = None
    status: int | None = None
    key_hash: str | None = None
    model: str = ""
    prompt: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    charged: int = 0
    first_byte: float | None = None
    fault: str | None = None
    answer: str = ""


class Ledger:
    """All requests in the order of their arrival. Without ``keep_prompts`` it holds hashes of the texts."""

    def __init__(self, *, keep_prompts: bool = True) -> None:
        self.entries: list[Entry] = []
        self._keep_prompts = keep_prompts
        self._in_flight = 0
        self._most_in_flight = 0
        self._latest = 0.0

    def open(self, now: float, key_hash: str | None) -> Entry:
        """The entry of a request that has just arrived."""
        entry = Entry(len(self.entries), now, key_hash=key_hash)
        self._latest = now
        self.entries.append(entry)
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        return entry

    def describe(self, entry: Entry, model: str, prompt: str) -> None:
        """Notes what the request asks for."""
        entry.model = model
        entry.prompt = prompt if self._keep_prompts else digest_of(prompt, 16)

    def close(self, entry: Entry, now: float, status: int) -> None:
        """Notes how the request ended."""
        entry.finished = now
        entry.status = status
        if not self._keep_prompts:
            entry.answer = entry.answer and digest_of(entry.answer, 16)
        self._in_flight -= 1
        self._latest = now

    def count(self) -> int:
        """How many requests arrived."""
        return len(self.entries)

    def answered(self) -> int:
        """How many requests got an answer."""
        return self._with_status(200)

    def refused(self) -> int:
        """How many requests a quota refused."""
        return self._with_status(429)

    def in_flight(self) -> int:
        """How many requests are in flight now."""
        return self._in_flight

    def max_in_flight(self) -> int:
        """The most requests that were in flight at once."""
        return self._most_in_flight

    def max_in_window(self, seconds: float, *, tokens: bool = False) -> int:
        """The most requests, refused ones too, that arrived within any half-open window of this length.

        With ``tokens``, the most tokens that those requests asked of the quota.
        """
        most = total = first = 0
        for entry in self.entries:
            total += entry.charged if tokens else 1
            while entry.arrived - self.entries[first].arrived >= seconds - _MARGIN:
                total -= self.entries[first].charged if tokens else 1
                first += 1
            most = max(most, total)
        return most

    def busy_seconds(self) -> float:
        """The sum of the seconds that requests were in flight; those that still are count up to the last event."""
        return sum(self._end(entry) - entry.arrived for entry in self.entries)

    def mean_in_flight(self) -> float:
        """The mean number of requests in flight between the first arrival and the last event."""
        span = self._latest - self.entries[0].arrived if self.entries else 0.0
        return self.busy_seconds() / span if span > 0 else 0.0

    def series(self, seconds: float) -> list[dict[str, float]]:
        """What happened in each interval of this length, from the server's start to the last event.

        ``arrived``, ``refused`` and ``charged`` count requests (and their tokens) by arrival, ``answered`` by the end.
        """
        count = math.floor(self._latest / seconds) + 1 if self.entries else 0
        names = ("arrived", "refused", "charged", "answered", "mean_in_flight")
        rows = [{"from": index * seconds, **dict.fromkeys(names, 0.0)} for index in range(count)]
        for entry in self.entries:
            first, end = math.floor(entry.arrived / seconds), self._end(entry)
            rows[first]["arrived"] += 1
            rows[first]["refused"] += entry.status == 429
            rows[first]["charged"] += entry.charged
            last = math.floor(end / seconds)
            rows[last]["answered"] += entry.status == 200
            for row in rows[first : last + 1]:
                inside = min(end, row["from"] + seconds) - max(entry.arrived, row["from"])
                row["mean_in_flight"] += max(0.0, inside) / seconds
        return rows

    def as_json(self, *, since: int = 0, every: float | None = None) -> Json:
        """The counters and the entries from number ``since`` on, as ``GET /ledger`` gives them.

        With ``every``, also the :meth:`series` in intervals of so many seconds.
        """
        document: dict[str, Json] = {
            "requests": self.count(),
            "answered": self.answered(),
            "refused": self.refused(),
            "in_flight": self.in_flight(),
            "max_in_flight": self.max_in_flight(),
            "mean_in_flight": self.mean_in_flight(),
            "busy_seconds": self.busy_seconds(),
            "entries": [asdict(entry) for entry in self.entries[since:]],
        }
        return document if every is None else {**document, "series": self.series(every)}

    def _end(self, entry: Entry) -> float:
        return self._latest if entry.finished is None else entry.finished

    def _with_status(self, status: int) -> int:
        return sum(entry.status == status for entry in self.entries)
