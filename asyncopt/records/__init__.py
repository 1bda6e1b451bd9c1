"""Run directories, read: a run that goes on or has ended as a plain value, and its tables."""

from asyncopt.records.read import load_run
from asyncopt.records.run import Run
from asyncopt.records.tables import COLUMNS, Row
from asyncopt.records.trace import Answer, Trace
from asyncopt.records.values import Candidate, Spent, Step

__all__ = ["COLUMNS", "Answer", "Candidate", "Row", "Run", "Spent", "Step", "Trace", "load_run"]
