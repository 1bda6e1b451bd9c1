"""The result tables of the papers as values, one JSON line a number, for what was found here to be held against."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Literal, TypeAlias

from asyncopt import codec
from asyncopt.errors import ConfigError

__all__ = ["PAPERS", "Metric", "Row", "rows"]

Metric: TypeAlias = Literal["accuracy", "gap", "steps", "unique_pairs"]

PAPERS = MappingProxyType(
    {
        "opro-paper": "Yang et al., Large Language Models as Optimizers, ICLR 2024 (arXiv 2309.03409v3)",
        "dln-paper": "Sordoni et al., Joint Prompt Optimization of Stacked LLMs using Variational Inference, "
        "NeurIPS 2023 (arXiv 2306.12509v2)",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number of a paper, as printed there, and what it was measured on; what does not apply is None.

    ``value`` is in percent for an accuracy and for a gap to the optimum; it is None where the paper has none, because
    no run came to the optimum. ``optimizer`` is the model that proposed, the heuristic or the method, and None for an
    instruction that people wrote. ``start`` and ``instruction`` may be the empty text; long ones are left out, or
    described in brackets. A ``step``
    of 0 is the starting point.
    """

    source: str
    task: str
    metric: Metric
    value: float | None
    scorer: str | None = None
    optimizer: str | None = None
    position: str | None = None
    start: str | None = None
    instruction: str | None = None
    fold: Literal["train", "test", "overall"] | None = None
    step: int | None = None
    w_true: int | None = None
    b_true: int | None = None
    nodes: int | None = None
    runs: int | None = None
    successes: int | None = None
    sd: float | None = None
    standard_error: float | None = None
    note: str | None = None


def rows(paper: str = "opro-paper", **filters: object) -> list[Row]:
    """The numbers of a paper whose fields are equal to all ``filters``, in the paper's order.

    Raises :class:`ConfigError` for another paper than those in :data:`PAPERS`.
    """
    if paper not in PAPERS:
        raise ConfigError(f"there are no published results by the name {paper!r}; there are {', '.join(PAPERS)}")
    text = files("asyncopt.published").joinpath(f"{paper}.jsonl").read_text(encoding="utf-8")
    found = (Row(**codec.loads(line.encode())) for line in text.splitlines())
    return [row for row in found if all(getattr(row, name) == value for name, value in filters.items())]
