"""Grading a model's text: the answer is read out of it and compared with the target, in one of several modes.

The only mode so far is ``strict``: whole words, the last answer given counts, case does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, get_args

from asyncopt.answers import boolean, choice, number, text
from asyncopt.errors import ConfigError

Kind: TypeAlias = Literal["number", "choice", "boolean", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_STRICT: Mapping[Kind, Callable[[str, str], bool]] = {
    "number": number.right,
    "choice": choice.right,
    "boolean": boolean.right,
    "text": text.right,
}
_MODES: Mapping[str, Mapping[Kind, Callable[[str, str], bool]]] = {"strict": _STRICT}


def grade(kind: Kind, answer: str, target: str, mode: str = "strict") -> bool:
    """Whether the answer is right. An answer that states nothing is wrong; no text raises.

    Raises :class:`ConfigError` for a kind or a mode that there is not.
    """
    if mode not in _MODES:
        raise ConfigError(f"the mode of grading is {mode!r}; it must be one of {', '.join(_MODES)}")
    if kind not in _STRICT:
        raise ConfigError(f"the kind of answer is {kind!r}; it must be one of {', '.join(KINDS)}")
    return _MODES[mode][kind](answer, target)
