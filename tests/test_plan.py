"""``asyncopt plan``: what is printed, what is cached, what is said of budgets and prices, and no call without a pilot."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import orjson
import pytest

from asyncopt.cli.expected import duration, expected, subject
from asyncopt.cli.plan import plan
from asyncopt.cli.settings import settle
from asyncopt.cli.sweep import begin
from asyncopt.errors import ConfigError
from asyncopt.forecast import Pilot
from asyncopt.prices import LISTED, NOT_INSTALLED, STATED, UNKNOWN, price_of
from asyncopt.values import Price

NOBODY = "http://127.0.0.1:9/v1"  # where nobody listens, so that any call would fail
FLAGS: dict[str, Any] = {"models.scorer.model": "m", "optimizer.steps": 2}


@contextmanager
def refusing_server() -> Iterator[str]:
    """A server that asks to wait at first, and then says of every request that it cannot be answered."""
    limited = iter([True])

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if next(limited, False):
                self.send_response(429)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = b'{"error":{"message":"too long","code":"context_length_exceeded"}}'
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def told(capsys: pytest.CaptureFixture[str], name: str = "antonym", **options: Any) -> Any:
    plan(name, options.pop("flags", FLAGS), base_url=options.pop("base_url", NOBODY), json=True, **options)
    return orjson.loads(capsys.readouterr().out)


def test_without_a_pilot_nothing_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    value = told(capsys, pilot=0)
    assert value["event"] == "plan"
    assert value["pilot_calls"] == 0
    # 17 candidates on 40 examples, 16 proposals, and a test or two on 100; fewer with twins.
    assert value["calls"]["low"] < 17 * 40 + 16 + 100 <= value["calls"]["high"] <= 1.02 * (17 * 40 + 16 + 200)
    assert value["calls"]["low"] <= value["calls"]["middle"] <= value["calls"]["high"]


def test_a_budget_is_held_against_the_interval(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = [told(capsys, pilot=0, budget=f"calls={calls}")["budget"]["calls"] for calls in (50, 830, 5000)]
    assert verdicts == ["does not suffice", "may not suffice", "suffices"]
    value = told(capsys, pilot=0, settings=["budget.usd=1", "models.scorer.model=m"])
    assert "price" in value["budget"]["usd"]


@pytest.mark.parametrize("optimizer", ["opro", "ape", "dln1", "dln2"])
def test_all_optimizers_are_planned(optimizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = told(capsys, "capital", flags={**FLAGS, "optimizer.name": optimizer} if optimizer != "ape" else
                 {"models.scorer.model": "m", "optimizer.name": "ape"}, pilot=0)  # fmt: skip
    assert 0 < value["calls"]["low"] <= value["calls"]["high"]
    assert 0 < value["seconds"]["low"] < value["seconds"]["high"]


def test_random_search_takes_no_call(capsys: pytest.CaptureFixture[str]) -> None:
    value = told(capsys, "linear-regression", base_url=None, flags={"models.proposer.model": "random"}, pilot=0)
    assert value["calls"]["high"] == 0
    assert value["noise"] is None


def test_a_sweep_is_the_sum_of_its_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "two.toml"
    file.write_text('tasks = ["antonym", "capital"]\nseeds = [0, 1]\n[settings.plain]\n', encoding="utf-8")
    both = told(capsys, str(file), pilot=0)
    one = told(capsys, "antonym", pilot=0)
    assert both["studies"] == 4
    assert both["calls"]["high"] > 2 * one["calls"]["low"]


def test_lines_say_what_binds_and_what_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    plan("antonym", FLAGS, base_url=NOBODY, pilot=0)
    shown = capsys.readouterr().out
    for part in ("calls", "input tokens", "dollars", "time", "bound by", "smallest gain", "without a pilot"):
        assert part in shown


@pytest.mark.parametrize("pilot", [-1, 3])
def test_a_pilot_that_means_nothing_is_refused(pilot: int) -> None:
    with pytest.raises(ConfigError, match="0 for no calls"):
        plan("antonym", FLAGS, base_url=NOBODY, pilot=pilot)


def test_times_are_for_people() -> None:
    assert [duration(seconds) for seconds in (4.4, 99, 600, 9000)] == ["4 s", "99 s", "10 min", "2 h 30 min"]


# -- prices ------------------------------------------------------------------------------------------------------------


def test_a_stated_price_goes_before_any_list() -> None:
    assert price_of("openai/gpt-4o-mini", None, Price(9.0, 9.0)) == price_of("nobody", None, Price(9.0, 9.0))
    assert price_of("nobody", None, Price(1.0, 2.0)).source == STATED


def test_without_the_list_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert price_of("openai/gpt-4o-mini").source == NOT_INSTALLED
    assert "asyncopt[prices]" in NOT_INSTALLED


def test_the_list_is_asked_for_a_thousand_tokens_by_our_names_for_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def calc_price(usage: Any, model: str, **where: Any) -> Any:
        asked.append((model, where))
        if model == "nobody":
            raise LookupError
        return SimpleNamespace(total_price=0.001 * getattr(usage, "input_tokens", 0) * 3e-3 + 0.0)

    listed = ModuleType("genai_prices")
    vars(listed).update(calc_price=calc_price, Usage=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "genai_prices", listed)
    assert price_of("gemini/flash").source == LISTED
    assert asked[0] == ("flash", {"provider_id": "google"})
    assert price_of("openai/nobody") == price_of("anthropic/nobody")
    assert price_of("openai/nobody").source == UNKNOWN
    assert price_of("mine").source == UNKNOWN  # no family and no address: there is nothing to look up


def test_the_list_itself_knows_the_usual_models() -> None:
    pytest.importorskip("genai_prices")
    assert price_of("openai/gpt-4o-mini").price == Price(0.15, 0.6)
    assert price_of("openrouter/openai/gpt-4o-mini").price is not None


def test_two_servers_of_one_name_have_prices_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    def dollars(scorer: float, proposer: float) -> Any:
        settings = [
            f"models.scorer.usd_per_million_input_tokens={scorer}",
            f"models.scorer.usd_per_million_output_tokens={scorer}",
            "models.proposer.model=m",
            f"models.proposer.base_url={NOBODY[:-3]}/other/v1",
            f"models.proposer.usd_per_million_input_tokens={proposer}",
            f"models.proposer.usd_per_million_output_tokens={proposer}",
        ]
        return told(capsys, pilot=0, settings=settings)

    both, scoring, proposing = dollars(1000, 1), dollars(1000, 0), dollars(0, 1)
    assert both["usd"]["middle"] == pytest.approx(scoring["usd"]["middle"] + proposing["usd"]["middle"], rel=0.01)
    assert [one["price"]["input"] for one in both["prices"].values()] == [1000, 1]
    assert list(both["prices"]) == ["m", "m (2)"]


@pytest.mark.real
def test_a_pilot_without_an_answer_is_not_told_as_one_from_the_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCOPT_CACHE_DIR", str(tmp_path))
    with refusing_server() as url:
        value = told(capsys, base_url=url, pilot=4)
        plan("antonym", FLAGS, base_url=url, pilot=4)
    with refusing_server() as url:
        plan("antonym", FLAGS, base_url=url, pilot=4)
    assert (value["pilot_calls"], value["pilot_failed"]) == (0, 4)
    assert (value["pilot_throttled"], value["pilot_retried"]) == (1, 0)
    shown = capsys.readouterr().out
    assert "4 pilot calls had no answer" in shown
    assert shown.count("of the 5 attempts they took 1 met a rate limit (429) and 0 failed otherwise") == 1
    assert "in the cache" not in shown


def test_what_the_pilot_asked_is_free_to_the_seed_that_it_had(capsys: pytest.CaptureFixture[str]) -> None:
    """Other seeds have other training examples, so that nothing of theirs is in the cache."""
    configs = [settle("plan", {**FLAGS, "task.name": "antonym", "seed": seed}, NOBODY, None, []) for seed in (0, 1, 1)]
    answered = {subject(configs[0]): Pilot(cached=20)}
    with_pilot = [one.calls.high for one in expected(configs, answered).forecasts]
    without = [one.calls.high for one in expected(configs, {}).forecasts]
    assert [most - least for most, least in zip(without, with_pilot, strict=True)] == pytest.approx([20, 0, 0], abs=1)


def test_a_dry_run_of_a_sweep_expects_what_a_plan_without_a_pilot_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "two.toml"
    file.write_text('tasks = ["antonym"]\nseeds = [0, 1]\nstudies = 2\n[settings.plain]\n', encoding="utf-8")
    options: dict[str, Any] = {"base_url": NOBODY, "settings": [], "seeds": None}
    begin(str(file), FLAGS, options, None, "calls=50", dry_run=True, shown="json", wait=False)
    found = orjson.loads(capsys.readouterr().out)["expected"]
    wanted = told(capsys, str(file), pilot=0, budget="calls=50")
    assert found["seconds"] == wanted["seconds"]
    assert found["budget"] == wanted["budget"] == {"calls": "does not suffice"}
