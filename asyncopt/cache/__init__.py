"""Answers that were paid for once: a persistent store behind a protocol, and a front in memory."""

from pathlib import Path

from asyncopt.cache.memory import Cache, MemoryCache
from asyncopt.cache.sqlite import SqliteCache

__all__ = ["Cache", "MemoryCache", "SqliteCache", "cache_at"]


def cache_at(place: Cache | str | Path | None) -> Cache | None:
    """The cache at this place: a file's path; a cache, and none, are what they are."""
    return SqliteCache(place) if isinstance(place, str | Path) else place
