"""For tests, benchmarks and ``asyncopt simulate``: a simulated API, and loops whose time is virtual."""

from asyncopt.testing.abilities import Abilities
from asyncopt.testing.answers import AnswerModel, Item, items_of
from asyncopt.testing.batches import BatchPlan
from asyncopt.testing.clock import run_virtual
from asyncopt.testing.conformance import OptimizerConformance
from asyncopt.testing.faults import FaultPlan
from asyncopt.testing.inloop import SimulatedEndpoint
from asyncopt.testing.latency import Constant, LogNormal
from asyncopt.testing.ledger import Entry, Ledger
from asyncopt.testing.simulated import SimulatedAPI
from asyncopt.testing.trial import Course, Trial

__all__ = [
    "Abilities",
    "AnswerModel",
    "BatchPlan",
    "Constant",
    "Course",
    "Entry",
    "FaultPlan",
    "Item",
    "Ledger",
    "LogNormal",
    "OptimizerConformance",
    "SimulatedAPI",
    "SimulatedEndpoint",
    "Trial",
    "items_of",
    "run_virtual",
]
