"""The wire format of batches: requests to the lines of files, files of results to answers. Pure, and never raising.

A request's ``custom_id`` is its content key in hexadecimal, so that results in any order, of any batch, find their
place in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

from asyncopt import codec
from asyncopt.endpoints.faults import fault_of, kind_of, malformed
from asyncopt.endpoints.openai import object_of
from asyncopt.endpoints.parts import count_of, json_of
from asyncopt.endpoints.protocol import Answer, Ask, Reply
from asyncopt.identity import KEY_BYTES
from asyncopt.values import Completion, Fault, FaultKind

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of a file, as OpenAI takes them
WINDOW = "24h"  # the only one that there is
TOKEN = "asyncopt"  # noqa: S105 - the name in a batch's metadata of what tells our submissions apart

NOT_RUN = ("batch_expired", "batch_cancelled")
"""The codes of requests that were never worked on, and cost nothing."""
_OVER = ("completed", "failed", "expired", "cancelled")
_CROWDED = "token_limit_exceeded"  # more is waiting in batches than the account may have at once

Line: TypeAlias = tuple[bytes, bytes]  # a key, and the line of its request


def line_of(key: bytes, ask: Ask) -> Line:
    """The line of a file that asks this; its URL is below the provider's root, whatever the base URL."""
    head = codec.dumps({"custom_id": key.hex(), "method": "POST", "url": f"/v1{ask.path}"})
    return key, b'%b,"body":%b}\n' % (head[:-1], ask.body)


def files_of(
    lines: Iterable[Line], most_requests: int = MOST_REQUESTS, most_bytes: int = MOST_BYTES
) -> list[list[Line]]:
    """The lines in files that a provider takes, in their order."""
    files: list[list[Line]] = []
    size = 0
    for line in lines:
        if not files or len(files[-1]) == most_requests or size + len(line[1]) > most_bytes:
            files.append([])
            size = 0
        files[-1].append(line)
        size += len(line[1])
    return files


def form_of(data: bytes) -> tuple[bytes, str]:
    """The multipart form that uploads a file of requests, and its content type."""
    boundary = f"asyncopt-{blake2b(data, digest_size=16).hexdigest()}"
    field = f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    file = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="requests.jsonl"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    body = b"".join((field.encode(), file.encode(), data, f"\r\n--{boundary}--\r\n".encode()))
    return body, f"multipart/form-data; boundary={boundary}"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the provider tells of it.

    ``files`` are the identifiers of its results and of its errors, as far as there are such files; ``problem`` says why
    it failed as a whole.
    """

    id: str
    status: str
    files: tuple[str, ...]
    completed: int
    total: int
    token: str | None
    problem: Fault | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status in _OVER


def batch_of(reply: Reply) -> Batch | Fault:
    """The batch in a reply, or the fault that the reply stands for."""
    found = object_of(reply, json_of(reply.body))
    return found if isinstance(found, Fault) else _batch_in(found) or malformed(reply.status, "no batch")


def batches_of(reply: Reply) -> tuple[list[Batch], bool] | Fault:
    """The batches of one page of a list, and whether there is another page."""
    found = object_of(reply, json_of(reply.body))
    if isinstance(found, Fault):
        return found
    data = found.get("data")
    if not isinstance(data, list):
        return malformed(reply.status, "no list")
    batches = [_batch_in(item) for item in data if isinstance(item, dict)]
    return [batch for batch in batches if batch is not None], found.get("has_more") is True


def id_in(reply: Reply) -> str | Fault:
    """The identifier of the file in a reply, or the fault that the reply stands for."""
    found = object_of(reply, json_of(reply.body))
    if isinstance(found, Fault):
        return found
    return _id(found.get("id")) or malformed(reply.status, "no identifier")


def _batch_in(value: Mapping[str, Any]) -> Batch | None:
    named, status = _id(value.get("id")), value.get("status")
    if named is None or not isinstance(status, str):
        return None
    files = (_id(value.get(name)) for name in ("output_file_id", "error_file_id"))
    counts, metadata = value.get("request_counts"), value.get("metadata")
    counts = counts if isinstance(counts, dict) else {}
    token = metadata.get(TOKEN) if isinstance(metadata, dict) else None
    return Batch(
        named,
        status,
        tuple(file for file in files if file is not None),
        count_of(counts.get("completed")) or 0,
        count_of(counts.get("total")) or 0,
        token if isinstance(token, str) else None,
        _problem_in(value) if status == "failed" else None,
    )


def _id(value: Any) -> str | None:
    """An identifier that can stand in a path."""
    good = isinstance(value, str) and 0 < len(value) <= 200 and all(char.isalnum() or char in "-_" for char in value)
    return value if good and value.isascii() else None


def _problem_in(value: Mapping[str, Any]) -> Fault:
    """Why a batch failed as a whole: by the first of its errors."""
    errors = value.get("errors")
    data = errors.get("data") if isinstance(errors, dict) else None
    first = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
    code, message = first.get("code"), first.get("message")
    code = code if isinstance(code, str) else ""
    kind = FaultKind.QUOTA if code == _CROWDED else FaultKind.FATAL_CONFIG
    detail = codec.printable(f"the batch was not begun: {code} {message if isinstance(message, str) else ''}")
    return Fault(kind, detail, code=codec.printable(code, 80))


def answers_in(data: bytes, answered: Callable[[Reply], Answer]) -> dict[bytes, Answer]:
    """The answers in a file of results, in whatever order, by their keys; lines that say nothing are left out.

    Of two answers to one request the first counts, and a completion goes before a fault.
    """
    found: dict[bytes, Answer] = {}
    for line in data.splitlines():
        value = json_of(line)
        key = _key_in(value.get("custom_id")) if isinstance(value, dict) else None
        if key is not None and not isinstance(found.get(key), Completion):
            answer = _answer_in(value, answered)
            if key not in found or isinstance(answer, Completion):
                found[key] = answer
    return found


def has_results(data: bytes) -> bool:
    """Whether this may be a file of results: it is empty, or has at least one line of them."""
    values = map(json_of, data.splitlines())
    return not data or any(isinstance(value, dict) and "custom_id" in value for value in values)


def _key_in(value: Any) -> bytes | None:
    try:
        key = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES else None


def _answer_in(value: Mapping[str, Any], answered: Callable[[Reply], Answer]) -> Answer:
    response = value.get("response")
    if not isinstance(response, dict):
        return _error_in(value.get("error"))
    status = response.get("status_code")
    status = status if isinstance(status, int) and not isinstance(status, bool) and 100 <= status < 600 else 200
    return answered(Reply(status, {}, codec.dumps(response.get("body"))))


def _error_in(error: Any) -> Fault:
    """The fault of a request without a response."""
    if isinstance(error, dict) and error.get("code") in NOT_RUN:
        return Fault(FaultKind.TRANSIENT, f"not worked on ({error['code']})", code=error["code"])
    if not isinstance(error, dict) or kind_of(400, error.get("code")) is FaultKind.BAD_REQUEST:
        return malformed(200, "neither a response nor an error")
    return fault_of(400, {}, {"error": error})
