"""Answers at half the price for work that blocks nobody: in batches of OpenAI's format, which take up to a day.

A batch's answers go into the cache, and whatever is evaluated after that finds them there. What a batch did not answer
is asked as ever.
"""

from typing import Literal, TypeAlias

from asyncopt.batches.ahead import answer_ahead
from asyncopt.batches.lane import check_batches, require_batches
from asyncopt.batches.submissions import FILE as BATCHES

Batched: TypeAlias = Literal["test"]  # what of a study is answered in batches: what blocks nobody

__all__ = ["BATCHES", "Batched", "answer_ahead", "check_batches", "require_batches"]
