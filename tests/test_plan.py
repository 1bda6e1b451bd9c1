"""``asyncopt plan``: what is printed, what is cached, what is said of budgets and prices, and no call without a pilot."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import orjson
import pytest

from asyncopt.cli.expected import duration
from asyncopt.cli.plan import plan
from asyncopt.errors import ConfigError
from asyncopt.prices import LISTED, NOT_INSTALLED, STATED, UNKNOWN, price_of
from asyncopt.values import Price

NOBODY = "http://127.0.0.1:9/v1"  # where nobody listens, so that any call would fail
FLAGS: dict[str, Any] = {"models.scorer.model": "m", "optimizer.steps": 2}


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
