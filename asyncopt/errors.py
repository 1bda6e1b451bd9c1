"""Errors that say what was found, what was wanted and what to do. Each knows the exit code of the command line."""

from __future__ import annotations

import math
from typing import ClassVar

from asyncopt.values import Fault, FaultKind


class AsyncoptError(Exception):
    """The base of everything this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigError(AsyncoptError):
    """A setting, a name or a key is missing or wrong; nothing was sent."""

    exit_code = 2


class DataError(ConfigError):
    """A data file is missing, or a line of it cannot be used."""


class MissingCapability(ConfigError):
    """The endpoint cannot answer what was about to be asked."""


class BudgetExhausted(AsyncoptError):
    """The study may not spend more; it can be resumed with a larger budget."""

    exit_code = 3


class StorageFailed(AsyncoptError):
    """The disk is full or broken; what is in the run directory is whole, and the study can be resumed."""

    exit_code = 3

    @classmethod
    def at(cls, path: object, error: OSError) -> StorageFailed:
        """The error for a file that the system did not take."""
        return cls(f"{path} cannot be written ({error.strerror}); make room and resume the study")


class StudyFailed(AsyncoptError):
    """The study cannot go on, for the reason given."""


class RunLocked(AsyncoptError):
    """Another process works in this run directory."""

    exit_code = 5


class JournalDamaged(AsyncoptError):
    """The journal has a bad record that is not its torn end; ``asyncopt doctor DIR --repair`` goes back before it."""

    exit_code = 5


class CallFailed(AsyncoptError):
    """A call ended without a completion; :attr:`fault` says how."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"{fault.kind.value}: {fault.detail}")
        self.fault = fault

    def __reduce__(self) -> tuple[type[CallFailed], tuple[Fault]]:
        return type(self), (self.fault,)  # else it is made again from its text, and cannot be


class EndpointUnusable(CallFailed):
    """No call to this endpoint is answered as things are: the study ends, and says what to do."""

    advice: str

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.args = (f"{self.args[0]}; {self.advice}",)


class EndpointRefused(EndpointUnusable):
    """The endpoint will not answer anything as things are: wrong key, unknown model, certificate, redirect."""

    exit_code = 4
    advice = "look at the key, the model's name, the base URL and what is asked of the model, then resume the study"


class QuotaExhausted(EndpointUnusable):
    """The account's money or daily quota is used up; the study can be resumed when there is more."""

    exit_code = 3
    advice = "add credit or raise the limit with the provider, then resume the study"

    def __init__(self, fault: Fault) -> None:
        if fault.kind is FaultKind.QUOTA_DAILY and fault.retry_after is not None:
            self.advice = f"resume the study {_after(fault.retry_after)} from now, or let it wait (--wait)"
        super().__init__(fault)


class EndpointDown(EndpointUnusable):
    """Nothing was served for a long time; the study can be resumed when the endpoint works again."""

    exit_code = 3
    advice = "resume the study when the endpoint works again"


def _after(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{math.ceil(seconds)} s ({minutes // 60} h {minutes % 60} min)"


_BY_KIND: dict[FaultKind, type[CallFailed]] = {
    FaultKind.FATAL_CONFIG: EndpointRefused,
    FaultKind.QUOTA: QuotaExhausted,
    FaultKind.QUOTA_DAILY: QuotaExhausted,
    FaultKind.DOWN: EndpointDown,
}


def error_of(fault: Fault) -> CallFailed:
    """The exception that a caller gets for this fault."""
    return _BY_KIND.get(fault.kind, CallFailed)(fault)


def first_error(failures: BaseExceptionGroup[AsyncoptError]) -> AsyncoptError:
    """The first error in a group of groups: callers of this package get errors, whatever tasks raised them."""
    failure = failures.exceptions[0]
    return first_error(failure) if isinstance(failure, BaseExceptionGroup) else failure
