"""What a prompt that was searched for has to beat: demonstrations before the query, and reasoning before the answer.

Zero-shot needs nothing of this: it is the evaluation of an instruction, or of an empty one.
"""

from asyncopt.baselines.chain import FIRST_WORDS, chain_of_thought
from asyncopt.baselines.choices import CHOICES, Choice, Drawn, EmbeddingNearest, LexicalNearest, choice_of
from asyncopt.baselines.shots import FewShot

__all__ = [
    "CHOICES",
    "FIRST_WORDS",
    "Choice",
    "Drawn",
    "EmbeddingNearest",
    "FewShot",
    "LexicalNearest",
    "chain_of_thought",
    "choice_of",
]
