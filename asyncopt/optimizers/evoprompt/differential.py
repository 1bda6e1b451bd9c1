"""EvoPrompt's differential evolution (section 3.3): each member has a rival made from the differences of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from asyncopt.optimizers.base import Search
from asyncopt.optimizers.evoprompt.loop import EvoPrompt
from asyncopt.optimizers.evoprompt.options import Template
from asyncopt.optimizers.evoprompt.parents import donors
from asyncopt.optimizers.evoprompt.population import Family
from asyncopt.optimizers.evoprompt.requests import Request, differential


@dataclass(frozen=True)
class EvoPromptDE(EvoPrompt):
    """A child of member j combines j with what two donors differ in and with the best so far; it replaces j if better.

    Three donors are drawn. With ``donor_random`` the third takes the place of the best so far, else it is not used.
    ``template`` ``v2`` does without the best so far, and ``v3`` mutates the donors as a whole. The best so far is that
    of the first population and the children: a prompt of the pool that did not begin is no part of the search.

    :class:`~asyncopt.optimizers.evoprompt.options.Evolution` has what both algorithms can be told.
    """

    template: Template = "v1"
    donor_random: bool = False
    name: str = "evoprompt-de"

    least_popsize: ClassVar[int] = 4  # a member and three donors

    def ask(self, search: Search, known: Family, generation: int, member: int) -> Request | None:
        """The request for a rival of one member; None where the population is too small to have it."""
        parents = self.parents_of(known, generation)
        population = [parents.line(number) for number in range(len(parents.first))]
        if member >= len(population):
            return None
        first, second, third = donors(population, member, search.rng(generation, "donors", member))
        third = third if self.donor_random else known.best()
        basic = population[member].candidate
        return differential(basic, first.candidate, second.candidate, third.candidate, self.template)
