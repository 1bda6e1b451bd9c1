"""Instructions as solutions: the paper's meta-prompt, and two ways of asking for models too small to use it.

The meta-prompt has the structure of the paper's appendix C.2 (instruction-tuned optimizers): scored texts in ascending
order, exemplars with ``<INS>`` where the instruction goes, and a request for a new text in square brackets. ``rewrite``
asks for a paraphrase of one of the best, ``induction`` for the instruction behind some solved examples (both after APE,
Zhou et al. 2023). A model of 135M parameters copies or drifts when it is shown scores; it can paraphrase, and does it
far better after some demonstrations: on ``antonym`` the mean score of its rewrites rises from .04 to .15 and more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from random import Random

from asyncopt.codec import clean
from asyncopt.optimizers.base import derived_seed
from asyncopt.optimizers.history import Entry
from asyncopt.optimizers.opro.domain import Ask, Style
from asyncopt.tasks.task import Example, Task
from asyncopt.templates import packaged
from asyncopt.values import Message, Prompt

PLACEHOLDER = "<INS>"
LONGEST = 500  # characters; the reference drops longer instructions
DEMONSTRATED = 6
REWRITTEN_FROM = 3  # a paraphrase starts from one of this many best
_PACKAGE = "asyncopt.optimizers.opro.prompts"

_BRACKETED = re.compile(r"\[([^\[\]\n]*)\]")
_LABEL = re.compile(r"^(?:new |rewritten )?(?:instruction|variation|in other words|output)\s*:\s*", re.IGNORECASE)
_SENTENCE = r"[A-Z] [^\[\]<>\n]{6,100} [.?!]"  # short: what a small model adds to a long sentence is drift
_GRAMMAR: dict[Style, str] = {
    "meta-prompt": r'root ::= "[" [A-Z] [^\[\]<>\n]{12,200} "]"',
    "rewrite": f"root ::= {_SENTENCE}",
    "induction": f"root ::= {_SENTENCE}",
}


class InstructionDomain:
    """Instructions for the examples of a task; scores are shares of right answers, shown in hundredths."""

    maximize = True

    def __init__(self, task: Task, styles: tuple[Style, ...], exemplars: int, seed: int) -> None:
        self._task = task
        self._seed = seed
        self._exemplars = min(exemplars, len(task.train))
        self.styles = styles

    def initial(self) -> Sequence[str]:
        return self._task.initial

    def ask(self, style: Style, view: Sequence[Entry], step: int, rng: Random) -> Ask:
        # The paper's samples of a step share one prompt, exemplars included, so their draw depends on the step alone;
        # the other styles gain from variety, so theirs depends on the sample.
        base = rng.choice(view[-REWRITTEN_FROM:]).candidate if view else self._task.initial[0]
        if style == "rewrite" and base:
            prompt: Prompt = _rewrite(base, rng)
        elif style != "meta-prompt":  # an empty instruction has no other words
            shots = self._drawn(rng, min(max(self._exemplars, 1), len(self._task.train)))
            prompt = packaged(_PACKAGE, "induction.j2")(exemplars=shots)
        else:
            prompt = self._meta_prompt(view, step)
        return Ask(prompt, _GRAMMAR[style])

    def _meta_prompt(self, view: Sequence[Entry], step: int) -> str:
        rng = Random(derived_seed(self._seed, step, "exemplars"))
        shown = [
            {"input": self._task.render(PLACEHOLDER, example.input), "target": example.target}
            for example in self._drawn(rng, self._exemplars)
        ]
        history = [{"text": entry.candidate, "score": round(100 * (entry.score or 0.0))} for entry in view]
        return packaged(_PACKAGE, "instructions.j2")(history=history, exemplars=shown)

    def _drawn(self, rng: Random, count: int) -> list[Example]:
        return [self._task.train[i] for i in sorted(rng.sample(range(len(self._task.train)), count))]

    def read(self, style: Style, answer: str) -> str | None:
        if style == "meta-prompt":
            found = _BRACKETED.search(answer)
            text = found.group(1) if found else ""
        else:
            lines = (line.strip() for line in answer.splitlines())
            text = _LABEL.sub("", next((line for line in lines if line), "")).strip(" \"'“”[]")
        return self._usable(polished(text))

    def _usable(self, text: str) -> str | None:
        forbidden = self._task.forbid is not None and self._task.forbid.search(text)
        return None if not text or len(text) > LONGEST or forbidden or PLACEHOLDER in text else text

    def random(self, rng: Random) -> str | None:
        return None

    def solved(self, candidate: str) -> bool:
        return False


def _rewrite(base: str, rng: Random) -> tuple[Message, ...]:
    """Some demonstrations in some order, which gives more variety than a higher temperature; then the request."""
    render = packaged(_PACKAGE, "rewrite.j2")
    turns = []
    for instruction, rewritten in rng.sample(demonstrations(), DEMONSTRATED):
        turns += [Message("user", render(instruction=instruction)), Message("assistant", rewritten)]
    return (*turns, Message("user", render(instruction=base)))


@lru_cache(maxsize=1)
def demonstrations() -> tuple[tuple[str, str], ...]:
    """Instructions of other tasks with rewrites of them, which show a small model what is wanted."""
    lines = files(_PACKAGE).joinpath("rewrites.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("\t") for line in lines)
    return tuple((instruction, rewritten) for instruction, _, rewritten in pairs)


def polished(text: str) -> str:
    """The text without bold marks, control characters and outer blanks, its first letter a capital (reference code)."""
    text = "".join(char for char in clean(text).replace("**", "") if char.isprintable()).strip()
    return text[:1].upper() + text[1:] if len(text) > 1 else text
