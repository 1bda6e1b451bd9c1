"""Errors that say what was found, what was wanted and what to do. Each knows the exit code of the command line."""

from __future__ import annotations

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


class StudyFailed(AsyncoptError):
    """The study cannot go on, for the reason given."""


class RunLocked(AsyncoptError):
    """Another process works in this run directory."""

    exit_code = 5


class JournalDamaged(AsyncoptError):
    """The journal has a bad record that is not its torn end."""

    exit_code = 5


class CallFailed(AsyncoptError):
    """A call ended without a completion; :attr:`fault` says how."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"{fault.kind.value}: {fault.detail}")
        self.fault = fault


class EndpointRefused(CallFailed):
    """The endpoint will not answer anything as things are: wrong key, unknown model, certificate, redirect."""

    exit_code = 4


class QuotaExhausted(CallFailed):
    """The account's money or daily quota is used up; the study can be resumed when there is more."""

    exit_code = 3


_BY_KIND: dict[FaultKind, type[CallFailed]] = {
    FaultKind.FATAL_CONFIG: EndpointRefused,
    FaultKind.QUOTA: QuotaExhausted,
    FaultKind.QUOTA_DAILY: QuotaExhausted,
}


def error_of(fault: Fault) -> CallFailed:
    """The exception that a caller gets for this fault."""
    return _BY_KIND.get(fault.kind, CallFailed)(fault)


def first_error(failures: BaseExceptionGroup[AsyncoptError]) -> AsyncoptError:
    """The first error in a group of groups: callers of this package get errors, whatever tasks raised them."""
    failure = failures.exceptions[0]
    return first_error(failure) if isinstance(failure, BaseExceptionGroup) else failure
