"""Runs for those who read run directories: a toy study, kept with its trace, on a virtual clock."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from fakes import FakeEndpoint, run_virtual

from asyncopt import OPRO, Engine, Example, Quota, Result, Study, Task
from asyncopt.activity import Activity
from asyncopt.endpoints.protocol import Answer
from asyncopt.values import Completion, Fault, FaultKind, Generate, Usage

EXAMPLES = tuple(Example(100 + number, f"q{number}", f"a{number}") for number in range(40))
TASK = Task(
    "toy", "text", train=EXAMPLES[:12], test=EXAMPLES[20:], validation=EXAMPLES[12:20], initial=("Start.",),
    fingerprint="f",
)  # fmt: skip
REFUSED = "q3"  # the question that the model does not answer


class Toy:
    """Proposes ``Idea N``, or the texts that are given, and answers with a chance that the instruction decides."""

    def __init__(self, proposals: tuple[str, ...] = (), answer: str = "wrong") -> None:
        self._proposals = list(proposals)
        self._answer = answer

    def __call__(self, request: Generate, number: int) -> Answer:
        prompt = request.prompt[0].content
        usage = Usage(len(prompt) // 4, 2)
        if "square brackets" in prompt:
            text = self._proposals.pop(0) if self._proposals else f"Idea {(request.sampling.seed or 0) % 1000}"
            return Completion(f"[{text}]", usage=usage)
        instruction, question = prompt.rsplit("\n", 1)
        if question == REFUSED:
            return Fault(FaultKind.REFUSED, "not this one", usage=usage)
        right = Random(prompt).random() < Random(instruction).random()
        return Completion(f"a{question[1:]}" if right else self._answer, usage=usage)


def recorded(
    directory: Path,
    toy: Toy | None = None,
    *,
    seconds: float = 0.5,
    optimizer: OPRO | None = None,
    task: Task = TASK,
    **options: Any,
) -> tuple[Study, Result]:
    """A finished study in this directory, with its trace and its activity."""

    async def main() -> tuple[Study, Result]:
        async with Engine() as engine:
            endpoint = FakeEndpoint(toy or Toy(), seconds=seconds)
            model = engine.model("m", endpoint=endpoint, quota=Quota(requests_per_minute=6e4, concurrency=8))
            study = Study(
                task=task,
                optimizer=optimizer or OPRO(steps=3, samples_per_step=3, validate_every=1),
                scorer=model,
                proposer=model,
                directory=directory,
                trace=True,
                **options,
            )
            with Activity(directory, engine, study.account):
                return study, await study.run()

    return run_virtual(main)
