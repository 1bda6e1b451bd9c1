"""Azure OpenAI: OpenAI's chat format under another path and another header."""

from __future__ import annotations

from urllib.parse import quote

from asyncopt.endpoints.openai import OpenAIChat

API_VERSION = "2024-10-21"  # the last one of the dated, generally available versions


class AzureChat(OpenAIChat):
    """``POST`` to a deployment of a resource, such as ``https://NAME.openai.azure.com``.

    A base URL that ends with ``/openai/v1`` is the newer API, without a version, where the body names the deployment.
    """

    def __init__(self, base_url: str) -> None:
        self._versionless = base_url.rstrip("/").endswith("/openai/v1")

    def path(self, model: str) -> str:
        if self._versionless:
            return super().path(model)
        return f"/openai/deployments/{quote(model, safe='')}/chat/completions?api-version={API_VERSION}"

    def headers(self, key: str | None) -> dict[str, str]:
        return {} if key is None else {"api-key": key}
