"""SIGKILL at a hundred random moments, out of process: the history is the uninterrupted one, and next to nothing is paid twice.

What counts as durable: the answers of every step that the journal calls finished, and every answer that stands in the
cache's file. The writer commits what has gathered while it committed the batch before, so that of what was answered at
most one such batch is not there yet.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from pathlib import Path

import pytest
from children import Nursery, Watched, environment, nursery

from asyncopt.chronicle import decisions_of
from asyncopt.codec import loads
from asyncopt.directory import read_journal
from asyncopt.journal import Record
from asyncopt.optimizers.script import Decision
from asyncopt.testing import SimulatedAPI
from asyncopt.testing.answers import AnswerModel
from asyncopt.testing.latency import Constant
from asyncopt.testing.process import known_items
from asyncopt.testing.server import serving

pytestmark = [pytest.mark.real, pytest.mark.row("L07")]

CONCURRENCY = 8
BATCH = 500  # what the cache's writer commits at once at most
KILLS = 10  # in each of ten studies


def api(seed: int) -> Watched:
    answers = AnswerModel(seed, known_items(None))
    return Watched(SimulatedAPI(seed=seed, latency=Constant(0.002), answers=answers))


def study(url: str, place: Path, seed: int) -> list[str]:
    options = ["--steps", "4", "--limit", "8", "--seed", str(seed), "--directory", str(place)]
    options += ["--set", f"models.scorer.concurrency={CONCURRENCY}", "--set", "optimizer.lag=0"]
    return ["run", "antonym", "--scorer", "mock", "--base-url", url, *options]


def steps(place: Path) -> list[Record]:
    """The finished steps, of which the first are the starting points."""
    if not (place / "journal.jsonl").exists():
        return []
    return [record for record in read_journal(place) if record.kind == "step"]


def course(place: Path) -> list[Decision]:
    """The decisions in the journal; what a killed step had proposed stands there again when it is begun again."""
    decisions: list[Decision] = []
    for one in decisions_of(read_journal(place)):
        if one not in decisions:
            decisions.append(one)
    return decisions


def durable(folder: Path) -> int:
    """How many answers stand in the cache's file."""
    file = folder / "cache" / "answers.sqlite"
    if not file.exists():
        return 0
    connection = sqlite3.connect(file)
    try:
        return int(connection.execute("SELECT count(*) FROM answers_v1").fetchone()[0])
    except sqlite3.OperationalError:  # it was killed before there was a table
        return 0
    finally:
        connection.close()


