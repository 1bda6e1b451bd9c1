"""``asyncopt eval``: given instructions scored on a fold of a task, and held against the first of them."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias, get_args

from asyncopt import codec
from asyncopt.assess import Assessed, Assessment, Comparison, evaluate_instructions
from asyncopt.baselines import CHOICES, FIRST_WORDS, FewShot, chain_of_thought, choice_of
from asyncopt.cli.display import Display
from asyncopt.cli.display_choice import ShownAs, choose_display
from asyncopt.cli.items import make_folder, write_files
from asyncopt.cli.models import check_batched, check_model, open_models, start_local_servers
from asyncopt.cli.run import cache_path, coordinator_of
from asyncopt.cli.signals import Stop, run_in_loop
from asyncopt.cli.summary import Attribution, attribution_lines, judgement, points, share
from asyncopt.config import Config
from asyncopt.directory import read_journal
from asyncopt.engine import Engine
from asyncopt.errors import AsyncoptError, ConfigError, DataError
from asyncopt.evaluation import PROMPTED, Program
from asyncopt.events import Event, Events, ExampleEnded
from asyncopt.files import cache_folder
from asyncopt.records import load_run
from asyncopt.records.read import read_manifest
from asyncopt.result import result_of
from asyncopt.tasks.task import Fold, Task
from asyncopt.telemetry import observing

LARGEST_FILE = 1 << 20
# An evaluation has no proposals, so what a configuration says about proposing is not asked for.
NO_SEARCH: Mapping[str, Any] = {"optimizer.name": "random"}

Ended: TypeAlias = tuple[Assessment, list[Attribution]]


# -- what was given ----------------------------------------------------------------------------------------------------


def read_instructions(
    given: Iterable[str], file: Path | None, runs: Sequence[Path], usual: Sequence[str] = (), top: int = 1
) -> list[str]:
    """The instructions of the command line (``@path`` is the text in a file), of a file, and the ``top`` ones of runs.

    Where there are none at all, the ``usual`` ones.
    """
    if top > 1 and not runs:
        raise ConfigError("--top says how many of a run's best are meant, and there is no run; add --run DIR")
    instructions = [_text_of(Path(text[1:])).removesuffix("\n") if text[:1] == "@" else text for text in given]
    instructions += [] if file is None else _in_file(file)
    instructions += [text for run in runs for text in _best_of(run)[:top]]
    instructions = instructions or list(usual)
    if not instructions:
        raise ConfigError("there is no instruction to evaluate; give some, or --file, or --run ('' is an empty one)")
    return instructions


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path} is larger than 1 MiB; instructions are a few lines")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give the path of a file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; instructions are") from None


def _in_file(path: Path) -> list[str]:
    """One instruction a line. In JSON lines one may have several lines, or be empty; in plain text it may not."""
    lines = [line for line in _text_of(path).split("\n") if line.strip()]
    return [_from_json(line, path) for line in lines] if path.suffix == ".jsonl" else lines


def _from_json(line: str, path: Path) -> str:
    try:
        value = codec.loads(line.encode())
    except codec.CodecError:
        value = None
    text = value.get("instruction") if isinstance(value, dict) else value
    if not isinstance(text, str):
        wanted = 'a text in quotes, or {"instruction": "..."}'
        raise DataError(f"{path} has the line {codec.printable(line, 60)}; wanted {wanted}")
    return text


def _best_of(directory: Path) -> list[str]:
    """What the search has chosen, then the other instructions by their training scores; the earlier of equals first."""
    read_manifest(directory)  # or a sweep's folder would be called a run that has not begun
    finished = [record for record in read_journal(directory) if record.kind == "finished"]
    if not finished:
        raise ConfigError(
            f"the run in {directory} has no result yet; go on with: asyncopt resume {shlex.quote(str(directory))}"
        )
    best = result_of(finished[-1].data).best
    if best is None or best.train is None:
        raise ConfigError(f"the run in {directory} did not search for instructions; give one that did")
    scored = [one for one in load_run(directory).candidates if one.complete and one.score is not None]
    ranked = sorted(scored, key=lambda one: (-(one.score or 0.0), one.step, one.index))
    return list(dict.fromkeys([best.candidate, *(one.candidate for one in ranked)]))


# -- the way of answering ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the command line adds to the instructions: demonstrations, or a chain of thought (``name`` is ``cot``)."""

    name: str | None = None
    shots: int | None = None
    shots_by: str | None = None

    def __post_init__(self) -> None:
        if self.name not in (None, "cot"):
            raise ConfigError(f"--baseline is {self.name!r}; it must be cot, and --shots N is for demonstrations")
        if self.shots_by not in (None, *CHOICES):
            raise ConfigError(f"--shots-by is {self.shots_by!r}; it must be one of {', '.join(CHOICES)}")
        if self.shots_by is not None and self.shots is None:
            raise ConfigError("--shots-by says which demonstrations and not how many; add --shots, such as --shots 5")
        if self.name is not None and self.shots is not None:
            raise ConfigError("--baseline cot is zero-shot: demonstrations here have no reasoning; leave --shots out")

    @property
    def instructions(self) -> list[str]:
        """Those that are meant where none are given."""
        return [] if self.name is None else [FIRST_WORDS]

    def applied(self, task: Task, seed: int) -> tuple[Task, Program]:
        """The task as it is to be asked, and how."""
        if self.name is not None:
            return chain_of_thought(task), PROMPTED
        if self.shots is None:
            return task, PROMPTED
        return task, FewShot(task, self.shots, choice_of(self.shots_by or CHOICES[0], task, seed))


