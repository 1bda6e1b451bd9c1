"""``asyncopt run --dry-run``: how many calls, tokens and dollars a run may take, before any of them.

Counted from the configuration alone. Calls and output tokens are the most there can be: every sample is a new
candidate, every answer as long as it may be, nothing is cached. Input tokens are bytes of the real prompts by the usual
ratio; a meta-prompt is counted with a history that is full of starting instructions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from asyncopt import codec
from asyncopt.cli.models import roles
from asyncopt.config import Config, ModelConfig
from asyncopt.evaluate import scoring_request
from asyncopt.limits.estimate import TokenEstimate
from asyncopt.local import is_local
from asyncopt.optimizers.overlap import START, Overlap, is_validated
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Price, Usage

_HISTORY_LINE = 40  # tokens of one scored instruction in a meta-prompt: those found by the paper have 10 to 60
_REQUEST = 200  # tokens of a meta-prompt's own words


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of a run takes at most; ``usd`` is None where the model's price is not known."""

    part: str
    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None


def dry_run(config: Config, *, json: bool) -> None:
    """Print what the run of this configuration may take, and send nothing."""
    parts = planned(config)
    priced = all(part.usd is not None for part in parts)
    total = Part(
        "total",
        sum(part.calls for part in parts),
        sum(part.input_tokens for part in parts),
        sum(part.output_tokens for part in parts),
        sum(part.usd or 0.0 for part in parts) if priced else None,
    )
    if json:
        value = {"event": "dry-run", "parts": [asdict(part) for part in parts], "total": asdict(total)}
        sys.stdout.write(codec.dumps(value).decode() + "\n")
        return
    print(f"{'':12} {'calls':>10} {'input tokens':>14} {'output tokens':>14}  at most; nothing was sent")
    for part in [*parts, total]:
        usd = "" if part.usd is None else f"  ${part.usd:.2f}"
        print(f"{part.part:12} {part.calls:10,} {part.input_tokens:14,} {part.output_tokens:14,}{usd}")


def planned(config: Config) -> list[Part]:
    """The parts of the run: proposals, training, validation and test."""
    task = config.load_task()
    optimizer = config.build_optimizer(task)
    models = roles(config)
    settings = config.optimizer
    samples = settings.samples_per_step if optimizer.steps else 0
    asked = 0 if settings.name == "random" else optimizer.steps * samples * settings.attempts
    if not isinstance(task, Task):
        tokens = _REQUEST + _HISTORY_LINE * (settings.history_size or 20)
        return [_part("proposals", asked, tokens, settings.max_tokens, models.get("proposer"))]
    scorer = models.get("scorer")
    every = optimizer.validate_every if isinstance(optimizer, Overlap) else None
    due = [step for step in range(START, optimizer.steps) if is_validated(step, optimizer.steps, every)]
    validated = sum(len(task.initial) if step == START else samples + 1 for step in due)
    candidates = len(task.initial) + optimizer.steps * samples
    history = _HISTORY_LINE * (settings.history_size or 20)
    exemplars = settings.exemplars * round(_mean_input(task, task.train))
    return [
        _part("proposals", asked, _REQUEST + history + exemplars, settings.max_tokens, models.get("proposer")),
        _scoring("training", candidates, task, task.train, scorer),
        _scoring("validation", validated, task, task.validation, scorer),
        _scoring("test", 2 if optimizer.steps else 1, task, task.test, scorer),
    ]


def _scoring(part: str, candidates: int, task: Task, examples: Sequence[Example], model: ModelConfig | None) -> Part:
    calls = candidates * len(examples) * (2 if task.final_answer_cue else 1)
    return _part(part, calls, round(_mean_input(task, examples)), task.max_tokens, model)


def _mean_input(task: Task, examples: Iterable[Example]) -> float:
    estimate = TokenEstimate()
    sizes = [estimate.of(scoring_request(task, task.initial[0], example))[0] for example in examples]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _part(part: str, calls: int, sent: int, received: int, model: ModelConfig | None) -> Part:
    price = None if model is None else Price() if is_local(model.model) else model.price
    usd = None if price is None else price.of(Usage(calls * sent, calls * received))
    return Part(part, calls, calls * sent, calls * received, 0.0 if not calls else usd)
