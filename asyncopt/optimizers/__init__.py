"""Optimizers: coroutines that propose candidates and wait for their scores."""

from asyncopt.optimizers.ape import APE
from asyncopt.optimizers.base import Optimizer, Search
from asyncopt.optimizers.dln.optimizer import DLN1, DLN2
from asyncopt.optimizers.evoprompt import EvoPromptDE, EvoPromptGA
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.opro import OPRO, RandomSearch
from asyncopt.optimizers.paraphrase import Paraphrase
from asyncopt.optimizers.reflective import Reflective

__all__ = [
    "APE",
    "DLN1",
    "DLN2",
    "OPRO",
    "Entry",
    "EvoPromptDE",
    "EvoPromptGA",
    "History",
    "Optimizer",
    "Paraphrase",
    "RandomSearch",
    "Reflective",
    "Search",
]