# -- the evaluation ----------------------------------------------------------------------------------------------------


def evaluate_given(
    config: Config,
    instructions: Sequence[str],
    fold: str,
    out: Path | None,
    min_score: float | None,
    shown: ShownAs,
    *,
    baseline: Baseline = Baseline(),
    wait: bool = False,
    batch: bool = False,
) -> None:
    """Evaluate and show the scores; exits with 1 where items have none or an instruction is below ``min_score``."""
    task, scorer = _task(config), config.models.scorer
    folds: dict[str, Fold] = {name: name for name in get_args(Fold)}
    if fold not in folds:
        raise ConfigError(f"--fold is {fold!r}; it must be one of {', '.join(folds)}")
    assert scorer is not None
    check_model(scorer)
    if batch:
        check_batched(config)
    if out is not None:
        make_folder(out)
    task, program = baseline.applied(task, config.seed)
    display = choose_display(shown)
    ended: list[Ended] = []
    stop = Stop()

    async def main() -> None:
        with observing(config.observers) as watching:
            seen, coordinator = [display, *watching], coordinator_of(config)
            engine = Engine(cache=cache_path(config), observers=seen, wait=wait, coordinator=coordinator)
            stop.watch(engine)
            batches = _batches_of(config, instructions, fold, program) if batch else None
            ended.append(await _evaluate(config, task, program, instructions, folds[fold], display, engine, batches))

    try:
        stopped = run_in_loop(main, stop)
    except AsyncoptError as error:  # made for studies; of an evaluation, only its cache goes on
        error.args = tuple(str(text).replace("resume the study", "evaluate again") for text in error.args)
        raise
    if stopped is not None:
        kept = "what was answered is in the cache, and is not asked again" if config.use_cache else "nothing was kept"
        print(f"asyncopt: stopped; {kept}", file=sys.stderr)
        sys.exit(128 + stopped)
    assessment, attributions = ended[0]
    if out is not None:
        write_files(out, assessment)
    _show(assessment, attributions, shown)
    complaints = _complaints(assessment, min_score)
    for complaint in complaints:
        print(f"asyncopt: {complaint}", file=sys.stderr)
    sys.exit(1 if complaints else 0)


def _show(assessment: Assessment, attributions: Sequence[Attribution], shown: ShownAs) -> None:
    if shown == "json":
        _put({"event": "done", **assessment.to_json(), "attribution": [asdict(one) for one in attributions]})
    else:
        print("\n".join(_lines(assessment, attributions)))


def _task(config: Config) -> Task:
    task = config.load_task()
    if not isinstance(task, Task):
        raise ConfigError(f"{task.name} is scored by a function and has no instructions; name a task that has examples")
    return task


def _batches_of(config: Config, instructions: Sequence[str], fold: str, program: Program) -> Path:
    """The journal of what this evaluation submits in batches; the same evaluation has the same."""
    means = {name: value for name, value in config.to_plain().items() if name != "budget"}
    how = "" if program is PROMPTED else str(program)
    name = blake2b(codec.dumps([means, instructions, fold, how]), digest_size=16).hexdigest()
    return cache_folder() / "batches" / f"{name}.jsonl"


