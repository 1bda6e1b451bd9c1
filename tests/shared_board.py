"""A coordinator for engines of one loop: the real board behind no socket, which can be lost and found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from asyncopt.shared import Beat, SharingFailed
from asyncopt.shared.board import Board
from asyncopt.shared.gcra import fresh_seconds
from asyncopt.values import Dimension


class Boards:
    """The place that all coordinators of a test speak to; ``board`` is None while it is lost."""

    def __init__(self) -> None:
        self.board: Board | None = Board()
        self.asked = 0

    def coordinator(self, worker: str) -> OfBoard:
        return OfBoard(self, worker)


class OfBoard:
    """One worker's way to the board."""

    def __init__(self, boards: Boards, worker: str) -> None:
        self._boards = boards
        self._worker = worker
        self._workers = (1, 1)  # as the last two beats said
        self._taken: set[tuple[str, Dimension]] = set()

    def _board(self) -> tuple[Board, float]:
        self._boards.asked += 1
        if self._boards.board is None:
            raise SharingFailed("nobody answers")
        return self._boards.board, asyncio.get_running_loop().time()

    async def take(self, quota: str, dimension: Dimension, amount: float, rate: float, bucket: float) -> float:
        board, now = self._board()
        fresh = fresh_seconds(max(self._workers) if (quota, dimension) in self._taken else 1, amount, rate)
        self._taken.add((quota, dimension))
        return board.buckets.take(now, quota, dimension, amount, rate, bucket, fresh)

    async def give_back(self, quota: str, dimension: Dimension, amount: float, rate: float) -> None:
        board, _ = self._board()
        board.buckets.give_back(quota, dimension, amount, rate)

    async def pause(self, quota: str, seconds: float) -> None:
        board, now = self._board()
        board.buckets.pause(now, quota, seconds)

    async def beat(self, quotas: Sequence[str]) -> Beat:
        board, now = self._board()
        beat = board.beat(now, self._worker, quotas)
        self._workers = self._workers[1], beat.workers
        return beat

    async def claim(self, keys: Sequence[bytes]) -> list[bool]:
        board, now = self._board()
        return board.claim(now, self._worker, keys)

    async def release(self, keys: Sequence[bytes]) -> None:
        board, _ = self._board()
        board.release(self._worker, keys)

    async def aclose(self) -> None:
        board, _ = self._board()
        board.leave(self._worker)
