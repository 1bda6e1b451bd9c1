"""Answers that were paid for once: a persistent store behind a protocol, and a front in memory."""

from asyncopt.cache.memory import Cache, MemoryCache
from asyncopt.cache.sqlite import SqliteCache

__all__ = ["Cache", "MemoryCache", "SqliteCache"]
