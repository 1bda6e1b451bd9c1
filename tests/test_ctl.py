"""A run that goes on is paused, resumed, set and stopped: the engine in virtual time, and its socket for real."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEndpoint, echo, run_virtual

from asyncopt import Budget, Engine, Study
from asyncopt.cli.ctl import lines_of, request_of
from asyncopt.codec import loads
from asyncopt.ctl import ADDRESS, LONGEST_LINE, MOST_CLIENTS, Controls, NotRunning, ask
from asyncopt.engine import Model
from asyncopt.errors import BudgetExhausted, CallFailed, ConfigError
from asyncopt.events import Event, LimitChanged, Note
from asyncopt.limits.slots import COOLDOWN_SECONDS, CUT, FEWEST_SAMPLES, Slots
from asyncopt.optimizers import OPRO
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.values import Concurrency, Fault, FaultKind, Generate, Quota


class Seen:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)


def on_engine(
    endpoint: FakeEndpoint, test: Callable[[Engine, Model], Awaitable[None]], concurrency: int | str = 4
) -> list[Event]:
    """What the engine said while the test had it, in virtual time."""
    seen = Seen()

    async def main() -> None:
        async with Engine(observers=[seen], grace=0.0) as engine:
            await test(engine, engine.model("m", endpoint=endpoint, quota=Quota(concurrency=concurrency)))

    run_virtual(main)
    return seen.events


def asked(model: Model, number: int) -> list[asyncio.Future[Any]]:
    return [model.submit(Generate.of(f"q {index}")) for index in range(number)]


# -- the engine --------------------------------------------------------------------------------------------------------


def test_nothing_starts_in_a_pause_and_what_is_in_flight_ends() -> None:
    endpoint = FakeEndpoint(seconds=10.0)

    async def test(engine: Engine, model: Model) -> None:
        futures = asked(model, 12)
        await asyncio.sleep(1)
        assert len(endpoint.started) == 4
        engine.pause()
        await asyncio.sleep(3600)
        assert len(endpoint.started) == 4
        assert [future.done() for future in futures] == [True] * 4 + [False] * 8
        assert engine.dispatchers[0].limiting() == "pause"
        futures += [model.submit(Generate.of("asked in the pause"))]
        await asyncio.sleep(60)
        assert len(endpoint.started) == 4
        engine.resume()
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*futures)
        assert asyncio.get_running_loop().time() - began == pytest.approx(30.0, abs=0.1)

    events = on_engine(endpoint, test)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes == ["paused: no call starts until the run is resumed", "resumed after a pause"]


def test_a_model_that_is_opened_in_a_pause_waits_too() -> None:
    first, second = FakeEndpoint(identity="first"), FakeEndpoint(identity="second")

    async def test(engine: Engine, model: Model) -> None:
        engine.pause()
        engine.set_concurrency(2)
        other = engine.model("m", endpoint=second, quota=Quota(concurrency=50))
        futures = asked(other, 10)
        await asyncio.sleep(60)
        assert second.started == []
        engine.resume()
        await asyncio.gather(*futures)
        assert second.most_in_flight == 2

    on_engine(first, test)


def test_a_call_in_flight_keeps_its_deadline_in_a_pause() -> None:
    endpoint = FakeEndpoint(seconds=1e9)

    async def test(engine: Engine, model: Model) -> None:
        late = engine.model("late", endpoint=endpoint, timeout=30.0)
        call = late.submit(Generate.of("q"))
        await asyncio.sleep(1)
        engine.pause()
        await asyncio.sleep(60)
        assert endpoint.in_flight == 0  # it was ended, and its retry waits for the end of the pause
        assert not call.done()
        assert len(endpoint.started) == 1
        engine.resume()
        await asyncio.sleep(10)
        assert len(endpoint.started) == 2

    on_engine(endpoint, test)


def test_a_long_pause_uses_up_nobodys_retries_and_gives_no_endpoint_up() -> None:
    def respond(request: Generate, number: int) -> Any:
        return Fault(FaultKind.TRANSIENT, "down") if number < 6 else echo(request)

    endpoint = FakeEndpoint(respond)

    async def test(engine: Engine, model: Model) -> None:
        call = model.submit(Generate.of("q"))
        await asyncio.sleep(0.2)
        assert endpoint.started
        engine.pause()
        await asyncio.sleep(7200)
        engine.resume()
        assert (await call).text == "Q"

    on_engine(endpoint, test)


def test_a_call_that_is_to_be_asked_again_at_once_waits_for_the_end_of_a_pause() -> None:
    endpoint = FakeEndpoint(lambda request, number: Fault(FaultKind.FATAL_CONFIG, "401", code="401"), seconds=5.0)

    async def test(engine: Engine, model: Model) -> None:
        call = model.submit(Generate.of("q"))
        await asyncio.sleep(1)
        engine.pause()
        await asyncio.sleep(100)
        assert len(endpoint.started) == 1
        engine.resume()
        with pytest.raises(CallFailed, match="401"):
            await call
        assert len(endpoint.started) == 2

    on_engine(endpoint, test)


def test_pausing_twice_is_pausing_once() -> None:
    async def test(engine: Engine, model: Model) -> None:
        engine.resume()
        engine.pause()
        engine.pause()
        engine.resume()
        assert not engine.paused
        await asyncio.gather(*asked(model, 3))

    assert len([event for event in on_engine(FakeEndpoint(), test) if isinstance(event, Note)]) == 2


def test_an_engine_that_is_drained_in_a_pause_starts_nothing_more() -> None:
    endpoint = FakeEndpoint(seconds=5.0)

    async def test(engine: Engine, model: Model) -> None:
        asked(model, 8)
        await asyncio.sleep(1)
        engine.pause()
        await engine.drain(30.0)
        engine.resume()
        await asyncio.sleep(60)
        assert len(endpoint.started) == 4

    on_engine(endpoint, test)


def test_the_seconds_of_a_budget_go_on_in_a_pause() -> None:
    async def main() -> None:
        async with Engine() as engine:
            engine.pause()
            endpoint = FakeEndpoint()
            model = engine.model("m", endpoint=endpoint)
            study = Study(task=LinearRegression(), optimizer=OPRO(steps=2), proposer=model, budget=Budget(seconds=100))
            with pytest.raises(BudgetExhausted, match="100 seconds"):
                await study.run()
            assert endpoint.started == []

    run_virtual(main)


def test_more_concurrency_starts_more_at_once_and_less_lets_calls_in_flight_end() -> None:
    endpoint = FakeEndpoint(seconds=10.0)

    async def test(engine: Engine, model: Model) -> None:
        asked(model, 1000)
        await asyncio.sleep(1)
        assert endpoint.in_flight == 4
        engine.set_concurrency(40)
        await asyncio.sleep(0.01)
        assert endpoint.in_flight == 40
        engine.set_concurrency(3)
        await asyncio.sleep(9.5)
        assert endpoint.in_flight == 36  # the first four have ended, and nobody took their places
        await asyncio.sleep(10)
        assert endpoint.in_flight == 3

    events = on_engine(endpoint, test)
    changes = [event.value for event in events if isinstance(event, LimitChanged) and event.what == "concurrency"]
    assert changes == [40, 3]


def test_what_the_user_sets_survives_refusals_and_is_never_passed() -> None:
    refuse = False

    def respond(request: Generate, number: int) -> Any:
        return Fault(FaultKind.RATE_LIMITED, "429", retry_after=0.1) if refuse else echo(request)

    endpoint = FakeEndpoint(respond, seconds=0.2)

    async def test(engine: Engine, model: Model) -> None:
        nonlocal refuse
        futures = asked(model, 4000)
        await asyncio.sleep(2)
        assert endpoint.most_in_flight > 16
        engine.set_concurrency(16)
        await asyncio.sleep(1)
        endpoint.most_in_flight = 0
        refuse = True
        await asyncio.sleep(0.3)
        refuse = False
        await asyncio.gather(*futures)
        assert endpoint.most_in_flight == 16

    on_engine(endpoint, test, "2-20-100")


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, "8-9", None])
def test_concurrency_that_is_no_number_of_calls_is_refused(wrong: Any) -> None:
    async def test(engine: Engine, model: Model) -> None:
        with pytest.raises(ConfigError, match="concurrency is"):
            engine.set_concurrency(wrong)
        assert engine.dispatchers[0].slots.limit == 4

    on_engine(FakeEndpoint(), test)


def test_a_limit_that_adapts_goes_on_adapting_after_it_was_set_low_and_high() -> None:
    slots = Slots(Concurrency(2, 4, 100))
    slots.spoke()
    slots.set(1)
    assert slots.limit == 1
    slots.set(50)
    assert slots.limit == 50
    slots.refused(0.0, 0.0, 0.0)
    assert slots.limit == CUT * 50
    for _ in range(100 * FEWEST_SAMPLES):
        while slots.free:
            slots.take()
        slots.release()
        slots.served(1.0, COOLDOWN_SECONDS)
        assert slots.limit <= 50
    assert slots.limit == 50


def test_a_fixed_number_stays_fixed() -> None:
    slots = Slots(Concurrency.of(8))
    slots.set(20)
    slots.refused(0.0, 0.0, 0.0)
    assert slots.limit == 20
    assert slots.range.fixed


# -- the socket --------------------------------------------------------------------------------------------------------


class Held:
    """Controls of an engine whose run is asked to stop."""

    def __init__(self, directory: Path, engine: Engine, endpoint: FakeEndpoint) -> None:
        self.directory = directory
        self.engine = engine
        self.endpoint = endpoint
        self.stops = 0
        self.figures: dict[str, Any] = {"calls": 7}

    def stop(self) -> None:
        self.stops += 1

    def look(self) -> dict[str, Any]:
        return self.figures

    @property
    def socket(self) -> Path:
        return Path(loads((self.directory / ADDRESS).read_bytes())["socket"])


@pytest.fixture(autouse=True)
def _runtime(runtime: Path) -> None:
    """No test here looks for sockets where others' are."""


