"""A run on the command line that is steered by its socket from another process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from children import Watched, child, environment, until

from asyncopt.codec import loads
from asyncopt.ctl import ADDRESS, ask
from asyncopt.testing import SimulatedAPI
from asyncopt.testing.answers import AnswerModel
from asyncopt.testing.latency import Constant
from asyncopt.testing.process import known_items
from asyncopt.testing.server import serving

pytestmark = [pytest.mark.real, pytest.mark.row("L06")]

AT_ONCE = 4


def test_a_run_is_paused_and_resumed_and_stopped_as_by_a_first_signal(tmp_path: Path, runtime: Path) -> None:
    place = tmp_path / "run"
    api = Watched(SimulatedAPI(seed=3, latency=Constant(0.002), answers=AnswerModel(3, known_items(None))))
    api.free = 30

    async def main() -> None:
        async with serving(api, 0) as url:
            models = ["--scorer", "mock", "--base-url", url, "--set", f"models.scorer.concurrency={AT_ONCE}"]
            arguments = ["run", "antonym", *models, "--limit", "8", "--steps", "9", "--directory", str(place)]
            async with child(arguments, environment(tmp_path, XDG_RUNTIME_DIR=str(runtime))) as run:
                await api.until_asked(30 + AT_ONCE)
                status = await ask(place, {"do": "status"})
                assert (status["state"], status["pid"], status["steps"]) == ("running", run.process.pid, 9)
                assert (status["in_flight"], status["concurrency"]) == (AT_ONCE, AT_ONCE)
                told = ["ctl", str(place), "pause", "--json"]
                async with child(told, environment(tmp_path, XDG_RUNTIME_DIR=str(runtime))) as other:
                    ended = await other.ended()
                    assert ended.code == 0, ended.errors
                    assert loads(ended.output.encode())["state"] == "paused"
                api.answer()
                while (await ask(place, {"do": "status"}))["in_flight"]:
                    pass
                assert len(api.asked) == 30 + AT_ONCE  # nothing has started since
                await ask(place, {"do": "resume"})
                await until(lambda: len(api.asked) > 30 + AT_ONCE)
                assert (await ask(place, {"do": "stop"}))["state"] == "stopping"
                ended = await run.ended()
        assert ended.code == 130
        assert f"stopped; go on with: asyncopt resume {place}" in ended.errors
        assert "Traceback" not in ended.errors
        assert not (place / ADDRESS).exists()
        assert os.listdir(runtime / f"asyncopt-{os.getuid()}") == []

    asyncio.run(asyncio.wait_for(main(), 100))
