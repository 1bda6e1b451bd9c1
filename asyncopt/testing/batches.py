"""Files and batches in OpenAI's format, behind the simulated API: worked off in a drawn order, some of it late or lost.

Nothing runs between requests: how a batch stands is a function of when it was submitted and of the server's time, so
that a client may be gone in between, on a virtual clock or on a real one.
"""

from __future__ import annotations

import email
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import parse_qs, urlsplit

from asyncopt import codec
from asyncopt.codec import Json
from asyncopt.errors import ConfigError
from asyncopt.testing.chance import digest_of, fraction
from asyncopt.testing.clerk import Clerk
from asyncopt.testing.wire import BadRequest, require
from asyncopt.values import Price, Usage

PURPOSE, WINDOW, MOST_REQUESTS = "batch", "24h", 50_000
_DAY = 86_400.0
_PAGE = 20
_HALF = 0.5

Status: TypeAlias = Literal["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelled"]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How batches are worked off: ``rate`` requests a second, beginning ``delay`` seconds after the submission.

    A share ``failed`` of the requests ends with an error of the server. What is not done ``expires`` seconds after the
    submission is never done. ``refused`` is the code with which whole batches fail instead, such as
    ``token_limit_exceeded``.
    """

    delay: float = 1.0
    rate: float = 1000.0
    failed: float = 0.0
    expires: float = _DAY
    refused: str | None = None

    def __post_init__(self) -> None:
        times = (self.delay, self.rate, self.expires)
        if not (all(math.isfinite(one) and one >= 0 for one in times) and self.rate and 0 <= self.failed <= 1):
            raise ConfigError(f"{self} cannot be; wanted times >= 0, a rate above 0, and a share from 0 to 1")

    @classmethod
    def parse(cls, text: str) -> BatchPlan:
        """The plan in a command-line text, ``DELAY[:RATE[:FAILED[:EXPIRES]]]``, such as ``2:500:0.01``."""
        usual = [USUAL_PLAN.delay, USUAL_PLAN.rate, USUAL_PLAN.failed, USUAL_PLAN.expires]
        try:
            numbers = [float(part) for part in text.split(":")]
            delay, rate, failed, expires = numbers + usual[len(numbers) :]
        except ValueError:
            raise ConfigError(f"the batches are {text!r}; wanted DELAY[:RATE[:FAILED[:EXPIRES]]]") from None
        return cls(delay, rate, failed, expires)


USUAL_PLAN = BatchPlan()


@dataclass(slots=True)
class _Batch:
    number: int
    owner: str
    fields: Mapping[str, Json]
    lines: Sequence[Mapping[str, Json]]
    submitted: float
    plan: BatchPlan
    order: Sequence[int]
    cancelled: float | None = None
    files: dict[str, str] = field(default_factory=dict)
    results: tuple[int, int] | None = None  # completed and failed, once it is over

    @property
    def id(self) -> str:
        return f"batch_{self.number}"

    def done(self, now: float) -> int:
        """How many of the requests have been worked on, in its order."""
        until = min(now, self.submitted + self.plan.expires, math.inf if self.cancelled is None else self.cancelled)
        worked = (until - self.submitted - self.plan.delay) * self.plan.rate
        return max(0, min(len(self.lines), math.floor(worked + 1e-6)))

    def status(self, now: float) -> Status:
        if self.plan.refused is not None:
            return "failed" if now >= self.submitted + self.plan.delay else "validating"
        if self.cancelled is not None:
            return "cancelled"
        if self.done(now) == len(self.lines):
            return "completed"
        if now >= self.submitted + self.plan.expires:
            return "expired"
        return "validating" if now < self.submitted + self.plan.delay else "in_progress"


class SimulatedBatches:
    """The files and the batches of all accounts of a server. ``ledger`` has the requests that were worked on."""

    def __init__(self, plan: BatchPlan, seed: int, clerk: Clerk) -> None:
        self.plan = plan
        self.ledger = clerk.ledger
        self.submitted = 0  # batches, whatever became of them
        self._seed = seed
        self._clerk = clerk
        self._files: dict[str, tuple[str, bytes]] = {}
        self._batches: list[_Batch] = []

    def usd(self, price: Price) -> float:
        """What the answered requests have cost at this price, which batches have at the half."""
        answered = [entry for entry in self.ledger.entries if entry.status == 200]
        return _HALF * sum(price.of(Usage(entry.input_tokens, entry.output_tokens)) for entry in answered)

    def handle(
        self, method: str, path: str, body: bytes, kind: str, owner: str, now: float
    ) -> tuple[int, bytes | Json]:
        """The status and the body of the reply to a request; raises :class:`BadRequest` for what cannot be read."""
        parts = urlsplit(path)
        names = parts.path.strip("/").split("/")
        if method == "POST" and names == ["files"]:
            return 200, self._stored(owner, _file_in(body, kind), now)
        if method == "POST" and names == ["batches"]:
            return 200, self._created(body, owner, now)
        if method == "GET" and names == ["batches"]:
            return 200, self._listed(parse_qs(parts.query), owner, now)
        if len(names) == 3 and names[0] == "files" and names[2] == "content" and method == "GET":
            found = self._files.get(names[1])
            return (200, found[1]) if found is not None and found[0] == owner else _missing("file")
        batch = self._named(names[1], owner) if len(names) > 1 and names[0] == "batches" else None
        if batch is None:
            return _missing("batch")
        if method == "POST" and names[2:] == ["cancel"] and batch.status(now) in ("validating", "in_progress"):
            batch.cancelled = now
        return 200, self._told(batch, now)

    # -- files ---------------------------------------------------------------------------------------------------------

    def _store(self, owner: str, data: bytes) -> str:
        name = f"file-{len(self._files)}"
        self._files[name] = (owner, data)
        return name

    def _stored(self, owner: str, data: bytes, now: float) -> Json:
        name = self._store(owner, data)
        return {"id": name, "object": "file", "bytes": len(data), "created_at": int(now), "purpose": PURPOSE}

    # -- batches -------------------------------------------------------------------------------------------------------

    def _named(self, name: str, owner: str) -> _Batch | None:
        return next((batch for batch in self._batches if batch.id == name and batch.owner == owner), None)

    def _created(self, body: bytes, owner: str, now: float) -> Json:
        try:
            fields = codec.loads(body)
        except codec.CodecError:
            fields = None
        require(isinstance(fields, Mapping), "The body is no JSON object.")
        require(fields.get("completion_window") == WINDOW, f"The completion window must be {WINDOW}.")
        file = self._files.get(str(fields.get("input_file_id")))
        if file is None or file[0] != owner:
            raise BadRequest("There is no such input file.")
        lines = _requests_in(file[1], fields.get("endpoint"))
        number = len(self._batches)
        order = sorted(range(len(lines)), key=lambda place: fraction(self._seed, "batch", number, place))
        batch = _Batch(number, owner, fields, lines, now, self.plan, order)
        self._batches.append(batch)
        self.submitted += 1
        return self._told(batch, now)

    def _listed(self, query: Mapping[str, list[str]], owner: str, now: float) -> Json:
        """The newest first, behind the one that ``after`` names."""
        mine = [batch for batch in reversed(self._batches) if batch.owner == owner]
        after, limit = query.get("after", [""])[0], int(query.get("limit", [str(_PAGE)])[0])
        names = [batch.id for batch in mine]
        start = names.index(after) + 1 if after in names else 0
        shown = [self._told(batch, now) for batch in mine[start : start + limit]]
        return {"object": "list", "data": shown, "has_more": start + limit < len(mine)}

    def _told(self, batch: _Batch, now: float) -> Json:
        status = batch.status(now)
        if status in ("completed", "expired", "cancelled") and batch.results is None:
            self._work_off(batch, now)
        completed, failed = batch.results or (batch.done(now) if status == "in_progress" else 0, 0)
        errors = {"object": "list", "data": [{"code": batch.plan.refused, "message": "Not now.", "line": None}]}
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.fields.get("endpoint"),
            "input_file_id": batch.fields.get("input_file_id"),
            "completion_window": WINDOW,
            "status": status,
            "errors": errors if status == "failed" else None,
            "output_file_id": batch.files.get("output"),
            "error_file_id": batch.files.get("error"),
            "created_at": int(batch.submitted),
            "request_counts": {"total": len(batch.lines), "completed": completed, "failed": failed},
            "metadata": batch.fields.get("metadata"),
        }

    def _work_off(self, batch: _Batch, now: float) -> None:
        """Answer what was worked on, in the batch's order, and file it."""
        done = batch.order[: batch.done(now)]
        results = [self._result(batch, place, now) for place in done]
        good = [one for one in results if one["response"]["status_code"] == 200]
        bad = [one for one in results if one["response"]["status_code"] != 200]
        code = "batch_cancelled" if batch.cancelled is not None else "batch_expired"
        error = {"code": code, "message": "This request was not executed."}
        late = [_line(batch, place, response=None, error=error) for place in batch.order[len(done) :]]
        for name, lines in (("output", good), ("error", bad + late)):
            if lines:
                batch.files[name] = self._store(batch.owner, b"".join(codec.dumps(line) + b"\n" for line in lines))
        batch.results = (len(good), len(bad) + len(late))

    def _result(self, batch: _Batch, place: int, now: float) -> Json:
        line = batch.lines[place]
        if fraction(self._seed, "failed", batch.number, place) < batch.plan.failed:
            status, body = 500, {"error": {"message": "The server had an error.", "type": "server_error"}}
        else:
            status, body = self._clerk.answer(codec.dumps(line["body"]), str(line["url"]), batch.owner, now)
        return _line(
            batch, place, response={"status_code": status, "request_id": f"r{place}", "body": body}, error=None
        )