def on_controls(folder: Path, test: Callable[[Held], Coroutine[Any, Any, None]]) -> Held:
    async def main() -> Held:
        endpoint = FakeEndpoint(seconds=0.001)
        async with Engine() as engine:
            engine.model("m", endpoint=endpoint, quota=Quota(concurrency=4))
            held = Held(folder / "run", engine, endpoint)
            async with Controls(held.directory, engine, held.look, held.stop):
                await test(held)
        return held

    return asyncio.run(main())


@pytest.mark.real
def test_a_run_is_asked_paused_set_resumed_and_stopped(tmp_path: Path, runtime: Path) -> None:
    async def test(held: Held) -> None:
        status = await ask(held.directory, {"do": "status"})
        endpoint = {"scope": "m", "in_flight": 0, "concurrency": 4, "queued": 0, "limiting": "proposals"}
        assert status == {"state": "running", "pid": os.getpid(), "calls": 7, "endpoints": [endpoint]}
        assert (await ask(held.directory, {"do": "pause"}))["state"] == "paused"
        assert held.engine.paused
        status = await ask(held.directory, {"do": "set", "concurrency": 9})
        assert status["endpoints"][0]["concurrency"] == held.engine.dispatchers[0].slots.limit == 9
        assert (await ask(held.directory, {"do": "resume"}))["state"] == "running"
        assert (await ask(held.directory, {"do": "stop"}))["state"] == "stopping"

    held = on_controls(tmp_path, test)
    assert held.stops == 1
    assert not (held.directory / ADDRESS).exists()
    assert list(runtime.rglob("*.sock")) == []


