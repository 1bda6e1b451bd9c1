"""What one failed attempt says of all others: go on, ask once more to be sure, or give the endpoint up."""

from __future__ import annotations

from asyncopt.calls import Call, State
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import AsyncoptError
from asyncopt.limits.rejections import Rejections
from asyncopt.values import Fault, FaultKind

_MONEY = frozenset({FaultKind.QUOTA, FaultKind.QUOTA_DAILY})
_NEVER = float("inf")


class Verdicts:
    """Judges the faults of one dispatcher that more asking does not mend. It decides; the dispatcher acts."""

    __slots__ = ("_control", "_refused_at", "_rejections", "_served")

    def __init__(self, served: dict[str, Call] | None = None) -> None:
        self._rejections = Rejections()
        self._refused_at = _NEVER
        self._served = {} if served is None else served  # by model; a pool's members know it of each other
        self._control: Call | None = None

    def served(self, call: Call) -> None:
        """An answer came: what is asked of the model can be answered."""
        self._refused_at = _NEVER
        if self._rejections:
            if call is self._control:
                self._rejections.acquit()
            self._rejections.clear()
        if call is not self._control:
            self._served[call.model] = call

    def answered_before(self, call: Call) -> None:
        """The cache has the answer: the request is a good one, whatever the server thinks of the next."""
        self._served.setdefault(call.model, call)

    def on(self, call: Call, fault: Fault, now: float) -> Fault | Call | None:
        """The fault that ends everything, or the call to ask once more before anything else, or None."""
        if fault.kind in _MONEY:
            return fault
        if fault.kind is FaultKind.FATAL_CONFIG:
            return self._refused(call, fault, now)
        if fault.kind is FaultKind.BAD_REQUEST and not fault.retry:
            return self._rejected(call, fault)
        return None

    def _refused(self, call: Call, fault: Fault, now: float) -> Fault | Call:
        """A server that refuses may be restarting, so it is asked again; redirects and certificates have no code."""
        if call.refused or call.started_at >= self._refused_at or not fault.code:
            return fault
        call.refused = True
        self._refused_at = min(self._refused_at, now)
        return call

    def _rejected(self, call: Call, fault: Fault) -> Fault | Call | None:
        """Whose fault it is: the settings' or the account's, if what was served before is now refused as well.

        A candidate that the server does not like is refused on every example in a row, and must not end the study.
        """
        if call is self._control:
            return _wrong(fault)
        asking = self._control is not None and self._control.state is not State.DONE
        if not self._rejections.add(call.key, fault.code) or asking:
            return None
        served = self._served.get(call.model)
        if served is None:
            return _wrong(fault)
        self._control = _copy(served, call)
        return self._control


def _wrong(fault: Fault) -> Fault:
    detail = f"several requests in a row were refused with {fault.code or fault.kind.value} ({fault.detail})"
    return Fault(FaultKind.FATAL_CONFIG, detail[:200], code=fault.code)


def _copy(served: Call, call: Call) -> Call:
    """The request that was served, once more, for the account and at the time of the one that was not."""
    expected = served.permits[2], served.permits[3]
    copy = Call(
        b"",
        served.model,
        served.request,
        call.priority,
        expected,
        served.price,
        served.timeout,
        0.0,
        _drop,
        _leave,
    )
    copy.payer, copy.episode = call.payer, call.episode
    return copy


def _drop(call: Call, result: Answer | AsyncoptError) -> None:
    """Nobody waits for the answer, and it takes no other's place in the cache."""


def _leave(call: Call) -> None:
    """Nobody waits for it, so nobody leaves."""
