"""A model whose answers are known beforehand: every instruction has a hidden true accuracy, so regret can be measured.

Nothing here is random: an answer is a function of the seed, the prompt and the draw. Questions and instructions share
their chance as they do in reality, where some items are hard for every prompt: an answer is right if a uniform number
lies below the instruction's accuracy, and for half of the (instruction, question) pairs that number is the question's
own, for the other half the pair's. So the share of right answers is the accuracy, and comparisons on the same questions
are paired.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from asyncopt import codec
from asyncopt.answers import Kind
from asyncopt.tasks.task import Task
from asyncopt.testing.chance import digest_of, fraction, normal
from asyncopt.testing.proposals import propose, small_talk, vary

ANSWERS_VERSION = 1  # raised when the same prompt gets another answer: the identity changes with it

LOWEST, HIGHEST = 0.05, 0.95
_EMPTY_LOGIT = -0.6  # an empty instruction is right for about 37 % of the questions
_WORD_SCALE = 0.4
_SHARED = 0.5
_SHARPNESS = 4.0  # of the probability of a right answer, in its lead over the question's luck
_ON_OTHERS = 0.02  # what a wrong answer has that is not the model's own, beside that one
_MOST_OTHERS = 36  # wrong answers to one question that have a probability: as many as there are labels anywhere

_NONCE = re.compile(r"nonce[=:]\s*([A-Za-z0-9_-]+)")
_FRAME = re.compile(r"^[ \t]*(?:Q|A|Question|Answer|Input|Output):", re.MULTILINE)
_WORD = re.compile(r"[^\W\d_]+")
_OPTION = re.compile(r"\(([A-Z])\)")
_OPPOSITE = {"yes": "no", "true": "false", "valid": "invalid"}
_OPPOSITE |= {no: yes for yes, no in _OPPOSITE.items()}
_LETTERS = str.maketrans("0123456789abcdef", "ghijklmnopqrstuv")
_EMPTY: Mapping[str, Item] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Item:
    """A question that the model knows, and its right answer; ``labels`` are all answers there are, where few."""

    question: str
    target: str
    kind: Kind
    labels: tuple[str, ...] = ()


def items_of(tasks: Iterable[Task]) -> dict[str, Item]:
    """All examples of the tasks as items, by the task's name and the question."""
    return {
        f"{task.name}: {example.input}": Item(example.input, example.target, task.kind, _labels(task, example.target))
        for task in tasks
        for example in (*task.train, *task.validation, *task.test)
    }


def _labels(task: Task, target: str) -> tuple[str, ...]:
    """The first verbalizer of every class; the target stands for its own."""
    labels = [verbalizers.partition("|")[0] for verbalizers in task.classes]
    if labels:
        labels[task.class_of(target)] = target
    return tuple(labels)


