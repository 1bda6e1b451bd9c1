"""Errors as OpenAI's clients read them, and under a status that makes them try again only where that may help.

Whatever may pass has been tried again inside, for as long as it was worth it. So nothing here is a 429, which clients
repeat, and every answer says ``x-should-retry``.
"""

from __future__ import annotations

from asyncopt import codec
from asyncopt.errors import AsyncoptError, BudgetExhausted, CallFailed, ConfigError
from asyncopt.values import FaultKind

_STATUS: dict[FaultKind, tuple[int, str]] = {
    FaultKind.QUOTA: (402, "insufficient_quota"),
    FaultKind.QUOTA_DAILY: (402, "insufficient_quota"),
    FaultKind.FATAL_CONFIG: (403, "endpoint_refused"),
    FaultKind.TOO_LARGE: (400, "context_length_exceeded"),
    FaultKind.REFUSED: (400, "content_filter"),
    FaultKind.BAD_REQUEST: (400, "bad_request"),
    FaultKind.DOWN: (503, "endpoint_down"),
}


class Refusal(Exception):
    """A request that gets an error for an answer; ``param`` names the field that it is about."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None, again: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.again = again

    @classmethod
    def of(cls, error: AsyncoptError) -> Refusal:
        """The refusal that stands for a call without an answer."""
        if isinstance(error, BudgetExhausted):
            text = str(error).replace("resume the study", "start the proxy again")
            return cls(402, text, code="budget_exhausted")
        if isinstance(error, CallFailed):
            status, code = _STATUS.get(error.fault.kind, (502, error.fault.kind.value))
            return cls(status, f"{error.fault.kind.value}: {error.fault.detail}", code=code)
        if isinstance(error, ConfigError):
            return invalid(str(error))
        return cls(503, str(error), code="unavailable", again=True)

    @property
    def headers(self) -> dict[str, str]:
        return {"x-should-retry": "true" if self.again else "false"}

    @property
    def body(self) -> bytes:
        """OpenAI's error object."""
        kind = "invalid_request_error" if self.status in (400, 404, 405, 413) else "asyncopt_error"
        kind = "insufficient_quota" if self.status == 402 else kind
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return codec.dumps({"error": error})


def invalid(message: str, param: str | None = None) -> Refusal:
    """The refusal of a request that cannot be meant; ``param`` names the field."""
    return Refusal(400, message, code="invalid_value", param=param)
