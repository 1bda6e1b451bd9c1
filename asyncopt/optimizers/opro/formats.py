"""The three forms of the meta-prompt for instructions, in words of our own (OPRO, appendix C; reference code)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from asyncopt.optimizers.history import Entry
from asyncopt.optimizers.opro.options import MetaPromptOptions
from asyncopt.tasks.task import Example, Task
from asyncopt.templates import packaged

PROMPTS = "asyncopt.optimizers.opro.prompts"
_TEMPLATES = {"instruction-tuned": "instructions.j2", "gpt": "gpt.j2", "pre-trained": "pretrained.j2"}

_INS, _START, _TEXT = ("<INS>", "</INS>"), ("<Start>", "</Start>"), ("<TEXT>", "</TEXT>")
MARKS = (*_INS, *_START, *_TEXT)
_PLACES = {
    "before_Q": "before the question",
    "Q_begin": "at the beginning of the question",
    "Q_end": "at the end of the question",
    "A_begin": "at the beginning of the answer",
}
_TOPICS = {"gsm8k": "grade school mathematics", "aqua": "algebra", "multiarith": "arithmetic"}

_BRACKETED = re.compile(r"\[([^\[\]\n]*)\]")
_SENTENCE = r"[A-Z] [^\[\]<>\n]{12,200}"


def tags_of(options: MetaPromptOptions, task: Task) -> tuple[str, str]:
    """What a proposal stands between in the model's answer."""
    if options.meta_prompt == "pre-trained":
        return _TEXT
    if options.meta_prompt == "instruction-tuned":
        return "[", "]"
    return _START if task.position == "A_begin" else _INS


def grammar_of(options: MetaPromptOptions, task: Task) -> str | None:
    """A GBNF grammar of the answer; None in faithful mode, since the reference lets the model say what it likes."""
    opening, closing = tags_of(options, task)
    return None if options.faithful else f'root ::= "{opening}" {_SENTENCE} "{closing}"'


def render(options: MetaPromptOptions, task: Task, history: Sequence[Entry], exemplars: Sequence[Example]) -> str:
    """The meta-prompt that shows this history, in its order, and these exemplars."""
    opening, closing = tags_of(options, task)
    placeholder = opening if options.meta_prompt == "gpt" else _INS[0]
    buckets = options.score_buckets
    return packaged(PROMPTS, _TEMPLATES[options.meta_prompt])(
        history=[{"text": entry.candidate, "score": _shown(options, entry)} for entry in history],
        exemplars=[{"input": task.render(placeholder, one.input), "target": one.target} for one in exemplars],
        exemplars_first=options.exemplars_first,
        order=options.history_order,
        top=None if buckets == "none" else 1 if buckets == "infinite" else buckets,
        opening=opening,
        closing=closing,
        framed=task.frame,
        starts_answer=task.position == "A_begin",
        place=_PLACES[task.position],
        topic=_topic(task),
    )


def read(options: MetaPromptOptions, task: Task, answer: str) -> str | None:
    """What the model proposes in its answer, as it stands there; None where the answer holds no proposal."""
    if options.meta_prompt == "instruction-tuned":
        return _first_bracketed(answer) if options.faithful else _innermost_bracketed(answer)
    within = _within if options.meta_prompt == "pre-trained" else _loosely_within
    text = within(answer, *tags_of(options, task))
    # On one line: a line break in a candidate could pass for the next entry of the history that shows it.
    return text if text is None or options.faithful else " ".join(text.split())


def _shown(options: MetaPromptOptions, entry: Entry) -> int | float | None:
    """The score as the meta-prompt has it: a bucket's number, or a share with the reference's decimals."""
    score = entry.score or 0.0
    if options.score_buckets == "infinite":
        return round(score, 2 if options.meta_prompt == "pre-trained" else 3)
    return None if isinstance(options.score_buckets, str) else round(options.score_buckets * score)


def _topic(task: Task) -> str:
    name = task.name.rpartition("/")[2]
    return _TOPICS.get(task.name, name.replace("_", " ").replace("-", " "))


def _innermost_bracketed(answer: str) -> str:
    found = _BRACKETED.search(answer)
    return found.group(1) if found else ""


def _first_bracketed(answer: str) -> str:
    # What the pattern `\[(.*?)\]` finds, which would take quadratic time on a line of opening brackets.
    for line in answer.split("\n"):
        opening = line.find("[")
        closing = line.find("]", opening) if opening >= 0 else -1
        if closing >= 0:
            return line[opening + 1 : closing]
    return ""


def _within(answer: str, opening: str, closing: str) -> str | None:
    _, opened, rest = answer.partition(opening)
    text, closed, _ = rest.partition(closing)
    return text if opened and closed else None


def _loosely_within(answer: str, opening: str, closing: str) -> str:
    """What stands between the first of each; an answer without tags is taken whole, talk included (reference code)."""
    start, end = answer.find(opening), answer.find(closing)
    return answer[start + len(opening) if start >= 0 else 0 : end if end >= 0 else len(answer)]
