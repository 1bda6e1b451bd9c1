"""Which training examples a meta-prompt shows (OPRO, section 5.1; criteria and draws of the reference code)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

from asyncopt.optimizers.base import Seen, derived_seed
from asyncopt.optimizers.history import Entry
from asyncopt.optimizers.opro.options import MetaPromptOptions
from asyncopt.tasks.task import Example, Task


def chosen_exemplars(
    options: MetaPromptOptions, task: Task, seed: int, seen: Seen, view: Sequence[Entry]
) -> list[Example]:
    """The examples for the meta-prompt of a step, the same for all its samples; ``view`` are the shown entries.

    Fewer than wanted where the criterion allows fewer: at the start of a run nothing may have gone wrong yet.
    """
    choice = options.exemplar_choice
    count = min(options.exemplars, len(task.train))
    everything = range(len(task.train))
    if choice in ("random", "constant"):
        places = _drawn(everything, count, 0 if choice == "constant" else seen.step, seed, options.faithful)
    elif choice == "accumulative_most_frequent":
        # By its name the most frequent ones; the reference draws among all, whatever their counts.
        counts = _wrong_counts(task, seen, (entry.candidate for entry in seen.history.entries))
        wrong = _ranked(counts, options.faithful)
        places = wrong if len(wrong) <= count else _drawn(wrong, count, seen.step, seed, options.faithful)
    else:
        # In the first step the start counts even where its score is below the threshold (reference code).
        shown = view if seen.step > 0 else seen.history.ranked()
        counts = _wrong_counts(task, seen, (entry.candidate for entry in shown))
        wrong = _ranked(counts, options.faithful)
        most = [place for place in wrong if counts[place] == counts[wrong[0]]]
        few = len(most) < count
        # The reference draws among the tied with an unseeded generator; there is nothing to be faithful to.
        places = wrong[:count] if few else _drawn(most, count, seen.step, seed, options.faithful)
    return [task.train[place] for place in places]


def _drawn(pool: Sequence[int], count: int, step: int, seed: int, faithful: bool) -> list[int]:
    if not faithful:
        return sorted(Random(derived_seed(seed, step, "exemplars")).sample(pool, count))
    from numpy.random import RandomState  # `import asyncopt` stays light

    return sorted(int(place) for place in RandomState(step).choice(list(pool), count, replace=False))


def _wrong_counts(task: Task, seen: Seen, candidates: Iterable[str]) -> Counter[int]:
    """How many of the candidates got an example wrong, by its place in the training set."""
    places = {example.id: place for place, example in enumerate(task.train)}
    counts: Counter[int] = Counter()
    for candidate in dict.fromkeys(candidates):
        scores = seen.by_candidate.get(candidate, {})
        # A set, because the reference counts in a set's order and its draws depend on it.
        wrong = {number for number, score in scores.items() if score == 0.0}
        counts.update(places[number] for number in wrong)
    return counts


def _ranked(counts: Counter[int], faithful: bool) -> list[int]:
    """The examples by how often they went wrong, most often first; ties as they were counted, or by their place."""
    order = list(counts) if faithful else sorted(counts)
    return sorted(order, key=lambda place: -counts[place])
