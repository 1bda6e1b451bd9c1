"""``--dry-run``: a plan without pilot calls, and how many calls, tokens and dollars a run or a sweep takes at most.

The most is counted from the configuration alone: every sample is a new
candidate, every answer as long as it may be, nothing is cached. Input tokens are bytes of the real prompts by the usual
ratio, with instructions of the length that the paper's have, and meta-prompts with a full history.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random

from asyncopt import codec
from asyncopt.cli.expected import expected, lines_of
from asyncopt.cli.models import roles
from asyncopt.config import Config, ModelConfig
from asyncopt.errors import ConfigError
from asyncopt.evaluation import FINAL_ANSWER_TOKENS, final_answer_request, scoring_request
from asyncopt.forecast.asking import Asking, Shown, asking_of
from asyncopt.limits.estimate import BYTES_PER_TOKEN, TokenEstimate
from asyncopt.local import is_local
from asyncopt.optimizers import OPRO
from asyncopt.optimizers.base import AnyTask, Seen
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.opro.optimizer import domain_of
from asyncopt.optimizers.overlap import START, Overlap, is_validated
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Generate, Price, Usage

_NETWORKS = ("dln1", "dln2")
_INSTRUCTION = "x" * 160  # 40 tokens: those found by the paper have 10 to 60


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of a run takes at most; ``usd`` is None where the model's price is not known."""

    part: str
    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None


def dry_run(configs: Sequence[Config], budget: Mapping[str, float | None], at_once: int = 1, *, json: bool) -> None:
    """Print what the runs of these configurations, so many at once, will and may take together, and send nothing."""
    found = expected(configs, {}, at_once)
    every = [part for config in configs if _is_counted(config) for part in planned(config)]
    names = dict.fromkeys(part.part for part in every)
    parts = [_sum(name, [part for part in every if part.part == name]) for name in names]
    total = _sum("total", every)
    if json:
        value: dict[str, object] = {"event": "dry-run", "studies": len(configs)}
        if every:
            value |= {"parts": [asdict(part) for part in parts], "total": asdict(total)}
        value |= {"expected": found.to_json(budget)}
        sys.stdout.write(codec.json_line(value))
        return
    head = f"{len(configs)} studies" if len(configs) > 1 else ""
    counted = sum(map(_is_counted, configs))
    if 0 < counted < len(configs):
        print(f"the most is counted of {counted} studies alone: how often networks ask depends on what they find")
    print(f"{head:12} {'calls':>10} {'input tokens':>14} {'output tokens':>14}  at most; nothing was sent")
    for part in [*parts, total] if every else []:
        usd = "" if part.usd is None else f"  ${part.usd:.2f}"
        print(f"{part.part:12} {part.calls:10,} {part.input_tokens:14,} {part.output_tokens:14,}{usd}")
    print("\n".join(lines_of(found, budget, pilot=False)))


def _is_counted(config: Config) -> bool:
    """Whether there is a count of the most that it takes: how often networks ask depends on what they find."""
    return config.optimizer.name not in _NETWORKS


def _sum(name: str, parts: Sequence[Part]) -> Part:
    calls, sent = sum(part.calls for part in parts), sum(part.input_tokens for part in parts)
    priced = all(part.usd is not None for part in parts)
    usd = sum(part.usd or 0.0 for part in parts) if priced else None
    return Part(name, calls, sent, sum(part.output_tokens for part in parts), usd)


