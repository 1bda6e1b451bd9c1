"""How a meta-prompt for instructions is made: the options that the paper's ablations vary (OPRO, section 5.3)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from asyncopt.errors import ConfigError

MetaPrompt: TypeAlias = Literal["instruction-tuned", "gpt", "pre-trained"]
HistoryOrder: TypeAlias = Literal["ascending", "descending", "random"]
ScoreBuckets: TypeAlias = int | Literal["infinite", "none"]
ExemplarChoice: TypeAlias = Literal["random", "constant", "accumulative_most_frequent", "current_most_frequent"]

_CHOICES = {
    "meta_prompt": get_args(MetaPrompt),
    "history_order": get_args(HistoryOrder),
    "exemplar_choice": get_args(ExemplarChoice),
}
_OF_INSTRUCTIONS = ("meta_prompt", "history_order", "score_buckets", "exemplar_choice", "exemplars_first")


@dataclass(frozen=True, kw_only=True)
class MetaPromptOptions:
    """What a meta-prompt for instructions shows; the defaults are the paper's for instruction-tuned models.

    ``meta_prompt`` is the form: ``gpt`` asks for the instruction between tags; ``pre-trained`` is for models that only
    continue a text, and shows the whole history, without threshold and without exemplars. Scores are rounded to
    ``score_buckets`` steps, or shown as shares (``infinite``), or left out (``none``). ``exemplars`` training examples
    are shown, before the history with ``exemplars_first``. Which ones ``exemplar_choice`` says: ``random`` ones of
    every step, the same ones in all steps (``constant``), some of those that any instruction so far got wrong
    (``accumulative_most_frequent``), or those that most of the shown instructions got wrong
    (``current_most_frequent``).

    ``faithful`` draws exemplars with the reference code's seeds and treats candidates as it does: an empty one is kept,
    and one with the letters ``INS`` in it is not.
    """

    meta_prompt: MetaPrompt = "instruction-tuned"
    history_order: HistoryOrder = "ascending"
    score_buckets: ScoreBuckets = 100
    exemplars: int = 3
    exemplar_choice: ExemplarChoice = "random"
    exemplars_first: bool = False
    faithful: bool = False

    def check_meta_prompt(self) -> None:
        """Raise :class:`ConfigError` for a value that is none of the choices."""
        for name, choices in _CHOICES.items():
            _require_choice(name, getattr(self, name), choices)
        buckets = self.score_buckets
        if isinstance(buckets, str):
            _require_choice("score_buckets", buckets, ("a whole number", "infinite", "none"))
        elif isinstance(buckets, bool) or not isinstance(buckets, int) or buckets < 1:
            raise ConfigError(f"opro's score_buckets is {buckets!r}; it must be at least 1, or infinite, or none")

    def check_no_instructions(self, task: str) -> None:
        """Raise :class:`ConfigError` where an option is set that means nothing for solutions that are no instructions.

        The number of exemplars is let pass, since its default is not 0.
        """
        for name in _OF_INSTRUCTIONS:
            value = getattr(self, name)
            if value != MetaPromptOptions.__dataclass_fields__[name].default:
                raise ConfigError(
                    f"opro's {name} is {value!r}; it is for instructions, and {task} has none; leave it out"
                )


def _require_choice(name: str, value: object, choices: Collection[str]) -> None:
    if value not in choices:
        raise ConfigError(f"opro's {name} is {value!r}; it must be one of {', '.join(choices)}")
