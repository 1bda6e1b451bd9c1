"""What a model's name says of where it is served and in which format: ``openai/NAME``, ``anthropic/NAME`` and so on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from asyncopt.endpoints import anthropic, completions
from asyncopt.endpoints.anthropic import AnthropicMessages
from asyncopt.endpoints.azure import AzureChat
from asyncopt.endpoints.completions import PromptLogprobs, TextCompletions
from asyncopt.endpoints.openai import CHAT_CAPABILITIES, OpenAIChat
from asyncopt.endpoints.protocol import Codec
from asyncopt.errors import ConfigError
from asyncopt.values import Capabilities


@dataclass(frozen=True, slots=True)
class Provider:
    """Where a model is served: the name it has there, the base URL, the format, and what can be asked of it."""

    model: str
    base_url: str
    codec: Codec
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class Family:
    """What the part of a name before its first slash stands for.

    ``base_url`` is None where every account has its own; ``codec`` makes the format for a base URL.
    """

    base_url: str | None
    key_variable: str
    codec: Callable[[str], Codec]
    capabilities: Capabilities


# Batches there have another format, take deployments of their own, or do not exist.
_WITHOUT_BATCHES = replace(CHAT_CAPABILITIES, batch=False)

FAMILIES: dict[str, Family] = {
    "openai": Family("https://api.openai.com/v1", "OPENAI_API_KEY", lambda _: OpenAIChat(), CHAT_CAPABILITIES),
    "anthropic": Family(
        "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", lambda _: AnthropicMessages(), anthropic.CAPABILITIES
    ),
    "azure": Family(None, "AZURE_OPENAI_API_KEY", AzureChat, _WITHOUT_BATCHES),
    "openrouter": Family(
        "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", lambda _: OpenAIChat(), _WITHOUT_BATCHES
    ),
    "gemini": Family(
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        lambda _: OpenAIChat(),
        Capabilities(seed=False, stream=True, extra=True),  # it answers 400 to a seed, which it calls an unknown name
    ),
}
_COMPATIBLE = Family(None, "OPENAI_API_KEY", lambda _: OpenAIChat(), CHAT_CAPABILITIES)


def _split(name: str) -> tuple[str, Family, str]:
    """The family's name, the family, and what is left as the model's name."""
    prefix, slash, rest = name.partition("/")
    if slash and prefix in FAMILIES:
        return prefix, FAMILIES[prefix], rest
    return "", _COMPATIBLE, name


def key_variable(name: str) -> str:
    """The environment variable that holds the key for this model, unless the user names another."""
    return _split(name)[1].key_variable


def provider(name: str, base_url: str | None, api_key: str | None) -> Provider:
    """Where the model ``name`` is served. Raises :class:`ConfigError` where the name, the URL or the key is missing.

    The part before the first slash says the format, ``base_url`` another address than the provider's own. A name
    without such a part needs a base URL, and is asked for in OpenAI's format; ``openai/`` says the same of names that
    would otherwise be read as another provider's. A key may be missing only where the address was given.
    """
    prefix, family, model = _split(name)
    if not model or model in (".", ".."):
        raise ConfigError(f"the model name is {name!r}; wanted {prefix or 'openai'}/NAME, or NAME with a base URL")
    address = base_url if base_url is not None else family.base_url
    if address is None:
        raise ConfigError(_without_address(name, prefix))
    if base_url is None and api_key is None:
        raise ConfigError(f"{name} needs an API key; pass api_key=os.environ['{family.key_variable}']")
    return Provider(model, address, family.codec(address), family.capabilities)


def as_completions(found: Provider, prompt_logprobs: PromptLogprobs = "echo") -> Provider:
    """The same model, asked to continue raw text; raises :class:`ConfigError` where the format has no such thing."""
    if type(found.codec) is not OpenAIChat:
        raise ConfigError(
            f'{found.model} at {found.base_url} has no format "completions", which only OpenAI and servers like vLLM '
            "have; leave the format out, or say openai/NAME with the base URL of a server that has it"
        )
    return replace(found, codec=TextCompletions(prompt_logprobs), capabilities=completions.CAPABILITIES)


def _without_address(name: str, prefix: str) -> str:
    if prefix:
        return f"{name} needs the base_url of your own resource, such as https://NAME.openai.azure.com"
    known = ", ".join(f"{family}/NAME" for family in FAMILIES)
    return f"nothing is known of the model {name!r}; say one of {known}, or give its base URL (base_url=, --base-url)"
