"""A key in every form in which it may come back: masked in texts and bytes, and shown by nothing that holds it."""

from __future__ import annotations

import base64
import copy
import html
import io
import json
import logging
import pickle
import re
import traceback
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.traceback import Traceback
from served import good

from asyncopt.endpoints.addresses import check_address
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.secret import Secret, redact_patterns
from asyncopt.errors import ConfigError
from asyncopt.testing.raw import RawServer, answer
from asyncopt.values import Fault, Generate

KEY = 'sk-canary/7f+3a"9Q2=mZx81LbV0tYpW'
PLAIN = "sk-canary-7f3a9Q2mZx81LbV0tYpW"


def longest_common(text: str, key: str) -> int:
    """The length of the longest part of the key that stands in the text."""
    return max(size for size in range(len(key) + 1) for at in range(len(key) - size + 1) if key[at : at + size] in text)


def spelled(before: str, after: str) -> dict[str, str]:
    whole = (before + KEY + after).encode()
    return {
        "as it is": before + KEY + after,
        "for a URL": quote(before + KEY + after, safe=""),
        "in a path": quote(before + KEY + after),
        "in JSON": json.dumps(before + KEY + after),
        "in JavaScript": json.dumps(before + KEY + after).replace("/", "\\/"),
        "for a URL, in small letters": re.sub("%..", lambda code: code[0].lower(), quote(before + KEY + after)),
        "in HTML": html.escape(before + KEY + after),
        "base64": base64.b64encode(whole).decode(),
        "base64 for a URL": base64.urlsafe_b64encode(whole).decode(),
    }


@given(st.text(st.characters(max_codepoint=127), max_size=4), st.text(st.characters(max_codepoint=127), max_size=4))
def test_no_form_of_the_key_survives_whatever_stands_beside_it(before: str, after: str) -> None:
    secret = Secret(KEY)
    core = base64.b64encode(b"\0\0\0" + KEY.encode()).decode()[4:-4]
    for text in spelled(before, after).values():
        for found in (secret.redact(text), secret.redact_bytes(text.encode()).decode()):
            assert "***" in found
            assert longest_common(found, KEY) < 5
            assert longest_common(found, core) < 5


@pytest.mark.parametrize("size", range(8, len(PLAIN)))
def test_the_rest_of_a_key_at_the_end_of_a_cut_text_is_masked(size: int) -> None:
    for end in ("", "…"):
        assert Secret(PLAIN).redact_cut(f"bad key {PLAIN[:size]}{end}") == "bad key ***"
    assert Secret(PLAIN).redact_cut("bad key, sk-… of yours") == "bad key, sk-… of yours"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Incorrect API key provided: sk-proj-****wxyz.", "Incorrect API key provided: ***."),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer ***"),
        ('{"x-api-key": "secret"}', '{"x-api-key***"}'),
        ("x-api-key: secret", "x-api-key***"),
        ("a task-force-of-people at risk-adjusted rates", "a task-force-of-people at risk-adjusted rates"),
        ("no Bearer auth", "no Bearer auth"),
    ],
)
def test_what_looks_like_somebodys_key_is_masked(text: str, found: str) -> None:
    assert redact_patterns(text) == found


def test_what_holds_a_key_shows_nothing_of_it() -> None:
    endpoint = HttpEndpoint("https://host/v1", PLAIN)
    shown = [repr(endpoint), str(vars(endpoint)), repr(Secret(PLAIN)), f"{Secret(PLAIN)}"]
    assert PLAIN not in "".join(shown)
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            copied(endpoint)
    with pytest.raises(TypeError):
        vars(Secret(PLAIN))


class Injecting(OpenAIChat):
    def headers(self, key: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}", "X-Version": "1\r\nX-Other: 2"}


@pytest.mark.anyio
async def test_a_traceback_with_locals_shows_no_key() -> None:
    endpoint = HttpEndpoint("http://127.0.0.1:1/v1", PLAIN, codec=Injecting())
    with pytest.raises(ConfigError) as caught:
        await endpoint.send("m", Generate.of("q"))
    plain = "".join(
        traceback.TracebackException.from_exception(caught.value, capture_locals=True).format(),
    )
    console = Console(file=io.StringIO(), width=200)
    console.print(Traceback.from_exception(caught.type, caught.value, caught.tb, show_locals=True))
    assert isinstance(console.file, io.StringIO)
    assert "endpoint" in plain  # the locals are there
    assert PLAIN not in plain + console.file.getvalue()