@pytest.mark.real
def test_the_socket_is_its_users_alone(tmp_path: Path, runtime: Path) -> None:
    async def test(held: Held) -> None:
        assert stat.S_IMODE(held.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(held.socket.parent.stat().st_mode) == 0o700
        assert held.socket.parent.parent == runtime

    on_controls(tmp_path, test)


@pytest.mark.real
def test_a_folder_that_others_can_enter_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, runtime: Path
) -> None:
    folder = runtime / f"asyncopt-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o755)

    (tmp_path / "run").mkdir()

    async def test(held: Held) -> None:
        with pytest.raises(NotRunning):
            await ask(held.directory, {"do": "status"})

    on_controls(tmp_path, test)
    assert "is not this user's alone" in caplog.text


GARBAGE = [
    b"nonsense\n",
    b"[]\n",
    b'"pause"\n',
    b"{}\n",
    b'{"do": null}\n',
    b'{"do": "explode"}\n',
    b'{"do": ["pause"]}\n',
    b'{"do": "set"}\n',
    b'{"do": "set", "concurrency": "9"}\n',
    b'{"do": "set", "concurrency": true}\n',
    b'{"do": "set", "concurrency": -1}\n',
    b"\x00\xff\xfe\n",
    b"[" * 2000 + b"\n",
    b"x" * (2 * LONGEST_LINE) + b"\n",
]


