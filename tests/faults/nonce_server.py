"""A server that answers every prompt with that prompt, and ends every tenth connection it works on, at any moment.

A connection that is ended breaks with a reset or a plain end: before the request is read, before the answer, in its
head, in its body, right behind it, or later while it is idle. One answer of some hundred never comes. It prints its URL
as a line of JSON; ``GET`` tells how many requests came, how many connections were opened and killed, and how many
requests came while another one of the same connection was not answered, which a client must never do.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
from collections import Counter

import uvloop

from asyncopt import codec

LONGEST = 0.02  # seconds until an answer
NEVER = 1 / 500
_RESET = struct.pack("ii", 1, 0)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
counts: Counter[str] = Counter()
rng = random.Random(0)


def answer(prompt: str) -> bytes:
    """A whole response whose text is the prompt, padded to random length behind it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": prompt}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9}
    body = codec.dumps({"choices": [choice], "usage": usage, "padding": "x" * rng.choice((0, 100, 9000))})
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


class Connection(asyncio.Protocol):
    """One connection; ``busy`` while a request of it has no answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""
        self.busy = False
        counts["connections"] += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if b"\r\n\r\n" not in self.buffer:
            return
        head, _, rest = self.buffer.partition(b"\r\n\r\n")
        length = int(found[1]) if (found := _LENGTH.search(head)) else 0
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        if head.startswith(b"GET"):
            body = codec.dumps(dict(counts))
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return
        self.asked(codec.loads(rest[:length])["messages"][0]["content"])

    def asked(self, prompt: str) -> None:
        counts["requests"] += 1
        counts["pipelined"] += self.busy
        self.busy = True
        doomed = not counts["requests"] % 10
        if rng.random() < NEVER:
            return
        response = answer(prompt)
        if doomed:
            counts["killed"] += 1
            end = rng.choice((0, 0, rng.randrange(60), rng.randrange(len(response)), len(response), len(response)))
            self.later(lambda: self.kill_after(response[:end]))
        elif rng.random() < 0.3:  # in two pieces
            cut = rng.randrange(len(response))
            self.later(lambda: (self.send(response[:cut], last=False), self.later(lambda: self.send(response[cut:]))))
        else:
            self.later(lambda: self.send(response))

    def later(self, act: object) -> None:
        asyncio.get_running_loop().call_later(rng.random() * LONGEST, act)

    def send(self, data: bytes, last: bool = True) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)
            if last:
                self.busy = False

    def kill_after(self, data: bytes) -> None:
        self.send(data)
        if rng.random() < 0.5:
            self.kill()
        else:
            self.later(self.kill)  # by then the next request may be on its way

    def kill(self) -> None:
        if self.transport.is_closing():
            return
        if rng.random() < 0.5:
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        else:
            self.transport.close()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(codec.dumps({"url": f"http://127.0.0.1:{port}/v1"}).decode(), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
