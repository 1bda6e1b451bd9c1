"""Tours as solutions: the paper's travelling salesman demo (section 3.2; reference code for the details)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from asyncopt.optimizers.asking import Reading
from asyncopt.optimizers.base import Seen
from asyncopt.optimizers.history import Entry
from asyncopt.optimizers.opro.domain import Ask, Style
from asyncopt.tasks.tours import format_tour, parse_tour
from asyncopt.tasks.tsp import TSP
from asyncopt.templates import packaged


class TourDomain:
    """Tours from point 0; their score is the length, lower is better. Unlike in linear regression all is shown."""

    styles: tuple[Style, ...] = ("meta-prompt",)

    def __init__(self, task: TSP) -> None:
        self._task = task
        # How many nodes there are, a grammar can state; that none comes twice, it cannot.
        self._grammar = f'root ::= "<trace> 0" ("," node){{{task.nodes - 1}}} " </trace>"\nnode ::= [0-9]{{1,3}}'

    def ask(self, style: Style, view: Sequence[Entry], seen: Seen, rng: Random) -> Ask:
        # Lengths are cut to whole numbers for show, as in the reference.
        history = [{"trace": entry.candidate, "length": int(entry.score)} for entry in view if entry.score is not None]
        render = packaged("asyncopt.optimizers.opro.prompts", "tours.j2")
        return Ask(render(points=self._task.points, history=history), self._grammar)

    def read(self, style: Style, answer: str) -> Reading:
        tour = parse_tour(answer, self._task.nodes)
        return Reading(None, "no tour") if tour is None else Reading(format_tour(tour))
