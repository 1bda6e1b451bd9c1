"""How many sockets this process may open: one for each call in flight."""

from __future__ import annotations

SPARE = 64  # for files, the event loop, and whatever else the application has open


def most_sockets() -> int | None:
    """How many calls may be in flight under the process's limit of open files; None where there is no such limit."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else max(soft - SPARE, 1)


def raise_limit() -> None:
    """Raise the limit of open files to what the system allows; for an application's start, never a library's."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # some systems name a hard limit that they do not grant
            return