def _line(batch: _Batch, place: int, *, response: Json, error: Json) -> Json:
    named = {"id": f"{batch.id}-{place}", "custom_id": batch.lines[place]["custom_id"]}
    return {**named, "response": response, "error": error}


def _missing(what: str) -> tuple[int, Json]:
    return 404, {"error": {"message": f"There is no such {what}.", "type": "invalid_request_error", "code": None}}


def _file_in(body: bytes, kind: str) -> bytes:
    """The file in a multipart form, whose other field says what it is for."""
    form = email.message_from_bytes(b"Content-Type: %b\r\n\r\n%b" % (kind.encode(), body))
    parts = form.get_payload()
    require(form.is_multipart() and isinstance(parts, list), "The body is no multipart form.")
    found = {
        part.get_param("name", header="Content-Disposition"): part.get_payload(decode=True)
        for part in form.walk()
        if not part.is_multipart()
    }
    require(found.get("purpose") == PURPOSE.encode(), f"The purpose must be {PURPOSE}.")
    file = found.get("file")
    require(isinstance(file, bytes), "The form has no file.")
    assert isinstance(file, bytes)
    return file


def _requests_in(data: bytes, url: Json) -> list[Mapping[str, Json]]:
    """The requests in a file; real servers find out later, and fail the batch, where this refuses it."""
    try:
        lines = [codec.loads(line) for line in data.splitlines() if line.strip()]
    except codec.CodecError:
        raise BadRequest("A line of the file is no JSON.") from None
    require(0 < len(lines) <= MOST_REQUESTS, f"A file has from 1 to {MOST_REQUESTS} requests.")
    for line in lines:
        good = isinstance(line, Mapping) and line.get("method") == "POST" and line.get("url") == url
        require(good and isinstance(line.get("body"), Mapping), "A line is no POST to the batch's endpoint.")
    require(len({str(line.get("custom_id")) for line in lines}) == len(lines), "A custom_id stands there twice.")
    return lines


def owner_of(key: str) -> str:
    """What tells accounts apart without being a key."""
    return digest_of(key, 6) if key else ""
