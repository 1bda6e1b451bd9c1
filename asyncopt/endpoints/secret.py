"""A key that can be used but not shown."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from urllib.parse import quote

from asyncopt.errors import ConfigError

_MASK = "***"
_SHORTEST_MASKED = 8  # "x" or "key", as servers of one's own take, is no secret, and masking it would tear words apart

_SHORTEST_IN_ENVIRONMENT = 12  # of a variable that nobody may have meant as a key, such as PASSWORD=password

_NAME_OF_A_KEY = re.compile(r"(API_?KEY.*|(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)S?[_\d]*)$", re.IGNORECASE)
_KEY_LIKE = re.compile(
    r"""\b(?:sk|rk|pk)-[\w*-]{8,}                      # as OpenAI, Anthropic and OpenRouter make them
    | (?<=\bBearer\s)[^\s"',;]{8,}
    | (?<=\bapi-key)(?:["']?\s*[:=]\s*["']?)[^\s"',;]+ # the header, and a field of JSON
    """,
    re.VERBOSE | re.IGNORECASE,
)


def is_name_of_a_key(variable: str) -> bool:
    """Whether an environment variable with this name holds a key."""
    return _NAME_OF_A_KEY.search(variable) is not None


def redact_patterns(text: str) -> str:
    """The text with all masked that looks like somebody's key: for faults and logs, never for answers or data."""
    return _KEY_LIKE.sub(_MASK, text)


def secrets_in(environment: Mapping[str, str]) -> dict[str, Secret]:
    """What is a key in these variables, by their names and its length, for whoever must not show any of them."""
    found = {}
    for name, value in environment.items():
        if is_name_of_a_key(name) and len(value) >= _SHORTEST_IN_ENVIRONMENT:
            with suppress(ConfigError):  # what cannot be sent is no key
                found[name] = Secret(value)
    return found


class Secret:
    """An API key whose repr, str and pickle hold nothing of it; :meth:`reveal` has one caller, the HTTP transport."""

    __slots__ = ("__byte_forms", "__forms", "__value")

    def __init__(self, value: str) -> None:
        value = value.strip()
        # A typographic quote or a line break from a copy-and-paste would be sent as it is, or fail deep in the client.
        if not value or not value.isascii() or not value.isprintable():
            raise ConfigError("the API key is empty or has characters other than printable ASCII; copy it again")
        self.__value = value
        forms = _forms(value) if len(value) >= _SHORTEST_MASKED else ()
        self.__forms = tuple(form.lower() for form in forms)
        self.__byte_forms = tuple(form.encode() for form in forms)

    def reveal(self) -> str:
        return self.__value

    def fingerprint(self) -> str:
        """A short hash that tells two keys apart."""
        return blake2b(self.__value.encode(), digest_size=8, person=b"asyncopt-key").hexdigest()

    def redact(self, text: str) -> str:
        """The text with the key masked wherever it stands: as it is, in base64, or escaped for URLs, HTML or JSON."""
        lowered = text.lower()
        if not any(form in lowered for form in self.__forms):  # far cheaper than one expression for all
            return text
        return re.sub("|".join(map(re.escape, self.__forms)), _MASK, text, flags=re.IGNORECASE)

    def redact_cut(self, text: str) -> str:
        """The same for a text that was cut to a length: what its end has of the key is masked, too."""
        text = self.redact(text)
        kept = text.removesuffix("…")
        for form in self.__forms:
            for length in range(min(len(form), len(kept)), _SHORTEST_MASKED - 1, -1):
                if kept[-length:].lower() == form[:length]:
                    return kept[:-length] + _MASK
        return text

    def redact_bytes(self, data: bytes) -> bytes:
        """The bytes with the key masked in the same forms, before anything is read or cut out of them."""
        for form in self.__byte_forms:
            if form in data:
                data = data.replace(form, _MASK.encode())
        return data

    def __repr__(self) -> str:
        return f"Secret({_MASK})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a key is not pickled; give it anew where it is needed")


def _forms(value: str) -> tuple[str, ...]:
    """The key as it may be written in a text, longest first."""
    escaped = json.dumps(value)[1:-1]
    quoted = {quote(value, safe=""), quote(value)}
    found = {value, escaped, escaped.replace("/", "\\/"), html.escape(value)} | quoted
    found |= {re.sub("%..", lambda code: code[0].lower(), form) for form in quoted}
    for skipped in range(3):
        found |= _in_base64(value, skipped)
    return tuple(sorted(found, key=lambda form: (-len(form), form)))


def _in_base64(value: str, skipped: int) -> set[str]:
    """What is the same in the base64 of every text in which so many bytes, by threes, stand before the key.

    The characters at both ends are left out: they have bits of what stands beside the key.
    """
    data = bytes(skipped) + value.encode()
    first, last = -(-skipped * 8 // 6), len(data) * 8 // 6
    core = b64encode(data).decode()[first:last]
    return {core, core.translate(str.maketrans("+/", "-_"))}
