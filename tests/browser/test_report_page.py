"""The report in a browser, opened from disk: of a run that goes on with hostile texts, and of several side by side."""

from __future__ import annotations

import asyncio
from pathlib import Path

import hostile
import pytest
from chromium import Tab, browsing
from looking_at import PICTURES, SCREENS, check, check_keyboard, press_everything, said, status, studying
from recorded import Toy, recorded

pytestmark = [pytest.mark.real, pytest.mark.browser]

CARRIED = "JSON.parse(document.getElementById('data').textContent)"


async def until_step(folder: Path, step: int) -> None:
    """Wait for a run that goes on to have finished so many steps."""
    async with asyncio.timeout(60):
        address = folder / "runs/one/ctl.json"
        while not address.exists() or (await status(folder))["step"] < step:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.1)


def only_this_file(tab: Tab, report: Path) -> bool:
    return all(one.partition("#")[0] == report.as_uri() or one.startswith("data:") for one in tab.requests)


@pytest.mark.anyio
async def test_a_report_is_read_while_its_run_goes_on(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    async with studying(tmp_path, steps=200), browsing(tmp_path / "profile") as tab:
        await until_step(tmp_path, 2)
        await said(tmp_path, "report", "runs/one", "-o", str(report))
        for number, (width, height, theme) in enumerate(SCREENS):
            await tab.screen(width, height, theme)
            await tab.open(report.as_uri())
            await tab.picture(PICTURES / f"report-{width}-{theme}-top.png")
            await press_everything(tab, width, (await tab.evaluate(CARRIED))["documents"][0])
            await tab.picture(PICTURES / f"report-{width}-{theme}.png")
            if number in (0, 2):
                await check_keyboard(tab)
            assert await tab.evaluate("document.querySelector('.controls') === null")
        assert (await status(tmp_path))["state"] == "running"
    assert only_this_file(tab, report)


async def look_at_comparison(folder: Path, report: Path) -> None:
    await said(folder, "report", "a", "b", "-o", str(report))
    async with browsing(folder / "profile") as tab:
        for width, height, theme in SCREENS:
            await tab.screen(width, height, theme)
            await tab.open(report.as_uri())
            await check(tab, width)
            await tab.picture(PICTURES / f"comparison-{width}-{theme}.png")
            for place, name in enumerate(("a", "b")):
                await tab.click("#comparison button", place)
                await tab.until(f"document.querySelector('main .facts').textContent.includes('directory {name}')")
                await check(tab, width)
        await check_keyboard(tab)
    assert only_this_file(tab, report)


def test_runs_are_compared(tmp_path: Path) -> None:
    recorded(tmp_path / "a", Toy(tuple(hostile.SHORT.values())))
    recorded(tmp_path / "b", Toy(tuple(reversed(hostile.SHORT.values()))), seed=1)
    asyncio.run(look_at_comparison(tmp_path, tmp_path / "report.html"))
