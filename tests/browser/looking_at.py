"""What must hold of a page on every screen, and the study that is watched while it runs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import hostile
import orjson
from aiohttp import web
from chromium import Tab
from served import good, serving

from asyncopt import codec

SCREENS = [(1280, 800, "light"), (1280, 800, "dark"), (390, 844, "light"), (390, 844, "dark")]
PICTURES = Path(__file__).parents[2] / "build" / "screens"
TEXTS = [
    *hostile.SHORT.values(),
    hostile.EVERYTHING,
    "word" * 400,
    "A plain instruction of a usual length, for a change.",
]
SECONDS = 0.1  # that an answer takes: long enough for a run that is watched


async def check(tab: Tab, width: int) -> None:
    """Nothing is wrong with the page as it is now."""
    assert await tab.evaluate("checks.overlaps()") == []
    assert await tab.evaluate(f"checks.tooWide({width})") is None
    assert await tab.evaluate("checks.strangers()") == []
    assert await tab.evaluate("checks.nodesInTexts()") == []
    assert tab.complaints == []


async def check_keyboard(tab: Tab) -> None:
    """Tab reaches every control, and says where it is."""
    await tab.evaluate("document.activeElement.blur(); scrollTo({top: 0, behavior: 'instant'})")
    wanted = dict(await tab.evaluate("checks.reachable()"))
    seen: dict[int, Any] = {}
    for _ in range(len(wanted) + 20):
        await tab.press("Tab")
        focus = await tab.evaluate("checks.focus()")
        if focus is not None:
            seen[focus["place"]] = focus
    assert [what for place, what in wanted.items() if place not in seen] == []
    assert [one["what"] for one in seen.values() if not one["seen"]] == []


async def check_texts(tab: Tab, document: dict[str, Any]) -> None:
    """Every candidate is there as it was written."""
    wanted = sorted(one["text"] for one in document["candidates"])
    # No button cuts them, and the whole text of each is in its detail.
    shown = await tab.evaluate("checks.texts('.candidates button.row')")
    assert sorted(shown) == sorted(text[:300] or "(empty)" for text in wanted)


async def press_everything(tab: Tab, width: int, shown: dict[str, Any]) -> None:
    """Open what can be opened, and see that nothing is wrong then."""
    for place in range(await tab.evaluate("document.querySelectorAll('nav a').length")):
        await tab.click("nav a", place)
    for place in range(await tab.evaluate("document.querySelectorAll('#scores .choice button').length")):
        await tab.click("#scores .choice button", place)
        assert await tab.evaluate(f"document.querySelectorAll('#scores .choice button')[{place}].ariaPressed") == "true"
    for place in range(await tab.evaluate("document.querySelectorAll('summary').length")):
        if await tab.evaluate(f"document.querySelectorAll('summary')[{place}].checkVisibility()"):
            await tab.click("summary", place)
    await tab.evaluate(
        "document.querySelectorAll('#candidates > div > button.small:not([hidden])').forEach((b) => b.click())"
    )
    await check_texts(tab, shown)
    await tab.click(".candidates button.row", 1)
    await tab.click(".candidates button.row", 0)
    (first, second) = await tab.evaluate("checks.texts('.candidates .detail .whole > .theirs')")
    assert [first, second] == [one["text"] or "(empty)" for one in shown["candidates"][:2]]
    await check(tab, width)
    await open_cell(tab, shown)
    await check(tab, width)


async def open_cell(tab: Tab, shown: dict[str, Any]) -> None:
    """Open the first cell of the matrix that was asked for, and read its prompt and its answer."""
    place = next(place for place, sign in enumerate(shown["matrix"]["cells"][0]) if sign in "09")
    await tab.click("td.cell", place)
    await tab.until("document.querySelectorAll('.panel .said').length >= 2")
    (prompt, *_) = await tab.evaluate("checks.texts('.panel .said .theirs')")
    best = shown["candidates"][shown["matrix"]["rows"][0]]["text"]
    assert best in prompt


class SlowModel:
    """Proposes and answers the whole corpus, now and then with a refusal, and takes its time."""

    def __init__(self) -> None:
        self._proposed = 0

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.Response(status=404)
        prompt = orjson.loads(await request.read())["messages"][-1]["content"]
        number = sum(prompt.encode())
        await asyncio.sleep(SECONDS * (1 + number % 5) / 2)
        if "square brackets" in prompt:
            self._proposed += 1
            return self._saying(f"[{self._proposed} {TEXTS[self._proposed % len(TEXTS)]}]")
        if number % 11 == 0:
            message = {"error": {"message": hostile.EVERYTHING, "code": "content_filter"}}
            return web.Response(status=400, body=codec.dumps(message), content_type="application/json")
        return self._saying(f"{TEXTS[number % len(TEXTS)]} {'yes' if number % 3 else 'no'}")

    def _saying(self, text: str) -> web.Response:
        return web.Response(body=good(codec.clean(text)), content_type="application/json")


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ASYNCOPT_"))}
    return kept | {"ASYNCOPT_CACHE_DIR": str(folder / "cache"), "OPENAI_API_KEY": "sk-canary-0123456789abcdef"}


async def asyncopt(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    """The command as a child, in this folder."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "asyncopt", *arguments, cwd=folder, env=environment(folder),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip


async def said(folder: Path, *arguments: str) -> str:
    """What a command prints."""
    process = await asyncopt(folder, *arguments)
    out, _ = await process.communicate()
    return out.decode()


async def status(folder: Path) -> dict[str, Any]:
    """What the run itself says of its state."""
    return dict(json.loads(await said(folder, "ctl", "runs/one", "status", "--json")))


def own_task(folder: Path) -> None:
    """A task whose rows and name are hostile."""
    rows = [{"input": f"{number} {text}", "target": "yes"} for number, text in enumerate(hostile.SHORT.values())]
    (folder / "own <b>task.jsonl").write_bytes(b"\n".join(codec.dumps(row) for row in rows))


@asynccontextmanager
async def studying(folder: Path, steps: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A study that goes on in the folder's ``runs/one``."""
    own_task(folder)
    async with serving(SlowModel().answer) as url:
        models = ["--scorer", "model <i>x</i>", "--base-url", url, "--limit", "12"]
        settings = ["--set", "models.scorer.concurrency=30", "--set", "optimizer.validate_every=2"]
        run = ["run", "own <b>task.jsonl", *models, *settings, "--steps", str(steps), "--directory", "runs/one"]
        process = await asyncopt(folder, *run, "--display", "none")
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.communicate()


@asynccontextmanager
async def page_of(folder: Path) -> AsyncIterator[str]:
    """The address of the live page of the folder's runs."""
    (folder / "runs").mkdir(exist_ok=True)
    process = await asyncopt(folder, "view", "runs", "--json")
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())["url"]
    finally:
        process.terminate()
        await process.communicate()
