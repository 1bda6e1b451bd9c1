"""OPRO: optimization by prompting (Yang et al., "Large Language Models as Optimizers", ICLR 2024)."""

from asyncopt.optimizers.opro.domain import STYLES, Style
from asyncopt.optimizers.opro.optimizer import OPRO, RandomSearch

__all__ = ["OPRO", "STYLES", "RandomSearch", "Style"]
