"""Run directories of versions before this one: what they did not state is no reason to refuse them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from asyncopt import ConfigError, RandomSearch, Result, Study
from asyncopt.cli.settings import settle_resumed
from asyncopt.tasks import LinearRegression


def run(task: LinearRegression, directory: Path) -> Result:
    return asyncio.run(Study(task=task, optimizer=RandomSearch(steps=3), directory=directory).run())


def manifest(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "manifest.json").read_text()))


def without_options(directory: Path) -> None:
    """Leave the problem's options out of the manifest, as versions before the sweeps did."""
    content = manifest(directory)
    del content["subject"]["task"]["options"]
    (directory / "manifest.json").write_text(json.dumps(content))


def test_a_problem_whose_options_were_not_stated_goes_on(tmp_path: Path) -> None:
    result = run(LinearRegression(3, 5), tmp_path)
    without_options(tmp_path)
    assert run(LinearRegression(3, 5), tmp_path) == result


def test_another_problem_is_refused_all_the_same(tmp_path: Path) -> None:
    run(LinearRegression(3, 5), tmp_path)
    with pytest.raises(ConfigError, match=r"task\.options\.w_true was 3, is 4"):
        run(LinearRegression(4, 5), tmp_path)
    without_options(tmp_path)
    with pytest.raises(ConfigError, match=r"task\.fingerprint was"):
        run(LinearRegression(4, 5), tmp_path)


def test_the_repetition_was_no_matter_of_the_seed(tmp_path: Path) -> None:
    config = {"task": {"name": "linear-regression"}, "seed": 2}
    for task, repetition in (({"options": {"repetition": 2}}, 2), ({}, 0)):
        (tmp_path / "manifest.json").write_text(json.dumps({"subject": {"task": task}, "config": config}))
        resumed = settle_resumed(tmp_path, None).load_task()
        assert isinstance(resumed, LinearRegression)
        assert resumed.repetition == repetition
