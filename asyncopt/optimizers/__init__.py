"""Optimizers: coroutines that propose candidates and wait for their scores."""

from asyncopt.optimizers.base import Optimizer, Search
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.opro import OPRO, RandomSearch

__all__ = ["OPRO", "Entry", "History", "Optimizer", "RandomSearch", "Search"]
