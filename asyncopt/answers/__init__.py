"""Reading the answer out of a model's text and comparing it with the right one."""

from asyncopt.answers.strict import KINDS, Kind, grade

__all__ = ["KINDS", "Kind", "grade"]
