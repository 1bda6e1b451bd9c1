"""Every row of the matrix has a test here, or a reason in docs/reliability.md why it has none."""

from __future__ import annotations

import re
from pathlib import Path

from rows import NOT_TESTED, ROWS

HERE = Path(__file__).parent


def test_every_row_has_a_test_or_a_reason() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py"))
    marked = {
        number for marks in re.findall(r"mark\.row\(([^)]*)\)", sources) for number in re.findall(r"\w\d\d", marks)
    }
    assert marked.isdisjoint(NOT_TESTED)
    assert marked | set(NOT_TESTED) == set(ROWS)


def test_the_reasons_are_in_the_documentation() -> None:
    text = (HERE.parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [number for number, reason in NOT_TESTED.items() if number not in text or reason not in text] == []
