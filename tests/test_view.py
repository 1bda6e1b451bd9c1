"""The live page's server: what it says of runs that have ended and of runs that go on, and what it passes on to them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from fakes import FakeEndpoint
from looking import TOKEN, Page, on_page
from recorded import REFUSED, recorded

from asyncopt import Engine, Quota, load_run
from asyncopt.cli.view import view
from asyncopt.codec import dumps, loads
from asyncopt.ctl import Controls
from asyncopt.directory import JOURNAL, MANIFEST, SWEEP, lock
from asyncopt.errors import ConfigError
from asyncopt.pages import document
from asyncopt.pages.assets import SCRIPTS, STYLES
from asyncopt.view import viewing
from asyncopt.view.guard import check_token
from asyncopt.view.runs import Runs, Shown

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished") / "toy"
    recorded(directory)
    return directory


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """A folder with one finished run."""
    shutil.copytree(finished, tmp_path / "runs" / "toy")
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def _runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rt").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "rt"))


async def only(page: Page) -> str:
    """The id of the only run."""
    (row,) = await page.json("/api/runs")
    return str(row["id"])


# -- runs that have ended ----------------------------------------------------------------------------------------------


def test_the_runs_of_a_folder_and_of_its_sweeps_are_listed_the_newest_first(runs: Path, finished: Path) -> None:
    sweep = runs / "sweep"
    shutil.copytree(finished, sweep / "toy-a-s0")
    (sweep / SWEEP).write_text("{}")
    (sweep / "toy-a-s0" / "result.json").unlink()
    (runs / "empty").mkdir()
    (runs / "damaged").mkdir()
    (runs / "damaged" / MANIFEST).write_text("[")
    (runs / "other").mkdir()
    (runs / "other" / MANIFEST).write_text('{"name": "of some web application"}')
    os.utime(runs / "toy" / MANIFEST, (10, 10))

    async def test(page: Page) -> None:
        rows = await page.json("/api/runs")
        assert [(row["name"], row["state"]) for row in rows] == [("sweep/toy-a-s0", "stopped"), ("toy", "finished")]
        assert {(row["task"], row["optimizer"]) for row in rows} == {("toy", "opro")}
        assert rows[1]["started"] == 10
        assert len({row["id"] for row in rows}) == 2

    on_page(runs, test)


def test_one_run_can_be_named_itself(runs: Path) -> None:
    async def test(page: Page) -> None:
        assert (await page.json(f"/api/runs/{await only(page)}"))["name"] == "toy"

    on_page(runs / "toy", test)


def test_a_run_is_given_as_its_document(runs: Path) -> None:
    async def test(page: Page) -> None:
        given = await page.json(f"/api/runs/{await only(page)}")
        assert given == loads(dumps(document(load_run(runs / "toy"))))

    on_page(runs, test)


def test_answers_are_fetched_by_step_and_index(runs: Path) -> None:
    async def test(page: Page) -> None:
        id_ = await only(page)
        for one in load_run(runs / "toy").candidates:
            rows = await page.json(f"/api/runs/{id_}/answers?candidate={one.step}.{one.index}")
            train = [row for row in rows if row["fold"] == "train"]
            assert tuple(row["score"] for row in train) == one.scores
            assert train[int(REFUSED[1:])]["outcome"] == "refused"
        for wrong in ("", "99.0", "0", "0.0.0", "../manifest.json"):
            assert (await page.ask("GET", f"/api/runs/{id_}/answers?candidate={wrong}")).status == 404

    on_page(runs, test)


def test_a_run_that_was_removed_is_gone(runs: Path) -> None:
    async def test(page: Page) -> None:
        id_ = await only(page)
        await page.json(f"/api/runs/{id_}")
        shutil.rmtree(runs / "toy")
        assert (await page.ask("GET", f"/api/runs/{id_}")).status == 410
        assert await page.json("/api/runs") == []

    on_page(runs, test)


def test_the_page_and_its_assets(runs: Path) -> None:
    async def test(page: Page) -> None:
        front = await page.ask("GET", "/")
        assert front.headers["content-type"] == "text/html; charset=utf-8"
        for name in (*SCRIPTS, *STYLES):
            assert f"assets/{name}".encode() in front.body
            reply = await page.ask("GET", f"/assets/{name}")
            kind = "text/javascript" if name in SCRIPTS else "text/css"
            assert (reply.status, reply.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert (await page.ask("HEAD", "/")).status == 200

    on_page(runs, test)


# -- runs that go on ---------------------------------------------------------------------------------------------------


def test_a_run_is_followed_as_its_journal_grows(runs: Path) -> None:
    journal = runs / "toy" / JOURNAL
    whole = journal.read_bytes()
    (runs / "toy" / "result.json").unlink()
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:4]) + lines[4][:10])  # the writer is in the middle of a line

    async def test(page: Page) -> None:
        held = lock(runs / "toy")
        async with page.following(await only(page)) as events:
            first = await events.next("document")
            assert first["head"]["state"] == "running"
            assert len(first["steps"]) < 4
            assert await events.next("status") is None
            journal.write_bytes(whole)
            held.release()
            change = await events.next("change")
            while len(change.get("steps", ())) < 4:
                change = await events.next("change")
            assert {**first, **change}["candidates"] == document(load_run(runs / "toy"))["candidates"]
            assert "manifest" not in change  # it is as it was
        assert (await page.json("/api/runs"))[0]["state"] == "stopped"

    on_page(runs, test)


def test_files_that_have_not_changed_are_not_read_again(runs: Path) -> None:
    shown = Runs(runs).find(Runs(runs).listing()[0]["id"])
    assert shown.refresh()
    parts = shown.parts
    assert not shown.refresh()
    assert shown.parts is parts
    (runs / "toy" / JOURNAL).touch()
    assert shown.refresh()
    assert all(shown.parts[name] is part for name, part in parts.items())  # so that nothing is sent again


def test_a_trace_is_read_on_from_where_it_was(runs: Path) -> None:
    shown = Runs(runs).find(Runs(runs).listing()[0]["id"])
    shown.refresh()
    assert shown.run is not None
    trace = shown.run.trace
    before = shown.answers("-1.0")
    (runs / "toy" / JOURNAL).touch()
    shown.refresh()
    assert shown.run.trace is trace
    assert shown.answers("-1.0") == before


def test_only_so_many_runs_are_kept_in_memory(runs: Path, finished: Path) -> None:
    for number in range(12):
        shutil.copytree(finished, runs / f"more-{number}")
    shown = Runs(runs)
    for row in shown.listing():
        assert isinstance(shown.find(row["id"]), Shown)
    assert len(shown._shown) == 8


def test_a_run_is_steered_and_everybody_is_told(runs: Path) -> None:
    stops = []

    async def test(page: Page) -> None:
        id_ = await only(page)
        reply = await page.tell(id_, {"do": "pause"})
        assert (reply.status, "is not running" in reply.json["error"]) == (409, True)
        async with Engine() as engine:
            engine.model("m", endpoint=FakeEndpoint(), quota=Quota(concurrency=4))
            async with Controls(runs / "toy", engine, dict, lambda: stops.append(1)), page.following(id_) as events:
                while (status := await events.next("status")) is None:
                    pass
                assert status["state"] == "running"
                assert (await page.tell(id_, {"do": "pause"})).json["state"] == "paused"
                assert engine.paused
                assert (await events.next("status"))["state"] == "paused"
                await page.tell(id_, {"do": "set", "concurrency": 2})
                assert engine.dispatchers[0].slots.limit == 2
                await page.tell(id_, {"do": "stop"})
                assert stops == [1]
                for wrong in ({"do": "rm"}, [], {"do": "set", "concurrency": 0}):
                    assert (await page.tell(id_, wrong)).status == 400
                reply = await page.ask("POST", f"/api/runs/{id_}/control", page.key, b'{"do": "resume"}')
                assert reply.status == 415
                assert engine.paused

    on_page(runs, test)


def test_a_study_of_a_sweep_is_steered_by_the_sweep(runs: Path) -> None:
    sweep = runs / "sweep"
    shutil.move(runs / "toy", sweep / "toy-a-s0")
    (sweep / SWEEP).write_text("{}")

    async def test(page: Page) -> None:
        id_ = await only(page)
        async with Engine() as engine, Controls(sweep, engine, dict, lambda: None):
            assert (await page.tell(id_, {"do": "pause"})).json["state"] == "paused"
            assert engine.paused

    on_page(runs, test)


def test_a_study_is_read_again_when_the_engine_of_its_sweep_has_gone_on(runs: Path) -> None:
    sweep = runs / "sweep"
    shutil.move(runs / "toy", sweep / "toy-a-s0")
    (sweep / SWEEP).write_text("{}")
    lines = (sweep / "toy-a-s0" / "activity.jsonl").read_bytes()
    (sweep / "toy-a-s0" / "activity.jsonl").unlink()
    shown = Runs(runs).find(next(row["id"] for row in Runs(runs).listing()))
    assert shown.refresh()
    assert not shown.refresh()
    (sweep / "activity.jsonl").write_bytes(lines)
    assert shown.refresh()
    assert shown.run is not None
    assert len(shown.run.activity) > 0


# -- beginning and end -------------------------------------------------------------------------------------------------


def test_leaving_ends_whoever_still_follows(runs: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            async with viewing(runs, "127.0.0.1", 0, TOKEN) as url:
                page = Page(url)
                reader, writer = await page.connect()
                writer.write(page.head("GET", f"/api/runs/{await only(page)}/events", page.key))
                await reader.readuntil(b"event: document")
            await reader.read()
            writer.close()
            await writer.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, others

    asyncio.run(main())


def test_an_address_in_use_is_said(runs: Path) -> None:
    async def test(page: Page) -> None:
        with pytest.raises(ConfigError, match="choose another --host or --port"):
            async with viewing(runs, "127.0.0.1", page.port):
                pass

    on_page(runs, test)


@pytest.mark.parametrize(
    ("host", "token", "match"),
    [
        ("0.0.0.0", "x" * 20, "every address"),  # noqa: S104 - it is refused
        ("::", None, "every address"),
        ("192.0.2.7", None, "choose a secret"),
        ("example.org", None, "choose a secret"),
        ("127.0.0.1", "short", "at least 16"),
        ("127.0.0.1", "x" * 20 + ";", "at least 16"),
        ("127.0.0.1", "é" * 20, "at least 16"),
    ],
)
def test_addresses_and_tokens_that_would_not_hold_are_refused(host: str, token: str | None, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        check_token(host, token)


def test_a_token_is_random_and_one_for_others_is_chosen() -> None:
    assert len({check_token("127.0.0.1", None) for _ in range(3)}) == 3
    assert check_token("192.0.2.7", "chosen-by-the-user") == "chosen-by-the-user"


def test_a_damaged_run_that_is_named_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[")
    with pytest.raises(ConfigError, match="is missing or unreadable"):
        view(tmp_path)


def test_the_command_prints_its_address_and_ends_by_ctrl_c_without_a_word(runs: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom asyncopt.cli.view import view\nview(Path(sys.argv[1]), json=True)"
    )

    async def main() -> None:
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(runs), **pipes)
        assert process.stdout is not None
        ready = loads(await process.stdout.readline())
        url, _, token = ready["url"].partition("/?token=")
        page = Page(f"{url}/")
        page.key = {"Authorization": f"Bearer {token}"}
        async with page.following(await only(page)) as events:
            assert (await events.next("document"))["name"] == "toy"
            process.send_signal(signal.SIGINT)
            _, said = await process.communicate()
        assert process.returncode == 0
        assert said.decode() == f"asyncopt: showing {runs}; Ctrl-C ends it\n"

    asyncio.run(asyncio.wait_for(main(), 60))
