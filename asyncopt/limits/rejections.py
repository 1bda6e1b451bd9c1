"""Bad requests in a row: one is an example that the server does not like, and three alike are a wrong setting."""

from __future__ import annotations

ENOUGH = 3


class Rejections:
    """The bad requests since anything was served. Pure; a request is known by its key, so that a retry is no other."""

    __slots__ = ("_code", "_enough", "_keys")

    def __init__(self) -> None:
        self._code = ""
        self._enough = ENOUGH
        self._keys: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._keys)

    def add(self, key: bytes, code: str) -> bool:
        """Note that a request was refused with this code; whether enough different ones in a row were."""
        if code != self._code:
            self._code = code
            self._keys.clear()
        self._keys.add(key)
        return len(self._keys) >= self._enough

    def clear(self) -> None:
        """Something was served."""
        self._keys.clear()

    def acquit(self) -> None:
        """It was the requests: what is known to be good is served. Twice as many are needed next time."""
        self._keys.clear()
        self._enough *= 2
