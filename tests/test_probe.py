"""What an endpoint can do, found out by asking: held against servers whose abilities are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from calls import started
from test_local_server import weights_path  # noqa: F401 - a fixture

from asyncopt.endpoints.anthropic import AnthropicMessages
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.probe import Probe
from asyncopt.endpoints.protocol import Answer, Codec
from asyncopt.testing import Abilities, Constant, FaultPlan, SimulatedAPI, run_virtual
from asyncopt.testing.abilities import PromptLogprobs
from asyncopt.values import FaultKind, Generate, Likelihood, Request

KEY = "sk-canary-0123456789abcdef"


def probed(api: SimulatedAPI, wire: Codec | None = None, key: str | None = None) -> Probe:
    """The probe of an API in the same loop; it checks what every probe must keep to."""

    async def ask(wire: Codec, request: Request) -> tuple[Answer, float]:
        assert isinstance(request, Likelihood) or (request.sampling.max_tokens or 99) <= 8
        return await api.endpoint(api_key=key, codec=wire).send("m", request), 0.25

    async def main() -> Probe:
        probe = Probe(ask, wire or OpenAIChat())
        await probe.run()
        return probe

    probe = run_virtual(main)
    assert probe.calls <= 25
    assert len(api.ledger.entries) <= 25
    assert all(finding.evidence for finding in probe.findings)
    return probe


def values(probe: Probe) -> dict[str, Any]:
    return {finding.name: finding.value for finding in probe.findings}


def test_everything_that_a_server_has_is_found() -> None:
    api = SimulatedAPI(requests_per_second=100, tokens_per_second=1e6, abilities=Abilities(n=True))
    assert values(probed(api)) == {
        "chat": True,
        "completions": True,
        "top_logprobs": 20,
        "completions_top_logprobs": 20,
        "prompt_logprobs": "echo",
        "seed": True,
        "n": True,
        "logit_bias": True,
        "grammar": False,
        "latency": 0.25,
        "limits": "6000 requests, 6e+07 tokens",
    }


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("ability", ["seed", "n", "logit_bias"])
def test_what_is_ignored_or_refused_is_told_from_what_works(ability: str, has: bool) -> None:
    assert values(probed(SimulatedAPI(abilities=Abilities(**{ability: has}))))[ability] is has  # type: ignore[arg-type]


@pytest.mark.parametrize(("has", "found"), [(0, 0), (1, 1), (4, 1), (5, 5), (20, 20), (99, 20), (1000, 100)])
def test_the_largest_number_of_alternatives_is_found(has: int, found: int) -> None:
    assert values(probed(SimulatedAPI(abilities=Abilities(top_logprobs=has))))["top_logprobs"] == found


@pytest.mark.parametrize("silent", [True, False])
@pytest.mark.parametrize(
    ("has", "found"), [("echo", "echo"), ("vllm", "prompt_logprobs"), ("llamacpp", "llama.cpp"), ("none", False)]
)
def test_how_a_given_text_is_scored_is_found_and_a_silent_echo_is_none(
    has: PromptLogprobs, found: object, silent: bool
) -> None:
    probe = probed(SimulatedAPI(abilities=Abilities(prompt_logprobs=has, silent_echo=silent)))
    assert values(probe)["prompt_logprobs"] == found
    assert values(probe)["grammar"] is (has == "llamacpp")
    if has == "none":
        (evidence,) = (finding.evidence for finding in probe.findings if finding.name == "prompt_logprobs")
        assert evidence.startswith("echo: log-probabilities of 0 tokens came" if silent else "echo: HTTP 400")


def test_a_server_of_chats_alone_is_asked_no_more_than_that() -> None:
    found = values(probed(SimulatedAPI(abilities=Abilities(completions=False, prompt_logprobs="none"))))
    assert found["chat"] is True
    assert found["completions"] is False
    assert found["prompt_logprobs"] is False
    assert "completions_top_logprobs" not in found


def test_a_server_of_raw_text_alone_is_asked_in_that_format() -> None:
    found = values(probed(SimulatedAPI(abilities=Abilities(chat=False, n=True))))
    assert found["chat"] is False
    assert found["top_logprobs"] == 20
    assert found["prompt_logprobs"] == "echo"
    assert found["seed"] is found["n"] is True


def test_another_providers_format_is_asked_what_it_has() -> None:
    api = SimulatedAPI(latency=Constant(0.25))
    found = values(probed(api, AnthropicMessages()))
    assert found["chat"] is True
    assert not any(found[name] for name in ("completions", "top_logprobs", "prompt_logprobs", "seed", "n", "grammar"))


def test_a_server_that_fails_always_is_asked_twice() -> None:
    probe = probed(SimulatedAPI(faults=FaultPlan(seed=1, rate=1.0, kinds=("500",))))
    assert probe.failure is not None
    assert probe.failure.kind is FaultKind.TRANSIENT
    assert values(probe) == {"chat": False, "completions": False}
    assert probe.calls == 2


def test_a_wrong_key_is_the_failure() -> None:
    probe = probed(SimulatedAPI(require_key="right"), key="wrong")
    assert probe.failure is not None
    assert probe.failure.kind is FaultKind.FATAL_CONFIG


def test_samples_that_never_vary_say_nothing_of_seeds() -> None:
    api = SimulatedAPI()

    async def ask(wire: Codec, request: Request) -> tuple[Answer, float]:
        if isinstance(request, Generate):
            request = Generate.of("Always this.")
        return await api.endpoint(codec=wire).send("m", request), 0.0

    async def main() -> Probe:
        probe = Probe(ask, OpenAIChat())
        await probe.run()
        return probe

    assert values(run_virtual(main))["seed"] is None


# The command


def command(tmp_path: Path, *arguments: str, key: str = KEY, expect: int = 0) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ASYNCOPT_"))}
    environment = kept | {"ASYNCOPT_CACHE_DIR": str(tmp_path), "OPENAI_API_KEY": key}
    done = subprocess.run(
        [sys.executable, "-m", "asyncopt", "models", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert key not in done.stdout + done.stderr
    assert key.encode() not in written
    return done


def simulator(*options: str) -> Any:
    return started("-m", "asyncopt", "simulate", "--latency", "0.001", *options)


@pytest.mark.real
def test_the_command_prints_what_it_found_and_keeps_it_for_every_key(tmp_path: Path) -> None:
    with simulator("--rps", "1000", "--key", KEY) as (_, ready):
        url = str(ready["url"])
        shown = command(tmp_path, "probe", "m", "--base-url", url).stdout
        assert shown.startswith(f"m at stated:{ready['identity']}, ")
        assert any(line.split()[:3] == ["top", "logprobs", "20"] for line in shown.splitlines())
        found = json.loads(command(tmp_path, "probe", "m", "--base-url", url, "--json").stdout)
    assert found["event"] == "probed"
    assert found["calls"] <= 25
    assert {finding["name"]: finding["value"] for finding in found["findings"]}["limits"] == "60000 requests"
    (kept,) = (tmp_path / "probes").iterdir()
    assert json.loads(kept.read_bytes())["findings"] == found["findings"]
    listed = command(tmp_path, "ls").stdout
    assert listed.splitlines()[0] == f"m at stated:{ready['identity']}"
    assert len(listed.splitlines()) == 1 + len(found["findings"])
    kept.write_bytes(b"[1]")
    assert "cannot be read" in command(tmp_path, "ls").stderr


@pytest.mark.real
def test_refusals_are_waited_for_and_change_nothing(tmp_path: Path) -> None:
    with simulator("--rps", "20", "--burst", "1", "--headers", "none") as (_, ready):
        found = json.loads(command(tmp_path, "probe", "m", "--base-url", str(ready["url"]), "--json").stdout)
    assert {finding["name"]: finding["value"] for finding in found["findings"]}["prompt_logprobs"] == "echo"


@pytest.mark.real
def test_a_wrong_key_ends_with_4_and_keeps_nothing(tmp_path: Path) -> None:
    with simulator("--key", "right") as (_, ready):
        done = command(tmp_path, "probe", "m", "--base-url", str(ready["url"]), expect=4)
    assert "asyncopt: fatal_config: HTTP 401" in done.stderr
    assert not (tmp_path / "probes").exists()


@pytest.mark.real
def test_a_server_that_answers_nothing_is_said_to(tmp_path: Path) -> None:
    with simulator("--faults", "seed=1,rate=1,kinds=500") as (_, ready):
        url = str(ready["url"])
        done = command(tmp_path, "probe", "m", "--base-url", url, expect=1)
        assert "HTTP 500" in done.stdout
        assert "answers nothing" in done.stderr
    done = command(tmp_path, "probe", "m", "--base-url", url, expect=1)
    assert "no connection" in done.stdout
    assert not (tmp_path / "probes").exists()


@pytest.mark.real
def test_a_model_that_means_nothing_is_wrong_input(tmp_path: Path) -> None:
    assert "openai/NAME" in command(tmp_path, "probe", "m", expect=2).stderr
    assert command(tmp_path, "ls").stdout == ""


@pytest.mark.local
def test_the_embedded_model_is_asked(tmp_path: Path, weights_path: Path) -> None:  # noqa: F811
    found = json.loads(command(tmp_path, "probe", str(weights_path), "--json").stdout)
    assert found["identity"].startswith("local:")
    assert found["calls"] <= 25
    values = {finding["name"]: finding["value"] for finding in found["findings"]}
    assert values.pop("latency") > 0
    assert values == {
        "chat": True,
        "completions": True,
        "top_logprobs": 100,
        "completions_top_logprobs": 100,
        "prompt_logprobs": "llama.cpp",
        "seed": True,
        "n": True,
        "logit_bias": True,
        "grammar": True,
        "limits": None,
    }