@pytest.mark.real
@pytest.mark.parametrize("line", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_gets_an_error_and_does_nothing(line: bytes, tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        reader, writer = await asyncio.open_unix_connection(held.socket)
        writer.write(line)
        answer = loads(await reader.readline())
        assert answer["ok"] is False
        assert answer["error"]
        writer.close()
        assert not held.engine.paused
        assert held.engine.dispatchers[0].slots.limit == 4
        assert (await ask(held.directory, {"do": "status"}))["state"] == "running"

    on_controls(tmp_path, test)


@pytest.mark.real
def test_a_mistake_in_the_figures_ends_nothing(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        held.figures = None  # type: ignore[assignment]
        with pytest.raises(ConfigError, match="TypeError in the run"):
            await ask(held.directory, {"do": "status"})
        held.figures = {}
        assert (await ask(held.directory, {"do": "status"}))["state"] == "running"

    on_controls(tmp_path, test)


@pytest.mark.real
def test_only_so_many_are_connected_and_who_comes_later_is_told(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        first = [await asyncio.open_unix_connection(held.socket) for _ in range(MOST_CLIENTS)]
        for reader, writer in first:  # each has been heard, so each has its place
            writer.write(b'{"do": "status"}\n')
            assert loads(await reader.readline())["ok"]
        with pytest.raises(ConfigError, match="others are connected"):
            await ask(held.directory, {"do": "status"})
        for _, writer in first:
            writer.close()
            await writer.wait_closed()
        await _answered(held)

    on_controls(tmp_path, test)


async def _answered(held: Held) -> None:
    """Return when there is room for another client."""
    while True:
        with suppress(ConfigError):
            await ask(held.directory, {"do": "status"})
            return


@pytest.mark.real
def test_a_run_that_was_killed_is_not_running_and_its_socket_is_swept_up(tmp_path: Path, runtime: Path) -> None:
    pid = _dead_process()
    folder = runtime / f"asyncopt-{os.getuid()}"
    folder.mkdir(mode=0o700)
    stale = folder / f"{pid}-0.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text("{}")
    (run / ADDRESS).write_text(f'{{"socket": "{stale}", "pid": {pid}}}')
    with pytest.raises(NotRunning, match="go on with: asyncopt resume"):
        asyncio.run(ask(run, {"do": "status"}))

    async def test(held: Held) -> None:
        assert (await ask(held.directory, {"do": "status"}))["state"] == "running"

    on_controls(tmp_path, test)
    assert not stale.exists()


def _dead_process() -> int:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    return pid


@pytest.mark.real
def test_another_process_on_the_same_directory_leaves_the_address_alone(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        before = (held.directory / ADDRESS).read_bytes()
        async with Engine() as engine, Controls(held.directory, engine, held.look, held.stop):
            assert (held.directory / ADDRESS).read_bytes() == before
        assert (await ask(held.directory, {"do": "status"}))["state"] == "running"

    on_controls(tmp_path, test)


@pytest.mark.real
@pytest.mark.parametrize(
    "address", ["", "[]", "{}", '{"socket": 5}', '{"socket": "/var/run/docker.sock"}', '{"socket": "\\u0000"}']
)
def test_an_address_from_elsewhere_is_nobodys(address: str, tmp_path: Path) -> None:
    (tmp_path / ADDRESS).write_text(address)
    with pytest.raises(NotRunning):
        asyncio.run(ask(tmp_path, {"do": "status"}))


def test_what_is_no_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no directory"):
        asyncio.run(ask(tmp_path / "none", {"do": "status"}))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "is not running: no run has begun there"),
        (("manifest.json", "result.json"), "is not running: it has ended; .* asyncopt show"),
        (("manifest.json",), "go on with: asyncopt resume"),
        (("sweep.json",), "go on with: asyncopt resume"),
        (("sweep.json", "sweep-result.json"), "is not running: it has ended; .* asyncopt show"),
    ],
)
def test_nobody_is_told_to_resume_what_cannot_be(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(NotRunning, match=said):
        asyncio.run(ask(tmp_path, {"do": "status"}))


def test_who_asks_a_study_of_a_sweep_is_sent_to_the_sweep(tmp_path: Path) -> None:
    study = tmp_path / "toy-s0"
    study.mkdir()
    (study / "manifest.json").write_text("{}")
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(NotRunning, match=f"a study of a sweep.* asyncopt ctl {tmp_path}$"):
        asyncio.run(ask(study, {"do": "status"}))


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_words_of_the_command_line() -> None:
    assert request_of("pause", None) == {"do": "pause"}
    assert request_of("set", "concurrency=12") == {"do": "set", "concurrency": 12}


@pytest.mark.parametrize(
    ("action", "setting"),
    [
        ("go", None),
        ("pause", "x"),
        ("set", None),
        ("set", "rpm=5"),
        ("set", "concurrency=0"),
        ("set", "concurrency=x"),
        ("set", f"concurrency={2**64}"),
        ("set", f"concurrency={'9' * 5000}"),
    ],
)
def test_other_words_are_refused(action: str, setting: str | None) -> None:
    with pytest.raises(ConfigError, match="wanted|takes nothing"):
        request_of(action, setting)


def test_the_state_is_shown_without_anything_a_terminal_would_obey() -> None:
    endpoint = {"scope": "m\x1b[2J", "in_flight": 1, "concurrency": 4, "queued": 0, "limiting": "tail"}
    answer = {"state": "running", "pid": 5, "calls": 3, "usd": 0.12345, "eta": None, "best": "\x1b]0;x\x07b"}
    lines = lines_of({**answer, "endpoints": [endpoint]})
    assert lines[0] == "running (process 5)"
    assert lines[1] == "calls 3 · usd 0.1235 · eta -"
    assert "m [2J: 1/4 in flight, 0 queued, limited by tail" in lines[3]
    assert "\x1b" not in "".join(lines)
