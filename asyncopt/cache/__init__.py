"""Answers that were paid for once: a persistent store behind a protocol, and a front in memory."""

from pathlib import Path

from asyncopt.cache.memory import Cache, MemoryCache
from asyncopt.cache.sqlite import SqliteCache
from asyncopt.redislink import is_redis

__all__ = ["Cache", "MemoryCache", "SqliteCache", "cache_at"]


def cache_at(place: Cache | str | Path | None) -> Cache | None:
    """The cache at this place: a file's path, or the URL of a Redis server; a cache, and none, are what they are."""
    if isinstance(place, str) and is_redis(place):
        from asyncopt.cache.redis import RedisCache

        return RedisCache(place)
    return SqliteCache(place) if isinstance(place, str | Path) else place
