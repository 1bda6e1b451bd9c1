"""What a training run of language networks found in one iteration, for ``asyncopt show``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from asyncopt import codec

_SHOWN = 160  # characters of a text


def network_lines(state: Mapping[str, Any]) -> Iterator[str]:
    """The lines of an iteration's state: its prompts, its bounds, and hidden texts of some examples with weights."""
    report = state.get("report") or {}
    for layer, prompt in prompts_in(state["current"]).items():
        yield f"      {layer:>8}  {_text(prompt)}"
    if state.get("step") == -1:
        for layer, estimator in (state.get("estimators") or {}).items():
            yield f"      {layer:>8}  is scored by {_text(str(estimator))}"
    yield from _bounds(report)
    for example in report.get("examples") or ():
        yield from _example(example)


def prompts_in(candidate: str) -> dict[str, str]:
    """The prompts of a candidate by their layers; a network of one layer has one that is named ``prompt``."""
    try:
        pair = codec.loads(candidate.encode("utf-8", "replace"))
    except codec.CodecError:
        pair = None
    if isinstance(pair, dict) and set(pair) == {"hidden", "output"}:
        return {layer: str(text) for layer, text in pair.items()}
    return {"prompt": candidate}


def _bounds(report: Mapping[str, Any]) -> Iterator[str]:
    if "skipped" in report:
        yield f"                {report['skipped']}"
        return
    parts = [f"ELBO {_number(report['elbo'])}"] if "elbo" in report else []
    for layer in ("hidden", "output"):
        if isinstance(report.get(layer), Mapping) and "elbo" in report[layer]:
            parts.append(
                f"{layer} {_number(report[layer]['elbo'])} of {len(report[layer].get('rewards', ()))} candidates"
            )
    if report.get("accuracy") is not None:
        parts.append(f"{100 * report['accuracy']:.1f} % of the batch were right before")
    if parts:
        yield f"                {'; '.join(parts)}"


def _example(example: Mapping[str, Any]) -> Iterator[str]:
    verdict = "right" if example["loss"] == 0 else "wrong"
    wanted, output = _text(example["target"]), _text(example["output"])
    yield f"                example {example['example']}: wanted {wanted}, {verdict}: {output}"
    yield f"                  forward  {_text(example['hidden'])}"
    for weight, text in zip(example["weights"], example["samples"], strict=False):
        yield f"                  {weight:7.3f}  {_text(text)}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _text(text: str) -> str:
    return codec.printable(text, _SHOWN) or "(empty)"
