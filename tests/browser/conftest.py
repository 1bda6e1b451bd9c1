"""The browser's tests need a browser; where there is none they say so."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("looking_at")

from chromium import program  # noqa: E402 - after what it asserts is rewritten


@pytest.fixture(autouse=True)
def _browser() -> None:
    if program() is None:
        pytest.skip("no Chromium is installed (apt-get install chromium): the pages are not opened in a browser")