class AnswerModel:
    """Answers known questions, meta-prompts and requests for variations; all else gets a few words.

    ``fingerprint`` stands for everything that decides the answers. Where they are ``signed``, each ends in a
    :func:`signature` of its prompt, so that an answer to another prompt is known for one.
    """

    def __init__(self, seed: int, items: Mapping[str, Item] = _EMPTY, *, signed: bool = False) -> None:
        self.seed = seed
        self._signed = signed
        self._by_line: dict[str, list[Item]] = defaultdict(list)
        self._targets: dict[Kind, list[str]] = defaultdict(list)
        for item in items.values():
            if item.question.strip():
                self._by_line[max(map(str.strip, item.question.splitlines()), key=len)].append(item)
                self._targets[item.kind].append(item.target)
        known = sorted([item.question, item.target, item.kind, *item.labels] for item in items.values())
        facts = [ANSWERS_VERSION, seed, known, *(["signed"] if signed else [])]
        self.fingerprint = digest_of(codec.dumps(facts).decode(), 6)

    def true_accuracy(self, instruction: str) -> float:
        """The expected share of right answers under this instruction, in [0.05, 0.95].

        The instruction is all of the prompt but the question: for a task with words of its own in the template, give
        ``task.render(instruction, "")``. Only which words occur counts, whatever their order and case.
        """
        words = sorted(set(_WORD.findall(_bare(instruction).lower())))
        logit = _EMPTY_LOGIT + sum(_WORD_SCALE * normal(self.seed, "word", word) for word in words)
        return LOWEST + (HIGHEST - LOWEST) / (1 + math.exp(-logit))

    def answer(self, prompt: str, draw: str = "") -> str:
        """The model's text for this prompt; ``draw`` tells samples of one prompt apart, empty at temperature 0.

        A nonce in the prompt (``nonce=abc``) comes back at the end of the text.
        """
        return self.judged(prompt, draw)[0]

    def judged(self, prompt: str, draw: str = "", *, bare: bool = False) -> tuple[str, bool]:
        """The text of :meth:`answer`, and whether it is a wrong answer to a known question.

        A ``bare`` answer to a known question has no words around it, so that its first token says which one it is.
        """
        wrong = False
        text = propose(self.seed, prompt, draw)
        if text is None:
            text, wrong = self._on_question(prompt, draw)
            text = f"The answer is {text}." if text is not None and not bare else text
        text = text or vary(self.seed, prompt, draw) or small_talk(self.seed, prompt, draw)
        text += f" {signature(prompt)}" if self._signed and not bare else ""
        nonce = _NONCE.search(prompt)
        return (f"{text} nonce={nonce[1]}" if nonce else text), wrong

    def _on_question(self, prompt: str, draw: str) -> tuple[str | None, bool]:
        item = self._item_in(prompt)
        if item is None:
            return None, False
        lead, wrong = self._lead(item, prompt, draw)
        return (item.target if lead > 0 else wrong), lead <= 0

    def _lead(self, item: Item, prompt: str, draw: str) -> tuple[float, str]:
        """How far the instruction's accuracy is above this question's luck, and the answer where it is below."""
        instruction = prompt.replace(item.question.strip(), "\n", 1)
        pair = (_bare(instruction), item.question)
        shared = fraction(self.seed, "shared", *pair) < _SHARED
        own = fraction(self.seed, "own", *pair, draw)
        luck = fraction(self.seed, "question", item.question) if shared else own
        return self.true_accuracy(instruction) - luck, self._wrong(item, fraction(self.seed, "wrong", *pair, draw))

    def chances(self, prompt: str) -> dict[str, float]:
        """The probabilities of the answers to the known question at the prompt's end; empty if there is none.

        The most probable one is the answer at temperature 0, so that the share of questions where that is the right one
        is the true accuracy; and a better instruction makes every right answer more probable.
        """
        item = self._item_in(prompt) if propose(self.seed, prompt, "") is None else None
        if item is None:
            return {}
        lead, first = self._lead(item, prompt, "")
        target = item.target.strip()
        right = 1 / (1 + math.exp(-_SHARPNESS * lead))
        spread = ((number + 0.5) / _MOST_OTHERS for number in range(_MOST_OTHERS))
        wrong = dict.fromkeys(other for chance in spread if (other := self._wrong(item, chance)) not in (target, first))
        weights = {other: _ON_OTHERS * fraction(self.seed, "other", item.question, other) for other in wrong}
        weights[first] = 1.0
        total = sum(weights.values())
        return {target: right} | {other: (1 - right) * weight / total for other, weight in weights.items()}

    def _item_in(self, prompt: str) -> Item | None:
        # A question stands on lines of its own, but for a label such as "Q: ". The last one is asked, since solved ones
        # stand before it; of two that end together, the longer one is meant.
        found: dict[tuple[int, int], Item] = {}
        for line in prompt.splitlines():
            line = line.strip()
            for key in (line, line.partition(": ")[2]):
                for item in self._by_line.get(key, ()):
                    question = item.question.strip()
                    place = prompt.rfind(question)
                    if place >= 0:
                        found.setdefault((place + len(question), len(question)), item)
        return found[max(found)] if found else None

    def _wrong(self, item: Item, chance: float) -> str:
        target = item.target.strip()
        if item.kind == "number":
            return _other_number(target, chance)
        if item.kind == "choice":
            return _other_option(target, item.question, chance)
        if item.kind == "boolean" and target.lower() in _OPPOSITE:
            return _in_case_of(target, _OPPOSITE[target.lower()])
        if len(item.labels) > 1:
            labels = [label for label in item.labels if label != item.target]
            return labels[int(chance * len(labels))]
        return self._other_text(target, item.kind, chance)

    def _other_text(self, target: str, kind: Kind, chance: float) -> str:
        others = self._targets[kind]
        other = others[int(chance * len(others))].strip()
        apart = other.lower() not in target.lower() and target.lower() not in other.lower()
        return other if apart else "unknown"


def signature(prompt: str) -> str:
    """Letters that no other prompt has, and that no rule of grading takes for an answer."""
    return "signed-" + digest_of(prompt).translate(_LETTERS)


def _bare(instruction: str) -> str:
    without_nonce = _NONCE.sub(" ", instruction)
    return " ".join(_FRAME.sub(" ", without_nonce).split())


def _other_number(target: str, chance: float) -> str:
    shift = int(chance * 9) + 1
    try:
        value = float(target.replace(",", "").lstrip("$"))
    except ValueError:
        return str(shift)
    return f"{value + shift:.10g}" if math.isfinite(value) else str(shift)


def _other_option(target: str, question: str, chance: float) -> str:
    letter = target.strip("()")
    letters = [option for option in dict.fromkeys(_OPTION.findall(question)) if option != letter]
    letters = letters or [option for option in "ABCDE" if option != letter]
    other = letters[int(chance * len(letters))]
    return f"({other})" if target.startswith("(") else other


def _in_case_of(model: str, text: str) -> str:
    if model.isupper():
        return text.upper()
    return text.capitalize() if model[:1].isupper() else text
