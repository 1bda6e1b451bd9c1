"""An OpenAI-compatible proxy on this machine: other programs' calls get the engine's cache, quotas and retries."""

from __future__ import annotations

from asyncopt.proxy.server import Draws, Proxy

__all__ = ["Draws", "Proxy"]
