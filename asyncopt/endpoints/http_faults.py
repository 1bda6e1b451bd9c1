"""The faults behind what aiohttp raises.

Of an exception only its type goes into a text: the rest may hold what was sent.
"""

from __future__ import annotations

import errno
import ssl

import aiohttp
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import ContentEncodingError

from asyncopt.values import NO_CONNECTION, Fault, FaultKind

ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, TimeoutError, ValueError)
"""All that a server or a network can make aiohttp raise."""

UNANSWERED = Fault(FaultKind.TRANSIENT, "the server closed the connection before answering")

# What OpenSSL says of a first record that is none, in its older and newer versions.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
_AT_ONCE = 1.0  # seconds; a closed connection says so within one round trip
_NEVER_ARRIVED = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})
_USED_UP = {
    errno.EMFILE: "this process may open no more files (raise ulimit -n, or lower the concurrency)",
    errno.ENFILE: "this machine may open no more files",
    errno.EADDRNOTAVAIL: "this machine has no more ports for connections to the server (lower the concurrency)",
}


def unconnected(error: Exception) -> Fault:
    """The fault behind an exception before anything was sent."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):  # an OSError too, so it is looked for first
        return Fault(FaultKind.FATAL_CONFIG, f"the certificate of {error.host} was not accepted")
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
        return Fault(FaultKind.FATAL_CONFIG, f"{_place(error)} does not speak TLS; is it an http:// address?")
    if isinstance(cause, OSError) and cause.errno in _USED_UP:
        return Fault(FaultKind.TRANSIENT, f"no connection: {_USED_UP[cause.errno]}")
    return Fault(FaultKind.TRANSIENT, f"no connection ({type(error).__name__})", code=NO_CONNECTION)


def _place(error: Exception) -> str:
    return f"{error.host}:{error.port}" if isinstance(error, aiohttp.ClientConnectorError) else "the server"


def has_answered(error: Exception) -> bool:
    """Whether something of an answer had come before a connection ended with this exception."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return not isinstance(error.message, str)  # else it is the head, as far as it came
    return isinstance(error, HttpProcessingError)


def was_idle(error: Exception, seconds: float) -> bool:
    """Whether an idle connection was at its end before this request came: it ended so soon, and unanswered.

    What ends later may have been served, and sending it again would be to pay twice without a word.
    """
    if isinstance(error, OSError) and error.errno in _NEVER_ARRIVED:
        return True
    return seconds < _AT_ONCE and not has_answered(error)


def broken(error: Exception) -> Fault:
    """The fault behind an exception after the request was written.

    A server that closes in order before it has answered has not served; after anything else the answer may be billed.
    """
    name = type(error).__name__
    if isinstance(error, aiohttp.ServerDisconnectedError) and not has_answered(error):
        return UNANSWERED
    if isinstance(error, HttpProcessingError):
        return Fault(FaultKind.MALFORMED, f"the answer is not HTTP ({name})")
    if isinstance(error.__cause__, ContentEncodingError):
        return Fault(FaultKind.MALFORMED, "the answer is not in the encoding that it states")
    return Fault(FaultKind.AMBIGUOUS, f"the connection broke after the request was sent ({name})")
