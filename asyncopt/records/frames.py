"""Tables as data frames, of whichever library is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from asyncopt.errors import ConfigError


def frame_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Any:
    """The rows as a DataFrame of pandas, else of polars; raises :class:`ConfigError` where neither is installed."""
    with suppress(ImportError):
        return import_module("pandas").DataFrame(list(rows), columns=list(columns))
    with suppress(ImportError):
        # The whole column decides its type: a score may be a whole number for a long while.
        return import_module("polars").DataFrame(list(rows), schema=list(columns), infer_schema_length=None)
    raise ConfigError("data frames need pandas or polars; pip install 'asyncopt[frames]'")
