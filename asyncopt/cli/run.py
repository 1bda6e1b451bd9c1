"""``asyncopt run`` and ``asyncopt resume``: models opened, the study run, the result shown."""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from asyncopt import codec
from asyncopt.activity import Activity
from asyncopt.cli.display import Display
from asyncopt.cli.display_choice import ShownAs, choose_display
from asyncopt.cli.models import check_batched, check_model, open_models, roles, start_local_servers
from asyncopt.cli.signals import Stop, run_in_loop
from asyncopt.cli.summary import LONGEST_PATH
from asyncopt.config import Config
from asyncopt.ctl import Controls
from asyncopt.directory import MANIFEST, RANDOM, fork, lock
from asyncopt.engine import Engine, Model
from asyncopt.errors import AsyncoptError
from asyncopt.events import Observer
from asyncopt.files import cache_folder, write_atomically
from asyncopt.optimizers import RandomSearch
from asyncopt.optimizers.base import AnyTask
from asyncopt.result import Result
from asyncopt.shared import Coordinator
from asyncopt.shared.at import coordinator_at
from asyncopt.study import Study
from asyncopt.tasks.task import Task
from asyncopt.telemetry.named import maker_of, observing

LONGEST_TITLE = 60  # bytes, in the names of new folders
_RESUMABLE = (3, 4)  # exit codes after which the same run can go on: with more money, time or room, or with another key


@dataclass(frozen=True, slots=True)
class Manner:
    """What the command line wants of a run beside its configuration.

    ``replay`` is the directory of a run whose decisions are to be made again, ``parent`` that of one whose finished
    steps it begins with; with ``wait`` a daily quota is waited for.
    """

    replay: Path | None = None
    parent: Path | None = None
    wait: bool = False


def run_study(config: Config, directory: Path | None, shown: ShownAs, *, manner: Manner = Manner()) -> None:
    """Run to the end and show the result; exits with 1 if examples have no score, above 128 when interrupted."""
    task = config.load_task()
    for name in config.observers:
        maker_of(name)  # before there is a directory
    for model in roles(config).values():
        check_model(model)
    if config.batch is not None:
        check_batched(config)
    place = directory or new_directory(f"{Path(task.name).stem}-{config.optimizer.name}")
    display = choose_display(shown)
    stop = Stop()
    try:
        if place.exists():
            lock(place).release()  # who is refused loads no model, and touches nothing of whoever works there
        stopped = run_in_loop(partial(_run, config, task, place, display, manner, stop), stop)
    except AsyncoptError as error:
        if error.exit_code in _RESUMABLE:
            print(f"asyncopt: {how_to_go_on(place)}", file=sys.stderr)
        raise
    if stopped is not None:
        print(f"asyncopt: stopped; {how_to_go_on(place)}", file=sys.stderr)
        sys.exit(128 + stopped)
    if display.unscored:
        print(f"asyncopt: {display.unscored} examples of the instructions compared have no score", file=sys.stderr)
        sys.exit(1)


def how_to_go_on(place: Path) -> str:
    """What to do with a run that was stopped, for people."""
    if (place / MANIFEST).exists():
        return f"go on with: asyncopt resume {shlex.quote(codec.printable(str(place), LONGEST_PATH))}"
    return "nothing was begun; start it again"


def new_directory(title: str) -> Path:
    """The path of a new folder below ``runs``, named after the time and the title."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    return Path("runs") / f"{stamp}-{codec.file_name(title, LONGEST_TITLE)}-{secrets.token_hex(2)}"


async def _run(config: Config, task: AnyTask, place: Path, display: Display, manner: Manner, stop: Stop) -> None:
    async with AsyncExitStack() as stack:
        watching = stack.enter_context(observing(config.observers))
        # Servers first, so that the engine is closed before they are: a call in flight never sees its server die.
        servers = await start_local_servers(config, stack, place / "local.log", display.line)
        display.servers = list(servers.values())
        engine = Engine(
            cache=cache_path(config),
            observers=[display, *watching],
            wait=manner.wait,
            coordinator=coordinator_of(config),
        )
        await stack.enter_async_context(engine)
        stop.watch(engine)
        models = await open_models(config, engine, servers)
        study = study_of(config, task, models, place, display, manner.replay)
        for observer in watching:
            study.events_hub.add(observer)
        # Only now is anything written: what was wrong with the settings has been said.
        await stack.enter_async_context(Controls(place, engine, lambda: asdict(display.status.look()), stop.wind_up))
        stack.enter_context(Activity(place, engine, study.account))
        async with display.showing(study, engine, place):
            if manner.parent is not None:
                steps = fork(manner.parent, place, study.subject(), config.to_plain())
                display.line(f"{place} begins with the {steps} finished steps of {manner.parent}")
            result = await study.run()
            baseline = await baseline_of(study)
    display.result(result, baseline, place)
    display.unscored = result.unscored


def study_of(
    config: Config,
    task: AnyTask,
    models: Mapping[str, Model],
    place: Path,
    observer: Observer,
    replay: Path | None = None,
) -> Study:
    """The study of this configuration, with these models by role, kept in ``place``."""
    return Study(
        task=task,
        optimizer=config.build_optimizer(task),
        scorer=models.get("scorer"),
        proposer=models.get("proposer"),
        budget=config.budget.build(),
        directory=place,
        replay=replay,
        seed=config.seed,
        observers=[observer],
        config=config.to_plain(),
        trace=config.trace,
        batch=config.batch,
    )


async def baseline_of(study: Study) -> Result | None:
    """Random search with the same number of proposals, beside which a problem that no model scores is always shown.

    Uniform pairs in the square of the starting points find the paper's optimum of linear regression in a median of
    eleven steps, so that a model's steps alone would prove nothing.
    """
    task = study.task
    if isinstance(task, Task) or isinstance(study.optimizer, RandomSearch):
        return None
    samples = getattr(study.optimizer, "samples_per_step", 8)
    search = RandomSearch(steps=study.optimizer.steps, samples_per_step=samples)
    result = await Study(task=task, optimizer=search, seed=study.seed).run()
    if study.directory is not None:
        with suppress(OSError):  # it is shown now, and whoever resumes the run gets it again
            write_atomically(study.directory / RANDOM, codec.dumps(result.to_json()))
    return result


def coordinator_of(config: Config) -> Coordinator | None:
    """Who keeps the quotas of this run together with others; None where it is alone."""
    return None if config.shared is None else coordinator_at(config.shared)


def cache_path(config: Config) -> Path | str | None:
    """The file of the answer cache, or the URL of its server; None where none is to be used."""
    if not config.use_cache:
        return None
    if config.cache is not None:
        return config.cache
    return cache_folder() / "answers.sqlite"
