from __future__ import annotations

from dataclasses import fields, replace

import pytest

from asyncopt.errors import ConfigError
from asyncopt.identity import RequestKeys, endpoint_identity
from asyncopt.values import Generate, Message, Sampling

BASE = Generate.of(
    "question", Sampling(temperature=0.5, top_p=0.9, max_tokens=10, stop=("x",), seed=1, draw=2, grammar="g")
)
OTHER = {"temperature": 0.6, "top_p": 0.8, "max_tokens": 11, "stop": ("y",), "seed": 2, "draw": 3, "grammar": "h"}


def test_every_sampling_parameter_is_in_the_key() -> None:
    keys = RequestKeys("https://host", "model")
    assert set(OTHER) == {field.name for field in fields(Sampling)}
    found = {keys.of(replace(BASE, sampling=replace(BASE.sampling, **{name: value}))) for name, value in OTHER.items()}
    assert len(found | {keys.of(BASE)}) == len(OTHER) + 1


def test_messages_endpoint_and_model_are_in_the_key() -> None:
    keys = RequestKeys("https://host", "model")
    variants = {
        keys.of(BASE),
        keys.of(replace(BASE, prompt=(Message("system", "question"),))),
        keys.of(replace(BASE, prompt=(Message("user", "question "),))),
        keys.of(replace(BASE, prompt=(Message("user", "ques"), Message("user", "tion")))),
        keys.of(replace(BASE, top_logprobs=1)),
        RequestKeys("https://other", "model").of(BASE),
        RequestKeys("https://host", "other").of(BASE),
        RequestKeys("https://hostm", "odel").of(BASE),
    }
    assert len(variants) == 8


def test_equal_requests_have_equal_keys_of_16_bytes() -> None:
    one = RequestKeys("https://host", "model").of(Generate.of("a", Sampling(temperature=0)))
    two = RequestKeys("https://host", "model").of(Generate.of("a", Sampling(temperature=0.0)))
    assert one == two
    assert len(one) == 16


def test_the_key_format_is_pinned() -> None:
    # A change of this value makes every user's cache useless: raise KEY_VERSION with intent, never by accident.
    key = RequestKeys("https://api.openai.com/v1", "gpt-4o-mini").of(Generate.of("Hello", Sampling(temperature=0)))
    assert key.hex() == "2bf8da939b1ee4cb1f3eee74333f6860"


def test_a_lone_surrogate_in_the_prompt_has_a_key() -> None:
    keys = RequestKeys("https://host", "model")
    assert keys.of(Generate.of("a\ud800")) == keys.of(Generate.of("a\ufffd"))  # which is what is sent


@pytest.mark.parametrize(
    ("url", "identity"),
    [
        ("https://Host.COM:443/v1/", "https://host.com/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_base_urls_have_one_form(url: str, identity: str) -> None:
    assert endpoint_identity(url) == identity


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@host/v1",
        "https://hunter2@host",
        "ftp://host",
        "host/v1",
        "",
        "https://",
        "https://h/v1?key=hunter2",
        "http://h:99999",
    ],
)
def test_bad_base_urls_are_refused_without_their_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        endpoint_identity(url)
    assert "hunter2" not in str(caught.value)
