from __future__ import annotations

import re
from pathlib import Path

import pytest

from asyncopt import OPRO, Budget, ConfigError, Price, Quota, RandomSearch
from asyncopt.config import Config, check, merged, parse_budget, parse_setting, read_toml
from asyncopt.tasks import load

FULL = """
seed = 3
use_cache = false
[task]
name = "gsm8k"
limit = 20
position = "Q_end"
[optimizer]
name = "opro"
steps = 7
samples_per_step = 2
styles = ["rewrite", "meta-prompt"]
[models.scorer]
model = "openai/gpt-4o-mini"
requests_per_minute = 500
tokens_per_minute = 2e5
concurrency = 10
usd_per_million_input_tokens = 0.15
usd_per_million_output_tokens = 0.6
[models.proposer]
model = "mock"
base_url = "http://127.0.0.1:1/v1"
api_key_env = "OTHER_KEY"
[budget]
calls = 100
usd = 2.5
"""


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(FULL)
    config = check(read_toml(path))
    assert (config.seed, config.use_cache, config.task.name, config.task.limit) == (3, False, "gsm8k", 20)
    assert config.task.options == {"position": "Q_end"}
    assert config.build_optimizer(load("antonym")) == OPRO(
        steps=7, samples_per_step=2, styles=("rewrite", "meta-prompt")
    )
    assert config.models.scorer is not None
    assert config.models.scorer.quota == Quota(500, 2e5, 10)
    assert config.models.scorer.price == Price(0.15, 0.6)
    assert config.models.proposer is not None
    assert config.models.proposer.price is None
    assert config.budget.build() == Budget(calls=100, usd=2.5)


def test_it_survives_being_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(FULL)
    config = check(read_toml(path))
    assert check(config.to_plain()) == config


def test_what_is_left_out_is_the_papers() -> None:
    config = check({"task": {"name": "gsm8k"}})
    assert config.build_optimizer(load("antonym")) == OPRO()
    assert config.build_optimizer(load("linear-regression")) == OPRO(steps=500)
    random = check({"task": {"name": "x"}, "optimizer": {"name": "random"}})
    assert random.build_optimizer(load("linear-regression")) == RandomSearch(steps=500)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"task": {"name": "x"}, "optimizer": {"stepz": 1}}, "unknown key optimizer.stepz; did you mean steps?"),
        ({"task": {"name": "x"}, "optimiser": {}}, "unknown key optimiser; did you mean optimizer?"),
        ({"task": {"name": "x"}, "models": {"scorer": {"modle": "m", "model": "m"}}}, "did you mean model?"),
        ({"optimizer": {}}, "task is missing"),
        ({"task": {}}, "task.name is missing"),
        ({"task": {"name": "x"}, "optimizer": {"steps": "many"}}, "optimizer.steps"),
        ({"task": {"name": "x"}, "budget": {"usd": -1}}, "budget.usd"),
        ({"task": {"name": "x"}, "mode": "faithful", "optimizer": {"lag": 1}}, "configuration: mode faithful is"),
        *(
            (
                {"task": {"name": "x"}, "optimizer": {"score_buckets": value}},
                f"optimizer.score_buckets: it is {value!r}; ",
            )
            for value in (0, True, 2.5, "100", "infinit", None, 2**60)
        ),
    ],
)
def test_mistakes_are_named_with_what_was_meant(tables: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(tables)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["api_key", "api-key", "apikey", "token"])
def test_a_key_in_a_file_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(ConfigError, match="api_key_env") as caught:
        check({"task": {"name": "x"}, "models": {"scorer": {"model": "m", name: "sk-canary"}}})
    assert "sk-canary" not in str(caught.value)


def test_a_value_of_the_wrong_kind_is_not_repeated_either() -> None:
    with pytest.raises(ConfigError) as caught:
        check({"task": {"name": "x"}, "models": {"scorer": {"model": "m", "api_key_env": ["sk-canary"]}}})
    assert "sk-canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "table"),
    [
        ("a.b=1", {"a": {"b": 1}}),
        ("a=1.5", {"a": 1.5}),
        ("a=true", {"a": True}),
        ("a=text", {"a": "text"}),
        ("a = 'quoted text'", {"a": "quoted text"}),
        ('a=["x", "y"]', {"a": ["x", "y"]}),
        ("a=b=c", {"a": "b=c"}),
        ("a=", {"a": ""}),
    ],
)
def test_settings_are_read_as_toml_or_as_text(setting: str, table: dict[str, object]) -> None:
    assert parse_setting(setting) == table


@pytest.mark.parametrize("setting", ["", "a", "=1", "a..b=1"])
def test_settings_without_a_name_or_a_value_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_setting(setting)


def test_budgets_are_read() -> None:
    assert parse_budget("calls=2000,usd=1.5") == {"calls": 2000, "usd": 1.5}


def test_layers_lie_over_each_other_table_by_table() -> None:
    assert merged([{"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}}, {"b": 2}]) == {"a": {"x": 1, "y": 3}, "b": 2}


@pytest.mark.parametrize("content", [b"[task", b"\xff\xfe", b"a = 1\n" * 200_000])
def test_files_that_are_no_configuration_are_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"odd\.toml"):
        read_toml(path)
    with pytest.raises(ConfigError, match=r"none\.toml"):
        read_toml(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "setting",
    [
        "budget.seconds=inf", "budget.usd=nan", "optimizer.temperature=inf", "optimizer.threshold=nan",
        "models.scorer.requests_per_minute=inf", "models.scorer.timeout=inf", "seed=99999999999999999999",
        "optimizer.max_tokens=99999999999999999999", "models.scorer.concurrency=99999999999999999999",
    ],
)  # fmt: skip
def test_numbers_that_nothing_can_be_done_with_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(setting.partition("=")[0])):
        check(merged([{"task": {"name": "x"}, "models": {"scorer": {"model": "m"}}}, parse_setting(setting)]))


@pytest.mark.parametrize("budget", ["", "calls", "calls=3,", "=3"])
def test_a_budget_that_is_none_is_refused_as_one(budget: str) -> None:
    with pytest.raises(ConfigError, match="--budget|--set"):
        parse_budget(budget)


def test_the_configuration_is_frozen() -> None:
    config = check({"task": {"name": "x"}})
    assert isinstance(config, Config)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("value", ["9-3-1", "many", "0", 0, "1-2"])
def test_a_concurrency_that_cannot_be_meant_is_named_in_one_sentence(value: object) -> None:
    with pytest.raises(ConfigError) as error:
        check({"task": {"name": "t"}, "models": {"scorer": {"model": "m", "concurrency": value}}})
    assert "models.scorer.concurrency" in str(error.value)
    assert "value error" not in str(error.value).lower()


@pytest.mark.parametrize(
    ("name", "meant"), [("dln3", "did you mean dln"), ("opra", "did you mean opro"), (7, "wanted")]
)
def test_an_unknown_optimizer_is_told_all_that_there_are(name: object, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"optimizer.name: .*{meant}.*opro, random, ape, dln1, dln2"):
        check({"task": {"name": "antonym"}, "optimizer": {"name": name}})
