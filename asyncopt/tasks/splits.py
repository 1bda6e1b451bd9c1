"""How items are dealt to training, validation and test: the reference's seeded draws, ratios, and slices of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias, get_args

from asyncopt.errors import ConfigError
from asyncopt.tasks.options import with_options, wrong_option
from asyncopt.tasks.sources import fingerprint
from asyncopt.tasks.task import Example, Split, Task

Ratio: TypeAlias = float | Fraction

SPLITS: tuple[Split, ...] = get_args(Split)
RATIOS = tuple(f"{split}_ratio" for split in SPLITS)
SLICES = tuple(f"{split}_slice" for split in SPLITS)
OPTIONS = (*RATIOS, "split_seed", *SLICES)

_ROUNDING = 1e-9  # what the sum of three ratios may be off
_LARGEST_SEED = 2**32 - 1  # of NumPy's legacy generator
_QUOTIENT = re.compile(r"\s*(\d{1,9})\s*/\s*0*([1-9]\d{0,8})\s*", re.ASCII)
_SLICE = re.compile(r"\s*(?:(\d{1,9})\s*(%?))?\s*:\s*(?:(\d{1,9})\s*(%?))?\s*", re.ASCII)


class Dealt(NamedTuple):
    """The examples of the three splits."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Splits:
    """The shares of all items that go into each split, the seed that draws them, and the part of each that is kept.

    A ``test`` of None is all that the others leave; where they are the whole, nothing.
    """

    task: str
    train: Ratio
    validation: Ratio
    test: Ratio | None = None
    seed: int = 0
    slices: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        task: str,
        options: Mapping[str, object],
        *,
        train: float = 0.0,
        validation: float = 0.0,
        seed: int = 0,
    ) -> Splits:
        """What a task's options say, or else its defaults; raises :class:`ConfigError` for what cannot be meant.

        ``train_ratio``, ``validation_ratio`` and ``test_ratio`` are numbers from 0 to 1 or texts such as ``1/3``;
        ``train_slice`` and so on are texts such as ``:100`` or ``0%:50%``.
        """
        ratios: dict[str, Ratio] = {"train_ratio": train, "validation_ratio": validation}
        ratios |= {name: _ratio(task, name, options[name]) for name in RATIOS if name in options}
        _check_sum(task, ratios)
        slices = {name: _slice(task, name, options[name]) for name in SLICES if name in options}
        test = ratios.get("test_ratio")
        return cls(task, ratios["train_ratio"], ratios["validation_ratio"], test, _seed(task, options, seed), slices)

    def sizes(self, count: int) -> tuple[int, int, int]:
        """How many of ``count`` items go into each split, rounded down as in the reference."""
        train, validation = int(self.train * count), int(self.validation * count)
        left = count - train - validation
        if self.test is not None:
            return train, validation, min(int(self.test * count), left)
        return train, validation, 0 if self.train + self.validation >= 1 - _ROUNDING else left

    def indices(self, count: int) -> tuple[list[int], list[int], list[int]]:
        """The sorted indices of each split, drawn as in the reference (OPRO's code).

        The training items are NumPy's first choice, by default with the seed 0; the validation items the next choice of
        the same generator among the rest, and the test items one more where a ratio is stated. The same for every seed
        of a study, so that studies with different seeds are scored on the same items.
        """
        from numpy.random import RandomState  # `import asyncopt` stays light

        generator, left = RandomState(self.seed), list(range(count))
        drawn: list[list[int]] = []
        for size in self.sizes(count):
            chosen = sorted(int(item) for item in generator.choice(left, size, replace=False)) if left else []
            left = sorted(set(left) - set(chosen))
            drawn.append(chosen)
        return drawn[0], drawn[1], drawn[2]

    def deal(self, examples: Sequence[Example]) -> Dealt:
        """The examples in their splits, and of each split the part that its slice keeps."""
        return self.cut(*([examples[index] for index in indices] for indices in self.indices(len(examples))))

    def cut(self, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]) -> Dealt:
        """The part of each split that its slice keeps; raises :class:`ConfigError` for a slice that keeps nothing."""
        return Dealt(self._kept("train", train), self._kept("validation", validation), self._kept("test", test))

    def _kept(self, split: Split, examples: Sequence[Example]) -> tuple[Example, ...]:
        text = self.slices.get(f"{split}_slice")
        if text is None:
            return tuple(examples)
        start, start_percent, stop, stop_percent = _groups(text)
        first = _place(start, start_percent, len(examples), 0)
        kept = tuple(examples[first : _place(stop, stop_percent, len(examples), len(examples))])
        if not kept:
            found = f"none of the {len(examples)} examples"
            raise ConfigError(f"the option {split}_slice of {self.task} is {text!r}, which keeps {found}; widen it")
        return kept


def dealt_task(
    name: str, dealt: Dealt, options: Mapping[str, object], own: Iterable[str] = OPTIONS, **fields: Any
) -> Task:
    """The task on these examples with its options applied; ``fields`` are further ones of :class:`Task`."""
    train, validation, test = dealt
    # Without validation the sum is that of the first two, which the directories of older runs have.
    mark = fingerprint(train, test, validation) if validation else fingerprint(train, test)
    task = Task(name=name, train=train, validation=validation, test=test, fingerprint=mark, **fields)
    return with_options(task, options, own=own)


def _ratio(task: str, name: str, value: object) -> Ratio:
    ratio: Ratio | None = None
    if isinstance(value, str):
        quotient = _QUOTIENT.fullmatch(value)
        ratio = Fraction(int(quotient[1]), int(quotient[2])) if quotient else None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        ratio = value
    if ratio is None or not 0 <= ratio <= 1:
        raise wrong_option(task, name, value, "a number from 0 to 1, or a text such as '1/3'")
    return ratio


def _check_sum(task: str, ratios: Mapping[str, Ratio]) -> None:
    if sum(map(float, ratios.values())) > 1 + _ROUNDING:
        parts = " + ".join(f"{name} {float(ratio):g}" for name, ratio in ratios.items())
        raise ConfigError(f"the splits of {task} are more than the whole: {parts}; lower one of them")


def _seed(task: str, options: Mapping[str, object], default: int) -> int:
    seed = options.get("split_seed")
    if "split_seed" not in options:
        return default
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _LARGEST_SEED:
        raise wrong_option(task, "split_seed", seed, "an integer from 0 to 2**32 - 1")
    return seed


def _slice(task: str, name: str, value: object) -> str:
    groups = _groups(value) if isinstance(value, str) else ()
    percents = [int(number) for number, sign in zip(groups[::2], groups[1::2], strict=True) if number and sign]
    if not groups or any(percent > 100 for percent in percents):
        raise wrong_option(task, name, value, "START:STOP in examples or percent, such as ':100' or '50%:100%'")
    return str(value)


def _groups(text: str) -> tuple[str | None, ...]:
    match = _SLICE.fullmatch(text)
    return match.groups() if match else ()


def _place(number: str | None, percent: str | None, count: int, default: int) -> int:
    if number is None:
        return default
    return int(number) * count // 100 if percent else int(number)