class Course:
    """A study that is killed again and again, and what is known of it when nobody kills it."""

    def __init__(self, kids: Nursery, watched: Watched, url: str, seed: int, folder: Path) -> None:
        self.kids, self.watched, self.url, self.seed, self.folder = kids, watched, url, seed, folder
        self.chance = random.Random(seed)
        self.kills = 0

    async def uninterrupted(self) -> None:
        whole = self.folder / "whole"
        whole.mkdir()
        await self.kids.start(study(self.url, whole / "run", self.seed), environment(whole), whole / "errors")
        assert await self.kids.ended() == 0, (whole / "errors").read_text()
        self.whole, self.asked = whole / "run", list(self.watched.asked)
        assert len(set(self.asked)) == len(self.asked)
        # With lag 0 a step's requests all come before its record, which has the number of calls so far.
        self.finished = [set(self.asked[: record.data["account"]["calls"]]) for record in steps(self.whole)]

    async def interrupted(self, folder: Path) -> None:
        """Kill and resume one study until it ends by itself."""
        folder.mkdir()
        self.watched.asked.clear()
        place, lost, code = folder / "run", 0, -signal.SIGKILL
        order = study(self.url, place, self.seed)
        while code:
            assert code == -signal.SIGKILL, (folder / "errors").read_text()
            before, kept = len(self.watched.asked), durable(folder)
            paid = set().union(*self.finished[: len(steps(place))])
            code = await self.sitting(order, folder, kept)
            sent, written = self.watched.asked[before:], durable(folder) - kept
            assert paid.isdisjoint(sent)  # nothing of a finished step is asked again
            assert 0 <= len(sent) - written <= CONCURRENCY + BATCH
            lost += len(sent) - written
            if (place / "manifest.json").exists():
                order = ["resume", str(place)]
        assert course(place) == course(self.whole)
        results = [loads((one / "result.json").read_bytes()) for one in (place, self.whole)]
        assert results[0]["best"] == results[1]["best"]
        assert set(self.watched.asked) == set(self.asked)
        # So what stood in the cache's file was not asked again either.
        assert len(self.watched.asked) == len(self.asked) + lost

    async def sitting(self, order: list[str], folder: Path, kept: int) -> int:
        """Run it until the next moment, and kill it then; how it ended."""
        number = await self.kids.start(order, environment(folder), folder / "errors")
        ending = asyncio.ensure_future(self.kids.ended())
        if self.kills < KILLS:
            moment = asyncio.ensure_future(self.moment(len(self.asked) - kept))
            await asyncio.wait([moment, ending], return_when=asyncio.FIRST_COMPLETED)
            moment.cancel()
            if not ending.done():
                os.kill(number, signal.SIGKILL)
                self.kills += await ending != 0  # it may have ended just before
        return await ending

    async def moment(self, left: int) -> None:
        """Some requests or some time from now, so that all kills together fall anywhere from the start to the end."""
        if self.chance.random() < 0.2:
            await asyncio.sleep(self.chance.uniform(0.0, 0.1))
        else:
            some = self.chance.randint(1, max(1, 2 * left // (KILLS - self.kills + 1)))
            await self.watched.until_asked(len(self.watched.asked) + some)


@pytest.mark.parametrize("seed", range(10))
def test_killed_ten_times_it_ends_as_if_nothing_had_happened(seed: int, tmp_path: Path) -> None:
    async def main() -> None:
        watched = api(seed)
        async with nursery() as kids, serving(watched, 0) as url:
            one = Course(kids, watched, url, seed, tmp_path)
            await one.uninterrupted()
            while one.kills < KILLS:  # it may end before the last moment comes
                await one.interrupted(tmp_path / f"after-{one.kills}")

    asyncio.run(main())


SWEEP = """
tasks = ["antonym", "capital"]
seeds = [0, 1]
studies = 3
[base.task]
limit = 8
[base.optimizer]
steps = 3
"""
SWEEP_KILLS = 6


@pytest.mark.parametrize("seed", range(2))
def test_a_sweep_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(seed: int, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SWEEP)
    chance = random.Random(seed)

    def begun(url: str, place: Path) -> list[str]:
        at_once = ["--set", f"models.scorer.concurrency={CONCURRENCY}"]
        models = ["--scorer", "mock", "--base-url", url, *at_once]
        return ["sweep", str(tmp_path / "mine.toml"), *models, "--directory", str(place)]

    async def main() -> None:
        watched = api(seed)
        async with nursery() as kids, serving(watched, 0) as url:
            whole, killed = tmp_path / "whole", tmp_path / "killed"
            for folder in (whole, killed):
                folder.mkdir()
            await kids.start(begun(url, whole / "sweep"), environment(whole), whole / "errors")
            assert await kids.ended() == 0, (whole / "errors").read_text()
            asked = list(watched.asked)
            watched.asked.clear()
            order, lost, kills, code = begun(url, killed / "sweep"), 0, 0, -signal.SIGKILL
            while code:
                assert code == -signal.SIGKILL, (killed / "errors").read_text()
                before, kept = len(watched.asked), durable(killed)
                number = await kids.start(order, environment(killed), killed / "errors")
                ending = asyncio.ensure_future(kids.ended())
                if kills < SWEEP_KILLS:
                    some = chance.randint(1, max(1, 2 * (len(asked) - kept) // (SWEEP_KILLS - kills + 1)))
                    moment = asyncio.ensure_future(watched.until_asked(before + some))
                    await asyncio.wait([moment, ending], return_when=asyncio.FIRST_COMPLETED)
                    moment.cancel()
                    if not ending.done():
                        os.kill(number, signal.SIGKILL)
                        kills += 1
                code = await ending
                sent, written = len(watched.asked) - before, durable(killed) - kept
                assert 0 <= sent - written <= CONCURRENCY + BATCH
                lost += sent - written
                if (killed / "sweep" / "sweep.json").exists():
                    order = ["resume", str(killed / "sweep")]
            assert kills > 1
            studies = sorted(one.parent.name for one in (whole / "sweep").glob("*/manifest.json"))
            assert len(studies) == 4
            for name in studies:
                assert course(killed / "sweep" / name) == course(whole / "sweep" / name)
                one, other = (loads((where / "sweep" / name / "result.json").read_bytes()) for where in (whole, killed))
                assert one["best"] == other["best"]
            assert set(watched.asked) == set(asked)
            assert len(watched.asked) == len(asked) + lost

    asyncio.run(main())
