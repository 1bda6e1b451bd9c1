"""What the tests share: the asyncio backend, the published data, and a short way to run on a virtual clock."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No test judges by the wall clock, and continuous integration tries the same examples every time.
settings.register_profile("asyncopt", deadline=None, max_examples=60, derandomize="CI" in os.environ)
settings.load_profile("asyncopt")


def pytest_configure() -> None:
    # Where a shell runs the tests in the background they are told to ignore Ctrl-C, and their children would be too.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for sockets; the path of one may have some hundred characters, and pytest's folders take most of them."""
    with tempfile.TemporaryDirectory(prefix="rt") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of published data sets; tests that need it say loudly that they were skipped."""
    stated = os.environ.get("ASYNCOPT_DATA")
    if not stated or not Path(stated).is_dir():
        pytest.skip("ASYNCOPT_DATA is not set to a folder with gsm8k/ and bbh/: published data sets are not tested")
    return Path(stated)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Keys and addresses of whoever runs the tests must not reach them."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
