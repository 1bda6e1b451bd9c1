"""In-context learning: solved training examples stand before the query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from asyncopt.baselines.choices import Choice
from asyncopt.errors import ConfigError
from asyncopt.evaluation import PROMPTED
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Completion, Generate


class FewShot:
    """How a candidate answers an example after ``shots`` solved ones, which ``choice`` picks from the training split.

    A demonstration is the task's prompt without an instruction, and the right answer; a blank line follows it, and the
    candidate stands with the query alone (as in the reference code of Deep Language Networks). A training example with
    the query's own input is passed over. Raises :class:`ConfigError` where there are too few others.
    """

    def __init__(self, task: Task, shots: int, choice: Choice) -> None:
        if shots < 1:
            raise ConfigError(f"there are to be {shots} demonstrations; it must be at least 1, or no few-shot program")
        self._inputs = Counter(example.input for example in task.train)
        most = len(task.train) - max(self._inputs.values(), default=0)
        if shots > most:
            raise ConfigError(
                f"{shots} demonstrations are wanted, and {task.name} has {len(task.train)} training examples, which is "
                f"enough for {most} beside a query that may be among them; ask for fewer"
            )
        if task.answers == "opro_compat" and task.kind == "choice":
            raise ConfigError(
                f"the answers of {task.name} are opro_compat, which reads the options out of the prompt and would read "
                "those of the demonstrations; choose strict"
            )
        self._shots = shots
        self._choice = choice
        self._shown: dict[str, str] = {}

    def __str__(self) -> str:
        return f"{self._shots}-shot, {self._choice.label}"

    def first(self, task: Task, candidate: str, example: Example) -> Generate:
        return self._after_demonstrations(task, example, PROMPTED.first(task, candidate, example))

    def after(self, task: Task, candidate: str, example: Example, completions: Sequence[Completion]) -> Generate | None:
        request = PROMPTED.after(task, candidate, example, completions)
        return None if request is None else self._after_demonstrations(task, example, request)

    def answer(self, task: Task, completions: Sequence[Completion]) -> str:
        return PROMPTED.answer(task, completions)

    def demonstrations(self, task: Task, text: str) -> list[Example]:
        """The training examples that stand before this query, in their order."""
        picked = self._choice.pick(text, self._shots + self._inputs[text])
        return [task.train[place] for place in picked if task.train[place].input != text][: self._shots]

    def _after_demonstrations(self, task: Task, example: Example, request: Generate) -> Generate:
        shown = self._shown.get(example.input)
        if shown is None:  # a query is asked about with every candidate, and retrieval may be slow
            solved = (_solved(task, one) for one in self.demonstrations(task, example.input))
            shown = self._shown[example.input] = "\n\n".join(solved)
        *before, last = request.prompt
        return replace(request, prompt=(*before, replace(last, content=f"{shown}\n\n{last.content}")))


def _solved(task: Task, example: Example) -> str:
    prompt = task.render("", example.input).strip()
    # After a cue such as "A:" the answer follows on its line, and after a bare question on the next one.
    return f"{prompt}{' ' if prompt.endswith(':') else chr(10)}{example.target}"
