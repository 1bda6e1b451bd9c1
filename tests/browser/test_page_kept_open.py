"""The live page that stays open while runs begin and go on, while windows change, and while its server is restarted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chromium import browsing
from looking_at import asyncopt, check, page_of, studying

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.anyio]

STEPS = "document.querySelectorAll('#scores .figures tbody tr').length"
DETAIL = "document.querySelector('.candidates .detail button')"
LETTERS = "document.querySelector('#latency text').getBoundingClientRect().height"
CONNECTION = "document.querySelector('.connection').textContent"


async def test_a_page_shows_what_begins_and_changes_after_it_was_opened(tmp_path: Path) -> None:
    async with page_of(tmp_path) as url, browsing(tmp_path / "profile") as tab:
        await tab.screen(1280, 800, "light")
        await tab.open(url)
        await tab.until(
            "document.querySelector('.warning:not([hidden])')?.textContent === 'There are no runs here yet.'"
        )
        async with studying(tmp_path, steps=200):
            await tab.until("document.querySelector('h1').textContent.includes('own')")
            assert await tab.evaluate("document.querySelector('.warning:not([hidden])')") is None
            # Figures that somebody reads as a table are those of now.
            await tab.until("document.querySelectorAll('.candidates button.row').length > 5")
            await tab.click("#scores summary")
            seen = await tab.until(STEPS)
            await tab.until(f"{STEPS} > {seen}")
            await tab.click("#latency summary")
            calls = await tab.until("document.querySelector('#latency tbody')?.textContent")
            await tab.until(f"document.querySelector('#latency tbody').textContent !== {calls!r}")
            assert await tab.evaluate("document.querySelector('#latency details').open")
            # Whoever is in the lineage of a candidate is there still when others are tried.
            await tab.click(".candidates button.row", 3)
            await tab.until(f"{DETAIL} !== null")
            tried = await tab.evaluate(f"{DETAIL}.focus(), document.querySelector('.tiles').textContent")
            await tab.until(f"document.querySelector('.tiles').textContent !== {tried!r}")
            assert await tab.evaluate("document.activeElement.closest('.candidates .detail') !== null")
            # A phone that is turned has letters of the same size.
            before = await tab.evaluate(LETTERS)
            await tab.screen(390, 844, "light")
            await tab.until(f"Math.abs({LETTERS} - {before}) < 1")
            await check(tab, 390)


async def test_a_page_says_why_a_server_that_was_started_again_does_not_let_it_in(tmp_path: Path) -> None:
    async with studying(tmp_path, steps=200), browsing(tmp_path / "profile") as tab:
        await tab.screen(1280, 800, "light")
        async with page_of(tmp_path) as url:
            await tab.open(url)
            await tab.until(f"{CONNECTION} === 'connected'")
        await tab.until(f"{CONNECTION} === 'connection lost, trying again'")
        port = url.partition("?")[0].rstrip("/").rpartition(":")[2]
        again = await asyncopt(tmp_path, "view", "runs", "--json", "--port", port)
        try:
            assert again.stdout is not None
            address = json.loads(await again.stdout.readline())["url"]
            await tab.until(f"{CONNECTION} === 'not let in: open the address that asyncopt view printed last'")
            await tab.open(address)
            await tab.until(f"{CONNECTION} === 'connected'")
        finally:
            again.terminate()
            await again.communicate()
