"""A coordinator by its address, as users write it."""

from __future__ import annotations

import os

from asyncopt.errors import ConfigError
from asyncopt.redislink import is_redis, without_password
from asyncopt.shared.coordinator import Coordinator

_UNIX = "unix:"


def checked_address(address: str) -> str:
    """The address as it is; raises :class:`ConfigError`, which shows nothing of it, for what is none."""
    if is_redis(address):
        return without_password(address)
    if address.startswith(_UNIX) and path_of(address).strip("/"):
        return address
    raise ConfigError(
        "this is no address of a shared quota; wanted unix:/PATH for the processes of one machine, "
        "or redis://HOST:6379/0 for several"
    )


def absolute_address(address: str) -> str:
    """The same address from every folder; what is none stays as it is."""
    return f"{_UNIX}{os.path.abspath(path_of(address))}" if address.startswith(_UNIX) else address


def path_of(address: str) -> str:
    """The path of a ``unix:`` address, also of ``unix:///path``."""
    path = address.removeprefix(_UNIX)
    return path.removeprefix("//") if path.startswith("///") else path


def coordinator_at(address: str) -> Coordinator:
    """The coordinator at ``unix:/path``, ``redis://...`` or ``rediss://...``; nothing is connected yet.

    Raises :class:`ConfigError` for what is no such address, and where the system or an extra does not allow it.
    """
    if is_redis(address):
        from asyncopt.shared.redis import RedisCoordinator

        return RedisCoordinator(address)
    from asyncopt.shared.socket import SocketCoordinator

    return SocketCoordinator(path_of(checked_address(address)))
