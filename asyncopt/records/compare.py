"""Runs beside each other: what each found, and the difference on the held-out examples that they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from asyncopt.records.run import Run
from asyncopt.result import Measured
from asyncopt.stats import Verdict, judged, paired_grades


@dataclass(frozen=True, slots=True)
class Standing:
    """One run: its best candidate, with shares of right answers, or the loss where no model scores; and what it took.

    ``held_out`` is None for a run that has not ended. ``seconds`` is how long it ran, in all sittings.
    """

    directory: str
    task: str
    optimizer: str
    seed: int
    models: Mapping[str, str]
    state: str
    best: str | None
    train: Measured | None
    validation: Measured | None
    held_out: Measured | None
    loss: float | None
    steps: int
    calls: int
    tokens: int
    usd: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Paired:
    """The best candidate of a run against the first run's, on the ``n`` held-out examples that both have a score for.

    ``left_out`` are those that only one has a score for. ``difference`` is its mean grade less the first's, with the
    95 % interval [``low``, ``high``]. ``only_first`` and ``only_this`` count the examples that one of the two alone got
    right. ``p`` is two-sided: McNemar's exact test on these, or Student's on the differences where grades lie between 0
    and 1. ``p_holm`` is p adjusted by Holm for how many runs are paired with the first, and the ``verdict`` is by that,
    at 5 %. All of it is about these candidates and new examples; other seeds may find other candidates.
    """

    directory: str
    n: int
    left_out: int
    difference: float
    low: float
    high: float
    only_first: int
    only_this: int
    p: float
    p_holm: float = 1.0
    verdict: Verdict = "no difference shown"


@dataclass(frozen=True, slots=True)
class Compared:
    """Runs beside each other, each after the first paired with it where that means something.

    ``notes`` say why not, and what else stands against comparing.
    """

    standings: tuple[Standing, ...]
    paired: tuple[Paired, ...]
    notes: tuple[str, ...]


def compare(runs: Sequence[Run]) -> Compared:
    """The runs in their order, and every one against the first."""
    paired, notes = [], []
    if len({run.models["scorer"] for run in runs if "scorer" in run.models}) > 1:
        notes.append("These runs were scored by different models.")
    notes += [f"{run.directory}: {problem}" for run in runs for problem in run.problems]
    for run in runs[1:]:
        found = _paired(runs[0], run)
        if isinstance(found, str):
            notes.append(f"{run.directory} is not paired with {runs[0].directory}: {found}")
        else:
            paired.append(found)
    return Compared(tuple(_standing(run) for run in runs), _judged(paired), tuple(notes))


def _judged(paired: Sequence[Paired]) -> tuple[Paired, ...]:
    found = judged([(one.difference, one.p) for one in paired])
    return tuple(replace(one, p_holm=p, verdict=verdict) for one, (p, verdict) in zip(paired, found, strict=True))


def _standing(run: Run) -> Standing:
    best = None if run.result is None else run.result.best
    spent = run.spent[-1] if run.spent else None
    score = None if run.best is None else run.best.score
    train = None if best is None else best.train
    if train is None and run.maximize and run.best is not None and score is not None:
        train = Measured.of(score * run.best.examples, run.best.examples)
    return Standing(
        directory=str(run.directory),
        task=run.task,
        optimizer=run.optimizer,
        seed=run.seed,
        models=run.models,
        state=run.state,
        best=None if run.best is None else run.best.candidate,
        train=train,
        validation=None if best is None else best.validation,
        held_out=None if best is None else best.held_out,
        loss=None if run.maximize else score,
        steps=sum(step.step >= 0 for step in run.steps),
        calls=0 if spent is None else spent.calls,
        tokens=0 if spent is None else spent.tokens,
        usd=0.0 if spent is None else spent.usd,
        seconds=0.0 if spent is None else spent.seconds,
    )


def _paired(first: Run, other: Run) -> Paired | str:
    """The difference, or why there is none."""
    if first.task != other.task:
        return f"its task is {other.task} and not {first.task}"
    if first.fingerprint != other.fingerprint:
        return "its data, or how they are split, are others"
    if not first.maximize:
        return "a problem that no model scores has no held-out examples"
    one, two = _held_out(first), _held_out(other)
    common = sorted(one.keys() & two.keys())
    if not common:
        return "there are no held-out answers of both; a run has them when it has ended and kept its trace"
    pairs = [(one[number], two[number]) for number in common]
    left_out = len(one.keys() | two.keys()) - len(common)
    return Paired(str(other.directory), len(pairs), left_out, *paired_grades(pairs))


def _held_out(run: Run) -> dict[int, float]:
    """The best candidate's grades on the held-out examples that have one, by number."""
    if run.best is None or run.result is None:
        return {}
    answers = (answer for answer in run.answers(run.best.candidate) if answer.fold == "test")
    return {answer.example: answer.score for answer in answers if answer.score is not None}
