"""Pairs (w, b) as solutions: the paper's linear regression demo (section 3.1; reference code for the details)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from asyncopt.optimizers.history import Entry
from asyncopt.optimizers.opro.domain import Ask, Style
from asyncopt.tasks.linear_regression import LinearRegression, format_pair, parse_pair
from asyncopt.templates import packaged

RANDOM_RANGE = (10, 20)  # the square of the starting points, in which the random baseline draws
_GRAMMAR = r'root ::= "[" number ", " number "]"' + "\n" + r'number ::= "-"? [0-9]{1,3}'


class PairDomain:
    """Integer pairs; their score is the loss, lower is better. The function's form is never shown."""

    maximize = False
    styles: tuple[Style, ...] = ("meta-prompt",)

    def __init__(self, task: LinearRegression) -> None:
        self._task = task

    def initial(self) -> Sequence[str]:
        return [format_pair(w, b) for w, b in self._task.start()]

    def ask(self, style: Style, view: Sequence[Entry], step: int, rng: Random) -> Ask:
        history = []
        for entry in view:
            pair = parse_pair(entry.candidate)
            if pair is not None and entry.score is not None:
                # Values are cut to whole numbers for show, as in the reference.
                history.append({"w": int(pair[0]), "b": int(pair[1]), "value": int(entry.score)})
        return Ask(packaged("asyncopt.optimizers.opro.prompts", "pairs.j2")(history=history), _GRAMMAR)

    def read(self, style: Style, answer: str) -> str | None:
        pair = parse_pair(answer)
        return None if pair is None else format_pair(round(pair[0]), round(pair[1]))

    def random(self, rng: Random) -> str | None:
        return format_pair(rng.randint(*RANDOM_RANGE), rng.randint(*RANDOM_RANGE))

    def solved(self, candidate: str) -> bool:
        return candidate == format_pair(self._task.w_true, self._task.b_true)
