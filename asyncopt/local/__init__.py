"""A real small model on this machine, out of Python packages: no account, no key, no GPU."""

from asyncopt.local.server import KEEPALIVE_SECONDS, LocalServer, is_local
from asyncopt.local.weights import ensure_weights

__all__ = ["KEEPALIVE_SECONDS", "LocalServer", "ensure_weights", "is_local"]
