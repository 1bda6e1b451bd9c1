"""Zero-shot chain of thought: the model reasons in a first call, and a second one asks for the answer."""

from __future__ import annotations

from dataclasses import replace

from asyncopt.answers import Kind
from asyncopt.tasks.task import Task

# As published (Kojima et al. 2022).
FIRST_WORDS = "Let's think step by step."
_CUE = "Therefore, the answer is"
_CUES: dict[Kind, str] = {"number": "Therefore, the answer (arabic numerals) is"}

REASONING_TOKENS = 256  # at least; tasks whose answers are a word allow for no more than that word


def chain_of_thought(task: Task) -> Task:
    """The task with a call for the reasoning before the one for the answer (Kojima et al. 2022).

    The instruction that asks for the reasoning is the candidate, :data:`FIRST_WORDS` in the paper; it stands where the
    task's template has it. A cue of the task's own is kept. What ends an answer does not end the reasoning, so the task
    loses its stop tokens.
    """
    return replace(
        task,
        final_answer_cue=task.final_answer_cue or _CUES.get(task.kind, _CUE),
        max_tokens=max(task.max_tokens, REASONING_TOKENS),
        stop=(),
    )
