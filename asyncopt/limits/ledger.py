"""One budget for several processes of a machine: what all of them have spent and set aside, in a small locked file."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncopt.limits.budget import Account, Budget
from asyncopt.values import Usage

try:
    import fcntl
except ImportError:  # elsewhere a sweep has one worker
    fcntl = None  # type: ignore[assignment]

_FORM = struct.Struct("<qqqddd")  # calls, tokens in and out, dollars; tokens and dollars set aside


class Ledger:
    """The sums in the file ``path``, which :meth:`begin` has made; whoever changes them has the file's lock.

    The system frees the lock when its holder dies. What a process had set aside then stays so: it may have been spent.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    @staticmethod
    def begin(path: Path, spent: Account) -> None:
        """Make the file anew, with what was spent before."""
        path.unlink(missing_ok=True)  # whoever still has the old one keeps to that
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, _packed(spent))
        finally:
            os.close(file)

    @contextmanager
    def changing(self, budget: Budget) -> Iterator[Account]:
        """The account of all processes under this budget; what it is when the block ends is what it is from then on."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            whole = _unpacked(os.pread(self._file, _FORM.size, 0), budget)
            yield whole
            os.pwrite(self._file, _packed(whole), 0)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)


def _packed(whole: Account) -> bytes:
    spent = (whole.calls, whole.input_tokens, whole.output_tokens, whole.usd)
    return _FORM.pack(*spent, *whole.reserved)


def _unpacked(content: bytes, budget: Budget) -> Account:
    whole = Account(budget)
    calls, whole.input_tokens, whole.output_tokens, whole.usd, tokens, usd = _FORM.unpack(content)
    whole.set_aside(calls, tokens, usd)
    return whole


class SharedAccount(Account):
    """The account of one process that spends a budget together with others; its own counts are of its own calls.

    Who asks whether a call is affordable has its cost set aside in the ledger at once, so that no other process spends
    it before the call starts. That is the next call's if this one does not start.
    """

    __slots__ = ("_held", "_ledger")

    def __init__(self, budget: Budget, ledger: Ledger) -> None:
        super().__init__(budget)
        self._ledger = ledger
        self._held: tuple[int, float, float] | None = None  # calls, tokens, dollars

    def exhausted(self, tokens: float = 0.0, usd: float = 0.0, calls: int = 1) -> str | None:
        wanted = (calls, tokens, usd)
        if self._held == wanted:
            return None
        with self._ledger.changing(self.budget) as whole:
            self._let_go(whole)
            reason = whole.exhausted(tokens, usd, calls)
            if reason is None:
                whole.set_aside(*wanted)
                self._held = wanted
        return reason

    def reserve(self, tokens: float, usd: float) -> None:
        super().reserve(tokens, usd)
        if self._held == (1, tokens, usd):
            self._held = None
            return
        with self._ledger.changing(self.budget) as whole:
            held = self._held
            self._let_go(whole)
            whole.reserve(tokens, usd)
            if held is not None and held[0] > 1:  # of several that were set aside together
                self._held = rest = (held[0] - 1, max(held[1] - tokens, 0.0), max(held[2] - usd, 0.0))
                whole.set_aside(*rest)

    def put_back(self, tokens: float, usd: float) -> None:
        super().put_back(tokens, usd)
        with self._ledger.changing(self.budget) as whole:
            whole.put_back(tokens, usd)

    def settle(self, tokens: float, usd: float, usage: Usage, paid: float) -> None:
        super().settle(tokens, usd, usage, paid)
        with self._ledger.changing(self.budget) as whole:
            whole.settle(tokens, usd, usage, paid)

    def close(self) -> None:
        """Give back what is set aside for a call that never started."""
        with self._ledger.changing(self.budget) as whole:
            self._let_go(whole)
        self._ledger.close()

    def _let_go(self, whole: Account) -> None:
        if self._held is not None:
            calls, tokens, usd = self._held
            whole.set_aside(-calls, -tokens, -usd)
            self._held = None
