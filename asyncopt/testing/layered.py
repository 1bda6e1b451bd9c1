"""What the simulated model finds in a request of a language network: the text of which another is wanted.

A new prompt varies the one that is shown. A hidden text varies the hidden layer's prompt, or the earlier thoughts where
they are to be edited; so the words of that prompt reach the output layer, where they count as an instruction's do, and
training the hidden layer can pay.
"""

from __future__ import annotations

_HELPER = "A helper turns inputs into outputs "
_PROPOSAL = "\nNew instruction:"
_STEPS = "Let's think it through step by step."
_ANALYSIS = "\nShort analysis:"
_EDITS = {  # how a request ends that wants earlier thoughts edited, and what stands before these
    "\nBetter thoughts:": "\nEarlier thoughts about it:\n",
    "\nBetter short analysis:": "\nEarlier analysis of it:\n",
}
_AFTER_EARLIER = "\n\nThe right answer to this is known."


def base_of(prompt: str) -> str | None:
    """The prompt or the thoughts that a request of a language network wants varied; None if it is no such request."""
    if prompt.startswith(_HELPER) and prompt.endswith(_PROPOSAL):
        return _between(prompt, "\n# Instruction\n", "\n[END]\n")
    if prompt.endswith(_STEPS):
        return prompt.rpartition("\n\n")[2].removesuffix(_STEPS)
    if prompt.endswith(_ANALYSIS):
        return prompt.partition("\n\n")[0]
    heading = next((heading for ending, heading in _EDITS.items() if prompt.endswith(ending)), None)
    return None if heading is None else _between(prompt, heading, _AFTER_EARLIER)


def _between(prompt: str, opening: str, closing: str) -> str:
    return prompt.partition(opening)[2].partition(closing)[0]
