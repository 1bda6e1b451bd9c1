"""Reading the answer out of a model's text and comparing it with the right one.

By one of four sets of rules: ``strict``, made for new work, or ``opro_compat``, ``dln_compat`` and
``evoprompt_compat``, which repeat the reference codes of OPRO, of Deep Language Networks and of EvoPrompt with all
their slips, because published scores were measured with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from asyncopt.answers import dln_compat, evoprompt_compat, opro_compat, strict
from asyncopt.answers.strict import KINDS, Kind
from asyncopt.errors import ConfigError

__all__ = ["ANSWERS", "KINDS", "Answers", "Kind", "grade", "parse"]

Answers: TypeAlias = Literal["strict", "opro_compat", "dln_compat", "evoprompt_compat"]
ANSWERS: tuple[Answers, ...] = get_args(Answers)


def grade(
    kind: Kind,
    answer: str,
    target: str,
    *,
    answers: Answers = "strict",
    prompt: str = "",
    after_cue: bool = False,
    classes: Sequence[str] = (),
) -> float:
    """1.0 if the answer is right, else 0.0. An answer that states nothing is wrong; no text raises.

    ``prompt`` is what the scorer was asked, in which the reference's rules look for the texts of the options.
    ``after_cue`` says that the answer continues a cue at the end of a second prompt ("So the final answer is"); to
    ``dln_compat`` and ``evoprompt_compat``, whose references ask once, it makes no difference. ``classes`` are the
    task's, each as ``yes|Yes``, of which ``evoprompt_compat`` looks for the first in a text.
    Raises :class:`ConfigError` for a kind or rules that there are not.
    """
    _check(kind, answers)
    if answers == "strict":
        return float(strict.right(kind, answer, target, after_cue=after_cue))
    if answers == "dln_compat":
        return float(dln_compat.right(kind, answer, target))
    if answers == "evoprompt_compat":
        return float(evoprompt_compat.right(kind, answer, target, classes))
    return float(opro_compat.right(kind, answer, target, prompt=prompt, after_cue=after_cue))


def parse(
    kind: Kind, answer: str, *, answers: Answers = "strict", after_cue: bool = False, classes: Sequence[str] = ()
) -> str:
    """What the rules take for the answer in the text, for people to read; empty where there is none."""
    _check(kind, answers)
    if answers == "strict":
        return strict.parse(kind, answer, after_cue=after_cue)
    if answers == "dln_compat":
        return dln_compat.parse(kind, answer)
    if answers == "evoprompt_compat":
        return evoprompt_compat.parse(kind, answer, classes)
    return opro_compat.parse(kind, answer, after_cue=after_cue)


def _check(kind: str, answers: str) -> None:
    if answers not in ANSWERS:
        raise ConfigError(f"the rules for answers are {answers!r}; they must be one of {', '.join(ANSWERS)}")
    if kind not in KINDS:
        raise ConfigError(f"the kind of answer is {kind!r}; it must be one of {', '.join(KINDS)}")
