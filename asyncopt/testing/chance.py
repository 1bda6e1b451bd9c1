"""Chance that is a pure function of what it is for: the same seed, purpose and key give the same draw, in any order."""

from __future__ import annotations

from hashlib import blake2b
from statistics import NormalDist

_NORMAL = NormalDist()
_STEPS = 1 << 52  # the odd multiples of half a step are exact floats and never 0 or 1


def fraction(*key: object) -> float:
    """A number in (0, 1), uniform over keys."""
    digest = blake2b("\0".join(map(str, key)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return ((int.from_bytes(digest) >> 12) + 0.5) / _STEPS


def normal(*key: object) -> float:
    """A number that is standard normal over keys."""
    return _NORMAL.inv_cdf(fraction(*key))


def digest_of(text: str, size: int = 8) -> str:
    """The BLAKE2b digest of the text, ``size`` bytes in hexadecimal."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
