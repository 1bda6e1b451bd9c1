"""Who lives: populations as pure functions of what was scored, so that a search that goes on has the same ones.

Better is the higher score, and of equals the one with the lower (step, index): a child must beat what it replaces.
Partial candidates stand with the scores that can be compared (:meth:`History.ranked`), provisional ones with what they
have so far. Candidates without a score, stopped ones among them, are not here and cannot live.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from asyncopt.optimizers.evoprompt.options import Evolution, InitialMode
from asyncopt.optimizers.history import Entry
from asyncopt.optimizers.overlap import START


def best_first(entries: Iterable[Entry]) -> list[Entry]:
    """The entries from best to worst; the earlier of equals stands first."""
    return sorted(entries, key=lambda entry: (-(entry.score or 0.0), entry.step, entry.index))


@dataclass(frozen=True, slots=True)
class Founders:
    """The prompts that the first population is made of: ``kept`` as they are, ``spare`` where others are missing.

    ``paraphrases`` is how many are wanted; the i-th is one of the i-th kept prompt, in turn.
    """

    kept: Sequence[Entry]
    spare: Sequence[Entry]
    paraphrases: int

    def base(self, number: int) -> Entry | None:
        """What the paraphrase of this number is made from; None if it is not wanted."""
        wanted = bool(self.kept) and number < self.paraphrases
        return self.kept[number % len(self.kept)] if wanted else None

    def population(self, paraphrases: Iterable[Entry]) -> list[Entry]:
        """The first population, given the paraphrases that have a score."""
        return [*self.kept, *paraphrases, *self.spare][: len(self.kept) + self.paraphrases]


def founders(pool: Sequence[Entry], mode: InitialMode, popsize: int, rng: Random) -> Founders:
    """Which of the pool's prompts begin (the reference code's ``--initial_mode``)."""
    if mode.endswith("randomk"):
        ordered = rng.sample(best_first(pool), len(pool))
    elif mode.endswith("bottomk"):
        ordered = sorted(pool, key=lambda entry: (entry.score or 0.0, entry.step, entry.index))
    else:
        ordered = best_first(pool)
    kept = ordered[: (popsize + 1) // 2 if mode.startswith("para") else popsize]
    return Founders(kept, ordered[len(kept) :], popsize - len(kept))


@dataclass(frozen=True, slots=True)
class Family:
    """The scored prompts of a search by generation, and in it by the number of the child.

    The first population is ``first``; generation 0 are its paraphrases, and the children come after.
    """

    first: Sequence[Entry]
    generations: Mapping[int, Mapping[int, Entry]] = field(default_factory=dict)

    def before(self, generation: int) -> Family:
        """The family as it was before this generation."""
        return Family(self.first, {number: born for number, born in self.generations.items() if number < generation})

    def children(self) -> list[Entry]:
        """All children, generation by generation."""
        return [born[member] for number, born in sorted(self.generations.items()) if number for member in sorted(born)]

    def best(self) -> Entry:
        """The best of the first population and all children."""
        return best_first([*self.first, *self.children()])[0]

    def fittest(self, popsize: int) -> list[Entry]:
        """The best of the first population and all children: the best of each old population and its children."""
        return best_first([*self.first, *self.children()])[:popsize]

    def youngest(self, popsize: int) -> list[Entry]:
        """The last generation's children; the best of those before them where some children are missing."""
        population = best_first(self.first)
        for number in sorted(self.generations):
            born = [entry for _, entry in sorted(self.generations[number].items())] if number else []
            population = [*born, *best_first(population)][:popsize] if born else population
        return population

    def line(self, member: int) -> Entry:
        """Who has the place of this member: the best of it and the children that were made to replace it."""
        rivals = [born[member] for number, born in self.generations.items() if number and member in born]
        return best_first([self.first[member], *rivals])[0]


def family(entries: Iterable[Entry], options: Evolution, rng: Random) -> tuple[Founders, Family]:
    """Who begins, and who has come of it, from the comparable entries of a history."""
    pool: list[Entry] = []
    generations: defaultdict[int, dict[int, Entry]] = defaultdict(dict)
    for entry in entries:
        if entry.step != START:
            generation, member = options.place(entry.step, entry.index)
            generations[generation][member] = entry
        elif entry.candidate.strip():
            pool.append(entry)
    begun = founders(pool, options.initial_mode, options.popsize, rng)
    paraphrases = [entry for _, entry in sorted(generations[0].items())]
    return begun, Family(begun.population(paraphrases), generations)
