"""The live page in a browser, while a study with hostile texts runs: everything on it is pressed, on four screens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chromium import Tab, browsing
from looking_at import (
    PICTURES,
    SCREENS,
    check,
    check_keyboard,
    page_of,
    press_everything,
    status,
    studying,
)  # fmt: skip

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.anyio]

MANY = "parseInt((checks.texts('#candidates > div > button.small')[0] ?? '').slice(9)) >= 56"  # Show all 56
CONTROLS = ".controls:not([hidden])"


async def document(tab: Tab) -> dict[str, Any]:
    """The document of the run that the page shows."""
    found = await tab.evaluate(
        "fetch('api/runs').then((a) => a.json()).then((runs) => fetch('api/runs/' + runs[0].id)).then((a) => a.json())"
    )
    return dict(found)


async def button(tab: Tab, text: str) -> None:
    """Press the control with this text."""
    place = await tab.until(f"1 + checks.texts('.controls button').indexOf({text!r})")
    await tab.click(".controls button", place - 1)


async def pausing(tab: Tab, folder: Path) -> None:
    """Pause the run by its button, and see that it is."""
    await button(tab, "Pause")
    await tab.until("document.querySelector('.controls').textContent.includes('paused')")
    assert (await status(folder))["state"] == "paused"


async def resuming(tab: Tab, folder: Path, concurrency: int) -> None:
    """Let the run go on, with other concurrency."""
    await tab.click("#concurrency")
    await tab.evaluate("document.querySelector('#concurrency').select()")
    await tab.type(str(concurrency))
    await button(tab, "Set")
    await tab.until(f"document.querySelector('.controls').textContent.includes('at most {concurrency}')")
    await button(tab, "Resume")
    await tab.until("checks.texts('.controls button').includes('Pause')")
    found = await status(folder)
    assert (found["state"], [one["concurrency"] for one in found["endpoints"]]) == ("running", [concurrency])


async def test_a_run_is_watched_and_steered(tmp_path: Path) -> None:
    async with studying(tmp_path, steps=200), page_of(tmp_path) as url, browsing(tmp_path / "profile") as tab:
        for number, (width, height, theme) in enumerate(SCREENS):
            await tab.screen(width, height, theme)
            await tab.open(url)
            await tab.until(f"document.querySelector('{CONTROLS}') !== null")
            await tab.until(MANY)
            await pausing(tab, tmp_path)
            await tab.evaluate("new Promise((done) => setTimeout(done, 1500))")  # for what is under way to be shown
            shown = await document(tab)
            await tab.picture(PICTURES / f"live-{width}-{theme}-top.png")
            await press_everything(tab, width, shown)
            await tab.picture(PICTURES / f"live-{width}-{theme}.png")
            if number in (0, 2):
                await check_keyboard(tab)
            await resuming(tab, tmp_path, 31 + number)
            await tab.click(".theme")
            await check(tab, width)
            await tab.evaluate("localStorage.clear()")
        await button(tab, "Stop")
        await button(tab, "Yes, stop")
        await tab.until("document.querySelector('.state').textContent === 'stopped'")
        await tab.until("document.querySelector('.controls').hidden")
        await check(tab, width)
        assert [one for one in tab.requests if not one.startswith((url.partition("?")[0], "data:"))] == []
