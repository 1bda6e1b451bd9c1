"""Streamed answers: server-sent events cut out of bytes, and put together to what the plain reply would have been.

Each format brings an :class:`Assembly`; the answer is then read by the same code as a plain reply, so a streamed
answer cannot differ from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from asyncopt.endpoints.faults import fault_of, has_error
from asyncopt.endpoints.parts import json_of
from asyncopt.endpoints.protocol import Answer, Reply
from asyncopt.values import Fault, FaultKind

LARGEST_STREAM = 8 * 2**20
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DONE = b"[DONE]"


class EventParser:
    """Cuts a byte stream into the data of its events (WHATWG HTML, section 9.2.6), in time linear in its length."""

    __slots__ = ("_at_start", "_data", "_rest", "_skip_line_feed")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._at_start = True
        self._skip_line_feed = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that these bytes complete; an event without its blank line is not complete."""
        if self._skip_line_feed and data:
            data = data.removeprefix(b"\n")  # the other half of a CRLF that was cut in two
            self._skip_line_feed = False
        if not data:
            return []
        self._skip_line_feed = data.endswith(b"\r")
        *lines, rest = _LINE_END.split(data)
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest = bytearray()
        self._rest += rest
        return [event for line in lines if (event := self._take(line))]

    def _take(self, line: bytes) -> bytes | None:
        if self._at_start:
            line, self._at_start = line.removeprefix(_BYTE_ORDER_MARK), False
        if not line:
            event, self._data = b"\n".join(self._data), []
            return event
        name, _, value = line.partition(b":")  # a comment has an empty name; event names are repeated in the data
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        return None


class Assembly(Protocol):
    """One format's reading of its events. ``complete`` once the server has said how the answer ended."""

    complete: bool

    def add(self, event: dict[str, Any]) -> bool:
        """Take the object of one event; whether it has something of the answer."""
        ...

    def body(self) -> dict[str, Any]:
        """The object of the plain reply with the same answer."""
        ...


class StreamedAnswer:
    """A :class:`~asyncopt.endpoints.protocol.StreamDecoder` for any format that comes as server-sent events.

    ``answer_of`` reads an answer out of a reply and the JSON value of its body. A reply that is no event stream, such
    as an error or the answer of a server that does not stream, is collected and read as a plain one. More than
    8 MiB are refused, and kept by nobody.
    """

    def __init__(self, reply: Reply, assembly: Assembly, answer_of: Callable[[Reply, Any], Answer]) -> None:
        self._reply = reply
        self._assembly = assembly
        self._answer_of = answer_of
        kind = reply.headers.get("content-type", "").strip().lower()
        self._streamed = 200 <= reply.status < 300 and kind.startswith("text/event-stream")
        self._parser = EventParser()
        self._plain = bytearray()
        self._size = 0
        self._begun = False
        self._done = False
        self._end: Answer | None = None

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; whether the answer has begun."""
        self._size += len(data)
        if self._size > LARGEST_STREAM:
            self._plain.clear()
            self._stop(Fault(FaultKind.MALFORMED, f"the answer is larger than {LARGEST_STREAM} bytes"))
        if self._end is None and not self._done:
            if self._streamed:
                for event in self._parser.feed(data):
                    self._take(event)
            else:
                self._plain += data  # an error, or an answer that comes as a whole: neither begins
        return self._begun

    def finish(self) -> Answer:
        """The completion or fault; without the server's word that the answer is whole it is a fault.

        That fault is AMBIGUOUS, as of a connection that breaks: the request was accepted, and is perhaps billed.
        """
        if self._end is not None:
            return self._end
        if not self._streamed:
            reply = replace(self._reply, body=bytes(self._plain))
            return self._answer_of(reply, json_of(reply.body))
        if not (self._done or self._assembly.complete):
            return Fault(FaultKind.AMBIGUOUS, "the stream ended before the answer did")
        return self._answer_of(self._reply, self._assembly.body())

    def _take(self, data: bytes) -> None:
        if self._end is not None or self._done:
            return
        if data.strip() == _DONE:
            self._done = True
            return
        event = json_of(data)
        if event is None:
            self._stop(Fault(FaultKind.MALFORMED, "an event of the stream is not JSON"))
        elif has_error(event):
            self._stop(fault_of(self._reply.status, self._reply.headers, event))
        elif isinstance(event, dict) and self._assembly.add(event):
            self._begun = True

    def _stop(self, end: Answer) -> None:
        self._end = end