@pytest.mark.anyio
@pytest.mark.real
async def test_the_libraries_below_log_no_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with RawServer.saying(answer(good())) as url:
        endpoint = HttpEndpoint(url, PLAIN)
        await endpoint.send("m", Generate.of("q"))
        await endpoint.aclose()
    assert PLAIN not in caplog.text


@pytest.mark.anyio
@pytest.mark.real
@pytest.mark.parametrize("form", ["as it is", "for a URL", "base64", "in unicode escapes"])
async def test_no_form_of_an_echoed_key_is_in_a_fault(form: str) -> None:
    escaped = "".join(f"\\u{ord(char):04x}" for char in KEY)
    for padding in range(150, 190, 3):
        text = spelled("", "").get(form, KEY)
        body = orjson.dumps({"error": {"message": "x" * padding + " " + text}}).decode()
        data = body.replace(json.dumps(KEY)[1:-1], escaped) if form == "in unicode escapes" else body
        async with RawServer.saying(answer(data.encode(), "401 Unauthorized")) as url:
            endpoint = HttpEndpoint(url, KEY)
            found = await endpoint.send("m", Generate.of("q"))
            await endpoint.aclose()
        assert isinstance(found, Fault)
        assert longest_common(found.detail, text) < 8


@pytest.mark.anyio
@pytest.mark.real
@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
async def test_no_field_of_an_answer_has_a_key_in_unicode_escapes(status: str) -> None:
    escaped = "".join(f"\\u{ord(char):04x}" for char in KEY)
    body = (
        f'{{"model": "{escaped}", "choices": [{{"message": {{"content": "x {escaped}"}}, "finish_reason": "stop"}}]}}'
        if status.startswith("200")
        else f'{{"error": {{"message": "{escaped}", "code": "{escaped}", "type": "{escaped}"}}}}'
    )
    async with RawServer.saying(answer(body.encode(), status)) as url:
        endpoint = HttpEndpoint(url, KEY)
        found = await endpoint.send("m", Generate.of("q"))
        await endpoint.aclose()
    assert "***" in repr(found)
    assert longest_common(repr(found).replace("\\\\", "\\"), KEY) < 8


METADATA = [
    "http://169.254.169.254",
    "https://169.254.170.2/v1",
    "http://[fd00:ec2::254]/v1",
    "http://[fe80::1]/v1",
    "http://[::ffff:169.254.169.254]/v1",
    "http://[::ffff:a9fe:a9fe]/v1",
    "http://2852039166/v1",
    "http://0xa9fea9fe/v1",
    "http://0251.0376.0251.0376/v1",
    "http://169.254.43518/v1",
    "http://169.254.169.254./v1",
    "https://１６９.254.169.254/v1",
    "http://metadata.google.internal/v1",
    "http://METADATA.google.internal./v1",
    "https://100.100.100.200/v1",
    "https://metadata.goog/v1",
    "https://[fd00:ec2::254%25eth0]/v1",
    "https://[fe80::1%25eth0]/v1",
    "https://[64:ff9b::a9fe:a9fe]/v1",
    "https://[2002:a9fe:a9fe::1]/v1",
    "https://[::169.254.169.254]/v1",
]


@pytest.mark.parametrize("url", METADATA)
def test_no_key_goes_to_a_clouds_metadata_however_it_is_written(url: str) -> None:
    for allowed in (False, True):
        with pytest.raises(ConfigError, match="a cloud serves credentials"):
            check_address(url, allow_insecure=allowed)


@pytest.mark.parametrize("url", ["http://api.example.com/v1", "http://[::ffff:8.8.8.8]/v1", "http://134744072/v1"])
def test_clear_text_to_a_public_host_takes_a_word_of_the_users(url: str) -> None:
    with pytest.raises(ConfigError, match="in clear text"):
        HttpEndpoint(url, PLAIN)
    HttpEndpoint(url, PLAIN, allow_insecure=True)


@pytest.mark.parametrize("host", ["1%36%39.254.169.254", "local%68ost", "a b.local", "localhost%20", "x.local,y", "."])
def test_a_host_that_not_every_library_reads_alike_is_refused(host: str) -> None:
    with pytest.raises(ConfigError):
        HttpEndpoint(f"https://{host}/v1", PLAIN)


def test_credentials_in_an_address_are_refused_unseen() -> None:
    with pytest.raises(ConfigError) as caught:
        HttpEndpoint(f"https://user:{PLAIN}@host/v1", allow_insecure=True)
    assert PLAIN not in str(caught.value)
