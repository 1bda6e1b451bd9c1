"""OPRO: optimization by prompting (Yang et al., "Large Language Models as Optimizers", ICLR 2024)."""

from asyncopt.optimizers.opro.domain import STYLES, Style
from asyncopt.optimizers.opro.optimizer import OPRO, RandomSearch
from asyncopt.optimizers.opro.options import ExemplarChoice, HistoryOrder, MetaPrompt, MetaPromptOptions, ScoreBuckets

__all__ = [
    "OPRO",
    "STYLES",
    "ExemplarChoice",
    "HistoryOrder",
    "MetaPrompt",
    "MetaPromptOptions",
    "RandomSearch",
    "ScoreBuckets",
    "Style",
]
