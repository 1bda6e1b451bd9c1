"""The key is in the environment of every test here. It is in no file, no stream and no text that they leave behind."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import logging
import os
import pickle
import signal
import sys
import traceback
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from canary import CANARY, FORMS, TOLD, files_with_it, seen_in
from served import good, serving
from shell import Shell

from asyncopt import Engine, Generate
from asyncopt.config import check, parse_budget, parse_setting
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.errors import CallFailed, ConfigError
from asyncopt.local.fetch import environment_without_keys

ENCODED = [b64encode(f"{before}{CANARY}".encode()).decode() for before in ("", "Bearer ", "user:")]

Respond = Callable[[web.Request], web.StreamResponse]


def error(status: int, text: str, **more: Any) -> web.Response:
    body = json.dumps({"error": {"message": text, "code": text, "type": text, "param": text, **more}})
    return web.Response(status=status, text=body, content_type="application/json", headers={"x-echo": text})


def said_back(request: web.Request) -> str:
    """What a careless server says of a request: every header, the key among them."""
    return f"{dict(request.headers)} {' '.join(ENCODED)} {CANARY}"


def a_page(request: web.Request) -> web.Response:
    text = f"<html><title>502 {CANARY}</title>{said_back(request)}</html>"
    return web.Response(status=502, text=text, content_type="text/html", reason=f"Bad {CANARY}")


def a_redirect(request: web.Request) -> web.Response:
    return web.Response(status=307, headers={"Location": f"http://{CANARY}.example/{CANARY}?key={CANARY}"})


def an_answer(request: web.Request) -> web.Response:
    headers = {"x-ratelimit-limit-requests": CANARY, "retry-after": CANARY, "x-request-id": CANARY}
    return web.Response(body=good(f"yes {said_back(request)}"), headers=headers, content_type="application/json")


def no_json(request: web.Request) -> web.Response:
    return web.Response(text=f"{{{said_back(request)}", content_type="application/json")


def a_stop(request: web.Request) -> web.Response:
    body = {"choices": [{"message": {"content": "x", "refusal": CANARY}, "finish_reason": CANARY}], "model": CANARY}
    return web.json_response(body)


FAILURES: dict[str, Respond] = {
    "401": lambda request: error(401, said_back(request)),
    "403": lambda request: error(403, said_back(request)),
    "404": lambda request: error(404, said_back(request)),
    "400": lambda request: error(400, said_back(request)),
    "quota": lambda request: error(429, said_back(request), type="insufficient_quota"),
    "200 with an error": lambda request: error(200, said_back(request)),
    "page of a proxy": a_page,
    "redirect": a_redirect,
    "no JSON": no_json,
    "echo in the answer": an_answer,
    "odd fields": a_stop,
}


def everything_about(failure: BaseException) -> str:
    """Whatever a log, a debugger or a crash report would keep of an exception."""
    texts = ["".join(traceback.TracebackException.from_exception(failure, capture_locals=True).format())]
    while failure is not None:
        texts += [repr(failure), str(failure), repr(failure.args), repr(vars(failure))]
        try:
            texts.append(repr(pickle.dumps(failure)))
            texts.append(repr(pickle.loads(pickle.dumps(failure))))  # noqa: S301 - our own, made a line above
            texts.append(repr(copy.copy(failure)))
        except TypeError:  # one with a key in it says that it is not to be pickled
            pass
        failure = failure.__cause__ or failure.__context__  # type: ignore[assignment]
    return "\n".join(texts)


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.row("X07", "H14", "H15", "H18")
@pytest.mark.parametrize("name", FAILURES)
async def test_no_failure_of_a_call_holds_the_key(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def handle(request: web.Request) -> web.StreamResponse:
        return FAILURES[name](request)

    async with serving(handle) as url, Engine() as engine:
        model = engine.model("m", endpoint=HttpEndpoint(url, CANARY), timeout=2.0)
        (ended,) = await asyncio.gather(model.submit(Generate.of("a question")), return_exceptions=True)
        assert not seen_in((everything_about(ended) if isinstance(ended, BaseException) else repr(ended)).encode())
        assert not seen_in(repr([vars(one) if hasattr(one, "__dict__") else one for one in (engine, model)]).encode())
    logging.getLogger("asyncopt").debug("the end of %s", name)
    assert not seen_in(caplog.text.encode())


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    assert made.environment["OPENAI_API_KEY"] == CANARY
    return made


async def nothing_shows(shell: Shell, *arguments: str) -> str:
    """Run the command; what it printed, and the files it left, without the key."""
    ran = await shell.run(*arguments)
    assert not seen_in(ran.out + ran.err), (ran.out + ran.err).decode().replace(CANARY, "[the key]")
    assert files_with_it(shell.folder) == []
    assert b"Traceback" not in ran.err, ran.err.decode()
    return (ran.out + ran.err).decode()


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.row("X07")
@pytest.mark.parametrize("name", ["401", "400", "quota", "redirect", "no JSON", "echo in the answer"])
async def test_no_run_shows_or_keeps_the_key_however_it_fails(name: str, shell: Shell) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return FAILURES[name](request)

    async with serving(handle) as url:
        on = ["--scorer", "openai/m", "--base-url", url, "--limit", "2", "--json"]
        await nothing_shows(shell, "run", "capital", *on, "--steps", "1", "--trace", "--directory", "one")
        if name == "401":
            said = await nothing_shows(shell, "eval", "capital", "Say it.", *on)
            assert "then evaluate again" in said
            assert "resume" not in said
        if name == "echo in the answer":
            await nothing_shows(shell, "show", "one", "--json")
            await nothing_shows(shell, "eval", "capital", "Say it.", *on, "--out", "items")


KEY_IN_SETTINGS = [
    ["--set", f"models.scorer.api_key={CANARY}"],
    ["--set", f"models.scorer.api_key_env={CANARY}"],
    ["--set", f"models.scorer.model={CANARY}"],
    ["--set", f"models.scorer.base_url=https://{CANARY}@api.example/v1"],
    ["--set", f"models.scorer.base_url=https://api.example/v1?key={CANARY}"],
    ["--set", f"models.scorer.{CANARY}=1"],
    ["--set", f"{CANARY}=1"],
    ["--set", CANARY],
    ["--set", f"optimizer.name={CANARY}"],
    ["--base-url", f"https://user:{CANARY}@api.example/v1"],
    ["--base-url", f"https://api.example/{CANARY}"],
    ["--base-url", CANARY],
    ["--scorer", CANARY],
    ["--budget", CANARY],
    ["--budget", f"calls={CANARY}"],
    ["--mode", CANARY],
]


@pytest.mark.row("X07")
@pytest.mark.parametrize("arguments", KEY_IN_SETTINGS, ids=lambda arguments: " ".join(arguments).replace(CANARY, "KEY"))
def test_a_key_among_the_settings_is_refused_unseen(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncopt.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["asyncopt", "run", "capital", "--limit", "3", "--scorer", "openai/m", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = "".join(capsys.readouterr())
    assert printed.startswith("asyncopt: ")
    assert not seen_in(printed.encode())
    assert list(tmp_path.rglob("*.json*")) == []


@pytest.mark.row("X07")
@pytest.mark.parametrize("arguments", KEY_IN_SETTINGS, ids=lambda arguments: " ".join(arguments).replace(CANARY, "KEY"))
def test_a_key_that_looks_like_nothing_is_known_from_the_environment(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncopt.cli import main

    plain = CANARY.replace("-", "_")
    monkeypatch.setenv("OPENAI_API_KEY", plain)
    monkeypatch.chdir(tmp_path)
    given = [argument.replace(CANARY, plain) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["asyncopt", "run", "capital", "--limit", "3", "--scorer", "openai/m", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = "".join(capsys.readouterr())
    assert plain not in printed
    assert not seen_in(printed.encode())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.row("X07")
def test_a_key_in_a_configuration_file_is_known_from_the_environment(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncopt.cli import main

    plain = CANARY.replace("-", "_")
    monkeypatch.setenv("MY_TOKEN_2", plain)
    (tmp_path / "run.toml").write_text(f'task.name = "capital"\nmodels.scorer.model = "openai/{plain}"\n')
    monkeypatch.setattr(sys, "argv", ["asyncopt", "run", str(tmp_path / "run.toml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = "".join(capsys.readouterr())
    assert "run.toml has the value of MY_TOKEN_2" in printed
    assert plain not in printed


@pytest.mark.row("X07")
@pytest.mark.parametrize(
    "name", ["api_key", "API-Key", "apikey", "key", "token", "secret", "password", "authorization"]
)
def test_a_key_in_a_file_is_refused_unseen(name: str) -> None:
    with pytest.raises(ConfigError, match="keys stay in the environment") as caught:
        check({"task": {"name": "capital"}, "models": {"scorer": {"model": "m", name: CANARY}}})
    assert not seen_in(everything_about(caught.value).split("locals")[0].encode()) or CANARY not in str(caught.value)
    for parse in (parse_setting, parse_budget):
        with pytest.raises(ConfigError) as caught:
            parse(CANARY)
        assert not seen_in(str(caught.value).encode())


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.row("X07", "L06")
async def test_an_interrupted_run_shows_nothing(shell: Shell) -> None:
    asked, over = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return error(404, said_back(request))
        asked.set()
        await over.wait()
        return an_answer(request)

    async with serving(handle) as url:
        command = ["run", "capital", "--scorer", "openai/m", "--base-url", url, "--limit", "3", "--directory", "one"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "asyncopt", *command),
            stdout=pipe, stderr=pipe, cwd=shell.folder, env=shell.environment,
        )  # fmt: skip
        await asked.wait()
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes() if sys.platform == "linux" else b""
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = b""
        while b"interrupt again" not in said:
            said += (line := await process.stderr.readline())
            assert line, said.decode()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        over.set()
    assert not seen_in(arguments + said + out + err)
    assert files_with_it(shell.folder) == []


@pytest.mark.row("X07")
def test_children_get_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MY_TOKEN", "X_API_KEY", "DB_PASSWORD", "A_SECRET", "huggingface_token"):
        monkeypatch.setenv(name, CANARY)
    for name in ("OPENAI_API_KEY_2", "AZURE_API_KEY_EAST", "MY_CREDENTIALS", "LLM"):  # the last has a key's value
        monkeypatch.setenv(name, CANARY)
    environment = environment_without_keys()
    assert not seen_in(repr(environment).encode())
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.row("X07")
def test_a_crash_in_a_users_own_code_shows_no_key(tmp_path: Path) -> None:
    """A traceback with all locals, as crash reporters make them, through the frames of a running engine."""

    class Crashing(HttpEndpoint):
        async def send(self, model: str, request: Any) -> Any:
            raise ZeroDivisionError("a plugin's own words")

    async def main() -> None:
        async with Engine() as engine:
            await engine.model("m", endpoint=Crashing("http://127.0.0.1:9/v1", CANARY)).submit(Generate.of("x"))

    with pytest.raises((CallFailed, ZeroDivisionError)) as caught:
        asyncio.run(main())
    assert not seen_in(everything_about(caught.value).encode())


@pytest.mark.row("X07")
def test_the_search_for_the_key_finds_it() -> None:
    """In every form; or else all of this would prove nothing."""
    for form in FORMS:
        assert seen_in(b"..." + form + b"...")
    assert not seen_in(b"sk-another-key")


@pytest.mark.row("X07")
@pytest.mark.last
def test_nothing_that_the_whole_fault_suite_left_behind_has_the_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    gc.collect()  # finalizers write their complaints now, not after this
    assert [str(path) for path in files_with_it(tmp_path_factory.getbasetemp())] == []
    assert [name for name, text in TOLD if seen_in(text.encode("utf-8", "replace"))] == []
