"""Optimizers: coroutines that propose candidates and wait for their scores."""

from asyncopt.optimizers.ape import APE
from asyncopt.optimizers.base import Optimizer, Search
from asyncopt.optimizers.dln.optimizer import DLN1, DLN2
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.opro import OPRO, RandomSearch

__all__ = ["APE", "DLN1", "DLN2", "OPRO", "Entry", "History", "Optimizer", "RandomSearch", "Search"]
