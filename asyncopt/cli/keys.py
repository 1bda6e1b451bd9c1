"""The keys in the environment, which no argument, no setting and no message may hold."""

from __future__ import annotations

import os

from asyncopt.endpoints.secret import redact_patterns, secrets_in
from asyncopt.errors import ConfigError


def refuse_keys(text: str, place: str) -> None:
    """Raise :class:`ConfigError` if one of the keys stands in the text, in any form; ``place`` says where that is."""
    for name, key in secrets_in(os.environ).items():
        if key.redact(text) != text:
            raise ConfigError(f"{place} the value of {name}; leave it in the environment, where others cannot see it")


def without_keys(text: str) -> str:
    """The text with all keys masked, and all that looks like one."""
    for key in secrets_in(os.environ).values():
        text = key.redact(text)
    return redact_patterns(text)
