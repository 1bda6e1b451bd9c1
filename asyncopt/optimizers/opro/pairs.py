"""Pairs (w, b) as solutions: the paper's linear regression demo (section 3.1; reference code for the details)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from random import Random

from asyncopt.optimizers.asking import Reading
from asyncopt.optimizers.base import Seen
from asyncopt.optimizers.history import Entry
from asyncopt.optimizers.opro.domain import Ask, Style
from asyncopt.tasks.linear_regression import format_pair, parse_pair
from asyncopt.templates import packaged

_GRAMMAR = r'root ::= "[" number ", " number "]"' + "\n" + r'number ::= "-"? [0-9]{1,3}'


class PairDomain:
    """Integer pairs; their score is the loss, lower is better. The function's form is never shown."""

    styles: tuple[Style, ...] = ("meta-prompt",)

    def ask(self, style: Style, view: Sequence[Entry], seen: Seen, rng: Random) -> Ask:
        history = []
        for entry in view:
            pair = parse_pair(entry.candidate)
            if pair is not None and entry.score is not None and isfinite(entry.score):
                # Values are cut to whole numbers for show, as in the reference.
                history.append({"w": int(pair[0]), "b": int(pair[1]), "value": int(entry.score)})
        return Ask(packaged("asyncopt.optimizers.opro.prompts", "pairs.j2")(history=history), _GRAMMAR)

    def read(self, style: Style, answer: str) -> Reading:
        pair = parse_pair(answer)
        return Reading(None, "no pair") if pair is None else Reading(format_pair(round(pair[0]), round(pair[1])))
