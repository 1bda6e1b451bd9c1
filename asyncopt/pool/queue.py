"""The one queue of all members: by priority, then in order of arrival; a call that failed passes its member by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncopt.callqueue import CallQueue
from asyncopt.calls import Call, State


class PoolQueue(CallQueue):
    """A queue that looks different to each member: calls that have just failed at the one ``asking`` are not in it.

    They stand aside with their age until another member takes them, or until their time to ask that one again.
    """

    __slots__ = ("_aside", "_found", "asking")

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[], None]) -> None:
        super().__init__(loop, due)
        self.asking: object = None
        self._aside: dict[Call, None] = {}
        self._found: Call | None = None  # of those that stand aside, what :meth:`head` has just given

    def __len__(self) -> int:
        return super().__len__() + len(self._aside)

    @property
    def ready(self) -> bool:
        """Whether a call waits for anything but the time of its retry."""
        return bool(self._aside) or super().ready

    def push(self, call: Call) -> None:
        """Put a call into its turn; one that has been here before gets its old place back."""
        if call.avoids and call.order >= 0:
            self._aside[call] = None
        else:
            super().push(call)

    def head(self) -> Call | None:
        """The call whose turn it is at the member that asks; it stays."""
        head = super().head()
        self._found = None
        if self._aside:
            now = self._loop.time()
            for call in self._aside:
                earlier = head is None or (call.priority, call.order) < (head.priority, head.order)
                if earlier and (call.avoids or {}).get(self.asking, now) <= now:
                    head = self._found = call
        return head

    def pop(self) -> None:
        """Remove the call that :meth:`head` has just given."""
        if self._found is None:
            super().pop()
        else:
            del self._aside[self._found]
            self._found = None

    def withdraw(self, call: Call) -> None:
        """Forget a call that nobody waits for any more."""
        if call in self._aside:
            del self._aside[call]
            call.state = State.DONE
        else:
            super().withdraw(call)

    def clear(self) -> list[Call]:
        """Empty the queue; returns the calls that were in it."""
        waiting = [*super().clear(), *self._aside]
        self._aside.clear()
        return waiting
