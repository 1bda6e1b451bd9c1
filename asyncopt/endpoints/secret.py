"""A key that can be used but not shown."""

from __future__ import annotations

import re
from hashlib import blake2b

from asyncopt.errors import ConfigError

_MASK = "***"
_SHORTEST_MASKED = 8  # "x" or "key", as servers of one's own take, is no secret, and masking it would tear words apart


class Secret:
    """An API key whose repr, str and pickle hold nothing of it; :meth:`reveal` has one caller, the HTTP transport."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        value = value.strip()
        # A typographic quote or a line break from a copy-and-paste would be sent as it is, or fail deep in the client.
        if not value or not value.isascii() or not value.isprintable():
            raise ConfigError("the API key is empty or has characters other than printable ASCII; copy it again")
        self.__value = value

    def reveal(self) -> str:
        return self.__value

    def fingerprint(self) -> str:
        """A short hash that tells two keys apart."""
        return blake2b(self.__value.encode(), digest_size=8, person=b"asyncopt-key").hexdigest()

    def redact(self, text: str) -> str:
        """The text with the key masked wherever it stands in it."""
        if len(self.__value) < _SHORTEST_MASKED:
            return text
        return re.sub(re.escape(self.__value), _MASK, text, flags=re.IGNORECASE)

    def redact_bytes(self, data: bytes) -> bytes:
        """The bytes with the key masked, before anything is read or cut out of them."""
        if len(self.__value) < _SHORTEST_MASKED:
            return data
        return data.replace(self.__value.encode(), _MASK.encode())

    def __repr__(self) -> str:
        return f"Secret({_MASK})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a key is not pickled; give it anew where it is needed")
