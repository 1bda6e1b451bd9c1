"""Another optimizer behind the proxy: against a server with a rate limit it loses no call, where alone it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "proxy.py"

pytestmark = [pytest.mark.real, pytest.mark.rivals]


@pytest.mark.skipif(
    find_spec("dspy") is None, reason="dspy is not installed (pip install 'asyncopt[bench]'): DSPy is not tested"
)
def test_dspy_loses_no_call_behind_the_proxy_and_does_alone(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARK), "--only", "DSPy, COPRO", "--calls", "0", "--json", str(out)]
    environment = os.environ | {"ASYNCOPT_CACHE_DIR": str(tmp_path)}
    # So many threads that DSPy's own retries do not get through to ten requests a second; with half of them they may.
    subprocess.run([*command, "--examples", "40", "--threads", "64"], check=True, env=environment, cwd=tmp_path)
    arms = json.loads(out.read_text())["figures"]["studies"]["DSPy, COPRO"]
    alone, behind = arms["without"], arms["through the proxy"]
    assert alone["failed"] > 0 or alone["error"]
    assert (behind["failed"], behind["error"]) == (0, "")
    assert behind["requests"] - behind["refused"] >= behind["calls"] > 0
    assert behind["refused"] < alone["refused"]
