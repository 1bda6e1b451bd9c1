"""SARI of one sentence, and the mean of three ROUGE scores: grades from 0 to 1, averaged over examples.

Words and ROUGE come from libraries of the extra ``metrics``. SARI is here, since no package that is kept up has it
without a deep-learning framework or a download at run time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import TypeAlias

from asyncopt.errors import ConfigError
from asyncopt.tasks.task import Example, Metric

LONGEST_GRAM = 4  # words

_Grams: TypeAlias = Counter[tuple[str, ...]]


def simplification() -> Metric:
    """The SARI of an answer against the lines of its example's target; words as sacreBLEU's ``13a`` has them."""
    try:
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    except ImportError:
        raise _missing("SARI", "sacrebleu") from None
    tokenizer = Tokenizer13a()  # type: ignore[no-untyped-call]

    def words(text: str) -> list[str]:
        return str(tokenizer(text.lower())).split()

    def sari_of(answer: str, example: Example) -> float:
        return sari(words(example.input), words(answer), [words(line) for line in example.target.split("\n")])

    return sari_of


def summary() -> Metric:
    """The mean of the F scores of ROUGE-1, ROUGE-2 and ROUGE-L of an answer against its example's target."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise _missing("ROUGE", "rouge-score") from None
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])

    def rouge_of(answer: str, example: Example) -> float:
        return fmean(score.fmeasure for score in scorer.score(example.target, answer).values())

    return rouge_of


def sari(source: Sequence[str], output: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """How well the output's words were added, kept and deleted, from 0 to 1 (Xu et al., 2016, section 4).

    The mean over n-grams of one to four words of the F scores of additions and of what was kept, and of the precision
    of deletions. As in the authors' code, F is taken for every n, and 0/0 is 0. For the rest this is the paper: their
    code averages over different n-grams where the paper sums counts, and divides the recall of what was kept by a count
    of another kind.
    """
    return fmean(_of_order(n, source, output, references) for n in range(1, LONGEST_GRAM + 1))


def _of_order(n: int, source: Sequence[str], output: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    before, after = _grams(source, n), _grams(output, n)
    wanted: _Grams = Counter()
    for reference in references:
        wanted.update(_grams(reference, n))
    # Additions are there or not; what is kept or deleted is counted, in the references by their mean.
    added, to_add = after.keys() - before.keys(), wanted.keys() - before.keys()
    share = {gram: wanted[gram] / len(references) for gram in before}
    kept = {gram: min(count, after[gram]) for gram, count in before.items()}
    to_keep = {gram: min(count, share[gram]) for gram, count in before.items()}
    deleted = {gram: max(count - after[gram], 0) for gram, count in before.items()}
    well_kept = sum(min(kept[gram], to_keep[gram]) for gram in before)
    well_deleted = sum(min(deleted[gram], max(count - share[gram], 0)) for gram, count in before.items())
    return fmean(
        (
            _f(len(added & to_add), len(added), len(to_add)),
            _f(well_kept, sum(kept.values()), sum(to_keep.values())),
            _ratio(well_deleted, sum(deleted.values())),
        )
    )


def _grams(words: Sequence[str], n: int) -> _Grams:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _f(good: float, found: float, wanted: float) -> float:
    """The harmonic mean of precision and recall."""
    return _ratio(2 * good, found + wanted) if good else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _missing(metric: str, package: str) -> ConfigError:
    return ConfigError(f"{metric} needs {package}, which is not installed; pip install 'asyncopt[metrics]'")
