"""For tests, benchmarks and ``asyncopt simulate``: a simulated API, and loops whose time is virtual."""

from asyncopt.testing.abilities import Abilities
from asyncopt.testing.answers import AnswerModel, Item, items_of
from asyncopt.testing.clock import run_virtual
from asyncopt.testing.faults import FaultPlan
from asyncopt.testing.inloop import SimulatedEndpoint
from asyncopt.testing.latency import Constant, LogNormal
from asyncopt.testing.ledger import Entry, Ledger
from asyncopt.testing.simulated import SimulatedAPI

__all__ = [
    "Abilities",
    "AnswerModel",
    "Constant",
    "Entry",
    "FaultPlan",
    "Item",
    "Ledger",
    "LogNormal",
    "SimulatedAPI",
    "SimulatedEndpoint",
    "items_of",
    "run_virtual",
]
