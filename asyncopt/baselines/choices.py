"""Which training examples are shown with a query: drawn ones, or those that are nearest to it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import zip_longest
from math import log, sqrt
from random import Random
from typing import TYPE_CHECKING, Protocol

from asyncopt.errors import ConfigError
from asyncopt.optimizers.base import derived_seed
from asyncopt.optimizers.overlap import START
from asyncopt.tasks.task import Example, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHOICES = ("random", "lexical", "kate")
SENTENCE_MODEL = "roberta-large-nli-stsb-mean-tokens"  # KATE's, trained on inference and similarity of sentences

_TOKEN = re.compile(r"\w+")


class Choice(Protocol):
    """Picks training examples for a query; ``label`` says how, for whoever reads the scores."""

    @property
    def label(self) -> str: ...

    def pick(self, text: str, count: int) -> list[int]:
        """The places of ``count`` examples in the training split, in the order in which they are to be shown."""
        ...


def choice_of(name: str, task: Task, seed: int) -> Choice:
    """The choice of this name among :data:`CHOICES`; raises :class:`ConfigError` for another, or a missing package."""
    if name not in CHOICES:
        raise ConfigError(f"demonstrations are chosen by {name!r}; it must be one of {', '.join(CHOICES)}")
    if name == "random":
        return Drawn(task, seed)
    texts = [example.input for example in task.train]
    return LexicalNearest(texts) if name == "lexical" else EmbeddingNearest(texts, sentence_encoder())


class Drawn:
    """The same examples with every query: drawn by the seed, from all classes in turn where the task has classes.

    The reference code of Deep Language Networks draws anew for every 20 queries, and may draw an example twice. One
    draw a seed is what can be told and repeated; its luck shows between seeds.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.label = "drawn from all classes in turn" if task.classes else "drawn at random"
        rng = Random(derived_seed(seed, START, "shots"))
        pools: dict[int, list[int]] = defaultdict(list)
        for place, example in enumerate(task.train):
            pools[_class_of(task, example)].append(place)
        drawn = [pools[number] for number in sorted(pools)]
        for pool in drawn:
            rng.shuffle(pool)
        rng.shuffle(drawn)
        self._order = [place for turn in zip_longest(*drawn) for place in turn if place is not None]

    def pick(self, text: str, count: int) -> list[int]:
        return self._order[:count]


class LexicalNearest:
    """The examples that share the most telling words with the query: cosine of TF-IDF vectors, nearest first.

    A stand-in that needs no model, and not the paper's: KATE compares embeddings of whole sentences. A word that is n
    times in a text, and in d of the D examples, has the weight (1 + ln n) (1 + ln((1 + D) / (1 + d))) there.
    """

    label = "lexically nearest (TF-IDF; not the paper's embeddings)"

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np  # `import asyncopt` stays light

        counts = [Counter(_tokens(text)) for text in texts]
        texts_with = Counter(token for count in counts for token in count)
        self._rarity = {token: log((1 + len(texts)) / (1 + number)) + 1 for token, number in texts_with.items()}
        self._size = len(texts)
        found: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, count in enumerate(counts):
            for token, weight in self._vector(count).items():
                found[token].append((place, weight))
        # By words: almost all pairs of a word and a text are zeros, and a table of them would fill the memory.
        self._postings = {
            token: (np.array([place for place, _ in pairs]), np.array([weight for _, weight in pairs]))
            for token, pairs in found.items()
        }

    def pick(self, text: str, count: int) -> list[int]:
        import numpy as np

        likeness = np.zeros(self._size)
        for token, weight in self._vector(Counter(_tokens(text))).items():
            places, weights = self._postings[token]
            likeness[places] += weight * weights
        return _nearest(likeness, count)

    def _vector(self, counts: Counter[str]) -> dict[str, float]:
        """The text's unit vector over the known words that are in it."""
        known = ((token, number) for token, number in counts.items() if token in self._rarity)
        weights = {token: (1 + log(number)) * self._rarity[token] for token, number in known}
        length = sqrt(sum(weight * weight for weight in weights.values()))
        return {token: weight / length for token, weight in weights.items()}


class EmbeddingNearest:
    """The examples whose embeddings have the largest cosine with the query's, nearest first (KATE, Liu et al. 2022).

    ``encode`` gives an array of shape (texts, dimensions).
    """

    label = "nearest by embedding (KATE)"

    def __init__(self, texts: Sequence[str], encode: Callable[[Sequence[str]], NDArray[np.floating]]) -> None:
        self._encode = encode
        self._embedded = _unit(encode(texts))

    def pick(self, text: str, count: int) -> list[int]:
        return _nearest(self._embedded @ _unit(self._encode([text]))[0], count)


def sentence_encoder(model: str = SENTENCE_MODEL) -> Callable[[Sequence[str]], NDArray[np.floating]]:
    """An encoder of the package sentence-transformers; raises :class:`ConfigError` where that is not installed."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ConfigError(
            "KATE needs sentences as embeddings, and sentence-transformers is not installed; "
            "pip install 'asyncopt[kate]', or choose the demonstrations by lexical"
        ) from None
    encoder = SentenceTransformer(model)

    def encode(texts: Sequence[str]) -> NDArray[np.floating]:
        embedded: NDArray[np.floating] = encoder.encode(list(texts), show_progress_bar=False)
        return embedded

    return encode


def _class_of(task: Task, example: Example) -> int:
    return task.class_of(example.target) if task.classes else 0


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """The rows with length 1; those of zeros stay so, as like to one row as to another."""
    import numpy as np

    wide = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths > 0, lengths, 1.0)


def _nearest(likeness: NDArray[np.float64], count: int) -> list[int]:
    """The places of the largest values, largest first, the earliest of equals before the others."""
    import numpy as np

    return [int(place) for place in np.argsort(-likeness, kind="stable")[:count]]
