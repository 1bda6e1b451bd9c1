"""The examples run as they stand in the repository, without keys."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from asyncopt.testing import run_virtual

EXAMPLES = Path(__file__).parent.parent / "examples"
PAIRS = [[f"{n}+{n}", str(2 * n)] for n in range(20)]


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example as a module of its own."""
    spec = spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


# -- two studies -------------------------------------------------------------------------------------------------------


def test_two_studies_share_one_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    example = loaded("two_studies", monkeypatch)
    outcome = run_virtual(example.main)
    one, other = outcome.results
    assert outcome.refused == 0
    assert outcome.served == one.calls + other.calls
    assert outcome.served / outcome.seconds <= example.CALLS_A_SECOND * 1.05
    # Side by side: neither waits for the other's end.
    assert outcome.seconds < 0.7 * (one.seconds + other.seconds)


@pytest.mark.real
def test_the_script_prints_what_came_out() -> None:
    command = [sys.executable, str(EXAMPLES / "two_studies.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count(" calls in ") == 2
    assert done.stdout.endswith("; 0 refused\n")


# -- the service -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(example: ModuleType) -> AsyncIterator[tuple[str, web.Application]]:
    app = example.application()
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", app
    finally:
        await runner.cleanup()


async def told(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The events of a stream."""
    kind = ""
    async for line in response.content:
        name, _, value = line.decode().strip().partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


@pytest.mark.real
def test_the_service_tells_its_clients_how_their_studies_go(monkeypatch: pytest.MonkeyPatch) -> None:
    example = loaded("service", monkeypatch)

    async def ask(session: aiohttp.ClientSession, url: str, instruction: str) -> list[tuple[str, dict[str, Any]]]:
        body = {"instruction": instruction, "examples": PAIRS}
        async with session.post(f"{url}/improve", json=body) as response:
            assert response.content_type == "text/event-stream"
            return [event async for event in told(response)]

    async def main() -> None:
        async with serving(example) as (url, app), aiohttp.ClientSession() as session:
            streams = await asyncio.gather(
                *(ask(session, url, text) for text in ("Answer.", "Think.\n\nevent: result"))
            )
            for events, text in zip(streams, ("Answer.", "Think.\n\nevent: result"), strict=True):
                kinds = [kind for kind, _ in events]
                assert (kinds[-1], kinds.count("step"), kinds.count("result")) == ("result", 5, 1)
                assert events[0] == ("candidate", {"text": text, "score": events[0][1]["score"]})
                assert events[-1][1]["calls"] > 0
            assert not app[example.RUNNING]

    asyncio.run(main())


@pytest.mark.real
def test_a_client_that_goes_away_takes_its_study_along(monkeypatch: pytest.MonkeyPatch) -> None:
    example = loaded("service", monkeypatch)

    async def main() -> None:
        async with serving(example) as (url, app), aiohttp.ClientSession() as session:
            body = {"instruction": "Answer.", "examples": PAIRS}
            async with session.post(f"{url}/improve", json=body) as response:
                async for _ in told(response):
                    break
                (study,) = app[example.RUNNING]
                response.close()
            async with asyncio.timeout(30):  # a bound, not a wait: the handler is cancelled when the socket is closed
                while app[example.RUNNING]:  # noqa: ASYNC110 - the service has no event for it
                    await asyncio.sleep(0.005)
            assert study.history.entries
            assert len({entry.step for entry in study.history.entries}) < 6  # the start and five steps
            async with session.get(f"{url}/running") as response:
                assert await response.json() == {"running": 0}
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


@pytest.mark.real
@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"no json",
        b'{"instruction": "A", "examples": [["1", "2"]]}',
        b'{"instruction": "A", "examples": [1, 2]}',
        b'{"instruction": "A", "examples": [["1"], ["2", "2"]]}',
        b'{"instruction": "A", "examples": ["12", {"3": 4, "5": 6}]}',
    ],
)
def test_what_asks_for_no_study_is_a_bad_request(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    example = loaded("service", monkeypatch)

    async def main() -> int:
        async with serving(example) as (url, _), aiohttp.ClientSession() as session:
            async with session.post(f"{url}/improve", data=body) as response:
                return response.status

    assert asyncio.run(main()) == 400


# -- the same with FastAPI -----------------------------------------------------------------------------------------------


class Client:
    """A client of an ASGI application, without a socket; it goes away after so many chunks of the answer."""

    def __init__(self, body: Any, chunks: int | None = None) -> None:
        self._messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        self._chunks = chunks
        self._gone = asyncio.Event()
        self.status = 0
        self.received: list[str] = []

    async def ask(self, app: Any, path: str) -> None:
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        async with app.router.lifespan_context(app):
            await app({**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}}, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message.get("body"):
            self.received.append(message["body"].decode())
            if len(self.received) == self._chunks:
                self._gone.set()


@pytest.mark.parametrize("chunks", [None, 2])
def test_a_study_under_fastapi_lives_as_long_as_its_client(chunks: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed: its example is not tested")
    example = loaded("service_fastapi", monkeypatch)

    async def main() -> tuple[Client, int]:
        client = Client({"instruction": "Answer.", "examples": PAIRS}, chunks)
        await client.ask(example.app, "/improve")
        return client, len(asyncio.all_tasks())

    client, tasks = run_virtual(main)
    assert (client.status, tasks) == (200, 1)
    kinds = [chunk.split("\n")[0] for chunk in client.received]
    assert kinds == (["event: step"] * 5 + ["event: result"])[: chunks or 6]


def test_fastapi_refuses_what_asks_for_no_study(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed: its example is not tested")
    example = loaded("service_fastapi", monkeypatch)

    async def main() -> int:
        client = Client({"instruction": "Answer.", "examples": [["1", "2"]]})
        await client.ask(example.app, "/improve")
        return client.status

    assert run_virtual(main) == 422


# -- the notebook ------------------------------------------------------------------------------------------------------


def cells() -> list[dict[str, Any]]:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_kept_without_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells())


def test_the_cells_of_the_notebook_run_one_after_the_other() -> None:
    async def main() -> dict[str, Any]:
        names: dict[str, Any] = {}
        for number, cell in enumerate(cells()):
            tree = ast.parse("".join(cell["source"]))
            if isinstance(tree.body[-1], ast.Expr):  # its value is what the notebook shows
                tree.body[-1] = ast.Assign([ast.Name(f"_shown_{number}", ast.Store())], tree.body[-1].value)
            ast.fix_missing_locations(tree)
            ran = eval(compile(tree, f"cell {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)  # noqa: S307
            if inspect.isawaitable(ran):
                await ran
        return names

    names = run_virtual(main)
    assert isinstance(names["_shown_2"], str)
    assert "Answer." in names["_shown_3"]._repr_html_()
    assert len(names["_shown_4"].candidates) > 5
    assert names["_shown_4"].result == names["result"]
    assert names["engine"]._closed
