"""What the simulated model makes of a request of EvoPrompt: words of all the prompts that are shown, without regard to
what they are worth, and then one step of a random walk.
"""

from __future__ import annotations

import random
import re

_YOUR_TURN = "\nYour turn: work through the same steps with these prompts.\n"
_SHOWN = re.compile(r"^(?:Prompt [123]|Basic Prompt): ?(.*)$", re.MULTILINE)


def shown_in(prompt: str) -> list[str]:
    """The prompts that a request for a child shows, in their order; none where it is no such request."""
    _, request, turn = prompt.rpartition(_YOUR_TURN)
    return _SHOWN.findall(turn) if request and turn.rstrip().endswith("\n1.") else []


def crossed(rng: random.Random, prompts: list[str]) -> str:
    """The beginning of each prompt before the end of the next one."""
    words = prompts[0].rstrip(".").split()
    for other in prompts[1:]:
        tail = other.rstrip(".").split()
        words = words[: rng.randint(0, len(words))] + tail[rng.randint(0, len(tail)) :]
    return " ".join(words)
