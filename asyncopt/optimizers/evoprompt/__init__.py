"""EvoPrompt: evolutionary algorithms whose operators are a model (Guo et al., "Connecting Large Language Models with
Evolutionary Algorithms Yields Powerful Prompt Optimizers", ICLR 2024, arXiv 2309.08532)."""

from asyncopt.optimizers.evoprompt.differential import EvoPromptDE
from asyncopt.optimizers.evoprompt.genetic import EvoPromptGA
from asyncopt.optimizers.evoprompt.options import InitialMode, Order, Selection, Template, Update

__all__ = ["EvoPromptDE", "EvoPromptGA", "InitialMode", "Order", "Selection", "Template", "Update"]
