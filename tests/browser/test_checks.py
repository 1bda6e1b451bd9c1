"""The checks of pages find what they look for, on a page that has all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from chromium import Tab, browsing
from looking_at import check, check_keyboard

pytestmark = [pytest.mark.real, pytest.mark.browser]

GOOD = "<!doctype html><title>x</title><link rel=icon href=data:,><main><p>One line.<p>Two <b>lines</b>.<p><button>Press</button></main>"
DEFECTS = {
    "texts over each other": "<p style='position:absolute;top:0;left:0'>Over here<p style='position:absolute;top:4px;left:4px'>Over there",
    "a text over a control": "<button style='position:absolute;top:300px;left:0'>Press</button><p style='position:absolute;top:290px;left:0'>Over it",
    "a page that is too wide": "<div style='width:3000px;height:9px'></div>",
    "an element of a text": "<span class=theirs>a<i>b</i></span>",
    "an image": "<img alt='' src=data:,>",
    "a handler": "<p onclick=x>a",
    "an error": "<script>null.x</script>",
    "an error that is logged": "<script>console.error('x')</script>",
    "a refusal of the policy": "<meta http-equiv=Content-Security-Policy content=\"img-src 'none'\"><svg><image href='https://evil.example/x'/></svg>",
}
BAD_CONTROLS = {
    "focus that nobody sees": "<button style='outline:none'>Press</button>",
    "a control out of reach": "<div tabindex=-1><button onfocus='this.blur()'>Press</button></div>",
}


def on(folder: Path, html: str, look: Callable[[Tab], Awaitable[Any]]) -> None:
    async def main() -> None:
        (folder / "page.html").write_text(html)
        async with browsing(folder / "profile") as tab:
            await tab.screen(1280, 800, "light")
            await tab.open((folder / "page.html").as_uri())
            await look(tab)

    asyncio.run(main())


async def _look(tab: Tab) -> None:
    await check(tab, 1280)
    await check_keyboard(tab)


def test_a_good_page_passes(tmp_path: Path) -> None:
    on(tmp_path, GOOD, _look)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found(name: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        on(tmp_path, GOOD + DEFECTS[name], lambda tab: check(tab, 1280))


@pytest.mark.parametrize("name", BAD_CONTROLS)
def test_a_control_that_cannot_be_used_is_found(name: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        on(tmp_path, GOOD + BAD_CONTROLS[name], check_keyboard)