def planned(config: Config) -> list[Part]:
    """The parts of the run: proposals, the answers shown in them that no cache has, training, validation and test."""
    task = config.load_task()
    optimizer = config.build_optimizer(task)
    if not isinstance(optimizer, Overlap):
        raise ConfigError(
            f"the most is not counted of {optimizer.name}, whose calls depend on what it finds; `asyncopt plan` "
            "expects its calls"
        )
    asking = asking_of(task, optimizer)
    wanted = [_wanted(asking, step) for step in range(optimizer.steps)]
    proposals = _proposals(optimizer, asking, task, sum(wanted), roles(config).get("proposer"))
    if not isinstance(task, Task):
        return [proposals]
    scorer = roles(config).get("scorer")
    starts = len(task.initial) if asking is None else asking.starts
    due = [step for step in range(START, len(wanted)) if is_validated(step, len(wanted), optimizer.validate_every)]
    validated = sum(starts if step == START else wanted[step] + 1 for step in due)
    again = 0 if asking is None or config.use_cache else asking.again
    shown = [_scoring("shown", proposals.calls, task, task.train[:again], scorer)] if again else []
    return [
        proposals,
        *shown,
        _scoring("training", _tried(optimizer, task, starts + sum(wanted)), task, task.train, scorer),
        _scoring("validation", validated, task, task.validation, scorer),
        _scoring("test", 2 if optimizer.steps else 1, task, task.test, scorer),
    ]


def _wanted(asking: Asking | None, step: int) -> int:
    """How many proposals the step asks for."""
    return 0 if asking is None else sum(asking.wanted(step, index) for index in range(asking.samples))


def _tried(optimizer: Overlap, task: Task, candidates: int) -> int:
    """How many of these there are at most; those that a race stops take less of the scoring calls than all examples."""
    if optimizer.scoring_calls is None or optimizer.racing is not None:
        return candidates
    return min(candidates, optimizer.scoring_calls // max(len(task.train), 1))


def _proposals(
    optimizer: Overlap, asking: Asking | None, task: AnyTask, wanted: int, model: ModelConfig | None
) -> Part:
    if asking is None:
        return _part("proposals", 0, 0, 0, model)
    calls = wanted * asking.attempts
    if isinstance(optimizer, OPRO):
        sent = _tokens(_meta_prompt(optimizer, task)) if calls else 0.0
    else:
        answer = task.max_tokens if isinstance(task, Task) else 0
        sent = asking.tokens(Shown(calls, calls, len(_INSTRUCTION) / BYTES_PER_TOKEN, answer))
    return _part("proposals", calls, round(calls * sent), calls * asking.most, model)


def _meta_prompt(optimizer: OPRO, task: AnyTask) -> Generate:
    """The meta-prompt with a full history, or where all of it is shown, with half of what there will be."""
    half = optimizer.steps * optimizer.samples_per_step // 2
    shown = half if optimizer.meta_prompt == "pre-trained" else optimizer.history_size
    rng = Random(0)
    texts = [_INSTRUCTION if isinstance(task, Task) else task.random(rng) for _ in range(shown)]
    losses = [1.0 if isinstance(task, Task) else task.loss_of(text) for text in texts]
    entries = [Entry(text, loss, START, 0, 1) for text, loss in zip(texts, losses, strict=True)]
    seen = Seen(0, History(maximize=isinstance(task, Task), entries=entries))
    # Other criteria show nothing until something has gone wrong.
    domain = domain_of(task, optimizer.styles, replace(optimizer, exemplar_choice="random"), 0)
    return Generate.of(domain.ask("meta-prompt", entries, seen, rng).prompt)


def _scoring(part: str, candidates: int, task: Task, examples: Sequence[Example], model: ModelConfig | None) -> Part:
    calls, sent = candidates * len(examples), sum(_tokens(scoring_request(task, _INSTRUCTION, one)) for one in examples)
    received = task.max_tokens
    if task.final_answer_cue:  # the second call sends the first answer back
        again = sum(_tokens(final_answer_request(task, _INSTRUCTION, one, "")) for one in examples)
        sent += again + len(examples) * task.max_tokens
        calls, received = 2 * calls, received + FINAL_ANSWER_TOKENS
    return _part(part, calls, round(candidates * sent), candidates * len(examples) * received, model)


def _tokens(request: Generate) -> float:
    return TokenEstimate().of(request)[0]


def _part(part: str, calls: int, sent: int, received: int, model: ModelConfig | None) -> Part:
    price = None if model is None else Price() if is_local(model.model) else model.price
    usd = None if price is None else price.of(Usage(sent, received))
    return Part(part, calls, sent, received, 0.0 if not calls else usd)
