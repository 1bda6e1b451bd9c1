"""Instructions as solutions: the paper's meta-prompt, and two ways of asking for models too small to use it.

The meta-prompt has the structure of the paper's appendix C: scored texts in order, exemplars with ``<INS>`` where the
instruction goes, and a request for a new text. ``rewrite`` asks for a paraphrase of one of the best, ``induction`` for
the instruction behind some solved examples (both after APE, Zhou et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from asyncopt.optimizers import rewriting
from asyncopt.optimizers.asking import Reading
from asyncopt.optimizers.base import Seen, derived_seed
from asyncopt.optimizers.history import Entry
from asyncopt.optimizers.opro import formats
from asyncopt.optimizers.opro.candidates import first_line, usable, usable_faithfully
from asyncopt.optimizers.opro.domain import Ask, Style
from asyncopt.optimizers.opro.exemplars import chosen_exemplars
from asyncopt.optimizers.opro.options import MetaPromptOptions
from asyncopt.tasks.task import Task
from asyncopt.templates import packaged
from asyncopt.values import Prompt

REWRITTEN_FROM = 3  # a paraphrase starts from one of this many best


class InstructionDomain:
    """Instructions for the examples of a task; their scores are shares of right answers."""

    def __init__(self, task: Task, styles: tuple[Style, ...], options: MetaPromptOptions, seed: int) -> None:
        self._task = task
        self._seed = seed
        self._options = options
        self.styles = styles

    def ask(self, style: Style, view: Sequence[Entry], seen: Seen, rng: Random) -> Ask:
        # The paper's samples of a step share one prompt, exemplars included, so their draw depends on the step alone;
        # the other styles gain from variety, so theirs depends on the sample.
        base = rng.choice(view[-REWRITTEN_FROM:]).candidate if view else self._task.initial[0]
        if style == "meta-prompt":
            return Ask(self._meta_prompt(view, seen), formats.grammar_of(self._options, self._task))
        if style == "rewrite" and base:
            return Ask(rewriting.rewrite(base, rng), rewriting.GRAMMAR)
        return Ask(self._induction(rng), rewriting.GRAMMAR)  # an empty instruction has no other words

    def _meta_prompt(self, view: Sequence[Entry], seen: Seen) -> str:
        options, task = self._options, self._task
        if options.meta_prompt == "pre-trained":
            # A model that only continues a text cannot tell exemplars from it (paper, appendix C).
            return formats.render(options, task, self._ordered(seen.history.ranked(), seen.step), ())
        exemplars = chosen_exemplars(options, task, self._seed, seen, view)
        return formats.render(options, task, self._ordered(view, seen.step), exemplars)

    def _ordered(self, entries: Sequence[Entry], step: int) -> list[Entry]:
        """The entries, which come from worst to best, in the order in which they are shown."""
        ordered = list(entries)
        if self._options.history_order == "descending":
            ordered.reverse()
        elif self._options.history_order == "random":
            Random(derived_seed(self._seed, step, "order")).shuffle(ordered)
        return ordered

    def _induction(self, rng: Random) -> Prompt:
        train = self._task.train
        places = rng.sample(range(len(train)), min(max(self._options.exemplars, 1), len(train)))
        prompt: Prompt = packaged(formats.PROMPTS, "induction.j2")(exemplars=[train[place] for place in sorted(places)])
        return prompt

    def read(self, style: Style, answer: str) -> Reading:
        if style != "meta-prompt":
            return usable(first_line(answer), self._task)
        text = formats.read(self._options, self._task, answer)
        if text is None:
            return Reading(None, "without the marks of a proposal")
        return (usable_faithfully if self._options.faithful else usable)(text, self._task)
