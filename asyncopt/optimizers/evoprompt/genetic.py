"""EvoPrompt's genetic algorithm (section 3.2): crossover of two prompts and mutation, in one request."""

from __future__ import annotations

from dataclasses import dataclass

from asyncopt.errors import ConfigError
from asyncopt.optimizers.base import Search
from asyncopt.optimizers.evoprompt.loop import EvoPrompt
from asyncopt.optimizers.evoprompt.options import Selection, Update
from asyncopt.optimizers.evoprompt.parents import pair, slots
from asyncopt.optimizers.evoprompt.population import Family
from asyncopt.optimizers.evoprompt.requests import Request, crossover


@dataclass(frozen=True)
class EvoPromptGA(EvoPrompt):
    """A child has two parents, drawn by their scores; the best of the old population and the children live on.

    ``selection`` draws parents by ``roulette`` (in proportion to the scores), at ``random``, or as winners of two
    tournaments of two (``tour``). With ``update`` ``std`` the children replace the population whatever they are worth;
    where some are missing, the best of the old one fill their places.

    :class:`~asyncopt.optimizers.evoprompt.options.Evolution` has what both algorithms can be told.
    """

    selection: Selection = "roulette"
    update: Update = "topk"
    name: str = "evoprompt-ga"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.update == "std" and self.order == "steady_state":
            raise ConfigError(
                f"{self.name} has the update std, by generations, and the order steady_state, which has none; drop one"
            )

    def ask(self, search: Search, known: Family, generation: int, member: int) -> Request | None:
        """The request for one child of two parents."""
        known = self.parents_of(known, generation)
        population = known.fittest(self.popsize) if self.update == "topk" else known.youngest(self.popsize)
        places = slots(population, self.selection, self.popsize, search.rng(generation, "slots"))
        first, second = pair(places, self.selection, search.rng(generation, "parents", member))
        return crossover(first.candidate, second.candidate)
