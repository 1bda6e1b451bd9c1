"""Chat requests as a client would write them, and server processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from asyncopt import codec
from asyncopt.endpoints.protocol import Reply


def body_of(prompt: str, **parameters: object) -> bytes:
    return codec.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], **parameters})


def text_of(reply: Reply) -> str:
    assert reply.status == 200, reply.body
    return codec.loads(reply.body)["choices"][0]["message"]["content"]


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """A server process and its line of JSON."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()
