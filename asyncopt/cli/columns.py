"""Tables of text for a terminal."""

from __future__ import annotations

from collections.abc import Container, Sequence


def aligned(table: Sequence[Sequence[str]], left: Container[int]) -> list[str]:
    """The cells in columns; those of the columns in ``left`` begin at one place, all others end at one."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def padded(number: int, cell: str) -> str:
        return cell.ljust(widths[number]) if number in left else cell.rjust(widths[number])

    return ["  ".join(padded(number, cell) for number, cell in enumerate(cells)).rstrip() for cells in table]
