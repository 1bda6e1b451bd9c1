"""What the backward model is asked for, and how its answers are read: new prompts (B_π) and hidden texts (q).

Text in, text out: no call is made here. Every random choice comes from a generator of its own index, so that no request
depends on how many others there are (DLN, section 3 and algorithm 2; the reference draws from one unseeded generator).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from asyncopt.codec import clean
from asyncopt.optimizers.dln.roles import Case, Posterior, Templates
from asyncopt.optimizers.rewriting import rewrite
from asyncopt.values import Message, Prompt

LONGEST = 10_000  # characters of a prompt; a server may go on for longer than it was asked to

_LABEL = re.compile(r"^(?:(?:new|improved|better) )?instruction\s*:\s*", re.IGNORECASE)
_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"))


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """One request for a new prompt: the prompt it starts from, the wish, and the cases in the order of showing.

    ``turns`` is a request for the base in other words, which shows no cases and takes the place of all this.
    """

    base: str
    message: str
    cases: tuple[Case, ...]
    turns: tuple[Message, ...] = ()

    def prompt(self, templates: Templates) -> Prompt:
        """What the backward model is asked."""
        return self.turns or templates.proposal(self.base, self.cases, self.message)

    def shrunk(self) -> PromptRequest | None:
        """The same request without its last case, for a model that finds it too large; None where only one is left."""
        return replace(self, cases=self.cases[:-1]) if len(self.cases) > 1 else None


def prompt_requests(
    templates: Templates,
    bases: Sequence[str],
    batch: Sequence[Case],
    count: int,
    rng: Callable[[int], Random],
    *,
    half: bool = False,
) -> list[PromptRequest]:
    """``count`` requests (N - 1 in a step of N prompt samples) for a layer whose batch this is.

    Request i starts from base i mod len(bases), where the bases are the current prompt and those in memory, has
    message i mod 4, and shows the batch in an order drawn from ``rng(i)``; with ``half`` only the first half of that
    order, at least one case, so that candidates are also ranked on cases that their requests did not show (reference
    code: held-out prompt ranking).
    """
    messages = templates.messages("proposal") or ("",)
    shown = max(1, len(batch) // 2) if half else len(batch)
    requests = []
    for index in range(count):
        base, chance = bases[index % len(bases)], rng(index)
        cases = tuple(chance.sample(batch, len(batch))[:shown])
        # An empty prompt has no other words.
        turns = rewrite(base, chance) if base and templates.proposal_form == "rewrite" else ()
        requests.append(PromptRequest(base, messages[index % len(messages)], cases, turns))
    return requests


@dataclass(frozen=True, slots=True)
class HiddenRequest:
    """One request for a hidden text: that of sample ``sample`` (j) for the example at place ``example`` (i)."""

    example: int
    sample: int
    kind: Posterior
    text: str


def hidden_requests(
    templates: Templates,
    mixture: Sequence[Posterior],
    batch: Sequence[Case],
    prompts: tuple[str, str],
    samples: int,
    rng: Callable[[int, int], Random],
    *,
    wrong_only: bool = False,
) -> list[HiddenRequest]:
    """The requests for ``samples`` (K) hidden texts of every example, by example and then by sample.

    ``batch`` has x, the forward h and y of each example; ``prompts`` are π0 and π1. Sample (i, j) is asked for with a
    template that ``rng(i, j)`` chooses uniformly from ``mixture``, and with message j mod n. With ``wrong_only`` the
    examples of loss 0 are left out: their hidden texts stay the forward ones (reference: rewrite loss only).
    """
    messages = templates.messages("posterior_edit")
    prompt, next_prompt = prompts
    requests = []
    for example, case in enumerate(batch):
        for sample in range(0 if wrong_only and case.loss == 0 else samples):
            kind = rng(example, sample).choice(mixture)
            text = templates.posterior(kind, case, prompt, next_prompt, messages[sample % len(messages)])
            requests.append(HiddenRequest(example, sample, kind, text))
    return requests


def read_prompt(answer: str, stop: Sequence[str]) -> str | None:
    """The prompt that an answer proposes; None where it proposes nothing, or more than ``LONGEST`` characters.

    The answer is cut at the first of the ``stop`` texts, which not every server knows; a quotation mark of a block, a
    label, quotation marks around the whole and unprintable characters are taken off.
    """
    text = "".join(map(_shown, _cut(answer, stop)))
    text = _LABEL.sub("", text.removeprefix(">").strip())
    for opening, closing in _QUOTES:
        if len(text) > 1 and text[0] == opening and text[-1] == closing:
            text = text[1:-1]
    text = text.strip()
    return text if 0 < len(text) <= LONGEST else None


def read_hidden(answer: str, stop: Sequence[str]) -> str | None:
    """The hidden text h in an answer, without empty lines; None where there is none.

    A blank line in h would end the input within the output layer's template (the reference joins them too).
    """
    lines = (line.rstrip() for line in _cut(answer, stop).split("\n"))
    return "\n".join(line for line in lines if line) or None


def _cut(answer: str, stop: Sequence[str]) -> str:
    """The answer up to the first stop text; blanks before its first word never are one."""
    text = clean(answer).replace("\r\n", "\n").strip()
    for mark in stop:
        text = text.partition(mark)[0]
    return text.strip()


def _shown(char: str) -> str:
    """The character as a prompt may have it: other blanks become a space, what cannot be seen goes."""
    if char == "\n" or char.isprintable():
        return char
    return " " if char.isspace() else ""
