"""BIG-Bench Hard as EvoPrompt asks it: three worked examples, with the candidate where a chain of thought begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random

from asyncopt.errors import DataError
from asyncopt.tasks import bbh
from asyncopt.tasks.evoprompt.files import content_of, lines_of, pool, seed_option
from asyncopt.tasks.options import wrong_option
from asyncopt.tasks.splits import Dealt, dealt_task
from asyncopt.tasks.task import Example, Task

TRAIN = 50
OWN = ("split_seed", "auto_prompts")

_SEED = 10  # the reference's only one
_SLOT = "<prompt>"
_SYSTEM = "Answer the question in the manner of the examples before it."


def summary_of(stem: str) -> str:
    """One line about a task for people."""
    return f"{stem.replace('_', ' ')}, of BIG-Bench Hard, as EvoPrompt asks it: three examples, a chain of thought"


def load(stem: str, data: Path | None, options: Mapping[str, object]) -> Task:
    """The task with the reference's draw of 50 scoring examples, by ``split_seed``, and the rest for the test.

    With ``auto_prompts`` the repository's generated instructions for this task join the pool. The examples are those of
    ``bbh/<task>.json``.
    """
    name = f"evoprompt/{stem}"
    seed = seed_option(name, options, _SEED)
    path = f"BBH/lib_prompt/{stem}.txt"
    return dealt_task(
        name,
        _dealt(bbh.examples(stem, data), seed),
        options,
        own=OWN,
        kind=bbh.kind_of(stem),
        description=f"The task {stem.replace('_', ' ')} of BIG-Bench Hard, with a chain of thought.",
        template=template("\n".join(lines_of(content_of(path, data), path)), path),
        initial=pool(_pools(name, stem, options), data, options),
        answers="evoprompt_compat",
        system=_SYSTEM,
    )


def template(examples: str, path: str) -> str:
    """The prompt with these worked examples before the question; the candidate stands in each of their slots.

    Their text is no template itself: braces in it stay what they are.
    """
    if _SLOT not in examples:
        raise DataError(f"{path} has no {_SLOT}; wanted worked examples with it where their reasoning begins")
    literal = examples.strip("\n").replace("{", "{{ '{' }}").replace(_SLOT, "{{ instruction }}")
    return f"{literal}\n\nQ: {{{{ input }}}}\nA: {{{{ instruction }}}}"


def _dealt(examples: list[Example], seed: int) -> Dealt:
    drawn = [examples[index] for index in Random(seed).sample(range(len(examples)), TRAIN)]
    # As in the reference, a question that is scored on is not in the test, wherever else it stands in the file.
    seen = {(example.input, example.target) for example in drawn}
    return Dealt(tuple(drawn), (), tuple(one for one in examples if (one.input, one.target) not in seen))


def _pools(name: str, stem: str, options: Mapping[str, object]) -> list[str]:
    auto = options.get("auto_prompts", False)
    if not isinstance(auto, bool):
        raise wrong_option(name, "auto_prompts", auto, "true or false")
    return ["BBH/prompts.txt", *([f"BBH/auto_prompts/{stem}.txt"] if auto else [])]
