"""Which addresses a key may be sent to."""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from yarl import URL

from asyncopt.errors import ConfigError

# Where clouds serve their machines' credentials, beside the link-local addresses.
_METADATA_NAMES = (
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
)
_METADATA_ADDRESSES = tuple(map(ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200")))
_NAT64 = ip_network("64:ff9b::/96")
_NAME = re.compile(r"[a-z0-9._-]+")


def check_address(base_url: str, *, allow_insecure: bool = False) -> None:
    """Raises :class:`ConfigError` for plain http to a public host, unless allowed, and for cloud metadata addresses."""
    host = _host_of(base_url)
    address = _address_of(host)
    metadata = host in _METADATA_NAMES if address is None else address.is_link_local or address in _METADATA_ADDRESSES
    if metadata:
        raise ConfigError(f"the base URL points at {host}, where a cloud serves credentials; no model is served there")
    if urlsplit(base_url).scheme == "http" and not allow_insecure and not _is_near(host, address):
        raise ConfigError(f"the base URL sends the key to {host} in clear text; use https://")


def is_loopback(base_url: str) -> bool:
    """Whether the URL is one of this machine."""
    host = _host_of(base_url)
    address = _address_of(host)
    return host == "localhost" if address is None else address.is_loopback


def _host_of(base_url: str) -> str:
    try:
        host = URL(base_url).raw_host  # what is connected to: a host in other characters may be an address
    except ValueError:
        host = None
    host = (host or "").rstrip(".").lower()
    if not _NAME.fullmatch(host) and ":" not in host:  # of others, each library reads another host
        raise ConfigError("the base URL cannot be read; wanted something like https://host/v1")
    return host


def _address_of(host: str) -> IPv4Address | IPv6Address | None:
    """The address that the host is, also where it is written as a resolver would read it: 0xa9fea9fe, 2852039166."""
    try:
        address = ip_address(host.partition("%")[0])  # without the name of a network interface
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    return address if isinstance(address, IPv4Address) else _within(address) or address


def _within(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that one of these stands for, where its network translates it."""
    if address in _NAT64 or (address.packed[:12] == bytes(12) and int(address) > 1):
        return IPv4Address(address.packed[12:])
    return address.ipv4_mapped or address.sixtofour


def _is_near(host: str, address: IPv4Address | IPv6Address | None) -> bool:
    if address is not None:
        return address.is_loopback or address.is_private
    return host == "localhost" or host.endswith((".localhost", ".local", ".internal")) or "." not in host