async def _evaluate(
    config: Config,
    task: Task,
    program: Program,
    instructions: Sequence[str],
    fold: Fold,
    display: Display,
    engine: Engine,
    batches: Path | None,
) -> Ended:
    async with AsyncExitStack() as stack:
        servers = await start_local_servers(config, stack, cache_folder() / "local.log", display.line)
        await stack.enter_async_context(engine)
        models = await open_models(config, engine, servers)
        model, examples = models["scorer"], len(task.fold(fold))
        display.line(f"{task.name}, {fold}: {examples} examples, {len(instructions)} instructions, {model.name}")
        progress = _Progress(examples * len(instructions), engine, display)
        telling = asyncio.get_running_loop().create_task(progress.tell())
        stack.callback(telling.cancel)
        stack.enter_context(display.open())
        events, budget = Events([progress]), config.budget.build()
        assessment = await evaluate_instructions(
            model, task, instructions, fold, budget=budget, events=events, program=program, batches=batches
        )
    return assessment, [Attribution.of(one) for one in engine.dispatchers if one.counts.attempts]


class _Progress:
    """Says now and then how many of the items have ended, and what the engine is doing."""

    def __init__(self, items: int, engine: Engine, display: Display) -> None:
        self._items = items
        self._engine = engine
        self._display = display
        self._ended = 0

    def notify(self, event: Event) -> None:
        self._ended += isinstance(event, ExampleEnded)

    async def tell(self) -> None:
        while True:
            await asyncio.sleep(self._display.interval)
            self._display.work("items", self._ended, self._items, self._facts())

    def _facts(self) -> list[str]:
        dispatchers = self._engine.dispatchers
        return [
            f"{sum(one.counts.attempts for one in dispatchers)} calls",
            f"{sum(one.in_flight for one in dispatchers)} in flight",
            f"{sum(one.queued for one in dispatchers)} queued",
            f"{sum(one.counts.throttled for one in dispatchers)} 429s",
        ]


# -- what is shown -----------------------------------------------------------------------------------------------------


def _put(value: dict[str, Any]) -> None:
    sys.stdout.write(codec.json_line(value))


def _lines(assessment: Assessment, attributions: Sequence[Attribution]) -> list[str]:
    compared = assessment.comparisons()
    comparisons = [_comparison_line(comparison, len(compared)) for comparison in compared]
    cost = "" if not assessment.usd else f", ${assessment.usd:.4f}"
    how = assessment.how and f": {assessment.how}"
    return [
        codec.printable(f"{assessment.task.name}, {assessment.fold}, {assessment.model}{how}", 400),
        "",
        *(_score_line(assessed) for assessed in assessment.scores()),
        *(["", *comparisons] if comparisons else []),
        "",
        f"{assessment.calls} calls, {assessment.cache_hits} cache hits, {assessment.tokens} tokens{cost}, "
        f"{assessment.seconds:.1f} s",
        *attribution_lines(attributions),
    ]


def _score_line(assessed: Assessed) -> str:
    missing = f", {assessed.unscored} without a score ({_counted(assessed)})" if assessed.unscored else ""
    text = codec.printable(assessed.instruction, 160) or "(empty)"
    return f"{assessed.number:3}  {share(assessed.measured)}{missing}  {text}"


def _counted(assessed: Assessed) -> str:
    return ", ".join(f"{count} {name}" for name, count in assessed.problems.items())


def _comparison_line(comparison: Comparison, compared: int) -> str:
    found = points(comparison.difference, comparison.low, comparison.high, " against 1")
    right = f"{comparison.only_this} only here, {comparison.only_first} only there"
    left_out = f", {comparison.left_out} left out that lack a score" if comparison.left_out else ""
    said = judgement(comparison.verdict, comparison.p, comparison.p_holm, compared)
    return f"{comparison.number:3}  {found}, {right}, on the same {comparison.n} examples{left_out}: {said}"


def _complaints(assessment: Assessment, min_score: float | None) -> list[str]:
    complaints = [
        f"instruction {assessed.number}: {assessed.unscored} examples have no score "
        f"(most often: {codec.printable(assessed.complaint)})"
        for assessed in assessment.scores()
        if assessed.unscored
    ]
    for assessed in assessment.scores():
        measured = assessed.measured
        if min_score is not None and measured is not None and measured.score < min_score:
            score = f"{100 * measured.score:.1f} %"
            complaints.append(f"instruction {assessed.number} scored {score}, below the wanted {100 * min_score:g} %")
    return complaints
